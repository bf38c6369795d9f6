"""What the tests of TLS share: a protocol that keeps what happened, and the other side.

The other side is a Peer: an OpenSSL object of its own between memory BIOs, over a plain socket, so that a test decides which bytes come
together and what never comes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiouring._tls import SSLTransport

Loop = asyncio.AbstractEventLoop

# Far more than both sockets' buffers hold.
MUCH = bytes(range(256)) * (32 * 1024)


class Recorder(asyncio.Protocol):
    """Keeps what happened, and futures for what a test waits for."""

    def __init__(self, loop: Loop) -> None:
        self.received = bytearray()
        self.events: list[str] = []
        self.made: asyncio.Future[SSLTransport] = loop.create_future()
        self.paused: asyncio.Future[None] = loop.create_future()
        self.resumed: asyncio.Future[None] = loop.create_future()
        self.eof: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.wanted: list[tuple[int, asyncio.Future[None]]] = []
        self.on_data: Callable[[], None] = lambda: None

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.events.append("data")
        self.received += data
        for size, future in self.wanted:
            if len(self.received) >= size and not future.done():
                future.set_result(None)
        self.on_data()

    async def bytes_received(self, size: int) -> None:
        if len(self.received) < size:
            future = asyncio.get_running_loop().create_future()
            self.wanted.append((size, future))
            await future

    def eof_received(self) -> None:
        self.events.append("eof")
        self.eof.set_result(None)

    def pause_writing(self) -> None:
        self.events.append("pause")
        if not self.paused.done():
            self.paused.set_result(None)

    def resume_writing(self) -> None:
        self.events.append("resume")
        if not self.resumed.done():
            self.resumed.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):  # type: ignore[misc]  # both kinds, told apart by class
    """Takes data into a buffer so small that each record fills it many times."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        Recorder.data_received(self, bytes(self.buffer[:nbytes]))


class Peer:
    """The other end, by hand."""

    def __init__(self, loop: Loop, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        sock.setblocking(False)
        self.loop = loop
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, None if server_side else "localhost")

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self.loop.sock_sendall(self.sock, self.outgoing.read())

    async def do(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """An operation of the SSL object, with what it needs from the other side."""
        while True:
            try:
                result = operation(*arguments)
            except ssl.SSLWantReadError:
                await self.flush()
                data = await self.loop.sock_recv(self.sock, 65536)
                if not data:
                    raise EOFError("the TCP stream ended") from None
                self.incoming.write(data)
            else:
                await self.flush()
                return result

    async def handshake(self) -> None:
        await self.do(self.tls.do_handshake)

    async def send(self, data: bytes) -> None:
        await self.do(self.tls.write, data)

    async def receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += await self.do(self.tls.read, size - len(data))
        return bytes(data)

    def begin_unwrap(self) -> None:
        """Put close_notify behind what is to be sent."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()

    async def tcp_ended(self) -> bool:
        """Read to the end of the TCP stream."""
        while data := await self.loop.sock_recv(self.sock, 65536):
            self.incoming.write(data)
        return True

    def close(self) -> None:
        self.sock.close()


async def client_of_peer(
    loop: Loop, protocol: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext, **options: Any
) -> tuple[SSLTransport, Peer]:
    """Our client, connected to a Peer that is the server."""
    ours, theirs = socket.socketpair()
    peer = Peer(loop, theirs, server_context, True)
    shaking = loop.create_task(peer.handshake())
    transport, _ = await loop.create_connection(lambda: protocol, sock=_as_stream(ours), ssl=client_context, server_hostname="localhost", **options)
    await shaking
    return transport, peer  # type: ignore[return-value]


def _as_stream(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


def run(loop: Loop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's coroutine; what never comes fails it instead of hanging it, a little before the run's own time-out would."""
    return loop.run_until_complete(asyncio.wait_for(coroutine, 110))
