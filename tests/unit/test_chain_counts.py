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
        costs = []
        for _ in range(5):
            async with aiouring.Chain() as chain:
                for _ in range(4):
                    data = chain.read(file, buffer, offset=0)
                    chain.send(left, buffer, length=data.result)
                    chain.recv(right, buffer, length=data.result, whole=True)
            enters, turns = counts()
            posted = hook.stats["cqes"]
            assert await chain == [4096] * 12
            enters_now, turns_now = counts()
            costs.append((enters_now - enters, turns_now - turns, hook.stats["cqes"] - posted))
            print(f"{engine}: {costs[-1][0]} enters, {costs[-1][1]} turns, {costs[-1][2]} completions for 12 links")
        # Something else may wake the loop meanwhile (the thread that loaded the hook, when it ends), but not each time.
        enters, turns, completions = map(min, zip(*costs, strict=True))
        assert enters == 1 if engine == "kernel" else enters <= 14  # one for each link, and the first NOP
        assert turns <= 2
        assert completions <= 14
    del loop


async def test_all_files_come_by_one_call_and_go_by_another(tmp_path: Path) -> None:
    """Files that the caller opened are in the ring's table while the chain runs, however many they are."""
    loop: Any = asyncio.get_running_loop()
    before = loop.ring_stats()
    (tmp_path / "source").write_bytes(b"x" * 4096)
    buffer = bytearray(4096)
    left, right = pair()
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target, (tmp_path / "more").open("wb") as more, left, right:
        for round_ in range(4):
            async with aiouring.Chain() as chain:
                chain.read(source, buffer, offset=0)
                chain.write(target, buffer, offset=0)
                if round_ != 2:  # places that were taken by fewer and by more are next to each other again
                    chain.write(more, buffer, offset=0)
                chain.send(left, b"0123456789")
            after_block = loop.ring_stats()
            assert await chain == [4096] * (2 if round_ == 2 else 3) + [10]
            after = loop.ring_stats()
            assert after["enters"] - after_block["enters"] == 1
            if round_:  # the first one makes the table
                assert after["registers"] - before["registers"] == 2
            assert after["registered_files"] == 0
            before = after
        # Files of the loop's own, and what the chain opens and closes, need none.
        async with aiouring.open(tmp_path / "source", "rb") as own:
            before = loop.ring_stats()
            async with aiouring.Chain() as chain:
                chain.read(own, buffer, offset=0)
                file = chain.open(tmp_path / "source")
                chain.read(file, buffer, offset=0)
                chain.close(file)
            assert await chain == [4096, None, 4096, None]
            assert loop.ring_stats()["registers"] == before["registers"]
