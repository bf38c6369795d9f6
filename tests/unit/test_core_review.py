"""What goes wrong rarely and then badly: forks in callbacks, a loop that changes threads or closes with much in flight, interrupts."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable

import pytest

import aiouring
from aiouring import Loop

MANY = 1500  # more than the submission queue holds


def status_of_child(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_closing_with_a_withdrawn_accept_leaves_descriptor_0_alone() -> None:
    # The withdrawn request completes as a NOP with result 0, which is no descriptor.
    program = """
import asyncio, os, socket, aiouring
loop = aiouring.new_event_loop()
listening = socket.create_server(("127.0.0.1", 0))
listening.setblocking(False)
task = loop.create_task(loop.sock_accept(listening))
loop.call_soon(task.cancel)
loop.call_soon(loop.stop)
loop.run_forever()
loop.close()
os.fstat(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_a_timer_of_no_delay_comes_after_callbacks_that_were_asked_for_before(loop: Loop) -> None:
    order: list[str] = []

    def schedule() -> None:
        loop.call_soon(order.append, "soon")
        loop.call_later(0, order.append, "later")
        loop.call_at(loop.time() - 1, order.append, "past")
        loop.call_soon(order.append, "soon too")
        loop.call_later(0.02, loop.stop)

    loop.call_soon(schedule)
    loop.run_forever()
    assert order == ["soon", "soon too", "past", "later"]


def test_an_interrupt_leaves_due_timers_in_place(loop: Loop) -> None:
    ran: list[str] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    loop.call_later(0, ran.append, "timer")
    loop.call_soon(ran.append, "callback")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == ["callback", "timer"]


def test_a_destructor_that_schedules_while_the_loop_prepares_to_sleep_wakes_it(loop: Loop) -> None:
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")
    late: list[bool] = []

    class Value:
        def __del__(self) -> None:
            loop.call_soon(loop.stop)

    def schedule() -> None:
        context = contextvars.Context()
        context.run(variable.set, Value())
        # The handle is the last to hold the context, and the heap drops it when it looks for the next timer.
        loop.call_later(1, print, context=context).cancel()

    def too_late() -> None:
        late.append(True)
        loop.stop()

    loop.call_later(0.001, schedule)  # a timer's callback, since nothing looks at the heap between it and the next wait
    timer = loop.call_later(10, too_late)
    loop.run_forever()
    timer.cancel()
    assert not late


class ForkingProtocol(asyncio.Protocol):
    """Forks when data comes; the child does what it is told to, which leads it back through the loop's native code."""

    def __init__(self, in_child: Callable[[], object]) -> None:
        self.in_child = in_child
        self.child: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        pid = os.fork()
        if pid == 0:
            self.in_child()
            return
        self.child.set_result(pid)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
@pytest.mark.parametrize("how", ["exits", "returns"])
def test_a_child_that_was_forked_by_a_callback_and_comes_back_to_the_loop(loop: Loop, how: str) -> None:
    parent = os.getpid()

    def exit_child() -> None:
        sys.exit(42)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        transport, protocol = await loop.create_connection(lambda: ForkingProtocol(exit_child if how == "exits" else (lambda: None)), sock=ours)
        theirs.send(b"x")
        assert status_of_child(await protocol.child) == 42
        # The parent's queues are as they were.
        theirs.setblocking(False)
        transport.write(b"still here")
        assert await loop.sock_recv(theirs, 100) == b"still here"
        transport.close()
        theirs.close()

    try:
        loop.run_until_complete(main())
    except SystemExit:
        if os.getpid() == parent:
            raise
        os._exit(42)
    except RuntimeError as refusal:
        if os.getpid() == parent:
            raise
        os._exit(42 if "belongs to the parent process" in str(refusal) else 43)
    finally:
        if os.getpid() != parent:
            os._exit(44)


@pytest.fixture
def pairs() -> object:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = [socket.socketpair() for _ in range(MANY)]
    for ours, theirs in made:
        ours.setblocking(False)
        theirs.setblocking(False)
    yield made
    for ours, theirs in made:
        ours.close()
        theirs.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_more_requests_than_the_submission_queue_holds_move_to_another_thread(loop: Loop, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    tasks: list[asyncio.Task[bytes]] = []

    async def begin() -> None:
        tasks.extend(loop.create_task(loop.sock_recv(ours, 10)) for ours, _ in pairs)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def go_on() -> list[bytes]:
        for number, (_, theirs) in enumerate(pairs):
            theirs.send(b"%d" % number)
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    in_thread(lambda: loop.run_until_complete(begin()))
    assert loop.run_until_complete(go_on()) == [b"%d" % number for number in range(MANY)]


def test_what_completed_before_a_move_is_delivered_inside_the_running_loop(loop: Loop) -> None:
    loops: list[object] = []

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            try:
                loops.append(asyncio.get_running_loop())
            except RuntimeError as error:
                loops.append(error)

    ours, theirs = socket.socketpair()

    async def begin() -> None:
        transport, _ = await loop.create_connection(Protocol, sock=ours)
        await asyncio.sleep(0.01)
        theirs.send(b"x")
        transport.write(b"y")  # what makes the last turn submit, and so bring the completion of the receive
        loop.stop()

    async def go_on() -> None:
        while not loops:
            await asyncio.sleep(0)

    def first_thread() -> None:
        task = loop.create_task(begin())
        loop.run_forever()
        del task

    in_thread(first_thread)
    loop.run_until_complete(asyncio.wait_for(go_on(), 30))
    assert loops == [loop]
    theirs.close()
    loop.run_until_complete(asyncio.sleep(0.01))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_a_child_that_lives_on_does_not_keep_the_ring_of_a_loop_that_moves(loop: Loop) -> None:
    """A ring ends with its last descriptor and mapping. A child that kept them would keep the loop waiting, and its requests would be lost."""

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(hello, "127.0.0.1", 0)

    async def go_on(server: asyncio.Server) -> bytes:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            return await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    server = loop.run_until_complete(begin())  # its accept is in flight from now on
    ended, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(ended, 1)  # until the parent says so
        os._exit(42)
    os.close(ended)
    answers: list[bytes] = []
    try:
        in_thread(lambda: answers.append(loop.run_until_complete(go_on(server))))
    finally:
        os.close(end)
    assert status_of_child(child) == 42
    assert answers == [b"hello"]


def test_a_ring_whose_end_does_not_come_leaves_the_loop_awake() -> None:
    """Made by a child that no fork handler hears of, and which keeps the ring. What waited is lost, and says so; threads are heard."""
    program = """
import asyncio, ctypes, os, platform, signal, threading, aiouring

libc = ctypes.PyDLL(None)
loop = aiouring.new_event_loop()
server = loop.run_until_complete(asyncio.start_server(print, "127.0.0.1", 0))
child = libc.syscall({"x86_64": 56, "aarch64": 220}[platform.machine()], int(signal.SIGCHLD), 0, 0, 0, 0)
if child == 0:
    libc.pause()
    libc._exit(0)
thread = threading.Thread(target=loop.run_forever)
thread.start()
for _ in range(100):
    heard = threading.Event()
    loop.call_soon_threadsafe(heard.set)
    heard.wait()
loop.call_soon_threadsafe(loop.stop)
thread.join()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
os._exit(42)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 42, done.stderr
    assert "did not end within" in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_a_forked_child_closes_loops_and_makes_its_own(loop: Loop) -> None:
    """What stands in the place of the parent's rings is the child's own memory, and their descriptors' numbers are free for others."""

    async def answer() -> int:
        return await asyncio.sleep(0, 42)

    others = [aiouring.new_event_loop() for _ in range(3)]
    assert loop.run_until_complete(answer()) == 42
    others.pop(1).close()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
            made = aiouring.new_event_loop()
            for other in (loop, *others):
                other.close()
            for fd in opened:
                os.fstat(fd)
            status = made.run_until_complete(answer())
            made.close()
        finally:
            os._exit(status)
    assert status_of_child(child) == 42
    assert loop.run_until_complete(answer()) == 42
    for other in others:
        assert other.run_until_complete(answer()) == 42
        other.close()


def test_a_thread_that_stops_running_the_loop_leaves_the_next_one_alone() -> None:
    # The moment after run_forever() stopped counting as running is when another thread may begin.
    started = threading.Event()
    threads: list[threading.Thread] = []

    class HandedOver(Loop):
        def _unwatch_signals(self) -> None:
            super()._unwatch_signals()
            if not threads:
                self.call_soon(started.set)
                threads.append(threading.Thread(target=self.run_forever))
                threads[0].start()
                started.wait(30)

    loop = HandedOver()
    ours, theirs = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))
    assert started.is_set()
    with pytest.raises(RuntimeError, match="Non-thread-safe"):
        transport.write(b"x")  # the other thread is still the one that submits
    loop.call_soon_threadsafe(transport.close)
    loop.call_soon_threadsafe(loop.stop)
    threads[0].join()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    theirs.close()


