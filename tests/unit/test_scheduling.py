"""Callbacks, timers, contexts, tasks, debug mode, threads that wake the loop: what asyncio promises of scheduling."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import re
import sys
import threading
import time
import weakref
from typing import Any

import pytest

import aiouring


def turn(loop: aiouring.Loop) -> None:
    """One turn of the loop, without waiting."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_callbacks_run_in_order_and_new_ones_in_the_next_turn(loop):
    ran: list[Any] = []

    def first() -> None:
        ran.append("first")
        loop.call_soon(ran.append, "added")

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    turn(loop)
    assert ran == ["first", "second"]
    turn(loop)
    assert ran == ["first", "second", "added"]


def test_cancelled_handles_do_not_run_and_let_go_of_their_callback(loop):
    class Target:
        def method(self) -> None:
            raise AssertionError("ran")

    target = Target()
    reference = weakref.ref(target)
    handle = loop.call_soon(target.method)
    timer = loop.call_later(1000, target.method)
    del target
    handle.cancel()
    timer.cancel()
    assert handle.cancelled()
    assert timer.cancelled()
    assert reference() is None
    turn(loop)


def test_arguments_are_released_right_after_the_callback(loop):
    class Argument:
        pass

    argument = Argument()
    reference = weakref.ref(argument)
    loop.call_soon(lambda value: None, argument)
    seen = []
    loop.call_soon(lambda: seen.append(reference() is None))
    del argument
    turn(loop)
    assert seen == [True]


def test_contexts(loop):
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen = []
    given = contextvars.copy_context()
    given.run(variable.set, 7)
    variable.set(3)
    handle = loop.call_soon(lambda: seen.append(variable.get()))
    assert handle.get_context()[variable] == 3
    loop.call_soon(lambda: seen.append(variable.get()), context=given)
    loop.call_later(0, lambda: seen.append(variable.get()), context=given)
    loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=given)
    variable.set(4)
    turn(loop)
    turn(loop)
    assert sorted(seen) == [3, 7, 7, 7]


def test_timers_run_in_order_of_time_then_of_request(loop, rng):
    ran: list[int] = []
    start = loop.time()
    moments = [start + rng.choice([0.0, 0.001, 0.002, 0.003]) for _ in range(2000)]
    for index, when in enumerate(moments):
        loop.call_at(when, ran.append, index)
    loop.call_at(start + 0.004, loop.stop)
    loop.run_forever()
    assert ran == sorted(range(2000), key=lambda index: (moments[index], index))


def test_timers_are_never_early(loop):
    async def main() -> None:
        for delay in (0.0, 1e-9, 1e-5, 1e-3, 0.0123):
            start = loop.time()
            await asyncio.sleep(delay)
            assert loop.time() - start >= delay

    loop.run_until_complete(main())


def test_a_million_cancelled_timers_leave_the_heap(loop, rng):
    kept: list[int] = []

    class Payload:
        pass

    alive: list[weakref.ref[Payload]] = []
    for _ in range(100):
        payload = Payload()
        alive.append(weakref.ref(payload))
        handles = [loop.call_later(3600 + rng.random(), lambda payload: None, payload) for _ in range(1000)]
        del payload
        for handle in handles:
            handle.cancel()
        turn(loop)
    loop.call_later(0, kept.append, 1)
    del handles, handle
    turn(loop)
    turn(loop)
    assert kept == [1]
    assert not any(reference() for reference in alive)
    gc.collect()
    timers = sum(isinstance(thing, type(loop.call_later(3600, print))) for thing in gc.get_objects())
    assert timers < 1000


def test_timer_handle_compares_as_asyncios(loop):
    first = loop.call_at(1e9, print)
    second = loop.call_at(2e9, print)
    assert first < second
    assert second > first
    assert first <= first
    assert first >= first
    assert first != second
    assert first.when() == 1e9
    assert "when=1000000000.0" in repr(first)
    assert (first == 5) is False
    first.cancel()
    second.cancel()
    assert "cancelled" in repr(first)


