"""Loop hooks: programs, verdicts and engines; and that the loop stays whole with one attached."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring.bpf import Hook, discard
from aiouring.bpf.hooks import Engine
from tests.unit.hook_programs import ENGINES, build_program, pair


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    value: Engine = request.param
    return value


def stats_of(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    found: dict[str, int] = loop.ring_stats()  # type: ignore[attr-defined]
    return found


# -- choosing ---------------------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="standard, wake"):
        Hook.load(tmp_path / "none.bpf.o")
    with pytest.raises(ValueError, match="'auto'"):
        Hook.load("wake", engine="turbo")  # type: ignore[arg-type]
    (tmp_path / "bad.bpf.so").write_bytes(b"no library")
    hook = Hook.load(tmp_path / "bad.bpf.o", engine="inline")

    async def attach() -> None:
        with pytest.raises(OSError, match="no shared library"):
            hook.attach()

    aiouring.run(attach())


def test_auto_says_which_engine_it_took_and_why() -> None:
    hook = Hook.load("wake")
    assert hook.engine == ("inline" if hook.engine_reason else "kernel")
    assert Hook.load("wake", engine="inline").engine_reason == "inline was asked for"
    assert "wake" in repr(hook)
    assert not hook.attached
    with pytest.raises(RuntimeError, match="never attached"):
        hook.stats  # noqa: B018


async def test_one_hook_at_a_time_and_from_the_loop_itself(engine: Engine) -> None:
    hook = Hook.load("wake", engine=engine)
    assert Hook.current() is None
    with hook:
        assert hook.engine == engine
        assert Hook.current() is hook is Hook.current(asyncio.get_running_loop())
        with pytest.raises(RuntimeError, match="has a hook already"):
            Hook.load("wake", engine=engine).attach()
        with pytest.raises(RuntimeError, match="attached already"):
            hook.attach()
        with pytest.raises(RuntimeError, match="has none"):
            left, right = pair()
            with left, right:
                await discard(left)
    assert not hook.attached
    assert Hook.current() is None
    hook.detach()


async def test_the_hook_that_a_chain_attached_can_be_had(engine: Engine) -> None:
    source, target = bytearray(b"abc"), bytearray(3)
    read_fd, write_fd = os.pipe()
    try:
        async with aiouring.Chain() as chain:
            sent = chain.write(write_fd, source)
            chain.read(read_fd, target, length=sent.result)
        running = Hook.current()
        assert running is not None and running.name == "standard"
        with pytest.raises(RuntimeError, match="tasks and chains run in this hook"):
            running.detach()
        assert await chain == [3, 3]
    finally:
        os.close(read_fd)
        os.close(write_fd)
    with pytest.raises(RuntimeError, match=r"has a hook already, Hook\.current\(\)"):
        Hook.load("wake", engine=engine).attach()
    assert running.stats["steps"] > 0
    running.detach()
    assert Hook.current() is None
    with Hook.load("wake", engine=engine) as hook:
        assert Hook.current() is hook


def test_a_loop_that_does_not_run_yet_gets_it_when_it_runs(engine: Engine) -> None:
    hook = Hook.load("wake", engine=engine)
    loop = aiouring.new_event_loop()
    hook.attach(loop)
    assert not hook.attached
    loop.run_until_complete(exchange(loop))
    seen = [hook.attached]
    loop.close()
    assert [*seen, hook.attached] == [True, False]


def test_only_for_loops_of_ours() -> None:
    async def attach() -> None:
        with pytest.raises(TypeError, match="aiouring's event loops"):
            Hook.load("wake", engine="inline").attach()
        with pytest.raises(TypeError, match="aiouring's event loops"):
            Hook.current()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(attach())


async def test_memory_is_asked_for_once(engine: Engine) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        Hook.load("wake", engine=engine, memory_bytes=1000).attach()
    with Hook.load("wake", engine=engine, memory_bytes=2 * 1024 * 1024) as hook:
        assert 400 * 1024 < len(hook.memory) < 2 * 1024 * 1024
    with pytest.raises(ValueError, match="2,097,152"):
        Hook.load("wake", engine=engine, memory_bytes=1024 * 1024).attach()
    with Hook.load("wake", engine=engine):
        pass


# -- the loop stays whole -----------------------------------------------------------------------------------------------------------------------


async def exchange(loop: asyncio.AbstractEventLoop, rounds: int = 20) -> None:
    left, right = pair()
    with left, right:
        for number in range(rounds):
            message = b"%d" % number
            receiving = asyncio.ensure_future(loop.sock_recv(right, 100))
            await asyncio.sleep(0)  # so that a completion brings it
            await loop.sock_sendall(left, message)
            assert await receiving == message


async def test_timers_threads_files_and_sockets(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("wake", engine=engine) as hook:
        begin = loop.time()
        await asyncio.sleep(0.02)
        assert loop.time() - begin >= 0.02
        assert await loop.run_in_executor(None, lambda: 5) == 5
        woken = asyncio.Event()
        threading.Timer(0.01, loop.call_soon_threadsafe, (woken.set,)).start()
        await woken.wait()
        await exchange(loop)
        await aiouring.fs.write_bytes(tmp_path / "file", b"bytes")
        assert await aiouring.fs.read_bytes(tmp_path / "file") == b"bytes"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(7)", stdout=subprocess.PIPE)
        assert (await process.communicate())[0] == b"7\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.01)
        stats = hook.stats
        assert stats["woke"] + stats["consumed"] == stats["cqes"]
        assert stats["woke"] > 0
        assert stats["steps"] > 0
        if engine == "inline":
            assert stats["consumed"] == 0  # the kernel engine's timers


async def test_many_timers_with_deadlines_that_come_nearer(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("wake", engine=engine):
        late = loop.call_later(60, lambda: None)
        order: list[int] = []
        begin = loop.time()
        for number in range(30):
            loop.call_at(begin + 0.03 - number * 0.001, order.append, number)
        while len(order) < 30:
            await asyncio.sleep(0.001)
        assert order == sorted(order, reverse=True)
        late.cancel()
        assert stats_of(loop)["slots_in_use"] == 1


async def test_signals(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("wake", engine=engine):
        got = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, got.set)
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await got.wait()
        loop.remove_signal_handler(signal.SIGUSR1)


def test_ctrl_c_ends_a_wait(engine: Engine) -> None:
    async def wait() -> None:
        with Hook.load("wake", engine=engine):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        aiouring.run(wait())


async def test_attaching_and_detaching_while_requests_are_in_flight(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(10):
        left, right = pair()
        with left, right:
            receiving = asyncio.ensure_future(loop.sock_recv(right, 100))
            await asyncio.sleep(0)
            hook = Hook.load("wake", engine=engine).attach()
            second = asyncio.ensure_future(loop.sock_recv(left, 100))
            await asyncio.sleep(0)
            await loop.sock_sendall(left, b"one")
            assert await receiving == b"one"
            hook.detach()
            await loop.sock_sendall(right, b"two")
            assert await second == b"two"
    assert stats_of(loop)["stale_cqes"] == 0


def test_the_loop_goes_on_in_another_thread(engine: Engine) -> None:
    loop = aiouring.new_event_loop()
    hook = Hook.load("standard", engine=engine)
    left, right = pair()
    relayed = pair()

    async def begin() -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
        hook.attach()
        receiving = loop.create_task(loop.sock_recv(right, 100))
        job = loop.create_task(aiouring.relay(*relayed))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return receiving, job

    async def go_on(receiving: asyncio.Task[Any], job: asyncio.Task[Any]) -> None:
        with pytest.raises(OSError, match="another thread"):
            await job
        await loop.sock_sendall(left, b"late")
        assert await receiving == b"late"
        await exchange(loop)
        assert hook.stats["tasks"] == 0

    tasks = loop.run_until_complete(begin())
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(go_on(*tasks))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    loop.close()
    for sock in (left, right, *relayed):
        sock.close()
    if failures:
        raise failures[0]


async def test_completions_overflow(engine: Engine) -> None:
    """More completions at once than the CQ and the mailbox have room for: none is lost."""
    loop = asyncio.get_running_loop()
    with Hook.load("wake", engine=engine) as hook:
        pairs = [pair() for _ in range(300)]
        try:
            receiving = [asyncio.ensure_future(loop.sock_recv(right, 10)) for _ in range(40) for _, right in pairs]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for left, _ in pairs:
                left.close()
            assert await asyncio.gather(*receiving) == [b""] * len(receiving)
        finally:
            for _, right in pairs:
                right.close()
        assert hook.stats["cqes"] >= 12_000
    assert stats_of(loop)["slots_in_use"] == 1


# -- verdicts and programs of users ----------------------------------------------------------------------------------------------------------------

COUNT_NOPS = """
    if (aiouring_namespace(cqe) == AIOURING_NS_USER) {
        aiouring_count(hook, 1, 1);
        return AIOURING_CONSUME;
    }
    /* One request of its own for each completion of Python's. */
    struct io_uring_sqe *sqe = aiouring_sqe(hook);
    if (sqe) {
        sqe->opcode = IORING_OP_NOP;
        sqe->user_data = (aiouring_u64)AIOURING_NS_USER << 56 | 5;
        aiouring_count(hook, 0, 1);
    }
    return AIOURING_WAKE;
