"""The kernel's side of BPF operations, as the module or as a request of the kernel's own, tried by a program in C (operations.c) that uses rings by
bare system calls: what it gets wrong no Python could. Runs where `make test-vm` or `make test-vm-opcode` has built that and started the kernel for
it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two hundred loads take minutes where the verifier is emulated and the machine has other things to do.
pytestmark = [pytest.mark.usefixtures("descriptors"), pytest.mark.timeout(600)]

HERE = Path(__file__).resolve().parent
# As the program's own table has it: the name, and whether the module (1) and the opcode (2) take it.
TESTS = {name: int(engines) for name, engines in re.findall(r'^\t\{"(\w+)", \w+, (\d)\},$', (HERE / "operations.c").read_text(), re.MULTILINE)}
ENGINES = {"module": 1, "opcode": 2}
MARKS = {"module": pytest.mark.bpf_module, "opcode": pytest.mark.bpf_opcode}
# What says in the log that the kernel found itself wrong.
COMPLAINTS = re.compile(r"WARNING|BUG|Oops|possible .* detected|Call Trace|use-after-free|Redzone|Poison overwritten|blocked for more than")


def run(*arguments: str) -> str:
    done = subprocess.run(
        [os.environ["OPERATIONS"], *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class KernelLog:
    """What the kernel has said since one last looked; at first, since it was booted."""

    def __init__(self) -> None:
        self.descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)

    def new_lines(self) -> list[str]:
        lines = []
        while True:
            try:
                lines.append(os.read(self.descriptor, 8192).decode(errors="replace").partition(";")[2].partition("\n")[0])
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                lines.append("(lines were lost)")

    def complaints(self) -> str:
        """Each with the lines around it, which say where it comes from. A complaint is the fault of the test that finds it and of no later one."""
        lines = self.new_lines()
        found = [number for number, line in enumerate(lines) if COMPLAINTS.search(line)]
        shown = sorted({near for number in found for near in range(max(0, number - 3), min(len(lines), number + 25))})
        return "\n".join(lines[number] for number in shown)


@pytest.fixture(scope="module")
def kernel_log() -> Iterator[KernelLog]:
    log = KernelLog()
    yield log
    os.close(log.descriptor)


@pytest.mark.parametrize("engine", [pytest.param(engine, marks=mark) for engine, mark in MARKS.items()])
def test_the_kernel_has_not_complained_so_far(engine: str, kernel_log: KernelLog) -> None:
    """Of what other tests did with operations before these."""
    assert kernel_log.complaints() == ""


@pytest.mark.parametrize(
    ("engine", "name"),
    [pytest.param(engine, name, marks=MARKS[engine]) for engine, bit in ENGINES.items() for name, engines in TESTS.items() if engines & bit],
)
def test_operations(engine: str, name: str, kernel_log: KernelLog) -> None:
    print(run(engine, name))
    assert kernel_log.complaints() == ""


@pytest.mark.parametrize("engine", [pytest.param(engine, marks=mark) for engine, mark in MARKS.items()])
def test_none_is_forgotten(engine: str) -> None:
    assert run("--list", engine).split() == [name for name, engines in TESTS.items() if engines & ENGINES[engine]] != []


# The guest's kernel for the module is a distribution's, which does not look for leaks.
@pytest.mark.bpf_opcode
def test_nothing_is_left_in_the_kernel() -> None:
    """Runs last: everything before it is looked at. What is found in one scan and not in the next was in use, and what is younger than five seconds
    is not spoken of; the tests before took longer."""
    leaks = Path("/sys/kernel/debug/kmemleak")
    for _ in range(2):
        leaks.write_text("scan")
    found = leaks.read_text()
    assert "bpf" not in found and "io_uring" not in found, found
