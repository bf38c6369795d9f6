"""What a run shows: the progress while it runs, the summary by file, and the JSON for whoever adds up; the command line calls it."""
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .expected import Verdict
from .runner import FAILURES, OUTCOMES, Chunk, Result, Run

PROGRESS_INTERVAL_S = 10.0
DETAIL_LINES = 60


class Progress:
    """One line that says how far the run is: rewritten in place on a terminal, and every ten seconds in a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._counts: Counter[str] = Counter()
        self._started_s = time.monotonic()
        self._shown_s = 0.0
        self._in_place = sys.stderr.isatty()

    def add(self, chunk: Chunk, result: Result) -> None:
        """Counts one result; a hang or a crash is said at once."""
        self._counts[result.outcome] += 1
        if result.outcome in ("hung", "crashed"):
            self._clear()
            print(f"{result.outcome.upper()}: {chunk.run.label} {result.test}", file=sys.stderr, flush=True)
        now_s = time.monotonic()
        if now_s - self._shown_s >= (0.2 if self._in_place else PROGRESS_INTERVAL_S):
            self._shown_s = now_s
            done = f"{self._counts.total()}/{self._total} in {now_s - self._started_s:.0f} s"
            line = f"{done}: {describe(self._counts)}; {chunk.run.label} {chunk.file}"
            print(f"\r\x1b[K{line}" if self._in_place else line, end="" if self._in_place else "\n", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._in_place:
            print("\r\x1b[K", end="", file=sys.stderr)

    def finish(self) -> float:
        """Ends the line; returns the seconds since the start."""
        self._clear()
        return time.monotonic() - self._started_s


def describe(counts: Counter[str]) -> str:
    """Counts in words: 12 passed, 1 failed."""
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]) or "nothing"


def print_summary(run: Run, results: list[Result], verdict: Verdict, left_out: dict[str, str]) -> None:
    """One suite on one Python: a line for each file, what was skipped and why, and the total."""
    print(f"\n{run.suite} on Python {run.environment.python.full} with {run.loop}")
    files: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for result in results:
        files.setdefault(result.file, Counter())[result.outcome] += 1
        seconds[result.file] += result.duration_s  # type: ignore[assignment]
    for file, counts in sorted(files.items()):
        print(f"  {file:28} {seconds[file]:6.1f} s  {describe(counts)}")
    if run.slower != 1:
        names = ", ".join(f"{limit.file} {limit.function}" for limit in run.time_limits)
        print(f"  times that tests share, and the limits of these, are {run.slower:g} times as long: {names}")
    for file, reason in sorted(left_out.items()):
        print(f"  {file:28}  left out: {reason}")
    reasons: Counter[str] = Counter(" ".join(result.detail.split()) or "no reason given" for result in results if result.outcome == "skipped")
    for reason, count in sorted(reasons.items()):
        print(f"  skipped by the suite itself, {count}: {reason}")
    print(f"  total: {describe(Counter(result.outcome for result in results))}; expected failures: {len(verdict.expected)}")


def print_problems(run: Run, results: list[Result], verdict: Verdict, brief: bool) -> None:
    """What fails the run, and what only passed when it ran again; `brief` leaves out the tracebacks."""
    for result in verdict.unexpected:
        print(f"\n{result.outcome.upper()}: {run.label} {result.test}")
        if not brief:
            print("\n".join("    " + line for line in result.detail.splitlines()[-DETAIL_LINES:]))
    for result in verdict.passed_though_listed:
        print(f"\nPASSED, THOUGH EXPECTED TO FAIL: {run.label} {result.test}: take it out of expected.toml")
    for result in results:
        if result.outcome == "flaky":
            print(f"\nFLAKY: {run.label} {result.test} failed among others and passed alone")
            if not brief:
                print("\n".join("    " + line for line in result.detail.splitlines()[-DETAIL_LINES:]))


def summary(run: Run, results: list[Result], verdict: Verdict) -> dict[str, Any]:
    """One suite on one Python, for the JSON."""
    counts: Counter[str] = Counter(result.outcome for result in results)
    return {
        "suite": run.suite,
        "python": run.environment.python.full,
        "passed": counts["passed"] + counts["flaky"] - len(verdict.passed_though_listed),
        "failed": len(verdict.unexpected) + len(verdict.passed_though_listed),
        "skipped": counts["skipped"],
        "expected_failures": [result.test for result in verdict.expected],
        "passed_though_listed": [result.test for result in verdict.passed_though_listed],
        "flaky": [result.test for result in results if result.outcome == "flaky"],
        "failures": [
            {"test": result.test, "outcome": result.outcome, "detail": result.detail} for result in results if result.outcome in FAILURES
        ],
        "skips": [{"test": result.test, "reason": " ".join(result.detail.split())} for result in results if result.outcome == "skipped"],
        "slowest": [
            {"test": result.test, "duration_s": result.duration_s}
            for result in sorted(results, key=lambda result: -result.duration_s)[:5]
        ],
    }


def last_line(detail: str) -> str:
    """Where a traceback says what happened."""
    return next((line.strip() for line in reversed(detail.splitlines()) if line.strip()), "")


def write_json(path: Path, loop: str, runs: list[dict[str, Any]], duration_s: float) -> None:
    """The whole run, with the sums at the top in the form that tools/lanes.py reads; expected failures count in none of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failures, skips = [], []
    for run in runs:
        label = f"{run['suite']} {run['python']}"
        problems = {item["test"]: last_line(item["detail"]) for item in run["failures"] if item["test"] not in run["expected_failures"]}
        problems |= dict.fromkeys(run["passed_though_listed"], "passed, though expected to fail")
        failures += [f"{label} {test}: {problem}" for test, problem in sorted(problems.items())]
        skips += [{"test": f"{label} {item['test']}", "reason": item["reason"]} for item in run["skips"]]
    document = {
        **{key: sum(run[key] for run in runs) for key in ("passed", "failed", "skipped")},
        "failures": failures,
        "skips": skips,
        "loop": loop,
        "expected_failures": sum(len(run["expected_failures"]) for run in runs),
        "duration_s": round(duration_s, 1),
        "runs": runs,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
