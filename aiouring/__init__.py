"""An asyncio event loop on Linux io_uring: the public names, nothing else."""

from aiouring import bpf, fs
from aiouring._errors import RingUnavailable
from aiouring.chain import Chain, ChainError, Link
from aiouring.files import open  # noqa: A004
from aiouring.framing import Delimited, IncompleteFrameError, LengthPrefixed
from aiouring.loop import Loop, new_event_loop
from aiouring.path import Path
from aiouring.runner import EventLoopPolicy, install, run
from aiouring.streams import StreamReader, StreamWriter, open_connection, open_unix_connection, start_server, start_unix_server
from aiouring.tasks import copy, relay, send_file

__all__ = [
    "Chain",
    "ChainError",
    "Delimited",
    "EventLoopPolicy",
    "IncompleteFrameError",
    "LengthPrefixed",
    "Link",
    "Loop",
    "Path",
    "RingUnavailable",
    "StreamReader",
    "StreamWriter",
    "bpf",
    "copy",
    "fs",
    "install",
    "new_event_loop",
    "open",
    "open_connection",
    "open_unix_connection",
    "relay",
    "run",
    "send_file",
    "start_server",
    "start_unix_server",
]
__version__ = "0.1.0.dev0"
