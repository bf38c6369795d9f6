"""Measures one contestant once in one row: starts what is under test on its core, loads it from the other one, gives a sample.

Used by rounds.py; calls the programs of c/ and apps/, resting.py and programs.py. MEASURERS has one function for each kind of row.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import files, programs, resting
from benchmarks.contestants import BIN, CERTIFICATE, Contestant
from benchmarks.figures import Sample
from benchmarks.processes import Cores, Failed, run_to_end, started
from benchmarks.rows import Row


@dataclass(frozen=True)
class Timing:
    """How long a window is: the row's own times scaled."""

    factor: float = 1.0

    def warmup_s(self, row: Row) -> float:
        return max(0.05, row.warmup * self.factor)

    def window_s(self, row: Row) -> float:
        return row.seconds * self.factor

    def options(self, row: Row) -> tuple[str, ...]:
        """As the C programs take them."""
        return ("--warmup", f"{self.warmup_s(row):.3f}", "--seconds", f"{self.window_s(row):.3f}")

    def patience_s(self, row: Row) -> float:
        """After which a program that should have ended hangs."""
        return 30 + self.warmup_s(row) + self.window_s(row)


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
    if found["server_cpu_ns"]:
        sample["cpu_rate"] = messages * 1e9 / found["server_cpu_ns"]
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
        certificate = [str(CERTIFICATE)] if row.transport == "tls" else []
        return contestant.command(row.script, row.app, address, *certificate, option=row.our_option)
    return [*floor_command(row, contestant, address), *row.floor[1:]]


def floor_command(row: Row, contestant: Contestant, *arguments: str) -> list[str]:
    """The row's floor, or its namesake on epoll, and its first arguments."""
    program = row.floor[0]
    if contestant.name == "epoll":
        epoll_program = program.replace("floor_", "epoll_")
        if epoll_program == program or not (BIN / epoll_program).exists():
            raise Failed("this row has no epoll program")
        program = epoll_program
    return [str(BIN / program), *arguments]


@contextlib.contextmanager
def server(row: Row, contestant: Contestant, cores: Cores) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The contestant's server of this row, and where it listens."""
    address = listening_address(row, contestant)
    try:
        with started(server_command(row, contestant, address), cores.server, contestant.full_environment()) as found:
            yield found
    finally:
        if address.startswith("unix:"):
            Path(address[5:]).unlink(missing_ok=True)


def load(row: Row, where: str, pid: int, cores: Cores, timing: Timing) -> Sample:
    """Loads a server that listens, with the row's load program."""
    program, *arguments = row.load
    command = [str(BIN / program), where, *arguments, *timing.options(row), "--pid", str(pid)]
    return sample_of_window(run_to_end(command, cores.load, timing.patience_s(row)))


def measure_served(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """A server, and a load program that reads the server's CPU clock at both ends of its window."""
    with server(row, contestant, cores) as (process, where):
        return load(row, where, process.pid, cores, timing)


def measure_itself(row: Row, contestant: Contestant, app: tuple[str, ...], floor: tuple[str, ...], cores: Cores, timing: Timing) -> Sample:
    """A program that is its own load, on the core of what is measured: an app that takes its times last, or the row's floor. A floor may be
    what is a load elsewhere: its own CPU time is what counts."""
    if contestant.is_floor:
        command = [*floor_command(row, contestant, *floor), *row.floor[1:], *timing.options(row)]
        found = run_to_end(command, cores.server, timing.patience_s(row))
        return sample_of_window(found | {"server_cpu_ns": found["load_cpu_ns"], "load_cpu_ns": 0})
    command = [*app, f"{timing.warmup_s(row):.3f}", f"{timing.window_s(row):.3f}"]
    return sample_of_window(run_to_end(command, cores.server, timing.patience_s(row), contestant.full_environment()))


def measure_client(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """The contestant is the client of a C server (the row's "load"), which runs on the other core."""
    program, *arguments = row.load
    with started([str(BIN / program), "0", *arguments], cores.load, contestant.full_environment()) as (_, where):
        return measure_itself(row, contestant, (*contestant.command(row.script, where),), (where,), cores, timing)


def measure_process(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """An app that needs no other side, in a fresh process."""
    return measure_itself(row, contestant, (*contestant.command(row.script, row.app),), (), cores, timing)


def measure_memory(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """What each of many connections that have spoken once costs the server's memory. Its length is that of the connecting, not a window."""
    with server(row, contestant, cores) as (process, where):
        return resting.memory_of_connections(process.pid, int(where), row.connections, tls=row.transport == "tls")


def measure_idle(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """What a server does that has nothing to do."""
    with server(row, contestant, cores) as (process, where):
        return resting.idle(process.pid, int(where), timing.window_s(row))


def measure_static(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """A server of files, each program as it is installed, all with one file in their folder."""
    with programs.file_server(row, contestant, cores) as (process, where):
        return load(row, where, process.pid, cores, timing)


def measure_relay(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """A relay between the load and the C echo server, which shares the load's core."""
    with (
        started([str(BIN / "floor_stream"), "0", "1024", "1024"], cores.load, contestant.full_environment()) as (_, behind),
        programs.relay(contestant, cores, int(behind)) as (process, where),
    ):
        return load(row, where, process.pid, cores, timing)


def measure_file(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """Work on cached files: the app of apps/files.py, the C reader, cp or dd."""
    path = files.prepare(row, timing.factor)
    if files.is_command(contestant):
        return files.run_commands(contestant, row, path, cores, timing.warmup_s(row), timing.window_s(row))
    return measure_itself(row, contestant, (*files.app_command(contestant, row, path),), (str(path),), cores, timing)


MEASURERS: dict[str, Callable[[Row, Contestant, Cores, Timing], Sample]] = {
    "served": measure_served,
    "client": measure_client,
    "process": measure_process,
    "memory": measure_memory,
    "idle": measure_idle,
    "static": measure_static,
    "relay": measure_relay,
    "file": measure_file,
}


def measure(row: Row, contestant: Contestant, cores: Cores, timing: Timing) -> Sample:
    """One sample; raises Failed with the reason when there is none."""
    if contestant.absent:
        raise Failed(contestant.absent)
    if contestant.is_floor and not row.floor:
        raise Failed("this row has no epoll program" if contestant.name == "epoll" else "this row has no floor")
    return MEASURERS[row.kind](row, contestant, cores, timing)
