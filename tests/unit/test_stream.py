"""Stream transports over real sockets: order, flow control, half-close, resets, replaced protocols, and the end of everything."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import struct
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest


class Recorder(asyncio.Protocol):
    """Keeps what happened, and futures for what a test waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep_open: bool = False) -> None:
        self.loop = loop
        self.keep_open = keep_open
        self.received = bytearray()
        self.events: list[str] = []
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.eof: asyncio.Future[None] = loop.create_future()
        self.wanted: list[tuple[int, asyncio.Future[None]]] = []
        self.pauses = self.resumes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.received += data
        for size, future in self.wanted:
            if len(self.received) >= size and not future.done():
                future.set_result(None)

    async def bytes_received(self, size: int) -> None:
        if len(self.received) < size:
            future = self.loop.create_future()
            self.wanted.append((size, future))
            await future

    def eof_received(self) -> bool:
        self.events.append("eof")
        self.eof.set_result(None)
        return self.keep_open

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.resumes += 1

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class Buffered(asyncio.BufferedProtocol):
    """Receives into a small buffer of its own, so that one receive fills it several times."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self.buffer = bytearray(size)
        self.received = bytearray()
        self.lost = loop.create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def connect(factory: Callable[[], Any], **options: int) -> tuple[Any, Any, socket.socket]:
    """A transport of the running loop and the plain, blocking socket at its other end, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    for name, value in options.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(factory, sock)
    return transport, protocol, peer


def reset(peer: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def receive_all(peer: socket.socket) -> bytes:
    chunks = []
    while chunk := peer.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def test_transport_is_asyncios(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("sockname") == peer.getpeername()
            assert transport.get_extra_info("nothing", 5) == 5
            assert transport.get_protocol() is protocol
            transport.close()
            assert await protocol.lost is None
            assert protocol.events == ["made", "lost"]
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert receive_all(peer) == b""

    loop.run_until_complete(main())


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 5_000_000])
def test_bytes_arrive_in_order_both_ways(loop, rng, size):
    data = rng.randbytes(size)

    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop, keep_open=True))
        with peer:
            sending = in_thread(peer.sendall, data)
            await asyncio.gather(sending, protocol.bytes_received(size))
            assert protocol.received == data
            reading = asyncio.ensure_future(in_thread(receive_all, peer))
            position = 0
            while position < size:
                step = rng.randint(1, 300_000)
                transport.write(data[position : position + step])
                position += step
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            transport.write_eof()
            assert await reading == data
            peer.close()
            await protocol.eof
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_writes_of_one_turn_go_out_as_one_segment(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            enters = loop.ring_stats()["enters"]
            for index in range(100):
                transport.write(b"%03d" % index)
            assert transport.get_write_buffer_size() == 300
            assert loop.ring_stats()["enters"] == enters
            assert await in_thread(peer.recv, 1000) == b"".join(b"%03d" % index for index in range(100))
            assert transport.get_write_buffer_size() == 0
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_more_pieces_than_one_vectored_send_takes(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            pieces = [b"%06d" % index for index in range(10_000)]
            transport.writelines(pieces)
            transport.write_eof()
            assert await in_thread(receive_all, peer) == b"".join(pieces)
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_mutable_buffers_are_snapshotted(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            data = bytearray(b"before")
            transport.write(data)
            transport.write(memoryview(data)[2:])
            data[:] = b"after!"
            assert await in_thread(peer.recv, 100) == b"beforefore"
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_short_sends_are_continued(loop, rng):
    data = rng.randbytes(3_000_000)

    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop), SO_SNDBUF=4096)
        with peer:
            transport.writelines([data[start : start + 70_001] for start in range(0, len(data), 70_001)])
            transport.write_eof()
            assert await in_thread(receive_all, peer) == data
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_flow_control_of_writing(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop), SO_SNDBUF=4096)
        with peer:
            transport.set_write_buffer_limits(high=100_000, low=10_000)
            assert transport.get_write_buffer_limits() == (10_000, 100_000)
            transport.write(b"x" * 100_000)
            assert protocol.pauses == 0
            transport.write(b"x" * 5_000_000)
            assert (protocol.pauses, protocol.resumes) == (1, 0)
            transport.write_eof()
            assert len(await in_thread(receive_all, peer)) == 5_100_000
            while not protocol.resumes:
                await asyncio.sleep(0)
            assert (protocol.pauses, protocol.resumes) == (1, 1)
            transport.close()
            await protocol.lost
            with pytest.raises(ValueError, match="must be >="):
                transport.set_write_buffer_limits(high=1, low=2)

    loop.run_until_complete(main())


