"""Large receives: what a protocol sees of them is what it sees of small ones, also when it pauses, raises, is replaced or gives odd buffers."""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from .sockets import Pair

MIB = 1 << 20
# Enough that the transport has changed over to large receives long before its end.
FLOOD = bytes(range(256)) * (2 * MIB // 256)


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest, descriptors: None) -> Iterator[Pair]:
    """Two connected stream sockets: one for a transport, the other one for the test."""
    if request.param == "unix":
        left, right = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            left = socket.create_connection(listener.getsockname())
            right, _ = listener.accept()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


class Collector:
    """What both kinds of protocols here do with their data: keep it, and tell who waits for its amount."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.awaited = 0
        self.enough = asyncio.Event()
        self.at_end = asyncio.Event()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def collect(self, data: bytes | memoryview) -> None:
        self.received += data
        if len(self.received) >= self.awaited:
            self.enough.set()

    async def until(self, count: int) -> None:
        self.awaited = count
        self.enough.clear()
        if len(self.received) < count:
            await self.enough.wait()

    def eof_received(self) -> None:
        self.at_end.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class Plain(Collector, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.collect(data)


class Buffered(Collector, asyncio.BufferedProtocol):
    size = 100_000

    def __init__(self) -> None:
        super().__init__()
        self.buffer: Any = bytearray(self.size)

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.collect(memoryview(self.buffer).cast("B")[:nbytes])


async def flooded(factory: Callable[[], Any], ends: Pair) -> tuple[Any, Any]:
    """A connection that has received FLOOD."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(factory, sock=ends[0])
    await loop.sock_sendall(ends[1], FLOOD)
    await protocol.until(len(FLOOD))
    return transport, protocol


async def closed(transport: Any, protocol: Any) -> None:
    transport.close()
    assert await protocol.lost is None


@pytest.mark.parametrize("kind", [Plain, Buffered])
async def test_what_arrives_is_what_was_sent_in_both_ways_of_receiving(kind: type[Any], ends: Pair) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await flooded(kind, ends)
    sent = FLOOD
    for piece in [b"x" * (1 + number) for number in range(60)] + [FLOOD]:       # small ones lead back, large ones forth
        await loop.sock_sendall(ends[1], piece)
        sent += piece
        await protocol.until(len(sent))
    ends[1].shutdown(socket.SHUT_WR)
    await protocol.at_end.wait()
    assert protocol.received == sent
    assert await protocol.lost is None


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize("where", ["data", "get_buffer"])
def test_an_interrupt_in_a_callback_does_not_end_the_receive(
    loop: asyncio.AbstractEventLoop, ends: Pair, kind: type[Any], where: str
) -> None:
    class Interrupted(kind):  # type: ignore[misc]
        armed = True

        def collect(self, data: Any) -> None:
            super().collect(data)
            if where == "data" and self.armed and len(self.received) >= len(FLOOD) // 2:
                self.armed = False
                raise KeyboardInterrupt

        def get_buffer(self, sizehint: int) -> Any:
            if where == "get_buffer" and self.armed and len(self.received) >= len(FLOOD) // 2:
                self.armed = False
                raise KeyboardInterrupt
            return super().get_buffer(sizehint)

    async def connect() -> Any:
        return (await loop.create_connection(Interrupted, sock=ends[0]))[1]

    if kind is Plain and where == "get_buffer":
        where = "data"
    protocol = loop.run_until_complete(connect())
    sending = loop.create_task(loop.sock_sendall(ends[1], FLOOD))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.wait_for(protocol.until(len(FLOOD)), 10))
    assert not protocol.armed
    loop.run_until_complete(asyncio.wait_for(protocol.until(len(FLOOD)), 10))
    loop.run_until_complete(sending)
    assert protocol.received == FLOOD
    loop.run_until_complete(closed(protocol.transport, protocol))


