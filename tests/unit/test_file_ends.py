"""Files at the end of their loop, in another thread, in a forked child, and dropped unclosed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .files import until
from .open_files import BLOCK, CONTENT, both_ends, called, in_a_child, opened

Loop = Any


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("how", ["readinto", "a queue of reads", "an open"])
def test_a_loop_that_closes_with_calls_in_flight(how: str, fifo: Path) -> None:
    """The memory is the caller's again, what comes later changes nothing in it, and no descriptor stays."""
    loop = aiouring.new_event_loop()
    buffer = bytearray(100)

    async def main() -> list[Any]:
        if how == "an open":
            things = [loop.create_task(opened(fifo, "rb"))]
        else:
            reader, writer = await both_ends(fifo, buffering=0)
            things = [reader, writer, loop.create_task(called(reader.readinto(buffer)))]
            if how == "a queue of reads":
                things += [loop.create_task(called(reader.read(5))), loop.create_task(called(reader.close()))]
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
        waiting = asyncio.ensure_future(called(reader.read(6)))
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
        waiting = asyncio.ensure_future(called(reader.read(6)))
        for _ in range(5):
            await asyncio.sleep(0)
        in_a_child(lambda: None)
        await writer.write(b"abcdef")
        await writer.flush()
        assert await waiting == b"abcdef"
        await writer.close()
        await reader.close()

    loop.run_until_complete(main())


# --- open()


def test_an_opener_whose_open_is_cancelled(loop: Loop, tmp_path: Path) -> None:
    """The thread cannot be stopped: what it opens is closed."""
    begun, may_open = threading.Event(), threading.Event()
    descriptors: list[int] = []

    def opener(path: Any, flags: int) -> int:
        begun.set()
        assert may_open.wait(20)
        descriptors.append(os.open(path, flags, 0o600))
        return descriptors[0]

    async def opened_so() -> None:
        await aiouring.open(tmp_path / "file", "w", opener=opener)

    async def main() -> None:
        task = asyncio.ensure_future(opened_so())
        await until(begun.is_set)
        task.cancel()
        await asyncio.sleep(0)
        may_open.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(OSError):
        os.fstat(descriptors[0])


@pytest.mark.parametrize("again", [False, True])
def test_an_open_in_a_thread_that_is_cancelled(again: bool, fifo: Path) -> None:
    """On another loop than ours: the file that comes in the end is closed, without a warning."""

    async def main() -> None:
        task = asyncio.ensure_future(opened(fifo, "rb"))
        await asyncio.sleep(0)
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        # The thread opens it, or will, whatever becomes of the task.
        writer = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
        with pytest.raises(asyncio.CancelledError):
            await task
        os.close(writer)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()


def test_a_call_in_a_thread_whose_coroutine_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(tmp_path / "file", "rb") as file:
            call: Any = file.read(10)
            call.send(None)
            call.close()
            assert len(await file.read(10)) == 10

    asyncio.run(main())


# --- written by a loop that was closed


def test_what_a_closed_loop_has_appended_is_not_appended_again(tmp_path: Path) -> None:
    """The loop is closed before it hears of a write that was done. The file does not write it a second time when it is dropped, but says so."""
    path = tmp_path / "file"
    loop = aiouring.new_event_loop()

    async def main() -> tuple[Any, Any]:
        file = await aiouring.open(path, "ab")
        await file.write(b"once")
        flushing = asyncio.ensure_future(called(file.flush()))
        await asyncio.sleep(0)
        return file, flushing

    file, flushing = loop.run_until_complete(main())
    # One turn hands it to the kernel; then it is written without the loop.
    loop.call_soon(loop.stop)
    loop.run_forever()
    while path.stat().st_size == 0:
        os.sched_yield()
    in_flight = loop.ring_stats()["slots_in_use"] > 1
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!"
    loop.close()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del file, flushing
        gc.collect()
    assert path.read_bytes() == b"once"
    messages = [str(warning.message) for warning in warned if issubclass(warning.category, ResourceWarning)]
    assert len([message for message in messages if "unclosed file" in message and "descriptor=-1" not in message]) == 1
    assert not in_flight or any("4 bytes that were written to it may be lost" in message for message in messages)
