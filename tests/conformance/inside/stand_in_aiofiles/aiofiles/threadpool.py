"""aiofiles.threadpool.open, by aiouring.open."""
import builtins
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from typing import Any

import aiouring

# What aiofiles calls in its threads. A test puts a slow one here; its place is then that of an opener, which aiouring calls in a thread.
sync_open: Any = builtins.open


class File:
    """aiofiles' files are wrappers with the file behind them as `_file`, which tests look at. They also await what is an answer at once here."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __anext__(self) -> Awaitable[Any]:
        line: Awaitable[Any] = self._file.__anext__()
        return line

    async def isatty(self) -> bool:
        return bool(self._file.isatty())

    async def seekable(self) -> bool:
        return bool(self._file.seekable())

    async def writable(self) -> bool:
        return bool(self._file.writable())


class Opening:
    """What aiofiles.open returns; the open file is its `_obj`."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._obj: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        if self._obj is None:
            self._obj = yield from self._coroutine.__await__()
        return self._obj

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, *error: object) -> None:
        await self._obj.close()


def _opener(path: Any, flags: int) -> int:
    with sync_open(path, opener=lambda path, _: os.open(path, flags)) as file:
        return os.dup(file.fileno())


def open(file: Any, *arguments: Any, loop: Any = None, executor: Any = None, **options: Any) -> Opening:  # noqa: A001
    async def opened() -> File:
        if sync_open is not builtins.open:
            options["opener"] = _opener
        return File(await aiouring.open(file, *arguments, **options))

    return Opening(opened())


