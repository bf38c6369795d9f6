"""Makes the loop under test by its name; the two aims and the stand-in for uvloop call it, inside the child.

It imports the loop's package only when that loop is asked for, so that a run on stock asyncio needs nothing installed.
"""
import asyncio
import importlib
from collections.abc import Callable
from typing import cast

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# The loops a run can choose from, each with where its factory and its class are found.
LOOPS: dict[str, tuple[str, str, str]] = {
    "aiouring": ("aiouring", "new_event_loop", "Loop"),
    # The same with a loop hook that leaves every completion to Python.
    "aiouring-hook-inline": ("aiouring", "new_event_loop", "Loop"),
    "aiouring-hook-kernel": ("aiouring", "new_event_loop", "Loop"),
    "asyncio": ("asyncio", "SelectorEventLoop", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop", "Loop"),
}


def factory_of(name: str) -> LoopFactory:
    """The function that makes a new loop of this name; ImportError where its package is not installed."""
    module, factory, _ = LOOPS[name]
    made = cast(LoopFactory, getattr(importlib.import_module(module), factory))
    _, hooked, engine = name.partition("-hook-")
    return _with_hook(made, engine) if hooked else made


def _with_hook(factory: LoopFactory, engine: str) -> LoopFactory:
    from aiouring.bpf import Hook

    def with_hook() -> asyncio.AbstractEventLoop:
        loop = factory()
        Hook.load("wake", engine=engine).attach(loop)  # type: ignore[arg-type]
        return loop

    return with_hook


def class_of(name: str) -> type[asyncio.AbstractEventLoop]:
    """The class of the loops of this name."""
    module, _, loop_class = LOOPS[name]
    return cast(type[asyncio.AbstractEventLoop], getattr(importlib.import_module(module), loop_class))
