"""Small sends that post no completion when all of it goes out at once: what they save, and that nothing is lost, doubled or late."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading

import pytest

import aiouring

from .sockets import Pair


class Recorder(asyncio.Protocol):
    """Keeps what comes, and what the transport says."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.received = bytearray()
        self.calls: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.resumed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def narrow_pair() -> Pair:
    """Two connected stream sockets with room for a few kilobytes."""
    left, right = socket.socketpair()
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setblocking(False)
    return left, right


async def connect(sock: socket.socket, kind: type[Recorder] = Recorder) -> Recorder:
    _, protocol = await asyncio.get_running_loop().create_connection(kind, sock=sock)
    return protocol


def receive(sock: socket.socket, count: int) -> bytes:
    sock.setblocking(True)
    pieces = b""
    while len(pieces) < count and (piece := sock.recv(count - len(pieces))):
        pieces += piece
    return pieces


def test_an_answer_costs_one_enter(loop, pair: Pair):
    """Without silence it is two: the send's completion ends the wait that begins with it."""
    left, right = pair
    messages = 300

    def ask() -> None:
        right.setblocking(True)
        for number in range(messages):
            right.sendall(struct.pack("I", number))
            assert struct.unpack("I", right.recv(4)) == (number,)

    async def main() -> None:
        protocol = await connect(left, Echo)
        before = loop.ring_stats()["enters"]
        await loop.run_in_executor(None, ask)
        assert loop.ring_stats()["enters"] - before < 1.3 * messages
        protocol.transport.close()
        await protocol.lost

    loop.run_until_complete(main())


def test_the_next_callback_finds_it_gone(loop, pair: Pair):
    async def main() -> None:
        protocol = await connect(pair[0])
        for size in (1, 1000, 64 * 1024):
            protocol.transport.write(b"x" * size)
            assert protocol.transport.get_write_buffer_size() == size
            await asyncio.sleep(0)
            assert await loop.run_in_executor(None, receive, pair[1], size) == b"x" * size
            assert protocol.transport.get_write_buffer_size() == 0
        assert protocol.calls == []
        protocol.transport.close()
        await protocol.lost

    loop.run_until_complete(main())


def test_a_socket_without_room_loses_and_doubles_nothing(loop, rng: random.Random):
    """Parts, refusals and waits in any order: the peer reads at its own pace while small writes go on."""

    async def main() -> None:
        left, right = narrow_pair()
        with right:
            protocol = await connect(left)
            written = bytearray()
            read = bytearray()
            for _ in range(2000):
                piece = rng.randbytes(rng.choice((1, 100, 3000, 20000)))
                protocol.transport.write(piece)
                written += piece
                if rng.random() < 0.7:
                    read += await loop.sock_recv(right, rng.randrange(1, 30000))
                if protocol.transport.get_write_buffer_size() > 200_000:
                    while len(read) < len(written) - 1000:
                        read += await loop.sock_recv(right, 65536)
            protocol.transport.close()
            while piece := await loop.sock_recv(right, 65536):
                read += piece
            assert read == written
            assert await protocol.lost is None
            assert protocol.calls[::2] == ["pause"] * len(protocol.calls[::2])
            assert protocol.calls[1::2] == ["resume"] * len(protocol.calls[1::2])

    loop.run_until_complete(main())


def test_a_sleeping_loop_hears_of_a_part(loop):
    """A send that found room for a part only ends the wait, and the rest follows when there is room."""
    data = bytes(range(256)) * 240

    async def main() -> None:
        left, right = narrow_pair()
        with right:
            protocol = await connect(left)
            protocol.transport.write(data)
            assert await loop.run_in_executor(None, receive, right, len(data)) == data
            protocol.transport.write(b"more")
            assert await loop.run_in_executor(None, receive, right, 4) == b"more"
            protocol.transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_a_broken_connection_is_told(loop, pair: Pair):
    async def main() -> None:
        protocol = await connect(pair[0])
        protocol.transport.pause_reading()  # so that only the send can tell
        pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair[1].close()
        protocol.transport.write(b"x")
        assert isinstance(await protocol.lost, ConnectionError)

    loop.run_until_complete(main())


