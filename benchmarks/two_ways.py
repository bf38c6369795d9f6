"""The same two jobs done in four ways: by Python awaits, plain links, BPF operations, and a loop hook. `python -m benchmarks.two_ways`.

For each way it counts what one block or message costs: wake-ups of Python (turns of the loop), returns to user space (io_uring_enter), all system
calls (by strace), requests and completions; and on a machine that is no emulator the processor time of the process that does the job. Counts are
differences between a run and one twice as long, so that what beginning and ending cost is in none of them. Times are interleaved rounds,
median with min-max.

--counts        no times: for a virtual machine, where only counts mean anything
--job NAME      copy or echo alone            --rounds N   of the times (5)
--no-strace     no system calls: under emulation a traced process takes minutes, and counts the same as elsewhere
--only WAY,...  these ways alone, as "awaits", "ops:module" or "hook:kernel"
--count N       blocks or messages of the counting runs (64); the times' runs have more
--json FILE     where everything goes: else .cache/results/two_ways.json
--table FILES   measure nothing: print the table of these JSON files, as docs/two-ways.md has it

Each run is a process of its own (two_ways_jobs.py). The hook's program is compiled first (by `python -m aiouring build-hook`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / ".cache" / "results" / "two_ways.json"
PROGRAM = ROOT / "benchmarks" / "two_ways.bpf.c"
PROGRAMS = ROOT / ".cache" / "bench"

# What is done, the bytes of one block or message, and how many the times' runs have.
TASKS = [("copy", 4096, 20_000), ("copy", 65536, 3_000), ("echo", 1024, 20_000)]
COUNTED = {
    "wake_ups": "wake-ups of Python",
    "enters": "io_uring_enter",
    "system_calls": "system calls",
    "requests": "requests",
    "cqes": "CQEs",
}


def worker(arguments: list[str], strace: Path | None = None, follow: bool = True) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.two_ways_jobs", *arguments]
    if strace is not None:
        command = ["strace", "-c", *(["-f"] if follow else []), "-o", str(strace), *command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"two_ways: {' '.join(command)} ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def traced_calls(job: str, arguments: list[str]) -> int:
    """All system calls of the process: of its threads too, but not of the echo's client, which is a child."""
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary"
        worker(arguments, summary, follow=job != "echo")
        total = re.search(r"^\s*[\d.]+\s+[\d.]+\s+(?:\d+\s+)?(\d+)\s+(?:\d+\s+)?total$", summary.read_text(), re.MULTILINE)
    if total is None:
        raise SystemExit("two_ways: strace's summary has no total")
    return int(total[1])


def count(job: str, way: str, engine: str, size: int, blocks: int, strace: bool) -> dict[str, float]:
    """What one block or message costs, by the difference of two runs."""

    def one(number: int) -> dict[str, int]:
        arguments = [job, way, engine, str(size), str(number)]
        found = worker(arguments)
        if strace and shutil.which("strace"):
            found["system_calls"] = traced_calls(job, arguments)
        return found

    short, long = one(blocks), one(2 * blocks)
    return {name: (long[name] - short[name]) / blocks for name in COUNTED if name in short}


def ways_here() -> Iterator[tuple[str, str]]:
    engines = worker(["engines"])
    yield "awaits", "-"
    yield "links", "-"
    yield from (("ops", engine) for engine in engines["ops"])
    yield from (("hook", engine) for engine in engines["hook"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    tasks = [task for task in TASKS if options.job in (None, task[0])]
    ways = [(way, engine) for way, engine in ways_here() if not options.only or way in options.only or f"{way}:{engine}" in options.only]
    rows: list[dict[str, Any]] = [
        {"job": job, "bytes": size, "way": way, "engine": engine, "counts": {}, "cpu_us": []} for job, size, _ in tasks for way, engine in ways
    ]
    console = Console(stderr=True)
    for row in track(rows, "counting", console=console):
        row["counts"] = count(row["job"], row["way"], row["engine"], row["bytes"], options.count, not options.no_strace)
    if not options.counts:
        for _ in track(range(options.rounds), "timing", console=console):
            for row in rows:
                blocks = next(number for job, size, number in tasks if (job, size) == (row["job"], row["bytes"]))
                found = worker([row["job"], row["way"], row["engine"], str(row["bytes"]), str(blocks)])
                row["cpu_us"].append(found["cpu_ns"] / 1000 / blocks)
    return {"kernel": platform.release(), "machine": "emulated" if options.counts else platform.machine(), "rows": rows}


def cells(row: dict[str, Any]) -> list[str]:
    counts = [f"{round(row['counts'][name], 2):g}" if name in row["counts"] else "?" for name in COUNTED]
    times = sorted(row["cpu_us"])
    cpu = f"{statistics.median(times):.1f} ({times[0]:.1f}–{times[-1]:.1f})" if times else "–"
    return [row["way"], row["engine"], *counts, cpu]


HEAD = ["way", "engine", *COUNTED.values(), "CPU, µs"]


def show(results: dict[str, Any]) -> None:
    for job, size in dict.fromkeys((row["job"], row["bytes"]) for row in results["rows"]):
        table = Table(*HEAD, title=f"{job}, {size:,} bytes; for one of them; Linux {results['kernel']}")
        for row in results["rows"]:
            if (row["job"], row["bytes"]) == (job, size):
                table.add_row(*cells(row))
        Console(width=140).print(table)


def as_markdown(files: list[Path]) -> str:
    """One table a job; a way that several machines ran has a line for each."""
    runs = [json.loads(path.read_text()) for path in files]
    lines = []
    for job, size in dict.fromkeys((row["job"], row["bytes"]) for run in runs for row in run["rows"]):
        lines += [f"**{job}, {size:,} bytes**", "", f"| {' | '.join([*HEAD, 'Linux'])} |", "|" + "---|" * (len(HEAD) + 1)]
        lines += [
            f"| {' | '.join([*cells(row), run['kernel']])} |" for run in runs for row in run["rows"] if (row["job"], row["bytes"]) == (job, size)
        ]
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_ways", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--no-strace", action="store_true")
    parser.add_argument("--job", choices=["copy", "echo"])
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="WAY,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.table:
        print(as_markdown(options.table))
        return 0
    built = subprocess.run([sys.executable, "-m", "aiouring", "build-hook", str(PROGRAM), "--output", str(PROGRAMS)], cwd=ROOT, env={**os.environ})
    if built.returncode != 0:
        print("two_ways: the hook's program could not be built for both engines; what is there is measured", file=sys.stderr)
    results = measure(options)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1))
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
