"""What a library for files costs: `files.py LOOP LIBRARY WORK PATH DEPTH WARMUP SECONDS`.

Started by benchmarks/measure.py, pinned, in the contestant's interpreter. WORK is one of WORKS and says what PATH is; DEPTH workers do it at the
same time. All libraries run the same code but for the calls that are their own (LIBRARIES). Prints its window as JSON, or "UNAVAILABLE reason".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from loops import Unavailable, Window, be_a_process_under_test, make_loop, say_unavailable

PIECE = 4096
BLOCK = 1 << 20
# So many are counted together: the window's clock should not be what is measured.
BATCH = 8
LINES_BATCH = 256
# The file of lines ends with it (benchmarks/files.py writes it), so that a reader that lost its way is found out.
LAST_LINE = "the end\n"

ReadAt = Callable[[int], Awaitable[Any]]
# Opens a file, with the arguments and the result of the built-in open, but that its calls are awaited.
Open = Callable[..., AbstractAsyncContextManager[Any]]


class Counted:
    """The window that the workers of a process share: the first one to whom it is over ends it for all."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.is_over = False

    def over(self, count: int) -> bool:
        if not self.is_over:
            self.is_over = self.window.over(count)
        return self.is_over


# --- libraries


def our(name: str) -> Any:
    """What aiouring exports under this name."""
    import aiouring

    try:
        return functools.reduce(getattr, name.split("."), aiouring)
    except AttributeError:
        raise Unavailable(f"aiouring.{name} does not exist yet") from None


def open_with_aiouring(*arguments: Any, **options: Any) -> AbstractAsyncContextManager[Any]:
    opened: AbstractAsyncContextManager[Any] = our("open")(*arguments, **options)
    return opened


def open_with_aiofiles(*arguments: Any, **options: Any) -> AbstractAsyncContextManager[Any]:
    import aiofiles

    opened: AbstractAsyncContextManager[Any] = aiofiles.open(*arguments, **options)
    return opened


