"""Pipe transports over real pipes, FIFOs, sockets and terminals: order, back-pressure, ends, breaks, and what is refused."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import os
import pty
import random
import socket
import stat
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import aiouring


class Reader(asyncio.Protocol):
    """Keeps what comes, and futures for what a test waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.data = bytearray()
        self.events: list[str] = []
        self.sizes: list[int] = []
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.wanted: list[tuple[int, asyncio.Future[None]]] = []
        self.on_data: Callable[[bytes], None] = lambda data: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.data += data
        self.sizes.append(len(data))
        for size, future in self.wanted:
            if len(self.data) >= size and not future.done():
                future.set_result(None)
        self.on_data(data)

    async def received(self, size: int) -> None:
        if len(self.data) < size:
            future = self.loop.create_future()
            self.wanted.append((size, future))
            await future

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class Writer(asyncio.BaseProtocol):
    transport: asyncio.WriteTransport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.resumed: asyncio.Future[None] = loop.create_future()
        self.paused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        if not self.resumed.done():
            self.resumed.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def end_of(file: int | str | Path, mode: str) -> IO[bytes]:
    """An unbuffered file object that a transport shall close."""
    return open(file, mode, 0)


async def open_reader(pipe: Any) -> tuple[asyncio.ReadTransport, Reader]:
    loop = asyncio.get_running_loop()
    return await loop.connect_read_pipe(lambda: Reader(loop), pipe)


async def open_writer(pipe: Any) -> tuple[asyncio.WriteTransport, Writer]:
    loop = asyncio.get_running_loop()
    return await loop.connect_write_pipe(lambda: Writer(loop), pipe)


