"""Runs test suites that are not ours against an event loop: `python -m tests.conformance`; `make conformance` calls it.

It prepares an environment for each Python, lists the tests, runs them in children, and judges the results by `expected.toml`.
The exit status is 0 when nothing failed that is not expected, and everything that is expected to fail did.
"""
import argparse
import fnmatch
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from . import environments, expected, report, runner, suites
from .inside.loops import LOOPS

RESULTS = suites.ROOT / ".cache" / "results" / "conformance.json"

# Above this many failures something is broken, and running each again only takes time.
RERUNS_MAX = 40


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Runs the suites of CPython, uvloop and aiofiles on a loop.")
    parser.add_argument("--suite", action="append", choices=sorted(suites.SUITES), help="run this suite only; may be given twice")
    parser.add_argument("--python", action="append", metavar="X", help="a version (3.12) or an executable; default: all supported that are here")
    parser.add_argument("--loop", choices=sorted(LOOPS), default="aiouring", help="the loop under the tests (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="run tests whose name (file.Class.test) has this in it, or matches it")
    # Most tests of event loops wait most of their time: a processor takes two children. More would be late for what the tests wait for.
    parser.add_argument("-j", "--jobs", type=int, default=2 * min(2, os.cpu_count() or 1), help="children at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds that one test may take (default: %(default)g)")
    parser.add_argument("--slower", type=float, default=1.0, metavar="N", help="give the loop N times as long where a test of CPython's sets a limit")
    parser.add_argument("--list-failures", action="store_true", help="print the names of the failures without their tracebacks")
    parser.add_argument("--no-rerun", action="store_true", help="do not run failed tests again, alone")
    parser.add_argument("--prepare", action="store_true", help="make the environments that the run needs, and run nothing")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where the counts go (default: %(default)s)")
    return parser.parse_args()


def choose_pythons(names: list[str] | None) -> list[environments.Python]:
    """The Pythons asked for, each of which must be there; or all supported ones that are."""
    pythons = []
    for name in names or environments.SUPPORTED:
        python = environments.find_python(name)
        if python is not None:
            pythons.append(python)
        elif names:
            raise suites.SuiteError(f"there is no Python {name} on this machine")
        else:
            print(f"conformance: Python {name} is not on this machine")
    if not pythons:
        raise suites.SuiteError(f"none of the supported Pythons is on this machine: {', '.join(environments.SUPPORTED)}")
    return pythons


def prepare_runs(arguments: argparse.Namespace) -> list[runner.Run]:
    """One run for each suite on each Python, with all that it needs in place."""
    chosen = [suites.SUITES[name] for name in arguments.suite or suites.SUITES]
    requirements = tuple(requirement for suite in chosen for requirement in suite.requirements)
    runs = []
    for python in choose_pythons(arguments.python):
        environment = environments.prepare(python, arguments.loop, requirements)
        for suite in chosen:
            if suite is suites.CPYTHON:
                environments.check_suite(python)
                runs.append(runner.Run(suite.name, arguments.loop, environment, slower=arguments.slower, time_limits=suite.time_limits))
            elif suite is suites.UVLOOP:
                runs.append(_uvloop_run(environment, arguments.loop))
            else:
                stand_in = suites.INSIDE / "inside" / "stand_in_aiofiles"
                runs.append(runner.Run(suite.name, arguments.loop, environment, (str(suites.fetch_aiofiles_suite(python.short)), str(stand_in))))
    return runs


def _uvloop_run(environment: environments.Environment, loop: str) -> runner.Run:
    """uvloop's suite; on any loop but uvloop itself, with the stand-in for the module of that name."""
    folder = suites.fetch_uvloop_suite()
    if loop == "uvloop":
        return runner.Run("uvloop", loop, environment, (str(folder),))
    stand_in = str(suites.INSIDE / "inside" / "stand_in")
    variables = {"CONFORMANCE_LOOP": loop, "CONFORMANCE_UVLOOP_TESTBASE": str(folder / "support"), "PYTHONPATH": stand_in}
    return runner.Run("uvloop", loop, environment, (str(folder), stand_in), variables)


def selected(test: str, patterns: list[str] | None) -> bool:
    """Whether a test is asked for: a pattern with wildcards must match its whole name, one without must be part of it."""
    if not patterns:
        return True
    return any(fnmatch.fnmatchcase(test, pattern) if set(pattern) & set("*?[") else pattern in test for pattern in patterns)


class Session:
    """The runs of one call, with their results."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._expectations = expected.read() if arguments.loop.startswith("aiouring") else {name: {} for name in suites.SUITES}
        self._runs = prepare_runs(arguments)
        self._results: dict[runner.Run, dict[str, runner.Result]] = {run: {} for run in self._runs}

    def _chunks(self) -> list[runner.Chunk]:
        """All tests that are asked for; a file that does not exist for a Python is left out there."""
        chunks = []
        for run in self._runs:
            tests, results = runner.list_tests(run, self._files(run), self._arguments.timeout)
            self._results[run].update((result.test, result) for result in results if selected(result.test, self._arguments.only))
            wanted = {file: [test for test in names if selected(test, self._arguments.only)] for file, names in tests.items()}
            chunks += list(runner.cut(run, wanted))
        # The same file of all Pythons together: the slow files of every Python come before the quick ones of any.
        order = {file: place for suite in suites.SUITES.values() for place, file in enumerate(suite.files)}
        return sorted(chunks, key=lambda chunk: order[chunk.file])

    def _files(self, run: runner.Run) -> tuple[str, ...]:
        files = suites.SUITES[run.suite].files
        if run.suite != "cpython":
            return files
        present = environments.cpython_test_files(run.environment.python)
        return tuple(file for file in files if file in present)

    def run(self) -> bool:
        """Runs, prints and writes everything; whether all is as expected."""
        chunks = self._chunks()
        progress = report.Progress(sum(len(chunk.tests) for chunk in chunks))

        def note(chunk: runner.Chunk, result: runner.Result) -> None:
            self._results[chunk.run][result.test] = result
            progress.add(chunk, result)

        runner.run_chunks(chunks, self._arguments.jobs, self._arguments.timeout, note)
        if not self._arguments.no_rerun:
            self._run_failures_again(chunks)
        return self._conclude(progress.finish())

    def _run_failures_again(self, chunks: list[runner.Chunk]) -> None:
        """Gives tests that failed by their own assertions a second try with nothing beside them; a hang or a crash gets none."""
        known = {(chunk.run, test): chunk.file for chunk in chunks for test in chunk.tests}
        failed = [
            runner.Chunk(run, known[run, test], (test,))
            for run, results in self._results.items()
            for test, result in results.items()
            if result.outcome == "failed" and (run, test) in known and test not in self._expectations[run.suite]
        ]
        if len(failed) > RERUNS_MAX:
            print(f"conformance: {len(failed)} tests failed; they are not run again")
            return

        def note(chunk: runner.Chunk, result: runner.Result) -> None:
            if result.outcome == "passed":
                first = self._results[chunk.run][result.test]
                self._results[chunk.run][result.test] = replace(first, outcome="flaky")

        runner.run_chunks(failed, 1, self._arguments.timeout, note)

    def _conclude(self, duration_s: float) -> bool:
        summaries = []
        good = True
        for run, results_by_test in self._results.items():
            results = list(results_by_test.values())
            verdict = expected.judge(results, run.environment.python.short, self._expectations[run.suite])
            report.print_problems(run, results, verdict, self._arguments.list_failures)
            summaries.append((run, results, verdict))
            good = good and not (verdict.unexpected or verdict.passed_though_listed)
        for run, results, verdict in summaries:
            report.print_summary(run, results, verdict, dict(suites.SUITES[run.suite].left_out))
        good = self._check_listed() and good
        documents = [report.summary(*item) for item in summaries]
        report.write_json(self._arguments.json, self._arguments.loop, documents, duration_s)
        totals = {key: sum(document[key] for document in documents) for key in ("passed", "failed", "skipped")}
        listed = sum(len(document["expected_failures"]) for document in documents)
        print(
            f"\nconformance of {self._arguments.loop}: {totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped, "
            f"{listed} expected failures, in {duration_s:.0f} s; {self._arguments.json}"
        )
        return good

    def _check_listed(self) -> bool:
        """In a whole run, each listed test must exist on some Python."""
        if self._arguments.only or self._arguments.python:
            return True
        good = True
        for suite, expectations in self._expectations.items():
            seen = {test for run, results in self._results.items() if run.suite == suite for test in results}
            pythons = {run.environment.python.short for run in self._results}
            if seen:
                for test in expected.never_ran(seen, expectations, pythons):
                    print(f"\nexpected.toml lists {test}, which no Python here has")
                    good = False
        return good


def main() -> int:
    """The exit status. A run that is told to end takes its children with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        arguments = parse_arguments()
        session = Session(arguments)
        return 0 if arguments.prepare or session.run() else 1
    except (suites.SuiteError, expected.ExpectationError, json.JSONDecodeError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
