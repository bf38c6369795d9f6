"""TLS over real sockets: both ways to end it, peers that vanish or talk nonsense, flow control, contexts, start_tls, and no leaks.

The other side is a Peer: an OpenSSL object of its own between memory BIOs, over a plain socket, so that a test decides which bytes come
together and what never comes.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import socket
import ssl
import struct
import subprocess
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from aiouring.tls import SSLProtocol, SSLTransport

Loop = asyncio.AbstractEventLoop

# Far more than both sockets' buffers hold.
MUCH = bytes(range(256)) * (32 * 1024)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost`, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


@pytest.fixture
def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def client_context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


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
    """Run a test's coroutine; what never comes fails it instead of hanging it."""
    return loop.run_until_complete(asyncio.wait_for(coroutine, 30))


@pytest.fixture(params=[Recorder, BufferedRecorder])
def recorder(loop: Loop, request: pytest.FixtureRequest) -> Recorder:
    made: Recorder = request.param(loop)
    return made


# -- the end of a connection ------------------------------------------------------------------------------------------------------------


def test_peer_ends_with_close_notify_behind_data(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        _, peer = await client_of_peer(loop, recorder, client_context, server_context)
        peer.tls.write(MUCH[:40_000])
        peer.begin_unwrap()
        await peer.flush()
        await peer.do(peer.tls.unwrap)  # our close_notify comes back
        assert await recorder.lost is None
        assert await peer.tcp_ended()
        assert recorder.received == MUCH[:40_000]
        assert recorder.events[-2:] == ["eof", "lost"]
        peer.close()

    run(loop, main())


def test_close_sends_what_was_written_then_close_notify(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.write(MUCH[:1_000_000])
        transport.write(MUCH[1_000_000:])
        assert transport.get_write_buffer_size() > 0  # the transport below has paused: close() has to wait for it
        transport.close()
        assert transport.is_closing()
        assert await peer.receive(len(MUCH)) == MUCH
        assert await peer.do(peer.tls.read, 1) == b""
        await peer.do(peer.tls.unwrap)
        assert await recorder.lost is None
        assert recorder.events[-2:] == ["eof", "lost"]
        peer.close()

    run(loop, main())


def test_data_after_close_is_discarded(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.close()
        await peer.send(MUCH[:100_000])
        assert await peer.do(peer.tls.read, 1) == b""
        await peer.do(peer.tls.unwrap)
        assert await recorder.lost is None
        assert recorder.received == b""
        peer.close()

    run(loop, main())


def test_data_on_hold_is_discarded_by_close(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.pause_reading()
        await peer.send(b"held")
        while not transport.get_read_buffer_size():
            await asyncio.sleep(0)
        transport.close()
        assert await peer.do(peer.tls.read, 1) == b""
        await peer.do(peer.tls.unwrap)
        assert await recorder.lost is None
        assert recorder.received == b""
        peer.close()

    run(loop, main())


def test_close_within_data_received(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        recorder.on_data = transport.close
        await peer.send(b"x" * 5000)
        assert await peer.do(peer.tls.read, 1) == b""
        await peer.do(peer.tls.unwrap)
        assert await recorder.lost is None
        assert recorder.events.count("data") == 1
        peer.close()

    run(loop, main())


def test_tcp_end_without_close_notify(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        _, peer = await client_of_peer(loop, recorder, client_context, server_context)
        await peer.send(b"y" * 5000)
        peer.close()
        assert await recorder.lost is None
        assert recorder.received == b"y" * 5000
        assert recorder.events[-2:] == ["eof", "lost"]

    run(loop, main())


def test_tcp_end_while_paused_waits_for_resume(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.pause_reading()
        await peer.send(b"z" * 5000)
        peer.close()
        while not transport._ssl_protocol.eof_from_peer:
            await asyncio.sleep(0)
        assert not recorder.received
        assert not recorder.lost.done()
        transport.resume_reading()
        assert await recorder.lost is None
        assert recorder.received == b"z" * 5000

    run(loop, main())


def test_close_after_tcp_end_while_paused(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.pause_reading()
        await peer.send(b"never seen")
        peer.close()
        while not transport._ssl_protocol.eof_from_peer:
            await asyncio.sleep(0)
        transport.close()
        assert await recorder.lost is None
        assert not recorder.received

    run(loop, main())


def test_reset_in_mid_stream(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        recorder = Recorder(loop)
        accepted: asyncio.Future[SSLTransport] = recorder.made
        server = await loop.create_server(lambda: recorder, "127.0.0.1", 0, ssl=server_context)
        sock = socket.create_connection(server.sockets[0].getsockname())
        peer = Peer(loop, sock, client_context, False)
        await peer.handshake()
        await accepted
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert isinstance(await recorder.lost, ConnectionResetError)
        assert "eof" not in recorder.events
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_record_that_was_tampered_with(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        _, peer = await client_of_peer(loop, recorder, client_context, server_context)
        peer.tls.write(b"hello")
        record = bytearray(peer.outgoing.read())
        record[-1] ^= 1
        await loop.sock_sendall(peer.sock, record)
        assert isinstance(await recorder.lost, ssl.SSLError)
        assert not recorder.received
        with pytest.raises(ssl.SSLError, match="(?i)bad.record.mac"):
            await peer.do(peer.tls.read, 1)  # the alert says what was wrong
        peer.close()

    run(loop, main())


def test_shutdown_times_out(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        recorder = Recorder(loop)
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context, ssl_shutdown_timeout=0.05)
        transport.close()
        error = await recorder.lost
        assert isinstance(error, TimeoutError)
        assert str(error) == "SSL shutdown timed out"
        peer.close()

    run(loop, main())


def test_abort_sends_no_close_notify(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.abort()
        assert transport.is_closing()
        assert await recorder.lost is None
        assert recorder.events == ["made", "lost"]
        with pytest.raises(EOFError):
            await peer.do(peer.tls.read, 1)
        transport.write(b"ignored")
        transport.close()
        transport.abort()
        assert transport.get_extra_info("sslcontext") is client_context
        peer.close()

    run(loop, main())


# -- handshakes that fail ---------------------------------------------------------------------------------------------------------------


def test_wrong_certificate_fails_both_sides(loop: Loop, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        peer = Peer(loop, theirs, server_context, True)
        shaking = loop.create_task(peer.handshake())
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(lambda: Recorder(loop), sock=ours, ssl=ssl.create_default_context(), server_hostname="localhost")
        with pytest.raises(ssl.SSLError, match="(?i)unknown.ca"):
            await shaking  # the alert says what was wrong
            await peer.do(peer.tls.read, 1)
        peer.close()

    run(loop, main())


def test_wrong_host_name(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        peer = Peer(loop, theirs, server_context, True)
        shaking = loop.create_task(peer.handshake())
        with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
            await loop.create_connection(lambda: Recorder(loop), sock=ours, ssl=client_context, server_hostname="elsewhere")
        await asyncio.wait([shaking])
        shaking.exception()
        peer.close()

    run(loop, main())


def test_garbage_instead_of_a_client_hello(loop: Loop, server_context: ssl.SSLContext) -> None:
    loop.set_debug(False)  # in debug mode asyncio's servers report a handshake that failed

    async def main() -> None:
        recorder = Recorder(loop)
        server = await loop.create_server(lambda: recorder, "127.0.0.1", 0, ssl=server_context)
        sock = socket.create_connection(server.sockets[0].getsockname())
        sock.setblocking(False)
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
        while await loop.sock_recv(sock, 4096):
            pass
        sock.close()
        server.close()
        await server.wait_closed()
        assert recorder.events == []

    run(loop, main())


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01"])
def test_peer_that_vanishes_in_the_handshake(loop: Loop, client_context: ssl.SSLContext, first: bytes) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)

        async def vanish() -> None:
            await loop.sock_recv(theirs, 65536)
            await loop.sock_sendall(theirs, first)
            theirs.close()

        vanishing = loop.create_task(vanish())
        with pytest.raises(ConnectionResetError):
            await loop.create_connection(lambda: Recorder(loop), sock=ours, ssl=client_context, server_hostname="localhost")
        await vanishing

    run(loop, main())


def test_handshake_times_out(loop: Loop, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with pytest.raises(ConnectionAbortedError, match=r"longer than 0.05 seconds"):
            await loop.create_connection(
                lambda: Recorder(loop), sock=ours, ssl=client_context, server_hostname="localhost", ssl_handshake_timeout=0.05
            )
        theirs.close()

    run(loop, main())


def test_cancelled_handshake_closes_the_connection(loop: Loop, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        recorder = Recorder(loop)
        connecting = loop.create_task(loop.create_connection(lambda: recorder, sock=ours, ssl=client_context, server_hostname="localhost"))
        assert await loop.sock_recv(theirs, 65536)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert await loop.sock_recv(theirs, 65536) == b""
        assert recorder.events == []
        theirs.close()

    run(loop, main())


def test_a_connection_lost_in_the_handshake_is_not_made(loop: Loop, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, plain = await loop.create_connection(lambda: Recorder(loop), sock=ours)
        upgrading = loop.create_task(loop.start_tls(transport, plain, client_context, server_hostname="localhost"))
        theirs.setblocking(False)
        assert await loop.sock_recv(theirs, 65536)
        transport.abort()
        with pytest.raises(ConnectionAbortedError):
            await upgrading
        theirs.close()

    run(loop, main())


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_time_outs_are_positive(loop: Loop, client_context: ssl.SSLContext, name: str) -> None:
    context = contextvars.copy_context()
    with pytest.raises(ValueError, match=f"{name} should be a positive number, got 0"):
        SSLProtocol(loop, Recorder(loop), client_context, None, context=context, **{name: 0})  # type: ignore[arg-type]


# -- flow control -----------------------------------------------------------------------------------------------------------------------


def test_large_write_pauses_and_resumes(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        # A first write makes the transport below pause, so the second has to wait in the TLS transport.
        transport.write(MUCH[:1_000_000])
        transport.write(MUCH[1_000_000:])
        assert recorder.paused.done()
        assert transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
        assert not recorder.resumed.done()
        assert await peer.receive(len(MUCH)) == MUCH
        await recorder.resumed
        assert transport.get_write_buffer_size() == 0
        transport.abort()
        await recorder.lost
        peer.close()

    run(loop, main())


def test_write_limit_of_zero_does_not_pause_an_empty_buffer(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        recorder = Recorder(loop)
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.set_write_buffer_limits(0)
        transport.write(b"taken at once by the transport below")
        assert "pause" not in recorder.events
        transport.abort()
        await recorder.lost
        peer.close()

    run(loop, main())


def test_paused_reading_holds_the_peer_back(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.pause_reading()
        assert not transport.is_reading()
        sending = loop.create_task(peer.send(MUCH))
        below = transport._ssl_protocol.transport
        while below.is_reading():
            await asyncio.sleep(0)
        assert not recorder.received
        assert not sending.done()
        transport.resume_reading()
        await recorder.bytes_received(len(MUCH))
        assert recorder.received == MUCH
        await sending
        transport.abort()
        await recorder.lost
        peer.close()

    run(loop, main())


def test_pausing_within_data_received_splits_what_is_there(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        recorder = BufferedRecorder(loop)
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        recorder.on_data = transport.pause_reading
        await peer.send(MUCH[:2500])
        for size in (1000, 2000, 2500):
            await recorder.bytes_received(size)
            assert len(recorder.received) == size
            assert not transport.is_reading()
            transport.resume_reading()
        assert recorder.received == MUCH[:2500]
        transport.abort()
        await recorder.lost
        peer.close()

    run(loop, main())


def test_pieces_of_all_kinds_arrive_in_order(loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        changing = bytearray(b"two ")
        transport.write(b"one ")
        transport.write(changing)
        changing[:] = b"!!!!"
        transport.write(memoryview(b"three "))
        transport.write(b"")
        transport.writelines([b"four", b"", bytearray(b" five")])
        with pytest.raises(TypeError, match="expecting a bytes-like instance, got str"):
            transport.write("six")  # type: ignore[arg-type]
        assert await peer.receive(23) == b"one two three four five"
        transport.abort()
        await recorder.lost
        peer.close()

    run(loop, main())


# -- contexts ---------------------------------------------------------------------------------------------------------------------------


def test_callbacks_run_in_the_context_of_the_transport(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")
    seen: dict[str, str] = {}

    class Watcher(Recorder):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name in ("data_received", "eof_received", "pause_writing", "resume_writing", "connection_made", "connection_lost"):

                def noting(*arguments: Any) -> Any:
                    seen[name] = where.get()
                    return value(*arguments)

                return noting
            return value

    async def main() -> None:
        recorder = Watcher(loop)
        where.set("made")
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        where.set("caller")
        transport.pause_reading()
        transport.write(MUCH[:1_000_000])
        transport.write(MUCH[1_000_000:])
        await recorder.paused
        await peer.receive(len(MUCH))
        await recorder.resumed
        await peer.send(b"data")
        while not transport.get_read_buffer_size():
            await asyncio.sleep(0)
        transport.resume_reading()
        await recorder.bytes_received(4)
        transport.close()
        await peer.do(peer.tls.unwrap)
        await recorder.lost
        peer.close()

    run(loop, main())
    names = ("data_received", "eof_received", "pause_writing", "resume_writing", "connection_made", "connection_lost")
    assert seen == dict.fromkeys(names, "made")


# -- start_tls --------------------------------------------------------------------------------------------------------------------------


def test_start_tls_over_tls(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        outer_done: asyncio.Future[None] = loop.create_future()
        served: asyncio.Future[bytes] = loop.create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                writer.write(await reader.readexactly(1))
                await writer.start_tls(server_context)
            served.set_result(await reader.read())
            writer.write(b"bye")
            writer.close()
            outer_done.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(2):
            writer.write(b"?")
            assert await reader.readexactly(1) == b"?"
            await writer.start_tls(client_context, server_hostname="localhost")
        transport: Any = writer.transport
        assert isinstance(transport, SSLTransport)
        assert isinstance(transport._ssl_protocol.transport, SSLTransport)
        assert writer.get_extra_info("cipher")
        assert writer.get_extra_info("peername") == (host, port)
        writer.write(MUCH)
        await writer.drain()
        writer.close()
        assert await served == MUCH
        await outer_done
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_start_tls_gives_the_transport_before_the_data(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        recorder = Recorder(loop)
        plain, _ = await loop.create_connection(lambda: recorder, sock=ours)
        peer = Peer(loop, theirs, client_context, False)

        async def upgrade() -> asyncio.Transport | None:
            transport = await loop.start_tls(plain, recorder, server_context, server_side=True)
            recorder.events.append("upgraded")
            return transport

        upgrading = loop.create_task(upgrade())
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.flush()
        while True:  # the end of the handshake and the first data go out together
            peer.incoming.write(await loop.sock_recv(theirs, 65536))
            try:
                peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                await peer.flush()
            else:
                break
        peer.tls.write(b"first")
        await peer.flush()
        transport = await upgrading
        await recorder.bytes_received(5)
        assert recorder.events == ["made", "upgraded", "data"]
        assert transport is not None
        transport.abort()
        await recorder.lost
        peer.close()

    run(loop, main())


def test_start_tls_refuses_what_is_no_context_and_no_transport(loop: Loop, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance of ssl.SSLContext, got None"):
            await loop.start_tls(asyncio.Transport(), Recorder(loop), None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"is not supported by start_tls\(\)"):
            await loop.start_tls(asyncio.Transport(), Recorder(loop), client_context)

    run(loop, main())


# -- leaks ------------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_500_connections(loop: Loop, client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    """Every transport and protocol is freed by reference counts alone, and no descriptor stays open."""

    class Echo(asyncio.Protocol):
        """The server's side; counts the connections that are over."""

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            alive.update((self, transport, transport._ssl_protocol, transport._ssl_protocol.transport))

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            self.transport.close()

        def connection_lost(self, exc: BaseException | None) -> None:
            over.append(exc)
            if len(over) == 501:
                all_over.set_result(None)

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    over: list[BaseException | None] = []
    all_over: asyncio.Future[None] = loop.create_future()

    async def one(address: tuple[str, int]) -> None:
        recorder = Recorder(loop)
        transport, _ = await loop.create_connection(lambda: recorder, *address, ssl=client_context, server_hostname="localhost")
        assert isinstance(transport, SSLTransport)
        alive.update((recorder, transport, transport._ssl_protocol, transport._ssl_protocol.transport))
        transport.write(b"ping")
        await recorder.bytes_received(4)
        assert await recorder.lost is None

    async def main() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        await one(address)
        descriptors = len(os.listdir("/proc/self/fd"))
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await asyncio.gather(*(one(address) for _ in range(10)))
            await all_over
        finally:
            gc.enable()
        server.close()
        await server.wait_closed()
        assert over == [None] * 501
        assert not list(alive)
        assert len(os.listdir("/proc/self/fd")) <= descriptors

    run(loop, main())
