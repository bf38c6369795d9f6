"""Runs the lanes of `make test` one after the other, keeps going when one fails, and sums what they counted.

Called by the Makefile as `lanes.py LANE...`; `.ci/run` prints the closing line that it leaves in `.cache/results/closing-line`.
It needs nothing but Python's standard library and calls `make LANE` for each lane.

A lane is a target of the Makefile. It leaves its counts in `.cache/results/` as `LANE.xml` (JUnit, what pytest writes), as
`LANE-*.xml` where it has several parts, or as `LANE.json` or `LANE-*.json`:
`{"passed": 3, "failed": 1, "skipped": 1, "skips": [{"test": "name", "reason": "needs kernel: opcode FTRUNCATE"}]}`.
A lane that ends with a status other than 0 has failed, whatever it counted; so has one that counted no test, unless
`[tool.aiouring]` of pyproject.toml lists it as one without tests. Skips are bounded in `[tool.aiouring.skips]` there, and each
must say what this machine lacks; only lanes that run tests of other projects may give those projects' reasons.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(".cache/results")

# Of a failure's message, in the summary: often it is all that is seen of it.
MESSAGE_CHARS = 300

# What a skip's reason must begin with: a test is skipped for what the machine lacks and for nothing else.
SKIP_REASON = re.compile(r"needs (kernel|program|python): \S")


@dataclass
class Counts:
    """What one lane counted. `skips` holds (test, reason); `failures` the names of failed tests, each with the beginning of its message."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    skips: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.skips += other.skips
        self.failures += other.failures

    @property
    def closing_line(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass
class Lane:
    """How one lane ended. `faults` says in sentences why it counts as failed; it is empty for a lane that passed."""

    name: str
    counts: Counts
    duration_s: float
    faults: list[str]


def read_junit(path: Path) -> Counts:
    """Counts the test cases of one JUnit file. A case with both an error and a failure is one failed test."""
    counts = Counts()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        skip = case.find("skipped")
        problem = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        if problem is not None:
            counts.failed += 1
            message = " ".join((problem.get("message") or problem.text or "").split())
            counts.failures.append(f"{name}: {message[:MESSAGE_CHARS]}")
        elif skip is not None:
            counts.skipped += 1
            counts.skips.append((name, skip.get("message", "")))
        else:
            counts.passed += 1
    return counts


def read_json(path: Path) -> Counts:
    """Reads the counts of a lane that pytest does not run; the module's docstring shows the form."""
    found = json.loads(path.read_text())
    return Counts(
        passed=int(found["passed"]),
        failed=int(found["failed"]),
        skipped=int(found["skipped"]),
        skips=[(skip["test"], skip["reason"]) for skip in found.get("skips", [])],
        failures=list(found.get("failures", [])),
    )


def result_files(results: Path, lane: str) -> list[Path]:
    return sorted([*results.glob(f"{lane}.xml"), *results.glob(f"{lane}-*.xml"), *results.glob(f"{lane}.json"), *results.glob(f"{lane}-*.json")])


def read_lane(results: Path, lane: str) -> Counts:
    counts = Counts()
    for path in result_files(results, lane):
        counts.add(read_json(path) if path.suffix == ".json" else read_junit(path))
    return counts


def find_faults(lane: str, counts: Counts, status: int, *, counts_tests: bool, skips_max: int, any_reason: bool) -> list[str]:
    """Why this lane counts as failed, in sentences; an empty list if it passed."""
    faults = []
    if status != 0:
        faults.append(f"it ended with status {status}")
    if counts.failed and status == 0:
        faults.append(f"it ended with status 0 though {counts.failed} of its tests failed")
    if counts_tests and counts.passed + counts.failed == 0:
        faults.append("no test ran")
    if counts.skipped > skips_max:
        faults.append(f"{counts.skipped} tests were skipped; pyproject.toml allows {skips_max} ([tool.aiouring.skips], {lane})")
    if not any_reason:
        faults += [
            f"{test} was skipped with the reason {reason!r}; a reason begins with 'needs kernel: ', 'needs program: ' or 'needs python: '"
            for test, reason in counts.skips
            if not SKIP_REASON.match(reason)
        ]
    return faults


def run_lane(lane: str, skips: dict[str, int], any_reason: list[str], without_tests: list[str]) -> Lane:
    """Runs one lane with its output on ours and in `.cache/results/LANE.log`."""
    for stale in result_files(RESULTS, lane):
        stale.unlink()
    print(f"\n=== {lane}", flush=True)
    begin_s = time.monotonic()
    with (RESULTS / f"{lane}.log").open("wb") as log:
        make = subprocess.Popen(
            [os.environ.get("MAKE", "make"), "--no-print-directory", lane], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert make.stdout is not None
        for line in make.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            log.write(line)
        status = make.wait()
    try:
        counts, unreadable = read_lane(RESULTS, lane), []
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        counts, unreadable = Counts(), [f"its results in {RESULTS} cannot be read: {error!r}"]
    faults = unreadable + find_faults(
        lane,
        counts,
        status,
        counts_tests=lane not in without_tests,
        skips_max=skips.get(lane, 0),
        any_reason=lane in any_reason,
    )
    if faults and not counts.failed:
        # The closing line is all that some readers see: a lane that failed as a whole counts there as one failed test.
        counts.failed = 1
    return Lane(lane, counts, time.monotonic() - begin_s, faults)


def report(lanes: list[Lane], any_reason: list[str]) -> Counts:
    """Prints the skips with their reasons, one line a lane and what failed; gives the sum of all counts."""
    total = Counts()
    print("\n=== summary")
    for lane in lanes:
        total.add(lane.counts)
        if lane.name not in any_reason:
            for test, reason in lane.counts.skips:
                print(f"skipped in {lane.name}: {test}: {reason}")
    for lane in lanes:
        verdict = "FAILED" if lane.faults else "ok"
        print(f"{lane.name:<16} {verdict:<7} {lane.counts.closing_line:<44} {lane.duration_s:7.1f} s")
        for fault in lane.faults:
            print(f"    {lane.name} failed: {fault}")
        for failure in lane.counts.failures:
            print(f"    failed test: {failure}")
    print(f"{'all':<16} {'':<7} {'':<44} {sum(lane.duration_s for lane in lanes):7.1f} s")
    return total


def hear_interrupts() -> None:
    """A shell that starts us in the background has SIGINT ignored, and all children inherit that: programs under test would not stop."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def main(names: list[str]) -> int:
    hear_interrupts()
    if not names:
        print("usage: lanes.py LANE...", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["aiouring"]
    any_reason = settings["lanes-with-foreign-tests"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    closing_line = RESULTS / "closing-line"
    closing_line.unlink(missing_ok=True)
    lanes = [run_lane(name, settings["skips"], any_reason, settings["lanes-without-tests"]) for name in names]
    total = report(lanes, any_reason)
    closing_line.write_text(total.closing_line + "\n")
    print(total.closing_line, flush=True)
    return 1 if any(lane.faults for lane in lanes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