def test_pause_reading_keeps_what_was_on_its_way(loop, rng):
    data = rng.randbytes(2_000_000)

    class Pausing(Recorder):
        def data_received(self, chunk: bytes) -> None:
            assert self.transport.is_reading()
            super().data_received(chunk)
            self.transport.pause_reading()
            loop.call_soon(self.transport.resume_reading)

    async def main():
        transport, protocol, peer = await connect(lambda: Pausing(loop))
        with peer:
            await asyncio.gather(in_thread(peer.sendall, data), protocol.bytes_received(len(data)))
            assert protocol.received == data
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_paused_transport_delivers_nothing_and_then_everything_with_eof(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop, keep_open=True))
        transport.pause_reading()
        transport.pause_reading()
        peer.sendall(b"one")
        peer.close()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not protocol.received
        assert protocol.events == ["made"]
        assert not transport.is_reading()
        transport.resume_reading()
        transport.resume_reading()
        await protocol.eof
        assert protocol.received == b"one"
        transport.close()
        await protocol.lost

    loop.run_until_complete(main())


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_buffered_protocol(loop, rng, size):
    data = rng.randbytes(300_000 if size > 1 else 3_000)

    async def main():
        transport, protocol, peer = await connect(lambda: Buffered(loop, size))

        def send() -> None:
            with peer:
                peer.sendall(data)

        await in_thread(send)
        assert await protocol.lost is None
        assert protocol.received == data

    loop.run_until_complete(main())


def test_buffered_protocol_that_pauses_and_is_replaced_in_the_middle(loop):
    class Switching(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            if len(self.received) == 4:
                transport.pause_reading()
                loop.call_soon(transport.resume_reading)
            if len(self.received) == 8:
                transport.set_protocol(successor)

    async def main():
        nonlocal transport, successor
        successor = Recorder(loop)
        transport, protocol, peer = await connect(lambda: Switching(loop, 4))
        with peer:
            peer.sendall(b"0123456789abcdef")
            await successor.bytes_received(8)
            assert protocol.received == b"01234567"
            assert successor.received == b"89abcdef"
            transport.close()
            await successor.lost

    transport = successor = None
    loop.run_until_complete(main())


def test_half_close_by_the_peer(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop, keep_open=True))
        with peer:
            peer.sendall(b"request")
            peer.shutdown(socket.SHUT_WR)
            await protocol.eof
            assert protocol.received == b"request"
            transport.write(b"response")
            transport.close()
            assert await in_thread(receive_all, peer) == b"response"
            assert await protocol.lost is None

    loop.run_until_complete(main())


