"""aiouring.open where things go wrong in earnest: full disks, limits, pipes whose other end goes away, devices, files that change meanwhile,
descriptors that are closed under a file, cancellation at each wait, loops that close or move, forks, threads, and thousands of files.

What an error is, what is written by then and what is still there afterwards is compared with the built-in open wherever that can have the same fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .files import cancel_at_each_wait, slots_in_use, small_disk, until

Loop = Any

BIG = 1 << 20
BLOCK = b"0123456789abcdef" * 4096  # 64 KiB


async def finished(call: Awaitable[Any]) -> tuple[object, ...]:
    """What a call came to, for comparing."""
    try:
        return ("returned", await call)
    except (OSError, ValueError) as error:
        return ("raised", type(error), getattr(error, "errno", None))


def came_to(function: Callable[..., object], *arguments: object) -> tuple[object, ...]:
    """The same of the built-in's call."""
    try:
        return ("returned", function(*arguments))
    except (OSError, ValueError) as error:
        return ("raised", type(error), getattr(error, "errno", None))


@pytest.fixture
def two_small_disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two file systems of 256 KiB: one for the built-in."""
    with small_disk(tmp_path / "theirs", 256 << 10) as theirs, small_disk(tmp_path / "ours", 256 << 10) as ours:
        yield theirs, ours


# --- full disks


@pytest.mark.parametrize(
    ("mode", "buffering"), [("wb", 0), ("wb", -1), ("wb", 100), ("wb", 300_000), ("ab", -1), ("w+b", -1), ("w", -1), ("w", 1), ("w+", 5000)]
)
def test_a_disk_that_gets_full(mode: str, buffering: int, loop: Loop, two_small_disks: tuple[Path, Path]) -> None:
    """Write until nothing goes in any more, make room, and go on: at each step the same as with the built-in, to the last byte."""
    theirs, ours = (folder / "file" for folder in two_small_disks)
    for folder in two_small_disks:
        (folder / "filler").write_bytes(b"f" * (100 << 10))
    text = {} if "b" in mode else {"encoding": "utf-8"}
    pieces: list[Any] = [BLOCK[:100], BLOCK, BLOCK[:5000], BLOCK, BLOCK, BLOCK[:100], BLOCK]
    if text:
        pieces = [piece.decode() + "\n" for piece in pieces]

    async def main() -> None:
        with open(theirs, mode, buffering, **text) as their_file:
            our_file = await aiouring.open(ours, mode, buffering, **text)
            seen = set()
            for room_is_made in (False, True):
                for piece in pieces if not room_is_made else pieces[:1]:
                    expected = came_to(their_file.write, piece)
                    assert await finished(our_file.write(piece)) == expected
                    seen.add(expected)
                    assert ours.read_bytes() == theirs.read_bytes()
                if not room_is_made:
                    expected = came_to(their_file.flush)
                    assert await finished(our_file.flush()) == expected
                    seen.add(expected)
                    assert ours.read_bytes() == theirs.read_bytes()
                    for folder in two_small_disks:
                        (folder / "filler").unlink()
            assert ("raised", OSError, errno.ENOSPC) in seen
            # What the buffer held back is still there, and goes out now that there is room.
            expected = came_to(their_file.close)
            assert await finished(our_file.close()) == expected
            assert our_file.closed
            assert ours.read_bytes() == theirs.read_bytes()

    loop.run_until_complete(main())


def test_the_error_names_the_file(loop: Loop, tmp_path: Path) -> None:
    async def main(folder: Path) -> None:
        file = await aiouring.open(folder / "file", "wb", 0)
        with pytest.raises(OSError) as caught:
            while True:
                assert await file.write(BLOCK)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(folder / "file")
        await file.close()

    with small_disk(tmp_path / "disk", 128 << 10) as folder:
        loop.run_until_complete(main(folder))


@pytest.mark.parametrize("mode", ["wb", "w", "w+b"])
def test_a_close_that_cannot_write_says_so_and_closes(mode: str, loop: Loop, two_small_disks: tuple[Path, Path]) -> None:
    theirs, ours = (folder / "file" for folder in two_small_disks)
    data: Any = b"x" * 5000 if "b" in mode else "x" * 5000

    async def main() -> None:
        with open(theirs, mode, 20_000) as their_file:
            our_file = await aiouring.open(ours, mode, 20_000)
            their_file.write(data)
            await our_file.write(data)
            for folder in two_small_disks:
                with open(folder / "filler", "wb") as filler, contextlib.suppress(OSError):
                    filler.write(b"f" * BIG)
            expected = came_to(their_file.close)
            assert expected == ("raised", OSError, errno.ENOSPC)
            fd = our_file.fileno()
            assert await finished(our_file.close()) == expected
            assert our_file.closed and their_file.closed
            with pytest.raises(OSError):
                os.fstat(fd)
            await our_file.close()
            with pytest.raises(ValueError):
                await our_file.write(data)
            assert ours.read_bytes() == theirs.read_bytes()

    loop.run_until_complete(main())


def test_async_with_raises_what_the_close_raises(loop: Loop, tmp_path: Path) -> None:
    async def main(folder: Path) -> None:
        with pytest.raises(OSError) as caught:
            async with aiouring.open(folder / "file", "wb", BIG) as file:
                await file.write(b"x" * (BIG // 2))
        assert caught.value.errno == errno.ENOSPC
        assert file.closed

    with small_disk(tmp_path / "disk", 64 << 10) as folder:
        loop.run_until_complete(main(folder))


def test_calls_by_position_on_a_full_disk(loop: Loop, tmp_path: Path) -> None:
    async def main(folder: Path) -> None:
        async with aiouring.open(folder / "file", "w+b") as file:
            assert await finished(file.pwrite(b"x" * BIG, 0)) == ("raised", OSError, errno.ENOSPC)
            # What there was room for is written, as by a loop of pwrite(2).
            assert (folder / "file").stat().st_size == 64 << 10
            assert await finished(file.pwritev([BLOCK[:5], BLOCK, BLOCK], 64 << 10)) == ("raised", OSError, errno.ENOSPC)
            assert await finished(file.allocate(0, BIG)) == ("raised", OSError, errno.ENOSPC)
            assert await file.pread(BIG, 0) == b"x" * (64 << 10)
            await file.truncate(0)
            assert await file.pwrite(b"y" * 100, 0) == 100
        assert (folder / "file").read_bytes() == b"y" * 100

    with small_disk(tmp_path / "disk", 64 << 10) as folder:
        loop.run_until_complete(main(folder))


# --- the process's limit for files


FSIZE = """
import asyncio, errno, resource, signal, sys
import aiouring

