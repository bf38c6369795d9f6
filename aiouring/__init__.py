"""An asyncio event loop on Linux io_uring: the public names, nothing else."""

from aiouring._errors import RingUnavailable
from aiouring.loop import Loop, new_event_loop
from aiouring.runner import EventLoopPolicy, install, run

__all__ = ["EventLoopPolicy", "Loop", "RingUnavailable", "install", "new_event_loop", "run"]
__version__ = "0.1.0.dev0"
