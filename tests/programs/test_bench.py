"""The benchmark suite on real processes: one row of each kind that needs no foreign program, in windows too short to conclude anything from.

What is asserted is that figures come, that they agree with each other, and that wrong answers and broken servers are found out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import files, measure, report, rounds, rows
from benchmarks.contestants import BIN, OURS, Contestant, choose, ours
from benchmarks.processes import Cores, Failed, run_to_end

TIMING = measure.Timing(0.25)
MILLISECONDS_10_US = 10_000


@pytest.fixture
def cores() -> Cores:
    """Figures mean little on a machine with one core, but they come."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(server=allowed[-1], load=allowed[0])


def run(name: str, contestants: list[Contestant], cores: Cores, **changes: int) -> rounds.RowResult:
    row = dataclasses.replace(next(row for row in rows.ROWS if row.name == name), **changes)
    return rounds.run_row(row, rounds.of_row(row, contestants), cores, TIMING, 1, lambda row, contestant, number: None)


def test_a_row_gives_figures_ratios_and_a_table(cores: Cores) -> None:
    contestants = choose(sys.executable, ["asyncio"], {}, ("floor",))
    assert [(one.name, one.absent) for one in contestants] == [("floor", ""), ("asyncio", ""), (OURS, "")]
    result = run("tcp-protocol", contestants, cores)
    assert result.reasons == {}
    for name, samples in result.samples.items():
        (sample,) = samples
        assert sample is not None
        assert 0 < sample["cpu_us"] < MILLISECONDS_10_US, name
        assert sample["cpu_us"] * sample["rate"] / 1e6 == pytest.approx(sample["server_busy"], rel=0.01), name
        assert 0 < sample["p50_us"] <= sample["p99_us"] <= sample["max_us"] * 1.02, name
    heads, lines = report.main_table([result], [], report.Notes())
    cells = dict(zip(heads, lines[0], strict=True))
    assert cells["ours / best peer"].endswith("asyncio")
    assert result.ratio(OURS, "floor") is not None
    about = report.about_machine() | {"rounds": 1, "seconds_factor": TIMING.factor, "duration_s": 1.0}
    assert "instruction counts: " in report.about_text(about)


@pytest.mark.parametrize(
    ("name", "metric", "changes"),
    [
        ("unix-protocol", "rate", {}),
        ("udp", "rate", {}),
        ("accept", "rate", {}),
        ("connect", "rate", {}),
        ("spawn", "rate", {}),
        ("micro-call-soon", "rate", {}),
        ("memory-protocol", "memory_bytes", {"connections": 1000}),
        ("relay-1KiB", "rate", {}),
        ("hook-echo", "rate", {}),
        ("static-10KiB", "rate", {}),
    ],
)
def test_rows_of_every_kind_give_figures_of_ours(name: str, metric: str, changes: dict[str, int], cores: Cores) -> None:
    result = run(name, [ours(sys.executable)], cores, **changes)
    assert OURS not in result.reasons
    figure = result.spread(OURS, metric)
    assert figure is not None
    assert figure.median > 0


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the file rows, where the test removes them, and fewer of them."""
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    monkeypatch.setattr(files, "SMALL_FILES", 100)


@pytest.mark.parametrize("name", [row.name for row in rows.ROWS if row.kind == "file"])
def test_file_rows_give_figures_of_ours_the_floor_and_programs(name: str, cores: Cores, small_files: None) -> None:
    """The libraries are not here: only the suite's own environment has them."""
    row = rows.select(name)[0]
    programs = [Contestant(peer) for peer in ("dd", "cp") if peer in row.extra_peers]
    # What a program takes for an empty file is subtracted: the work on a small one is less than a start varies by on a busy machine.
    row = dataclasses.replace(row, size=(64 if programs else 8) << 20)
    contestants = [*([Contestant("floor")] if row.floor else []), *programs, ours(sys.executable)]
    result = rounds.run_row(row, contestants, cores, TIMING, 1, lambda row, contestant, number: None)
    assert result.reasons == {}
    for one in contestants:
        cpu, rate, cpu_rate = (result.spread(one.name, metric) for metric in ("cpu_us", "rate", "cpu_rate"))
        assert cpu is not None and rate is not None and cpu_rate is not None
        assert rate.median > 0
        assert cpu.median * cpu_rate.median == pytest.approx(1e6)


def test_wrong_contents_of_a_file_are_found_out(cores: Cores, small_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(rows.select("file-depth-1")[0], size=1 << 20)
    monkeypatch.setattr(files, "_write_pieces", lambda path, size: path.write_bytes(bytes(size)) and None)
    with pytest.raises(Failed, match="is not what is there"):
        measure.measure(row, ours(sys.executable), cores, TIMING)
    row = dataclasses.replace(rows.select("file-lines")[0], size=1 << 20)
    monkeypatch.setattr(files, "LAST_LINE", "not the end\n")
    with pytest.raises(Failed, match="the last line is"):
        measure.measure(row, ours(sys.executable), cores, TIMING)


def test_a_command_that_fails_says_why(cores: Cores, small_files: None, tmp_path: Path) -> None:
    row = dataclasses.replace(rows.select("file-copy")[0], size=1 << 20)
    path = files.prepare(row, 1.0)
    path.unlink()
    path.mkdir()
    with pytest.raises(Failed, match="cp ended with status 1: cp: "):
        files.run_commands(Contestant("cp"), row, path, cores, 0.05, 0.05)
    with pytest.raises(Failed, match="does nothing like this row"):
        files.run_commands(Contestant("cp"), rows.select("file-lines")[0], path, cores, 0.05, 0.05)


@contextlib.contextmanager
def wrong_echo() -> Iterator[int]:
    """A server that answers with as many bytes as it got, of which one is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    connection.sendall(data[:-1] + b"!")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def test_the_load_finds_out_a_wrong_answer(cores: Cores) -> None:
    with wrong_echo() as port:
        with pytest.raises(Failed, match="is not what it was sent"):
            run_to_end([str(BIN / "load"), str(port), "--size", "1000"], cores.load, 30)


def test_a_loop_that_cannot_start_says_why(cores: Cores) -> None:
    row = rows.select("tcp-protocol")[0]
    with pytest.raises(Failed, match="no_such_loop"):
        measure.measure(row, Contestant("none", "no_such_loop", sys.executable), cores, TIMING)
