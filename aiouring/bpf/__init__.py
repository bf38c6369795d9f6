"""Hook programs: what can be loaded into this machine's kernel, and how. Calls `_libbpf`, where the build had libbpf."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aiouring.bpf.errors import HookError, HookRefused

try:
    from aiouring.bpf import _libbpf
except ModuleNotFoundError as error:
    # Any other missing module is a fault of this installation.
    if error.name != "aiouring.bpf._libbpf":
        raise
    _libbpf = None  # type: ignore[assignment]
else:
    from aiouring.bpf._libbpf import Map, Object

__all__ = ["HookError", "HookRefused", "Map", "Object", "kernel_support"]

KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
# 7.1.0 to 7.1.4 use freed memory when a ring's hook is registered twice.
RELEASE_MIN = (7, 1, 5)
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39


def kernel_support() -> str:
    """Why no hook can be loaded into this machine's kernel by this process, in one sentence; an empty string if one can.

    It asks the kernel's own types, so a kernel that was built without the loop hook, or before it (Linux 7.1), is recognised as such. An object that a
    privileged process loaded can be attached where only the privileges are missing: see Object.from_pinned().
    """
    if _libbpf is None:
        return "this build of aiouring has no libbpf (it was not found, or not new enough, when the package was built)"
    try:
        known = b"\0io_uring_bpf_ops\0" in KERNEL_TYPES.read_bytes()
    except OSError as error:
        return f"this kernel does not tell its types ({error}), by which the loop hook is found"
    release = os.uname().release
    if not known:
        return f"this kernel ({release}) has no loop hook (io_uring_bpf_ops): it came with Linux 7.1 and CONFIG_BPF_SYSCALL, _JIT and DEBUG_INFO_BTF"
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if numbers and tuple(int(number or 0) for number in numbers.groups()) < RELEASE_MIN:
        return f"this kernel ({release}) has a fault in its loop hook (CVE-2026-72112) that Linux 7.1.5 mended"
    missing = [name for name, bit in (("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)) if not holds(bit) and not holds(CAP_SYS_ADMIN)]
    if missing:
        return f"this process lacks {' and '.join(missing)}, without which the kernel loads no hook"
    return ""


def holds(capability: int) -> bool:
    """Whether a capability is in this thread's effective set."""
    status = Path("/proc/thread-self/status").read_text()
    return any(int(line.split()[1], 16) >> capability & 1 for line in status.splitlines() if line.startswith("CapEff:"))
