"""benchmarks.two_ways counts what it says it counts. No figure of time is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Each count is four processes, half of them traced.
pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str, str], dict[str, float]]:
    """The counts of each job, size, way and engine of this machine."""
    results = tmp_path_factory.mktemp("two_ways") / "results.json"
    command = [sys.executable, "-m", "benchmarks.two_ways", "--counts", "--count", "8", "--json", str(results)]
    command += ["--only", "awaits,links,ops:inline,hook:inline"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=380)
    assert done.returncode == 0, done.stdout
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"]
    assert "wake-ups of Python" in done.stdout
    return {(row["job"], row["bytes"], row["way"], row["engine"]): row["counts"] for row in rows}


JOBS = [("copy", 4096), ("copy", 65536), ("echo", 1024)]


@pytest.mark.parametrize(("job", "size"), JOBS)
def test_every_way_was_counted(counted: dict[tuple[str, int, str, str], dict[str, float]], job: str, size: int) -> None:
    ways = {key[2:] for key in counted if key[:2] == (job, size)}
    assert {("awaits", "-"), ("links", "-"), ("ops", "inline"), ("hook", "inline")} <= ways


@pytest.mark.parametrize(("job", "size"), JOBS)
def test_awaits_have_two_requests_a_block_and_a_chain_of_links_one_enter(
    counted: dict[tuple[str, int, str, str], dict[str, float]], job: str, size: int
) -> None:
    awaits, links = counted[job, size, "awaits", "-"], counted[job, size, "links", "-"]
    assert awaits["requests"] == 2
    assert links["requests"] == 2
    assert links["cqes"] == 1  # the last link speaks for all
    if job == "copy":  # whether an echo's client has answered when the loop looks is the scheduler's business
        assert links["enters"] == 1
        assert awaits["enters"] == 2


@pytest.mark.parametrize(("job", "size"), JOBS)
def test_the_hook_wakes_nobody(counted: dict[tuple[str, int, str, str], dict[str, float]], job: str, size: int) -> None:
    hook = counted[job, size, "hook", "inline"]
    assert hook["wake_ups"] <= 0.5  # a timer of the loop's may be among them
    assert hook["requests"] == 2
    assert hook["cqes"] == 1
