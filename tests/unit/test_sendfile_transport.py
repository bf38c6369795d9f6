"""loop.sendfile() through transports: the fall-back's flow control, its end, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import ssl
import struct
import threading
from typing import Any

import pytest

from .sockets import Pair

BLOCK = 16384


class Peer(asyncio.Protocol):
    """Notes what flow control and the end tell it."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def connect(sock: socket.socket) -> Peer:
    loop = asyncio.get_running_loop()
    transport, peer = await loop.create_connection(Peer, sock=sock)
    return peer


def read_all(sock: socket.socket) -> bytes:
    sock.setblocking(True)
    pieces = []
    while piece := sock.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (5, 3), (100, 3 * BLOCK + 1), (0, BLOCK)])
def test_what_is_no_real_file_is_read_in_the_executor(loop, pair: Pair, rng, offset: int, count: int | None):
    data = rng.randbytes(40 * BLOCK + 77)
    left, right = pair

    async def main() -> None:
        peer = await connect(left)
        file = io.BytesIO(data)
        reading = loop.run_in_executor(None, read_all, right)
        peer.transport.write(b"head")
        sent = await loop.sendfile(peer.transport, file, offset, count)
        expected = data[offset:][:count]
        assert sent == len(expected)
        assert file.tell() == offset + sent
        assert peer.transport.get_protocol() is peer
        assert peer.transport.is_reading()
        peer.transport.write(b"tail")
        peer.transport.close()
        assert await reading == b"head" + expected + b"tail"
        assert await peer.lost is None

    loop.run_until_complete(main())


def test_a_protocol_that_is_paused_goes_on_first_and_is_told_so(loop, pair: Pair, rng):
    data = rng.randbytes(10 * BLOCK)
    head = rng.randbytes(8 << 20)
    left, right = pair

    async def main() -> None:
        peer = await connect(left)
        peer.transport.write(head)
        assert peer.calls == ["pause"]
        sending = asyncio.ensure_future(loop.sendfile(peer.transport, io.BytesIO(data)))
        await asyncio.sleep(0)
        reading = loop.run_in_executor(None, read_all, right)
        assert await sending == len(data)
        assert peer.calls == ["pause", "resume"]
        peer.transport.close()
        assert await reading == head + data
        await peer.lost

    loop.run_until_complete(main())


def test_flow_control_bounds_what_waits(loop, pair: Pair, rng):
    data = rng.randbytes(64 << 20)
    left, right = pair

    class Watched(io.BytesIO):
        most_waiting = 0
        transport: Any

        def readinto(self, buffer) -> int:
            self.most_waiting = max(self.most_waiting, self.transport.get_write_buffer_size())
            return super().readinto(buffer)

    async def main() -> None:
        peer = await connect(left)
        peer.transport.set_write_buffer_limits(high=4 * BLOCK)
        file = Watched(data)
        file.transport = peer.transport
        reading = loop.run_in_executor(None, read_all, right)
        await loop.sendfile(peer.transport, file)
        assert file.most_waiting <= 6 * BLOCK
        assert "pause" not in peer.calls  # it was not the protocol's writing that paused
        peer.transport.close()
        assert await reading == data
        await peer.lost

    loop.run_until_complete(main())


def test_a_peer_that_resets_ends_it(loop, pair: Pair, rng):
    data = rng.randbytes(32 << 20)
    left, right = pair

    async def main() -> None:
        peer = await connect(left)
        file = io.BytesIO(data)
        sending = asyncio.ensure_future(loop.sendfile(peer.transport, file))
        await loop.sock_recv(right, 1)
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        with pytest.raises(ConnectionError):
            await sending
        assert isinstance(await peer.lost, ConnectionError)
        assert 0 < file.tell() < len(data)

    loop.run_until_complete(main())


