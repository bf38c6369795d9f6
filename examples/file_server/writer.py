"""Writing to a descriptor that may not take it: by a thread of its own. Used by `access_log` and `trouble`.

Not one of the executor's threads, for which the interpreter waits when it ends: a write can hang for ever where a pipe's reader has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from queue import SimpleQueue

Order = tuple[bytes, "asyncio.Future[None] | None"]


class Writer:
    """Owns its descriptor, and closes it in the end."""

    def __init__(self, fd: int) -> None:
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        threading.Thread(target=self._run, args=(fd,), name="writer", daemon=True).start()

    async def write(self, text: bytes) -> None:
        """Returns when all of it is written. Raises OSError."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders.put((text, written))
        await written

    def put(self, text: bytes) -> None:
        """Have it written some time, or not, if that is impossible."""
        self._orders.put((text, None))

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return self._orders.qsize()

    def end(self) -> None:
        """Close the descriptor behind what was asked for before."""
        self._orders.put(None)

    def _run(self, fd: int) -> None:
        while (order := self._orders.get()) is not None:
            text, written = order
            error: OSError | None = None
            try:
                view = memoryview(text)
                while view:
                    view = view[os.write(fd, view) :]
            except OSError as caught:
                error = caught
            if written is not None:
                with contextlib.suppress(RuntimeError):  # the loop has gone: nobody wants to know
                    written.get_loop().call_soon_threadsafe(_settle, written, error)
        os.close(fd)


def _settle(written: asyncio.Future[None], error: OSError | None) -> None:
    if written.cancelled():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
