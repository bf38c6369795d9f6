"""BPF in the event loop: hooks that see completions before Python does.

`Hook` is the loop hook. What the hooks that ship do is offered as functions: `aiouring.relay`, `aiouring.copy`, `aiouring.send_file`; `echo` and
`discard` here are for tests and measurements.
"""

from aiouring.bpf.hooks import Hook
from aiouring.tasks import discard, echo

__all__ = ["Hook", "discard", "echo"]
