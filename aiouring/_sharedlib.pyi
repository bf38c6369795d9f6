"""Shared libraries with programs for the inline engines. The docstrings are in _sharedlib.pyx."""

from typing import Any

class SharedLibrary:
    def __init__(self, *args: Any) -> None: ...
    def close(self) -> None: ...
