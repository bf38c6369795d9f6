"""The expected failures: reads `expected.toml`, holds it to its limits, and judges results by it; the command line calls it."""
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runner import FAILURES, Result

FILE = Path(__file__).with_name("expected.toml")
LIMITS = {"cpython": 12, "uvloop": 8, "aiofiles": 4}


class ExpectationError(Exception):
    """`expected.toml` breaks its own rules."""


@dataclass(frozen=True)
class Expectation:
    """One test that is expected to fail, on these Pythons (all, where empty)."""

    test: str
    reason: str
    pythons: tuple[str, ...] = ()


def _read_entry(suite: str, entry: dict[str, Any]) -> Expectation:
    unknown = set(entry) - {"test", "reason", "pythons"}
    if unknown:
        raise ExpectationError(f"{FILE.name}: [[{suite}]] has unknown keys: {', '.join(sorted(unknown))}")
    if not entry.get("test") or not str(entry.get("reason", "")).strip():
        raise ExpectationError(f"{FILE.name}: each entry of [[{suite}]] needs a test and a reason: {entry}")
    return Expectation(str(entry["test"]), str(entry["reason"]), tuple(entry.get("pythons", ())))


def read(path: Path = FILE) -> dict[str, dict[str, Expectation]]:
    """The expectations by suite and test; ExpectationError where there are too many, or one has no reason."""
    with open(path, "rb") as file:
        table = tomllib.load(file)
    unknown = set(table) - set(LIMITS)
    if unknown:
        raise ExpectationError(f"{path.name}: no such suite: {', '.join(sorted(unknown))}")
    expectations: dict[str, dict[str, Expectation]] = {}
    for suite, limit in LIMITS.items():
        entries = [_read_entry(suite, entry) for entry in table.get(suite, [])]
        if len(entries) > limit:
            raise ExpectationError(f"{path.name}: {len(entries)} exceptions for {suite}'s suite, and at most {limit} are allowed")
        expectations[suite] = {entry.test: entry for entry in entries}
        if len(expectations[suite]) != len(entries):
            raise ExpectationError(f"{path.name}: a test of {suite}'s suite is listed twice")
    return expectations


@dataclass(frozen=True)
class Verdict:
    """What a run's results mean: the failures nobody expects, the expected ones, and the entries that are out of date."""

    unexpected: list[Result]
    expected: list[Result]
    passed_though_listed: list[Result]


def judge(results: Iterable[Result], python: str, expectations: dict[str, Expectation]) -> Verdict:
    """Sorts the results of one suite on one Python."""
    verdict = Verdict([], [], [])
    for result in results:
        entry = expectations.get(result.test)
        listed = entry is not None and (not entry.pythons or python in entry.pythons)
        if result.outcome in FAILURES:
            (verdict.expected if listed else verdict.unexpected).append(result)
        elif listed and result.outcome == "passed":
            verdict.passed_though_listed.append(result)
    return verdict


def never_ran(seen: set[str], expectations: dict[str, Expectation], pythons: set[str] | None = None) -> list[str]:
    """Listed tests that no Python of a whole run has: misspelt, or gone. Entries for other Pythons than `pythons` are not looked for."""
    return sorted(
        test
        for test, entry in expectations.items()
        if test not in seen and (pythons is None or not entry.pythons or pythons & set(entry.pythons))
    )
