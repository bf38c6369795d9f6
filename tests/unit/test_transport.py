"""What the three kinds of transports have from their common base: the same behaviour of water marks, contexts, errors and the end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .sockets import Pair

PIECE = bytes(1000)
PIECES = 500        # more than a unix socket takes without a reader

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


class Recorder(asyncio.Protocol, asyncio.DatagramProtocol):
    """Keeps the calls of flow control, and the context that each one ran in."""

    transport: Any

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.changed = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def note(self, call: str) -> None:
        self.calls.append((call, variable.get()))
        self.changed.set()

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    async def until(self, count: int) -> None:
        while len(self.calls) < count:
            self.changed.clear()
            await self.changed.wait()

    def connection_lost(self, exc: BaseException | None) -> None:
        assert exc is None
        self.lost.set()


async def open_stream(factory: Callable[[], Recorder], sock: socket.socket) -> Any:
    transport, _ = await asyncio.get_running_loop().create_connection(factory, sock=sock)
    return transport, transport.write


async def open_datagram(factory: Callable[[], Recorder], sock: socket.socket) -> Any:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(factory, sock=sock)
    return transport, transport.sendto


async def open_pipe(factory: Callable[[], Recorder], sock: socket.socket) -> Any:
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(factory, sock)
    return transport, transport.write


KINDS = [
    pytest.param((open_stream, socket.SOCK_STREAM), id="stream"),
    pytest.param((open_datagram, socket.SOCK_DGRAM), id="datagram"),
    pytest.param((open_pipe, socket.SOCK_STREAM), id="pipe"),
]
Open = Callable[[Callable[[], Recorder], socket.socket], Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, descriptors: None) -> Iterator[tuple[Open, Pair]]:
    """How to open a transport, and what to open it on: its socket and the other end."""
    opener, sort = request.param
    left, right = socket.socketpair(socket.AF_UNIX, sort)
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield opener, (left, right)


async def drain(sock: socket.socket, count: int) -> None:
    loop = asyncio.get_running_loop()
    while count > 0:
        count -= len(await loop.sock_recv(sock, 65536))
    assert count == 0


async def test_pause_and_resume_run_in_the_transports_context(kind: tuple[Open, Pair]) -> None:
    opener, (left, right) = kind
    variable.set("created")
    transport, write = await opener(Recorder, left)
    protocol = transport.get_protocol()
    variable.set("later")
    transport.set_write_buffer_limits(high=1500, low=0)
    write(PIECE)
    assert protocol.calls == []
    for _ in range(PIECES):
        write(PIECE)
    assert protocol.calls == [("pause", "created")]
    await drain(right, len(PIECE) * (PIECES + 1))
    await protocol.until(2)
    assert protocol.calls == [("pause", "created"), ("resume", "created")]
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost.wait()


async def test_a_protocol_that_is_replaced_while_it_is_paused_is_let_go(kind: tuple[Open, Pair]) -> None:
    opener, (left, right) = kind
    transport, write = await opener(Recorder, left)
    first, second = transport.get_protocol(), Recorder()
    transport.set_write_buffer_limits(high=1500)
    for _ in range(PIECES):
        write(PIECE)
    transport.set_protocol(second)
    write(PIECE)
    assert [call for call, _ in first.calls] == ["pause", "resume"]
    assert [call for call, _ in second.calls] == ["pause"]
    await drain(right, len(PIECE) * (PIECES + 1))
    await second.until(2)
    assert [call for call, _ in first.calls + second.calls] == ["pause", "resume"] * 2
    transport.close()
    await second.lost.wait()


async def test_lower_limits_pause_at_once_and_wrong_ones_change_nothing(kind: tuple[Open, Pair]) -> None:
    opener, (left, right) = kind
    transport, write = await opener(Recorder, left)
    protocol = transport.get_protocol()
    write(PIECE)
    with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\)"):
        transport.set_write_buffer_limits(high=1, low=2)
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    assert [call for call, _ in protocol.calls] == ["pause"]
    await protocol.until(2)
    await drain(right, len(PIECE))
    transport.close()
    await protocol.lost.wait()


async def test_exceptions_of_flow_control_are_reported_and_end_nothing(kind: tuple[Open, Pair]) -> None:
    class Failing(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            raise ZeroDivisionError

        def resume_writing(self) -> None:
            super().resume_writing()
            raise ZeroDivisionError

    opener, (left, right) = kind
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    transport, write = await opener(Failing, left)
    protocol = transport.get_protocol()
    transport.set_write_buffer_limits(high=0)
    write(PIECE)
    await protocol.until(2)
    write(PIECE)
    await protocol.until(4)
    await drain(right, 2 * len(PIECE))
    assert [context["message"] for context in reported] == ["protocol.pause_writing() failed", "protocol.resume_writing() failed"] * 2
    assert all(context["transport"] is transport and context["protocol"] is protocol for context in reported)
    assert all(isinstance(context["exception"], ZeroDivisionError) for context in reported)
    assert not transport.is_closing()
    transport.close()
    await protocol.lost.wait()


async def test_the_end_closes_the_descriptor_and_lets_the_protocol_go(kind: tuple[Open, Pair]) -> None:
    opener, (left, _) = kind
    fd = left.fileno()
    transport, _ = await opener(Recorder, left)
    protocol = transport.get_protocol()
    assert f" fd={fd} " in repr(transport)
    transport.close()
    transport.close()
    assert transport.is_closing()
    assert f" closing fd={fd} " in repr(transport)
    await protocol.lost.wait()
    assert left.fileno() == -1
    assert transport.get_protocol() is None
    assert f" closed fd={fd}" in repr(transport)
    transport.set_write_buffer_limits(high=0)       # of no effect any more, and no error


async def test_a_transport_that_is_dropped_warns_and_closes_its_descriptor(kind: tuple[Open, Pair]) -> None:
    """Nothing but a cycle holds a transport without a request in flight: a loop that is closed leaves those."""
    opener, (left, _) = kind

    def run() -> None:
        loop = type(here)()
        loop.run_until_complete(opener(Recorder, left))
        loop.close()

    here = asyncio.get_running_loop()
    await asyncio.to_thread(run)
    with pytest.warns(ResourceWarning, match=r"unclosed transport <\w+ fd="):
        gc.collect()
    assert left.fileno() == -1
