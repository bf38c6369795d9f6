"""Turns what a run found into rows of text, the printed tables and the JSON file. Used by __main__.py; calls rich to print."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, Contestant
from benchmarks.figures import METRICS, Spread
from benchmarks.rounds import RowResult
from benchmarks.rows import ROWS, Row

NOTHING = "–"
OWN_COLUMNS = ("floor", "epoll", "asyncio", "uvloop")


def number(value: float) -> str:
    """Three digits that count, thousands with a comma."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def span(figure: Spread | None) -> str:
    """A median with its least and greatest, where they differ from it."""
    if figure is None:
        return NOTHING
    least, median, greatest = number(figure.least), number(figure.median), number(figure.greatest)
    return median if least == greatest else f"{median} ({least}–{greatest})"


def ratio_text(figure: Spread | None) -> str:
    return NOTHING if figure is None else f"{figure.median:.2f} ({figure.least:.2f}–{figure.greatest:.2f})"


class Notes:
    """Reasons, each with a number that stands in the cells where it applies."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def mark(self, sentence: str) -> str:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return f"[{self.sentences.index(sentence) + 1}]"


def cell(result: RowResult, name: str, metric: str, notes: Notes) -> str:
    """A figure, or the mark of the reason why there is none; both if some rounds failed."""
    text = span(result.spread(name, metric))
    reason = result.reasons.get(name)
    if reason is None:
        return text if name in result.samples else notes.mark(result.row.why_not_all)
    mark = notes.mark(f"{name}: {reason}")
    return mark if text == NOTHING else f"{text} {mark}"


def goal_text(result: RowResult) -> str:
    lines = []
    for sentence, value, met in result.goals():
        if met is None or value is None:
            lines.append(f"{sentence}: not judged")
        else:
            lines.append(f"{sentence}: {value:.2f} {'met' if met else 'MISSED'}")
    return "\n".join(lines) or NOTHING


def figure_text(row: Row) -> str:
    """What the figures of a row are, with their unit."""
    metric = METRICS[row.main]
    if metric.name == "cpu_us":
        return f"CPU time, {metric.unit}/{row.per}"
    if metric.name == "rate":
        return f"rate, {row.per}/s"
    return f"{metric.title}, {metric.unit}"


def main_table(results: Sequence[RowResult], builds: Sequence[str], notes: Notes) -> tuple[list[str], list[list[str]]]:
    """The heads and rows of the table that the issue asks for: every figure is the row's main metric."""
    others_exist = any(name not in OWN_COLUMNS for result in results for name in result.peers)
    taking_part = {name for result in results for name in result.samples}
    own = [name for name in OWN_COLUMNS if name in taking_part]
    heads = ["row", "figure", *own]
    if others_exist:
        heads.append("best other peer")
    heads += ["ours", "ours / floor", "ours / best peer"]
    for build in builds:
        heads += [build, f"{build} / ours"]
    heads.append("goal")
    rows = []
    for result in results:
        metric = METRICS[result.row.main]
        cells = [result.row.title, figure_text(result.row), *(cell(result, name, metric.name, notes) for name in own)]
        if others_exist:
            others = [name for name in result.peers if name not in OWN_COLUMNS]
            best = result.best(others)
            text = f"{best} {span(result.spread(best, metric.name))}" if best else ""
            marks = " ".join(notes.mark(f"{name}: {result.reasons[name]}") for name in others if name in result.reasons)
            cells.append(" ".join(part for part in (text, marks) if part) or NOTHING)
        cells += [cell(result, OURS, metric.name, notes), ratio_text(result.ratio(OURS, "floor"))]
        best_peer = result.best_peer
        against = result.ratio(OURS, best_peer) if best_peer else None
        cells.append(f"{ratio_text(against)} {best_peer}" if against else NOTHING)
        for build in builds:
            cells += [cell(result, build, metric.name, notes), ratio_text(result.ratio(build, OURS))]
        cells.append(goal_text(result))
        rows.append(cells)
    return heads, rows


def tables(results: Sequence[RowResult], builds: Sequence[str], notes: Notes) -> list[tuple[str, list[str], list[list[str]]]]:
    """The main table of the rows that loops take part in, then one for each group of rows that compare programs or libraries of other kinds:
    each with its title ("" for the first), heads and rows."""
    found = []
    loops = [result for result in results if result.row.loops != ()]
    if loops:
        found.append(("", *main_table(loops, builds, notes)))
    groups = dict.fromkeys(result.row.group for result in results if result.row.loops == ())
    for group in groups:
        found.append((group, *programs_table([one for one in results if one.row.loops == () and one.row.group == group], builds, notes)))
    return found


def programs_table(results: Sequence[RowResult], builds: Sequence[str], notes: Notes) -> tuple[list[str], list[list[str]]]:
    """Rows of one group in which programs or libraries take part: each of those has a column. A row that lacks one has a dash there."""
    peers = list(dict.fromkeys(name for result in results for name in result.peers))
    has_floor = any(result.row.floor for result in results)
    heads = ["row", "figure", *(["floor"] if has_floor else []), *peers, "ours"]
    if has_floor:
        heads.append("ours / floor")
    for build in builds:
        heads += [build, f"{build} / ours"]
    heads.append("goal")
    rows = []
    for result in results:
        metric = result.row.main

        def figure(name: str, result: RowResult = result, metric: str = metric) -> str:
            return cell(result, name, metric, notes) if name in result.samples else NOTHING

        floor = [figure("floor") if result.row.floor else NOTHING] if has_floor else []
        cells = [result.row.title, figure_text(result.row), *floor, *map(figure, peers), cell(result, OURS, metric, notes)]
        if has_floor:
            cells.append(ratio_text(result.ratio(OURS, "floor")))
        for build in builds:
            cells += [cell(result, build, metric, notes), ratio_text(result.ratio(build, OURS))]
        cells.append(goal_text(result))
        rows.append(cells)
    return heads, rows


