"""The ring's own counters in ring_stats()."""

from __future__ import annotations

import asyncio
import socket

import aiouring


def test_requests_and_completions_are_counted(loop: aiouring.Loop) -> None:
    async def receive_hundred_times() -> tuple[int, int]:
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            before = loop.ring_stats()
            for _ in range(100):
                b.send(b"x")
                assert await loop.sock_recv(a, 1) == b"x"
            after = loop.ring_stats()
        return after["requests"] - before["requests"], after["cqes"] - before["cqes"]

    requests, cqes = loop.run_until_complete(receive_hundred_times())
    assert requests == 100
    assert cqes == 100


def test_a_closed_loop_still_tells_its_counters() -> None:
    loop = aiouring.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert loop.ring_stats()["cqes"] == 0
