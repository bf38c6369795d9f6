"""A module named uvloop whose loop is the one under test; uvloop's tests and the programs that they start import it.

Two variables of the environment, set by the runner, say which loop that is and where uvloop's own test helpers lie.
"""
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

_LOOPS = {"aiouring": "aiouring", "asyncio": "asyncio"}
_NAME = _LOOPS[os.environ["CONFORMANCE_LOOP"]]

# `uvloop._testbase` is the suite's own helper module; all else of uvloop stays unreachable.
__path__.append(os.environ["CONFORMANCE_UVLOOP_TESTBASE"])

if _NAME == "aiouring":
    from aiouring import EventLoopPolicy, Loop, install, new_event_loop
else:
    from asyncio import DefaultEventLoopPolicy as EventLoopPolicy  # type: ignore[assignment]
    from asyncio import SelectorEventLoop as Loop  # type: ignore[assignment]

    def new_event_loop() -> asyncio.AbstractEventLoop:  # type: ignore[misc]  # another loop than the one above
        """A new stock loop."""
        return Loop()

    def install() -> None:
        """Sets the stock policy."""
        asyncio.set_event_loop_policy(EventLoopPolicy())


__all__ = ["EventLoopPolicy", "Loop", "install", "new_event_loop", "run"]


def run(
    main: Coroutine[Any, Any, _T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
    debug: bool | None = None,
) -> _T:
    """uvloop.run: as asyncio.run, and it refuses a loop of another kind."""

    async def checked() -> _T:
        if not isinstance(asyncio.get_running_loop(), Loop):
            raise TypeError("uvloop.run() uses a non-uvloop event loop")
        return await main

    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        return runner.run(checked())


# The suite asks for the version; it is the suite's, not a loop's.
__version__ = f"stand-in for {_NAME} on {sys.version_info[0]}.{sys.version_info[1]}"
