"""TLS over real sockets: both ways to end it, peers that vanish, flow control, contexts, and no leaks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import socket
import ssl
import struct
import weakref
from typing import Any

import pytest

from aiouring._tls import SSLTransport

from .tls_peer import MUCH, BufferedRecorder, Loop, Peer, Recorder, client_of_peer, run

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