"""


async def test_a_program_queues_requests_and_consumes_their_completions(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load(build_program(tmp_path, COUNT_NOPS, engine=engine), engine=engine) as hook:
        await exchange(loop)
        await asyncio.sleep(0.01)
        counters = hook.counters
        assert counters[0] > 20
        assert counters[1] == counters[0] or counters[1] == counters[0] - 1  # the last one may be on its way
        assert hook.stats["consumed"] >= counters[1]
    await asyncio.sleep(0)
    assert stats_of(loop)["stale_cqes"] <= 1


HOLD_ALL_BUT_TIMERS = """
    struct aiouring_control *control = aiouring_control(hook);
    if (control->counters[0]++ < 1000000 && cqe->res == 7)
        return AIOURING_HOLD;
    return AIOURING_WAKE;
"""


async def test_what_is_held_comes_with_the_next_wake_and_in_order(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load(build_program(tmp_path, HOLD_ALL_BUT_TIMERS, engine=engine), engine=engine) as hook:
        held, held_peer = pair()
        waking, waking_peer = pair()
        with held, held_peer, waking, waking_peer:
            order: list[str] = []

            async def receive(sock: socket.socket, what: str) -> None:
                await loop.sock_recv(sock, 100)
                order.append(what)

            tasks = [asyncio.ensure_future(receive(held, "held")), asyncio.ensure_future(receive(waking, "waking"))]
            await asyncio.sleep(0)
            await asyncio.sleep(0)

            def send() -> tuple[int, int]:
                before = stats_of(loop)["turns"]
                held_peer.send(b"7 bytes")
                while not hook.stats["held"]:
                    time.sleep(0)
                after = stats_of(loop)["turns"]
                waking_peer.send(b"more than that")
                return before, after

            before, after = await loop.run_in_executor(None, send)
            await asyncio.gather(*tasks)
            assert after - before <= 1
            assert order == ["held", "waking"]
            assert hook.stats["held"] == 1


async def test_a_verdict_that_is_none_detaches_the_hook(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    program = build_program(tmp_path, "    return cqe->res == 9 ? 77 : AIOURING_WAKE;", engine=engine)
    hook = Hook.load(program, engine=engine).attach()
    await exchange(loop)
    left, right = pair()
    with left, right:
        await loop.sock_sendall(left, b"123456789")
        assert await loop.sock_recv(right, 100) == b"123456789"
        await exchange(loop)
    assert not hook.attached
    assert [context["message"] for context in told] == ["The event loop's hook was detached: it returned 77, which is no verdict"]
    loop.set_exception_handler(None)
    hook.detach()
    with Hook.load("wake", engine=engine):
        await exchange(loop)


async def test_memory_and_counters_are_shared(engine: Engine, tmp_path: Path) -> None:
    body = """
    aiouring_u64 *word = AIOURING_AT(hook, aiouring_u64, AIOURING_USER_OFFSET + 8);
    aiouring_u64 *outside = AIOURING_AT(hook, aiouring_u64, 1ull << 40);
    if (word)
        *word += 3;
    if (outside)
        *outside = 1;
    return AIOURING_WAKE;
