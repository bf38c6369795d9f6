"""loop.sock_*: results, errors, cancellation without loss, and sockets that are closed under a call."""

from __future__ import annotations

import asyncio
import gc
import random
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair(descriptors: None) -> Iterator[Pair]:
    """Two connected TCP sockets, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    for sock in (left, right):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with left, right:
        yield left, right


@pytest.fixture
def datagrams(descriptors: None) -> Iterator[Pair]:
    """Two UDP sockets that are not connected."""
    with socket.socket(type=socket.SOCK_DGRAM) as left, socket.socket(type=socket.SOCK_DGRAM) as right:
        for sock in (left, right):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        yield left, right


async def started(coroutine: Any) -> asyncio.Task[Any]:
    """A task that waits in its call, whose request the kernel has."""
    task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def receive_exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        assert piece
        data += piece
    return bytes(data)


# -- results ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4096, 4097, 65536, 1 << 20])
def test_recv_returns_what_is_there_and_then_the_end(loop: asyncio.AbstractEventLoop, pair: Pair, size: int) -> None:
    left, right = pair

    async def main() -> None:
        await loop.sock_sendall(left, b"x")
        assert await loop.sock_recv(right, size) == b"x"
        waiting = await started(loop.sock_recv(right, size))
        await loop.sock_sendall(left, b"yz"[:size])
        assert await waiting == b"yz"[:size]
        left.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(right, size) == b""
        assert await loop.sock_recv(right, 0) == b""

    loop.run_until_complete(main())


def test_big_data_arrives_whole_through_every_kind_of_receive(loop: asyncio.AbstractEventLoop, pair: Pair, rng: random.Random) -> None:
    left, right = pair
    data = rng.randbytes(6_000_000)

    async def receive() -> bytes:
        received = bytearray()
        target = bytearray(50_000)
        while True:
            match rng.randrange(4):
                case 0:
                    piece: bytes = await loop.sock_recv(right, rng.choice([1, 1000, 4096, 20_000, 65536, 1 << 20]))
                case 1:
                    piece = bytes(target[: await loop.sock_recv_into(right, memoryview(target)[: rng.choice([1, 7000, 50_000])])])
                case 2:
                    piece, _ = await loop.sock_recvfrom(right, 30_000)
                case _:
                    count, _ = await loop.sock_recvfrom_into(right, target, 9000)
                    piece = bytes(target[:count])
            if not piece:
                return bytes(received)
            received += piece

    async def main() -> None:
        receiver = asyncio.ensure_future(receive())
        await loop.sock_sendall(left, memoryview(data)[:1])
        await loop.sock_sendall(left, bytearray(data[1:]))
        left.shutdown(socket.SHUT_WR)
        assert await receiver == data

    loop.run_until_complete(main())


def test_one_socket_sends_and_receives_at_once(loop: asyncio.AbstractEventLoop, pair: Pair, rng: random.Random) -> None:
    left, right = pair
    there, back = rng.randbytes(2_000_000), rng.randbytes(2_000_000)

    async def main() -> None:
        results = await asyncio.gather(
            loop.sock_sendall(left, there),
            loop.sock_sendall(right, back),
            receive_exactly(loop, right, len(there)),
            receive_exactly(loop, left, len(back)),
        )
        assert list(results) == [None, None, there, back]

    loop.run_until_complete(main())


def test_datagrams_keep_their_bounds_and_addresses(loop: asyncio.AbstractEventLoop, datagrams: Pair) -> None:
    left, right = datagrams

    async def main() -> None:
        target = bytearray(10)
        assert await loop.sock_sendto(left, b"one", right.getsockname()) == 3
        assert await loop.sock_sendto(left, b"", right.getsockname()) == 0
        assert await loop.sock_sendto(left, b"three", ("localhost", right.getsockname()[1])) == 5
        assert await loop.sock_sendto(left, b"four four", right.getsockname()) == 9
        assert await loop.sock_recvfrom(right, 100) == (b"one", left.getsockname())
        assert await loop.sock_recvfrom(right, 100) == (b"", left.getsockname())
        assert await loop.sock_recvfrom_into(right, target) == (5, left.getsockname())
        assert target[:5] == b"three"
        assert await loop.sock_recvfrom_into(right, target, 4) == (4, left.getsockname())
        assert target[:5] == b"foure"
        big = bytes(60_000)
        await loop.sock_sendto(left, big, right.getsockname())
        assert await loop.sock_recv(right, 65536) == big

    loop.run_until_complete(main())


def test_sendto_resolves_in_the_executor_and_can_be_cancelled_there(
    loop: asyncio.AbstractEventLoop, datagrams: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = datagrams

    async def main() -> None:
        release = threading.Event()
        blocker = loop.run_in_executor(None, release.wait)
        calls = [loop.run_in_executor(None, release.wait) for _ in range(64)]   # the executor's threads are all taken
        task = await started(loop.sock_sendto(left, b"x", ("localhost", right.getsockname()[1])))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        await asyncio.gather(blocker, *calls)
        with pytest.raises(socket.gaierror):
            await loop.sock_sendto(left, b"x", ("no such host.invalid", 9))
        with pytest.raises(BlockingIOError):
            right.recv(10)

    loop.run_until_complete(main())


def test_accept_gives_sockets_as_asyncio_does(loop: asyncio.AbstractEventLoop, descriptors: None, tmp_path: Path) -> None:
    async def main() -> None:
        for address in (("127.0.0.1", 0), str(tmp_path / "socket")):
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as listener, socket.socket(family) as client:
                listener.bind(address)
                listener.listen()
                listener.setblocking(False)
                client.setblocking(False)
                waiting = await started(loop.sock_accept(listener))
                await loop.sock_connect(client, listener.getsockname())
                connection, peer = await waiting
                with connection:
                    assert type(connection) is socket.socket
                    assert (connection.family, connection.type) == (family, socket.SOCK_STREAM)
                    assert peer == client.getsockname()
                    assert connection.gettimeout() == 0
                    assert not connection.get_inheritable()

    loop.run_until_complete(main())


def test_connect_resolves_names(loop: asyncio.AbstractEventLoop, descriptors: None) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()
            with pytest.raises(OSError, match="already connected"):
                await loop.sock_connect(client, listener.getsockname())

    loop.run_until_complete(main())


def test_connect_is_begun_at_the_first_step(loop: asyncio.AbstractEventLoop, descriptors: None) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            task = asyncio.ensure_future(loop.sock_connect(client, listener.getsockname()))
            await asyncio.sleep(0)
            listener.settimeout(10)
            listener.accept()[0].close()    # would wait for ever if the connect came with the end of the turn
            await task

    loop.run_until_complete(main())


def test_families_that_only_the_socket_module_knows(loop: asyncio.AbstractEventLoop, descriptors: None) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, (0, 0))
            # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP: the kernel answers with a list of interfaces.
            request = struct.pack("=IHHIIB15x", 32, 18, 0x301, 7, 0, socket.AF_UNSPEC)
            assert await loop.sock_sendto(sock, request, (0, 0)) == 32
            data, sender = await loop.sock_recvfrom(sock, 65536)
            assert sender == (0, 0)
            assert struct.unpack_from("=I", data, 8) == (7,)

    loop.run_until_complete(main())


# -- errors -------------------------------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_asyncio(loop: asyncio.AbstractEventLoop, pair: Pair, tmp_path: Path) -> None:
    left, right = pair

    async def errors(of: asyncio.AbstractEventLoop) -> list[tuple[type, str]]:
        found = []
        with socket.socket() as unconnected, socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as closing:
            for sock in (unconnected, unix):
                sock.setblocking(False)
            refused = closing.getsockname()
            closing.close()
            calls: list[Callable[[], Any]] = [
                lambda: of.sock_recv(left, -1),
                lambda: of.sock_recv(left, "1"),  # type: ignore[arg-type]
                lambda: of.sock_recv_into(left, b"constant"),
                lambda: of.sock_recvfrom(left, -1),
                lambda: of.sock_recvfrom_into(left, bytearray(3), 4),
                lambda: of.sock_recvfrom_into(left, bytearray(3), -1),
                lambda: of.sock_sendall(left, "text"),  # type: ignore[arg-type]
                lambda: of.sock_sendall(unconnected, b"x"),
                lambda: of.sock_recv(closing, 1),
                lambda: of.sock_accept(left),
                lambda: of.sock_connect(unconnected, refused),
                lambda: of.sock_connect(unix, str(tmp_path / "missing")),
                lambda: of.sock_sendto(unix, b"x", 7),  # type: ignore[arg-type]
            ]
            for call in calls:
                with pytest.raises((OSError, TypeError, ValueError, OverflowError)) as caught:
                    await call()
                found.append((caught.type, str(caught.value).replace(str(refused[1]), "PORT")))
        return found

    ours = loop.run_until_complete(errors(loop))
    reference = asyncio.new_event_loop()
    theirs = reference.run_until_complete(errors(reference))
    reference.close()
    # The parser of socket's arguments words its complaints by itself.
    for index, (mine, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert mine[0] is expected[0], index
        if mine[0] is not TypeError:
            assert mine[1] == expected[1]


def test_peer_reset_is_raised_once_and_then_the_stream_ends(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        waiting = await started(loop.sock_recv(right, 100))
        left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left.close()
        with pytest.raises(ConnectionResetError):
            await waiting
        assert await loop.sock_recv(right, 100) == b""
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(right, b"x")

    loop.run_until_complete(main())


def test_sendall_fails_when_the_peer_leaves_in_the_middle(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        waiting = await started(loop.sock_sendall(right, bytes(20_000_000)))
        left.close()
        with pytest.raises(ConnectionError):
            await waiting

    loop.run_until_complete(main())


def test_debug_mode_refuses_blocking_sockets_and_tls_is_refused_always(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, _ = pair
    context = ssl.create_default_context()
    context.check_hostname = False
    wrapped = context.wrap_socket(left.dup(), do_handshake_on_connect=False)

    def calls(sock: socket.socket) -> list[Any]:
        return [
            loop.sock_recv(sock, 1),
            loop.sock_recv_into(sock, bytearray(1)),
            loop.sock_recvfrom(sock, 1),
            loop.sock_recvfrom_into(sock, bytearray(1)),
            loop.sock_sendall(sock, b"x"),
            loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
            loop.sock_connect(sock, ("127.0.0.1", 9)),
            loop.sock_accept(sock),
        ]

    async def main() -> None:
        with wrapped:
            for call in calls(wrapped):
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await call
        left.settimeout(1)
        loop.set_debug(True)
        for call in calls(left):
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await call

    loop.run_until_complete(main())


def test_descriptors_of_transports_are_refused(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, _ = pair

    async def main() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        for call in (loop.sock_recv(left, 1), loop.sock_sendall(left, b"x"), loop.sock_accept(left)):
            with pytest.raises(RuntimeError, match="is used by transport"):
                await call
        transport.close()
        await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_calls_are_coroutines(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair
    assert asyncio.iscoroutinefunction(loop.sock_recv)
    call: Any = loop.sock_recv(left, 10)
    assert asyncio.iscoroutine(call)
    assert not asyncio.isfuture(call)
    right.send(b"x")
    assert loop.run_until_complete(call) == b"x"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        loop.run_until_complete(call)
    unawaited: Any = loop.sock_recv(left, 10)
    with pytest.warns(RuntimeWarning, match=r"'Loop\.sock_recv' was never awaited"):
        del unawaited
    closed: Any = loop.sock_recv(left, 10)
    closed.close()
    del closed


# -- cancellation ------------------------------------------------------------------------------------------------------------------------


def test_cancelled_calls_end_and_leave_nothing_in_flight(loop: asyncio.AbstractEventLoop, pair: Pair, datagrams: Pair) -> None:
    left, right = pair
    target = bytearray(10)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            idle = loop.ring_stats()["slots_in_use"]  # type: ignore[attr-defined]
            calls: list[Callable[[], Any]] = [
                lambda: loop.sock_recv(right, 10),
                lambda: loop.sock_recv(right, 100_000),
                lambda: loop.sock_recv_into(right, target),
                lambda: loop.sock_recvfrom(datagrams[0], 10),
                lambda: loop.sock_recvfrom_into(datagrams[0], target),
                lambda: loop.sock_accept(listener),
                lambda: loop.sock_sendall(left, bytes(20_000_000)),
            ]
            for call in calls:
                task = await started(call())
                task.cancel("why")
                with pytest.raises(asyncio.CancelledError, match="why"):
                    await task
                target.append(0)    # BufferError if the buffer were still exported
                # Cancelled before its first step, and between its first step and the kernel.
                for steps in (0, 1):
                    task = asyncio.ensure_future(call())
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            assert loop.ring_stats()["slots_in_use"] == idle  # type: ignore[attr-defined]

    loop.run_until_complete(main())


@pytest.mark.parametrize("kind", ["recv", "recv_big", "recv_into", "recvfrom", "recvfrom_into"])
@pytest.mark.parametrize("way", ["wait_for", "timeout", "cancel"])
def test_no_byte_is_lost_by_cancelling(
    loop: asyncio.AbstractEventLoop, pair: Pair, kind: str, way: str, rng: random.Random
) -> None:
    """A peer streams numbered words from a thread while each receive is given up after next to no time."""
    left, right = pair
    words = 30_000
    data = b"".join(struct.pack(">I", number) for number in range(words))
    pieces = []
    position = 0
    while position < len(data):
        size = rng.choice([1, 3, 4, 40, 400, 5000])
        pieces.append(data[position : position + size])
        position += size
    target = bytearray(3000)

    def stream() -> None:
        left.setblocking(True)
        for index, piece in enumerate(pieces):
            if index % 4 == 0:
                time.sleep(0.0002)      # the receiver runs dry now and then, and its time-outs strike around the data's arrival
            left.sendall(piece)
        left.shutdown(socket.SHUT_WR)

    async def receive() -> bytes:
        match kind:
            case "recv":
                return await loop.sock_recv(right, 3000)
            case "recv_big":
                return await loop.sock_recv(right, 65536)
            case "recv_into":
                return bytes(target[: await loop.sock_recv_into(right, target)])
            case "recvfrom":
                return (await loop.sock_recvfrom(right, 3000))[0]
        count, _ = await loop.sock_recvfrom_into(right, target)
        return bytes(target[:count])

    async def cancelled_receive() -> bytes:
        # A neighbour in the ready queue cancels, at a moment that has nothing to do with the time.
        task = asyncio.ensure_future(receive())
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        return await task

    async def main() -> int:
        received = bytearray()
        given_up = 0
        while True:
            try:
                if way == "wait_for":
                    piece = await asyncio.wait_for(receive(), rng.choice([0, 0.00001, 0.0001, 0.001]))
                elif way == "timeout":
                    async with asyncio.timeout(rng.choice([0, 0.00001, 0.0001, 0.001])):
                        piece = await receive()
                elif rng.randrange(8):
                    piece = await cancelled_receive()
                else:
                    piece = await receive()
            except (TimeoutError, asyncio.CancelledError):
                given_up += 1
                continue
            if not piece:
                break
            received += piece
        assert received == data
        return given_up

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        assert loop.run_until_complete(main()) > 0
    finally:
        right.close()
        thread.join()


def test_a_result_that_was_there_before_the_cancel_goes_to_the_next_call(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        waiting = await started(loop.sock_recv(right, 10))
        # Sent, received and completed in one turn: this task's wake-up stands before that of the one it cancels.
        await loop.sock_sendall(left, b"abcdef")
        waiting.cancel()
        assert await loop.sock_recv(right, 4) == b"abcd"
        target = bytearray(10)
        assert await loop.sock_recv_into(right, target) == 2
        assert target[:2] == b"ef"
        with pytest.raises(asyncio.CancelledError):
            await waiting

    for _ in range(20):
        loop.run_until_complete(main())


def test_a_result_that_is_given_up_goes_to_a_call_that_waits_already(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        first = await started(loop.sock_recv(right, 10))
        second = await started(loop.sock_recv_into(right, target := bytearray(10)))
        await loop.sock_sendall(left, b"abc")
        first.cancel()
        assert await second == 3
        assert target[:3] == b"abc"
        with pytest.raises(asyncio.CancelledError):
            await first

    for _ in range(20):
        loop.run_until_complete(main())


def test_no_connection_is_lost_by_cancelling(loop: asyncio.AbstractEventLoop, descriptors: None, rng: random.Random) -> None:
    count = 300

    def connect(address: Any) -> None:
        for number in range(count):
            with socket.create_connection(address) as client:
                client.sendall(struct.pack(">I", number))

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            thread = threading.Thread(target=connect, args=(listener.getsockname(),))
            thread.start()
            numbers: list[int] = []
            while len(numbers) < count:
                try:
                    async with asyncio.timeout(rng.choice([0, 0.00001, 0.0001])):
                        connection, _ = await loop.sock_accept(listener)
                except TimeoutError:
                    continue
                with connection:
                    numbers.append(struct.unpack(">I", await receive_exactly(loop, connection, 4))[0])
            assert numbers == list(range(count))
            thread.join()

    loop.run_until_complete(main())


def test_cancelled_datagram_receives_lose_no_datagram(loop: asyncio.AbstractEventLoop, datagrams: Pair, rng: random.Random) -> None:
    left, right = datagrams

    async def main() -> None:
        for number in range(500):
            waiting = asyncio.ensure_future(loop.sock_recvfrom(right, 100))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            await loop.sock_sendto(left, b"%d" % number, right.getsockname())
            waiting.cancel()
            try:
                received = await waiting
            except asyncio.CancelledError:
                received = await loop.sock_recvfrom(right, 100)
            assert received == (b"%d" % number, left.getsockname())

    loop.run_until_complete(main())


def test_a_send_that_is_cancelled_before_it_was_submitted_has_tried(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        task = asyncio.ensure_future(loop.sock_sendall(left, b"hello"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await loop.sock_recv(right, 10) == b"hello"

    loop.run_until_complete(main())


# -- the socket, the loop, the thread -----------------------------------------------------------------------------------------------------


def test_close_under_a_call_reaches_the_peer_and_the_call_waits_until_cancelled(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        number = right.fileno()
        waiting = await started(loop.sock_recv(right, 10))
        right.close()
        assert right.fileno() == -1
        assert await loop.sock_recv(left, 10) == b""
        # The number is used again, and the old call must not take what is the new socket's.
        new, other = socket.socketpair()
        with new, other:
            assert number in (new.fileno(), other.fileno())
            for sock in (new, other):
                sock.setblocking(False)
            await loop.sock_sendall(new, b"one")
            await loop.sock_sendall(other, b"two")
            assert await loop.sock_recv(other, 10) == b"one"
            assert await loop.sock_recv(new, 10) == b"two"
        gc.collect()
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    loop.run_until_complete(main())


def test_close_in_the_turn_of_a_send_does_not_take_it_back(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        sending = asyncio.ensure_future(loop.sock_sendall(left, b"hi"))
        loop.call_soon(left.close)
        await sending
        assert await loop.sock_recv(right, 10) == b"hi"
        assert await loop.sock_recv(right, 10) == b""

    loop.run_until_complete(main())


def test_files_of_a_used_socket_still_count(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair
    left.setblocking(True)      # makefile() wants it so, and debug mode's check is not what this is about
    loop.set_debug(False)
    with left.makefile("wb") as first:
        loop.run_until_complete(loop.sock_sendall(left, b"a"))
        with left.makefile("wb") as second:
            left.close()
            second.write(b"b")
        first.write(b"c")
        first.flush()
        assert left.fileno() != -1
        assert loop.run_until_complete(receive_exactly(loop, right, 3)) == b"abc"
    assert left.fileno() == -1
    assert loop.run_until_complete(loop.sock_recv(right, 1)) == b""


def test_close_from_another_thread_ends_the_request(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        waiting = await started(loop.sock_recv(right, 10))
        thread = threading.Thread(target=right.close)
        thread.start()
        assert await loop.sock_recv(left, 10) == b""
        thread.join()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    loop.run_until_complete(main())


def test_the_loop_closes_under_a_call(pair: Pair) -> None:
    left, right = pair
    first: asyncio.AbstractEventLoop = aiouring.new_event_loop()
    task = first.run_until_complete(started_in(first, right))
    first.close()
    second: asyncio.AbstractEventLoop = aiouring.new_event_loop()
    try:
        left.send(b"data")
        assert second.run_until_complete(second.sock_recv(right, 10)) == b"data"
    finally:
        second.close()
    task.get_coro().close()  # type: ignore[union-attr]
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    call = first.sock_recv(right, 10)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        call.send(None)


async def started_in(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> asyncio.Task[Any]:
    async def receive() -> bytes:
        return await loop.sock_recv(sock, 10)

    return await started(receive())


def test_a_call_from_the_wrong_thread_is_refused(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, _ = pair

    def misuse() -> str:
        with pytest.raises(RuntimeError) as caught:
            loop.sock_recv(left, 1).send(None)
        return str(caught.value)

    async def main() -> None:
        assert "call_soon_threadsafe" in await asyncio.to_thread(misuse)

    loop.run_until_complete(main())


def test_a_call_survives_the_move_of_its_loop_to_another_thread(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair
    for size in (10, 100_000):
        waiting = loop.run_until_complete(started(loop.sock_recv(right, size)))

        async def main(waiting: asyncio.Task[bytes] = waiting) -> None:
            await loop.sock_sendall(left, b"moved")
            assert await waiting == b"moved"

        thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
        thread.start()
        thread.join()
        assert waiting.done()
    # Back in this thread, which closes the loop.
    loop.run_until_complete(asyncio.sleep(0))


def test_used_sockets_are_freed_with_their_last_reference(loop: asyncio.AbstractEventLoop, descriptors: None) -> None:
    async def main() -> None:
        for _ in range(300):
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                right.setblocking(False)
                waiting = await started(loop.sock_recv(left, 100_000))
                await loop.sock_sendall(right, b"x")
                await waiting
        stats = loop.ring_stats()  # type: ignore[attr-defined]
        assert stats["stale_cqes"] == 0
        assert stats["buffers_free"] == stats["buffers_total"]

    loop.run_until_complete(main())


# -- sends that wait ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_unix_messages_to_a_full_queue_go_out_whole(loop: asyncio.AbstractEventLoop, kind: int, descriptors: None) -> None:
    """Inside io_uring a unix datagram that waits for room loses its bytes and goes out empty."""
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    messages = [b"message %d" % number for number in range(500)]

    async def send() -> None:
        for message in messages:
            await loop.sock_sendall(left, message)

    async def main() -> None:
        sender = asyncio.create_task(send())
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not sender.done()
        assert [await loop.sock_recv(right, 100) for _ in messages] == messages
        await sender

    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        loop.run_until_complete(main())


@pytest.fixture
def full_unix(descriptors: None, tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A unix datagram socket that is not connected, and one that is bound to tmp_path/"bound" and whose queue is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as right:
        right.bind(str(tmp_path / "bound"))
        left.setblocking(False)
        right.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                left.sendto(b"full", str(tmp_path / "bound"))
        yield left, right


def test_sendto_waits_for_a_full_unix_queue(loop: asyncio.AbstractEventLoop, full_unix: Pair, tmp_path: Path) -> None:
    left, right = full_unix

    async def main() -> None:
        sender = asyncio.create_task(loop.sock_sendto(left, b"last", str(tmp_path / "bound")))
        await asyncio.sleep(0.02)       # several attempts: nothing tells when there is room
        assert not sender.done()
        while (data := await loop.sock_recv(right, 100)) == b"full":
            pass
        assert data == b"last"
        assert await sender == 4

    loop.run_until_complete(main())


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_sendto_that_waits_for_a_full_unix_queue_is_given_up(
    loop: asyncio.AbstractEventLoop, full_unix: Pair, tmp_path: Path, how: str
) -> None:
    left, right = full_unix

    async def main() -> None:
        sender = asyncio.create_task(loop.sock_sendto(left, b"last", str(tmp_path / "bound")))
        await asyncio.sleep(0.005)
        if how == "close":
            left.close()
            await asyncio.sleep(0.005)
            assert not sender.done()    # as in asyncio: a call on a closed socket waits until it is cancelled
        sender.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender
        while select.select([right], [], [], 0)[0]:
            assert right.recv(100) == b"full"

    loop.run_until_complete(main())


def run_in_thread(function: Callable[[], Any]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_sendall_continues_in_another_thread_without_sending_twice(descriptors: None, rng: random.Random) -> None:
    loop = aiouring.new_event_loop()
    left, right = socket.socketpair()
    data = rng.randbytes(2_000_000)
    tasks: list[asyncio.Task[None]] = []

    async def begin() -> None:
        tasks.append(await started(loop.sock_sendall(left, data)))

    async def finish() -> None:
        assert await receive_exactly(loop, right, len(data)) == data
        await tasks.pop()
        with pytest.raises(BlockingIOError):
            right.recv(1)

    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        run_in_thread(lambda: loop.run_until_complete(begin()))
        run_in_thread(lambda: loop.run_until_complete(finish()))
        run_in_thread(loop.close)


def test_a_call_outlives_its_loop_in_another_thread(pair: Pair) -> None:
    """The loop was run and closed in a thread; the call's task and its socket end in this one, in silence."""
    left, _ = pair
    tasks: list[asyncio.Task[bytes]] = []

    def run() -> None:
        loop = aiouring.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)      # of a pending task that is destroyed

        async def receive() -> bytes:
            return await loop.sock_recv(left, 10)

        async def begin() -> None:
            tasks.append(await started(receive()))

        loop.run_until_complete(begin())
        loop.close()

    run_in_thread(run)
    left.close()
    tasks.clear()
    gc.collect()