def test_write_eof_while_data_is_queued(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            assert transport.can_write_eof()
            transport.write(b"x" * 1_000_000)
            transport.write_eof()
            transport.write_eof()
            with pytest.raises(RuntimeError, match="after write_eof"):
                transport.write(b"more")
            assert len(await in_thread(receive_all, peer)) == 1_000_000
            peer.sendall(b"late answer")
            peer.close()
            await protocol.lost
            assert protocol.received == b"late answer"

    loop.run_until_complete(main())


def test_reset_by_peer_while_receiving(loop):
    async def main():
        _transport, protocol, peer = await connect(lambda: Recorder(loop))
        reset(peer)
        assert isinstance(await protocol.lost, ConnectionResetError)

    loop.run_until_complete(main())


def test_reset_by_peer_while_sending(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        transport.write(b"x" * 50_000_000)
        await in_thread(peer.recv, 1000)
        reset(peer)
        assert isinstance(await protocol.lost, ConnectionError)
        for _ in range(10):
            transport.write(b"nobody hears this")
        assert transport.get_write_buffer_size() == 0

    loop.run_until_complete(main())


def test_abort_drops_the_queue(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop), SO_SNDBUF=4096)
        with peer:
            transport.write(b"x" * 50_000_000)
            await asyncio.sleep(0)
            transport.abort()
            assert transport.is_closing()
            assert await protocol.lost is None
            assert len(await in_thread(receive_all, peer)) < 50_000_000

    loop.run_until_complete(main())


def test_close_while_a_receive_is_in_flight_frees_the_descriptor(loop):
    async def main():
        for _ in range(50):
            transport, protocol, peer = await connect(lambda: Recorder(loop))
            await asyncio.sleep(0)
            fd = transport.get_extra_info("socket").fileno()
            transport.close()
            await protocol.lost
            assert transport.get_extra_info("socket").fileno() == -1
            # The number is free at once, and a new connection on it gets no byte of the old one.
            peer.close()
            other, fresh, peer = await connect(lambda: Recorder(loop))
            with peer:
                assert fd in (other.get_extra_info("socket").fileno(), peer.fileno()) or fd > 2
                peer.sendall(b"new")
                await fresh.bytes_received(3)
                assert fresh.received == b"new"
                other.close()
                await fresh.lost

    loop.run_until_complete(main())
    assert loop.ring_stats()["stale_cqes"] == 0


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_exception_in_a_protocol_closes_its_transport(loop, method):
    class Broken(Recorder):
        pass

    def fail(*args: object) -> None:
        raise ZeroDivisionError(method)

    setattr(Broken, method, fail)
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def main():
        transport, protocol, peer = await connect(lambda: Broken(loop))
        with peer:
            peer.sendall(b"x")
            peer.shutdown(socket.SHUT_WR)
            assert isinstance(await protocol.lost, ZeroDivisionError)
            assert reports[0]["transport"] is transport
            assert reports[0]["protocol"] is protocol
            assert method in reports[0]["message"]

    loop.run_until_complete(main())
    assert len(reports) == 1


def test_keyboard_interrupt_in_a_callback_loses_no_completion(loop):
    class Interrupting(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if len(self.received) == 1:
                raise KeyboardInterrupt

    pairs = []

    async def prepare():
        for _ in range(10):
            pairs.append(await connect(lambda: Interrupting(loop)))

    loop.run_until_complete(prepare())
    for *_, peer in pairs:
        peer.sendall(b"1")
    interrupts = 0
    finished = None

    async def finish():
        for transport, protocol, _ in pairs:
            await protocol.bytes_received(1)
            transport.close()
            await protocol.lost

    while finished is None or not finished.done():
        finished = finished or loop.create_task(finish())
        try:
            loop.run_until_complete(finished)
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == 10
    for *_, peer in pairs:
        peer.close()


def test_callbacks_run_in_the_context_of_the_transports_creation(loop):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[tuple[str, str]] = []

    class Contextual(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            seen.append(("made", variable.get()))

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            seen.append(("data", variable.get()))

        def connection_lost(self, exc: BaseException | None) -> None:
            seen.append(("lost", variable.get()))
            super().connection_lost(exc)

    async def main():
        variable.set("mine")
        transport, protocol, peer = await connect(lambda: Contextual(loop))
        variable.set("changed later")
        with peer:
            peer.sendall(b"x")
            await protocol.bytes_received(1)
            transport.close()
            await protocol.lost
        assert seen == [("made", "mine"), ("data", "mine"), ("lost", "mine")]

    loop.run_until_complete(main())


def test_every_socket_gets_its_turn_when_buffers_run_out(loop, rng):
    count, size = 600, 40_000
    data = rng.randbytes(size)

    async def main():
        pairs = [await connect(lambda: Recorder(loop)) for _ in range(count)]

        def send() -> None:
            for *_, peer in pairs:
                peer.sendall(data)

        for transport, _, _ in pairs:
            assert transport.is_reading()
        await in_thread(send)
        await asyncio.gather(*(protocol.bytes_received(size) for _, protocol, _ in pairs))
        for transport, protocol, peer in pairs:
            assert protocol.received == data
            peer.close()
            transport.close()
            await protocol.lost
        stats = loop.ring_stats()
        assert stats["buffers_free"] == stats["buffers_total"] > 0

    loop.run_until_complete(main())


def test_write_refuses_what_is_not_bytes(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            for wrong in ("text", 5, None):
                with pytest.raises(TypeError, match="bytes-like"):
                    transport.write(wrong)
            with pytest.raises(TypeError, match="bytes-like"):
                transport.writelines([b"good", "bad"])
            transport.write(b"")
            assert transport.get_write_buffer_size() == 0
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())


def test_write_from_another_thread_is_refused(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        refusals: list[RuntimeError] = []

        def write() -> None:
            try:
                transport.write(b"x")
            except RuntimeError as exc:
                refusals.append(exc)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert "call_soon_threadsafe" in str(refusals[0])
        with peer:
            transport.abort()
            await protocol.lost

    loop.run_until_complete(main())


def test_loop_that_moves_to_another_thread_takes_its_connections_along(loop):
    parts: list[Any] = []

    async def begin():
        parts.extend(await connect(lambda: Recorder(loop)))
        parts[2].sendall(b"first")
        await parts[1].bytes_received(5)

    async def go_on():
        transport, protocol, peer = parts
        peer.sendall(b" second")
        await protocol.bytes_received(12)
        transport.write(b"answer")
        assert await in_thread(peer.recv, 100) == b"answer"
        peer.close()
        transport.close()
        await protocol.lost

    loop.run_until_complete(begin())
    errors: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(go_on())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors
    assert parts[1].received == b"first second"


def test_data_written_before_the_loop_stops_is_sent(loop):
    pair = loop.run_until_complete(connect(lambda: Recorder(loop)))
    transport, protocol, peer = pair

    async def write():
        transport.write(b"last words")

    loop.run_until_complete(write())
    with peer:
        peer.settimeout(30)
        assert peer.recv(100) == b"last words"
        transport.close()
        loop.run_until_complete(protocol.lost)


def test_unclosed_transport_warns(loop):
    pair = list(loop.run_until_complete(connect(lambda: Recorder(loop))))
    loop.close()
    pair.pop().close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pair.clear()
        gc.collect()
    # The socket may be finalized before its transport, and then warns too.
    assert any("unclosed transport" in str(warning.message) for warning in caught)


def test_start_tls_leftover_goes_to_the_new_protocol(loop):
    """Bytes that were received before set_protocol but not delivered belong to the new protocol."""

    async def main():
        transport, first, peer = await connect(lambda: Recorder(loop))
        second = Recorder(loop)
        transport.pause_reading()
        peer.sendall(b"for the second")
        for _ in range(10):
            await asyncio.sleep(0)
        transport.set_protocol(second)
        transport.resume_reading()
        await second.bytes_received(14)
        assert not first.received
        peer.close()
        await second.lost

    loop.run_until_complete(main())


def test_what_was_written_before_an_abort_still_goes_out_if_it_fits(loop):
    async def main():
        transport, protocol, peer = await connect(lambda: Recorder(loop))
        with peer:
            transport.write(b"alert")
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert await protocol.lost is None
            assert receive_all(peer) == b"alert"

    loop.run_until_complete(main())


def test_the_protocol_that_was_paused_is_the_one_that_is_resumed(loop):
    async def main():
        transport, first, peer = await connect(lambda: Recorder(loop), SO_SNDBUF=4096)
        with peer:
            transport.write(b"x" * 1_000_000)
            assert first.pauses == 1
            second = Recorder(loop)
            transport.set_protocol(second)
            transport.write(b"y")
            assert (first.resumes, second.pauses) == (1, 1)
            transport.write_eof()
            assert len(await in_thread(receive_all, peer)) == 1_000_001
            peer.close()
            await second.lost
            assert (first.resumes, second.resumes) == (1, 1)

    loop.run_until_complete(main())


def test_a_write_on_a_stopped_loop_goes_out_at_once(loop):
    transport, protocol, peer = loop.run_until_complete(connect(lambda: Recorder(loop)))
    transport.write(b"one")
    with peer:
        peer.settimeout(30)
        assert peer.recv(100) == b"one"
        transport.write(b"two")
        assert peer.recv(100) == b"two"
        transport.close()
        loop.run_until_complete(protocol.lost)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_connection_lost_comes_before_a_loop_that_stops_returns(loop: asyncio.AbstractEventLoop, end: str) -> None:
    """Programs end with close() as their last act, and count on the socket being closed when run_until_complete() returns."""
    ours, theirs = socket.socketpair()
    protocol = Recorder(loop)

    async def main() -> None:
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        theirs.send(b"x")
        await protocol.bytes_received(1)  # the receive is armed
        getattr(transport, end)()

    loop.run_until_complete(main())
    assert protocol.lost.done()
    assert theirs.recv(1) == b""
    theirs.close()


def test_a_reader_that_pauses_again_and_again_does_not_fill_the_memory(loop):
    """What waits in the transport is bounded by what was on its way at one pause, whatever the peer sends."""
    size = 50_000_000

    class Sipping(Recorder):
        count = 0
        most = 0

        def data_received(self, data: bytes) -> None:
            self.count += len(data)
            self.most = max(self.most, sent.value - self.count)
            self.transport.pause_reading()
            loop.call_soon(self.transport.resume_reading)
            if self.count == size:
                done.set_result(None)

    class Sent:
        value = 0

    sent = Sent()
    done = loop.create_future()

    async def main():
        transport, protocol, peer = await connect(lambda: Sipping(loop), SO_RCVBUF=65536)

        def send() -> None:
            chunk = b"x" * 100_000
            while sent.value < size:
                peer.sendall(chunk)
                sent.value += len(chunk)

        with peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            await asyncio.gather(in_thread(send), done)
            # Socket buffers, the provided buffers of one batch, and some room.
            assert protocol.most < 12_000_000
            transport.close()
            await protocol.lost

    loop.run_until_complete(main())
