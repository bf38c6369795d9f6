"""Puts another loop under uvloop's own test suite; the worker calls it after each test file is imported.

The suite imports a module named uvloop. Unless uvloop itself is the loop under test, that is the stand-in beside this file, whose names are
those of the loop under test; so the programs that the tests start (signals, deallocation) get that loop too.
"""
import inspect
from types import ModuleType

PACKAGE = "tests"


def after_import(module: ModuleType) -> None:
    """Takes out the variants that run on stock asyncio to compare: the loop under test runs in their twins."""
    from uvloop import _testbase  # type: ignore[import-not-found]

    for name, test_class in list(vars(module).items()):
        if inspect.isclass(test_class) and issubclass(test_class, _testbase.AIOTestCase):
            delattr(module, name)
