"""A module named uvloop whose loop is the one under test; uvloop's tests and the programs that they start import it.

Two variables of the environment, set by the runner, say which loop that is and where uvloop's own test helpers lie.
"""
import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

_NAME, _, _HOOK_ENGINE = os.environ["CONFORMANCE_LOOP"].partition("-hook-")
_module: Any = importlib.import_module(_NAME)

# `uvloop._testbase` is the suite's own helper module; all else of uvloop stays unreachable.
__path__.append(os.environ["CONFORMANCE_UVLOOP_TESTBASE"])

Loop: Any = _module.SelectorEventLoop if _NAME == "asyncio" else _module.Loop
EventLoopPolicy: Any = _module.DefaultEventLoopPolicy if _NAME == "asyncio" else _module.EventLoopPolicy

if _HOOK_ENGINE:
    from aiouring.bpf import Hook

    class Loop(_module.Loop):  # type: ignore[misc,no-redef]
        """The loop under test with a hook that leaves every completion to Python."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            Hook.load("wake", engine=_HOOK_ENGINE).attach(self)  # type: ignore[arg-type]

    class EventLoopPolicy(_module.EventLoopPolicy):  # type: ignore[misc,no-redef]
        """The policy of such loops."""

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return new_event_loop()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop.new_event_loop, of the loop under test."""
    loop: asyncio.AbstractEventLoop = Loop() if _NAME == "asyncio" or _HOOK_ENGINE else _module.new_event_loop()
    return loop


def install() -> None:
    """uvloop.install, of the loop under test."""
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
