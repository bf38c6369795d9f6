"""Makes the loop under test, in the process under test. Imported by the other apps of this folder; calls the loop's package.

An app is one file for all loops, run as a script by any contestant's interpreter: it knows nothing of the rest of the suite.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import inspect
import json
import resource
import sys
import time


class Unavailable(Exception):
    """This loop cannot run this app; the message is the reason that the table gives."""


def make_loop(name: str) -> asyncio.AbstractEventLoop:
    """A new loop of the package `name` (asyncio, uvloop, aiouring …): all of them have new_event_loop(). "PACKAGE?OPTION=NUMBER" gives it
    an option; Unavailable when it has no such option. "PACKAGE?hook=NAME" attaches a loop hook."""
    package, _, option = name.partition("?")
    new_event_loop = importlib.import_module(package).new_event_loop
    options: dict[str, float] = {}
    if option.startswith("hook="):
        loop: asyncio.AbstractEventLoop
        hook = importlib.import_module(f"{package}.bpf").Hook
        loop = new_event_loop()
        hook.load(option[5:], engine="inline").attach(loop)
        return loop
    if option:
        key, _, value = option.partition("=")
        if key not in inspect.signature(new_event_loop).parameters:
            raise Unavailable(f"the option {key}= of {package}.new_event_loop does not exist yet")
        options[key] = float(value) if "." in value else int(value)
    made: asyncio.AbstractEventLoop = new_event_loop(**options)
    return made


def be_a_process_under_test() -> None:
    """What every app does first: it ends with the run that started it, and may have as many descriptors as the machine allows."""
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


class Window:
    """What an app measures that is its own load: warm-up, then one window. Call `over(count)` after each batch; it prints like the C programs."""

    def __init__(self, warmup_s: float, length_s: float) -> None:
        self.deadline_ns = time.monotonic_ns() + int(warmup_s * 1e9)
        self.length_ns = int(length_s * 1e9)
        self.begin_ns = self.cpu_ns = self.messages = 0

    def over(self, count: int) -> bool:
        now_ns = time.monotonic_ns()
        if self.begin_ns:
            self.messages += count
        if now_ns < self.deadline_ns:
            return False
        if self.begin_ns == 0:
            self.begin_ns, self.cpu_ns = now_ns, time.process_time_ns()
            self.deadline_ns = now_ns + self.length_ns
            return False
        cpu_ns = time.process_time_ns() - self.cpu_ns
        found = {"messages": self.messages, "window_ns": now_ns - self.begin_ns, "server_cpu_ns": cpu_ns}
        say(json.dumps(found | {"load_cpu_ns": 0, "lost": 0, "latencies": 0}))
        return True


def say(*words: object) -> None:
    """One line to the suite, which waits for it."""
    print(*words, flush=True)


def say_unavailable(error: BaseException) -> None:
    """The line that ends an app that cannot run; the suite shows the reason in the table."""
    reason = str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"
    say("UNAVAILABLE", " ".join(reason.split()))
    sys.exit(0)
