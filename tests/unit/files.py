"""What the tests of files share: a cancellation at each wait of a call, and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest


@types.coroutine
def stepped(call: Coroutine[Any, Any, Any], at_wait: Callable[[int], None]) -> Generator[Any, Any, Any]:
    """`await call`, with `at_wait(n)` called when it begins to wait for the n-th time."""
    waits = 0
    answer: Callable[[], Any] = lambda: call.send(None)  # noqa: E731
    while True:
        try:
            step = answer()
        except StopIteration as over:
            return over.value
        waits += 1
        at_wait(waits)
        try:
            value = yield step
        except BaseException as error:
            answer = lambda error=error: call.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            answer = lambda value=value: call.send(value)  # type: ignore[misc]  # noqa: E731


async def cancel_at_each_wait(make: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[bool], Any], *, again: bool = False) -> int:
    """Run the call over and over, cancelled at its first wait, at its second, and so on until it ends by itself. `check(cancelled)` looks after
    each run. Once the cancel comes before the wait begins, once in the turn after it. With `again` the next wait, of what cleans up, is
    cancelled as well. Returns the number of waits."""
    for late in (False, True):
        at = 0
        reached = True
        while reached:
            at += 1
            reached, cancelled = await _cancelled_at({at, at + again}, late, make)
            answer = check(cancelled)
            if isinstance(answer, Awaitable):
                await answer
            assert cancelled or late or not reached, f"the call ended well although it was cancelled at wait {at}"
    return at - 1


async def _cancelled_at(waits: set[int], late: bool, make: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[bool, bool]:
    """Whether one of these waits came, and whether the call ended by CancelledError."""
    reached = False

    def at_wait(wait: int) -> None:
        nonlocal reached
        if wait not in waits:
            return
        reached = True
        if late:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            task.cancel()

    async def main() -> Any:
        return await stepped(make(), at_wait)

    task = asyncio.ensure_future(main())
    try:
        await task
    except asyncio.CancelledError:
        return reached, True
    return reached, False


async def close_at_each_wait(make: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Any]) -> None:
    """The coroutine is closed at each of its waits, as the garbage collector does with one whose loop has gone."""
    at = 0
    while True:
        at += 1
        call = make()
        waits = 0
        outcome = call.send(None)
        try:
            while waits < at - 1:
                waits += 1
                woken = asyncio.get_running_loop().create_future()
                outcome.add_done_callback(lambda _, woken=woken: woken.set_result(None))
                outcome._asyncio_future_blocking = False
                await woken
                outcome = call.send(None)
        except StopIteration:
            break
        outcome._asyncio_future_blocking = False
        call.close()
        await check()


def slots_in_use() -> int:
    """The requests of the running loop that are in flight, but for the wake-up pipe's."""
    return asyncio.get_running_loop().ring_stats()["slots_in_use"] - 1  # type: ignore[attr-defined,no-any-return]


async def until(condition: Callable[[], bool]) -> None:
    """In turns of the loop; the test's own time-out bounds it."""
    while not condition():
        await asyncio.sleep(0)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of that size, mounted at a new folder."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"needs program: mount, by root ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder))
