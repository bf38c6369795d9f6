"""Calls on files that are cancelled at each of their waits: what is read is there for the next call, what was reported as written is in the file.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .files import cancel_at_each_wait, slots_in_use, until
from .open_files import CONTENT, called

Loop = Any


READS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "read(n)": lambda file: called(file.read(100_000)),
    "read()": lambda file: called(file.read()),
    "readline": lambda file: called(file.readline()),
    "readlines": lambda file: called(file.readlines(300_000)),
    "next": lambda file: called(file.__anext__()),
}
BINARY_READS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "readinto": lambda file: called(file.readinto(bytearray(100_000))),
    "read1": lambda file: called(file.read1(50_000)),
    "peek": lambda file: called(file.peek()),
}


@pytest.mark.parametrize("start", [0, 5000])
@pytest.mark.parametrize(
    ("mode", "name"), [*(("r", name) for name in READS), *(("rb", name) for name in READS | BINARY_READS), *(("r+b", name) for name in READS)]
)
def test_reads_that_are_cancelled_at_each_wait(mode: str, name: str, start: int, loop: Loop, tmp_path: Path) -> None:
    """After each of them the file goes on where it was."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    read = (READS | BINARY_READS)[name]

    async def main() -> None:
        files: list[Any] = []
        armed: list[Any] = []  # the files whose read is what is being cancelled

        async def call() -> None:
            file = await aiouring.open(path, mode)
            files.append(file)
            assert len(await file.read(start)) == start
            armed.append(file)
            await read(file)

        async def check(cancelled: bool) -> None:
            for file in files:
                if cancelled and file in armed:
                    rest = await file.read()
                    same = (rest if "b" in mode else rest.encode()) == CONTENT[start:]
                    assert same, f"it goes on with {rest[:20]!r}"
                await file.close()
            files.clear()
            armed.clear()
            await until(lambda: slots_in_use() == 0)

        assert await cancel_at_each_wait(call, check) >= 2

    loop.run_until_complete(main())


@pytest.mark.parametrize("mode", ["wb", "w", "ab", "r+b", "w+"])
def test_writes_that_are_cancelled_at_each_wait(mode: str, loop: Loop, tmp_path: Path) -> None:
    """What was reported as written is in the file in the end, once and in order, whatever was cancelled behind it."""
    path = tmp_path / "file"

    def made(letter: str, size: int) -> Any:
        return letter * size if "b" not in mode else letter.encode() * size

    async def main() -> None:
        files: list[Any] = []
        reported: list[str] = []

        async def call() -> None:
            path.write_bytes(b"")
            file = await aiouring.open(path, mode)
            files.append(file)
            for letter, size in (("a", 100), ("b", 5000), ("c", 100_000), ("d", 3), ("e", 20_000)):
                assert await file.write(made(letter, size)) == size
                reported.append(letter * size)
                if letter in "ad":
                    await file.flush()
            await file.close()

        async def check(cancelled: bool) -> None:
            for file in files:
                if not file.closed:
                    await file.close()
                found = path.read_bytes().decode()
                expected = "".join(reported)
                # Of the write that was cancelled a part may be there, and nobody knows how much.
                assert found.startswith(expected)
                assert len(set(found[len(expected) :])) <= 1
                assert cancelled or found == expected
            files.clear()
            reported.clear()
            await until(lambda: slots_in_use() == 0)

        assert await cancel_at_each_wait(call, check) >= 3

    loop.run_until_complete(main())


@pytest.mark.parametrize("mode", ["rb", "wb", "r", "x", "a+"])
def test_open_and_close_that_are_cancelled_at_each_wait(mode: str, loop: Loop, tmp_path: Path) -> None:
    """No descriptor stays: the test's own count sees it. A file whose close was cancelled is closed."""
    path = tmp_path / "file"

    async def main() -> None:
        files: list[Any] = []

        async def call() -> None:
            if mode == "x":
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(b"abc")
            file = await aiouring.open(path, mode)
            files.append(file)
            if mode in ("x", "wb"):
                await file.write(b"abc" if "b" in mode else "abc")
            await file.close()

        async def check(cancelled: bool) -> None:
            for file in files:
                assert file.closed
                assert path.read_bytes() == b"abc"
            files.clear()
            await until(lambda: slots_in_use() == 0)

        assert await cancel_at_each_wait(call, check) >= 2

    loop.run_until_complete(main())


@pytest.mark.parametrize("name", ["pread", "pread_into", "pwrite", "preadv", "pwritev", "fsync", "allocate", "advise", "truncate", "seek"])
def test_other_calls_that_are_cancelled_at_each_wait(name: str, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    buffer = bytearray(100_000)
    calls: dict[str, Callable[[Any], Awaitable[Any]]] = {
        "pread": lambda file: file.pread(100_000, 5),
        "pread_into": lambda file: file.pread_into(buffer, 5),
        "pwrite": lambda file: file.pwrite(CONTENT[:100_000], 0),
        "preadv": lambda file: file.preadv([buffer, bytearray(5)], 7),
        "pwritev": lambda file: file.pwritev([CONTENT[:7], CONTENT[7:50_000]], 0),
        "fsync": lambda file: file.fsync(),
        "allocate": lambda file: file.allocate(0, 100),
        "advise": lambda file: file.advise(0, 100),
        "truncate": lambda file: file.truncate(len(CONTENT)),
        "seek": lambda file: file.seek(0, 2),
    }

    async def main() -> None:
        async with aiouring.open(path, "r+b") as file:

            async def check(cancelled: bool) -> None:
                await until(lambda: slots_in_use() == 0)
                # The caller's memory is its own again.
                buffer.append(0)
                buffer.pop()
                assert path.read_bytes() == CONTENT

            await cancel_at_each_wait(lambda: called(calls[name](file)), check)

    loop.run_until_complete(main())


def test_cancelled_calls_do_not_hold_up_those_behind_them(loop: Loop, tmp_path: Path, rng: random.Random) -> None:
    """Many calls in line on one file, of which some are cancelled: the others come in the order in which they were begun."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, "rb") as file:
            for _ in range(20):
                await file.seek(0)
                lines = [asyncio.ensure_future(called(file.readline())) for _ in range(50)]
                await asyncio.sleep(0)
                for line in rng.sample(lines, 25):
                    line.cancel()
                got = [line for line in await asyncio.gather(*lines, return_exceptions=True) if isinstance(line, bytes)]
                assert got == [b"line %d\n" % number for number in range(len(got))]
                assert await file.readline() == b"line %d\n" % len(got)

    loop.run_until_complete(main())