"""
    loop = asyncio.get_running_loop()
    with Hook.load(build_program(tmp_path, body, engine=engine), engine=engine) as hook:
        memory = hook.memory
        memory[8:16] = (100).to_bytes(8, "little")
        await exchange(loop)
        value = int.from_bytes(memory[8:16], "little")
        assert value > 100
        assert (value - 100) % 3 == 0
        memory.release()


async def test_two_loops_do_not_share_a_programs_globals(tmp_path: Path) -> None:
    body = "    static unsigned long seen;\n    seen++;\n    aiouring_control(hook)->counters[3] = seen;\n    return AIOURING_WAKE;"
    program = build_program(tmp_path, body, engine="inline")
    loop = asyncio.get_running_loop()
    with Hook.load(program, engine="inline") as ours:
        await exchange(loop)
        seen = ours.counters[3]

        def other() -> int:
            async def run() -> int:
                with Hook.load(program, engine="inline") as theirs:
                    await asyncio.sleep(0.001)
                    await asyncio.get_running_loop().run_in_executor(None, int)
                    return theirs.counters[3]

            return aiouring.run(run())

        assert await loop.run_in_executor(None, other) < seen


async def test_an_idle_loop_with_a_hook_does_not_turn(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("wake", engine=engine):
        before = stats_of(loop)
        await asyncio.sleep(0.3)
        after = stats_of(loop)
        assert after["turns"] - before["turns"] <= 4


async def test_programs_that_are_loaded_one_after_the_other_are_each_their_own(engine: Engine, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        program = build_program(folder, f"    aiouring_count(hook, {number}, 1);\n    return AIOURING_WAKE;", engine=engine)
        with Hook.load(program, engine=engine) as hook:
            before = hook.counters
            await exchange(loop)
            counted = [now > then for now, then in zip(hook.counters, before, strict=True)]
            assert [index for index, yes in enumerate(counted) if yes] == [number]
        (tmp_path / "junk.bpf.so").write_bytes(b"no library")
        with pytest.raises(OSError, match="no shared library"):
            Hook.load(tmp_path / "junk.bpf.o", engine="inline").attach()


async def test_a_library_that_was_cut_is_refused(tmp_path: Path) -> None:
    """The loader would map what is not there, and reading it is SIGBUS."""
    program = build_program(tmp_path, "    return AIOURING_WAKE;", engine="inline")
    (library,) = tmp_path.glob("*.bpf.so")
    whole = library.read_bytes()
    for size in (0, 4, 63, 64, 1000, len(whole) // 2):
        library.write_bytes(whole[:size])
        with pytest.raises(OSError, match="no shared library with a hook program"):
            Hook.load(program, engine="inline").attach()
    library.write_bytes(whole)
    with Hook.load(program, engine="inline"):
        await asyncio.sleep(0)
