"""What the operator should know, on standard error: not more than one line a second of each kind of trouble, and never in anybody's way.

Called by every part that meets an error which is neither a client's nor expected. Calls `writer`.
"""

from __future__ import annotations

import os
import time

from .writer import Writer

#: Lines that may wait for a standard error that nobody reads.
WAITING_MAX = 100


class Trouble:
    def __init__(self) -> None:
        self._told_s: dict[str, float] = {}
        self._writer: Writer | None = None

    def tell(self, kind: str, error: Exception | None = None) -> None:
        """`kind` is a sentence of ours; what differs from time to time is in the error."""
        now_s = time.monotonic()
        if now_s - self._told_s.get(kind, -1.0) < 1.0:
            return
        self._told_s[kind] = now_s
        if self._writer is None:
            self._writer = Writer(os.dup(2))
        if self._writer.waiting < WAITING_MAX:
            text = kind if error is None else f"{kind}: {error}"
            self._writer.put(text.encode(errors="backslashreplace") + b"\n")
