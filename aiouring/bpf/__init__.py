"""BPF in the event loop: hooks that see completions before Python does.

`Hook` is the loop hook. What the hooks that ship do is offered as functions: `aiouring.relay`, `aiouring.copy`, `aiouring.send_file`; `echo` and
`discard` here are for tests and measurements. `Object` and `Map` are one object in the kernel, for who loads programs himself; a build without libbpf
does not have them.
"""

from aiouring.bpf.errors import HookError, HookRefused
from aiouring.bpf.hooks import Hook, kernel_support
from aiouring.tasks import discard, echo

__all__ = ["Hook", "HookError", "HookRefused", "discard", "echo", "kernel_support"]

try:
    from aiouring.bpf._libbpf import Map, Object
    from aiouring.bpf.privileged import load_for_others
except ImportError as error:
    # Where the module is there but cannot be loaded, that is a fault of this installation. A package's missing module has no path.
    if error.path is not None and error.path.endswith(".so"):
        raise
else:
    __all__ += ["Map", "Object", "load_for_others"]
