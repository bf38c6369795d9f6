"""A loop that looks for completions before it sleeps: what it must not change, and that it does look."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

import aiouring
from aiouring import Loop

LOOKING_S = 1.0  # the most that there may be


@pytest.fixture
def polling_loop() -> Iterator[Loop]:
    loop = aiouring.new_event_loop(busy_poll=LOOKING_S)
    yield loop
    loop.close()


def test_what_comes_while_it_looks_is_found_without_sleeping(polling_loop: Loop) -> None:
    loop = polling_loop
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)

        def answer() -> None:
            for _ in range(100):
                far.sendall(far.recv(100))

        thread = threading.Thread(target=answer)
        thread.start()

        async def ping() -> None:
            for number in range(100):
                await loop.sock_sendall(near, b"%d" % number)
                assert await loop.sock_recv(near, 100) == b"%d" % number

        loop.run_until_complete(ping())
        thread.join()
    assert loop.ring_stats()["busy_poll_hits"] >= 50  # the others came before it began to look


def test_timers_and_other_threads_end_the_looking(polling_loop: Loop) -> None:
    loop = polling_loop

    async def woken_by_a_thread() -> None:
        woken = asyncio.Event()
        thread = threading.Timer(0.01, loop.call_soon_threadsafe, (woken.set,))
        thread.start()
        await woken.wait()
        thread.join()

    async def woken_by_a_timer() -> None:
        begin = loop.time()
        await asyncio.sleep(0.02)
        assert loop.time() - begin >= 0.02

    async def quickest(wait: Callable[[], Awaitable[None]]) -> float:
        """Of so many waits that a busy machine cannot hold up all of them; one that lasts until the looking ends is as long each time."""
        lengths: list[float] = []
        while len(lengths) < 8 and min(lengths, default=LOOKING_S) >= LOOKING_S:
            begin = loop.time()
            await wait()
            lengths.append(loop.time() - begin)
        return min(lengths)

    for wait in (woken_by_a_thread, woken_by_a_timer):
        assert loop.run_until_complete(quickest(wait)) < LOOKING_S


def test_a_timer_after_the_looking_still_comes() -> None:
    loop = aiouring.new_event_loop(busy_poll=0.0001)
    try:
        begin = loop.time()
        loop.run_until_complete(asyncio.sleep(0.02))
        assert loop.time() - begin >= 0.02
        assert loop.ring_stats()["busy_poll_hits"] == 0
    finally:
        loop.close()


@pytest.mark.parametrize("seconds", [-1, 1.5, math.nan, math.inf])
def test_times_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="busy_poll is a time in seconds from 0 to 1"):
        aiouring.new_event_loop(busy_poll=seconds)
