"""What Python sees of the copy engine: an awaitable, or None where threads have to do it."""

from collections.abc import Awaitable, Callable
from typing import Any

def copy_blocks(
    src_fd: int,
    dst_fd: int,
    *,
    src: Any,
    dst: Any,
    start: int,
    extents: list[tuple[int, int]],
    total: int,
    block_bytes: int,
    depth: int,
    alignment: int = 1,
    progress: Callable[[int, int], object] | None = None,
    digest: Callable[[memoryview | bytes], object] | None = None,
) -> Awaitable[tuple[int, int]] | None: ...
