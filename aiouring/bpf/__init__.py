"""Hook programs: what can be loaded into this machine's kernel, and how. Calls `_libbpf`, where the build had libbpf, and `support`."""

from __future__ import annotations

from aiouring.bpf import support
from aiouring.bpf.errors import HookError, HookRefused

try:
    from aiouring.bpf import _libbpf
except ImportError as error:
    # Where the module is there but cannot be loaded, that is a fault of this installation. A package's missing module has no path.
    if error.path is not None and error.path.endswith(".so"):
        raise
    libbpf_is_built_in = False
else:
    libbpf_is_built_in = True
    Map = _libbpf.Map
    Object = _libbpf.Object

__all__ = ["HookError", "HookRefused", "Map", "Object", "kernel_support"]


def kernel_support() -> str:
    """Why no hook can be loaded into this machine's kernel by this process, in one sentence; an empty string if one can.

    It asks the kernel's own types, so a kernel that was built without the loop hook, or before it (Linux 7.1), is recognised as such. Where only the
    privileges are missing, a hook that a privileged process loaded can still be attached: see Object.from_pinned().
    """
    if not libbpf_is_built_in:
        return "this build of aiouring has no libbpf (it was not found, or not new enough, when the package was built)"
    return support.why_not()
