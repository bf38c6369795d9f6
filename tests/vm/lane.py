"""Runs tests in a virtual machine whose kernel has the loop hook: what `make test-vm` calls.

It runs on the host, boots the kernel by run-vm.sh, and starts three runs in the guest side by side: `hook`, every test with the marker
`kernel_hook`; `unit`, those of UNIT_TESTS; and `conformance`, a part of CPython's suite with a hook in the kernel. Each leaves its counts in
`.cache/results/`, through which the lane sees that tests with the marker really ran. It calls nothing of the package.

Emulated code runs about twenty times slower than the host's, so the unit tests here are a selection: what a newer kernel and another order of events
can change, not how arguments are checked.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "vm"
KERNEL = ROOT / ".cache" / "vm" / "vmlinux"
RESULTS = ROOT / ".cache" / "results"
MARKER = "kernel_hook"

# `hook` and `unit` take nine minutes of processor time, half of that on two processors that have nothing else to do. This is for a busy machine, and
# ends a guest that hangs.
LIMIT_S = 1200
GUEST_DIED = 125

# What a newer kernel is most likely to change. Signals and scheduling would take half as long again as all of these.
UNIT_TESTS = [
    f"tests/unit/test_{name}.py"
    for name in (
        "overflow", "registered_files", "silent_send", "lifecycle", "busy_poll", "sock", "stream", "server", "pipe", "file_lifetime", "fs_beneath",
    )
]  # fmt: skip


# The event loop's own suite with a hook in the kernel that leaves all to Python: what the budget bears of it.
CONFORMANCE = [
    "-m", "tests.conformance", "--suite", "cpython", "--loop", "aiouring-hook-kernel",
    "--python", sys.executable,
    *(f"--only=test_{name}" for name in ("events", "sock_lowlevel", "streams", "server")),
]  # fmt: skip


def conformance_command() -> str:
    """A part of CPython's test suite in the guest. Its environment is made here, where there is a network and a fast processor."""
    prepared = subprocess.run([sys.executable, *CONFORMANCE, "--prepare"], cwd=ROOT)
    if prepared.returncode != 0:
        raise SystemExit("test-vm: the environment of the conformance tests cannot be made")
    # A test's own waits are meant for this machine's speed, and so is its time-out.
    command = [sys.executable, *CONFORMANCE, "--jobs", "1", "--timeout", "400", f"--json={RESULTS}/test-vm.json"]
    return f"(set -o pipefail; PYTHONUNBUFFERED=1 {shlex.join(command)} 2>&1 | sed --unbuffered 's/^/conformance: /')"


def hook_tests() -> list[str]:
    """The files that have tests with the marker. They are looked for here: collecting all tests takes minutes in the guest."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", MARKER, "tests/unit", "tests/vm"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"test-vm: the tests with the marker {MARKER} cannot be collected:\n{done.stdout}")
    return [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("tests/")]


def pytest_command(name: str, files: list[str], marker: str, arguments: list[str]) -> str:
    """One run of pytest in the guest, whose lines begin with its name."""
    command = [
        # The guest has this machine's files under their names.
        sys.executable,
        "-m",
        "pytest",
        *files,
        f"-m={marker}",
        # A test's own time-out is meant for this machine's speed.
        "--timeout=300",
        f"--junitxml={RESULTS}/test-vm-{name}.xml",
        f"-o=cache_dir=.cache/vm/pytest-{name}",
        "-v",
        "--durations=15",
        *arguments,
    ]
    # pytest's last line would end in the middle of the other run's; sed puts both out line by line.
    return f"(set -o pipefail; PYTHONUNBUFFERED=1 {shlex.join(command)} 2>&1 | sed --unbuffered 's/^/{name}: /')"


def guest_script(runs: list[str]) -> str:
    """Starts the runs side by side and ends with a status other than 0 if one of them did."""
    lines = ["echo \"test-vm: Linux $(uname -r) is up after $(cut -d. -f1 /proc/uptime) s of its own clock\"", "pids=()"]
    for run in runs:
        lines += [f"{run} & pids+=($!)"]
    lines += ["status=0", 'for pid in "${pids[@]}"; do wait "$pid" || status=1; done', "exit $status"]
    return "\n".join(lines)


def boot(script: str) -> int:
    command = [str(HERE / "run-vm.sh"), "-k", str(KERNEL), "-w", str(ROOT), "-t", str(LIMIT_S), "--", script]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}).returncode


def hook_tests_that_ran(results: Path) -> int:
    """How many tests of the run `hook` passed or failed; a skipped one did not run."""
    if not results.exists():
        return 0
    cases = ElementTree.parse(results).getroot().iter("testcase")
    return sum(case.find("skipped") is None for case in cases)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="Runs tests on a kernel with the loop hook, under emulation.")
    parser.add_argument("--only", choices=["hook", "unit", "conformance"], help="leave the other runs out")
    parser.add_argument("files", nargs="*", help="these test files in place of the run's own")
    options, for_pytest = parser.parse_known_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    selection = {"hook": (options.files or hook_tests(), MARKER), "unit": (options.files or UNIT_TESTS, f"not {MARKER}")}
    names = [options.only] if options.only else ["hook", "unit", "conformance"]
    runs = []
    for name in names:
        (RESULTS / f"test-vm-{name}.xml").unlink(missing_ok=True)
        runs.append(conformance_command() if name == "conformance" else pytest_command(name, *selection[name], for_pytest))
    script = guest_script(runs)

    begin_s = time.monotonic()
    print(f"test-vm: booting Linux {(KERNEL.parent / 'version').read_text().strip()} under emulation, for {' and '.join(names)}", flush=True)
    status = boot(script)
    if status == GUEST_DIED:
        # One guest in about two hundred dies in a race of the emulated timer, which says nothing about the tests.
        print("test-vm: THE GUEST DIED; once more", flush=True)
        status = boot(script)
    # Without that run the file is an earlier one's.
    ran = hook_tests_that_ran(RESULTS / "test-vm-hook.xml") if "hook" in names else 0
    print(f"test-vm: {ran} tests with the marker {MARKER} ran; {time.monotonic() - begin_s:.0f} s in all", flush=True)
    if "hook" in names and ran == 0:
        print(f"test-vm: FAILED: no test with the marker {MARKER} ran", flush=True)
        return status or 1
    return status
