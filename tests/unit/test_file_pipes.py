"""aiouring.open on pipes and terminals: reads that wait, ends that go away, cancels that lose nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .files import slots_in_use, until
from .open_files import BIG, both_ends, called, finished, opened

Loop = Any


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


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
            task = asyncio.ensure_future(opened(fifo, mode))
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
    seen: list[int] = []

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


def test_a_slow_thing_does_not_hold_up_the_loop(loop: Loop, fifo: Path) -> None:
    """While an open, a read and a write wait for the other end of their pipes, the loop's turns go on."""

    async def main() -> None:
        opening = asyncio.ensure_future(opened(fifo, "rb"))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not opening.done()
        writer = await aiouring.open(fifo, "wb", 0)
        reader = await opening
        reading = asyncio.ensure_future(called(reader.read(1)))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not reading.done()
        await writer.write(b"x")
        assert await reading == b"x"
        await writer.close()
        await reader.close()

    loop.run_until_complete(main())
