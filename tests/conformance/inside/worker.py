"""The test child: lists the tests of some files, or runs a list of tests and reports each result over a pipe.

The runner starts it with the path of a request (JSON) and the number of the pipe's descriptor. Each message is one line of JSON. It never
decides about time: the runner kills it when a test takes too long, and starts another for what is left.
"""
import ctypes
import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import unittest
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from . import aim_cpython, aim_uvloop, limits
from .loops import factory_of

ErrorInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Pipe:
    """The way back to the runner. A forked child that comes back through the test must not report: only the first process does."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._process = os.getpid()

    def send(self, event: str, **fields: object) -> None:
        """Writes one message whole, or dies with the runner."""
        if os.getpid() != self._process:
            return
        data = (json.dumps({"event": event, **fields}) + "\n").encode()
        while data:
            data = data[os.write(self._descriptor, data):]


class Reporter(unittest.TestResult):
    """Sends one message when a test starts and one when it has ended."""

    def __init__(self, pipe: Pipe, package: str, log: Path) -> None:
        super().__init__()
        self._pipe = pipe
        self._log = log
        self._prefix = package + "."
        self._outcome = ""
        self._details: list[str] = []
        self._started_s: float | None = None

    def identify(self, test: object) -> str:
        """The test's name without the package: file.Class.test."""
        owner: Any = getattr(test, "test_case", test)
        name: str = owner.id()
        return name.removeprefix(self._prefix).replace("(" + self._prefix, "(")

    def startTest(self, test: unittest.TestCase) -> None:
        self._started_s = time.monotonic()
        self._pipe.send("start", test=self.identify(test), log_start=self._log.stat().st_size)

    def stopTest(self, test: unittest.TestCase) -> None:
        # The runner reads what a failed test printed as soon as it hears of it.
        sys.stdout.flush()
        sys.stderr.flush()
        self._pipe.send(
            "end",
            test=self.identify(test),
            outcome=self._outcome or "failed",
            detail="\n".join(self._details) if self._outcome else "the test ended without an outcome",
            duration_s=0.0 if self._started_s is None else round(time.monotonic() - self._started_s, 3),
        )
        # Python 3.12.1 stops skipped tests that it never started, so the next test cannot count on its start to clear this.
        self._outcome, self._details, self._started_s = "", [], None

    def _note(self, test: object, outcome: str, detail: str) -> None:
        """Keeps the worst outcome of a test; what belongs to no test (a class's or a module's set-up) is sent at once."""
        if isinstance(test, unittest.TestCase):
            # Nothing mends a failure. A test of which a part was skipped ends without another outcome, so it is a skipped one.
            if self._outcome != "failed":
                self._outcome = outcome
            if detail:
                self._details.append(detail)
        else:
            self._pipe.send("fixture", name=self.identify(test), outcome=outcome, detail=detail)

    def _note_error(self, test: object, error: Any) -> None:
        self._note(test, "failed", "".join(traceback.format_exception(*error)))

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "passed", "")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._note_error(test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._note_error(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "passed", "")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "failed", "the suite expects this test to fail, and it passed")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self._note_error(subtest, err)


def load(suite: str, file: str, loop_name: str, longer: Iterable[tuple[str, str, str]] = ()) -> list[unittest.TestCase]:
    """Imports one test file, aims it at the loop, makes limits on elapsed time longer, and returns its tests."""
    if suite == "cpython":
        package = aim_cpython.PACKAGE
        module = importlib.import_module(f"{package}.{file}")
        aim_cpython.after_import(module, factory_of(loop_name))
    elif suite == "uvloop":
        package = aim_uvloop.PACKAGE
        module = importlib.import_module(f"{package}.{file}")
        aim_uvloop.after_import(module)
    else:
        module = importlib.import_module(file)
    limits.stretch(module, longer)
    return list(_flatten(unittest.defaultTestLoader.loadTestsFromModule(module)))


def _flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def prepare(suite: str, loop_name: str) -> str:
    """Aims what all files of the suite share; returns the name of the suite's package."""
    if suite == "cpython":
        aim_cpython.before_import(factory_of(loop_name))
        return aim_cpython.PACKAGE
    if suite == "uvloop":
        aim_uvloop.before_import(loop_name)
        return aim_uvloop.PACKAGE
    return ""


def _list(pipe: Pipe, reporter: Reporter, suite: str, file: str, loop_name: str) -> None:
    """Sends the names of one file's tests; a file that cannot be imported is a result too."""
    try:
        tests = load(suite, file, loop_name)
    except unittest.SkipTest as error:
        pipe.send("fixture", name=file, outcome="skipped", detail=str(error))
    except Exception:
        pipe.send("fixture", name=file, outcome="failed", detail=traceback.format_exc())
    else:
        for test in tests:
            pipe.send("test", file=file, test=reporter.identify(test))


def _die_with_the_runner() -> None:
    """Asks the kernel to kill this process when the runner dies without a word, so that no test goes on for ever."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Reads the request, then lists or runs."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _die_with_the_runner()
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        # nohup ignores it, and so would the children to which tests send it. A handler that does nothing is not inherited.
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    request_file = Path(sys.argv[1])
    request = json.loads(request_file.read_text())
    pipe = Pipe(int(sys.argv[2]))
    del sys.argv[1:]
    sys.path[:0] = request["path"]
    suite, loop_name = request["suite"], request["loop"]
    # The runner lets the child print into a file beside the request.
    log = request_file.with_name("log")
    if suite == "aiofiles":
        # Its tests are pytest's, which only this suite's environment has.
        from . import aim_aiofiles

        lists = request["action"] == "list"
        files, wanted = (request["files"], None) if lists else ([request["file"]], request["tests"])
        aim_aiofiles.run(pipe.send, loop_name, log, Path(request["path"][0]), files, wanted)
        pipe.send("done")
        return
    if suite == "cpython":
        limits.stretch_support(request["slower"])
    reporter = Reporter(pipe, prepare(suite, loop_name), log)
    if request["action"] == "list":
        for name in request["files"]:
            _list(pipe, reporter, suite, name, loop_name)
    else:
        tests = {reporter.identify(test): test for test in load(suite, request["file"], loop_name, request["longer"])}
        unittest.TestSuite(tests[name] for name in request["tests"]).run(reporter)
    pipe.send("done")
