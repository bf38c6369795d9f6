"""An asyncio event loop on Linux io_uring: the public names, nothing else."""

from aiouring._errors import RingUnavailable
from aiouring.loop import Loop, new_event_loop

__all__ = ["Loop", "RingUnavailable", "new_event_loop"]
