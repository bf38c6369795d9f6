"""add_reader and add_writer: level-triggered callbacks, their replacement and removal, and descriptors that come, go and come again."""

from __future__ import annotations

import asyncio
import gc
import os
import pty
import select
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aiouring
from tests.unit.sockets import own_host


@pytest.fixture
def pair(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


async def turns(count: int) -> None:
    """Lets the loop turn: what is ready by now has called back after two turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def set_once(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def fill(sock: socket.socket) -> int:
    """Send until the kernel takes no more."""
    total = 0
    while True:
        try:
            total += sock.send(bytes(65536))
        except BlockingIOError:
            return total


def stats(loop: Any) -> dict[str, int]:
    counters: dict[str, int] = loop.ring_stats()
    return counters


def test_reader_is_called_with_its_arguments(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    called: asyncio.Future[tuple[object, ...]] = loop.create_future()
    loop.add_reader(a, lambda *args: called.set_result(args) if not called.done() else None, 1, "two")
    b.send(b"x")
    assert loop.run_until_complete(called) == (1, "two")
    assert loop.remove_reader(a) is True


def test_a_ready_descriptor_calls_back_in_every_turn(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    b.send(b"abc")
    read: list[bytes] = []
    done = loop.create_future()

    def one_byte() -> None:
        read.append(a.recv(1))
        if len(read) == 3:
            done.set_result(None)

    loop.add_reader(a, one_byte)
    loop.run_until_complete(done)
    loop.remove_reader(a)
    assert read == [b"a", b"b", b"c"]


def test_no_callback_without_readiness(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, _ = pair
    calls: list[None] = []
    loop.add_reader(a, calls.append, None)
    loop.run_until_complete(turns(10))
    assert calls == []
    loop.remove_reader(a)


@pytest.mark.parametrize("as_object", [False, True])
def test_return_values(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket], as_object: bool) -> None:
    a, _ = pair
    fd: Any = a if as_object else a.fileno()
    assert loop.remove_reader(fd) is False
    assert loop.remove_writer(fd) is False
    loop.add_reader(fd, print)
    assert loop.remove_writer(fd) is False
    loop.add_writer(fd, print)
    assert loop.remove_reader(fd) is True
    assert loop.remove_reader(fd) is False
    assert loop.remove_writer(fd) is True
    assert loop.remove_writer(fd) is False


@pytest.mark.parametrize("name", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize("bad", [-1, -2, "text", None, object()])
def test_bad_descriptors_are_value_errors(loop: asyncio.AbstractEventLoop, name: str, bad: Any) -> None:
    args = (print,) if name.startswith("add") else ()
    with pytest.raises(ValueError, match="Invalid file"):
        getattr(loop, name)(bad, *args)


def test_errors_are_those_of_asyncio(loop: asyncio.AbstractEventLoop) -> None:
    """A closed number, a regular file, a folder and /dev/null get the exception types that epoll gives asyncio's programs."""
    reference = asyncio.SelectorEventLoop()
    folder = os.open("/", os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        with tempfile.TemporaryFile() as file:
            gone = os.dup(null)
            os.close(gone)
            for fd in (gone, file.fileno(), folder, null):
                for name in ("add_reader", "add_writer"):
                    with pytest.raises(OSError) as expected:
                        getattr(reference, name)(fd, print)
                    with pytest.raises(OSError) as found:
                        getattr(loop, name)(fd, print)
                    assert type(found.value) is type(expected.value)
                    assert found.value.errno == expected.value.errno
    finally:
        os.close(folder)
        os.close(null)
        reference.close()


def test_a_second_reader_replaces_the_first(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    first: list[bytes] = []
    second: asyncio.Future[bytes] = loop.create_future()
    handle = loop._add_reader(a.fileno(), first.append, b"")  # type: ignore[attr-defined]
    loop.run_until_complete(turns(2))
    loop.add_reader(a, lambda: second.set_result(a.recv(10)))
    assert handle.cancelled()
    b.send(b"data")
    assert loop.run_until_complete(second) == b"data"
    assert first == []
    assert loop.remove_reader(a) is True


def test_reader_and_writer_are_independent(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    wrote = loop.create_future()
    read = loop.create_future()

    def on_write() -> None:
        loop.remove_writer(a)
        wrote.set_result(None)

    def on_read() -> None:
        read.set_result(a.recv(10))
        loop.remove_reader(a)

    loop.add_reader(a, on_read)
    loop.run_until_complete(turns(2))
    loop.add_writer(a, on_write)
    loop.run_until_complete(wrote)
    assert not read.done()
    b.send(b"later")
    assert loop.run_until_complete(read) == b"later"


def test_reader_runs_before_writer(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    b.send(b"x")
    order: list[str] = []
    loop.add_writer(a, order.append, "writer")
    loop.add_reader(a, order.append, "reader")
    loop.run_until_complete(turns(4))
    loop.remove_reader(a)
    loop.remove_writer(a)
    assert order[:2] == ["reader", "writer"]


def test_hang_up_and_error_wake_both_sides(loop: asyncio.AbstractEventLoop) -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    while True:
        try:
            os.write(write_fd, bytes(65536))
        except BlockingIOError:
            break
    woken = loop.create_future()

    def on_write() -> None:
        loop.remove_writer(write_fd)
        woken.set_result(None)

    reader_calls: list[None] = []
    loop.add_reader(write_fd, reader_calls.append, None)
    loop.add_writer(write_fd, on_write)
    loop.run_until_complete(turns(3))
    assert not woken.done()
    os.close(read_fd)  # POLLERR on the write end
    loop.run_until_complete(woken)
    loop.run_until_complete(turns(3))
    assert reader_calls
    loop.remove_reader(write_fd)
    os.close(write_fd)


def test_end_of_a_pipe_reads_as_ready(loop: asyncio.AbstractEventLoop) -> None:
    read_fd, write_fd = os.pipe()
    ended = loop.create_future()
    loop.add_reader(read_fd, lambda: set_once(ended, os.read(read_fd, 10)))
    loop.run_until_complete(turns(2))
    os.close(write_fd)
    assert loop.run_until_complete(ended) == b""
    loop.remove_reader(read_fd)
    os.close(read_fd)


def test_a_terminal_is_watched(loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs = pty.openpty()
    line = loop.create_future()
    loop.add_reader(theirs, lambda: set_once(line, os.read(theirs, 100)))
    loop.run_until_complete(turns(2))
    os.write(ours, b"typed\n")
    assert loop.run_until_complete(line) == b"typed\n"
    loop.remove_reader(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_half_closed_peer_does_not_spin_a_writer(loop: asyncio.AbstractEventLoop) -> None:
    """The kernel reports a peer's shutdown to every poll request; a writer that cannot write must not be called for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        server.setblocking(False)
        client.shutdown(socket.SHUT_WR)
        fill(server)
        calls: list[None] = []
        writable = loop.create_future()

        def on_write() -> None:
            calls.append(None)
            if not writable.done():
                writable.set_result(None)

        loop.add_writer(server, on_write)
        loop.run_until_complete(turns(3))
        enters_before = stats(loop)["enters"]
        loop.run_until_complete(asyncio.wait([writable], timeout=0.1))
        # A few for the wait itself; a loop that spins makes thousands.
        assert stats(loop)["enters"] - enters_before < 20
        assert calls == []

        def drain() -> None:
            while client.recv(65536) and not writable.done():
                pass

        thread = threading.Thread(target=drain)
        thread.start()
        loop.run_until_complete(writable)
        assert loop.remove_writer(server) is True
        server.close()
        thread.join()


def test_removed_in_the_turn_that_made_it_ready(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    calls: list[str] = []
    other_a, other_b = socket.socketpair()
    with other_a, other_b:

        def remove_both(name: str) -> None:
            calls.append(name)
            loop.remove_reader(a)
            loop.remove_reader(other_a)

        loop.add_reader(a, remove_both, "a")
        loop.add_reader(other_a, remove_both, "other")
        b.send(b"x")
        other_b.send(b"x")
        loop.run_until_complete(turns(5))
        assert len(calls) == 1


def test_remove_lets_the_port_go_before_it_returns(loop: asyncio.AbstractEventLoop) -> None:
    """A poll in flight keeps the open socket alive in the kernel. remove_reader() must end it before the caller closes the socket."""

    async def main() -> None:
        listener = socket.create_server((own_host(), 0))
        address = listener.getsockname()
        loop.add_reader(listener, print)
        await turns(3)
        loop.remove_reader(listener)
        listener.close()
        again = socket.socket()
        again.bind(address)
        again.listen()
        again.close()

    loop.run_until_complete(main())


def test_removed_while_the_loop_does_not_run(loop: asyncio.AbstractEventLoop) -> None:
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    loop.run_until_complete(turns(3))
    assert loop.remove_reader(a) is True
    a.close()
    b.settimeout(5)
    assert b.recv(1) == b""  # nothing keeps the other end alive
    b.close()


def test_descriptor_number_used_again(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        for _ in range(50):
            a, b = socket.socketpair()
            a.setblocking(False)
            fd = a.fileno()
            stale: list[None] = []
            loop.add_reader(fd, stale.append, None)
            await turns(2)
            loop.remove_reader(fd)
            b.send(b"for the first file")
            a.close()
            b.close()
            a, b = socket.socketpair()
            assert a.fileno() == fd
            fresh = loop.create_future()
            loop.add_reader(fd, set_once, fresh, None)
            await turns(3)
            assert not fresh.done()
            b.send(b"x")
            await fresh
            assert stale == []
            loop.remove_reader(fd)
            a.close()
            b.close()

    loop.run_until_complete(main())


def test_descriptor_closed_without_removal_and_used_again(loop: asyncio.AbstractEventLoop) -> None:
    """A mistake of the program's: the next add_reader() on the number watches the file that the number means now."""

    async def main() -> None:
        a, b = socket.socketpair()
        fd = a.fileno()
        loop.add_reader(fd, print)
        await turns(2)
        a.close()
        c, d = socket.socketpair()
        assert c.fileno() == fd
        fresh = loop.create_future()
        loop.add_reader(fd, set_once, fresh, None)
        await turns(2)
        d.send(b"x")
        await fresh
        assert loop.remove_reader(fd)
        for sock in (b, c, d):
            sock.close()

    loop.run_until_complete(main())


def test_a_closed_file_object_can_still_be_removed(loop: asyncio.AbstractEventLoop) -> None:
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    loop.run_until_complete(turns(2))
    a.close()
    assert loop.remove_reader(a) is True
    with pytest.raises(ValueError):
        loop.remove_reader(a)
    b.close()


def test_descriptor_of_a_transport_is_refused(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, _ = pair

    async def main() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=a)
        fd = a.fileno()
        for call in (
            lambda: loop.add_reader(fd, print),
            lambda: loop.add_writer(a, print),
            lambda: loop.remove_reader(fd),
            lambda: loop.remove_writer(fd),
        ):
            with pytest.raises(RuntimeError, match="is used by transport"):
                call()
        transport.close()
        await turns(3)

    loop.run_until_complete(main())


def test_exception_in_a_callback_is_reported_and_it_stays_registered() -> None:
    loop = aiouring.new_event_loop()
    a, b = socket.socketpair()
    a.setblocking(False)
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    done = loop.create_future()

    def fail_once() -> None:
        if not reported:
            raise ZeroDivisionError
        done.set_result(None)
        loop.remove_reader(a)

    loop.add_reader(a, fail_once)
    b.send(b"x")
    loop.run_until_complete(done)
    assert len(reported) == 1
    assert isinstance(reported[0]["exception"], ZeroDivisionError)
    loop.close()
    a.close()
    b.close()


def test_added_from_another_thread_wakes_the_loop(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    b.send(b"x")
    seen = loop.create_future()
    removed = loop.create_future()

    def on_read() -> None:
        if not seen.done():
            seen.set_result(None)

    async def main() -> None:
        thread = threading.Thread(target=loop.add_reader, args=(a, on_read))
        loop.call_later(0.01, thread.start)
        await seen
        thread.join()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(removed.set_result, loop.remove_reader(a)))
        thread.start()
        assert await removed is True
        thread.join()

    loop.run_until_complete(asyncio.wait_for(main(), 20))


def test_the_loop_moves_to_another_thread(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    loop.add_reader(a, lambda: loop.stop())
    loop.run_until_complete(turns(3))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    b.send(b"x")
    thread.join(20)
    assert not thread.is_alive()
    loop.remove_reader(a)


def test_many_descriptors(loop: asyncio.AbstractEventLoop) -> None:
    count = 400
    pairs = [socket.socketpair() for _ in range(count)]
    seen: set[int] = set()
    done = loop.create_future()

    def on_read(index: int) -> None:
        pairs[index][0].recv(1)
        seen.add(index)
        if len(seen) == count:
            done.set_result(None)

    for index, (a, _) in enumerate(pairs):
        loop.add_reader(a, on_read, index)
    loop.run_until_complete(turns(2))
    for _, b in pairs:
        b.send(b"x")
    loop.run_until_complete(done)
    for a, b in pairs:
        assert loop.remove_reader(a)
        a.close()
        b.close()


def test_slots_are_returned(loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, _ = pair
    loop.run_until_complete(turns(2))
    before = stats(loop)["slots_in_use"]
    for _ in range(100):
        loop.add_reader(a, print)
        loop.run_until_complete(turns(2))
        loop.remove_reader(a)
    loop.run_until_complete(turns(3))
    assert stats(loop)["slots_in_use"] == before
    assert stats(loop)["stale_cqes"] == 0


def test_close_releases_the_callbacks(pair: tuple[socket.socket, socket.socket]) -> None:
    class Callback:
        def __call__(self) -> None: ...

    loop = aiouring.new_event_loop()
    callback = Callback()
    gone: Callable[[], object] = weakref.ref(callback)
    loop.add_reader(pair[0], callback)
    loop.run_until_complete(turns(2))
    loop.close()
    del callback
    gc.collect()
    assert gone() is None
    assert loop.remove_reader(pair[0]) is False
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_reader(pair[0], print)


def test_sees_what_select_sees_out_of_band(loop: asyncio.AbstractEventLoop) -> None:
    """Urgent data alone is not readable, neither to asyncio's selector nor here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        server.setblocking(False)
        client.send(b"!", socket.MSG_OOB)
        select.select([], [], [server], 5)
        calls: list[None] = []
        loop.add_reader(server, calls.append, None)
        loop.run_until_complete(turns(5))
        expected = bool(select.select([server], [], [], 0)[0])
        loop.remove_reader(server)
        assert bool(calls) == expected
