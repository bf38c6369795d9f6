"""What the tests of aiouring.open share: calls as tasks, outcomes that can be compared with the built-in's, both ends of a FIFO, a child process."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiouring

BIG = 1 << 20
BLOCK = b"0123456789abcdef" * 4096  # 64 KiB
CONTENT = b"".join(b"line %d\n" % number for number in range(60_000))  # 700 KB


async def finished(call: Awaitable[Any]) -> tuple[object, ...]:
    """What a call came to, for comparing."""
    try:
        return ("returned", await call)
    except (OSError, ValueError) as error:
        return ("raised", type(error), getattr(error, "errno", None))


def came_to(function: Callable[..., object], *arguments: object) -> tuple[object, ...]:
    """The same of the built-in's call."""
    try:
        return ("returned", function(*arguments))
    except (OSError, ValueError) as error:
        return ("raised", type(error), getattr(error, "errno", None))


async def called(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def both_ends(fifo: Path, read_mode: str = "rb", write_mode: str = "wb", buffering: int = -1) -> tuple[Any, Any]:
    """Each open() waits for the other one's."""
    reader = asyncio.ensure_future(opened(fifo, read_mode, buffering))
    writer = asyncio.ensure_future(opened(fifo, write_mode, buffering))
    return await reader, await writer


async def opened(path: Path, mode: str, buffering: int = -1) -> Any:
    return await aiouring.open(path, mode, buffering)


def in_a_child(function: Callable[[], None]) -> None:
    """Runs it in a fork, which ends there; fails if it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
