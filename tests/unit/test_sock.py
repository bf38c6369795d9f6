"""loop.sock_*: results, errors, and sends that wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import random
import select
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .sockets import Pair, receive_exactly, started

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


def test_sendto_whose_look_up_nobody_does_sends_nothing(loop: asyncio.AbstractEventLoop, datagrams: Pair) -> None:
    """Without an address it would go to the peer that the socket is connected to."""
    left, right = datagrams
    release = threading.Event()

    async def main(other: socket.socket) -> None:
        left.connect(other.getsockname())
        pool = concurrent.futures.ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        pool.submit(release.wait)
        task = await started(loop.sock_sendto(left, b"x", ("localhost", right.getsockname()[1])))
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(RuntimeError, match="shut down while it looked up 'localhost'"):
            await task
        await loop.sock_sendall(left, b"the next one")
        assert await loop.sock_recv(other, 100) == b"the next one"
        with pytest.raises(BlockingIOError):
            right.recv(10)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.setblocking(False)
        try:
            loop.run_until_complete(main(other))
        finally:
            release.set()


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


def test_an_operation_serves_again_only_when_nobody_has_it(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair

    async def main() -> None:
        kept: list[Any] = []
        for number in range(200):
            send: Any = loop.sock_sendall(left, b"%d" % number)
            receive: Any = loop.sock_recv(right, 100)
            assert not any(send is other or receive is other for other in kept)
            await send
            assert await receive == b"%d" % number
            if number % 3 == 0:
                kept += [send, receive]
        for call in kept:
            assert not call.cancel()
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await call
            with pytest.raises(asyncio.InvalidStateError):
                call.add_done_callback(print)

    loop.run_until_complete(main())


def test_operations_that_may_serve_again_keep_no_loop_alive(pair: Pair) -> None:
    left, right = pair

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(left, b"x")
        await loop.sock_recv(right, 1)
        return weakref.ref(loop)

    gone = aiouring.run(main())
    gc.collect()
    assert gone() is None


def test_a_task_in_python_waits_for_calls(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    """asyncio's task without its C half asks the future that it waited for how it ended."""
    left, right = pair
    make: Any = asyncio.tasks._PyTask

    async def receive() -> bytes:
        return await loop.sock_recv(left, 10)

    async def main() -> None:
        task = make(receive(), loop=loop)
        await asyncio.sleep(0)
        await loop.sock_sendall(right, b"x")
        assert await task == b"x"
        task = make(receive(), loop=loop)
        await asyncio.sleep(0)
        task.cancel("no more")
        with pytest.raises(asyncio.CancelledError, match="no more"):
            await task
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        with pytest.raises(ConnectionResetError):
            await make(receive(), loop=loop)

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
