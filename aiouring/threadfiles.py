"""aiouring.open() on a loop that is not aiouring's: the built-in's file, whose calls run in that loop's executor.

Used by `files`. Calls `executor`. Same methods and the same order of calls as the native files; the cost is the executor's. A call that is cancelled
raises CancelledError when its thread is through, and what it has read by then is lost.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from aiouring.executor import in_executor

STREAM_CALLS = frozenset({
    "close", "flush", "peek", "read", "read1", "readall", "readinto", "readinto1", "readline", "readlines", "seek", "tell", "truncate", "write",
    "writelines",
})  # fmt: skip


class ThreadFile:
    """A file whose calls run in threads. Stream calls take turns in the order in which they are awaited."""

    def __init__(self, file: Any, turn: asyncio.Lock | None = None) -> None:
        self._file = file
        self._turn = asyncio.Lock() if turn is None else turn

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)  # an AttributeError is the built-in's
        if name in ("buffer", "raw"):
            return ThreadFile(found, self._turn)  # one file, one line of calls
        if name not in STREAM_CALLS:
            return found

        async def call(*args: Any) -> Any:
            async with self._turn:
                return await in_executor(found, *args)

        return call

    def __repr__(self) -> str:
        return f"<aiouring file in threads: {self._file!r}>"

    async def __aenter__(self) -> Self:
        self._file.__enter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.__getattr__("close")()

    def __aiter__(self) -> Self:
        iter(self._file)
        return self

    async def __anext__(self) -> Any:
        async with self._turn:
            line = await in_executor(next, self._file, None)
        if line is None:
            raise StopAsyncIteration
        return line

    async def pread(self, size: int, offset: int) -> bytes:
        """See BinaryFile.pread()."""
        return await in_executor(os.pread, self._file.fileno(), size, offset)

    async def pread_into(self, buffer: Any, offset: int) -> int:
        """See BinaryFile.pread_into()."""
        return await in_executor(os.preadv, self._file.fileno(), [buffer], offset)

    async def preadv(self, buffers: Iterable[Any], offset: int) -> int:
        """See BinaryFile.preadv()."""
        return await in_executor(os.preadv, self._file.fileno(), list(buffers), offset)

    async def pwrite(self, data: Any, offset: int) -> int:
        """See BinaryFile.pwrite()."""
        return await in_executor(_write_all, self._file.fileno(), [data], offset)

    async def pwritev(self, buffers: Iterable[Any], offset: int) -> int:
        """See BinaryFile.pwritev()."""
        return await in_executor(_write_all, self._file.fileno(), list(buffers), offset)

    async def advise(self, offset: int = 0, length: int = 0, advice: int = os.POSIX_FADV_NORMAL) -> None:
        """See BinaryFile.advise()."""
        await in_executor(os.posix_fadvise, self._file.fileno(), offset, length, advice)

    async def allocate(self, offset: int, length: int, mode: int = 0) -> None:
        """See BinaryFile.allocate(); `mode` must be 0 here."""
        if mode:
            raise ValueError("allocate() has modes on aiouring's own loop only")
        await in_executor(os.posix_fallocate, self._file.fileno(), offset, length)

    async def fsync(self) -> None:
        """See BinaryFile.fsync()."""
        async with self._turn:
            await in_executor(self._file.flush)
            await in_executor(os.fsync, self._file.fileno())

    async def fdatasync(self) -> None:
        """See BinaryFile.fdatasync()."""
        async with self._turn:
            await in_executor(self._file.flush)
            await in_executor(os.fdatasync, self._file.fileno())


def _write_all(fd: int, buffers: list[Any], offset: int) -> int:
    start = offset
    for buffer in buffers:
        with memoryview(buffer) as view, view.cast("B") as data:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
            offset += done
    return offset - start


async def open_in_thread(path: Any, *args: Any) -> ThreadFile:
    """The built-in open() in the executor. A file that nobody takes, because the call was cancelled, is closed."""
    opened: list[Any] = []
    try:
        await in_executor(lambda: opened.append(builtins.open(path, *args)))  # noqa: SIM115
    except BaseException:
        for file in opened:
            file.close()  # it is new, and has nothing to write
        raise
    return ThreadFile(opened[0])
