"""The exceptions of hooks. Raised by `_libbpf` and `build`; imports nothing of ours."""

from __future__ import annotations

import os

# How much of a verifier's log an exception's text shows: the end is where it says what it refuses.
LOG_TAIL_LINES = 60


class HookError(OSError):
    """A call about a hook's object failed. `errno` is the kernel's answer, `filename` the object and, after a colon, its map or program."""

    log: str = ""


class HookRefused(HookError):
    """The kernel or libbpf refused to open or load an object. `log` has everything that they said, the verifier's log in full; the exception's
    text shows its end."""

    def __init__(self, errno: int, message: str, filename: str, log: str = "") -> None:
        lines = log.rstrip().splitlines()
        text = f"{message} ({os.strerror(errno)})"
        if lines:
            left_out = len(lines) - LOG_TAIL_LINES
            shown = "\n".join(lines[-LOG_TAIL_LINES:])
            text += f"; what was said about it{f', without the first {left_out} lines' if left_out > 0 else ''}:\n{shown}\n"
        super().__init__(errno, text, filename)
        self.log = log


class OperationError(HookError):
    """A call about an operation's object failed. `errno` is the kernel's answer, `filename` the object."""


class OperationRefused(HookRefused, OperationError):
    """The kernel or libbpf refused an operation's object. `log` has everything that they said."""
