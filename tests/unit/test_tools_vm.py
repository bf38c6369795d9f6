"""The lane of the virtual machine: what it starts in the guest, and that it never passes without a test of the kernel engine."""

from __future__ import annotations

import os
import subprocess
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
