"""A file's life beside its loop's: dropped without close, the loop closed, moved to another thread, forked; and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import warnings
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


class Buffer(bytearray):
    """With attributes, and weak references."""

    request: Any


@pytest.mark.parametrize("kind", ["preadv", "pwritev", "pread_into", "pwrite", "readinto", "recv_into", "sendall", "chain", "link"])
def test_a_buffer_that_knows_its_request_is_collected_with_it(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The loop was closed with the request in flight. A view that is in the collector's way is one that nobody gives back."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    loop = aiouring.new_event_loop()
    others: list[Any] = []

    async def begin(buffer: Buffer) -> None:
        if kind in ("chain", "link"):
            chain = aiouring.Chain()  # never submitted
            link = chain.read(0, buffer)
            buffer.request = chain if kind == "chain" else link
            return
        call: Any
        if kind in ("recv_into", "sendall"):
            ours, other = socket.socketpair()
            ours.setblocking(False)
            others.append(other)
            if kind == "sendall":
                with pytest.raises(BlockingIOError):
                    while True:
                        ours.send(bytes(10_000))
            running = asyncio.get_running_loop()
            call = running.sock_recv_into(ours, buffer) if kind == "recv_into" else running.sock_sendall(ours, buffer)
        elif kind == "readinto":
            end, other_end = os.pipe()
            others.append(open(other_end, "wb"))  # noqa: SIM115
            call = (await aiouring.open(end, "rb", 0)).readinto(buffer)
        else:
            file: Any = await aiouring.open(path, "r+b", 0)
            call = getattr(file, kind)([buffer] if kind.endswith("v") else buffer, 0)
        buffer.request = call
        call.send(None)  # what comes of it, no turn will tell

    buffer = Buffer(100)
    known = weakref.ref(buffer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop.run_until_complete(begin(buffer))
        loop.close()
        del buffer, loop, begin
        gc.collect()
        gc.collect()
    assert known() is None
    assert "exported buffers" not in capfd.readouterr().err
    for other in others:
        other.close()


@pytest.mark.parametrize("kind", ["advise", "allocate", "pread", "preadv", "pwritev"])
async def test_a_call_that_nobody_awaits_warns(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    async with aiouring.open(path, "r+b", 0) as file:
        arguments: dict[str, Any] = {"pread": (1, 0), "preadv": ([], 0), "pwritev": ([], 0), "allocate": (0, 1)}
        with pytest.warns(RuntimeWarning, match=rf"coroutine 'File\.{kind}' was never awaited"):
            getattr(file, kind)(*arguments.get(kind, ()))


async def test_a_call_on_a_socket_of_a_rare_kind_that_nobody_awaits_warns() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        sock.setblocking(False)
        with pytest.warns(RuntimeWarning, match=r"coroutine 'Loop\.sock_recvfrom' was never awaited"):
            asyncio.get_running_loop().sock_recvfrom(sock, 10)  # type: ignore[unused-coroutine]


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