def test_more_transports_than_the_submission_queue_holds_are_closed_between_two_runs(
    loop: Loop, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    lost: list[object] = []

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    async def begin() -> list[asyncio.Transport]:
        made = [(await loop.create_connection(Protocol, sock=ours))[0] for ours, _ in pairs]
        await asyncio.sleep(0.01)
        return made

    transports = loop.run_until_complete(begin())
    for transport in transports:
        transport.close()

    async def end() -> None:
        while len(lost) < MANY:
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(end(), 30))
    assert lost == [None] * MANY


def test_closing_with_very_many_requests_in_flight_waits_for_them_all(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    # More completions than 50 batches of 256, all on one descriptor.
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    tasks: list[asyncio.Task[bytes]] = []

    async def begin() -> None:
        tasks.extend(loop.create_task(loop.sock_recv(ours, 1)) for _ in range(14000))
        while loop.ring_stats()["slots_in_use"] < 14000:
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(begin(), 60))
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "asyncio"):
        loop.close()
        assert "did not end" not in caplog.text
        assert loop.ring_stats()["slots_in_use"] == 0
        logging.getLogger("asyncio").disabled = True
        try:
            tasks.clear()  # "Task was destroyed but it is pending!"
        finally:
            logging.getLogger("asyncio").disabled = False
    ours.close()
    theirs.close()


