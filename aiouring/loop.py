"""Loop: the native core joined with asyncio.BaseEventLoop, and the rooms that run once per connection or per loop.

CPython documents inheriting from asyncio.BaseEventLoop as the way to write a loop: it gives argument checks, happy eyeballs, servers,
executors, exception handlers and asynchronous generators exactly as the running Python has them. What runs per callback or per packet is
overridden by LoopCore and the rooms above it, which come before it in the method resolution order.

Users make loops with new_event_loop(). Calls every room below.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from aiouring._datagram import DatagramMixin
from aiouring._loop import LoopCore
from aiouring._pipe import PipeMixin
from aiouring._poll import PollMixin
from aiouring._sock import SockMixin
from aiouring.network import NetworkMixin
from aiouring.process import ProcessMixin
from aiouring.sendfile import SendfileMixin
from aiouring.signals import SignalMixin

if TYPE_CHECKING:
    from aiouring.bpf.hooks import Hook
    from aiouring.bpf.ops import LoopOperations


class Loop(
    NetworkMixin,
    SendfileMixin,
    DatagramMixin,
    SockMixin,
    ProcessMixin,
    SignalMixin,
    PollMixin,
    PipeMixin,
    LoopCore,
    asyncio.BaseEventLoop,
):
    """An asyncio event loop on one io_uring.

    Raises RingUnavailable when the kernel refuses the ring. Kernel floor: Linux 6.1. The loop may be made in one thread and run in
    another. Close it in the thread that ran it, so that every request ends before its memory is freed.

    A loop that is dropped without close() while something is in flight stays, with what that has: the kernel may still write to the memory, and
    nobody is left who would wait for the last completion. (One with nothing in flight is collected, and closed with a ResourceWarning.)

    busy_poll: seconds, at most 1, for which a loop that has nothing to do looks for completions before it sleeps (0.00005 is a good start).
    It saves the wake-up, which is most of the latency of a short answer, and costs that much of a core each time that nothing comes.
    """

    # What aiouring.bpf loaded for it, once there is something.
    _operations: LoopOperations | None = None
    # The hook that was attached to it last, by whomever.
    _hook: Hook | None = None

    def __init__(self, *, busy_poll: float = 0.0) -> None:
        if not 0 <= busy_poll <= 1:
            raise ValueError(f"busy_poll is a time in seconds from 0 to 1, not {busy_poll!r}")
        super().__init__()
        self._set_busy_poll(busy_poll)

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_usable()
        self._check_running()
        self._watch_signals()
        try:
            super().run_forever()  # its _run_once() takes the ring for this thread and lets go of it
        finally:
            self._unwatch_signals()

    if (3, 13) <= sys.version_info < (3, 13, 3):

        def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **kwargs: Any) -> asyncio.Task[Any]:
            """As asyncio's since 3.13.3: what it does not know, as eager_start, goes to the task."""
            if not kwargs:
                return super().create_task(coro, name=name, context=context)
            self._check_closed()
            factory: Any = self.get_task_factory()
            if factory is None:
                return asyncio.Task(coro, loop=self, name=name, context=context, **kwargs)
            task: asyncio.Task[Any] = factory(self, coro, name=name, context=context, **kwargs)
            return task

    def close(self) -> None:
        """Cancel what is in flight, wait for its end, and free the ring, its buffers and descriptors. May be called twice."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        try:
            self._close_signals()
        finally:
            self._close_ring()
            self._hook = None
            if self._operations is not None:
                self._operations.close()
            self._close_polls()
            self._close_children()
            super().close()
            self._drop_calls()


def new_event_loop(*, busy_poll: float = 0.0) -> Loop:
    """A new loop; also what `asyncio.Runner(loop_factory=...)` and uvicorn's `--loop` take. The argument is explained at Loop."""
    return Loop(busy_poll=busy_poll)
