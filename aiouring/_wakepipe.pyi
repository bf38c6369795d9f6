"""The pipe that ends a loop's wait from outside. For cimport; see _wakepipe.pyx."""

from typing import Any

class WakePipe:
    @property
    def read_fd(self) -> int: ...
    @property
    def write_fd(self) -> int: ...
    def __init__(self, loop: Any) -> None: ...