def test_cancelled_it_gives_the_transport_back(loop, pair: Pair, rng):
    data = rng.randbytes(32 << 20)
    left, right = pair

    async def main() -> None:
        peer = await connect(left)
        sending = asyncio.ensure_future(loop.sendfile(peer.transport, io.BytesIO(data)))
        first = await loop.sock_recv(right, 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert peer.transport.get_protocol() is peer
        assert peer.transport.is_reading()
        reading = loop.run_in_executor(None, read_all, right)
        peer.transport.close()
        sent = first + await reading
        assert data.startswith(sent)
        await peer.lost

    loop.run_until_complete(main())


def test_through_tls(loop, tmp_path, rng, server_context: ssl.SSLContext, client_context: ssl.SSLContext):
    data = rng.randbytes(2 << 20)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with path.open("rb") as file:
            with pytest.raises(RuntimeError, match="fallback is disabled"):
                await loop.sendfile(writer.transport, file, fallback=False)
            assert await loop.sendfile(writer.transport, file, 7, 1 << 20) == 1 << 20
            assert file.tell() == 7 + (1 << 20)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost")
        assert await reader.read() == data[7 : 7 + (1 << 20)]
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_cancelled_while_it_waits_for_what_was_written_before(loop, pair: Pair, rng, tmp_path):
    """Native or not: the transport is as it was, and goes on."""
    head = rng.randbytes(8 << 20)
    left, right = pair
    path = tmp_path / "file"
    path.write_bytes(b"never sent")

    async def main() -> None:
        peer = await connect(left)
        peer.transport.write(head)
        for file in (path.open("rb"), io.BytesIO(b"never sent")):
            with file:
                sending = asyncio.ensure_future(loop.sendfile(peer.transport, file))
                await asyncio.sleep(0)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
            assert peer.transport.is_reading()
            peer.transport.write(b"tail")
            with pytest.raises(RuntimeError, match="used by transport"):
                await loop.sock_recv(left, 1)
        reading = loop.run_in_executor(None, read_all, right)
        peer.transport.close()
        assert await reading == head + b"tailtail"
        await peer.lost

    loop.run_until_complete(main())


@pytest.mark.parametrize("second_is_real", [True, False])
def test_two_files_at_a_time_are_refused_and_the_first_goes_on(loop, pair: Pair, rng, tmp_path, second_is_real: bool):
    head = rng.randbytes(8 << 20)
    left, right = pair
    path = tmp_path / "file"
    path.write_bytes(b"first")

    async def main() -> None:
        peer = await connect(left)
        peer.transport.write(head)
        with path.open("rb") as first, path.open("rb") if second_is_real else io.BytesIO(b"second") as second:
            sending = asyncio.ensure_future(loop.sendfile(peer.transport, first))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already set"):
                await loop.sendfile(peer.transport, second)
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                peer.transport.write(b"between")
            reading = loop.run_in_executor(None, read_all, right)
            assert await asyncio.wait_for(sending, 10) == 5
        assert peer.transport.is_reading()
        peer.transport.close()
        assert await reading == head + b"first"
        await peer.lost

    loop.run_until_complete(main())


def test_a_file_that_cannot_seek_back_gives_the_transport_back(loop, pair: Pair):
    """As in asyncio all is sent, and then its seek() raises."""
    left, right = pair

    class Forward(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            raise io.UnsupportedOperation("forward only")

    async def main() -> None:
        peer = await connect(left)
        with pytest.raises(io.UnsupportedOperation, match="forward only"):
            await loop.sendfile(peer.transport, Forward(b"all of it"))
        assert peer.transport.get_protocol() is peer
        assert peer.transport.is_reading()
        peer.transport.close()
        assert await loop.run_in_executor(None, read_all, right) == b"all of it"
        await peer.lost

    loop.run_until_complete(main())


def test_a_connection_that_is_lost_while_the_file_is_read_leaves_nothing_behind(loop, pair: Pair):
    """Nobody waits for room at that moment, and the transport has let go of its protocol for good."""
    left, right = pair
    reading, go_on = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        transport: Any

        def readinto(self, buffer) -> int:
            if self.transport._protocol_paused:
                reading.set()
                assert go_on.wait(10)
            return super().readinto(buffer)

    async def main() -> None:
        peer = await connect(left)
        file = Slow(bytes(32 << 20))
        file.transport = peer.transport
        sending = asyncio.ensure_future(loop.sendfile(peer.transport, file))
        await loop.run_in_executor(None, reading.wait, 10)
        peer.transport.abort()
        await peer.lost
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(ConnectionError):
            await sending
        assert peer.transport.get_protocol() is None
        del sending
        gc.collect()

    loop.run_until_complete(main())
