"""The lane of the virtual machine: what it starts in the guest, and that it never passes without a test of the kernel engine."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import lane

ROOT = Path(__file__).resolve().parents[2]


def run_guest_script(*runs: str) -> subprocess.CompletedProcess[str]:
    guest = lane.Guest(ROOT / "vmlinux", "0.0", "", [], {str(number): run for number, run in enumerate(runs)})
    return subprocess.run(["bash", "-c", guest.script()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_runs_are_side_by_side_and_each_must_pass(tmp_path: Path) -> None:
    # Each waits for the other: one after the other they would never end.
    left, right = tmp_path / "left", tmp_path / "right"
    os.mkfifo(left)
    os.mkfifo(right)
    done = run_guest_script(f"(echo ready > {left}; read -r line < {right}; exit 0)", f"(read -r line < {left}; echo ready > {right}; exit 0)")
    assert done.returncode == 0, done.stdout
    assert "is up after" in done.stdout
    assert run_guest_script("true", "false").returncode == 1
    assert run_guest_script("(exit 3)", "true").returncode == 1


def guest_that(monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> lane.Guest:
    """A guest of the lane whose boot is a script of this machine."""
    guest = lane.Guest(ROOT / "vmlinux", "0.0", "", [], {name: "true"})
    monkeypatch.setattr(guest, "boot", lambda: lane.run_to_end(["bash", "-c", script]))
    return guest


def test_guests_are_side_by_side_and_each_must_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    os.mkfifo(left)
    os.mkfifo(right)
    first = guest_that(monkeypatch, "unit", f"echo ready > {left}; read -r line < {right}")
    second = guest_that(monkeypatch, "conformance", f"read -r line < {left}; echo ready > {right}")
    assert lane.run_side_by_side([lambda: first, lambda: second]) == 0
    failing, passing = (guest_that(monkeypatch, "unit", script) for script in ("exit 3", "exit 0"))
    assert lane.run_side_by_side([lambda: passing, lambda: failing]) == 3

    def refuses() -> lane.Guest:
        raise SystemExit("there is no compiler")

    assert lane.run_side_by_side([refuses, lambda: passing]) == 1


def test_a_guest_without_its_tests_fails_beside_one_that_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "RESULTS", tmp_path)
    passing, empty = (guest_that(monkeypatch, name, "exit 0") for name in ("unit", "module"))
    assert lane.run_side_by_side([lambda: passing, lambda: empty]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_guest_outlives_the_lane(tmp_path: Path, number: signal.Signals) -> None:
    """Told to end, the lane passes it on to the guests, which run in groups of their own."""
    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    program = f"""
import signal, sys
from tests.vm import lane
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
guest = lane.Guest(lane.ROOT, "0.0", "", [], {{"unit": "true"}})
guest.boot = lambda: lane.run_to_end(["setsid", "--wait", "bash", "-c", "trap 'kill $!; exit 143' TERM; sleep 1000 & echo $$ >{pid_file}; wait"])
sys.exit(lane.run_side_by_side([lambda: guest]))
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    guest_end = os.pidfd_open(int(pid_file.read_text()))
    process.send_signal(number)
    output = process.communicate(timeout=60)
    assert process.returncode != 0, output
    ended = select.select([guest_end], [], [], 0)[0]
    os.close(guest_end)
    assert ended, output


def test_lines_begin_with_the_runs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "RESULTS", tmp_path)
    done = subprocess.run(
        ["bash", "-c", lane.pytest_command("hook", ["no-such-file.py"], "kernel_hook", [])],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 4
    assert all(line.startswith("hook: ") for line in done.stdout.splitlines())
    assert "hook: ERROR: file or directory not found: no-such-file.py" in done.stdout
    assert lane.tests_that_ran(tmp_path / "test-vm-hook.xml") == 0


@pytest.mark.parametrize(
    ("cases", "ran"),
    [
        ("", 0),
        ('<testcase name="a"/><testcase name="b"><failure message="no"/></testcase>', 2),
        ('<testcase name="a"><skipped message="needs kernel: x"/></testcase>', 0),
    ],
)
def test_skipped_tests_did_not_run(tmp_path: Path, cases: str, ran: int) -> None:
    path = tmp_path / "results.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert lane.tests_that_ran(path) == ran
    assert lane.tests_that_ran(tmp_path / "missing.xml") == 0


def test_the_files_of_the_lane_exist() -> None:
    assert not [name for name in lane.UNIT_TESTS if not (ROOT / name).exists()]


def test_the_virtual_machine_says_what_it_lacks(tmp_path: Path) -> None:
    command = [str(ROOT / "tests" / "vm" / "run-vm.sh"), "-k", str(tmp_path / "vmlinux"), "-w", str(tmp_path), "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 126
    assert "there is no kernel" in done.stderr and "setup-kernel.sh" in done.stderr
