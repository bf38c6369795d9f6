"""Blocking calls in the loop's executor: what the kernel has no opcode for, and what the running kernel lacks.

Called by `fs` and the rooms beside it. Calls asyncio only, so it works on every loop.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_executor(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function(*args, **kwargs)` in the running loop's default executor and return its result.

    A thread cannot be stopped, so a cancelled call ends when the function has ended: what it changes does not change behind the back of
    the code that handles the cancellation. Its result is dropped then.
    """
    return await _run(functools.partial(function, *args, **kwargs), None)


async def open_in_executor(path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
    """os.open() by in_executor(). A descriptor that nobody takes, because the call was cancelled, is closed."""
    return await _run(functools.partial(os.open, path, flags, mode, dir_fd=dir_fd), os.close)


async def descriptor_in_executor(function: Callable[P, int], /, *args: P.args, **kwargs: P.kwargs) -> int:
    """in_executor() for what returns a new descriptor. One that nobody takes, because the call was cancelled, is closed."""
    return await _run(functools.partial(function, *args, **kwargs), os.close)


async def stoppable(function: Callable[Concatenate[threading.Event, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """in_executor() for what takes long: `function(stop, *args, **kwargs)` looks at `stop` now and then, and returns early where it is set.

    What it returns then is dropped, because the call was cancelled.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(in_executor(function, stop, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await uninterrupted(task)
        raise


async def _run(call: Callable[[], T], drop: Callable[[T], None] | None) -> T:
    future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.cancelled():  # which it is when the executor was shut down
            await uninterrupted(future)
            if drop is not None and not future.cancelled() and future.exception() is None:
                drop(future.result())
        raise
    except GeneratorExit:
        # The coroutine is closed, and may not wait.
        if drop is not None:
            future.add_done_callback(functools.partial(_drop, drop))
        raise


def _drop(drop: Callable[[T], None], future: asyncio.Future[T]) -> None:
    if not future.cancelled() and future.exception() is None:
        drop(future.result())


async def uninterrupted(future: asyncio.Future[T]) -> None:
    """Wait for the end of `future`, whatever it is and however often the waiting task is cancelled meanwhile.

    For code that handles a cancellation already, whose CancelledError it raises afterwards.
    """
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # nobody else asks for it
