"""Streams over real connections: the same tests on asyncio's functions and on ours, over TCP, unix sockets and TLS, on our loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import os
import socket
import ssl
import struct
import warnings
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aiouring

MUCH = bytes(range(256)) * (32 * 1024)  # more than both sockets' buffers hold


@pytest.fixture(params=[asyncio, aiouring], ids=["asyncio", "aiouring"])
def streams(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["tcp", "unix", "tls"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


class Place:
    """Where a server listens, and how to get there."""

    def __init__(self, streams: Any, kind: str, folder: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
        self.streams = streams
        self.kind = kind
        self.path = str(folder / "s")
        self.server_options: dict[str, Any] = {"ssl": server_context} if kind == "tls" else {}
        self.client_options: dict[str, Any] = {"ssl": client_context, "server_hostname": "localhost"} if kind == "tls" else {}
        self.server: Any = None

    @contextlib.asynccontextmanager
    async def serve(self, handler: Any, **options: Any) -> AsyncIterator[Any]:
        options |= self.server_options
        before = open_descriptors()
        if self.kind == "unix":
            self.server = await self.streams.start_unix_server(handler, self.path, **options)
        else:
            self.server = await self.streams.start_server(handler, "127.0.0.1", 0, **options)
        async with self.server:
            yield self.server
        # Both ends of every connection, so that nothing of them is left to the loop's end.
        await turns_until(lambda: open_descriptors() <= before)

    def tells_of_handlers(self) -> bool:
        """asyncio's streams do since 3.11.5: the exception handler is told, and the connection is closed."""
        return self.streams is aiouring or "Unhandled exception in client_connected_cb" in inspect.getsource(asyncio.streams)

    async def connect(self, **options: Any) -> Any:
        options |= self.client_options
        if self.kind == "unix":
            return await self.streams.open_unix_connection(self.path, **options)
        return await self.streams.open_connection(*self.server.sockets[0].getsockname(), **options)


