"""Signals: handlers in the loop, asyncio's checks, the wake-up descriptor and its owner, KeyboardInterrupt, storms and forks."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import aiouring

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def _handlers_are_as_before() -> Iterator[None]:
    """No test leaves a handler or a wake-up descriptor behind."""
    numbers = (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM, USR1, USR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert wakeup_fd() == -1
    assert [signal.getsignal(number) for number in numbers] == before


def wakeup_fd() -> int:
    """The wake-up descriptor that is set, which the signal module tells only to those who set another."""
    current = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(current, warn_on_full_buffer=False)
    return current


def send(number: int) -> None:
    os.kill(os.getpid(), number)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run_python(code: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False)


# -- add and remove ------------------------------------------------------------------------------------------------------------------


def test_handler_is_called_in_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    called: asyncio.Future[tuple[object, ...]] = loop.create_future()

    def handler(*args: object) -> None:
        assert asyncio.get_running_loop() is loop
        called.set_result(args)

    loop.add_signal_handler(USR1, handler, 1, "two")
    loop.call_soon(send, USR1)
    assert loop.run_until_complete(called) == (1, "two")
    assert loop.remove_signal_handler(USR1) is True
    assert loop.remove_signal_handler(USR1) is False
    assert signal.getsignal(USR1) is signal.SIG_DFL


def test_signal_before_the_run_is_kept(loop: asyncio.AbstractEventLoop) -> None:
    called = loop.create_future()
    loop.add_signal_handler(USR1, called.set_result, None)
    send(USR1)
    loop.run_until_complete(asyncio.wait_for(called, 20))
    loop.remove_signal_handler(USR1)


def test_signal_from_another_process_ends_the_wait(loop: asyncio.AbstractEventLoop) -> None:
    called = loop.create_future()
    loop.add_signal_handler(USR1, called.set_result, None)

    async def main() -> None:
        process = await asyncio.create_subprocess_shell(f"kill -USR1 {os.getpid()}")
        await called
        await process.wait()

    loop.run_until_complete(main())
    loop.remove_signal_handler(USR1)


def test_a_second_handler_replaces_the_first(loop: asyncio.AbstractEventLoop) -> None:
    first: list[None] = []
    called = loop.create_future()
    loop.add_signal_handler(USR1, first.append, None)
    loop.add_signal_handler(USR1, called.set_result, None)
    loop.call_soon(send, USR1)
    loop.run_until_complete(called)
    assert first == []
    loop.remove_signal_handler(USR1)


def test_several_signals(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    done = loop.create_future()

    def handler(name: str) -> None:
        seen.append(name)
        if len(seen) == 2:
            done.set_result(None)

    loop.add_signal_handler(USR1, handler, "one")
    loop.add_signal_handler(USR2, handler, "two")
    loop.call_soon(send, USR1)
    loop.call_soon(send, USR2)
    loop.run_until_complete(done)
    assert sorted(seen) == ["one", "two"]
    loop.remove_signal_handler(USR1)
    assert wakeup_fd() != -1  # still needed
    loop.remove_signal_handler(USR2)


def test_handler_runs_in_the_context_of_its_registration(loop: asyncio.AbstractEventLoop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    seen = loop.create_future()

    async def register() -> None:
        variable.set("inside")
        loop.add_signal_handler(USR1, lambda: seen.set_result(variable.get()))

    async def main() -> str:
        await asyncio.create_task(register())
        send(USR1)
        result: str = await seen
        return result

    assert loop.run_until_complete(main()) == "inside"
    loop.remove_signal_handler(USR1)


def test_removed_before_it_runs(loop: asyncio.AbstractEventLoop) -> None:
    calls: list[None] = []
    loop.add_signal_handler(USR1, calls.append, None)
    send(USR1)
    loop.remove_signal_handler(USR1)
    loop.run_until_complete(turns(5))
    assert calls == []


def test_exception_in_a_handler_is_reported(descriptors: None) -> None:
    loop = aiouring.new_event_loop()
    reported: asyncio.Future[dict[str, Any]] = loop.create_future()
    loop.set_exception_handler(lambda loop, context: reported.set_result(context))

    def fail() -> None:
        raise ZeroDivisionError

    loop.add_signal_handler(USR1, fail)
    loop.call_soon(send, USR1)
    context = loop.run_until_complete(reported)
    assert isinstance(context["exception"], ZeroDivisionError)
    loop.close()


def test_sigint_gets_its_default_back(loop: asyncio.AbstractEventLoop) -> None:
    called = loop.create_future()
    loop.add_signal_handler(signal.SIGINT, called.set_result, None)
    loop.call_soon(send, signal.SIGINT)
    loop.run_until_complete(called)
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_close_removes_all_handlers(descriptors: None) -> None:
    loop = aiouring.new_event_loop()
    loop.add_signal_handler(USR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    assert wakeup_fd() != -1
    loop.close()
    assert signal.getsignal(USR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(USR1, print)


# -- asyncio's checks -----------------------------------------------------------------------------------------------------------------


def test_coroutines_are_refused(loop: asyncio.AbstractEventLoop) -> None:
    async def handler() -> None: ...

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(USR1, handler)
    coroutine = handler()
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(USR1, coroutine)  # type: ignore[arg-type]
    coroutine.close()


@pytest.mark.parametrize("bad", ["text", None, 1.5])
def test_signals_are_ints(loop: asyncio.AbstractEventLoop, bad: Any) -> None:
    with pytest.raises(TypeError, match="sig must be an int"):
        loop.add_signal_handler(bad, print)
    with pytest.raises(TypeError, match="sig must be an int"):
        loop.remove_signal_handler(bad)


@pytest.mark.parametrize("bad", [0, -1, 1000])
def test_invalid_numbers(loop: asyncio.AbstractEventLoop, bad: int) -> None:
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.add_signal_handler(bad, print)
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.remove_signal_handler(bad)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_uncatchable(loop: asyncio.AbstractEventLoop, number: int) -> None:
    with pytest.raises(RuntimeError, match=f"sig {int(number)} cannot be caught"):
        loop.add_signal_handler(number, print)
    assert wakeup_fd() == -1
    assert loop.remove_signal_handler(number) is False


def test_other_threads_are_refused(descriptors: None) -> None:
    found: list[BaseException] = []

    def run() -> None:
        loop = aiouring.new_event_loop()
        try:
            loop.add_signal_handler(USR1, print)
        except RuntimeError as exc:
            found.append(exc)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])


# -- the wake-up descriptor ----------------------------------------------------------------------------------------------------------


def test_set_while_the_loop_runs_and_unset_after(loop: Any) -> None:
    async def main() -> int:
        return wakeup_fd()

    assert loop.run_until_complete(main()) == loop._wake_fd()
    assert wakeup_fd() == -1


def test_the_users_descriptor_is_left_alone(loop: asyncio.AbstractEventLoop) -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd)
    before = signal.signal(USR1, lambda signum, frame: None)
    try:

        async def main() -> int:
            send(USR1)
            return wakeup_fd()

        assert loop.run_until_complete(main()) == write_fd
        assert wakeup_fd() == write_fd
        assert os.read(read_fd, 10) == bytes([USR1])
    finally:
        signal.signal(USR1, before)
        signal.set_wakeup_fd(-1)
        os.close(read_fd)
        os.close(write_fd)


def test_a_descriptor_set_during_the_run_stays(loop: asyncio.AbstractEventLoop) -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)

    async def main() -> None:
        signal.set_wakeup_fd(write_fd)

    loop.run_until_complete(main())
    assert signal.set_wakeup_fd(-1) == write_fd
    os.close(read_fd)
    os.close(write_fd)


def test_a_loop_in_another_thread_does_not_touch_it(loop: Any) -> None:
    async def main() -> None:
        other = aiouring.new_event_loop()

        def run() -> None:
            other.run_until_complete(turns(3))
            other.close()

        thread = threading.Thread(target=run)
        thread.start()
        await loop.run_in_executor(None, thread.join)
        assert wakeup_fd() == loop._wake_fd()

    loop.run_until_complete(main())


def test_python_handlers_run_while_the_loop_waits(loop: asyncio.AbstractEventLoop) -> None:
    """A handler set with the signal module, not with the loop, runs at once although nothing else wakes the loop."""
    done = loop.create_future()
    before = signal.signal(USR1, lambda signum, frame: done.set_result(signum))
    killer = threading.Timer(0.05, send, (USR1,))
    try:
        killer.start()
        assert loop.run_until_complete(asyncio.wait_for(done, 20)) == USR1
    finally:
        killer.join()
        signal.signal(USR1, before)


# -- storms ----------------------------------------------------------------------------------------------------------------------------


class Counter:
    """A handler that counts, and a future that is done at a count."""

    def __init__(self, loop: asyncio.AbstractEventLoop, enough: int) -> None:
        self.calls = 0
        self.enough = enough
        self.reached: asyncio.Future[None] = loop.create_future()

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.enough:
            self.reached.set_result(None)


def test_storm(loop: asyncio.AbstractEventLoop) -> None:
    """Thousands of signals while data flows: no byte is lost, and a handler that is added in the storm is called."""
    during, after = Counter(loop, 500), Counter(loop, 1)
    loop.add_signal_handler(USR1, during)
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            send(USR1)

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        payload = os.urandom(3_000_000)
        thread = threading.Thread(target=storm)
        thread.start()
        try:
            out, _ = await process.communicate(payload)
            await during.reached
            loop.add_signal_handler(USR1, after)
            await after.reached
        finally:
            stop.set()
            thread.join()
        assert out == payload

    loop.run_until_complete(main())
    loop.remove_signal_handler(USR1)


def test_more_signals_than_the_pipe_holds(loop: asyncio.AbstractEventLoop, capfd: pytest.CaptureFixture[str]) -> None:
    """While callbacks run nobody reads the wake pipe. It fills, and that neither blocks the program nor prints anything."""
    counter = Counter(loop, 60_000)
    loop.add_signal_handler(USR1, counter)

    async def main() -> None:
        for _ in range(70_000):
            send(USR1)
        await counter.reached

    loop.run_until_complete(main())
    loop.remove_signal_handler(USR1)
    assert capfd.readouterr().err == ""


# -- KeyboardInterrupt ------------------------------------------------------------------------------------------------------------------


def test_interrupt_of_a_plain_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(0.01, send, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_until_complete(turns(2))  # it can run on


def test_runner_cancels_the_main_task_first() -> None:
    code = """
