"""The command line of the suite: `python -m benchmarks`, what `make bench` runs. Chooses rows and contestants, runs them, reports.

--only PART,PART      rows in whose name, or at whose group's beginning, is a part    --list  only names them, with who takes part and the goals
--against NAME,NAME   these peers alone (the floors and ours always take part); "none" for no peer
--build NAME=PATH     another checkout of aiouring, built, as a contestant; may be given more than once
--rounds N, --seconds FACTOR   how often, and the rows' windows scaled
--quick               (QUICK=1 make bench) short windows, fewer rounds, uvloop alone of the loops and no epoll; it says what it shortens
--details             rates, latencies and how busy the cores were, too
--json FILE           where all samples go: else .cache/results/bench.json, or bench-part.json of a run that anything above restricts
--charts FOLDER       one SVG for each group of rows
--document            charts into docs/charts and the table into docs/performance.md; a whole run with nothing restricted does that anyway.
                      Not with --only, which would lose the other rows: "python -m benchmarks.document WHOLE PART" joins two JSON files
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks import charts, contestants, document, report, rows
from benchmarks.measure import Timing
from benchmarks.processes import Cores, Failed
from benchmarks.rounds import RowResult, of_row, run_row

RESULTS = contestants.ROOT / ".cache" / "results"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PART,PART")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--against", metavar="NAME,NAME")
    parser.add_argument("--build", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, metavar="FACTOR")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--charts", type=Path, metavar="FOLDER")
    parser.add_argument("--document", action="store_true")
    return parser.parse_args(arguments)


def parse_builds(texts: list[str]) -> dict[str, Path]:
    builds = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or not (Path(path) / "aiouring").is_dir():
            raise SystemExit(f"--build {text}: it is NAME=PATH, and PATH is a checkout with a built aiouring/ in it")
        if name in (*contestants.PEERS, contestants.OURS, "floor", "epoll") or name in builds:
            raise SystemExit(f"--build {text}: the name {name!r} is taken")
        builds[name] = Path(path).resolve()
    return builds


def is_restricted(options: argparse.Namespace) -> bool:
    """Whether the results are a part of a full run's, or doubtful: they must not take its place."""
    return bool(options.only or options.quick or options.against is not None or options.build or options.rounds or options.seconds)


def json_path(options: argparse.Namespace) -> Path:
    given: Path | None = options.json
    return given or RESULTS / ("bench-part.json" if is_restricted(options) else "bench.json")


def list_text(row: rows.Row) -> str:
    """A line of --list: the row, who takes part beside ours, and what is wanted."""
    loops = contestants.PEERS if row.loops is None else row.loops
    floor = ("floor",) if row.floor else ()
    goals = "; ".join(goal.sentence for goal in row.goals) or "no goal"
    return f"{row.name:<24} {row.title} | against {', '.join((*floor, *loops, *row.extra_peers)) or 'nobody'} | {goals}"


def run_rows(
    chosen: list[rows.Row],
    taking_part: list[contestants.Contestant],
    against: list[str] | None,
    cores: Cores,
    timing: Timing,
    rounds: dict[str, int],
) -> list[RowResult]:
    """All rows, with a progress line: one that moves on a terminal, one a row elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    results: list[RowResult] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, refresh_per_second=1) as progress:
        task = progress.add_task("", total=len(chosen))

        def tell(row: rows.Row, contestant: contestants.Contestant, number: int) -> None:
            progress.update(task, description=f"{row.name}: round {number + 1} of {rounds[row.name]}, {contestant.name}")

        for number, row in enumerate(chosen, 1):
            if not progress.console.is_terminal:
                print(f"row {number} of {len(chosen)}: {row.name}", flush=True)
            results.append(run_row(row, of_row(row, taking_part, against), cores, timing, rounds[row.name], tell))
            progress.advance(task)
    return results


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    for name, number in (("--rounds", options.rounds), ("--seconds", options.seconds)):
        if number is not None and not number > 0:
            raise SystemExit(f"{name} {number}: it must be positive")
    chosen = rows.select(options.only)
    if not chosen:
        raise SystemExit(f"--only {options.only}: no row has that in its name; --list names them")
    if options.list:
        for row in chosen:
            print(list_text(row))
        return 0
    if options.document and options.only:
        raise SystemExit('--document with --only would lose the other rows: "python -m benchmarks.document WHOLE PART" joins two JSON files')
    builds = parse_builds(options.build)
    against = None if options.against is None else [name for name in options.against.split(",") if name and name != "none"]
    known = [*contestants.PEERS, *dict.fromkeys(name for row in rows.ROWS for name in row.extra_peers)]
    if not set(against or ()) <= set(known):
        raise SystemExit(f"--against {options.against}: known are {', '.join(known)} and none")
    if options.quick and against is None:
        against = ["uvloop", *(name for name in known if name not in contestants.PEERS)]
    rounds = options.rounds or (2 if options.quick else 5)
    timing = Timing(options.seconds or (0.25 if options.quick else 1.0))
    if options.quick:
        print(f"QUICK: {rounds} rounds instead of 5 (1 where there are 2 or 3), windows × {timing.factor:g}, ", end="")
        print("of the loops only uvloop beside ours, no epoll floor. For a look, not for conclusions.", flush=True)
    try:
        cores = Cores.of_this_machine()
    except Failed as failure:
        raise SystemExit(str(failure)) from None
    os.sched_setaffinity(0, {cores.load})

    floors = ("floor",) if options.quick else contestants.FLOORS
    taking_part = contestants.choose(sys.executable, against, builds, floors)
    about = report.about_machine() | {"rounds": rounds, "seconds_factor": timing.factor}
    begin_s = time.monotonic()
    results = run_rows(chosen, taking_part, against, cores, timing, {row.name: row.rounds(rounds, options.quick) for row in chosen})
    about["duration_s"] = round(time.monotonic() - begin_s, 1)
    report.print_tables(results, list(builds), options.details)
    found = report.as_json(results, taking_part, about)
    path = json_path(options)
    report.write_json(path, found)
    print(", ".join(f"{one.name} {one.version}" for one in taking_part if one.version))
    print(f"{report.about_text(about)}\nall figures: {path}")
    if options.document or not is_restricted(options):
        document.write(found)
        print(f"written: {document.PERFORMANCE} and {document.CHARTS}/")
    if options.charts:
        charts.draw(results, options.charts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
