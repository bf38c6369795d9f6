"""Calls on files that are cancelled at each of their waits: what is read is there for the next call, what was reported as written is in the file.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import gc
import os
import random
import tempfile
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .files import cancel_at_each_wait, slots_in_use, small_disk, until
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


# --- out of Python code that a call runs: there the handler of a signal may cancel its task, as Ctrl-C does


@pytest.mark.parametrize("mode", ["wb", "w", "ab"])
def test_a_cancellation_out_of_the_lines_that_are_written(mode: str, loop: Loop, tmp_path: Path) -> None:
    """The second line comes when the first one's write has ended, so its task waits. It ends, and then nothing of it is in the kernel's hands."""
    path = tmp_path / "file"

    async def main() -> None:
        file: Any = await aiouring.open(path, mode)
        held = bytearray(b"b" * 100_000)

        def lines() -> Iterator[Any]:
            yield b"a" * 100_000 if "b" in mode else "a" * 100_000
            task.cancel()
            yield held if "b" in mode else "b" * 100_000

        task = asyncio.ensure_future(called(file.writelines(lines())))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slots_in_use() == 0
        held.append(0)
        await file.write(b"c" * 100 if "b" in mode else "c" * 100)
        await file.close()
        found = path.read_bytes()
        assert found.startswith(b"a" * 100_000)
        assert found.endswith(b"c" * 100)
        assert set(found[100_000:-100]) <= {ord("b")}

    loop.run_until_complete(main())


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("name", READS)
def test_a_cancellation_out_of_a_codec(name: str, how: str, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    at_work: list[Callable[[], object]] = []

    class Decoder(codecs.IncrementalDecoder):
        def decode(self, data: Any, final: bool = False) -> str:
            if at_work:
                at_work.pop()()
            return bytes(data).decode("ascii")

    def find(encoding: str) -> codecs.CodecInfo | None:
        ascii_codec = codecs.lookup("ascii")
        return codecs.CodecInfo(ascii_codec.encode, ascii_codec.decode, None, None, ascii_codec.incrementalencoder, Decoder, encoding) \
            if encoding == "interrupted" else None  # fmt: skip

    async def main() -> None:
        async with aiouring.open(path, encoding="interrupted") as file:
            assert await file.read(5) == "line "
            assert await file.seek(5) == 5
            work = READS[name](file)
            if how == "cancel":
                task = asyncio.ensure_future(work)
                await asyncio.sleep(0)
                at_work.append(task.cancel)
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                # Its task is destroyed there: the coroutine is closed, and nobody waits for the call any more.
                waits_for = work.send(None)
                waits_for.add_done_callback(lambda _: None)
                at_work.append(work.close)
            # Whose turn comes next finds the stream where it was.
            assert await file.read() == CONTENT[5:].decode()
            assert not at_work
            assert slots_in_use() == 0

    codecs.register(find)
    try:
        loop.run_until_complete(main())
    finally:
        codecs.unregister(find)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs kernel: a tmpfs at /dev/shm")
def test_a_cancellation_out_of_the_executor(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the call is handed to a thread: here a seek to the end of a file without a disk. It ends when the thread is done, and not before."""
    may_seek = threading.Event()
    begun = threading.Event()
    to_executor = loop.run_in_executor

    def handed_over(executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        def run() -> Any:
            begun.set()
            assert may_seek.wait(20)
            return function(*arguments)

        tasks[0].cancel()
        return to_executor(executor, run)

    tasks: list[asyncio.Task[Any]] = []

    async def main(path: Path) -> None:
        async with aiouring.open(path, "r+b") as file:
            await file.write(b"x" * 10)  # so that the seek has to flush first, and its task waits
            monkeypatch.setattr(loop, "run_in_executor", handed_over)
            tasks.append(asyncio.ensure_future(called(file.seek(0, 2))))
            await until(begun.is_set)
            behind = asyncio.ensure_future(called(file.tell()))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not tasks[0].done() and not behind.done()
            may_seek.set()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await behind

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "file"
        path.write_bytes(CONTENT)
        loop.run_until_complete(main(path))
    monkeypatch.undo()
    loop.run_until_complete(loop.shutdown_default_executor())


# --- what cannot go back, and what goes back to elsewhere


def test_a_position_that_somebody_else_has_moved(loop: Loop, tmp_path: Path) -> None:
    """The descriptor is shared: a cancelled read leaves it where the other one has put it."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        for buffering in (0, -1):
            async with aiouring.open(path, "rb", buffering) as file:
                fd = file.fileno()
                os.lseek(fd, 1000, os.SEEK_SET)
                task = asyncio.ensure_future(called(file.read(100_000)))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert os.lseek(fd, 0, os.SEEK_CUR) == 1000
                assert await file.read(10) == CONTENT[1000:1010]

    loop.run_until_complete(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_descriptor_that_is_closed_under_a_cancelled_read(loop: Loop, tmp_path: Path) -> None:
    """It cannot go back. The call ends all the same, and so do those behind it."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        file = await aiouring.open(path, "rb")
        os_fd = file.fileno()
        task = asyncio.ensure_future(called(file.read(100_000)))
        behind = asyncio.ensure_future(called(file.read(100_000)))
        await asyncio.sleep(0)
        os.close(os_fd)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        with pytest.raises(OSError):
            await asyncio.wait_for(behind, 20)
        with pytest.raises(OSError):
            await file.close()
        assert file.closed

    loop.run_until_complete(main())


@types.coroutine
def cancelled_when_done(call: Any) -> Generator[Any, Any, Any]:
    """`await call`, whose task is cancelled after the call has ended and before it has taken the result."""
    waits_for = call.send(None)
    task = asyncio.current_task()
    assert task is not None
    waits_for.add_done_callback(lambda _: task.cancel())
    try:
        yield waits_for
    except BaseException as error:
        call.throw(error)
    return call.send(None)


@pytest.mark.parametrize(
    ("mode", "name"),
    [*(("r", name) for name in READS), *(("r+b", name) for name in READS), *(("rb", name) for name in BINARY_READS if name != "peek")],
)
def test_a_result_that_was_not_taken(mode: str, name: str, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, mode) as file:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.ensure_future(called(cancelled_when_done((READS | BINARY_READS)[name](file))))
            everything = await file.read()
            assert (everything if "b" in mode else everything.encode()) == CONTENT

    loop.run_until_complete(main())


def test_a_cancelled_seek_of_a_text_leaves_no_mark_behind(loop: Loop, tmp_path: Path) -> None:
    """A seek to the start makes the encoder write a byte order mark next. If the seek did not happen, neither does that."""
    path = tmp_path / "file"

    async def main() -> None:
        async with aiouring.open(path, "w+", encoding="utf-16") as file:
            await file.write("abc")
            with pytest.raises(asyncio.CancelledError):
                await asyncio.ensure_future(called(cancelled_when_done(file.seek(0))))
            await file.write("def")
        assert path.read_bytes() == "abcdef".encode("utf-16")

    loop.run_until_complete(main())


def test_a_cancelled_iteration_leaves_tell_as_it_was(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path) as file:
            await file.readline()
            for name in ("next", "readlines"):
                task = asyncio.ensure_future(READS[name](file))
                await file.seek(7)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                task = asyncio.ensure_future(READS["readlines"](file))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await file.tell() == 7

    loop.run_until_complete(main())


# --- close


def test_a_close_that_is_cancelled_while_it_waits_for_its_turn(loop: Loop, tmp_path: Path) -> None:
    """A regular file's calls end by themselves: the file is closed when CancelledError is raised."""
    path = tmp_path / "file"

    async def main() -> None:
        for mode in ("wb", "w"):
            for how in ("cancel", "drop"):
                file: Any = await aiouring.open(path, mode)
                fd = file.fileno()
                writing = asyncio.ensure_future(called(file.write(b"x" * 1_000_000 if mode == "wb" else "x" * 1_000_000)))
                if how == "cancel":
                    closing = asyncio.ensure_future(called(file.close()))
                    await asyncio.sleep(0)
                    closing.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await closing
                else:
                    await asyncio.sleep(0)
                    close = file.close()
                    close.send(None)
                    close.close()
                    await until(lambda file=file: file.closed)  # type: ignore[misc]
                    await until(lambda: slots_in_use() == 0)
                assert file.closed
                assert await writing == 1_000_000
                with pytest.raises(OSError):
                    os.fstat(fd)
                assert path.read_bytes() == b"x" * 1_000_000

    loop.run_until_complete(main())


@pytest.mark.parametrize("mode", ["rb", "r"])
def test_a_close_that_is_cancelled_behind_a_read_that_may_never_end(mode: str, loop: Loop) -> None:
    """It is over at once, and the file is closed when the read has ended."""

    async def main() -> None:
        read_fd, write_fd = os.pipe()
        file: Any = await aiouring.open(read_fd, mode)
        reading = asyncio.ensure_future(called(file.read(10)))
        closing = asyncio.ensure_future(called(file.close()))
        behind = asyncio.ensure_future(called(file.readline()))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not file.closed
        assert not reading.done()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(ValueError, match="closed"):
            await behind
        assert file.closed
        with pytest.raises(OSError):
            os.fstat(read_fd)
        os.close(write_fd)

    loop.run_until_complete(main())


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_cancelled_close_that_fails_is_told_to_the_loop(mode: str, loop: Loop, tmp_path: Path) -> None:
    """Bytes whose write was reported are lost, and the task hears of its cancellation alone."""
    contexts: list[dict[str, Any]] = []

    async def main(folder: Path) -> None:
        file: Any = await aiouring.open(folder / "file", mode, 1 << 20)
        await file.write(b"x" * 500_000 if mode == "wb" else "x" * 500_000)
        closing = asyncio.ensure_future(called(file.close()))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert file.closed

    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    with small_disk(tmp_path / "disk", 64 << 10) as folder:
        loop.run_until_complete(main(folder))
    assert [context["exception"].errno for context in contexts] == [errno.ENOSPC]
    assert "cancelled" in contexts[0]["message"]


# --- the queue


def test_calls_that_were_given_up_do_not_pile_up(loop: Loop) -> None:
    """Behind a read that waits, a program tries again and again, with a time-out."""

    async def main() -> None:
        read_fd, write_fd = os.pipe()
        file = await aiouring.open(read_fd, "rb")
        first = asyncio.ensure_future(called(file.readline()))
        await asyncio.sleep(0)
        for _ in range(2000):
            task = asyncio.ensure_future(called(file.readline()))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        last = asyncio.ensure_future(called(file.readline()))
        await asyncio.sleep(0)
        assert sum(type(thing).__name__ == "BinaryCall" for thing in gc.get_objects()) < 500
        os.write(write_fd, b"one\ntwo\n")
        assert (await first, await last) == (b"one\n", b"two\n")
        await file.close()
        os.close(write_fd)

    loop.run_until_complete(main())


def test_a_call_that_was_stepped_by_hand_and_dropped_keeps_nobody_waiting(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, "rb") as file:
            call: Any = file.read(4)
            call.send(None)
            del call
            assert CONTENT.endswith(await asyncio.wait_for(called(file.read()), 20))

    loop.run_until_complete(main())
