"""What a loop costs without any I/O, and its subprocesses: `micro.py LOOP NAME WARMUP SECONDS`.

Started by benchmarks/measure.py, pinned, in the contestant's interpreter, a fresh process for each sample. Prints its window as JSON, or
"UNAVAILABLE reason". WORK has one function for each row; it does one batch and says how much that was.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from loops import Window, be_a_process_under_test, make_loop, say_unavailable

BATCH = 1000
TASKS = 100


def nothing(argument: int) -> None:
    """The callback of the rows that measure what surrounds it."""


async def call_soon(loop: asyncio.AbstractEventLoop) -> int:
    for number in range(BATCH):
        loop.call_soon(nothing, number)
    await asyncio.sleep(0)  # what was queued before runs before this goes on
    return BATCH


async def call_soon_threadsafe(loop: asyncio.AbstractEventLoop) -> int:
    """From the loop's own thread: with a second one the GIL's hand-over would be all that is measured."""
    for number in range(BATCH):
        loop.call_soon_threadsafe(nothing, number)
    await asyncio.sleep(0)
    return BATCH


async def call_later_and_cancel(loop: asyncio.AbstractEventLoop) -> int:
    for number in range(BATCH):
        loop.call_later(60, nothing, number).cancel()
    await asyncio.sleep(0)
    return BATCH


async def _yields() -> None:
    for _ in range(BATCH // 10):
        await asyncio.sleep(0)


async def switch(loop: asyncio.AbstractEventLoop) -> int:
    await asyncio.gather(*(_yields() for _ in range(TASKS)))
    return TASKS * BATCH // 10


async def spawn(loop: asyncio.AbstractEventLoop) -> int:
    process = await asyncio.create_subprocess_exec("/bin/true")
    status = await process.wait()
    if status != 0:
        raise RuntimeError(f"/bin/true ended with status {status}")
    return 1


WORK: dict[str, Callable[[asyncio.AbstractEventLoop], Awaitable[int]]] = {
    "call-soon": call_soon,
    "call-soon-threadsafe": call_soon_threadsafe,
    "call-later-cancel": call_later_and_cancel,
    "switch": switch,
    "spawn": spawn,
}


async def run(name: str, window: Window) -> None:
    loop = asyncio.get_running_loop()
    work = WORK[name]
    while not window.over(await work(loop)):
        pass


def main(loop_name: str, name: str, warmup: str, seconds: str) -> None:
    be_a_process_under_test()
    try:
        loop = make_loop(loop_name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run(name, Window(float(warmup), float(seconds))))
    except Exception as error:
        say_unavailable(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
