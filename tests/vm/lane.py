"""Runs tests in virtual machines whose kernels have what this machine's lacks: what `make test-vm` and `make test-vm-opcode` call.

It runs on the host and boots kernels by run-vm.sh. On Debian's kernel with the loop hook three runs go side by side: `hook`, every test with the
marker `kernel_hook`; `unit`, those of UNIT_TESTS; and `conformance`, a part of CPython's suite with a hook in the kernel. The same kernel in a second
guest beside that one, with the module of BPF operations loaded, has the run `module`: every test with the marker `bpf_module`. On the kernel that has
the patch it is `opcode`, with `bpf_opcode`. Each run leaves its counts in `.cache/results/`, through which the lane sees that tests with the marker
really ran. It calls nothing of the package but what compiles BPF programs.

Emulated code runs about twenty times slower than the host's, so the unit tests here are a selection: what a newer kernel and another order of events
can change, not how arguments are checked.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.vm import operations

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "vm"
FOLDER = ROOT / ".cache" / "vm"
KERNEL = FOLDER / "vmlinux"
RESULTS = ROOT / ".cache" / "results"
# Of these runs at least one test with the marker must run.
MARKERS = {"hook": "kernel_hook", "module": "bpf_module", "opcode": "bpf_opcode"}
# The kernel looks after the memory that the tables and requests of operations lie in: freed twice, used when freed, written beyond its end. Not after
# the larger pieces, which are for one request each: filling them takes most of the time of a million requests.
SLAB_DEBUG = "slab_debug=FZP," + ",".join(f"kmalloc-{kind}{size}" for kind in ("", "cg-") for size in ("64", "128", "256", "512", "1k", "2k"))

# `hook` and `unit` take nine minutes of processor time, half of that on two processors that have nothing else to do. This is for a busy machine, and
# ends a guest that hangs.
LIMIT_S = 1800
# The patched kernel checks every lock, allocation and sleep.
LIMIT_OPCODE_S = 2400
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
    # A test's own waits and limits are meant for this machine's speed, and so is its time-out.
    command = [sys.executable, *CONFORMANCE, "--jobs", "1", "--timeout", "400", "--slower", "40", f"--json={RESULTS}/test-vm.json"]
    return f"(set -o pipefail; PYTHONUNBUFFERED=1 {shlex.join(command)} 2>&1 | sed --unbuffered 's/^/conformance: /')"


def marked_tests(marker: str) -> list[str]:
    """The files that have tests with the marker. They are looked for here: collecting all tests takes minutes in the guest."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", marker, "tests/unit", "tests/vm"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"test-vm: the tests with the marker {marker} cannot be collected:\n{done.stdout}")
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
        f"--junitxml={results_of(name)}",
        f"-o=cache_dir=.cache/vm/pytest-{name}",
        "-v",
        "--durations=15",
        *arguments,
    ]
    # pytest's last line would end in the middle of the other run's; sed puts both out line by line.
    return f"(set -o pipefail; PYTHONUNBUFFERED=1 {shlex.join(command)} 2>&1 | sed --unbuffered 's/^/{name}: /')"


def results_of(name: str) -> Path:
    return RESULTS / f"test-vm-{name}.xml"


@dataclass
class Guest:
    """One boot: the kernel, more for its command line, what is done there before the runs, and the runs by their names."""

    kernel: Path
    version: str
    append: str
    prepare: list[str]
    runs: dict[str, str]
    limit_s: int = LIMIT_S

    def script(self) -> str:
        """Starts the runs side by side and ends with a status other than 0 if one of them did."""
        lines = ['echo "test-vm: Linux $(uname -r) is up after $(cut -d. -f1 /proc/uptime) s of its own clock"', *self.prepare, "pids=()"]
        lines += [f"{run} & pids+=($!)" for run in self.runs.values()]
        lines += ["status=0", 'for pid in "${pids[@]}"; do wait "$pid" || status=1; done', "exit $status"]
        return "\n".join(lines)

    def boot(self) -> int:
        command = [str(HERE / "run-vm.sh"), "-k", str(self.kernel), "-w", str(ROOT), "-t", str(self.limit_s), "-a", self.append, "--", self.script()]
        return run_to_end(command)

    def run(self) -> int:
        """The status, which is not 0 either if a run that has to run tests with a marker ran none."""
        begin_s = time.monotonic()
        print(f"test-vm: booting Linux {self.version} under emulation, for {' and '.join(self.runs)}", flush=True)
        status = self.boot()
        if status == GUEST_DIED:
            # One guest in about two hundred dies in a race of the emulated timer, which says nothing about the tests.
            print("test-vm: THE GUEST DIED; once more", flush=True)
            status = self.boot()
        for name in self.runs:
            if name not in MARKERS:
                continue
            ran = tests_that_ran(results_of(name))
            print(f"test-vm: {ran} tests with the marker {MARKERS[name]} ran", flush=True)
            if ran == 0:
                print(f"test-vm: FAILED: no test with the marker {MARKERS[name]} ran", flush=True)
                status = status or 1
        print(f"test-vm: {time.monotonic() - begin_s:.0f} s for {' and '.join(self.runs)}", flush=True)
        return status


