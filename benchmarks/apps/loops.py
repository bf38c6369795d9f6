"""Makes the loop under test, in the process under test. Imported by the other apps of this folder; calls the loop's package.

An app is one file for all loops, run as a script by any contestant's interpreter: it knows nothing of the rest of the suite.
"""

from __future__ import annotations

import asyncio
import importlib
import sys


class Unavailable(Exception):
    """This loop cannot run this app; the message is the reason that the table gives."""


def make_loop(name: str) -> asyncio.AbstractEventLoop:
    """A new loop of the package `name` (asyncio, uvloop, aiouring …): all of them have new_event_loop()."""
    loop: asyncio.AbstractEventLoop = importlib.import_module(name).new_event_loop()
    return loop


def say(*words: object) -> None:
    """One line to the suite, which waits for it."""
    print(*words, flush=True)


def say_unavailable(error: BaseException) -> None:
    """The line that ends an app that cannot run; the suite shows the reason in the table."""
    reason = str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"
    say("UNAVAILABLE", " ".join(reason.split()))
    sys.exit(0)