def detail_table(results: Sequence[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Rates, latencies and how busy the two cores were, one line a row and contestant."""
    heads = ["row", "contestant", "CPU µs", "rate /s", "p50 µs", "p99 µs", "server busy", "load busy"]
    rows = []
    for result in results:
        for name in result.samples:
            figures = [result.spread(name, metric) for metric in ("cpu_us", "rate", "p50_us", "p99_us")]
            if not any(figures):
                continue
            busy = [result.spread(name, metric) for metric in ("server_busy", "load_busy")]
            rows.append([result.row.title, name, *map(span, figures), *(f"{figure.median:.0%}" if figure else NOTHING for figure in busy)])
    return heads, rows


def as_json(results: Sequence[RowResult], contestants: Sequence[Contestant], about: dict[str, Any]) -> dict[str, Any]:
    """Everything: the machine, who took part, all samples, medians, ratios and goals."""
    return {
        "about": about,
        "contestants": {one.name: {"version": one.version, "absent": one.absent or None} for one in contestants},
        "rows": [
            {
                "name": result.row.name,
                "title": result.row.title,
                "group": result.row.group,
                "main": result.row.main,
                "per": result.row.per,
                "samples": result.samples,
                "reasons": result.reasons,
                "spreads": {name: {metric: asdict(found) for metric in METRICS if (found := result.spread(name, metric))} for name in result.samples},
                "ours_to_floor": _plain(result.ratio(OURS, "floor")),
                "best_peer": result.best_peer,
                "ours_to_best_peer": _plain(result.ratio(OURS, result.best_peer)) if result.best_peer else None,
                "goals": [{"goal": sentence, "found": value, "met": met} for sentence, value, met in result.goals()],
            }
            for result in results
        ],
    }


def _plain(figure: Spread | None) -> dict[str, float] | None:
    return asdict(figure) if figure else None


def about_machine() -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(names),
        "memory_gib": round(memory_kib / 1048576, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": Path("/proc/loadavg").read_text().split()[0],
        "instructions": instruction_counting(),
    }


def instruction_counting() -> str:
    """Whether `perf` could count instructions per message, which vary less than times do; no row uses it, since most virtual machines cannot."""
    try:
        asked = subprocess.run(["perf", "stat", "-e", "instructions:u", "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not available here (perf is not installed)"
    if asked.returncode != 0 or "<not supported>" in asked.stderr or "<not counted>" in asked.stderr:
        return "not available here (perf finds no hardware counter)"
    return "available here, and not used"


def about_text(about: dict[str, Any]) -> str:
    """The machine and the run in a line."""
    cores = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB"
    length = f"{about['rounds']} rounds, windows × {about['seconds_factor']:g}, {about['duration_s']:.0f} s"
    others = f"load average before {about['load_average_before']}"  # what else ran: above 0.5 the figures are doubtful
    return f"{cores}; Linux {about['kernel']}; Python {about['python']}; {length}; {others}; instruction counts: {about['instructions']}"


def results_of_json(found: dict[str, Any]) -> list[RowResult]:
    """What write_json wrote, for the rows that there still are."""
    rows = {row.name: row for row in ROWS}
    return [RowResult(rows[one["name"]], one["samples"], one["reasons"]) for one in found["rows"] if one["name"] in rows]


def merged(whole: dict[str, Any], *parts: dict[str, Any]) -> dict[str, Any]:
    """One finding of several: the rows of each part stand in the place of the same rows before. What the parts say about the machine and the run
    is kept, for the rows that are theirs."""
    rows = {row["name"]: row for row in whole["rows"]}
    about = list(whole.get("parts", []))
    people = dict(whole["contestants"])
    for part in parts:
        mine = {row["name"]: row for row in part["rows"]}
        about = [one | {"rows": [name for name in one["rows"] if name not in mine]} for one in about]
        about = [one for one in about if one["rows"]] + [{"about": part["about"], "rows": list(mine)}]
        rows |= mine
        people = part["contestants"] | people  # what the whole says of them is of more rows
    order = {row.name: place for place, row in enumerate(ROWS)}
    return whole | {"rows": sorted(rows.values(), key=lambda row: order.get(row["name"], len(order))), "contestants": people, "parts": about}


def write_json(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def print_tables(results: Sequence[RowResult], builds: Sequence[str], details: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # a file or a pipe has no width that a table should bow to
    notes = Notes()
    shown = tables(results, builds, notes)
    if details:
        shown.append(("rates, latencies, cores", *detail_table(results)))
    for title, heads, rows in shown:
        table = Table(title=title or None, box=box.SIMPLE_HEAD, pad_edge=False)
        for index, head in enumerate(heads):
            table.add_column(head, justify="left" if index == 0 or head in ("figure", "goal", "contestant") else "right")
        for row in rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        console.print(table)
    for index, sentence in enumerate(notes.sentences, 1):
        console.print(f"[{index}] {sentence}", markup=False, highlight=False)
