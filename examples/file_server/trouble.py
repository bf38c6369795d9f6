"""What the operator should know, on standard error: a line for each kind of trouble, and not more than one a second of each.

Called by every part that meets an error which is neither a client's nor expected. Calls nothing.
"""

from __future__ import annotations

import sys
import time

KINDS_MAX = 100


class Trouble:
    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._told.get(text, -1.0) < 1.0:
            return
        if len(self._told) >= KINDS_MAX:
            self._told.clear()
        self._told[text] = now_s
        print(text, file=sys.stderr, flush=True)
