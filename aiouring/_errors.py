"""The exceptions of our own. Raised by the native modules and by `aiouring.run`; imports nothing of ours."""

from __future__ import annotations

import os


class RingUnavailable(OSError):
    """The kernel refused an io_uring. `reason` says why as far as can be told, `remedy` what the user can do about it."""

    reason: str
    remedy: str

    def __init__(self, errno: int, reason: str, remedy: str) -> None:
        super().__init__(errno, f"io_uring is not available: {reason} ({os.strerror(errno)}). Remedy: {remedy}")
        self.reason = reason
        self.remedy = remedy
