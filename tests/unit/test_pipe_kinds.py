"""Pipe transports over FIFOs, sockets and terminals, what is refused, and how a transport's life begins and ends."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import pty
import socket
import stat
import threading
import tty
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .pipes import Pipe, Reader, Writer, end_of, open_reader, open_writer, turns

# -- kinds of files --------------------------------------------------------------------------------------------------------------


def test_regular_files_are_refused(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def main() -> None:
        with path.open("r+b") as file:
            with pytest.raises(ValueError, match="Pipe transport is for pipes/sockets only"):
                await open_reader(file)
            with pytest.raises(ValueError, match="Pipe transport is only for pipes, sockets and character devices"):
                await open_writer(file)
            assert not file.closed

    loop.run_until_complete(main())
    gc.collect()


def test_fifo_waits_for_its_first_writer(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    """A read of a FIFO that nobody has opened for writing returns nothing, and that is not its end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        _, reader = await open_reader(end_of(fd, "rb"))
        await turns(10)
        assert reader.events == ["made"]
        with open(path, "wb", 0) as writer:
            writer.write(b"hello")
            await reader.received(5)
        assert await reader.lost is None
        assert reader.data == b"hello"
        assert reader.events == ["made", "eof", "lost"]

    loop.run_until_complete(main())


def test_fifo_of_one_transport_to_another(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        _, reader = await open_reader(end_of(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb"))
        transport, writer = await open_writer(end_of(path, "wb"))
        transport.write(bytes(200_000))
        transport.close()
        await reader.lost
        await writer.lost
        assert len(reader.data) == 200_000

    loop.run_until_complete(main())


def test_fifo_that_is_open_both_ways_survives_its_own_data(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        transport, writer = await open_writer(end_of(fd, "r+b"))
        transport.write(b"kept")
        await turns(5)
        assert not transport.is_closing()
        transport.close()
        await writer.lost

    loop.run_until_complete(main())


@pytest.mark.parametrize("mode", ["raw", "cooked"])
def test_terminal_both_ways(loop: asyncio.AbstractEventLoop, mode: str) -> None:
    async def main() -> None:
        ours, theirs = pty.openpty()
        if mode == "raw":
            tty.setraw(theirs)
        _, reader = await open_reader(end_of(os.dup(theirs), "rb"))
        transport, writer = await open_writer(end_of(theirs, "wb"))
        os.write(ours, b"typed\n")
        await reader.received(6)
        assert reader.data == b"typed\n"
        transport.write(b"shown")
        shown = b""
        while b"shown" not in shown:
            shown += await loop.run_in_executor(None, os.read, ours, 100)
        reader.transport.close()
        transport.close()
        await reader.lost
        await writer.lost
        os.close(ours)

    loop.run_until_complete(main())


def test_terminal_with_more_than_its_buffer_holds(loop: asyncio.AbstractEventLoop) -> None:
    """A full terminal answers EAGAIN to a write, and the transport waits until there is room."""

    async def main() -> None:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        transport, writer = await open_writer(end_of(theirs, "wb"))
        payload = bytes(range(256)) * 400
        transport.write(payload)
        transport.close()
        got = bytearray()
        while len(got) < len(payload):
            got += await loop.run_in_executor(None, os.read, ours, 65536)
        assert got == payload
        assert await writer.lost is None
        os.close(ours)

    loop.run_until_complete(main())


def test_terminal_hang_up_is_eio_and_not_reported(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        ours, theirs = pty.openpty()
        _, reader = await open_reader(end_of(ours, "rb"))
        await turns(3)
        os.close(theirs)
        exc = await reader.lost
        assert isinstance(exc, OSError)
        assert exc.errno == errno.EIO

    loop.run_until_complete(main())


def test_dev_null(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        transport, writer = await open_writer(end_of("/dev/null", "wb"))
        transport.write(bytes(100_000))
        transport.close()
        assert await writer.lost is None
        _, reader = await open_reader(end_of("/dev/null", "rb"))
        assert await reader.lost is None
        assert reader.events == ["made", "eof", "lost"]

    loop.run_until_complete(main())


def test_both_directions_of_a_socket(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        a, b = socket.socketpair()
        assert stat.S_ISSOCK(os.fstat(a.fileno()).st_mode)
        _, reader = await open_reader(a)
        transport, writer = await open_writer(b)
        transport.write(bytes(1_000_000))
        transport.close()
        await reader.lost
        await writer.lost
        assert len(reader.data) == 1_000_000

    loop.run_until_complete(main())


# -- life and death ----------------------------------------------------------------------------------------------------------------


def test_descriptors_become_nonblocking(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        _, reader = await open_reader(pipe[0])
        _, writer = await open_writer(pipe[1])
        assert not os.get_blocking(pipe[0].fileno())
        assert not os.get_blocking(pipe[1].fileno())
        writer.transport.close()
        await writer.lost
        await reader.lost

    loop.run_until_complete(main())


def test_repr(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        read_transport, reader = await open_reader(pipe[0])
        write_transport, writer = await open_writer(pipe[1])
        read_fd, write_fd = pipe[0].fileno(), pipe[1].fileno()
        await turns(2)
        assert repr(read_transport) == f"<ReadPipeTransport fd={read_fd} open>"
        assert repr(write_transport) == f"<WritePipeTransport fd={write_fd} open bufsize=0>"
        write_transport.close()
        assert repr(write_transport).startswith(f"<WritePipeTransport closing fd={write_fd}")
        await writer.lost
        await reader.lost
        await turns(1)
        assert repr(read_transport) == f"<ReadPipeTransport closed fd={read_fd} closed>"
        assert repr(write_transport) == f"<WritePipeTransport closed fd={write_fd} closed>"

    loop.run_until_complete(main())


@pytest.mark.parametrize("cancel_after", [0, 1, 2])
def test_cancelled_connect_closes_the_pipe(loop: asyncio.AbstractEventLoop, cancel_after: int) -> None:
    async def main() -> None:
        for connect, end in ((open_reader, 0), (open_writer, 1)):
            fds = os.pipe()
            files = end_of(fds[0], "rb"), end_of(fds[1], "wb")
            task = asyncio.ensure_future(connect(files[end]))
            await turns(cancel_after)
            task.cancel()
            try:
                transport, protocol = await task
            except asyncio.CancelledError:
                await turns(5)
                # Before its first step the task has not seen the pipe.
                assert files[end].closed == (cancel_after > 0)
            else:
                transport.close()
                await protocol.lost  # type: ignore[attr-defined]
            for file in files:
                file.close()

    loop.run_until_complete(main())


def test_unclosed_transports_warn_and_close_their_pipe(descriptors: None) -> None:
    loop = aiouring.new_event_loop()
    read_fd, write_fd = os.pipe()
    files = end_of(read_fd, "rb"), end_of(write_fd, "wb")

    async def main() -> None:
        await open_reader(files[0])
        await open_writer(files[1])
        await turns(2)

    loop.run_until_complete(main())
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport") as caught:
        gc.collect()
    assert len(caught) == 2
    assert files[0].closed
    assert files[1].closed


def test_closing_after_the_loop_is_closed_is_the_error_of_asyncio(descriptors: None) -> None:
    loop = aiouring.new_event_loop()
    read_fd, write_fd = os.pipe()
    files = end_of(read_fd, "rb"), end_of(write_fd, "wb")

    async def main() -> asyncio.ReadTransport:
        transport, _ = await open_reader(files[0])
        await turns(2)
        return transport

    transport = loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    del transport
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        gc.collect()
    files[1].close()


def test_the_loop_moves_to_another_thread(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    """Reads, writes and the watch for the reader's end begin again on the new thread's ring."""
    extra_read, extra_write = os.pipe()

    async def start() -> tuple[Reader, Writer, Writer]:
        transport, writer = await open_writer(pipe[1])
        transport.write(bytes(500_000))
        _, idle = await open_writer(end_of(extra_write, "wb"))
        _, reader = await open_reader(end_of(os.dup(extra_read), "rb"))
        await turns(3)
        return reader, writer, idle

    reader, writer, idle = loop.run_until_complete(start())

    async def finish() -> None:
        _, other = await open_reader(pipe[0])
        writer.transport.close()
        assert await other.lost is None
        assert len(other.data) == 500_000
        assert await writer.lost is None
        reader.transport.close()
        await reader.lost
        os.close(extra_read)
        assert await idle.lost is None

    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(asyncio.wait_for(finish(), 20))
            loop.close()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert failures == []


def test_streams_over_pipes(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        stream = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe[0])
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe[1])
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        for number in range(1000):
            writer.write(b"line %d\n" % number)
            await writer.drain()
            if number % 100 == 99:
                for back in range(number - 99, number + 1):
                    assert await stream.readline() == b"line %d\n" % back
        writer.close()
        assert await stream.read() == b""
        await turns(2)

    loop.run_until_complete(main())


def test_slots_are_returned(loop: Any) -> None:
    async def main() -> None:
        before = loop.ring_stats()["slots_in_use"]
        for _ in range(50):
            fds = os.pipe()
            _, reader = await open_reader(end_of(fds[0], "rb"))
            _, writer = await open_writer(end_of(fds[1], "wb"))
            writer.transport.write(b"x")
            writer.transport.close()
            await reader.lost
            await writer.lost
        await turns(2)
        assert loop.ring_stats()["slots_in_use"] == before
        assert loop.ring_stats()["stale_cqes"] == 0

    loop.run_until_complete(main())
