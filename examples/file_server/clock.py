"""The current second, as the Date field and the access log have it. Used by `cache` and `connection`."""

from __future__ import annotations

import email.utils
import time


class Clock:
    """The current second, as the Date field and the access log have it. It is made anew when somebody asks in another second.

    The loop's own clock says when that is: setting the system's clock back does not freeze the date.
    """

    def __init__(self) -> None:
        self.until_s = 0.0  # of time.monotonic()
        self.date = ""
        self.log_stamp = b""

    def refresh(self, now_s: float) -> None:
        """Call it when `now_s` (time.monotonic()) is not before `until_s`."""
        wall_s = time.time()
        self.until_s = now_s + 1.0 - wall_s % 1.0
        self.date = email.utils.formatdate(wall_s, usegmt=True)
        self.log_stamp = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(wall_s)).encode()
