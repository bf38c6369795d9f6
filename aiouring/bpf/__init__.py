"""BPF in the event loop: hooks that see completions before Python does, and operations that are awaited.

`Hook` is the loop hook. What the hooks that ship do is offered as functions: `aiouring.relay`, `aiouring.copy`, `aiouring.send_file`; `echo` and
`discard` here are for tests and measurements. `Op` is an operation, `register_buffer` makes memory that it need not look up. `Object` and `Map` are
one object in the kernel, for who loads programs himself; a build without libbpf does not have them.
"""

from aiouring._registered import RegisteredBuffer
from aiouring.bpf.errors import HookError, HookRefused, OperationError, OperationRefused
from aiouring.bpf.hooks import Hook, kernel_support
from aiouring.bpf.ops import Op, register_buffer
from aiouring.tasks import discard, echo

__all__ = [
    "Hook", "HookError", "HookRefused", "Op", "OperationError", "OperationRefused", "RegisteredBuffer", "discard", "echo", "kernel_support",
    "register_buffer",
]  # fmt: skip

try:
    from aiouring.bpf._libbpf import Map, Object
    from aiouring.bpf.privileged import load_for_others
except ImportError as error:
    # Where the module is there but cannot be loaded, that is a fault of this installation. A package's missing module has no path.
    if error.path is not None and error.path.endswith(".so"):
        raise
else:
    __all__ += ["Map", "Object", "load_for_others"]
