"""loop.sock_*: cancellation without loss, and sockets, loops and threads that end or change under a call."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aiouring

from .sockets import Pair, receive_exactly, started

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