path, how, mode, buffering = sys.argv[1:]
caught = []
if how == "handler":
    signal.signal(signal.SIGXFSZ, lambda number, frame: caught.append(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
data = b"x" * 64_000 if "b" in mode else "x" * 64_000

async def main():
    file = await aiouring.open(path, mode, int(buffering))
    sizes = []
    for call in range(4):
        try:
            sizes.append(await file.write(data))
            await file.flush()
        except OSError as error:
            sizes.append(errno.errorcode[error.errno])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await file.close()
    print(sizes)

aiouring.run(main())
"""


@pytest.mark.parametrize("how", ["ignored", "handler"])
@pytest.mark.parametrize(
    ("mode", "buffering", "sizes", "bytes_in_the_end"),
    [
        ("wb", "0", "[64000, 36000, 'EFBIG', 'EFBIG']", 100_000),
        ("ab", "0", "[64000, 36000, 'EFBIG', 'EFBIG']", 100_000),
    ],
)
def test_a_file_that_may_not_grow(how: str, mode: str, buffering: str, sizes: str, bytes_in_the_end: int, tmp_path: Path) -> None:
    """RLIMIT_FSIZE. Python ignores SIGXFSZ; a program may have its own handler. Neither takes a byte or the process away."""
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", FSIZE, str(path), how, mode, buffering], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sizes
    assert path.read_bytes() == b"x" * bytes_in_the_end


@pytest.mark.parametrize("mode", ["wb", "w", "w+b"])
def test_what_a_limit_held_back_is_written_when_it_is_lifted(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", FSIZE, str(path), "ignored", mode, "8192"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # The built-in in the same place, for what it raises and what is in the file in the end.
    other = tmp_path / "theirs"
    theirs = FSIZE.replace("await aiouring.open", "open").replace("await file", "file").replace("aiouring.run", "asyncio.run")
    expected = subprocess.run([sys.executable, "-c", theirs, str(other), "ignored", mode, "8192"], capture_output=True, text=True, timeout=60)
    assert expected.returncode == 0, expected.stderr
    assert "EFBIG" in expected.stdout
    assert done.stdout == expected.stdout
    assert path.read_bytes() == other.read_bytes()


# --- pipes


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def both_ends(fifo: Path, read_mode: str = "rb", write_mode: str = "wb", buffering: int = -1) -> tuple[Any, Any]:
    """Each open() waits for the other one's."""
    reader = asyncio.ensure_future(_opened(fifo, read_mode, buffering))
    writer = asyncio.ensure_future(_opened(fifo, write_mode, buffering))
    return await reader, await writer


async def _opened(path: Path, mode: str, buffering: int = -1) -> Any:
    return await aiouring.open(path, mode, buffering)


def test_reads_of_a_pipe_wait_for_what_they_need_and_no_more(loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        reader, writer = await both_ends(fifo)
        assert not reader.seekable()
        call = asyncio.ensure_future(asyncio.wait_for(reader.read(10), None))
        await writer.write(b"01234")
        await writer.flush()
        # All ten are wanted: five are no answer.
        for _ in range(20):
            await asyncio.sleep(0)
        assert not call.done()
        await writer.write(b"56789abc")
        await writer.flush()
        assert await call == b"0123456789"
        # What is there is enough for these.
        assert await reader.read1(100) == b"abc"
        await writer.write(b"one\ntwo\nthr")
        await writer.flush()
        assert await reader.readline() == b"one\n"
        assert await reader.peek(1) == b"two\nthr"
        assert await reader.readline() == b"two\n"
        line = asyncio.ensure_future(asyncio.wait_for(reader.readline(), None))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not line.done()
        await writer.close()
        assert await line == b"thr"
        assert await reader.read() == b""
        # The end of a pipe is not for ever: another writer may come.
        async with aiouring.open(fifo, "wb", 0) as again:
            assert await again.write(b"more") == 4
            assert await reader.read1() == b"more"
        assert await reader.readline() == b""
        await reader.close()

    loop.run_until_complete(main())


def test_an_unbuffered_read_of_a_pipe_is_short(loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        reader, writer = await both_ends(fifo, buffering=0)
        assert await writer.write(b"abc") == 3
        assert await reader.read(1000) == b"abc"
        waiting = asyncio.ensure_future(asyncio.wait_for(reader.readall(), None))
        await writer.write(b"de")
        await asyncio.sleep(0)
        await writer.write(b"f")
        await writer.close()
        assert await waiting == b"def"
        buffer = bytearray(5)
        assert await reader.readinto(buffer) == 0
        await reader.close()

    loop.run_until_complete(main())


@pytest.mark.parametrize("call", ["read(6)", "read()", "readline()", "readlines()", "readinto(bytearray(6))", "read1(6)", "peek(1)", "__anext__()"])
@pytest.mark.parametrize("kind", ["rb", "rb unbuffered", "r"])
@pytest.mark.parametrize("before", [b"", b"ab"])
def test_a_read_that_is_cancelled_while_it_waits_takes_nothing(call: str, kind: str, before: bytes, loop: Loop, fifo: Path) -> None:
    mode, _, unbuffered = kind.partition(" ")
    name = call.partition("(")[0]
    if (mode == "r" and name in ("readinto", "read1", "peek")) or (unbuffered and name in ("read1", "peek")):
        return

    async def main() -> None:
        reader, writer = await both_ends(fifo, mode, "wb", 0 if unbuffered else -1)
        ends_at_once = before and (name in ("read1", "peek") or (unbuffered and name in ("read", "readinto") and call != "read()"))
        if ends_at_once:
            await writer.close()
            await reader.close()
            return
        waiting = asyncio.ensure_future(asyncio.wait_for(eval(f"reader.{call}", {"reader": reader}), None))
        await writer.write(before)
        await writer.flush()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert slots_in_use() == 0
        await writer.write(b"cd\nef")
        await writer.close()
        everything = await reader.read()
        assert everything == (before + b"cd\nef" if "b" in mode else (before + b"cd\nef").decode())
        await reader.close()

    loop.run_until_complete(main())


def test_cancelled_and_served_in_the_same_turn(loop: Loop, fifo: Path, rng: random.Random) -> None:
    """Cancels that come about when the bytes do: whoever gets them, each byte comes once and in order."""

    async def main() -> None:
        reader, writer = await both_ends(fifo, buffering=-1)
        got = bytearray()
        sent = 0
        for _ in range(300):
            piece = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
            task = asyncio.ensure_future(asyncio.wait_for(rng.choice([reader.read1, reader.read])(rng.randrange(1, 30)), None))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            await writer.write(piece)
            await writer.flush()
            sent += len(piece)
            expected.extend(piece)
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got.extend(await task)
            except asyncio.CancelledError:
                pass
        await writer.close()
        got.extend(await reader.read())
        await reader.close()
        assert len(got) == sent
        assert got == expected

    expected = bytearray()
    loop.run_until_complete(main())


@pytest.mark.parametrize("buffering", [0, -1])
def test_the_reader_goes_away(buffering: int, loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        reader, writer = await both_ends(fifo, buffering=buffering)
        await reader.close()
        with pytest.raises(BrokenPipeError) as caught:
            await writer.write(b"x" * 100)
            await writer.flush()
        assert caught.value.filename == str(fifo)
        outcome = await finished(writer.close())
        assert outcome == (("returned", None) if buffering == 0 else ("raised", BrokenPipeError, errno.EPIPE))
        assert writer.closed

    loop.run_until_complete(main())


def test_the_reader_goes_away_while_a_write_waits(loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        reader, writer = await both_ends(fifo, buffering=0)
        waiting = asyncio.ensure_future(asyncio.wait_for(writer.write(b"x" * BIG), None))
        # A pipe holds 64 KiB: the rest has to wait until somebody reads.
        taken = len(await reader.read(4096))
        assert taken == 4096
        if waiting.done():
            # By one write(2) an unbuffered file may well have written less than it was given; the next one waits.
            assert waiting.result() < BIG
            waiting = asyncio.ensure_future(asyncio.wait_for(writer.write(b"x" * BIG), None))
        await reader.close()
        assert (await finished(waiting))[:2] in (("raised", BrokenPipeError), ("returned", 65536))
        assert await finished(writer.write(b"y")) == ("raised", BrokenPipeError, errno.EPIPE)
        await writer.close()

    loop.run_until_complete(main())


def test_a_write_to_a_full_pipe_that_is_cancelled_ends(loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        reader, writer = await both_ends(fifo, buffering=4096)
        waiting = asyncio.ensure_future(asyncio.wait_for(writer.write(b"x" * BIG), None))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert slots_in_use() == 0
        await reader.close()
        await finished(writer.close())
        assert writer.closed

    loop.run_until_complete(main())


@pytest.mark.parametrize("mode", ["rb", "wb", "r", "w"])
def test_an_open_that_waits_for_the_other_end_is_cancelled(mode: str, loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        for turns in range(5):
            task = asyncio.ensure_future(_opened(fifo, mode))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: slots_in_use() == 0)
        # Nobody holds an end: an open that does not wait finds no reader.
        with pytest.raises(OSError):
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    loop.run_until_complete(main())


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipes_own_descriptors(blocking: bool, loop: Loop) -> None:
    """However the pipe is set, a read waits for the other end and not in the loop's thread."""

    async def main() -> None:
        read_fd, write_fd = os.pipe()
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, blocking)
        reader, writer = await aiouring.open(read_fd, "rb"), await aiouring.open(write_fd, "wb", 0)
        waiting = asyncio.ensure_future(asyncio.wait_for(reader.read(3 * 65536), None))
        for _ in range(10):
            await asyncio.sleep(0)
        written = 0
        while written < 3 * 65536:
            written += await writer.write(b"x" * (3 * 65536 - written))
        assert await waiting == b"x" * (3 * 65536)
        await writer.close()
        assert await reader.read() == b""
        await reader.close()

    loop.run_until_complete(main())


def test_signals_do_not_disturb_a_read_that_waits(loop: Loop, fifo: Path) -> None:
    """EINTR: a storm of signals while a read waits, and KeyboardInterrupt out of the loop; the read goes on."""
    seen = []

    async def first() -> tuple[Any, Any, asyncio.Future[bytes]]:
        reader, writer = await both_ends(fifo)
        waiting = asyncio.ensure_future(asyncio.wait_for(reader.read(3), None))
        while len(seen) < 20:
            await asyncio.sleep(0.001)
        return reader, writer, waiting

    async def last(reader: Any, writer: Any, waiting: asyncio.Future[bytes]) -> None:
        assert not waiting.done()
        await writer.write(b"abc")
        await writer.flush()
        assert await waiting == b"abc"
        await writer.close()
        await reader.close()

    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        ends = loop.run_until_complete(first())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(KeyboardInterrupt):
        loop.call_soon(signal.raise_signal, signal.SIGINT)
        loop.run_forever()
    loop.run_until_complete(last(*ends))


# --- devices and files of the kernel's own


def test_dev_full(loop: Loop) -> None:
    async def main() -> None:
        for mode, buffering in (("wb", 0), ("wb", -1), ("w", -1), ("w", 1)):
            with open("/dev/full", mode, buffering) as theirs:
                ours = await aiouring.open("/dev/full", mode, buffering)
                data: Any = b"x\n" if "b" in mode else "x\n"
                for _ in range(3):
                    expected = came_to(theirs.write, data)
                    assert await finished(ours.write(data)) == expected
                    expected = came_to(theirs.flush)
                    assert expected in (("raised", OSError, errno.ENOSPC), ("returned", None))
                    assert await finished(ours.flush()) == expected
                expected = came_to(theirs.close)
                assert await finished(ours.close()) == expected
                assert ours.closed

    loop.run_until_complete(main())


def test_dev_zero_and_dev_null(loop: Loop) -> None:
    async def main() -> None:
        async with aiouring.open("/dev/zero", "rb") as zero:
            assert await zero.read(100_000) == bytes(100_000)
            buffer = bytearray(b"x" * 70_000)
            assert await zero.readinto(buffer) == 70_000
            assert not any(buffer)
            assert await zero.read1(10) == bytes(10)
        async with aiouring.open("/dev/zero", "rb", 0) as zero:
            assert await zero.read(5000) == bytes(5000)
            assert await zero.pread(10, 1 << 40) == bytes(10)
        async with aiouring.open("/dev/null", "r+b") as null:
            assert await null.write(BLOCK) == len(BLOCK)
            await null.flush()
            assert await null.read() == b""
        async with aiouring.open("/dev/null", encoding="utf-8") as null_text:
            assert await null_text.read() == ""
            assert [line async for line in null_text] == []

    loop.run_until_complete(main())


@pytest.mark.parametrize("path", ["/proc/self/status", "/proc/version", "/proc/self/environ", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_files_whose_size_is_not_what_they_hold(path: str, loop: Loop) -> None:
    if not os.path.exists(path):
        pytest.skip(f"needs kernel: {path}")

    async def main() -> None:
        def stable(data: bytes) -> list[bytes]:
            return [line for line in data.splitlines() if not line.startswith((b"Vm", b"Rss", b"volunt", b"nonvol", b"Threads", b"Hugetlb", b"State"))]

        for buffering in (0, -1, 10):
            with open(path, "rb", buffering) as theirs:
                async with aiouring.open(path, "rb", buffering) as ours:
                    assert stable(await ours.read()) == stable(theirs.read())
                    assert await ours.read() == theirs.read()

    loop.run_until_complete(main())


def test_a_read_error_of_the_device(loop: Loop) -> None:
    """EIO: the process's own memory at address 0 cannot be read."""

    async def main() -> None:
        for buffering in (0, -1):
            with open("/proc/self/mem", "rb", buffering) as theirs:
                async with aiouring.open("/proc/self/mem", "rb", buffering) as ours:
                    expected = came_to(theirs.read, 10)
                    assert expected == ("raised", OSError, errno.EIO)
                    assert await finished(ours.read(10)) == expected
                    assert await finished(ours.pread(10, 0)) == expected
                    # The position is what it was.
                    assert await ours.tell() == theirs.tell()

    loop.run_until_complete(main())


def test_a_terminal(loop: Loop) -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        terminal = await aiouring.open(slave, "w")
        assert terminal.isatty()
        assert terminal.line_buffering
        await terminal.write("a line\nand")
        # Each line goes out by itself, and what follows with it, as the built-in does.
        other_side = await aiouring.open(master, "rb", 0)
        assert await other_side.read(100) == b"a line\r\nand"
        await terminal.close()
        assert await finished(other_side.read(100)) == ("raised", OSError, errno.EIO)
        await other_side.close()

    loop.run_until_complete(main())


# --- files that others change meanwhile


def test_a_file_that_grows_while_it_is_read(loop: Loop, tmp_path: Path) -> None:
    """As `tail -f`: the end is where it is when it is read, again each time."""
    path = tmp_path / "file"
    path.write_bytes(b"first\n")

    async def main() -> None:
        with open(path, "ab", 0) as growing:
            for mode, buffering in (("rb", -1), ("rb", 0), ("r", -1)):

                def as_read(data: bytes, mode: str = mode) -> Any:
                    return data if mode == "rb" else data.decode()

                size = path.stat().st_size
                async with aiouring.open(path, mode, buffering) as file:
                    assert len(await file.read()) == size
                    assert await file.read(10) == as_read(b"")
                    growing.write(b"second\n")
                    assert await file.readline() == as_read(b"second\n")
                    assert await file.readline() == as_read(b"")
                    growing.write(b"th")
                    assert await file.readline() == as_read(b"th")
                    growing.write(b"ird\n" * 50_000)
                    assert await file.read() == as_read(b"ird\n" * 50_000)
                    growing.write(b"x")
                    assert [line async for line in file] == [as_read(b"x")]
                    assert await file.pread(1, path.stat().st_size - 1) == b"x"

    loop.run_until_complete(main())


@pytest.mark.parametrize("buffering", [0, 100, -1])
def test_a_file_that_is_truncated_while_it_is_read(buffering: int, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        path.write_bytes(b"x" * BIG)
        async with aiouring.open(path, "rb", buffering) as file:
            assert await file.read(1000) == b"x" * 1000
            os.truncate(path, 2000)
            # What was read ahead may come still; the end comes where it ends, and nothing is made up.
            rest = await file.read()
            assert set(rest) <= {ord("x")}
            assert 1000 <= len(rest) < BIG - 1000
            assert await file.read(10) == b""
            assert await file.pread(5000, 0) == b"x" * 2000
            # Shorter than the position: that is the end too, and it is no error.
            os.truncate(path, 10)
            assert await file.read(10) == b""
            assert await file.seek(5) == 5
            assert await file.read() == b"x" * 5
            # And it grows again, with a hole.
            os.truncate(path, 3000)
            assert await file.seek(0) == 0
            assert await file.read() == b"x" * 10 + bytes(2990)

    loop.run_until_complete(main())


def test_a_file_that_another_one_of_ours_writes(loop: Loop, tmp_path: Path) -> None:
    """Bytes that were written before a read begins are read: by position at once, and by the stream after a seek at the latest."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 200_000)

    async def main() -> None:
        async with aiouring.open(path, "rb") as reader, aiouring.open(path, "r+b", 0) as writer:
            assert await reader.read(10) == b"a" * 10
            await writer.seek(100_000)
            await writer.write(b"b" * 100_000)
            assert await reader.pread(10, 150_000) == b"b" * 10
            await reader.seek(100_000)
            assert await reader.read() == b"b" * 100_000

    loop.run_until_complete(main())


def test_a_file_that_is_removed_while_it_is_open(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with aiouring.open(path, "w+b") as file:
            await file.write(BLOCK)
            path.unlink()
            await file.seek(0)
            assert await file.read() == BLOCK

    loop.run_until_complete(main())


# --- descriptors that somebody closes


@pytest.mark.parametrize("mode", ["rb", "r", "r+b"])
def test_a_descriptor_that_is_closed_under_the_file(mode: str, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"line\n" * 100_000)

    async def main() -> None:
        theirs = open(path, mode)
        ours = await aiouring.open(path, mode)
        os.close(theirs.fileno())
        os.close(ours.fileno())
        for name, arguments in (("read", (200_000,)), ("seek", (0, 2)), ("readline", ())):
            expected = came_to(getattr(theirs, name), *arguments)
            assert expected == ("raised", OSError, errno.EBADF), name
            assert await finished(getattr(ours, name)(*arguments)) == expected, name
        assert await finished(ours.pread(10, 0)) == ("raised", OSError, errno.EBADF)
        expected = came_to(theirs.close)
        assert expected == ("raised", OSError, errno.EBADF)
        assert await finished(ours.close()) == expected
        assert ours.closed and theirs.closed

    loop.run_until_complete(main())


def test_a_descriptor_that_is_closed_while_a_read_waits(loop: Loop) -> None:
    """The read holds the pipe in the kernel: it ends with what comes, and no other file gets it."""

    async def main() -> None:
        read_fd, write_fd = os.pipe()
        reader = await aiouring.open(read_fd, "rb", 0, closefd=False)
        waiting = asyncio.ensure_future(asyncio.wait_for(reader.read(10), None))
        for _ in range(10):
            await asyncio.sleep(0)
        os.close(read_fd)
        os.write(write_fd, b"abc")
        assert await waiting == b"abc"
        os.close(write_fd)
        assert await finished(reader.read(1)) == ("raised", OSError, errno.EBADF)
        await reader.close()

    loop.run_until_complete(main())


def test_closefd_false_leaves_the_descriptor(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        file = await aiouring.open(fd, "r+b", closefd=False)
        await file.write(b"abc")
        await file.close()
        assert os.pread(fd, 10, 0) == b"abc"
        os.close(fd)

    loop.run_until_complete(main())


def test_close_comes_after_what_was_begun(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        file = await aiouring.open(path, "w+b")
        calls = [asyncio.ensure_future(_call(file.write(bytes([65 + number]) * 10_000))) for number in range(10)]
        calls.append(asyncio.ensure_future(_call(file.pwrite(b"first", 0))))
        calls.append(asyncio.ensure_future(_call(file.close())))
        late = asyncio.ensure_future(_call(file.write(b"late")))
        results = await asyncio.gather(*calls)
        assert results == [10_000] * 10 + [5, None]
        with pytest.raises(ValueError):
            await late
        data = path.read_bytes()
        assert len(data) == 100_000
        assert data[10_000:] == b"".join(bytes([65 + number]) * 10_000 for number in range(1, 10))

    loop.run_until_complete(main())


async def _call(call: Awaitable[Any]) -> Any:
    return await call


def test_two_closes_at_once(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        file = await aiouring.open(tmp_path / "file", "wb")
        await file.write(b"abc")
        other = os.open("/dev/null", os.O_RDONLY)
        assert await asyncio.gather(_call(file.close()), _call(file.close()), _call(file.close())) == [None, None, None]
        os.fstat(other)
        os.close(other)
        assert (tmp_path / "file").read_bytes() == b"abc"

    loop.run_until_complete(main())


# --- cancellation at each wait


CONTENT = b"".join(b"line %d\n" % number for number in range(60_000))  # 700 KB
READS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "read(n)": lambda file: _call(file.read(100_000)),
    "read()": lambda file: _call(file.read()),
    "readline": lambda file: _call(file.readline()),
    "readlines": lambda file: _call(file.readlines(300_000)),
    "next": lambda file: _call(file.__anext__()),
}
BINARY_READS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "readinto": lambda file: _call(file.readinto(bytearray(100_000))),
    "read1": lambda file: _call(file.read1(50_000)),
    "peek": lambda file: _call(file.peek()),
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

        async def call() -> None:
            file = await aiouring.open(path, mode)
            files.append(file)
            assert len(await file.read(start)) == start
            place.append(await file.tell())
            nonlocal armed
            armed = True
            await read(file)

        armed = False
        place: list[int] = []

        async def check(cancelled: bool) -> None:
            nonlocal armed
            for file in files:
                if cancelled and armed and place:
                    rest = await file.read()
                    expected = CONTENT[start:]
                    assert (rest if "b" in mode else rest.encode()) == expected
                await file.close()
            files.clear()
            place.clear()
            armed = False
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

            await cancel_at_each_wait(lambda: _call(calls[name](file)), check)

    loop.run_until_complete(main())


def test_cancelled_calls_do_not_hold_up_those_behind_them(loop: Loop, tmp_path: Path, rng: random.Random) -> None:
    """Many calls in line on one file, of which some are cancelled: the others come in the order in which they were begun."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, "rb") as file:
            for _ in range(20):
                await file.seek(0)
                lines = [asyncio.ensure_future(_call(file.readline())) for _ in range(50)]
                await asyncio.sleep(0)
                for line in rng.sample(lines, 25):
                    line.cancel()
                got = [line for line in await asyncio.gather(*lines, return_exceptions=True) if isinstance(line, bytes)]
                assert got == [b"line %d\n" % number for number in range(len(got))]
                assert await file.readline() == b"line %d\n" % len(got)

    loop.run_until_complete(main())


# --- the end of a loop, and another one


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("how", ["readinto", "a queue of reads", "an open"])
def test_a_loop_that_closes_with_calls_in_flight(how: str, fifo: Path) -> None:
    """The memory is the caller's again, what comes later changes nothing in it, and no descriptor stays."""
    loop = aiouring.new_event_loop()
    buffer = bytearray(100)

    async def main() -> list[Any]:
        if how == "an open":
            things = [loop.create_task(_opened(fifo, "rb"))]
        else:
            reader, writer = await both_ends(fifo, buffering=0)
            things = [reader, writer, loop.create_task(_call(reader.readinto(buffer)))]
            if how == "a queue of reads":
                things += [loop.create_task(_call(reader.read(5))), loop.create_task(_call(reader.close()))]
        for _ in range(5):
            await asyncio.sleep(0)
        return things

    things = loop.run_until_complete(main())
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!"
    loop.close()
    if how != "an open":
        os.write(things[1].fileno(), b"late")
    assert not any(buffer)
    assert not [thing for thing in things if isinstance(thing, asyncio.Task) and thing.done() and not thing.cancelled()]
    del things
    gc.collect()
    buffer.append(0)


@pytest.mark.parametrize("mode", ["wb", "w", "r+b"])
def test_a_file_that_is_dropped_unclosed_writes_what_it_has_and_warns(mode: str, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")

    async def main() -> None:
        file = await aiouring.open(path, mode)
        await file.write(b"kept" if "b" in mode else "kept")
        assert path.read_bytes() == b""
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file
            gc.collect()
        assert path.read_bytes() == b"kept"

    loop.run_until_complete(main())


def test_a_file_that_outlives_its_loop(tmp_path: Path) -> None:
    """What needs the kernel fails with a sentence, and when the file is dropped what it has is written."""
    loop = aiouring.new_event_loop()

    async def main() -> Any:
        file = await aiouring.open(tmp_path / "file", "wb")
        await file.write(b"kept")
        return file

    file = loop.run_until_complete(main())
    loop.close()
    for call in (file.flush(), file.pread(1, 0), file.write(BLOCK)):
        with pytest.raises(RuntimeError, match="closed"):
            call.send(None)
    del call
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
        gc.collect()
    assert (tmp_path / "file").read_bytes().startswith(b"kept")


def test_a_loop_that_goes_on_in_another_thread(loop: Loop, tmp_path: Path, fifo: Path) -> None:
    """A read that waited meanwhile goes on with the new ring, and the files with it."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def first() -> tuple[Any, Any, Any, asyncio.Future[Any]]:
        reader, writer = await both_ends(fifo)
        waiting = asyncio.ensure_future(_call(reader.read(6)))
        file = await aiouring.open(path, encoding="utf-8")
        assert await file.readline() == "line 0\n"
        await writer.write(b"abc")
        await writer.flush()
        for _ in range(10):
            await asyncio.sleep(0)
        return reader, writer, file, waiting

    async def last(reader: Any, writer: Any, file: Any, waiting: asyncio.Future[Any]) -> None:
        assert not waiting.done()
        assert await file.readline() == "line 1\n"
        assert len(await file.read()) == len(CONTENT) - 14
        await writer.write(b"def")
        await writer.close()
        assert await waiting == b"abcdef"
        await reader.close()
        await file.close()

    things = loop.run_until_complete(first())
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(last(*things))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed


def test_another_threads_loop_may_not_use_the_file(loop: Loop, tmp_path: Path) -> None:
    """It says so, and the file is none the worse."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, "rb") as file:
            assert await file.readline() == b"line 0\n"

            def use() -> None:
                async def call() -> None:
                    # What is in the buffer needs no ring, and is not asked about.
                    for attempt in (file.read(100_000), file.pread(5, 0), file.close()):
                        with pytest.raises(RuntimeError):
                            await attempt

                aiouring.run(call())

            await asyncio.to_thread(use)
            assert await file.readline() == b"line 1\n"
            assert not file.closed

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


# --- forks


def in_a_child(function: Callable[[], None]) -> None:
    """Runs it in a fork, which ends there; fails if it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_is_told_and_the_parents_file_is_not_touched(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        reader = await aiouring.open(path, "rb")
        writer = await aiouring.open(tmp_path / "written", "wb")
        await writer.write(b"once")
        assert await reader.readline() == b"line 0\n"
        files = [reader, writer]

        def child() -> None:
            for call in (reader.read(100_000), writer.flush(), reader.pread(5, 0), writer.close()):
                try:
                    call.send(None)
                except RuntimeError:
                    continue
                raise AssertionError(f"{call} went through in a forked child")
            warnings.simplefilter("ignore")
            # Dropped there, it writes nothing: what waits to be written is the parent's.
            files.clear()
            nonlocal_files()
            gc.collect()

        def nonlocal_files() -> None:
            nonlocal reader, writer
            del reader, writer

        in_a_child(child)
        assert await reader.readline() == b"line 1\n"
        await writer.write(b" more")
        await writer.close()
        assert (tmp_path / "written").read_bytes() == b"once more"
        await reader.close()

    loop.run_until_complete(main())


def test_a_fork_while_a_read_waits(loop: Loop, fifo: Path) -> None:
    async def main() -> None:
        reader, writer = await both_ends(fifo)
        waiting = asyncio.ensure_future(_call(reader.read(6)))
        for _ in range(5):
            await asyncio.sleep(0)
        in_a_child(lambda: None)
        await writer.write(b"abcdef")
        await writer.flush()
        assert await waiting == b"abcdef"
        await writer.close()
        await reader.close()

    loop.run_until_complete(main())


# --- many


def test_thousands_of_files_at_once(loop: Loop, tmp_path: Path) -> None:
    count = 3000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"needs kernel: {count + 500} descriptors a process (RLIMIT_NOFILE)")

    async def main() -> None:
        before = slots_in_use()

        async def one(number: int) -> Any:
            file = await aiouring.open(tmp_path / f"{number}", "w+b")
            await file.write(b"%d\n" % number * 100)
            return file

        files = await asyncio.gather(*map(one, range(count)))
        assert len({file.fileno() for file in files}) == count

        async def read(number: int, file: Any) -> None:
            await file.seek(0)
            assert await file.readline() == b"%d\n" % number
            assert await file.read() == b"%d\n" % number * 99
            await file.close()

        await asyncio.gather(*(read(number, file) for number, file in enumerate(files)))
        assert slots_in_use() == before

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    try:
        loop.run_until_complete(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left_to_have(loop: Loop, tmp_path: Path) -> None:
    """EMFILE names the file, and what was open goes on."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, "rb") as file:
            held = []
            try:
                with pytest.raises(OSError) as caught:
                    while True:
                        held.append(await aiouring.open(path, "rb"))
                assert caught.value.errno == errno.EMFILE
                assert caught.value.filename == str(path)
                assert await file.read() == CONTENT
            finally:
                for one in held:
                    await one.close()
            async with aiouring.open(path, "rb") as again:
                assert await again.read(4) == b"line"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        loop.run_until_complete(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("what", ["an error", "a cancellation", "a drop"])
def test_nothing_stays_behind(what: str, loop: Loop, tmp_path: Path) -> None:
    """The same over and over: objects, slots and descriptors are no more in the end than after the first times."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def one() -> None:
        if what == "an error":
            with pytest.raises(OSError):
                await aiouring.open(tmp_path / "nowhere" / "file")
            async with aiouring.open(path, "rb") as file:
                with pytest.raises(io.UnsupportedOperation):
                    await file.write(b"x")
                with pytest.raises(OSError):
                    await file.pread(5, -1)
        elif what == "a cancellation":
            async with aiouring.open(path, "r", encoding="utf-8") as file:
                task = asyncio.ensure_future(_call(file.read()))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                file = await aiouring.open(path, "r+b")
                file.read(5)  # never awaited
                await file.read(5)
                del file

    async def main() -> None:
        async def many() -> tuple[int, int, int]:
            for _ in range(100):
                await one()
            await until(lambda: slots_in_use() == 0)
            gc.collect()
            return len(gc.get_objects()), slots_in_use(), len(os.listdir("/proc/self/fd"))

        await many()
        objects, slots, descriptors = await many()
        assert (slots, descriptors) == (await many())[1:]
        assert abs((await many())[0] - objects) < 50

    loop.run_until_complete(main())


def test_errors_from_the_outside_are_what_the_built_in_raises(loop: Loop, tmp_path: Path) -> None:
    """What open() itself meets."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        for name, mode in [
            ("gone", "rb"), ("gone", "r+"), ("folder", "rb"), ("folder", "w"), ("folder", "ab"), ("loop", "r"), ("file/file", "rb"), ("file", "x"),
            ("x" * 300, "w"), ("gone/gone", "wb"), ("nul\0", "rb"), ("fifo", "r+"), ("fifo", "a+b"),
        ]:  # fmt: skip
            expected = came_to(open, tmp_path / name, mode)
            assert expected[0] == "raised", name
            assert await finished(aiouring.open(tmp_path / name, mode)) == expected, name
        for fd in (-1, 12345):
            expected = came_to(open, fd, "rb")
            try:
                found = await finished(aiouring.open(fd, "rb"))
            except ValueError as error:  # what is wrong with the arguments is said before anything is awaited
                found = ("raised", type(error), None)
            assert found == expected

    loop.run_until_complete(main())
    assert not [name for name in os.listdir(tmp_path) if name.startswith("gone")]


def test_a_slow_thing_does_not_hold_up_the_loop(loop: Loop, fifo: Path) -> None:
    """While an open, a read and a write wait for the other end of their pipes, the loop's turns go on."""

    async def main() -> None:
        opening = asyncio.ensure_future(_opened(fifo, "rb"))
        begun_s = time.monotonic()
        for _ in range(200):
            await asyncio.sleep(0)
        assert not opening.done()
        writer = await aiouring.open(fifo, "wb", 0)
        reader = await opening
        reading = asyncio.ensure_future(_call(reader.read(1)))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not reading.done()
        await writer.write(b"x")
        assert await reading == b"x"
        assert time.monotonic() - begun_s < 60
        await writer.close()
        await reader.close()

    loop.run_until_complete(main())


