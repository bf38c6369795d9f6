"""Puts another loop under uvloop's own test suite; the worker calls it after each test file is imported.

The suite imports a module named uvloop. Unless uvloop itself is the loop under test, that is the stand-in beside this file, whose names are
those of the loop under test; so the programs that the tests start (signals, deallocation) get that loop too.

The suite runs most tests on uvloop and again on asyncio, and asks its `implementation` where it knows that the two differ. A drop-in for
asyncio sides with asyncio there, so the tests below take the branch that the suite has for asyncio. All others take uvloop's branch, which
is the stricter one: it skips nothing.
"""
import inspect
import unittest
from types import ModuleType
from typing import Any

PACKAGE = "tests"

# Stock asyncio fails each of these in uvloop's branch and passes it, or is excused from it, in its own: a list to make shorter.
ASYNCIO_SIDE = frozenset({
    # The name of the executor's threads begins with the name of the loop's package.
    "test_base.TestBaseUV.test_thread_name_prefix_in_default_executor",
    # The peer ends the TCP stream while reading is paused: asyncio hands over what is on hold (and CPython's test of this name says so).
    "test_tcp.Test_UV_TCPSSL.test_shutdown_timeout_handler_not_set",
})

# These look into uvloop's own machinery, which no other loop has; they are skipped and counted with these reasons.
OWN_MACHINERY = {
    "test_sockets.TestUVSockets.test_socket_sync_remove": "asks libuv for its backend descriptor (_get_backend_id)",
    "test_sockets.TestUVSockets.test_pseudosocket": "compares the repr of uvloop's own socket class",
    "test_process.Test_UV_Process.test_process_double_close": "counts the os.dup and os.close calls of uvloop's own subprocess code",
    "test_process.Test_UV_Process_Delayed.test_process_delayed_stdio__paused__no_stdin":
        "uses a delay that is compiled into uvloop's fork (__uvloop_sleep_after_fork)",
    "test_process.Test_UV_Process_Delayed.test_process_delayed_stdio__paused__stdin_pipe":
        "uses a delay that is compiled into uvloop's fork (__uvloop_sleep_after_fork)",
}


def _sides_with_asyncio(test: unittest.TestCase) -> bool:
    return test.id().removeprefix(PACKAGE + ".") in ASYNCIO_SIDE


def before_import(loop_name: str) -> None:
    """Lets the tests above ask for their implementation and hear asyncio, unless they run on uvloop itself."""
    if loop_name == "uvloop":
        return
    from uvloop import _testbase  # type: ignore[import-not-found]

    def implementation(self: unittest.TestCase) -> str:
        return "asyncio" if _sides_with_asyncio(self) else "uvloop"

    base: Any = _testbase.UVTestCase
    base.implementation = property(implementation)
    base.is_asyncio_loop = _sides_with_asyncio


def after_import(module: ModuleType) -> None:
    """Takes out the variants that run on stock asyncio to compare: the loop under test runs in their twins."""
    from uvloop import _testbase

    for name, test_class in list(vars(module).items()):
        if not inspect.isclass(test_class):
            continue
        if issubclass(test_class, _testbase.AIOTestCase):
            delattr(module, name)
            continue
        for test, reason in OWN_MACHINERY.items():
            file, owner, method = test.split(".")
            if (file, owner) == (module.__name__.rpartition(".")[2], name):
                setattr(test_class, method, unittest.skip(reason)(getattr(test_class, method)))
