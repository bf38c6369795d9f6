"""What hooks save, in counts: turns of Python and returns of io_uring_enter. Times say nothing under emulation, counts are exact."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring.bpf import Hook, echo
from aiouring.bpf.hooks import Engine
from tests.unit.hook_programs import ENGINES, pair

MESSAGES = 1000


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    value: Engine = request.param
    return value


class Counts:
    """Turns and enters of a loop since it was made, for a thread that works while the loop sleeps."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.before = loop.ring_stats()

    def since(self) -> tuple[int, int]:
        now = self.loop.ring_stats()
        return now["turns"] - self.before["turns"], now["enters"] - self.before["enters"]


def ping_pong(loop: Any, here: socket.socket, there: socket.socket) -> tuple[int, int]:
    """MESSAGES messages of 1 KiB there and back, in a thread."""
    # The first one finds the loop asleep in its enter, so that what is counted begins and ends there.
    here.sendall(b"first")
    assert there.recv(2048) == b"first"
    counts = Counts(loop)
    for number in range(MESSAGES // 2):
        message = b"%04d" % number * 256
        here.sendall(message)
        assert receive(there, len(message)) == message
        there.sendall(message)
        assert receive(here, len(message)) == message
    return counts.since()


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += sock.recv(length - len(data))
    return data


async def test_a_relay_wakes_nobody(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    left, a = pair(tcp=True)
    b, right = pair(tcp=True)
    with left, a, b, right, Hook.load("standard", engine=engine) as hook:
        job = asyncio.ensure_future(aiouring.relay(a, b))
        left.setblocking(True)
        right.setblocking(True)
        turns, enters = await loop.run_in_executor(None, ping_pong, loop, left, right)
        steps = hook.stats["steps"]
        print(f"relay, {engine}: {turns} turns and {enters} enters for {MESSAGES} messages; {steps} steps of the program")
        assert turns == 0
        if engine == "kernel":
            assert enters == 0  # the loop never came back from the one in which it slept
        assert steps >= MESSAGES
        left.close()
        right.close()
        await job


async def test_an_echo_wakes_nobody(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    left, a = pair(tcp=True)
    with left, a, Hook.load("standard", engine=engine) as hook:
        job = asyncio.ensure_future(echo(a))
        left.setblocking(True)
        turns, enters = await loop.run_in_executor(None, ping_pong, loop, left, left)
        print(f"echo, {engine}: {turns} turns and {enters} enters for {MESSAGES} messages; {hook.stats['steps']} steps of the program")
        assert turns == 0
        if engine == "kernel":
            assert enters == 0
        left.close()
        await job


async def test_a_large_copy_wakes_once(engine: Engine, tmp_path: Path) -> None:
    loop: Any = asyncio.get_running_loop()
    size = 100 << 20
    with (tmp_path / "src").open("wb+") as src, (tmp_path / "dst").open("wb+") as dst:
        block = os.urandom(1 << 20)
        for _ in range(size >> 20):
            src.write(block)
        src.flush()
        with Hook.load("standard", engine=engine):
            # Something else may wake the loop meanwhile (the thread that loaded the hook, when it ends), but not each time.
            for _ in range(4):
                dst.truncate(0)
                await asyncio.sleep(0)
                counts = Counts(loop)
                assert await aiouring.copy(src, dst) == size
                turns, enters = counts.since()
                print(f"copy, {engine}: {turns} turns and {enters} enters for 100 MiB")
                if turns <= 2 and (engine != "kernel" or enters == 1):
                    break
        # One turn begins it and sleeps in its enter; the next one, which the end wakes, runs the task.
        assert turns <= 2
        if engine == "kernel":
            assert enters == 1
        dst.seek(0)
        while data := dst.read(1 << 20):
            assert data == block
