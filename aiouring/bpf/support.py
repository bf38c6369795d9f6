"""Whether this machine's kernel takes hooks from this process. Asked by `aiouring.bpf` and, for a refused object, by `_libbpf`; imports nothing
of ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
# 7.1.0 to 7.1.4 use freed memory when a ring's hook is registered twice.
RELEASE_MIN = (7, 1, 5)
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39


def holds(capability: int) -> bool:
    """Whether a capability is in this thread's effective set."""
    status = Path("/proc/thread-self/status").read_text()
    return any(int(line.split()[1], 16) >> capability & 1 for line in status.splitlines() if line.startswith("CapEff:"))


def release_has_fault(release: str) -> bool:
    """Whether a kernel of this release, as uname gives it, has the fault of 7.1.0 to 7.1.4."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    return numbers is not None and tuple(int(number or 0) for number in numbers.groups()) < RELEASE_MIN


def missing_capabilities() -> list[str]:
    """The names of those that this thread lacks to load a program that reads memory."""
    return [name for name, bit in (("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)) if not holds(bit) and not holds(CAP_SYS_ADMIN)]


def why_not() -> str:
    """Why the kernel would load no hook for this process, in one sentence; an empty string if it would."""
    try:
        known = b"\0io_uring_bpf_ops\0" in KERNEL_TYPES.read_bytes()
    except OSError as error:
        return f"this kernel does not tell its types ({error}), by which the loop hook is found"
    release = os.uname().release
    if not known:
        return f"this kernel ({release}) has no loop hook (io_uring_bpf_ops): it came with Linux 7.1"
    if release_has_fault(release):
        return f"this kernel ({release}) has a fault in its loop hook (CVE-2026-72112) that Linux 7.1.5 mended"
    missing = missing_capabilities()
    if missing:
        return f"this process lacks {' and '.join(missing)}, without which the kernel loads no hook"
    return ""
