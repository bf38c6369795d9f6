"""Puts another loop under CPython's `test.test_asyncio`; the worker calls it before and after each test file is imported.

What is aimed: the default policy's factory (and with it `asyncio.new_event_loop`, `Runner` and `IsolatedAsyncioTestCase`), the
`create_event_loop` and `new_loop` of the test classes, and the sockets tests of `test_unix_events`, which ask for the selector loop
by name but test what every Unix loop does.

What is not: tests that bring their own loop (`TestLoop` with its own clock, mocks), and the classes of `test_unix_events` that test the
selector loop's private methods (SelectorEventLoopSignalTests, SelectorEventLoopUnixSockSendfileTests). They run as they are.
"""
import asyncio
import inspect
import unittest
from types import ModuleType
from typing import Any
from unittest import mock

from .loops import LoopFactory

PACKAGE = "test.test_asyncio"

# The three are the same tests on three selectors; one of them is enough for a loop that has no selector.
DUPLICATES = ("SelectEventLoopTests", "PollEventLoopTests")

# This class tests the private `_sock_sendfile_native` of the selector loop with a patched `os.sendfile`: it keeps that loop.
KEEPS_SELECTOR_LOOP = ("SelectorEventLoopUnixSockSendfileTests",)


def before_import(factory: LoopFactory) -> None:
    """Makes the default policy, whenever a test goes back to it, hand out the loop under test."""
    from asyncio import unix_events

    policy: Any = getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events._UnixDefaultEventLoopPolicy
    policy._loop_factory = staticmethod(factory)
    _replace_close_loop()


def _replace_close_loop() -> None:
    """Lets the tests close loops that have no private `_default_executor`, as any loop but BaseEventLoop's heirs."""
    from test.test_asyncio import utils  # type: ignore[import-not-found]

    original = utils.TestCase.close_loop

    def close_loop(loop: Any) -> None:
        if hasattr(loop, "_default_executor"):
            original(loop)
            return
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    utils.TestCase.close_loop = staticmethod(close_loop)


def after_import(module: ModuleType, factory: LoopFactory) -> None:
    """Overrides the loop makers of one test file's classes, and takes out the classes that only repeat others."""
    for name, test_class in list(vars(module).items()):
        if not (inspect.isclass(test_class) and test_class.__module__ == module.__name__):
            continue
        if name in DUPLICATES:
            delattr(module, name)
        elif issubclass(test_class, unittest.TestCase):
            _aim_class(test_class, module.__name__.rpartition(".")[2], factory)


def _aim_class(test_class: Any, file: str, factory: LoopFactory) -> None:
    """Overrides, in one class, each of the ways in which these tests make their loop."""

    def make(self: unittest.TestCase) -> asyncio.AbstractEventLoop:
        return factory()

    if test_class.__name__ in KEEPS_SELECTOR_LOOP:
        _patch_in_setup(test_class, "new_event_loop", asyncio.SelectorEventLoop)
    elif test_class.__name__ == "SelectorEventLoopUnixSocketTests":
        _patch_in_setup(test_class, "SelectorEventLoop", factory)
    elif file == "test_runners":
        if hasattr(test_class, "new_loop"):
            test_class.new_loop = lambda self: _loop_for_runners(factory)
    else:
        for maker in ("create_event_loop", "new_loop"):
            if hasattr(test_class, maker):
                setattr(test_class, maker, make)


def _patch_in_setup(test_class: Any, maker: str, factory: LoopFactory) -> None:
    """Lets a `setUp` that asks asyncio for its loop by this name get it from another factory."""
    original = test_class.setUp

    def set_up(self: unittest.TestCase) -> None:
        with mock.patch.object(asyncio, maker, factory):
            original(self)

    test_class.setUp = set_up


def _loop_for_runners(factory: LoopFactory) -> asyncio.AbstractEventLoop:
    """A loop that notes that `shutdown_asyncgens` ran; the file's own is a BaseEventLoop on a mock selector."""
    loop: Any = factory()
    shutdown_asyncgens = loop.shutdown_asyncgens
    loop.shutdown_ag_run = False

    async def noting() -> None:
        loop.shutdown_ag_run = True
        await shutdown_asyncgens()

    loop.shutdown_asyncgens = noting
    made: asyncio.AbstractEventLoop = loop
    return made