# What runs now, for whoever is told to end.
running: set[subprocess.Popen[bytes]] = set()
ending = threading.Event()
printing = threading.Lock()


def run_to_end(command: list[str]) -> int:
    """The status of a program whose lines are printed whole, whatever another guest prints meanwhile."""
    if ending.is_set():
        raise SystemExit("test-vm: told to end")
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, stdout=subprocess.PIPE) as process:
        running.add(process)
        if ending.is_set():
            process.terminate()
        assert process.stdout is not None
        for line in process.stdout:
            with printing:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
        status = process.wait()
    running.discard(process)
    return status


def run_side_by_side(guests: list[Callable[[], Guest]]) -> int:
    """Makes each guest and runs it, all at once: one that has a single run leaves a processor idle, and so does the making of what it needs."""
    statuses: list[int] = []

    def work(make: Callable[[], Guest]) -> None:
        try:
            statuses.append(make().run())
        except SystemExit as refused:
            print(refused, file=sys.stderr, flush=True)
            statuses.append(1)

    threads = [threading.Thread(target=work, args=(make,)) for make in guests]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        ending.set()
        for process in list(running):
            process.terminate()
        raise
    # A thread that ended by another exception has left no status, and Python has printed why.
    return next((status for status in statuses if status), 0 if len(statuses) == len(guests) else 1)


def tests_that_ran(results: Path) -> int:
    """How many tests passed or failed; a skipped one did not run."""
    if not results.exists():
        return 0
    cases = ElementTree.parse(results).getroot().iter("testcase")
    return sum(case.find("skipped") is None for case in cases)


def command_of(name: str, files: list[str], for_pytest: list[str]) -> str:
    """How a run is started in the guest. An earlier run's results are removed."""
    results_of(name).unlink(missing_ok=True)
    if name == "conformance":
        return conformance_command()
    if name == "unit":
        return pytest_command(name, files or UNIT_TESTS, " and ".join(f"not {marker}" for marker in MARKERS.values()), for_pytest)
    return pytest_command(name, files or marked_tests(MARKERS[name]), MARKERS[name], for_pytest)


def guest_for_hooks(names: list[str], files: list[str], for_pytest: list[str]) -> Guest:
    version = (FOLDER / "version").read_text().strip()
    return Guest(KERNEL, version, "", [], {name: command_of(name, files, for_pytest) for name in names})


def guest_for_operations(name: str, files: list[str], for_pytest: list[str]) -> Guest:
    """`module`, on the kernel as it comes, or `opcode`, on the patched one."""
    program, image = operations.program(FOLDER)
    prepare = [f"export OPERATIONS={shlex.quote(str(program))} OPERATIONS_OBJECT={shlex.quote(str(image))}"]
    if name == "opcode":
        kernel = operations.patched_kernel(FOLDER)
        version = (kernel.parent / "version").read_text().strip()
    else:
        kernel, version = KERNEL, (FOLDER / "version").read_text().strip()
        module = shlex.quote(str(operations.module(FOLDER)))
        prepare += [f"export OPERATIONS_MODULE={module}", f"{shlex.quote(sys.executable)} tests/vm/insert_module.py {module} || exit 1"]
    limit_s = LIMIT_OPCODE_S if name == "opcode" else LIMIT_S
    return Guest(kernel, version, SLAB_DEBUG, prepare, {name: command_of(name, files, for_pytest)}, limit_s)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="Runs tests on kernels under emulation.")
    parser.add_argument("--only", choices=["hook", "unit", "conformance", "module", "opcode"], help="this run alone; opcode is in no other")
    parser.add_argument("files", nargs="*", help="these test files in place of the run's own")
    options, for_pytest = parser.parse_known_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = [options.only] if options.only else ["hook", "unit", "conformance", "module"]
    operations_of = [name for name in names if name in ("module", "opcode")]
    guests = [functools.partial(guest_for_operations, name, options.files, for_pytest) for name in operations_of]
    hooks = [name for name in names if name not in ("module", "opcode")]
    if hooks:
        guests.append(functools.partial(guest_for_hooks, hooks, options.files, for_pytest))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return run_side_by_side(guests)