def test_an_interrupt_in_the_last_callback_does_not_keep_the_connection_from_its_end(
    loop: asyncio.AbstractEventLoop, ends: Pair
) -> None:
    class Aborting(Plain):
        def collect(self, data: Any) -> None:
            super().collect(data)
            if len(self.received) >= len(FLOOD) // 2 and not self.transport.is_closing():
                self.transport.abort()
                raise KeyboardInterrupt

    async def connect() -> Any:
        return (await loop.create_connection(Aborting, sock=ends[0]))[1]

    async def until_lost() -> None:
        assert await asyncio.wait_for(asyncio.shield(protocol.lost), 10) is None

    protocol = loop.run_until_complete(connect())
    sending = loop.create_task(loop.sock_sendall(ends[1], FLOOD))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(until_lost())
    loop.run_until_complete(until_lost())
    with contextlib.suppress(OSError):
        loop.run_until_complete(sending)


def test_an_end_that_was_interrupted_is_told_again(loop: asyncio.AbstractEventLoop, ends: Pair) -> None:
    class Interrupted(Plain):
        calls = 0

        def eof_received(self) -> None:
            self.calls += 1
            if self.calls == 1:
                raise KeyboardInterrupt

    async def connect() -> Any:
        return (await loop.create_connection(Interrupted, sock=ends[0]))[1]

    async def until_lost() -> None:
        assert await asyncio.wait_for(asyncio.shield(protocol.lost), 10) is None

    protocol = loop.run_until_complete(connect())
    ends[1].shutdown(socket.SHUT_WR)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(until_lost())
    loop.run_until_complete(until_lost())
    assert protocol.calls == 2


async def test_nothing_runs_between_get_buffer_and_buffer_updated(ends: Pair) -> None:
    """As in asyncio: a program may move within its buffer what it has not used yet, whenever it is not asked for that buffer."""

    class Moving(Collector, asyncio.BufferedProtocol):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = bytearray(600_000)
            self.filled = 0

        def get_buffer(self, sizehint: int) -> memoryview:
            return memoryview(self.buffer)[self.filled :]

        def buffer_updated(self, nbytes: int) -> None:
            self.filled += nbytes
            if self.filled > 300_000:
                self.consume(100_000)

        def consume(self, count: int) -> None:
            count = min(count, self.filled)
            self.collect(self.buffer[:count])
            self.buffer[: self.filled - count] = self.buffer[count : self.filled]
            self.filled -= count

    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Moving, sock=ends[0])

    async def consume() -> None:
        while len(protocol.received) < 4 * len(FLOOD):
            protocol.consume(7777)
            await asyncio.sleep(0)

    await asyncio.gather(loop.sock_sendall(ends[1], 4 * FLOOD), consume())
    assert protocol.received == 4 * FLOOD
    await closed(transport, protocol)