import asyncio, os, signal, threading, aiouring
async def main():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.Event().wait()        # nothing but the signal ends this
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
try:
    with asyncio.Runner(loop_factory=aiouring.new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    result = run_python(code)
    assert result.stdout == "cancelled\ninterrupted\n", result
    assert result.returncode == 0


def test_runner_second_interrupt_interrupts_at_once() -> None:
    code = """
import asyncio, os, signal, threading, aiouring
async def main():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()
try:
    with asyncio.Runner(loop_factory=aiouring.new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    result = run_python(code)
    assert result.stdout == "cancelled\ninterrupted\n", result
    assert result.returncode == 0


def test_interrupt_that_another_thread_receives() -> None:
    """The kernel may give a signal to any thread. The wait of the main thread is not interrupted then; the wake-up descriptor ends it,
    as it does for a signal that arrives just before the wait."""
    code = """
import asyncio, signal, threading, aiouring
async def main():
    thread = threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    thread.start()
    await asyncio.Event().wait()
try:
    with asyncio.Runner(loop_factory=aiouring.new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    result = run_python(code, timeout=30)
    assert result.stdout == "interrupted\n", result


def test_interrupts_at_any_moment_end_the_run() -> None:
    """SIGINT at moments that are spread over many turns: between the check for signals and the sleep, none may get lost."""
    code = """
import asyncio, os, signal, subprocess, sys, aiouring
async def main(child):
    child.stdin.write(b"x"); child.stdin.flush()
    await asyncio.Event().wait()
child = subprocess.Popen([sys.executable, "-c", '''
import os, signal, sys, time
delay = 0.0
while sys.stdin.buffer.raw.read(1):
    end = time.perf_counter() + delay
    while time.perf_counter() < end: pass
    delay = (delay + 0.0000037) % 0.0004
    os.kill(os.getppid(), signal.SIGINT)
'''], stdin=subprocess.PIPE, start_new_session=True)
interrupts = 0
for _ in range(300):
    try:
        with asyncio.Runner(loop_factory=aiouring.new_event_loop) as runner:
            runner.run(main(child))
    except KeyboardInterrupt:
        interrupts += 1
print(interrupts)
child.stdin.close()
child.wait()
"""
    result = run_python(code)
    assert result.stdout == "300\n", result


# -- forks and the end -------------------------------------------------------------------------------------------------------------------


def test_signals_of_a_forked_child_are_its_own(loop: asyncio.AbstractEventLoop) -> None:
    """The child inherits handler and pipe. What it is sent must not call the parent's handlers."""
    calls: list[None] = []
    loop.add_signal_handler(USR1, calls.append, None)

    async def main() -> None:
        pid = os.fork()
        if pid == 0:
            send(USR1)
            os._exit(0 if wakeup_fd() == -1 else 1)
        status = (await loop.run_in_executor(None, os.waitpid, pid, 0))[1]
        assert os.waitstatus_to_exitcode(status) == 0
        await turns(5)
        assert calls == []
        send(USR1)
        await turns(3)
        assert calls == [None]

    loop.run_until_complete(main())
    loop.remove_signal_handler(USR1)


def test_loop_with_handlers_is_dropped_at_exit() -> None:
    code = """
import signal, aiouring
loop = aiouring.new_event_loop()
loop.add_signal_handler(signal.SIGTERM, print)
loop.call_soon(print, "ran")
loop.call_soon(loop.stop)
loop.run_forever()
"""
    result = run_python(code)
    assert result.returncode == 0, result
    assert result.stdout == "ran\n"


def test_termination_of_a_server_style_program() -> None:
    code = """
import asyncio, os, signal, aiouring
async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
    print("stopped")
aiouring.run(main())
"""
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "stopped\n"), result
