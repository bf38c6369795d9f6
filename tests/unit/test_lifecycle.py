"""A loop's life: made, run, closed; in one thread or several; and what is left behind, which is nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

import aiouring
from aiouring import Loop


async def one_turn() -> str:
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__name__


def test_runs_a_coroutine(loop: Loop) -> None:
    assert loop.run_until_complete(one_turn()) == "Loop"
    assert not loop.is_running()
    assert not loop.is_closed()


async def test_asynchronous_tests_run_on_aiouring() -> None:
    assert isinstance(asyncio.get_running_loop(), Loop)


@pytest.mark.parametrize("run_first", [False, True])
def test_200_loops_leave_nothing(run_first: bool) -> None:
    # The fixture of all unit tests counts descriptors; here the loops themselves are counted too.
    alive: list[weakref.ref[Loop]] = []
    for _ in range(200):
        loop = aiouring.new_event_loop()
        if run_first:
            assert loop.run_until_complete(one_turn()) == "Loop"
        loop.close()
        alive.append(weakref.ref(loop))
        del loop
    gc.collect()
    assert not [reference for reference in alive if reference() is not None]


def test_close_is_final_and_may_be_repeated() -> None:
    loop = aiouring.new_event_loop()
    loop.close()
    loop.close()
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()


@pytest.mark.parametrize("call", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_calls_that_are_asked_for_while_it_closes_are_forgotten(call: str) -> None:
    class Kept:
        def called(self) -> None:
            raise AssertionError("the loop is closed")

    class Asks:
        def called(self) -> None:
            raise AssertionError("the loop is closed")

        def __del__(self) -> None:
            kept = Kept()
            asked.append(weakref.ref(kept))
            getattr(loop, call)(*[0] * (call == "call_later"), kept.called)

    asked: list[weakref.ref[Kept]] = []
    loop = aiouring.new_event_loop()
    loop.call_soon(Asks().called)
    assert not asked
    loop.close()
    # At once, not by the garbage collector: what a call holds may be large.
    assert [reference() for reference in asked] == [None]


def test_close_is_refused_while_running(loop: Loop) -> None:
    async def close() -> None:
        loop.close()

    with pytest.raises(RuntimeError, match="running"):
        loop.run_until_complete(close())
    assert loop.run_until_complete(one_turn()) == "Loop"


def test_made_in_one_thread_and_run_in_another(loop: Loop) -> None:
    ran: list[str] = []

    def run() -> None:
        ran.append(loop.run_until_complete(one_turn()))

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    # And back in this one, with the state that the others left.
    ran.append(loop.run_until_complete(one_turn()))
    assert ran == ["Loop"] * 3


def test_several_loops_in_several_threads() -> None:
    count = 8
    together = threading.Barrier(count, timeout=60)
    sums: dict[int, int] = {}

    def run(number: int) -> None:
        loop = aiouring.new_event_loop()
        try:

            async def add_up() -> int:
                total = 0
                for step in range(200):
                    total += await asyncio.sleep(0, step)
                return total

            together.wait()
            sums[number] = loop.run_until_complete(add_up())
        finally:
            loop.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == dict.fromkeys(range(count), sum(range(200)))


def test_a_callback_from_another_thread_wakes_the_loop(loop: Loop) -> None:
    done = loop.create_future()

    def call() -> None:
        loop.call_soon_threadsafe(done.set_result, threading.get_ident())

    # The loop has nothing to do and no timer: only the wake-up can end its wait.
    loop.call_soon(threading.Thread(target=call).start)
    assert loop.run_until_complete(done) != threading.get_ident()