@pytest.fixture
def place(streams: Any, kind: str, tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Place:
    return Place(streams, kind, tmp_path, server_context, client_context)


@pytest.fixture
def plain(streams: Any, tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Place:
    return Place(streams, "tcp", tmp_path, server_context, client_context)


async def echo(reader: Any, writer: Any) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def ended(writer: Any) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.contextmanager
def reported() -> Any:
    """What the loop's exception handler is told."""
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        yield told
    finally:
        loop.set_exception_handler(before)


def reset(writer: Any) -> None:
    """End the connection with an RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def turns_until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


# -- data -------------------------------------------------------------------------------------------------------------------------------------


async def test_echo(place: Place) -> None:
    async with place.serve(echo):
        reader, writer = await place.connect()
        for size in (1, 10, 1000, 16384, 16385, 65536, 100_000):
            data = MUCH[:size]
            writer.write(data)
            await writer.drain()
            assert await reader.readexactly(size) == data
        writer.writelines([b"a", bytearray(b"b"), memoryview(b"c\n")])
        assert await reader.readline() == b"abc\n"
        await ended(writer)
        assert await reader.read() == b""


async def test_many_connections(place: Place) -> None:
    async with place.serve(echo):

        async def talk(number: int) -> None:
            reader, writer = await place.connect()
            for message in range(20):
                writer.write(line := f"{number} {message}\n".encode())
                await writer.drain()
                assert await reader.readline() == line
            await ended(writer)

        await asyncio.gather(*map(talk, range(20)))


async def test_much_data_both_ways(place: Place) -> None:
    """More than the sockets hold: both sides pause and go on, and every byte comes once."""
    async with place.serve(echo, limit=1000):
        reader, writer = await place.connect()

        async def send() -> None:
            for start in range(0, len(MUCH), 100_000):
                writer.write(MUCH[start : start + 100_000])
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

        sending = asyncio.ensure_future(send())
        assert await reader.readexactly(len(MUCH)) == MUCH
        await sending
        await ended(writer)


async def test_read_to_the_end(place: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        assert await reader.readline() == b"go\n"
        writer.write(MUCH)
        writer.close()
        await writer.wait_closed()

    async with place.serve(handler):
        reader, writer = await place.connect(limit=100)
        writer.write(b"go\n")
        assert await reader.read() == MUCH
        assert reader.at_eof()
        await ended(writer)


async def test_lines_of_a_megabyte(place: Place) -> None:
    line = b"x" * 2**20 + b"\n"
    async with place.serve(echo):
        reader, writer = await place.connect(limit=2**21)

        async def send() -> None:
            for _ in range(3):
                writer.write(line)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        for _ in range(3):
            assert await reader.readline() == line
        await sending
        await ended(writer)


@pytest.mark.parametrize("call", ["readline", "readuntil", "readexactly"])
async def test_peer_that_sends_byte_by_byte(place: Place, call: str) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        for byte in b"first\nsecond":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    arguments = (6,) if call == "readexactly" else ()
    async with place.serve(handler):
        reader, writer = await place.connect()
        assert await getattr(reader, call)(*arguments) == b"first\n"
        if call == "readline":
            assert await reader.readline() == b"second"
        elif call == "readexactly":
            assert await reader.readexactly(6) == b"second"
        else:
            with pytest.raises(asyncio.IncompleteReadError) as raised:
                await reader.readuntil()
            assert raised.value.partial == b"second"
        assert await reader.read(1) == b""
        await ended(writer)


async def test_cancelled_reads_over_a_connection_lose_nothing(place: Place) -> None:
    """Reads are cancelled at every moment of a stream: in each turn after the peer wrote."""
    async def handler(reader: Any, writer: Any) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with place.serve(handler):
        reader, writer = await place.connect()
        for call, arguments in (("read", (100,)), ("readline", ()), ("readuntil", ()), ("readexactly", (7,))):
            got = b""
            for turns in range(12):
                task = asyncio.ensure_future(getattr(reader, call)(*arguments))
                await asyncio.sleep(0)
                writer.write(b"%06d\n" % turns)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await task
            while len(got) < 12 * 7:
                got += await reader.read(100)
            assert got == b"".join(b"%06d\n" % turns for turns in range(12))
        await ended(writer)


# -- flow control and the end -----------------------------------------------------------------------------------------------------------------


async def test_drain_waits_for_the_peer(place: Place) -> None:
    go_on = asyncio.Event()

    async def handler(reader: Any, writer: Any) -> None:
        await go_on.wait()
        assert await reader.readexactly(2 * len(MUCH)) == MUCH * 2
        writer.write(b"all\n")
        await echo(reader, writer)

    async with place.serve(handler, limit=1000):
        reader, writer = await place.connect()
        await writer.drain()
        for _ in range(2):  # asyncio's TLS transport counts only what comes while the one below is full
            writer.write(MUCH)
        drains = [asyncio.ensure_future(writer.drain()) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(drain.done() for drain in drains)
        drains[1].cancel()
        await asyncio.wait([drains[1]])
        go_on.set()
        await asyncio.gather(drains[0], drains[2])
        assert drains[1].cancelled()
        assert await reader.readline() == b"all\n"
        await ended(writer)


async def test_slow_reader_pauses_its_transport(plain: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        writer.write(MUCH)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with plain.serve(handler):
        reader, writer = await plain.connect(limit=1000)
        await turns_until(lambda: not writer.transport.is_reading())
        assert len(reader._buffer) > 2000
        assert await reader.readexactly(len(MUCH)) == MUCH
        assert await reader.read() == b""
        await ended(writer)


async def test_drain_after_close(place: Place) -> None:
    async with place.serve(echo):
        reader, writer = await place.connect()
        writer.close()
        assert writer.is_closing()
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            while True:
                writer.write(b"x")
                await writer.drain()
        await ended(writer)


async def test_connection_lost_while_drain_waits(plain: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        await reader.readexactly(1)
        reset(writer)

    async with plain.serve(handler, limit=1000):
        reader, writer = await plain.connect()
        writer.write(MUCH * 4)
        with pytest.raises(ConnectionError):
            await writer.drain()
        assert isinstance(reader.exception(), ConnectionError)
        with pytest.raises(ConnectionError) as raised:
            await writer.drain()
        assert raised.value is reader.exception()
        with pytest.raises(ConnectionError):
            await writer.wait_closed()
        with pytest.raises(ConnectionError):
            await writer.wait_closed()


async def test_own_abort_while_drain_waits(plain: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with plain.serve(handler):
        reader, writer = await plain.connect()
        reader_task = asyncio.ensure_future(reader.read())
        writer.transport.pause_reading()
        writer.write(MUCH * 8)
        drain = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        writer.transport.abort()
        await drain
        assert await reader_task == b""
        await writer.wait_closed()


async def test_reset_wakes_the_reader(plain: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        await reader.readline()
        reset(writer)

    async with plain.serve(handler):
        for call, arguments in (("read", (5,)), ("read", ()), ("readline", ()), ("readuntil", ()), ("readexactly", (5,))):
            reader, writer = await plain.connect()
            task = asyncio.ensure_future(getattr(reader, call)(*arguments))
            writer.write(b"\n")
            with pytest.raises(ConnectionResetError):
                await task
            with pytest.raises(ConnectionResetError):
                await getattr(reader, call)(*arguments)
            await ended(writer)


async def test_half_close(plain: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        assert await reader.read() == b"question"
        assert reader.at_eof()
        writer.write(b"answer")
        await writer.drain()
        writer.close()

    async with plain.serve(handler):
        reader, writer = await plain.connect()
        assert writer.can_write_eof()
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read() == b"answer"
        await ended(writer)


async def test_wait_closed(place: Place) -> None:
    async with place.serve(echo):
        reader, writer = await place.connect()
        waiters = [asyncio.ensure_future(writer.wait_closed()) for _ in range(2)]
        await asyncio.sleep(0)
        writer.close()
        await asyncio.gather(*waiters)
        await writer.wait_closed()
        assert await reader.read() == b""


async def test_writes_after_the_end(place: Place) -> None:
    async with place.serve(echo):
        reader, writer = await place.connect()
        with pytest.raises(TypeError):
            writer.write("text")
        await ended(writer)
        writer.write(b"x")
        writer.writelines([b"x"])
        assert await reader.read(1) == b""


# -- servers --------------------------------------------------------------------------------------------------------------------------------


async def test_plain_function_as_handler(place: Place) -> None:
    made: list[Any] = []
    async with place.serve(lambda reader, writer: made.append((reader, writer))):
        reader, writer = await place.connect()
        writer.write(b"hello\n")
        await turns_until(lambda: made)
        (server_reader, server_writer), = made
        assert await server_reader.readline() == b"hello\n"
        server_writer.close()
        assert await reader.read() == b""
        await ended(writer)


async def test_handler_that_raises(place: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        if not place.tells_of_handlers():
            writer.close()
        raise ZeroDivisionError("handler")

    async with place.serve(handler):
        with reported() as told:
            reader, writer = await place.connect()
            assert await reader.read() == b""
            await ended(writer)
        if not place.tells_of_handlers():
            return
        context, = told
        assert context["message"] == "Unhandled exception in client_connected_cb"
        assert isinstance(context["exception"], ZeroDivisionError)
        assert isinstance(context["transport"], asyncio.Transport)


async def test_function_that_raises() -> None:
    made: list[Any] = []

    def handler(reader: Any, writer: Any) -> None:
        made.append(writer)
        raise ZeroDivisionError("handler")

    with reported() as told:
        before = open_descriptors()
        server = await aiouring.start_server(handler, "127.0.0.1", 0)
        async with server:
            reader, writer = await aiouring.open_connection(*server.sockets[0].getsockname())
            await turns_until(lambda: told)
            assert not made[0].is_closing()
            await ended(made[0])
            await ended(writer)
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        await turns_until(lambda: open_descriptors() <= before)


async def test_cancelled_handler_closes_its_connection() -> None:
    # As in asyncio since 3.13; before, its callback raised and the connection stayed.
    tasks: list[Any] = []

    async def handler(reader: Any, writer: Any) -> None:
        tasks.append(asyncio.current_task())
        await reader.read()

    server = await aiouring.start_server(handler, "127.0.0.1", 0)
    async with server:
        reader, writer = await aiouring.open_connection(*server.sockets[0].getsockname())
        await turns_until(lambda: tasks)
        tasks[0].cancel()
        assert await reader.read() == b""
        await ended(writer)


async def test_handlers_task_is_held(plain: Place) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        writer.write(await reader.readline())
        del reader
        writer.close()

    async with plain.serve(handler):
        reader, writer = await plain.connect()
        await asyncio.sleep(0.01)
        gc.collect()
        writer.write(b"still there\n")
        assert await reader.readline() == b"still there\n"
        await ended(writer)


async def test_handlers_context_is_the_connections(plain: Place) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def handler(reader: Any, writer: Any) -> None:
        before = variable.get()
        variable.set("handler")
        await reader.readline()
        seen.set_result([before, variable.get()])
        writer.close()

    variable.set("server")
    async with plain.serve(handler):
        reader, writer = await plain.connect()
        writer.write(b"\n")
        assert await seen == ["server", "handler"]
        assert variable.get() == "server"
        await ended(writer)


async def test_arguments_of_asyncio(plain: Place, tmp_path: Path) -> None:
    async def twice(reader: Any, writer: Any) -> None:
        assert reader._limit == 7
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = await plain.streams.start_server(twice, sock=sock, limit=7, backlog=3, start_serving=False)
        await server.start_serving()
        async with server:
            reader, writer = await plain.streams.open_connection("127.0.0.1", sock.getsockname()[1], family=socket.AF_INET)
            assert await reader.read() == b""
            await ended(writer)
    server = await plain.streams.start_unix_server(twice, path=tmp_path / "s", limit=7)
    async with server:
        reader, writer = await plain.streams.open_unix_connection(path=tmp_path / "s", limit=5)
        assert reader._limit == 5
        assert await reader.read() == b""
        await ended(writer)
    with pytest.raises(OSError):
        await plain.streams.open_unix_connection(tmp_path / "nobody")


async def test_extra_info(place: Place) -> None:
    async with place.serve(echo):
        reader, writer = await place.connect()
        assert writer.get_extra_info("socket") is writer.transport.get_extra_info("socket")
        assert writer.get_extra_info("nothing", "default") == "default"
        assert (writer.get_extra_info("sslcontext") is not None) == (place.kind == "tls")
        assert repr(writer).startswith("<StreamWriter transport=<")
        await ended(writer)


# -- start_tls ------------------------------------------------------------------------------------------------------------------------------


async def test_start_tls(plain: Place, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async def handler(reader: Any, writer: Any) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context)
        await echo(reader, writer)

    async with plain.serve(handler, limit=1000):
        reader, writer = await plain.connect(limit=1000)
        before = writer.transport
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        assert writer.transport is not before
        assert writer.get_extra_info("sslcontext") is client_context
        for size in (5, 100_000):
            writer.write(MUCH[:size])
            await writer.drain()
            assert await reader.readexactly(size) == MUCH[:size]
        await ended(writer)
        assert await reader.read() == b""


# -- with asyncio's protocol -------------------------------------------------------------------------------------------------------------------


async def test_reader_of_a_pipe(streams: Any) -> None:
    """As programs read a subprocess's output or stdin: asyncio's protocol takes any StreamReader."""
    loop = asyncio.get_running_loop()
    read_fd, write_fd = os.pipe()
    with open(write_fd, "wb", 0) as write_end:
        reader = streams.StreamReader(limit=1000)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), open(read_fd, "rb", 0))  # noqa: SIM115
        task = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        write_end.write(b"line\n" + b"x" * 5000)
        assert await task == b"line\n"
    assert await reader.read() == b"x" * 5000
    transport.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


# -- what is forgotten ------------------------------------------------------------------------------------------------------------------------


async def test_writer_that_is_forgotten_is_closed(plain: Place) -> None:
    async with plain.serve(echo):
        reader, writer = await plain.connect()
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        if not hasattr(asyncio.StreamWriter, "__del__"):
            writer.close()  # before 3.11.5 nobody notices, and ours does what the running Python's does
            return
        with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
            del writer
            gc.collect()
        assert await reader.read() == b""


async def test_handlers_writer_that_is_forgotten(plain: Place) -> None:
    """It closes the connection with a warning, except in a Python whose protocol holds it."""
    transports: list[Any] = []

    async def handler(reader: Any, writer: Any) -> None:
        transports.append(writer.transport)
        await reader.readline()
        asyncio.get_running_loop().call_soon(gc.collect)
        asyncio.get_running_loop().call_soon(over.set)

    over = asyncio.Event()
    async with plain.serve(handler):
        reader, writer = await plain.connect()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            writer.write(b"\n")
            await over.wait()
            await asyncio.sleep(0)
        if hasattr(asyncio.StreamReaderProtocol, "_replace_writer"):
            assert not warned
            assert not transports[0].is_closing()
            transports[0].close()
        else:
            assert str(warned[0].message).startswith("unclosed <StreamWriter")
        assert await reader.read() == b""
        await ended(writer)


async def test_connection_is_freed_without_the_collector() -> None:
    server = await aiouring.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await aiouring.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\nrest")
        assert await reader.readline() == b"line\n"
        await ended(writer)
        finalized: list[str] = []
        weakref.finalize(reader, finalized.append, "reader")
        weakref.finalize(writer, finalized.append, "writer")
        weakref.finalize(writer._protocol, finalized.append, "protocol")
        gc.disable()
        try:
            del reader, writer
            await turns_until(lambda: len(finalized) == 3)
        finally:
            gc.enable()


async def test_drain_as_a_coroutine(plain: Place) -> None:
    async with plain.serve(echo):
        reader, writer = await plain.connect()
        with pytest.warns(RuntimeWarning, match=r"coroutine 'StreamWriter\.drain' was never awaited"):
            writer.drain()
            gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            writer.drain().close()
        call = writer.drain()
        assert asyncio.iscoroutine(call)
        assert await asyncio.create_task(call) is None
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call
        first, second = writer.drain(), writer.drain()
        assert first is not second
        assert list(await asyncio.gather(first, second)) == [None, None]
        await asyncio.wait_for(writer.drain(), 60)
        with pytest.raises(ZeroDivisionError):
            writer.drain().throw(ZeroDivisionError)
        await ended(writer)


# -- on another loop ----------------------------------------------------------------------------------------------------------------------------


def test_on_asyncios_own_loop(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    """As after a fall-back."""
    async def main() -> None:
        for server_options, client_options in (
            ({}, {}), ({"ssl": server_context}, {"ssl": client_context, "server_hostname": "localhost"})
        ):  # fmt: skip
            server = await aiouring.start_server(echo, "127.0.0.1", 0, **server_options)
            async with server:
                reader, writer = await aiouring.open_connection(*server.sockets[0].getsockname(), **client_options)
                sending = asyncio.ensure_future(send(writer))
                assert await reader.readexactly(len(MUCH)) == MUCH
                await sending
                task = asyncio.ensure_future(reader.read(5))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                writer.write(b"line\n")
                assert await reader.readline() == b"line\n"
                await ended(writer)

    async def send(writer: Any) -> None:
        writer.write(MUCH)
        await writer.drain()

    asyncio.run(main())