def test_write_from_another_thread_is_refused_before_it_changed_anything(loop: Loop) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await loop.run_in_executor(None, transport.write, b"refused ")
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await loop.run_in_executor(None, transport.writelines, [b"refused "])
        assert transport.get_write_buffer_size() == 0
        transport.write(b"accepted")
        assert await loop.sock_recv(theirs, 100) == b"accepted"
        transport.close()
        theirs.close()

    loop.run_until_complete(main())


def test_a_connection_whose_receive_cannot_be_queued_ends() -> None:
    # In a child, whose address space is limited so that the receive buffers do not fit.
    program = """
import asyncio, resource, socket, sys
import aiouring

class Protocol(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
    def connection_lost(self, exc):
        self.lost.set_result(exc)

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    ours, theirs = socket.socketpair()
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2 * 1024 * 1024, resource.RLIM_INFINITY))
    transport, protocol = await loop.create_connection(Protocol, sock=ours)
    error = await asyncio.wait_for(protocol.lost, 30)
    sys.exit(0 if isinstance(error, MemoryError) else repr(error))

aiouring.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_interrupt_while_requests_are_queued_does_not_forget_the_others() -> None:
    # In a child as above: the first of two transports fails to queue its receive, and the handler that hears of it raises.
    program = """
import asyncio, resource, socket, sys
import aiouring

loop = aiouring.new_event_loop()
lost = []

class Protocol(asyncio.Protocol):
    def connection_lost(self, exc):
        lost.append(exc)

def interrupt(loop, context):
    loop.set_exception_handler(lambda loop, context: None)
    raise KeyboardInterrupt

async def main():
    loop.set_exception_handler(interrupt)
    pairs = [socket.socketpair() for _ in range(3)]
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2 * 1024 * 1024, resource.RLIM_INFINITY))
    await asyncio.gather(*(loop.create_connection(Protocol, sock=ours) for ours, _ in pairs))
    while len(lost) < 2:
        await asyncio.sleep(0.01)

task = loop.create_task(asyncio.wait_for(main(), 20))
try:
    loop.run_until_complete(task)
    sys.exit("no interrupt")
except KeyboardInterrupt:
    pass
loop.run_until_complete(task)
sys.exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_close_within_close_is_harmless() -> None:
    loop = aiouring.new_event_loop()

    class Closer:
        def __del__(self) -> None:
            loop.close()

    async def wait(closer: Closer) -> None:
        await asyncio.sleep(3600)

    loop.call_soon(print, Closer())
    loop.call_later(3600, print, Closer())
    loop.close()
    assert loop.is_closed()
