"""A file's life beside its loop's: dropped without close, the loop closed, moved to another thread, forked; and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .sockets import started


async def test_a_file_that_is_dropped_warns_writes_and_closes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    file = await aiouring.open(path, "wb")
    await file.write(b"buffered")
    descriptor = file.fileno()
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert path.read_bytes() == b"buffered"


@pytest.mark.parametrize("mode", ["w", "a", "r+"])
async def test_text_that_is_dropped(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a"
    path.write_text("0123456789")
    text = await aiouring.open(path, mode)
    if mode == "r+":
        await text.seek(2)
    await text.write("abc")
    await text.flush()
    await text.write("de")
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del text
    assert path.read_text() == {"w": "abcde", "a": "0123456789abcde", "r+": "01abcde789"}[mode]


async def test_a_dropped_pipe_tells_what_is_lost() -> None:
    read_end, write_end = os.pipe()
    file = await aiouring.open(write_end, "wb")
    await file.write(b"12345")
    with pytest.warns(ResourceWarning, match="5 bytes that were written to it are lost"):
        del file
    assert os.read(read_end, 10) == b""
    os.close(read_end)


async def test_a_file_in_a_cycle_is_found(tmp_path: Path) -> None:
    file = await aiouring.open(tmp_path / "a", "w")
    await file.write("x")
    holder: list[Any] = [file]
    holder.append(holder)
    with pytest.warns(ResourceWarning):
        del file, holder
        gc.collect()
    assert (tmp_path / "a").read_text() == "x"


async def test_a_file_that_was_not_ours_to_close(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "a", os.O_CREAT | os.O_WRONLY)
    file = await aiouring.open(fd, "wb", closefd=False)
    await file.write(b"x")
    del file
    os.fstat(fd)
    assert (tmp_path / "a").read_bytes() == b"x"
    os.close(fd)


async def test_dropped_with_a_call_in_flight() -> None:
    """The call holds the file until its last CQE; then the descriptor is closed."""
    read_end, write_end = os.pipe()
    file = await aiouring.open(read_end, "rb")
    waiting = await started(file.read(10))
    del file
    os.fstat(read_end)
    waiting.cancel()
    with pytest.warns(ResourceWarning):
        with pytest.raises(asyncio.CancelledError):
            await waiting
        del waiting
        gc.collect()
        await asyncio.sleep(0)
    with pytest.raises(OSError):
        os.fstat(read_end)
    os.close(write_end)


async def test_a_call_whose_coroutine_is_closed() -> None:
    read_end, write_end = os.pipe()
    async with aiouring.open(read_end, "rb") as file:
        call: Any = file.read(3)
        call.send(None)
        call.close()
        os.write(write_end, b"abcdef")
        assert await file.read(3) == b"abc"
        call = file.read(100)
        call.send(None)
        with pytest.raises(ZeroDivisionError):
            call.throw(ZeroDivisionError())
        assert await file.read(3) == b"def"
    os.close(write_end)
    assert asyncio.get_running_loop().ring_stats()["slots_in_use"] == 1


def test_the_loop_is_closed_with_calls_in_flight(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    loop = aiouring.new_event_loop()

    async def main() -> tuple[Any, Any]:
        file = await aiouring.open(read_end, "rb")
        other = await aiouring.open(tmp_path / "a", "w+b")
        for call in (file.read(10), other.pwrite(b"x" * 1_000_000, 0), other.pread(10, 0), other.write(b"y" * 100_000)):
            asyncio.ensure_future(call)
        await asyncio.sleep(0)
        return file, other

    file, other = loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    loop.close()

    for task in tasks:
        coroutine: Any = task.get_coro()
        coroutine.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    second = aiouring.new_event_loop()
    with pytest.raises(RuntimeError, match="closed"):
        second.run_until_complete(other.pread(1, 0))
    second.close()
    with pytest.warns(ResourceWarning):
        del file, other, tasks, task, coroutine
        gc.collect()
    os.close(write_end)


def test_a_loop_that_moves_to_another_thread_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"line\n" * 100_000)
    read_end, write_end = os.pipe()
    loop = aiouring.new_event_loop()

    async def begin() -> tuple[Any, Any, Any, asyncio.Task[bytes]]:
        text = await aiouring.open(path)
        binary = await aiouring.open(tmp_path / "b", "wb")
        pipe = await aiouring.open(read_end, "rb")
        assert await text.readline() == "line\n"
        await binary.write(b"before ")
        waiting = await started(pipe.read(5))
        asyncio.ensure_future(binary.pwrite(b"x" * 10, 100))
        return text, binary, pipe, waiting

    async def go_on() -> int:
        assert await text.readline() == "line\n"
        await binary.write(b"after")
        os.write(write_end, b"abcde")
        assert await waiting == b"abcde"
        count = 0
        async for _ in text:
            count += 1
        for file in (text, binary, pipe):
            await file.close()
        return count

    text, binary, pipe, waiting = loop.run_until_complete(begin())
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(go_on())))
    thread.start()
    thread.join()
    assert results == [99_998]
    assert (tmp_path / "b").read_bytes().startswith(b"before after")
    os.close(write_end)
    loop.close()


def test_a_forked_child_does_not_write_the_parents_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    loop = aiouring.new_event_loop()

    async def main() -> Any:
        file = await aiouring.open(path, "wb")
        await file.write(b"once")
        return file

    file = loop.run_until_complete(main())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                asyncio.events._set_running_loop(None)
                file.read(1).send(None)
            except (RuntimeError, OSError):
                status = 0
            del file
            gc.collect()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == b""
    loop.run_until_complete(file.close())
    assert path.read_bytes() == b"once"
    loop.close()


async def test_files_are_freed_by_reference_counting_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("line\n" * 5000)
    gc.collect()
    gc.disable()
    try:
        alive = []
        for _ in range(20):
            async with aiouring.open(path, "r+") as file:
                await file.readline()
                await file.seek(0)
                await asyncio.gather(*[file.read(10) for _ in range(20)])
                await file.pread(10, 10)
                await file.write("x")
                await file.buffer.raw.tell()
            alive.append(weakref.ref(file))
            del file
        assert [ref() for ref in alive] == [None] * 20
    finally:
        gc.enable()
    assert asyncio.get_running_loop().ring_stats()["slots_in_use"] == 1


async def test_a_positional_call_that_is_cancelled_holds_its_buffer_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1_000_000)
    async with aiouring.open(path, "rb") as file:
        for _ in range(50):
            buffer = bytearray(100_000)
            waiting = asyncio.ensure_future(file.pread_into(buffer, 0))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            buffer.clear()  # BufferError if it were still locked
    assert asyncio.get_running_loop().ring_stats()["slots_in_use"] == 1


async def test_a_descriptor_is_not_reused_under_a_call(tmp_path: Path) -> None:
    """The number of a file that was closed is another file's at once: no call of ours may go there."""
    for number in range(200):
        path = tmp_path / f"{number % 3}"
        file = await aiouring.open(path, "w+b")
        await file.write(b"%d" % number * 100)
        calls = [asyncio.ensure_future(file.pwrite(b"%d" % number, 1000)) for _ in range(3)]
        await asyncio.sleep(0)
        await file.close()
        other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
        await asyncio.gather(*calls)
        assert os.fstat(other).st_size == 0
        os.close(other)
