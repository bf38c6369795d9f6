"""Reads of a cached file at random offsets, with any library: `files.py LOOP LIBRARY PATH DEPTH WARMUP SECONDS`.

Started by benchmarks/measure.py, pinned, in the contestant's interpreter. DEPTH workers read 4 KiB at a time, each with a file of its own where
the library's files have one position. Prints its window as JSON, or "UNAVAILABLE reason".
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from loops import Unavailable, Window, be_a_process_under_test, make_loop, say_unavailable

SIZE = 4096

ReadAt = Callable[[int], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def executor(path: str) -> AsyncIterator[ReadAt]:
    """No library: os.pread in the loop's threads."""
    loop = asyncio.get_running_loop()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield lambda offset: loop.run_in_executor(None, os.pread, descriptor, SIZE, offset)
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def with_aiofiles(path: str) -> AsyncIterator[ReadAt]:
    import aiofiles

    async with aiofiles.open(path, "rb", buffering=0) as file:

        async def read_at(offset: int) -> bytes:
            await file.seek(offset)
            data: bytes = await file.read(SIZE)
            return data

        yield read_at


@contextlib.asynccontextmanager
async def with_anyio(path: str) -> AsyncIterator[ReadAt]:
    import anyio

    async with await anyio.open_file(path, "rb", buffering=0) as file:

        async def read_at(offset: int) -> bytes:
            await file.seek(offset)
            return bytes(await file.read(SIZE))

        yield read_at


@contextlib.asynccontextmanager
async def with_aiofile(path: str) -> AsyncIterator[ReadAt]:
    """aiofile on caio, whose kernel interface (linux_aio) reads from the page cache while io_submit runs."""
    import aiofile

    async with aiofile.AIOFile(path, "rb") as file:
        yield lambda offset: file.read_bytes(SIZE, offset)


@contextlib.asynccontextmanager
async def with_aiouring(path: str) -> AsyncIterator[ReadAt]:
    open_file = getattr(importlib.import_module("aiouring"), "open", None)
    if open_file is None:
        raise Unavailable("aiouring.open does not exist yet")
    async with open_file(path, "rb") as file:
        if not hasattr(file, "pread"):
            raise Unavailable("the files of aiouring.open have no pread(size, offset)")
        yield lambda offset: file.pread(SIZE, offset)


LIBRARIES: dict[str, Callable[[str], AbstractAsyncContextManager[ReadAt]]] = {
    "executor": executor,
    "aiofiles": with_aiofiles,
    "anyio": with_anyio,
    "aiofile": with_aiofile,
    "aiouring": with_aiouring,
}


async def run(library: str, path: str, depth: int, times: tuple[float, float]) -> None:
    pieces = os.path.getsize(path) // SIZE
    chance = random.Random(1)
    async with contextlib.AsyncExitStack() as opened:
        readers = [await opened.enter_async_context(LIBRARIES[library](path)) for _ in range(depth)]
        window = Window(*times)
        is_over = False

        async def work(read_at: ReadAt) -> None:
            nonlocal is_over
            while not is_over:
                data = await read_at(chance.randrange(pieces) * SIZE)
                if len(data) != SIZE:
                    raise RuntimeError(f"a read brought {len(data)} bytes instead of {SIZE}")
                if not is_over:
                    is_over = window.over(1)

        await asyncio.gather(*map(work, readers))


def main(loop_name: str, library: str, path: str, depth: str, warmup: str, seconds: str) -> None:
    be_a_process_under_test()
    try:
        loop = make_loop(loop_name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run(library, path, int(depth), (float(warmup), float(seconds))))
    except Exception as error:
        say_unavailable(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
