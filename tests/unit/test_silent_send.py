"""Small sends that post no completion when all of it goes out at once: what they save, and that nothing is lost, doubled or late."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable

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
def test_a_loop_that_closes_right_after_ends_at_once(descriptors: None, pair: Pair, caplog: pytest.LogCaptureFixture):
    loop = aiouring.new_event_loop()

    async def main() -> Recorder:
        protocol = await connect(pair[0])
        protocol.transport.write(b"x")
        await asyncio.sleep(0)
        protocol.transport.write(b"y")
        return protocol

    protocol = loop.run_until_complete(main())
    loop.close()
    assert "did not end within" not in caplog.text  # what it says after five seconds of waiting for a request that never answers
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


def receive_soon(sock: socket.socket, count: int) -> bytes:
    """What never comes shall fail a test and not hang it."""
    sock.settimeout(60)
    pieces = b""
    try:
        while len(pieces) < count and (piece := sock.recv(count - len(pieces))):
            pieces += piece
    except TimeoutError:
        pass
    return pieces


def receive_then_stop(loop, sock: socket.socket, count: int) -> tuple[threading.Thread, list[bytes]]:
    """Another thread, which stops the loop when it has received so much: nothing else wakes the loop meanwhile."""
    received: list[bytes] = []

    def receive_and_stop() -> None:
        received.append(receive_soon(sock, count))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=receive_and_stop)
    thread.start()
    return thread, received


def test_a_sleep_that_an_interrupt_ended_does_not_begin_again_before_all_is_known(loop, pair: Pair):
    """The send went out while the loop slept, and KeyboardInterrupt came before anybody looked; then more is written."""
    left, right = pair
    protocol = loop.run_until_complete(connect(left))
    main_thread = threading.get_ident()

    def interrupt() -> None:
        assert receive_soon(right, 1) == b"a"
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    loop.call_soon(protocol.transport.write, b"a")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()
    protocol.transport.write(b"b")
    thread, received = receive_then_stop(loop, right, 1)
    loop.run_forever()
    thread.join()
    assert received == [b"b"]
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)


def test_a_destructor_that_writes_while_the_loop_prepares_to_sleep(loop, pair: Pair):
    """The heap of timers drops what cancelled ones held after the turn's sends were queued."""
    left, right = pair
    protocol = loop.run_until_complete(connect(left))
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    class Value:
        def __del__(self) -> None:
            protocol.transport.write(b"b")

    def write() -> None:
        context = contextvars.Context()
        context.run(variable.set, Value())
        loop.call_later(1, print, context=context).cancel()
        protocol.transport.write(b"a")

    loop.call_later(0.001, write)  # a timer's callback, since nothing looks at the heap between it and the next wait
    thread, received = receive_then_stop(loop, right, 2)
    loop.run_forever()
    thread.join()
    assert received == [b"ab"]
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)


class Hooked(ssl.SSLObject):
    """A TLS connection that calls something when it encrypts, which is where the turn's requests are being queued."""

    hook: Callable[[], object] | None = None

    def write(self, data) -> int:
        hook, Hooked.hook = Hooked.hook, None
        if hook is not None:
            hook()
        return super().write(data)


@pytest.mark.parametrize("what", ["limits", "abort"])
def test_who_waits_for_a_send_that_was_queued_in_the_same_turn(loop, pair: Pair, server_context, client_context, what: str):
    """Nothing else ends the loop's sleep: the transport does not read, and the submission queue was emptied in between."""
    left, right = pair
    client_context.sslobject_class = Hooked
    mine, other = socket.socketpair()
    waiting: list[object] = []

    async def main() -> None:
        protocol = await connect(left)
        protocol.transport.pause_reading()
        secret, deaf = Recorder(), Recorder()
        server = await loop.create_server(lambda: deaf, "127.0.0.1", 0, ssl=server_context)
        tls, _ = await loop.create_connection(lambda: secret, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost")
        while not hasattr(deaf, "transport"):
            await asyncio.sleep(0.001)
        deaf.transport._ssl_protocol.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)

        def hook() -> None:
            if what == "limits":
                protocol.transport.set_write_buffer_limits(high=0)
                return
            for _ in range(1100):  # more than the submission queue holds
                receiving = loop.sock_recv(mine, 1)
                receiving.send(None)
                waiting.append(receiving)
            protocol.transport.abort()

        Hooked.hook = hook
        late: list[bool] = []
        timer = loop.call_later(30, late.append, True)  # what would end the sleep otherwise
        protocol.transport.write(b"x")
        tls.write(b"y")
        await (protocol.resumed.wait() if what == "limits" else protocol.lost)
        assert not late
        timer.cancel()
        for receiving in waiting:
            receiving.close()
        for each in (protocol, secret, deaf):
            each.transport.abort()
            await each.lost
        server.close()
        await server.wait_closed()

    mine.setblocking(False)
    with mine, other:
        loop.run_until_complete(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_a_child_that_comes_back_to_the_loop_takes_no_completion_of_its_parent(loop, pair: Pair):
    left, right = pair
    parent = os.getpid()

    async def main() -> None:
        receiving = loop.create_task(loop.sock_recv(left, 10))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        right.send(b"x")
        await asyncio.sleep(0)  # the turn's enter has completed the receive, and nobody has looked yet
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert await asyncio.wait_for(receiving, 60) == b"x"

    try:
        loop.run_until_complete(main())
    except RuntimeError:
        if os.getpid() == parent:
            raise
        os._exit(7)
    finally:
        if os.getpid() != parent:
            os._exit(8)
