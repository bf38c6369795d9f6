"""run_in_executor() and the loop's own pool: asyncio's rules, and what comes of calls that no thread ever began."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import threading
import weakref
from typing import Any

import pytest

import aiouring
from aiouring.executor import in_executor, open_in_executor

from .op_programs import busy_executor

started = asyncio.ensure_future


def fail(error: BaseException) -> None:
    raise error


async def test_results_and_exceptions() -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
    assert await asyncio.gather(*[loop.run_in_executor(None, pow, 2, n) for n in range(200)]) == [2**n for n in range(200)]
    for error in (ValueError("wrong"), asyncio.InvalidStateError(), KeyError(1), SystemError()):
        with pytest.raises(type(error)):
            await loop.run_in_executor(None, fail, error)
    with pytest.raises(RuntimeError, match="StopIteration") as raised:  # asyncio's own way, up to Python 3.11, waits for ever
        await asyncio.wait_for(loop.run_in_executor(None, fail, StopIteration(1)), 20)
    assert isinstance(raised.value.__cause__, StopIteration)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]
    assert threads and not any(thread.daemon for thread in threads)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading._DummyThread)]


async def test_executors_of_the_users() -> None:
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert await loop.run_in_executor(pool, divmod, 7, 2) == (3, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        await loop.run_in_executor(pool, len, "")

    class Here(concurrent.futures.Executor):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_result((function, args))
            return future

    given: Any = await loop.run_in_executor(Here(), divmod, 7, 2)
    assert given == (divmod, (7, 2))

    class Doubling(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
            return super().submit(lambda: 2 * function(*args, **kwargs))

    with Doubling(1) as doubling:
        assert await loop.run_in_executor(doubling, pow, 2, 4) == 32


async def test_a_broken_pool_says_so() -> None:
    loop = asyncio.get_running_loop()
    pool = concurrent.futures.ThreadPoolExecutor(1, initializer=fail, initargs=(ValueError("refused"),))
    with pytest.raises(concurrent.futures.BrokenExecutor):
        await asyncio.wait_for(loop.run_in_executor(pool, len, ""), 20)
    pool.shutdown()


async def test_cancelled_before_a_thread_begins_it() -> None:
    loop = asyncio.get_running_loop()
    ran: list[int] = []
    with busy_executor(loop) as go:
        future = loop.run_in_executor(None, ran.append, 1)
        last = loop.run_in_executor(None, ran.append, 2)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        go.set()
        await last
    assert ran == [2]


async def test_a_pool_that_is_shut_down_ends_what_it_has_not_begun() -> None:
    loop: Any = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        go = threading.Event()
        first = loop.run_in_executor(pool, go.wait)
        others = [loop.run_in_executor(pool, len, "") for _ in range(3)]
        pool.shutdown(wait=False, cancel_futures=True)
        done, _ = await asyncio.wait(others, timeout=20)
        assert len(done) == 3 and all(other.cancelled() for other in others)
        go.set()
        assert await first


async def test_a_cancelled_call_ends_with_its_thread() -> None:
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait()

    call = started(in_executor(work))
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    for _ in range(2):
        call.cancel()
        await asyncio.sleep(0)
    assert not call.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_descriptor_that_nobody_takes_is_closed() -> None:
    loop = asyncio.get_running_loop()
    with busy_executor(loop) as go:
        before = len(os.listdir("/proc/self/fd"))
        calls = [started(open_in_executor("/", os.O_RDONLY, 0, None)) for _ in range(5)]
        closed = open_in_executor("/", os.O_RDONLY, 0, None)
        closed.send(None)
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        closed.close()
        go.set()
        await asyncio.wait(calls)
        await loop.run_in_executor(None, len, "")
    while len(os.listdir("/proc/self/fd")) > before:
        await asyncio.sleep(0)
    assert all(call.cancelled() for call in calls)


def test_a_loop_that_is_closed_meanwhile_is_left_alone() -> None:
    go = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    loop = aiouring.new_event_loop()

    async def begin() -> None:
        asyncio.get_running_loop().run_in_executor(pool, go.wait)
        asyncio.get_running_loop().run_in_executor(pool, len, "")

    loop.run_until_complete(begin())
    loop.close()
    known = weakref.ref(loop)
    del loop, begin
    go.set()
    pool.shutdown()
    gc.collect()
    assert known() is None