def test_wrong_arguments(loop):
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)
    with pytest.raises(TypeError):
        loop.call_later("soon", print)
    loop.set_debug(True)
    with pytest.raises(TypeError, match="a callable object was expected by call_soon"):
        loop.call_soon("not callable")

    async def coroutine() -> None:
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with call_later"):
        loop.call_later(1, coroutine)


def test_exceptions_go_to_the_handler_and_the_loop_goes_on(loop):
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    ran = []

    def fail() -> None:
        raise ZeroDivisionError

    loop.call_soon(fail)
    loop.call_soon(ran.append, 1)
    turn(loop)
    assert ran == [1]
    assert isinstance(reports[0]["exception"], ZeroDivisionError)
    assert "fail" in reports[0]["message"]
    assert reports[0]["handle"].cancelled() is False


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_leaves_the_other_callbacks_in_place(loop, error):
    ran = []

    def fail() -> None:
        raise error

    loop.call_soon(ran.append, 1)
    loop.call_soon(fail)
    loop.call_soon(ran.append, 2)
    loop.call_soon(ran.append, 3)
    with pytest.raises(error):
        loop.run_forever()
    loop.call_soon(ran.append, 4)
    turn(loop)
    assert ran == [1, 2, 3, 4]


def test_stop_before_run_forever_runs_what_is_ready_once(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.stop()
    loop.run_forever()
    assert ran == [1]


def test_call_soon_threadsafe_storm(loop):
    count, threads = 5000, 4
    done = loop.create_future()
    seen: list[tuple[int, int]] = []

    def note(thread: int, index: int) -> None:
        seen.append((thread, index))
        if len(seen) == count * threads:
            done.set_result(None)

    def work(thread: int) -> None:
        for index in range(count):
            loop.call_soon_threadsafe(note, thread, index)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    loop.run_until_complete(asyncio.wait_for(done, 60))
    for worker in workers:
        worker.join()
    for number in range(threads):
        assert [index for thread, index in seen if thread == number] == list(range(count))


def test_a_thread_wakes_a_sleeping_loop_at_once(loop):
    async def main() -> None:
        for _ in range(200):
            future = loop.create_future()
            threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, None)).start()
            await asyncio.wait_for(future, 30)

    loop.run_until_complete(main())


def test_wrong_thread_in_debug_mode(loop):
    loop.set_debug(True)
    errors: list[str] = []

    def work() -> None:
        for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print), lambda: loop.call_at(1, print)):
            try:
                call()
            except RuntimeError as exc:
                errors.append(str(exc))

    async def main() -> None:
        await loop.run_in_executor(None, work)

    loop.run_until_complete(main())
    assert len(errors) == 3
    assert all("Non-thread-safe operation" in error for error in errors)


