"""What chains save, in counts: entries into the kernel and turns of Python for one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring.bpf import Hook
from tests.unit.hook_programs import ENGINES, pair


def counts() -> tuple[int, int]:
    stats = asyncio.get_running_loop().ring_stats()  # type: ignore[attr-defined]
    return stats["enters"], stats["turns"]


async def test_a_linked_chain_is_one_enter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096)
    buffer = bytearray(4096)
    left, right = pair()
    with left, right, path.open("rb") as file:
        for links in (3, 30):
            async with aiouring.Chain() as chain:
                for _ in range(links // 3):
                    chain.read(file, buffer, offset=0)
                    chain.send(left, memoryview(buffer)[:10])
                    chain.recv(right, memoryview(buffer)[:10], whole=True)
            enters, turns = counts()
            assert await chain == [4096, 10, 10] * (links // 3)
            enters_now, turns_now = counts()
            assert enters_now - enters == 1
            assert turns_now - turns <= 2  # one that submits and dispatches, and the one in which the task runs


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_carried_chain_wakes_python_once(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096)
    buffer = bytearray(10000)
    left, right = pair()
    loop: Any = asyncio.get_running_loop()
    with left, right, path.open("rb") as file, Hook.load("standard", engine=engine) as hook:
        for _ in range(2):
            async with aiouring.Chain() as chain:
                for _ in range(4):
                    data = chain.read(file, buffer, offset=0)
                    chain.send(left, buffer, length=data.result)
                    chain.recv(right, buffer, length=data.result, whole=True)
            enters, turns = counts()
            posted = hook.stats["cqes"]
            assert await chain == [4096] * 12
            enters_now, turns_now = counts()
            print(f"{engine}: {enters_now - enters} enters, {turns_now - turns} turns, {hook.stats['cqes'] - posted} completions for 12 links")
            if engine == "kernel":
                assert enters_now - enters == 1
            else:
                assert enters_now - enters <= 14  # one for each link, and the first NOP
            assert turns_now - turns <= 2
            assert hook.stats["cqes"] - posted <= 14
    del loop
