"""tools/test_parts.py and the option --part: every test is in one part, a part that fails fails all, and nothing outlives who started it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "test_parts.py"


def run_parts(count: int, prefix: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(count), str(prefix), *command], cwd=ROOT, capture_output=True, text=True)


def names_in(path: Path) -> list[str]:
    return [f"{case.get('classname')}::{case.get('name')}" for case in ElementTree.parse(path).getroot().iter("testcase")]


def test_every_test_is_in_one_part(tmp_path: Path) -> None:
    pytest_here = [sys.executable, "-m", "pytest", "tests/unit/test_address.py", "-k", "not asyncio"]
    whole = subprocess.run([*pytest_here, f"--junitxml={tmp_path / 'whole.xml'}"], cwd=ROOT, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stdout
    done = run_parts(2, tmp_path / "parts", *pytest_here)
    assert done.returncode == 0, done.stdout
    parts = [names_in(tmp_path / f"parts-{number}.xml") for number in (1, 2)]
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == sorted(names_in(tmp_path / "whole.xml"))
    assert {line[:3] for line in done.stdout.splitlines()} == {"1: ", "2: "}


def test_a_part_that_fails_fails_all(tmp_path: Path) -> None:
    for failing in (1, 2):
        script = f'case $1 in --part={failing}/*) echo no; exit 3;; esac; echo yes'
        done = run_parts(2, tmp_path / "parts", "bash", "-c", script, "part")
        assert (done.returncode, sorted(done.stdout.splitlines())) == (3, sorted([f"{failing}: no", f"{3 - failing}: yes"]))
    killed = run_parts(1, tmp_path / "parts", "bash", "-c", "kill -KILL $$")
    assert killed.returncode == signal.SIGKILL
    assert run_parts(1, tmp_path / "parts").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_part_outlives_the_rest(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in a terminal reaches the parts too, SIGTERM does not."""
    pipe = tmp_path / "pids"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, str(TOOL), "1", str(tmp_path / "parts"), "bash", "-c", f"echo $$ >{pipe}; exec sleep 1000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
    )  # fmt: skip
    part_end = os.pidfd_open(int(pipe.read_text()))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    ended = select.select([part_end], [], [], 0)[0]
    os.close(part_end)
    assert ended and process.returncode == 128 + number
