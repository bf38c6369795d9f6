"""Chains against plain calls, and what their results, errors and arguments are."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from aiouring.bpf import Hook
from tests.unit.chain_model import compare
from tests.unit.hook_programs import ENGINES, some


def stats() -> dict[str, int]:
    return asyncio.get_running_loop().ring_stats()  # type: ignore[attr-defined, no-any-return]


async def test_linked_chains_do_what_plain_calls_do(tmp_path: Path, rng: random.Random) -> None:
    for _ in range(250):
        assert not await compare(tmp_path, rng.randrange(1 << 40), carry=False)
    assert stats()["registered_files"] == 0
    assert stats()["slots_in_use"] == 1
    assert stats()["stale_cqes"] == 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_chains_that_carry_results_do_what_plain_calls_do(tmp_path: Path, rng: random.Random, engine: Any) -> None:
    with Hook.load("standard", engine=engine) as hook:
        carried = 0
        for _ in range(some(engine, 250)):
            carried += await compare(tmp_path, rng.randrange(1 << 40), carry=True)
        assert carried >= 10
        assert hook.stats["tasks"] == 0
    assert stats()["registered_files"] == 0
    assert stats()["slots_in_use"] == 1