def test_slow_callbacks_are_logged_in_debug_mode(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01

    def dawdle() -> None:
        time.sleep(0.02)

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.call_soon(dawdle)
        turn(loop)
    assert "dawdle" in caplog.text
    took = re.search(r"took (\d+\.\d+) seconds", caplog.text)
    assert took and float(took[1]) >= 0.02


def test_debug_mode_remembers_where_a_handle_was_made(loop):
    loop.set_debug(True)
    handle = loop.call_soon(print)
    timer = loop.call_later(100, print)
    assert handle._source_traceback[-1].name == "test_debug_mode_remembers_where_a_handle_was_made"
    assert timer._source_traceback[-1].name == "test_debug_mode_remembers_where_a_handle_was_made"
    assert "created at" in repr(handle)
    handle.cancel()
    timer.cancel()
    assert "created at" in repr(handle)


def test_tasks_are_asyncios(loop):
    async def main() -> list[str]:
        task = asyncio.current_task()
        assert type(task) is asyncio.Task
        assert type(loop.create_future()) is asyncio.Future
        other = asyncio.create_task(asyncio.sleep(10), name="sleeper")
        await asyncio.sleep(0)
        names = sorted(task.get_name() for task in asyncio.all_tasks())
        assert other.get_stack()
        other.cancel()
        return names

    assert "sleeper" in loop.run_until_complete(main())


if sys.version_info >= (3, 12):

    def test_eager_tasks(loop):
        loop.set_task_factory(asyncio.eager_task_factory)

        async def main() -> None:
            ran = []

            async def child() -> int:
                ran.append(1)
                return 5

            task = asyncio.create_task(child())
            assert ran == [1]
            assert task.done()
            assert await task == 5

        loop.run_until_complete(main())


def test_asynchronous_generators_are_shut_down(loop):
    finished = []

    async def generator() -> Any:
        try:
            yield 1
            yield 2
        finally:
            finished.append(1)

    async def main() -> Any:
        iterator = generator()
        await anext(iterator)
        return iterator

    iterator = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert finished == [1]
    del iterator


def test_a_dropped_loop_is_collected_and_warns():
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        loop = aiouring.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        reference = weakref.ref(loop)
        loop.call_later(1000, print, loop)
        loop.call_soon(print, loop)
        del loop
        gc.collect()
    assert reference() is None


def test_a_turn_with_nothing_for_the_kernel_makes_no_call(loop):
    async def main() -> tuple[int, int]:
        before = loop.ring_stats()
        for _ in range(1000):
            await asyncio.sleep(0)
        after = loop.ring_stats()
        return after["turns"] - before["turns"], after["enters"] - before["enters"]

    turns, enters = loop.run_until_complete(main())
    assert turns >= 1000
    assert enters == 0


def test_an_idle_loop_does_not_wake_up(loop):
    async def main() -> int:
        before = loop.ring_stats()["turns"]
        await asyncio.sleep(0.3)
        return loop.ring_stats()["turns"] - before

    assert loop.run_until_complete(main()) <= 2


def test_time_is_monotonic_time(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()


def test_getaddrinfo_answers_literals_and_resolves_names(loop):
    async def main() -> None:
        assert (await loop.getaddrinfo("127.0.0.1", 80))[0][4] == ("127.0.0.1", 80)
        assert any(entry[4][0] in ("127.0.0.1", "::1") for entry in await loop.getaddrinfo("localhost", 80))
        assert (await loop.getnameinfo(("127.0.0.1", 80)))[1] in ("http", "80")

    loop.run_until_complete(main())


def test_policy_and_install():
    import subprocess

    code = (
        "import asyncio, aiouring, warnings; warnings.simplefilter('ignore', DeprecationWarning);"
        "{}; loop = asyncio.new_event_loop(); print(type(loop).__module__); loop.close();"
        "asyncio.run(asyncio.sleep(0))"
    )
    for how in ("aiouring.install()", "asyncio.set_event_loop_policy(aiouring.EventLoopPolicy())"):
        done = subprocess.run([sys.executable, "-c", code.format(how)], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "aiouring.loop", done.stderr


def test_an_interrupt_in_the_last_callback_loses_nothing_that_it_scheduled(loop):
    ran = []

    def fail() -> None:
        loop.call_soon(ran.append, 1)
        loop.call_soon(ran.append, 2)
        raise KeyboardInterrupt

    loop.call_soon(fail)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_soon(loop.call_soon, ran.append, 3)
    turn(loop)
    turn(loop)
    assert ran == [1, 2, 3]


def test_a_timer_that_is_always_due_does_not_starve_the_loop(loop):
    async def main() -> None:
        pending: list[asyncio.TimerHandle] = []

        def again() -> None:
            pending[:] = [loop.call_at(0, again)]

        again()
        for _ in range(10):
            await asyncio.sleep(0.001)
        pending[0].cancel()

    loop.run_until_complete(main())