@pytest.mark.parametrize("shape", ["items", "two-dimensional"])
async def test_the_buffer_may_be_of_items_larger_than_a_byte(ends: Pair, shape: str) -> None:
    class Items(Buffered):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = array.array("I", bytes(100_000))
            if shape == "two-dimensional":
                self.buffer = memoryview(bytearray(100_000)).cast("B", (10, 10_000))

    transport, protocol = await flooded(Items, ends)
    assert protocol.received == FLOOD
    await closed(transport, protocol)


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (memoryview(bytearray(1000))[::-1], BufferError),
        (memoryview(bytearray(1000))[::2], BufferError),
        (b"x" * 1000, BufferError),
        (bytearray(), RuntimeError),
        (None, TypeError),
    ],
    ids=["backwards", "gaps", "readonly", "empty", "none"],
)
async def test_a_buffer_that_cannot_be_filled_ends_the_connection(ends: Pair, buffer: Any, error: type[Exception]) -> None:
    class Odd(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            return buffer if len(self.received) == len(FLOOD) else self.buffer

    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    transport, protocol = await flooded(Odd, ends)
    await loop.sock_sendall(ends[1], b"more")
    lost = await protocol.lost
    assert type(lost) is error
    assert [context["exception"] for context in reported] == [lost]
    assert protocol.received == FLOOD


async def test_a_protocol_that_is_replaced_in_get_buffer_loses_nothing(ends: Pair) -> None:
    class Leaving(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            if len(self.received) >= len(FLOOD) and self.transport.get_protocol() is self:
                self.transport.set_protocol(successor)
            return super().get_buffer(sizehint)

    loop = asyncio.get_running_loop()
    successor = Plain()
    transport, protocol = await flooded(Leaving, ends)
    await loop.sock_sendall(ends[1], FLOOD)
    await asyncio.wait_for(successor.until(len(FLOOD)), 10)
    assert protocol.received == successor.received == FLOOD
    await closed(transport, successor)


@pytest.mark.parametrize("limit", [sys.maxsize, 2**64, 1e6], ids=["maxsize", "2**64", "float"])
async def test_a_stream_readers_limit_may_be_any_number(ends: Pair, limit: Any) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=ends[0], limit=limit)
    pauses = mock.Mock()
    with mock.patch.object(reader, "_transport", mock.Mock(wraps=writer.transport, pause_reading=pauses)):
        await loop.sock_sendall(ends[1], b"x" * 100_000)
        assert await reader.readexactly(100_000) == b"x" * 100_000
    assert not pauses.called
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("whose", ["protocol", "reader", "class"])
async def test_what_a_program_puts_in_place_of_a_streams_methods_is_called(
    ends: Pair, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it does so once the connection is there."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=ends[0])
    await loop.sock_sendall(ends[1], b"first")
    assert await reader.readexactly(5) == b"first"
    seen: list[bytes] = []
    protocol: Any = writer.transport.get_protocol()
    replaced: Any = {"protocol": protocol, "reader": reader, "class": asyncio.StreamReader}[whose]
    name = "data_received" if whose == "protocol" else "feed_data"
    original = getattr(replaced, name)

    def replacement(*args: Any) -> None:
        seen.append(bytes(args[-1]))
        original(*args)

    monkeypatch.setattr(replaced, name, replacement)
    await loop.sock_sendall(ends[1], b"second")
    assert await reader.readexactly(6) == b"second"
    assert seen == [b"second"]
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_the_end_comes_also_to_connections_that_wait_by_polling(kind: type[Any], end: str) -> None:
    """More connections than may wait for large data with memory of their own; idle, then ended by their peers."""
    loop = asyncio.get_running_loop()
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(20):
            peer = socket.create_connection(listener.getsockname())
            peer.setblocking(False)
            connections.append((peer, (await flooded(kind, (listener.accept()[0], peer)))[1]))
    for peer, _ in connections:
        if end == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    for _, protocol in connections:
        assert type(await protocol.lost) is (ConnectionResetError if end == "reset" else type(None))
        assert protocol.received == FLOOD
        assert protocol.at_end.is_set() == (end == "close")
    assert loop.ring_stats()["slots_in_use"] == 1


def test_a_child_that_is_forked_in_a_callback_does_not_touch_the_parents_buffers() -> None:
    """It gets the loop's own error when it comes back; the parent goes on."""
    program = """if True:
        import asyncio, os, socket, aiouring

        class Forking(asyncio.BufferedProtocol):
            received, child = 0, None
            buffer = bytearray(1000)

            def get_buffer(self, sizehint):
                return self.buffer

            def buffer_updated(self, nbytes):
                self.received += nbytes
                if self.child is None:
                    self.child = os.fork()
                if self.received == 10000:
                    done.set_result(None)

        async def main():
            global done
            done = asyncio.get_running_loop().create_future()
            left, right = socket.socketpair()
            with right:
                left.setblocking(False)
                transport, protocol = await asyncio.get_running_loop().create_connection(Forking, sock=left)
                right.sendall(bytes(10000))
                await done
                transport.abort()
                print("child:", os.waitstatus_to_exitcode(os.waitpid(protocol.child, 0)[1]))

        aiouring.run(main())
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "child: 1\n"
    assert "belongs to the parent process" in result.stderr
