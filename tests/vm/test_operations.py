"""The kernel's side of BPF operations, as the module or as a request of the kernel's own, tried by a program in C (operations.c) that uses rings by bare
system calls: what it gets wrong no Python could. Runs where `make test-vm` or `make test-vm-opcode` has built that and started the kernel for it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bpf_module, pytest.mark.usefixtures("descriptors")]

HERE = Path(__file__).resolve().parent
# As the program's own table has it: the name, and whether the module (1) and the opcode (2) take it.
TESTS = {name: int(engines) for name, engines in re.findall(r'^\t\{"(\w+)", \w+, (\d)\},$', (HERE / "operations.c").read_text(), re.MULTILINE)}
# What says in the log that the kernel found itself wrong.
COMPLAINTS = re.compile(r"WARNING|BUG|Oops|possible .* detected|Call Trace|use-after-free|Redzone|Poison overwritten|hung_task|blocked for more than")
OPCODE = b"\0IORING_OP_BPF\0" in Path("/sys/kernel/btf/vmlinux").read_bytes() if os.path.exists("/sys/kernel/btf/vmlinux") else False
ENGINE, ENGINE_BIT = ("opcode", 2) if OPCODE else ("module", 1)


def run(*arguments: str) -> str:
    done = subprocess.run(
        [os.environ["OPERATIONS"], *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def log_of_the_kernel() -> list[str]:
    """Read without waiting for more."""
    lines = []
    descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            lines.append(os.read(descriptor, 8192).decode(errors="replace").partition(";")[2])
    except BlockingIOError:
        return lines
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", [name for name, engines in TESTS.items() if engines & ENGINE_BIT])
def test_operations(name: str) -> None:
    assert f"ok {name}" in run(ENGINE, name)
    assert [line for line in log_of_the_kernel() if COMPLAINTS.search(line)] == []


def test_none_is_forgotten() -> None:
    assert run("--list", ENGINE).split() == [name for name, engines in TESTS.items() if engines & ENGINE_BIT] != []


@pytest.mark.skipif(not os.path.exists("/sys/kernel/debug/kmemleak"), reason="needs kernel: CONFIG_DEBUG_KMEMLEAK")
def test_nothing_is_left_in_the_kernel() -> None:
    """Runs last: everything before it is looked at. The kernel calls unreferenced what it does not find twice, and not what is younger than five
    seconds; the tests before took longer."""
    leaks = Path("/sys/kernel/debug/kmemleak")
    for _ in range(2):
        leaks.write_text("scan")
    found = leaks.read_text()
    assert "bpf" not in found and "io_uring" not in found, found
