"""Pipe transports over real pipes: order, back-pressure, ends and breaks."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import socket
import threading
from typing import Any

import pytest

import aiouring

from .pipes import Pipe, Reader, end_of, open_reader, open_writer, turns

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


def test_abort_after_many_small_writes_loses_none(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    async def main() -> None:
        transport, writer = await open_writer(pipe[1])
        for number in range(1000):
            transport.write(b"%04d" % number)
        transport.abort()
        assert await writer.lost is None
        assert pipe[0].read(5000) == b"".join(b"%04d" % number for number in range(1000))

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