@pytest.fixture
def pipe(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Both ends as unbuffered file objects; a test may close them."""
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb", 0) as read_end, end_of(write_fd, "wb") as write_end:
        yield read_end, write_end


Pipe = tuple[IO[bytes], IO[bytes]]

# -- reading -------------------------------------------------------------------------------------------------------------------


def test_read_then_end(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        assert isinstance(transport, asyncio.ReadTransport)
        assert transport.get_extra_info("pipe") is pipe[0]
        assert transport.get_protocol() is reader
        assert transport.is_reading()
        os.write(pipe[1].fileno(), b"one")
        await reader.received(3)
        os.write(pipe[1].fileno(), b"two")
        pipe[1].close()
        assert await reader.lost is None
        assert reader.data == b"onetwo"
        assert reader.events == ["made", "eof", "lost"]
        assert pipe[0].closed
        assert transport.is_closing()
        assert not transport.is_reading()

    loop.run_until_complete(main())


def test_all_that_was_written_before_the_end_is_read(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        payload = os.urandom(65536)
        os.write(pipe[1].fileno(), payload)
        pipe[1].close()
        _, reader = await open_reader(pipe[0])
        assert await reader.lost is None
        assert bytes(reader.data) == payload

    loop.run_until_complete(main())


def test_one_read_takes_all_that_a_pipe_holds(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        os.write(pipe[1].fileno(), bytes(60000))
        _, reader = await open_reader(pipe[0])
        await reader.received(60000)
        assert reader.sizes == [60000]
        reader.transport.close()
        assert await reader.lost is None

    loop.run_until_complete(main())


def test_pause_and_resume(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        os.write(pipe[1].fileno(), b"held back")
        await turns(5)
        assert reader.data == b""
        transport.resume_reading()
        transport.resume_reading()
        await reader.received(9)
        assert reader.data == b"held back"
        transport.close()
        await reader.lost

    loop.run_until_complete(main())


def test_what_a_paused_transport_has_not_read_stays_in_the_pipe(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    """The pipe may be handed on, as a terminal is to a child."""

    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        await turns(3)
        transport.pause_reading()
        await turns(3)
        os.write(pipe[1].fileno(), b"for somebody else")
        await turns(3)
        assert os.read(pipe[0].fileno(), 100) == b"for somebody else"
        transport.close()
        await reader.lost

    loop.run_until_complete(main())


def test_pausing_in_data_received_loses_nothing(loop: asyncio.AbstractEventLoop, pipe: Pipe, rng: random.Random) -> None:
    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        payload = rng.randbytes(500_000)

        def pause_a_moment(data: bytes) -> None:
            transport.pause_reading()
            loop.call_soon(transport.resume_reading)
            if rng.random() < 0.5:
                transport.resume_reading()

        reader.on_data = pause_a_moment

        def write_all() -> None:
            with pipe[1] as write_end:
                view = memoryview(payload)
                while view:
                    view = view[write_end.write(view[: rng.randrange(1, 70000)]) :]

        thread = threading.Thread(target=write_all)
        thread.start()
        assert await reader.lost is None
        thread.join()
        assert bytes(reader.data) == payload

    loop.run_until_complete(main())


def test_pause_and_resume_in_one_turn_with_data_on_its_way(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        for number in range(100):
            os.write(pipe[1].fileno(), b"%03d" % number)
            transport.pause_reading()
            if number % 3:
                await turns(number % 3)
            transport.resume_reading()
        await reader.received(300)
        assert reader.data == b"".join(b"%03d" % number for number in range(100))
        transport.close()
        await reader.lost

    loop.run_until_complete(main())


def test_end_while_paused_is_told_after_resuming(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        transport.pause_reading()
        pipe[1].close()
        await turns(5)
        assert reader.events == ["made"]
        transport.resume_reading()
        assert await reader.lost is None
        assert reader.events == ["made", "eof", "lost"]

    loop.run_until_complete(main())


def test_close_while_a_read_is_in_flight(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        await turns(3)
        transport.close()
        transport.close()
        os.fstat(pipe[0].fileno())  # still open: the read has not ended yet
        assert await reader.lost is None
        assert reader.events == ["made", "lost"]
        await turns(1)
        assert pipe[0].closed
        with pytest.raises(BrokenPipeError):
            os.write(pipe[1].fileno(), b"x")  # nothing keeps the reading end open

    loop.run_until_complete(main())


def test_exception_in_data_received_is_reported_and_reading_goes_on(descriptors: None) -> None:
    loop = aiouring.new_event_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    read_fd, write_fd = os.pipe()

    async def main() -> None:
        transport, reader = await open_reader(end_of(read_fd, "rb"))

        def fail(data: bytes) -> None:
            reader.on_data = lambda data: None
            raise ZeroDivisionError

        reader.on_data = fail
        os.write(write_fd, b"x")
        await reader.received(1)
        os.write(write_fd, b"y")
        await reader.received(2)
        transport.close()
        await reader.lost

    loop.run_until_complete(main())
    loop.close()
    os.close(write_fd)
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


def test_keyboard_interrupt_in_data_received_passes_through(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    transport, reader = loop.run_until_complete(open_reader(pipe[0]))

    def interrupt(data: bytes) -> None:
        reader.on_data = lambda data: None
        raise KeyboardInterrupt

    reader.on_data = interrupt
    os.write(pipe[1].fileno(), b"x")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    os.write(pipe[1].fileno(), b"y")
    loop.run_until_complete(reader.received(2))
    transport.close()
    loop.run_until_complete(reader.lost)


def test_callbacks_run_in_the_context_of_creation(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    async def create() -> Reader:
        variable.set("inside")
        _, reader = await open_reader(pipe[0])
        reader.on_data = lambda data: seen.append(variable.get())
        return reader

    async def main() -> None:
        reader = await asyncio.create_task(create())
        os.write(pipe[1].fileno(), b"x")
        await reader.received(1)
        reader.transport.close()
        await reader.lost

    loop.run_until_complete(main())
    assert seen == ["inside"]


def test_protocol_can_be_replaced(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, first = await open_reader(pipe[0])
        second = Reader(loop)
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        os.write(pipe[1].fileno(), b"x")
        await second.received(1)
        assert first.data == b""
        transport.close()
        assert await second.lost is None

    loop.run_until_complete(main())


def test_read_error_is_fatal_and_reported(descriptors: None) -> None:
    loop = aiouring.new_event_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()

    async def main() -> None:
        _, reader = await open_reader(server)
        await turns(2)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert isinstance(await reader.lost, ConnectionResetError)

    loop.run_until_complete(main())
    loop.close()
    assert [context["message"] for context in reported] == ["Fatal read error on pipe transport"]


# -- writing -------------------------------------------------------------------------------------------------------------------


def test_write_and_close_flushes(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport.get_extra_info("pipe") is pipe[1]
        assert transport.can_write_eof()
        transport.write(b"a")
        transport.write(bytearray(b"b"))
        transport.write(memoryview(b"c"))
        transport.write(b"")
        transport.writelines([b"d", b"e"])
        transport.close()
        assert transport.is_closing()
        assert await writer.lost is None
        await turns(1)
        assert pipe[1].closed
        assert pipe[0].read() == b"abcde"

    loop.run_until_complete(main())


def test_mutable_data_is_taken_as_it_was(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        buffer = bytearray(b"before")
        transport.write(buffer)
        buffer[:] = b"after!"
        transport.close()
        await writer.lost
        assert pipe[0].read() == b"before"

    loop.run_until_complete(main())


def test_many_pieces_keep_their_order(loop: asyncio.AbstractEventLoop, pipe: Pipe, rng: random.Random) -> None:
    """More pieces than one request takes, through a pipe that is full most of the time."""

    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        _, reader = await open_reader(pipe[0])
        sent = bytearray()
        for _ in range(1500):
            piece = rng.randbytes(rng.choice((1, 10, 1000, 5000)))
            sent += piece
            transport.write(piece)
            if rng.random() < 0.02:
                await turns(1)
        assert transport.get_write_buffer_size() > 0
        transport.write_eof()
        assert await writer.lost is None
        await reader.lost
        assert reader.data == sent

    loop.run_until_complete(main())


def test_one_piece_larger_than_the_pipe(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, _ = await open_writer(pipe[1])
        _, reader = await open_reader(pipe[0])
        payload = os.urandom(3_000_000)
        transport.write(payload)
        transport.close()
        await reader.lost
        assert bytes(reader.data) == payload

    loop.run_until_complete(main())


def test_back_pressure(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.write(bytes(300_000))
        assert writer.paused == 1
        await turns(5)
        assert not writer.resumed.done()
        assert 0 < transport.get_write_buffer_size() < 300_000
        _, reader = await open_reader(pipe[0])
        await writer.resumed
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await reader.lost
        assert len(reader.data) == 300_000

    loop.run_until_complete(main())


def test_write_buffer_limits(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")
        assert writer.paused == 1
        await writer.resumed
        transport.abort()
        assert await writer.lost is None

    loop.run_until_complete(main())


def test_reader_goes_away_while_nothing_is_written(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        await turns(2)
        pipe[0].close()
        assert await writer.lost is None
        assert transport.is_closing()
        transport.close()

    loop.run_until_complete(main())


def test_reader_goes_away_with_data_unread(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        transport.write(bytes(1_000_000))
        await turns(3)
        pipe[0].close()
        assert isinstance(await writer.lost, BrokenPipeError)
        assert transport.get_write_buffer_size() == 0

    loop.run_until_complete(main())


def test_reader_goes_away_after_write_eof(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        transport.write(bytes(1_000_000))
        transport.write_eof()
        transport.write_eof()
        await turns(3)
        assert not writer.lost.done()
        pipe[0].close()
        assert isinstance(await writer.lost, BrokenPipeError)

    loop.run_until_complete(main())


def test_writes_after_the_end_are_dropped_and_logged(loop: asyncio.AbstractEventLoop, pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        pipe[0].close()
        await writer.lost
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(8):
                transport.write(b"x")
        assert [record.getMessage() for record in caplog.records] == ["pipe closed by peer or os.write(pipe, data) raised exception."] * 3

    loop.run_until_complete(main())


@pytest.mark.parametrize("bad", ["text", 1, None])
def test_write_refuses_other_types(loop: asyncio.AbstractEventLoop, pipe: Pipe, bad: Any) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        with pytest.raises(AssertionError):
            transport.write(bad)
        transport.close()
        await writer.lost

    loop.run_until_complete(main())


def test_abort_drops_what_is_queued(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        transport.write(bytes(1_000_000))
        await turns(3)
        transport.abort()
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await writer.lost is None
        await turns(1)
        assert 0 < len(pipe[0].read()) < 1_000_000

    loop.run_until_complete(main())


def test_abort_keeps_what_the_pipe_takes(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    """As in asyncio, where write() hands it to the kernel at once."""

    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        transport.write(b"last words")
        transport.abort()
        assert await writer.lost is None
        await turns(1)
        assert pipe[0].read() == b"last words"

    loop.run_until_complete(main())


def test_write_between_two_runs_goes_out_at_once(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    transport, writer = loop.run_until_complete(open_writer(pipe[1]))
    for number in range(1000):
        transport.write(b"%04d" % number)
        assert transport.get_write_buffer_size() == 0
        assert os.read(pipe[0].fileno(), 100) == b"%04d" % number
    transport.write(bytes(200_000))
    assert writer.paused == 1
    assert len(os.read(pipe[0].fileno(), 200_000)) == 65536
    pipe[0].close()
    assert isinstance(loop.run_until_complete(writer.lost), BrokenPipeError)


def test_the_task_that_connected_runs_before_the_first_data(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    os.write(pipe[1].fileno(), b"waiting already")

    async def main() -> None:
        transport, reader = await open_reader(pipe[0])
        assert reader.data == b""
        transport.pause_reading()
        await turns(5)
        assert reader.data == b""
        transport.resume_reading()
        await reader.received(15)
        transport.close()
        await reader.lost

    loop.run_until_complete(main())


def test_socket_peer_closes(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        a, b = socket.socketpair()
        transport, writer = await open_writer(a)
        transport.write(b"x")
        assert await loop.run_in_executor(None, b.recv, 1) == b"x"
        b.close()
        assert await writer.lost is None

    loop.run_until_complete(main())


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


def test_abort_after_many_small_writes_loses_none(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        for number in range(1000):
            transport.write(b"%04d" % number)
        transport.abort()
        assert await writer.lost is None
        assert pipe[0].read(5000) == b"".join(b"%04d" % number for number in range(1000))

    loop.run_until_complete(main())
