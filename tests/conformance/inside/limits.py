"""Makes the times longer that a suite's tests give the loop; the worker calls it where the machine is known to be slow (--slower).

Nothing else about the tests changes: one that waits in vain, or much too long, still fails.
"""
import inspect
import textwrap
from collections.abc import Iterable
from types import ModuleType
from typing import Any


def stretch_support(slower: float) -> None:
    """The times that CPython's tests share, as the `--timeout` of its own runner makes them longer. Before the tests are imported."""
    from test import support  # type: ignore[import-not-found]

    for name in ("LOOPBACK_TIMEOUT", "SHORT_TIMEOUT"):
        setattr(support, name, getattr(support, name) * slower)


def stretch(module: ModuleType, longer: Iterable[tuple[str, str, str]]) -> None:
    """Compiles test functions of a module's classes anew: each is (function, text with its limit, the same text with a longer one). A version of the
    suite that has no such text is left as it is."""
    for function, text, longer_text in longer:
        for owner in [found for found in vars(module).values() if inspect.isclass(found) and function in vars(found)]:
            original: Any = vars(owner)[function]
            source = textwrap.dedent(inspect.getsource(original))
            if text not in source:
                continue
            # The empty lines make those of a traceback right.
            code = compile("\n" * (original.__code__.co_firstlineno - 1) + source.replace(text, longer_text), inspect.getfile(original), "exec")
            made: dict[str, Any] = {}
            exec(code, vars(module), made)
            setattr(owner, function, made[function])
