"""aiofiles.tempfile: names and removal by tempfile, in threads; the files are aiouring's. No SpooledTemporaryFile, which is no file at first."""
import asyncio
import os
import tempfile
from collections.abc import Awaitable
from typing import Any

import aiouring

from .threadpool import File, Opening

__all__ = ["NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile"]


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Any = None,  # noqa: A002
    loop: Any = None,
    executor: Any = None,
) -> Opening:
    """A file without a name."""

    async def opened() -> File:
        with await asyncio.to_thread(tempfile.TemporaryFile, "w+b", 0, suffix=suffix, prefix=prefix, dir=dir) as made:
            descriptor = os.dup(made.fileno())
        return File(await aiouring.open(descriptor, mode, buffering, encoding, newline=newline))

    return Opening(opened())


class NamedFile(File):
    """It is removed when it is closed, or else when `async with` is left."""

    def __init__(self, file: Any, delete: bool, delete_on_close: bool) -> None:
        super().__init__(file)
        self.delete = delete
        self._on_close = delete and delete_on_close

    async def close(self) -> None:
        await self._file.close()
        if self._on_close:
            self._on_close = False
            self.delete = False
            await aiouring.fs.unlink(self.name)


class NamedOpening(Opening):
    async def __aexit__(self, *error: object) -> None:
        await self._obj.close()
        if self._obj.delete:
            await aiouring.fs.unlink(self._obj.name)


def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Any = None,  # noqa: A002
    delete: bool = True,
    delete_on_close: bool = True,
    loop: Any = None,
    executor: Any = None,
) -> Opening:
    """A file with a name."""

    async def opened() -> File:
        descriptor, path = await asyncio.to_thread(tempfile.mkstemp, suffix, prefix, dir)
        os.close(descriptor)
        return NamedFile(await aiouring.open(path, mode, buffering, encoding, newline=newline), delete, delete_on_close)

    return NamedOpening(opened())


class TemporaryDirectory:
    """A folder, and what is in it."""

    def __init__(
        self,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: Any = None,  # noqa: A002
        loop: Any = None,
        executor: Any = None,
    ) -> None:
        self._made: Awaitable[str] = asyncio.to_thread(tempfile.mkdtemp, suffix, prefix, dir)
        self.name = ""

    async def __aenter__(self) -> str:
        self.name = await self._made
        return self.name

    async def __aexit__(self, *error: object) -> None:
        await aiouring.fs.rmtree(self.name)