@contextlib.asynccontextmanager
async def open_with_anyio(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
    import anyio

    async with await anyio.open_file(*arguments, **options) as file:
        yield file


class Blocking:
    """The built-in open, whose calls block the loop: what they cost by themselves."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.file: Any = open(*arguments, **options)  # noqa: SIM115  # __aexit__ closes it

    async def __aenter__(self) -> Blocking:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.file.close()

    async def read(self, size: int = -1) -> Any:
        return self.file.read(size)

    async def readline(self) -> Any:
        return self.file.readline()


OPENERS: dict[str, Open] = {
    "aiouring": open_with_aiouring,
    "aiofiles": open_with_aiofiles,
    "anyio": open_with_anyio,
    "built-in open": Blocking,
}


@functools.cache
def caio_context() -> Any:
    """One for all workers, as aiofile has it; the process's end closes it."""
    import caio

    return caio.AsyncioContext()


@contextlib.asynccontextmanager
async def reader_at(library: str, path: str) -> AsyncIterator[ReadAt]:
    """A function that reads one piece at an offset; libraries whose files have only one position seek first."""
    if library == "executor":  # no library: os.pread in the loop's threads
        loop = asyncio.get_running_loop()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield lambda offset: loop.run_in_executor(None, os.pread, descriptor, PIECE, offset)
        finally:
            os.close(descriptor)
    elif library == "caio":  # on io_uring where it may
        context = caio_context()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield lambda offset: context.read(PIECE, descriptor, offset)
        finally:
            os.close(descriptor)
    elif library == "aiofile":  # on caio
        import aiofile

        async with aiofile.AIOFile(path, "rb") as file:
            yield lambda offset: file.read_bytes(PIECE, offset)
    elif library == "aiouring":
        async with open_with_aiouring(path, "rb") as file:
            yield functools.partial(file.pread, PIECE)
    else:
        async with OPENERS[library](path, "rb", buffering=0) as file:

            async def read_at(offset: int) -> Any:
                await file.seek(offset)
                return await file.read(PIECE)

            yield read_at


# --- works


async def read_pieces(read_at: ReadAt, offsets: Iterator[int], size_of: Callable[[Any], int], counted: Counted) -> None:
    while not counted.is_over:
        for offset in itertools.islice(offsets, BATCH):
            size = size_of(await read_at(offset))
            if size != PIECE:
                raise RuntimeError(f"a read brought {size} bytes instead of {PIECE}")
        counted.over(BATCH)


def random_offsets(pieces: int, worker: int) -> Iterator[int]:
    """Without end, and made beforehand: choosing costs about what one read should."""
    chance = random.Random(worker)
    return itertools.cycle([chance.randrange(pieces) * PIECE for _ in range(4096)])


def check_piece(data: Any, offset: int) -> None:
    """Each piece of PATH begins with its number."""
    if int.from_bytes(data[:8], "little") != offset // PIECE:
        raise RuntimeError(f"what was read at {offset} is not what is there")


async def random_reads(library: str, path: str, depth: int, counted: Counted) -> None:
    """4 KiB at random places of PATH, as bytes. Each worker has a file of its own, since some libraries' files have one position."""
    pieces = os.path.getsize(path) // PIECE
    async with contextlib.AsyncExitStack() as opened:
        readers = [await opened.enter_async_context(reader_at(library, path)) for _ in range(depth)]
        check_piece(await readers[-1](PIECE * (pieces - 1)), PIECE * (pieces - 1))
        await asyncio.gather(*(read_pieces(reader, random_offsets(pieces, number), len, counted) for number, reader in enumerate(readers)))


async def random_reads_into(library: str, path: str, depth: int, counted: Counted) -> None:
    """The same into a buffer of each worker, by position, through one file."""
    pieces = os.path.getsize(path) // PIECE
    with contextlib.ExitStack() as opened:
        if library == "executor":
            loop = asyncio.get_running_loop()
            descriptor = os.open(path, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            await work_into(
                lambda buffer: lambda offset: loop.run_in_executor(None, os.preadv, descriptor, [buffer], offset), pieces, depth, counted
            )
        else:
            async with OPENERS[library](path, "rb") as file:
                await work_into(lambda buffer: functools.partial(file.pread_into, buffer), pieces, depth, counted)


async def work_into(make_reader: Callable[[bytearray], ReadAt], pieces: int, depth: int, counted: Counted) -> None:
    buffers = [bytearray(PIECE) for _ in range(depth)]
    await make_reader(buffers[0])(PIECE * (pieces - 1))
    check_piece(buffers[0], PIECE * (pieces - 1))
    await asyncio.gather(
        *(read_pieces(make_reader(buffer), random_offsets(pieces, number), int, counted) for number, buffer in enumerate(buffers))
    )


async def read_blocks(library: str, path: str, depth: int, counted: Counted) -> None:
    """1 MiB after 1 MiB of PATH, from its beginning to its end, again and again."""
    while not counted.is_over:
        async with OPENERS[library](path, "rb", buffering=0) as file:
            while data := await file.read(BLOCK):
                if counted.over(len(data) // BLOCK):
                    break


async def write_blocks(library: str, path: str, depth: int, counted: Counted) -> None:
    """1 MiB after 1 MiB over a file that is as long as PATH."""
    blocks = os.path.getsize(path) // BLOCK
    data = os.urandom(BLOCK)
    target = path + ".written"
    while not counted.is_over:
        async with OPENERS[library](target, "r+b", buffering=0) as file:
            for _ in range(blocks):
                written = await file.write(data)
                if written != BLOCK:
                    raise RuntimeError(f"a write wrote {written} bytes instead of {BLOCK}")
                if counted.over(1):
                    break


async def copy_blocks(library: str, path: str, depth: int, counted: Counted) -> None:
    """Reads 1 MiB of PATH and writes it over another file, again and again."""
    target = path + ".written"
    while not counted.is_over:
        async with OPENERS[library](path, "rb", buffering=0) as source, OPENERS[library](target, "r+b", buffering=0) as file:
            while data := await source.read(BLOCK):
                await file.write(data)
                if counted.over(1):
                    break


async def copy_files(library: str, path: str, depth: int, counted: Counted) -> None:
    """PATH to a new file, whole, by the library's own function for that."""
    target = path + ".copy"
    copyfile = our("fs.copyfile")
    size = os.path.getsize(path)
    while True:
        await copyfile(path, target)
        if os.path.getsize(target) != size:
            raise RuntimeError("the copy is not as long as the file")
        over = counted.over(size // BLOCK)
        os.unlink(target)
        if over:
            return


async def small_files(library: str, path: str, depth: int, counted: Counted) -> None:
    """Opens, reads and closes each file of the folder PATH, of which each holds its own name again and again."""
    names = os.listdir(path)
    random.Random(1).shuffle(names)
    paths = itertools.cycle([os.path.join(path, name) for name in names])
    open_file = OPENERS[library]

    async def work() -> None:
        while not counted.is_over:
            for file_path in itertools.islice(paths, BATCH):
                async with open_file(file_path, "rb") as file:
                    data = await file.read()
            if not data.startswith(os.path.basename(file_path).encode()):
                raise RuntimeError(f"what was read is not what is in {file_path}")
            counted.over(BATCH)

    await asyncio.gather(*(work() for _ in range(depth)))


async def lines(library: str, path: str, depth: int, counted: Counted) -> None:
    """readline() from the beginning of the text file PATH on. After the warm-up ours reads the whole file, the others as far as the window goes."""
    while not counted.is_over:
        async with OPENERS[library](path, encoding="utf-8") as file:
            to_the_end = library == "aiouring" and counted.window.begin_ns != 0
            count, batch, line = 0, -1 if to_the_end else LINES_BATCH, ""
            while text := await file.readline():
                line = text
                count += 1
                if count == batch:
                    count = 0
                    if counted.over(batch) or (library == "aiouring" and counted.window.begin_ns):
                        break
            else:
                if line != LAST_LINE:
                    raise RuntimeError(f"the last line is {line!r} instead of {LAST_LINE!r}")
                counted.over(count)


WORKS: dict[str, Callable[[str, str, int, Counted], Awaitable[None]]] = {
    "random": random_reads,
    "random-into": random_reads_into,
    "read": read_blocks,
    "write": write_blocks,
    "read-and-write": copy_blocks,
    "copyfile": copy_files,
    "small": small_files,
    "lines": lines,
}


def main(loop_name: str, library: str, work: str, path: str, depth: str, warmup: str, seconds: str) -> None:
    be_a_process_under_test()
    try:
        loop = make_loop(loop_name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(WORKS[work](library, path, int(depth), Counted(Window(float(warmup), float(seconds)))))
    except Exception as error:
        say_unavailable(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
