"""Loop hooks where it hurts: what fails, moves, forks, is closed or reused under them, and what must not be lost then."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import _hook
from aiouring.bpf import Hook, discard, echo, hooks
from aiouring.bpf.hooks import Engine
from tests.unit.hook_programs import ENGINES, build_program, pair, receive_all


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    value: Engine = request.param
    return value


def stats_of(loop: Any) -> dict[str, int]:
    found: dict[str, int] = loop.ring_stats()
    return found


# -- slots of tasks ---------------------------------------------------------------------------------------------------------------------------


async def test_a_cancellation_never_reaches_the_next_task_of_a_slot(engine: Engine) -> None:
    """The end of a task and its cancellation cross, and its slot serves again before the cancellation is submitted."""
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine):
        left, right = pair()
        other, other_peer = pair()
        with left, other, other_peer:
            job = asyncio.ensure_future(echo(left))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task = _hook.socket_task(hooks.standard_engine(loop), "discard", [os.dup(other.fileno())])
            over = loop.create_future()

            def start() -> None:
                assert job.cancelled() or job.cancelling() or job.done()
                task.send(None)
                task.add_done_callback(lambda _: over.set_result(None))

            right.close()
            loop.call_soon(job.cancel)
            loop.call_later(0, start)  # in the same turn, after completions were delivered
            await asyncio.gather(job, return_exceptions=True)
            other_peer.send(b"12345")
            other_peer.shutdown(socket.SHUT_WR)
            await over
            with pytest.raises(StopIteration) as ended:
                task.send(None)
            assert ended.value.value == 5


POST_A_LOT = """
    if (cqe->res == 9) {
        AIOURING_REPEAT(9000)
        {
            if (aiouring_post(hook, 0, 0, 0))
                aiouring_count(hook, 0, 1);
        }
        AIOURING_REPEAT_END
    }
    return AIOURING_WAKE;