@pytest.mark.parametrize("end", ["close", "write_eof", "abort"])
def test_an_end_right_behind_a_write(loop, pair: Pair, end: str):
    async def main() -> None:
        protocol = await connect(pair[0])
        protocol.transport.write(b"head")
        await asyncio.sleep(0)
        protocol.transport.write(b"last")
        getattr(protocol.transport, end)()
        assert await loop.run_in_executor(None, receive, pair[1], 100) == b"headlast"
        if end == "write_eof":
            pair[1].close()
        assert await protocol.lost is None

    loop.run_until_complete(main())


def test_a_writer_in_a_flush_does_not_wait(loop, server_context, client_context):
    """TLS writes at the end of the turn, into transports whose own flush may have been."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for number in range(200):
                assert await reader.readexactly(4) == struct.pack("I", number)
                writer.write(struct.pack("I", number))
                writer.transport.write(b"")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost")
        for number in range(200):
            writer.write(struct.pack("I", number))
            assert await reader.readexactly(4) == struct.pack("I", number)
        writer.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_more_pieces_than_one_send_takes(loop, pair: Pair):
    async def main() -> None:
        protocol = await connect(pair[0])
        pieces = [bytes([number % 256]) * 3 for number in range(1000)]
        protocol.transport.writelines(pieces)
        assert await loop.run_in_executor(None, receive, pair[1], 3000) == b"".join(pieces)
        protocol.transport.close()
        await protocol.lost

    loop.run_until_complete(main())


@pytest.mark.parametrize("turns", range(4))
def test_a_loop_that_moves_to_another_thread_sends_once(descriptors: None, pair: Pair, turns: int):
    loop = aiouring.new_event_loop()

    async def start() -> Recorder:
        protocol = await connect(pair[0])
        for _ in range(5):
            protocol.transport.write(b"first")
            await asyncio.sleep(0)
        protocol.transport.write(b"last")
        for _ in range(turns):
            await asyncio.sleep(0)
        return protocol

    async def finish(protocol: Recorder) -> None:
        protocol.transport.write(b"moved")
        protocol.transport.close()
        await protocol.lost

    protocol = loop.run_until_complete(start())
    other = threading.Thread(target=lambda: loop.run_until_complete(finish(protocol)))
    other.start()
    assert receive(pair[1], 1000) == b"first" * 5 + b"last" + b"moved"
    other.join()
    loop.close()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_between_the_enter_and_its_completions(loop, pair: Pair, stop: type[BaseException]):
    """What went out is known in the next run, and not sent again."""
    left, right = pair

    class Interrupting(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            raise stop

    async def start() -> Recorder:
        protocol = await connect(left, Interrupting)
        protocol.transport.write(b"one")
        return protocol

    protocol = loop.run_until_complete(start())
    right.send(b"two")
    with pytest.raises(stop):
        loop.run_forever()

    async def finish() -> None:
        protocol.transport.write(b"three")
        protocol.transport.close()
        await protocol.lost

    loop.run_until_complete(finish())
    assert receive(right, 100) == b"onetwothree"


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_a_loop_that_closes_right_after_ends_at_once(descriptors: None, pair: Pair):
    loop = aiouring.new_event_loop()

    async def main() -> Recorder:
        protocol = await connect(pair[0])
        protocol.transport.write(b"x")
        await asyncio.sleep(0)
        protocol.transport.write(b"y")
        return protocol

    protocol = loop.run_until_complete(main())
    begin = loop.time()
    loop.close()
    assert loop.time() - begin < 2.0  # a request that never answers would hold it for five seconds
    assert loop.ring_stats()["slots_in_use"] == 0
    assert receive(pair[1], 2) == b"xy"
    del protocol


def test_a_child_sends_nothing_of_its_parent(loop, pair: Pair):
    async def main() -> None:
        protocol = await connect(pair[0])
        protocol.transport.write(b"parent")
        child = os.fork()
        if child == 0:
            try:
                protocol.transport.write(b"child")
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        protocol.transport.close()
        assert await loop.run_in_executor(None, receive, pair[1], 100) == b"parent"
        await protocol.lost

    loop.run_until_complete(main())
