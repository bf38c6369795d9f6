"""Measures one contestant once in one row: starts what is under test on its core, loads it from the other one, gives a sample.

Used by rounds.py; calls the programs of c/ and apps/. MEASURERS has one function for each kind of row.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import BIN, Contestant
from benchmarks.figures import Sample
from benchmarks.rows import Row


class Failed(Exception):
    """This contestant gave no figure; the message says why."""


@dataclass(frozen=True)
class Cores:
    """Which core the process under test has to itself, and where everything else of the suite runs."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise Failed("the suite needs two cores, one for the server and one for the load; this process may use one only")
        return cls(server=cores[-1], load=cores[0])


@dataclass(frozen=True)
class Timing:
    """How long a window is: the row's own times scaled."""

    factor: float = 1.0

    def window(self, row: Row) -> tuple[str, ...]:
        return ("--warmup", f"{max(0.05, row.warmup * self.factor):.3f}", "--seconds", f"{row.seconds * self.factor:.3f}")


def _last_line(stderr: str, status: int | None) -> str:
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it ended with status {status}"


def _read_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    return process.stdout.readline().strip() if ready else ""


@contextlib.contextmanager
def started(command: list[str], core: int, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process under test and where it listens. It is killed at the end: no server here has anything to lose."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            line = _read_line(process, 20)
            word, _, rest = line.partition(" ")
            if word == "UNAVAILABLE":
                raise Failed(rest)
            if word != "READY":
                status = process.poll()
                errors.seek(0)
                raise Failed(f"it did not start: {_last_line(errors.read(), status)}" if line == "" else f"it said {line!r} instead of READY")
            try:
                yield process, rest
            except Failed as failure:
                status = process.poll()
                if status is None:
                    raise
                errors.seek(0)
                raise Failed(f"the server ended with status {status}: {_last_line(errors.read(), status)} ({failure})") from None
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def run_load(command: list[str], core: int, timeout_s: float) -> dict[str, float]:
    """Runs a load program to its end; gives what it printed."""
    try:
        done = subprocess.run(["taskset", "--cpu-list", str(core), *command], capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"the load did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise Failed(_last_line(done.stderr, done.returncode))
    found: dict[str, float] = json.loads(done.stdout)
    return found


def sample_of_window(found: dict[str, float]) -> Sample:
    """The figures of a load program's window. Nothing counted is a failure, not a zero."""
    messages, window_s = found["messages"], found["window_ns"] / 1e9
    if messages < 1:
        raise Failed("not one answer came within the window")
    sample = {
        "cpu_us": found["server_cpu_ns"] / messages / 1e3,
        "rate": messages / window_s,
        "server_busy": found["server_cpu_ns"] / found["window_ns"],
        "load_busy": found["load_cpu_ns"] / found["window_ns"],
        "lost": found["lost"],
    }
    if found["latencies"]:
        sample |= {f"{name}_us": found[f"{name}_ns"] / 1e3 for name in ("p50", "p90", "p99", "max")}
    return sample


def listening_address(row: Row, contestant: Contestant) -> str:
    if row.transport != "unix":
        return "0"
    path = Path(tempfile.gettempdir()) / f"aiouring-bench-{os.getpid()}-{contestant.name}.sock"
    path.unlink(missing_ok=True)
    return f"unix:{path}"


def server_command(row: Row, contestant: Contestant, address: str) -> list[str]:
    if not contestant.is_floor:
        return contestant.command("server.py", row.app, address)
    program, *arguments = row.floor
    if contestant.name == "epoll":
        program = program.replace("floor_", "epoll_")
        if not (BIN / program).exists():
            raise Failed("there is no epoll program for this row")
    return [str(BIN / program), address, *arguments]


def measure_served(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """A server, and a load program that reads the server's CPU clock at both ends of its window."""
    address = listening_address(row, contestant)
    program, *arguments = row.load
    try:
        with started(server_command(row, contestant, address), cores.server, contestant.full_environment()) as (process, where):
            window = timing.window(row)
            command = [str(BIN / program), where, *arguments, *window, "--pid", str(process.pid)]
            return sample_of_window(run_load(command, cores.load, 30 + float(window[1]) + float(window[3])))
    finally:
        if address.startswith("unix:"):
            Path(address[5:]).unlink(missing_ok=True)


MEASURERS: dict[str, Callable[[Row, Contestant, Cores, Timing], Sample]] = {
    "served": measure_served,
}


def measure(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """One sample; raises Failed with the reason when there is none."""
    if contestant.absent:
        raise Failed(contestant.absent)
    if contestant.is_floor and not row.floor:
        raise Failed("this row has no floor")
    return MEASURERS[row.kind](row, contestant, cores, timing)
