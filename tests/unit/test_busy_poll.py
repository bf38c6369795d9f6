"""A loop that looks for completions before it sleeps: what it must not change, and that it does look."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Iterator

import pytest

import aiouring
from aiouring import Loop


@pytest.fixture
def polling_loop() -> Iterator[Loop]:
    loop = aiouring.new_event_loop(busy_poll=0.5)
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
    woken = asyncio.Event()

    async def main() -> float:
        threading.Timer(0.01, loop.call_soon_threadsafe, (woken.set,)).start()
        await asyncio.wait_for(woken.wait(), 10)
        begin = loop.time()
        await asyncio.sleep(0.02)
        return loop.time() - begin

    assert 0.02 <= loop.run_until_complete(main()) < 0.5  # not as late as the looking may take


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
