"""TLS over real sockets: handshakes that fail, and start_tls."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
from typing import Any

import pytest

from aiouring._tls import SSLTransport
from aiouring.tls import SSLProtocol

from .tls_peer import MUCH, Loop, Peer, Recorder, run

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
