"""How programs get the loop: run(), install(), EventLoopPolicy, and the fall-back to asyncio's own loop, which is never silent.

Called by users. Calls `loop`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from aiouring._errors import RingUnavailable
from aiouring.loop import Loop, new_event_loop

_T = TypeVar("_T")
Fallback = Literal["asyncio"] | None

FALLBACK_VARIABLE = "AIOURING_FALLBACK"


def _wanted_fallback(fallback: Fallback) -> bool:
    wanted = fallback if fallback is not None else os.environ.get(FALLBACK_VARIABLE) or None
    if wanted not in (None, "asyncio"):
        source = "fallback" if fallback is not None else f"environment variable {FALLBACK_VARIABLE}"
        raise ValueError(f"{source} must be 'asyncio' or not set, not {wanted!r}")
    return wanted == "asyncio"


def _loop_factory(fallback: Fallback) -> Callable[[], asyncio.AbstractEventLoop]:
    """A factory of our loops, or, where io_uring is refused and the user asked for it, of asyncio's."""
    allowed = _wanted_fallback(fallback)

    def make() -> asyncio.AbstractEventLoop:
        try:
            return new_event_loop()
        except RingUnavailable as refusal:
            if not allowed:
                raise
            warnings.warn(f"running on asyncio's own event loop: {refusal}", RuntimeWarning, stacklevel=2)
            return asyncio.SelectorEventLoop()

    return make


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    fallback: Fallback = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> _T:
    """Run a coroutine on a new aiouring loop, as asyncio.run() does, and return its result.

    debug: the loop's debug mode; None leaves it to PYTHONASYNCIODEBUG. fallback="asyncio", or AIOURING_FALLBACK=asyncio in the environment:
    where io_uring is refused, warn once (RuntimeWarning) and run on asyncio's loop; otherwise that raises RingUnavailable with the cause and
    the remedy. loop_factory: makes the loop instead of new_event_loop (a subclass, say). Cancellation and Ctrl-C: as asyncio.Runner.
    Kernel floor: Linux 6.1.
    """
    if asyncio._get_running_loop() is not None:
        main.close()
        raise RuntimeError("aiouring.run() cannot be called from a running event loop")
    try:
        runner = asyncio.Runner(debug=debug, loop_factory=loop_factory or _loop_factory(fallback))
        with runner:
            runner.get_loop()  # so that a refusal comes before the coroutine is wrapped
            return runner.run(main)
    except BaseException:
        if asyncio.iscoroutine(main):
            main.close()  # nothing where it has run; else it would warn that it was never awaited
        raise


if sys.version_info < (3, 16):

    def _policy_base() -> type[asyncio.AbstractEventLoopPolicy]:
        with warnings.catch_warnings():
            # Deprecated since 3.14; a policy is made only by users who still want one.
            warnings.simplefilter("ignore", DeprecationWarning)
            return asyncio.DefaultEventLoopPolicy

    class EventLoopPolicy(_policy_base()):  # type: ignore[misc]  # a base that a newer Python may not have
        """For asyncio.set_event_loop_policy(): every new event loop is an aiouring loop."""

        def _loop_factory(self) -> Loop:
            return new_event_loop()

        def new_event_loop(self) -> Loop:
            """A new aiouring loop. Raises RingUnavailable where the kernel refuses io_uring."""
            return new_event_loop()


def install() -> None:
    """Make aiouring the loop of asyncio.new_event_loop() and asyncio.run(), where Python has event loop policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy())
