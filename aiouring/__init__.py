"""An asyncio event loop on Linux io_uring: the public names, nothing else."""

from aiouring import fs
from aiouring._errors import RingUnavailable
from aiouring.files import open  # noqa: A004
from aiouring.loop import Loop, new_event_loop
from aiouring.path import Path
from aiouring.runner import EventLoopPolicy, install, run
from aiouring.streams import StreamReader, StreamWriter, open_connection, open_unix_connection, start_server, start_unix_server

__all__ = [
    "EventLoopPolicy",
    "Loop",
    "Path",
    "RingUnavailable",
    "StreamReader",
    "StreamWriter",
    "fs",
    "install",
    "new_event_loop",
    "open",
    "open_connection",
    "open_unix_connection",
    "run",
    "start_server",
    "start_unix_server",
]
__version__ = "0.1.0.dev0"
