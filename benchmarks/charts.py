"""One SVG for each group of rows: a small chart a row, a bar a contestant with its least and greatest. Used by document.py and __main__.py;
calls matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import FLOORS, OURS
from benchmarks.figures import METRICS
from benchmarks.report import figure_text, number
from benchmarks.rounds import RowResult

COLOURS = {"floor": "#9aa5b1", "epoll": "#c3cad1", OURS: "#d1495b"}
PEER_COLOUR = "#5b8db8"
COLUMNS_MAX = 3


def file_name(group: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-") + ".svg"


def groups(results: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    """The rows of each group that have a figure at all, in the order of the table."""
    found: dict[str, list[RowResult]] = {}
    for result in results:
        if any(result.spread(name) for name in result.samples):
            found.setdefault(result.row.group, []).append(result)
    return found


def draw(results: Sequence[RowResult], folder: Path) -> dict[str, Path]:
    """Writes the charts; gives each group's file."""
    # The SVG back end needs no display, and a fixed salt makes the same figures give the same file.
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aiouring"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: the reader's browser has fonts
    matplotlib.rcParams["font.size"] = 8
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for group, members in groups(results).items():
        columns = min(COLUMNS_MAX, len(members))
        lines = -(-len(members) // columns)
        bars = max(len(result.samples) for result in members)
        figure, axes = pyplot.subplots(lines, columns, figsize=(4.2 * columns, (0.24 * bars + 0.9) * lines), squeeze=False)
        for place, axis in enumerate(axes.flat):
            if place < len(members):
                _draw_row(axis, members[place])
            else:
                axis.set_visible(False)
        figure.tight_layout()
        written[group] = folder / file_name(group)
        figure.savefig(written[group], metadata={"Date": None})
        pyplot.close(figure)
    return written


def _draw_row(axis: Any, result: RowResult) -> None:
    names = [name for name in result.samples if result.spread(name)]
    names.sort(key=lambda name: (name not in FLOORS, name == OURS))  # floors first, ours last; else the table's order
    spreads = [spread for name in names if (spread := result.spread(name)) is not None]
    medians = [spread.median for spread in spreads]
    errors = [[one.median - one.least for one in spreads], [one.greatest - one.median for one in spreads]]
    colours = [COLOURS.get(name, PEER_COLOUR) for name in names]
    axis.barh(names, medians, xerr=errors, color=colours, error_kw={"elinewidth": 0.8})
    for place, spread in enumerate(spreads):
        axis.text(spread.greatest, place, f" {number(spread.median)}", va="center")
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    better = "more" if METRICS[result.row.main].more_is_better else "less"
    axis.set_title(result.row.title, fontsize=8)
    axis.set_xlabel(f"{figure_text(result.row)} ({better} is better)", fontsize=7)
