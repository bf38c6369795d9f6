"""Statistics and goals: pure functions over the samples of a run. Used by rounds.py and report.py; calls nothing.

A sample is what one contestant gave in one round: metric → figure. Ratios are taken within a round, since a round's contestants ran right
after each other, and only then is the median taken: what slows the whole machine for a while slows both sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Sample = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """One figure of a sample. `unit` is what the table shows; `more_is_better` holds for rates."""

    name: str
    title: str
    unit: str
    more_is_better: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("cpu_us", "CPU time per message", "µs"),
        Metric("rate", "messages per second", "/s", more_is_better=True),
        Metric("cpu_rate", "messages per second of CPU time", "/s of CPU", more_is_better=True),
        Metric("p50_us", "latency, median", "µs"),
        Metric("p99_us", "latency, 99 of 100", "µs"),
        Metric("memory_bytes", "memory per connection", "B"),
        Metric("wakeups", "wake-ups per second", "/s"),
        Metric("idle_cpu_us", "CPU time per second", "µs"),
    )
}


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest of what was measured."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


def spread(samples: Sequence[Sample | None], metric: str) -> Spread | None:
    """Over the rounds in which there is such a figure; None if there is none."""
    figures = [sample[metric] for sample in samples if sample is not None and metric in sample]
    return Spread.of(figures) if figures else None


def ratio(of: Sequence[Sample | None], to: Sequence[Sample | None], metric: str) -> Spread | None:
    """The first one's figures divided by the second one's, round by round. None where no round has both (or the second one is 0)."""
    ratios = [
        one[metric] / other[metric]
        for one, other in zip(of, to, strict=False)
        if one is not None and other is not None and metric in one and other.get(metric, 0) != 0
    ]
    return Spread.of(ratios) if ratios else None


@dataclass(frozen=True)
class Goal:
    """`ours` shall be at most (for rates: at least) `factor` times what `against` has. `against` "" means: the figure itself."""

    against: str
    metric: str
    factor: float

    @property
    def sentence(self) -> str:
        metric = METRICS[self.metric]
        sign = "≥" if metric.more_is_better else "≤"
        if not self.against:
            return f"{metric.title} {sign} {self.factor:g} {metric.unit}"
        name = {"cpu_us": "CPU", "cpu_rate": "rate by CPU time", "p50_us": "p50", "memory_bytes": "memory"}.get(self.metric, self.metric)
        return f"{name} {sign} {self.factor:g} × {self.against}"

    def judge(self, samples: dict[str, Sequence[Sample | None]], ours: str) -> tuple[float | None, bool | None]:
        """The median that counts, and whether it reaches the goal; None where something to judge by is lacking."""
        mine = samples.get(ours, ())
        found = ratio(mine, samples.get(self.against, ()), self.metric) if self.against else spread(mine, self.metric)
        if found is None:
            return None, None
        if METRICS[self.metric].more_is_better:
            return found.median, found.median >= self.factor
        return found.median, found.median <= self.factor
