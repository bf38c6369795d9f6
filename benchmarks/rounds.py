"""Runs the rows: for each row, rounds in which every contestant is measured once, one right after the other (A B A B).

Used by __main__.py; calls measure.py. What a run found is a Result, which report.py turns into the table, the JSON and the charts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import measure
from benchmarks.contestants import OURS, PEERS, WITHOUT_OPTION, Contestant, ours
from benchmarks.figures import METRICS, Sample, Spread, ratio, spread
from benchmarks.processes import Cores, Failed
from benchmarks.rows import Row


@dataclass
class RowResult:
    """The samples of one row by contestant, one a round (None where it failed), and why contestants failed."""

    row: Row
    samples: dict[str, list[Sample | None]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def spread(self, contestant: str, metric: str = "") -> Spread | None:
        return spread(self.samples.get(contestant, ()), metric or self.row.main)

    def ratio(self, of: str, to: str, metric: str = "") -> Spread | None:
        return ratio(self.samples.get(of, ()), self.samples.get(to, ()), metric or self.row.main)

    def best(self, names: Sequence[str]) -> str | None:
        """The one of `names` with the best median of the row's main metric."""
        found = {name: figure.median for name in names if (figure := self.spread(name)) is not None}
        if not found:
            return None
        choose = max if METRICS[self.row.main].more_is_better else min
        return choose(found, key=lambda name: found[name])

    @property
    def peers(self) -> list[str]:
        return [name for name in (*PEERS, *self.row.extra_peers) if name in self.samples]

    @property
    def best_peer(self) -> str | None:
        return self.best(self.peers)

    def goals(self) -> list[tuple[str, float | None, bool | None]]:
        """Each goal's sentence, what counts for it, and whether it is reached (None: cannot be judged)."""
        return [(goal.sentence, *goal.judge(dict(self.samples), OURS)) for goal in self.row.goals]


Progress = Callable[[Row, Contestant, int], None]


def of_row(row: Row, contestants: Sequence[Contestant], against: Sequence[str] | None = None) -> list[Contestant]:
    """Those that take part in this row: not every row has all loops, and some have programs of other kinds, which come after the floors."""
    own = [
        ours(sys.executable, name) if name == WITHOUT_OPTION else Contestant(name, python=sys.executable)
        for name in row.extra_peers
        if against is None or name in against or name == WITHOUT_OPTION
    ]
    mine = [one for one in contestants if one.name not in (*PEERS, "epoll") or row.loops is None or one.name in row.loops]
    return [one for one in mine if one.is_floor] + own + [one for one in mine if not one.is_floor]


def run_row(row: Row, contestants: Sequence[Contestant], cores: Cores, timing: measure.Timing, rounds: int, progress: Progress) -> RowResult:
    """The rounds of one row. A contestant that failed twice running is not tried again: it would fail
    slowly, round after round."""
    result = RowResult(row, {contestant.name: [] for contestant in contestants})
    failures = dict.fromkeys(result.samples, 0)
    for number in range(rounds):
        for contestant in contestants:
            samples = result.samples[contestant.name]
            if failures[contestant.name] >= 2:
                samples.append(None)
                continue
            progress(row, contestant, number)
            try:
                samples.append(measure.measure(row, contestant, cores, timing))
                failures[contestant.name] = 0
            except Failed as failure:
                samples.append(None)
                failures[contestant.name] += 1
                result.reasons[contestant.name] = str(failure)
    return result
