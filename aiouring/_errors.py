"""The exceptions of our own. Raised by the native modules and by `aiouring.run`; imports nothing of ours."""

from __future__ import annotations

import os
from typing import Any


class RingUnavailable(OSError):
    """The kernel refused an io_uring. `reason` says why as far as can be told, `remedy` what the user can do about it."""

    reason: str
    remedy: str

    def __init__(self, errno: int, reason: str, remedy: str) -> None:
        super().__init__(errno, f"io_uring is not available: {reason} ({os.strerror(errno)}). Remedy: {remedy}")
        self.reason = reason
        self.remedy = remedy


class ChainError(OSError):
    """A link of an aiouring.Chain failed, and with it the chain: what came after it did not run, unless the link was a hard one.

    errno, strerror, filename: the link's. `__cause__` is the plain OSError (FileNotFoundError, ConnectionResetError ...).
    """

    link: Any
    """The Link that failed; of several the first."""
    index: int
    """Its place in the chain, from 0 on."""
    results: list[Any]
    """What the links before it brought."""
    outcomes: list[Any]
    """For each link of the chain its result, or an OSError; ECANCELED where it did not run, or was ended."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As any OSError, and with the cause, of which exceptions take no copy by themselves. The link goes without its chain.
        plain: tuple[Any, ...] = super().__reduce__()  # type: ignore[assignment]
        return plain[0], plain[1], {**self.__dict__, "__cause__": self.__cause__}