"""


async def test_a_program_that_posts_too_much_loses_only_its_own(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load(build_program(tmp_path, POST_A_LOT, engine=engine), engine=engine) as hook:
        left, right = pair()
        with left, right:
            receiving = asyncio.ensure_future(loop.sock_recv(right, 100))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            left.send(b"123456789")
            assert await receiving == b"123456789"
        assert hook.counters[0] > 0


# -- a hook that fails --------------------------------------------------------------------------------------------------------------------------

TASKS_AND_A_FAULT = """
#include <aiouring/tasks.h>
static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    if (aiouring_namespace(cqe) == AIOURING_NS_TASK)
        return aiouring_task_cqe(hook, cqe);
    if (aiouring_namespace(cqe) == AIOURING_NS_USER)
        return AIOURING_CONSUME;
    if (cqe->res != 9)
        return AIOURING_WAKE;
    /* The submission queue is as full as it can be when Python hears of it. */
    AIOURING_REPEAT(1024)
    {
        if (AIOURING_LAYOUT(hook, sq_entries) - (hook->sq_tail - *(volatile aiouring_u32 *)(hook->rings + AIOURING_LAYOUT(hook, sq_head))) < 1)
            break;
        aiouring_next_sqe(hook)->user_data = (aiouring_u64)AIOURING_NS_USER << 56;
    }
    AIOURING_REPEAT_END
    return 77;
}
AIOURING_HOOK(on_cqe)
"""


def build_faulty(folder: Path, engine: str) -> Path:
    from tests.unit.hook_programs import compile_program

    source = folder / "faulty.bpf.c"
    source.write_text(TASKS_AND_A_FAULT)
    return compile_program(source, engine=engine)


async def test_a_hook_that_fails_ends_its_tasks_and_another_one_can_be_attached(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    hook = Hook.load(build_faulty(tmp_path, engine), engine=engine).attach()
    left, a = pair()
    b, right = pair()
    with left, a, b, right:
        jobs = [asyncio.ensure_future(aiouring.relay(a, b)), asyncio.ensure_future(echo(left))]
        receiving = asyncio.ensure_future(loop.sock_recv(right, 100))
        for _ in range(3):
            await asyncio.sleep(0)
        left_peer, waking = pair()
        with left_peer, waking:
            bad = asyncio.ensure_future(loop.sock_recv(waking, 100))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            left_peer.send(b"123456789")
            assert await bad == b"123456789"
        for ended in await asyncio.gather(*jobs, return_exceptions=True):
            assert isinstance(ended, OSError)
            assert ended.errno == errno.ECANCELED
        b.send(b"still whole")
        assert await receiving == b"still whole"
    assert len(told) == 1
    assert not hook.attached
    loop.set_exception_handler(None)
    hook.detach()
    with Hook.load("standard", engine=engine):
        left, right = pair()
        with left, right:
            left.send(b"abc")
            left.shutdown(socket.SHUT_WR)
            assert await echo(right) == 3
    assert stats_of(loop)["slots_in_use"] == 1


# -- threads and processes ------------------------------------------------------------------------------------------------------------------------


def run_in_thread(loop: Any, coroutine: Any) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(coroutine)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_hook_follows_its_loop_and_can_be_detached_there(engine: Engine) -> None:
    loop = aiouring.new_event_loop()
    hook = Hook.load("wake", engine=engine)
    gone = Hook.load("wake", engine=engine)

    async def enter_and_wait() -> None:
        left, right = pair()
        with left, right:
            receiving = asyncio.ensure_future(loop.sock_recv(right, 10))
            await asyncio.sleep(0)
            left.send(b"x")
            assert await receiving == b"x"

    async def first() -> None:
        hook.attach()

    async def second() -> None:
        assert hook.attached
        steps = hook.stats["steps"]
        await enter_and_wait()
        assert hook.stats["steps"] > steps
        hook.detach()
        with gone:
            await asyncio.sleep(0)

    async def third() -> None:
        assert not hook.attached
        assert not gone.attached
        steps = gone.stats["steps"]
        await enter_and_wait()
        assert gone.stats["steps"] == steps  # what was detached does not come back with the new ring

    loop.run_until_complete(first())
    run_in_thread(loop, second())
    run_in_thread(loop, third())
    loop.close()


def test_what_the_hook_did_not_look_at_moves_with_the_loop(engine: Engine) -> None:
    """The loop stops with a mailbox that is full and completions behind it, and goes on in another thread."""
    loop = aiouring.new_event_loop()
    hook = Hook.load("wake", engine=engine)
    pairs = [pair() for _ in range(100)]
    tasks: list[asyncio.Future[bytes]] = []

    async def begin() -> None:
        hook.attach()
        for _ in range(95):
            tasks.extend(asyncio.ensure_future(loop.sock_recv(right, 10)) for _, right in pairs)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for left, _ in pairs:
            left.close()

    async def go_on() -> None:
        assert await asyncio.gather(*tasks) == [b""] * len(tasks)
        assert hook.attached

    loop.run_until_complete(begin())
    run_in_thread(loop, go_on())
    loop.close()
    for _, right in pairs:
        right.close()


@pytest.mark.kernel_hook
def test_a_loop_whose_hook_cannot_follow_goes_on_without_it(tmp_path: Path) -> None:
    loop = aiouring.new_event_loop()
    program = build_program(tmp_path, "    return AIOURING_WAKE;", engine="kernel")
    hook = Hook.load(program, engine="kernel")
    told: list[dict[str, Any]] = []
    left, right = pair()

    async def begin() -> asyncio.Task[bytes]:
        loop.set_exception_handler(lambda _, context: told.append(context))
        hook.attach()
        receiving = loop.create_task(loop.sock_recv(right, 100))
        await asyncio.sleep(0)
        return receiving

    async def go_on(receiving: asyncio.Task[bytes]) -> None:
        left.send(b"late")
        assert await receiving == b"late"
        assert not hook.attached

    with left, right:
        receiving = loop.run_until_complete(begin())
        program.unlink()
        run_in_thread(loop, go_on(receiving))
    assert "could not follow" in told[0]["message"]
    assert isinstance(told[0]["exception"], OSError)
    loop.close()


async def test_a_forked_child_may_look_at_its_parents_hook(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine) as hook:
        left, right = pair()
        with left, right:
            job = asyncio.ensure_future(discard(right))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            memory = hook.memory
            memory[:4] = b"mine"
            child = os.fork()
            if child == 0:
                try:
                    memory[:4] = b"hers"
                    hook.detach()
                    os._exit(0 if sum(hook.stats.values()) == 0 else 1)
                except BaseException:
                    os._exit(2)
            _, status = await loop.run_in_executor(None, os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert bytes(memory[:4]) == b"mine"
            assert hook.stats["tasks"] == 1
            left.send(b"bytes")
            left.close()
            assert await job == 5


async def test_another_thread_cannot_detach_it(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("wake", engine=engine) as hook:
        with pytest.raises(RuntimeError, match="its own loop's thread"):
            await loop.run_in_executor(None, hook.detach)
        assert hook.attached


def test_one_hook_waits_for_a_loop_to_run(engine: Engine) -> None:
    loop = aiouring.new_event_loop()
    first, second = Hook.load("wake", engine=engine), Hook.load("wake", engine=engine)
    first.attach(loop)
    with pytest.raises(RuntimeError, match="another hook"):
        second.attach(loop)
    first.detach()
    second.attach(loop)
    loop.run_until_complete(asyncio.sleep(0))
    assert second.attached
    assert not first.attached
    loop.close()


async def test_a_busy_polling_loop_does_not_turn_for_a_relay(engine: Engine) -> None:
    def run() -> tuple[int, int]:
        loop = aiouring.new_event_loop(busy_poll=0.5)
        try:
            return loop.run_until_complete(relayed())
        finally:
            loop.close()

    async def relayed() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        left, a = pair()
        b, right = pair()
        with left, a, b, right, Hook.load("standard", engine=engine):
            job = asyncio.ensure_future(aiouring.relay(a, b))
            await asyncio.sleep(0)
            left.setblocking(True)
            right.setblocking(True)

            def clients() -> tuple[int, int]:
                left.sendall(b"x")
                assert right.recv(1) == b"x"
                before = stats_of(loop)["turns"]
                for _ in range(200):
                    left.sendall(b"x")
                    assert right.recv(1) == b"x"
                return before, stats_of(loop)["turns"]

            counts = await loop.run_in_executor(None, clients)
            left.close()
            right.close()
            await job
            return counts

    before, after = await asyncio.get_running_loop().run_in_executor(None, run)
    assert after - before <= 4


# -- descriptors and files ------------------------------------------------------------------------------------------------------------------------


async def test_a_copy_does_not_write_into_a_file_that_gets_its_descriptors_number(engine: Engine, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(4 * 1024 * 1024)
    (tmp_path / "src").write_bytes(data)
    with Hook.load("standard", engine=engine), (tmp_path / "src").open("rb") as src:
        dst = os.open(tmp_path / "dst", os.O_WRONLY | os.O_CREAT)
        job = asyncio.ensure_future(aiouring.copy(src, dst, depth=1))
        await asyncio.sleep(0)
        os.close(dst)
        other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
        try:
            assert other == dst
            assert await job == len(data)
        finally:
            os.close(other)
    assert (tmp_path / "other").read_bytes() == b""
    assert (tmp_path / "dst").read_bytes() == data


async def test_copy_refuses_files_that_it_would_scramble_or_wait_for(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    with Hook.load("standard", engine=engine), (tmp_path / "file").open("rb") as src:
        with (tmp_path / "log").open("ab") as log, pytest.raises(OSError, match="appending"):
            await aiouring.copy(src, log)
        with open(os.open("/proc/self/status", os.O_RDONLY | os.O_NONBLOCK), "rb") as status, (tmp_path / "copy").open("wb") as dst:
            with pytest.raises(OSError, match="O_NONBLOCK"):
                await aiouring.copy(status, dst)
            # Who sets it meanwhile gets the kernel's answer, and no loop.
            os.set_blocking(status.fileno(), True)
            assert await aiouring.copy(status, dst) > 0


async def test_a_time_out_without_end(engine: Engine) -> None:
    with Hook.load("standard", engine=engine):
        for seconds in (1e300, float("inf"), 1e12):
            left, a = pair()
            b, right = pair()
            with left, a, b, right:
                job = asyncio.ensure_future(aiouring.relay(a, b, idle_timeout=seconds))
                await asyncio.sleep(0)
                left.close()
                right.close()
                assert await job == (0, 0)


class Taking(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.resumes: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def resume_writing(self) -> None:
        if self.resumes is not None:
            self.resumes()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def test_bad_arguments_leave_the_connection_alone(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    left, a = pair()
    with left:
        transport, protocol = await loop.create_connection(Taking, sock=a)
        with Hook.load("standard", engine=engine):
            with pytest.raises(TypeError, match="relay\\(\\) takes"):
                await aiouring.relay(transport, 5)
            with pytest.raises(RuntimeError, match="is used by transport"):
                await aiouring.relay(a, left)
            with pytest.raises(RuntimeError, match="is used by transport"):
                await echo(a)
        b, right = pair()
        with b, right, Hook.load("wake", engine=engine), pytest.raises(RuntimeError, match="has none"):
            await aiouring.relay(transport, b)
        transport.write(b"alive")
        left.setblocking(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert left.recv(10) == b"alive"
        transport.close()
        assert await protocol.lost is None


async def test_a_protocol_that_resumes_reading_gets_nothing_of_a_relay(engine: Engine, rng: random.Random) -> None:
    """The usual proxy: it resumes one side's reading when the other side's buffer drains, which is just what taking over does."""
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine):
        left, a = pair(tcp=True)
        b, right = pair(tcp=True)
        with left, right:
            ta, pa = await loop.create_connection(Taking, sock=a)
            tb, pb = await loop.create_connection(Taking, sock=b)
            ta.pause_reading()
            pb.resumes = ta.resume_reading
            greeting = bytes(8_000_000)
            tb.write(greeting)
            job = asyncio.ensure_future(aiouring.relay(ta, tb))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError):
                tb.write(b"between")
            body = rng.randbytes(500_000)
            sending = asyncio.ensure_future(loop.sock_sendall(left, body))
            got = bytearray()
            while len(got) < len(greeting) + len(body):
                got += await loop.sock_recv(right, 1 << 20)
                ta.resume_reading()
            await sending
            assert got == greeting + body
            assert not pa.data
            with pytest.raises(RuntimeError):
                ta.write(b"between")
            left.close()
            right.close()
            await job
            assert await pa.lost is None
            assert await pb.lost is None


async def test_a_transport_that_is_closed_while_a_relay_takes_it_over(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine) as hook:
        for ending in ("close", "abort"):
            left, a = pair(tcp=True)
            b, right = pair(tcp=True)
            with left, right:
                ta, pa = await loop.create_connection(Taking, sock=a)
                tb, pb = await loop.create_connection(Taking, sock=b)
                tb.write(bytes(8_000_000))
                job = asyncio.ensure_future(aiouring.relay(ta, tb))
                for _ in range(3):
                    await asyncio.sleep(0)
                getattr(tb, ending)()
                draining = asyncio.ensure_future(receive_all(loop, right))
                with pytest.raises(ConnectionError):
                    await job
                await draining
                await pa.lost
                await pb.lost
        assert hook.stats["tasks"] == 0


async def test_an_error_that_is_on_its_way_ends_the_relay_that_takes_over(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine):
        for turns in range(5):
            left, a = pair(tcp=True)
            b, right = pair(tcp=True)
            with left, right:
                ta, _ = await loop.create_connection(Taking, sock=a)
                tb, pb = await loop.create_connection(Taking, sock=b)
                await asyncio.sleep(0)
                left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                for index in range(5):
                    if index == turns:
                        left.close()
                    if index == 3:
                        job = asyncio.ensure_future(aiouring.relay(ta, tb))
                    await asyncio.sleep(0)
                with pytest.raises((ConnectionResetError, RuntimeError)):  # RuntimeError: it was over before the relay began
                    await job
                tb.abort()
                await pb.lost


# -- sending files ----------------------------------------------------------------------------------------------------------------------------


async def test_a_transport_that_is_aborted_sends_no_more_of_its_file(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    size = 64 * 1024 * 1024
    with path.open("wb") as file:
        file.truncate(size)
    outcomes = []
    for hooked in (False, True):
        left, a = pair(tcp=True)
        with left, path.open("rb") as file:
            transport, protocol = await loop.create_connection(Taking, sock=a)
            hook = Hook.load("standard", engine=engine)
            if hooked:
                hook.attach()
            job = asyncio.ensure_future(loop.sendfile(transport, file))
            await loop.sock_recv(left, 1)
            transport.abort()
            await protocol.lost
            received = 1
            try:
                while data := await loop.sock_recv(left, 1 << 20):
                    received += len(data)
            except ConnectionResetError:
                pass
            assert received < size
            assert not job.done()  # as in asyncio
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            outcomes.append(file.tell() > 0)
            hook.detach()
    assert outcomes == [True, True]
    assert stats_of(loop)["slots_in_use"] == 1


async def test_sendfile_checks_its_socket_as_without_a_hook(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))

    async def outcome(what: Any) -> tuple[type, Any]:
        try:
            await what
        except OSError as error:
            return type(error), error.errno
        except Exception as error:
            return type(error), str(error)
        return type(None), None

    left, a = pair()
    unconnected = socket.socket()
    unconnected.setblocking(False)
    closed = socket.socket()
    closed.close()
    with left, path.open("rb") as file, unconnected:
        transport, _ = await loop.create_connection(Taking, sock=a)

        async def all_of_them() -> list[tuple[type, Any]]:
            found = []
            for sock in (a, unconnected, closed):
                file.seek(0)  # where the fall-back begins
                found.append(await outcome(loop.sock_sendfile(sock, file)))
            return found

        plain = await all_of_them()
        with Hook.load("standard", engine=engine):
            assert await all_of_them() == plain
        assert plain[0][0] is RuntimeError
        transport.close()


async def test_a_file_is_sent_when_all_tasks_are_taken(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(b"bytes" * 1000)
    with Hook.load("standard", engine=engine):
        left, right = pair()
        other, other_peer = pair()
        with left, right, other, other_peer, path.open("rb") as file:
            jobs = [asyncio.ensure_future(discard(right)) for _ in range(1024)]
            await asyncio.sleep(0)
            assert await loop.sock_sendfile(other, file, fallback=False) == 5000
            assert other_peer.recv(10_000) == b"bytes" * 1000
            left.close()
            await asyncio.gather(*jobs)


async def test_sending_that_is_given_up_does_not_go_to_another_socket(engine: Engine, tmp_path: Path) -> None:
    """Its coroutine is closed, which cannot wait: the descriptors of the task must not be free before it has ended."""
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(b"f" * 4_000_000)
    with Hook.load("standard", engine=engine) as hook:
        for turns in range(6):  # in some of them its next request is queued, and not submitted
            left, right = pair()
            with left, right, path.open("rb") as file:
                call = loop.sock_sendfile(left, file, fallback=False)
                call.send(None)
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.close()
                others = [pair() for _ in range(4)]
                try:
                    while hook.stats["tasks"]:
                        await asyncio.sleep(0)
                    for one, two in others:
                        for sock in (one, two):
                            with pytest.raises(BlockingIOError):
                                sock.recv(10)
                finally:
                    for one, two in others:
                        one.close()
                        two.close()
        while stats_of(loop)["slots_in_use"] > 1:
            await asyncio.sleep(0)  # the end is told, and not delivered yet


def test_ctrl_c_reaches_a_loop_whose_relay_never_rests(engine: Engine) -> None:
    """Two ends of one connection pass the same bytes to each other for ever: completions come without a pause."""

    async def spin() -> None:
        a, b = pair()
        c, d = pair()
        with a, b, c, d, Hook.load("standard", engine=engine) as hook:
            asyncio.get_running_loop().call_soon(a.send, b"round and round")
            jobs = asyncio.gather(aiouring.relay(b, c), aiouring.relay(d, a))

            def interrupt() -> None:
                while hook.stats["cqes"] < 10_000:
                    pass
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=interrupt).start()
            await jobs

    with pytest.raises(KeyboardInterrupt):
        aiouring.run(spin())


async def test_a_relay_of_a_connection_with_frames_is_refused_and_nothing_has_happened_to_it(engine: Engine) -> None:
    loop: Any = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine):
        got: list[bytes] = []

        class Lines(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.set_result(transport)

            def data_received(self, data: bytes) -> None:
                got.append(data)
                came.set()

        made: asyncio.Future[Any] = loop.create_future()
        came = asyncio.Event()
        server: Any = await loop.create_server(Lines, "127.0.0.1", 0, frames=aiouring.Delimited(b"\n"))
        left, right = pair()
        with left, right, socket.create_connection(server.sockets[0].getsockname()) as client:
            transport = await made
            with pytest.raises(RuntimeError, match="frames="):
                await aiouring.relay(transport, left)
            assert not transport.is_closing()
            client.sendall(b"line\n")
            await came.wait()
            assert got == [b"line"]
            transport.abort()
        server.close()
        await server.wait_closed()
        with pytest.raises(TypeError, match="frames="):
            await aiouring.start_server(lambda reader, writer: None, "127.0.0.1", 0, frames=aiouring.Delimited(b"\n"))
        await asyncio.sleep(0)
