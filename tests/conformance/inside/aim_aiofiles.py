"""Runs aiofiles' own tests, which are pytest's, on files of aiouring; the worker calls it inside the child.

The tests import the stand-in for aiofiles in `stand_in_aiofiles/`. Each of their loops is the one under test.
"""
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from .loops import factory_of

# Skipped and counted with these reasons; a name stands for all its parameters.
_NOT_HERE = {
    "test_tempfile.test_spooled_temporary_file": "a spooled file is no file at first, and the test looks at aiofiles' own object for it",
    "test_tempfile.test_spooled_temporary_file_newlines": "the same",
    "test_os.test_statvfs": "aiouring.fs has no statvfs",
    "test_os.test_renames": "aiouring.fs has no renames",
    "test_os.test_getcwd": "aiouring.fs has no getcwd, which no program waits for",
    "test_os.test_abspath": "aiouring.fs has no abspath; aiouring.Path has absolute()",
    "test_os.test_abspath_given_abspath": "the same",
}
_NOT_FOR_ROOT = {"test_os.test_access": "it expects that permissions keep the user out, which root's do not"}

# The runner's plugins are those that the suite needs: pytest-asyncio, and nothing that writes beside the tests.
_OPTIONS = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]


def _without_parameters(test: str) -> str:
    return test.partition("[")[0]


class Plugin:
    """Finds the tests, and tells the runner how each one ends. `wanted`: the tests to run; None: list them all."""

    def __init__(self, send: Callable[..., None], loop_name: str, log: Path, wanted: Iterable[str] | None) -> None:
        self._send = send
        self._loop_name = loop_name
        self._log = log
        self._wanted = None if wanted is None else set(wanted)
        self._outcome = ""
        self._details: list[str] = []
        self._duration_s = 0.0

    def _identify(self, nodeid: str) -> str:
        """file.test[parameters], without the loop's name, which pytest-asyncio may add to the parameters."""
        path, _, name = nodeid.partition("::")
        test, bracket, parameters = name.partition("[")
        kept = [part for part in parameters.removesuffix("]").split("-") if part != f"loop:{self._loop_name}"] if bracket else []
        return f"{Path(path).stem}.{test}" + (f"[{'-'.join(kept)}]" if kept else "")

    def pytest_asyncio_loop_factories(self, config: Any, item: Any) -> dict[str, Any]:
        """Called by pytest-asyncio for each test."""
        return {self._loop_name: factory_of(self._loop_name)}

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._send("fixture", name=Path(report.nodeid).stem, outcome=report.outcome, detail=str(report.longrepr))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        reasons = _NOT_HERE | (_NOT_FOR_ROOT if os.geteuid() == 0 else {})
        for item in items:
            reason = reasons.get(_without_parameters(self._identify(item.nodeid)))
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
        if self._wanted is not None:
            items[:] = [item for item in items if self._identify(item.nodeid) in self._wanted]

    def pytest_collection_finish(self, session: Any) -> None:
        if self._wanted is None:
            for item in session.items:
                test = self._identify(item.nodeid)
                self._send("test", file=test.partition(".")[0], test=test)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._outcome, self._details, self._duration_s = "passed", [], 0.0
        self._send("start", test=self._identify(nodeid), log_start=self._log.stat().st_size)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Three for each test: set-up, call, tear-down. The worst one counts."""
        self._duration_s += report.duration
        if report.failed or (report.skipped and self._outcome == "passed"):
            self._outcome = "failed" if report.failed else "skipped"
            reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else report.longreprtext
            self._details.append(reason)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._send(
            "end", test=self._identify(nodeid), outcome=self._outcome, detail="\n".join(self._details), duration_s=round(self._duration_s, 3)
        )


def run(send: Callable[..., None], loop_name: str, log: Path, suite: Path, files: Iterable[str], wanted: Iterable[str] | None) -> None:
    """Lists the tests of these files (`wanted` None), or runs those that are wanted."""
    paths = [str(next(suite.rglob(f"{file}.py"))) for file in files]
    options = [*_OPTIONS, "--rootdir", str(suite), "-c", os.devnull]
    pytest.main([*options, *(["--collect-only"] if wanted is None else []), *paths], plugins=[Plugin(send, loop_name, log, wanted)])


