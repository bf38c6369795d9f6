"""benchmarks/: the figures, ratios and goals that a table rests on, what stands in its cells, and that rows name what exists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks import document, files, measure, report, rounds
from benchmarks.contestants import APPS, OURS, ROOT, Contestant
from benchmarks.figures import METRICS, Goal, Sample, Spread, ratio, spread
from benchmarks.processes import Cores, Failed
from benchmarks.rounds import RowResult
from benchmarks.rows import ROWS, Row, floor_buffers, select

CORES = Cores(0, 0)


def samples(*figures: float | None, metric: str = "cpu_us") -> list[Sample | None]:
    return [None if figure is None else {metric: figure} for figure in figures]


def make_row(**fields: object) -> Row:
    return Row(**{"name": "one", "title": "a row", "group": "group", "kind": "served", "app": "protocol"} | fields)


# --- figures


def test_a_spread_is_of_the_rounds_that_have_a_figure() -> None:
    assert spread(samples(3.0, None, 1.0, 10.0), "cpu_us") == Spread(3.0, 1.0, 10.0)
    assert spread(samples(None), "cpu_us") is None
    assert spread(samples(1.0), "rate") is None


def test_a_ratio_is_taken_within_each_round_before_the_median() -> None:
    # The machine was ten times slower in the second round, for both: the medians' ratio would say 10, or 0.1.
    assert ratio(samples(2.0, 20.0), samples(1.0, 10.0), "cpu_us") == Spread(2.0, 2.0, 2.0)
    assert ratio(samples(2.0, 20.0, 4.0), samples(1.0, None, 1.0), "cpu_us") == Spread(3.0, 2.0, 4.0)


def test_a_ratio_needs_a_round_with_both_and_never_divides_by_zero() -> None:
    assert ratio(samples(2.0, None), samples(None, 1.0), "cpu_us") is None
    assert ratio(samples(2.0), samples(0.0), "cpu_us") is None


@pytest.mark.parametrize(
    ("metric", "mine", "other", "factor", "met"),
    [
        ("cpu_us", 1.1, 1.0, 1.12, True),
        ("cpu_us", 1.2, 1.0, 1.12, False),
        ("rate", 130.0, 100.0, 1.3, True),
        ("rate", 129.0, 100.0, 1.3, False),
        ("cpu_rate", 20.0, 2.0, 10, True),
        ("cpu_rate", 19.0, 2.0, 10, False),
    ],
)
def test_a_goal_is_met_from_the_right_side(metric: str, mine: float, other: float, factor: float, met: bool) -> None:
    found = {OURS: samples(mine, metric=metric), "uvloop": samples(other, metric=metric)}
    value, judged = Goal("uvloop", metric, factor).judge(found, OURS)
    assert value == pytest.approx(mine / other)
    assert judged is met


def test_a_goal_without_an_other_is_for_the_figure_itself() -> None:
    goal = Goal("", "wakeups", 0)
    assert goal.judge({OURS: samples(0.0, metric="wakeups")}, OURS) == (0.0, True)
    assert goal.judge({OURS: samples(0.5, metric="wakeups")}, OURS) == (0.5, False)
    assert Goal("", "cpu_us", 6).sentence == "CPU time per message ≤ 6 µs"
    assert Goal("aiofiles", "cpu_rate", 10).sentence == "rate by CPU time ≥ 10 × aiofiles"


def test_a_goal_is_not_judged_without_figures() -> None:
    assert Goal("uvloop", "cpu_us", 1).judge({OURS: samples(1.0)}, OURS) == (None, None)
    assert Goal("uvloop", "cpu_us", 1).judge({"uvloop": samples(1.0)}, OURS) == (None, None)


def test_a_window_in_which_nothing_was_counted_is_a_failure_and_no_zero() -> None:
    window: dict[str, float] = {"messages": 0, "window_ns": 1e9, "server_cpu_ns": 5e8, "load_cpu_ns": 1e8, "lost": 0, "latencies": 0}
    with pytest.raises(Failed, match="not one answer"):
        measure.sample_of_window(window)
    sample = measure.sample_of_window(window | {"messages": 1000})
    assert sample["cpu_us"] == 500
    assert sample["cpu_rate"] == 2000
    assert sample["rate"] == 1000
    assert sample["server_busy"] == 0.5
    assert "p50_us" not in sample


# --- rounds


def test_rounds_are_interleaved_and_a_contestant_that_fails_twice_running_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def fake(row: Row, contestant: Contestant, cores: Cores, timing: measure.Timing) -> Sample:
        order.append(contestant.name)
        if contestant.name == "broken":
            raise Failed("it broke")
        return {"cpu_us": 1.0}

    monkeypatch.setattr(measure, "measure", fake)
    both = [Contestant("works", "works"), Contestant("broken", "broken")]
    result = rounds.run_row(make_row(), both, CORES, measure.Timing(), 4, lambda row, contestant, number: None)
    assert order == ["works", "broken", "works", "broken", "works", "works"]
    assert result.samples == {"works": [{"cpu_us": 1.0}] * 4, "broken": [None] * 4}
    assert result.reasons == {"broken": "it broke"}


def test_who_takes_part_in_a_row() -> None:
    everyone = [Contestant(name, name) for name in ("floor", "epoll", "asyncio", "uvloop", OURS, "a-build")]

    def names(row: Row, against: Sequence[str] | None = None) -> list[str]:
        return [one.name for one in rounds.of_row(row, everyone, against)]

    assert names(make_row()) == ["floor", "epoll", "asyncio", "uvloop", OURS, "a-build"]
    assert names(make_row(loops=("uvloop",))) == ["floor", "uvloop", OURS, "a-build"]
    programs = make_row(loops=(), extra_peers=("nginx", "apache"))
    assert names(programs) == ["floor", "nginx", "apache", OURS, "a-build"]
    assert names(programs, against=["nginx"]) == ["floor", "nginx", OURS, "a-build"]


def test_an_absent_contestant_and_a_row_without_a_floor_say_why() -> None:
    with pytest.raises(Failed, match="no wheel"):
        measure.measure(make_row(), Contestant("uvloop", "uvloop", absent="no wheel"), CORES, measure.Timing())
    with pytest.raises(Failed, match="has no floor"):
        measure.measure(make_row(), Contestant("floor"), CORES, measure.Timing())


# --- files


def test_the_files_of_the_rows_are_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    monkeypatch.setattr(files, "SMALL_FILES", 10)
    pieces = files.prepare(make_row(kind="file", app="write", size=1 << 20), 0.25)
    data = pieces.read_bytes()
    assert [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), files.PIECE)] == list(range(256))
    assert (tmp_path / f"{pieces.name}.written").stat().st_size == 1 << 20
    made_ns = pieces.stat().st_mtime_ns
    assert files.prepare(make_row(kind="file", app="read", size=1 << 20), 1.0) == pieces
    assert pieces.stat().st_mtime_ns == made_ns
    pieces.write_bytes(b"cut off")
    assert files.prepare(make_row(kind="file", app="read", size=1 << 20), 1.0).stat().st_size == 1 << 20
    # A quick run reads a shorter text; none is empty.
    whole, quarter = (files.prepare(make_row(kind="file", app="lines", size=20 << 20), factor) for factor in (1.0, 0.25))
    assert whole.stat().st_size > 3 * quarter.stat().st_size > 3 << 20
    lines = quarter.read_text().splitlines(keepends=True)
    assert lines[-1] == files.LAST_LINE
    assert {len(line) > 121 or len(line) < 21 for line in lines[:-1]} == {False}
    small = files.prepare(make_row(kind="file", app="small"), 1.0)
    assert len(list(small.iterdir())) == 10
    assert all(file.read_text().startswith(file.name * 2) for file in small.iterdir())


# --- rows


def test_rows_have_names_of_their_own_and_what_they_name_exists() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.kind in measure.MEASURERS, row.name
        assert row.main in METRICS, row.name
        assert all(goal.metric in METRICS for goal in row.goals), row.name
        programs = [arguments[0] for arguments in (row.floor, row.load) if arguments]
        assert all((ROOT / "benchmarks" / "c" / f"{program}.c").exists() for program in programs), row.name
        if row.kind in ("served", "process", "memory", "idle"):
            assert f'"{row.app}": ' in (APPS / row.script).read_text(), row.name
        if row.kind == "file":
            assert f'"{row.app}": ' in (APPS / "files.py").read_text(), row.name


def test_rows_are_chosen_by_name_or_by_the_beginning_of_the_group() -> None:
    assert select("") == ROWS
    assert [row.name for row in select("udp, accept")] == ["udp", "accept"]
    assert {row.group for row in select("TLS")} == {"TLS"}
    assert select("nothing-like-this") == []


def test_a_quick_run_has_one_round_of_rows_that_have_few() -> None:
    assert [make_row().rounds(wanted, quick) for wanted, quick in ((5, False), (2, True), (9, False))] == [5, 2, 5]
    assert [make_row(rounds_max=3).rounds(wanted, quick) for wanted, quick in ((5, False), (2, True))] == [3, 1]


@pytest.mark.parametrize(("size", "connections"), [(64, 1), (1024, 50), (1 << 20, 1000)])
def test_a_floor_has_a_power_of_two_of_buffers(size: int, connections: int) -> None:
    buffer_size, count = map(int, floor_buffers(size, connections))
    assert count.bit_count() == 1
    assert buffer_size >= min(size, 262144)


# --- what is shown


@pytest.fixture
def result() -> RowResult:
    row = make_row(goals=(Goal("uvloop", "cpu_us", 1.0), Goal("floor", "cpu_us", 2.0)))
    found: dict[str, list[Sample | None]] = {
        "floor": samples(1.0, 1.0, 1.0),
        "uvloop": samples(2.0, 2.0, 2.0),
        "rloop": samples(4.0, 3.0, 3.5),
        "blazio": samples(None, None, None),
        OURS: samples(1.5, 3.0, 2.5),
    }
    return RowResult(row, found, {"blazio": "it has no release"})


def cells_of(result: RowResult) -> tuple[dict[str, str], report.Notes]:
    notes = report.Notes()
    heads, lines = report.main_table([result], [], notes)
    return dict(zip(heads, lines[0], strict=True)), notes


def test_the_table_has_floor_peers_ours_ratios_and_goals(result: RowResult) -> None:
    cells, notes = cells_of(result)
    assert cells["figure"] == "CPU time, µs/message"
    assert cells["floor"] == "1.00"
    assert cells["uvloop"] == "2.00"
    assert cells["best other peer"] == "rloop 3.50 (3.00–4.00) [1]"
    assert cells["ours"] == "2.50 (1.50–3.00)"
    assert cells["ours / floor"] == "2.50 (1.50–3.00)"
    assert cells["ours / best peer"] == "1.25 (0.75–1.50) uvloop"
    assert cells["goal"] == "CPU ≤ 1 × uvloop: 1.25 MISSED\nCPU ≤ 2 × floor: 2.50 MISSED"
    assert notes.sentences == ["blazio: it has no release"]


def test_a_contestant_that_failed_or_is_not_in_a_row_is_never_an_empty_cell(result: RowResult) -> None:
    result.samples[OURS] = samples(None, None, None)
    result.reasons[OURS] = "it ended with status 1"
    cells, notes = cells_of(result)
    assert notes.sentences[int(cells["ours"].strip("[]")) - 1] == "ours: it ended with status 1"
    assert "not judged" in cells["goal"]
    other = RowResult(make_row(loops=("uvloop",)), {"uvloop": samples(1.0), OURS: samples(1.0)})
    heads, lines = report.main_table([result, other], [], notes)
    mark = dict(zip(heads, lines[1], strict=True))["floor"]
    assert notes.sentences[int(mark.strip("[]")) - 1].startswith("not run: this row compares with uvloop alone")


def test_a_builds_column_is_compared_with_ours(result: RowResult) -> None:
    result.samples["before"] = samples(3.0, 6.0, 5.0)
    heads, lines = report.main_table([result], ["before"], report.Notes())
    assert dict(zip(heads, lines[0], strict=True))["before / ours"] == "2.00 (2.00–2.00)"


def test_results_survive_their_json(result: RowResult) -> None:
    result.row = ROWS[0]
    found = json.loads(json.dumps(report.as_json([result], [], {})))
    assert report.results_of_json(found) == [result]
    assert found["rows"][0]["best_peer"] == "uvloop"
    found["rows"][0]["name"] = "a row that is gone"
    assert report.results_of_json(found) == []


def one_row(name: str, figure: float, **about: object) -> dict[str, Any]:
    row = next(row for row in ROWS if row.name == name)
    return report.as_json([RowResult(row, {OURS: samples(figure)})], [Contestant(OURS, version="1")], about)


def test_a_parts_rows_take_the_place_of_the_same_rows_and_the_table_keeps_its_order() -> None:
    whole = report.merged(one_row("udp", 1.0, cpu="whole"), one_row("static-1MiB", 2.0, cpu="first"), one_row("tcp-protocol", 3.0, cpu="second"))
    found = report.merged(whole, one_row("static-1MiB", 4.0, cpu="third"))
    assert [(one.row.name, one.samples) for one in report.results_of_json(found)] == [
        ("tcp-protocol", {OURS: samples(3.0)}),
        ("udp", {OURS: samples(1.0)}),
        ("static-1MiB", {OURS: samples(4.0)}),
    ]
    assert found["about"] == {"cpu": "whole"}
    assert found["parts"] == [{"about": {"cpu": "second"}, "rows": ["tcp-protocol"]}, {"about": {"cpu": "third"}, "rows": ["static-1MiB"]}]
    assert json.loads(json.dumps(found)) == found


def test_rows_of_programs_have_a_table_of_their_group_with_a_column_for_each(result: RowResult) -> None:
    libraries = {"group": "files", "loops": (), "floor": ("floor_file",)}
    wide = RowResult(
        make_row(extra_peers=("aiofiles", "dd"), **libraries),
        {"floor": samples(1.0), "aiofiles": samples(8.0), "dd": samples(None), OURS: samples(2.0)},
        {"dd": "dd ended with status 1"},
    )
    narrow = RowResult(make_row(extra_peers=("aiofiles",), **libraries | {"floor": ()}), {"floor": [], "aiofiles": samples(8.0), OURS: samples(2.0)})
    notes = report.Notes()
    (first, *_), (title, heads, lines) = report.tables([result, wide, narrow], [], notes)
    assert (first, title) == ("", "files")
    assert heads == ["row", "figure", "floor", "aiofiles", "dd", "ours", "ours / floor", "goal"]
    figure = "CPU time, µs/message"
    mark = f"[{notes.sentences.index('dd: dd ended with status 1') + 1}]"
    assert lines == [
        ["a row", figure, "1.00", "8.00", mark, "2.00", "2.00 (2.00–2.00)", "–"],
        ["a row", figure, "–", "8.00", "–", "2.00", "–", "–"],
    ]
    assert [title for title, _, _ in report.tables([wide], [], notes)] == ["files"]


def test_the_document_gets_its_results_between_the_marks(result: RowResult) -> None:
    result.row = ROWS[0]
    machine: dict[str, object] = {"cpu": "a CPU", "cores": 2, "memory_gib": 4.0, "kernel": "6.1", "python": "3.11", "instructions": "not available"}
    machine |= {"load_average_before": "0.1", "rounds": 3, "seconds_factor": 1.0, "duration_s": 2.0}
    found = report.as_json([result], [Contestant("uvloop", "uvloop", version="0.23.0")], machine)
    inserted = document.section(found, {"TCP echo": Path("charts/tcp-echo.svg")})
    text = document.between_marks(document.between_marks(document.PERFORMANCE.read_text(), "old results"), inserted)
    assert "old results" not in text
    assert "| TCP echo 1 KiB × 50, Protocol | CPU time, µs/message | 1.00 |" in text
    assert "![TCP echo](charts/tcp-echo.svg)" in text
    assert "uvloop 0.23.0" in text
    assert "Rows of another run" not in text
    joined = report.merged(found, found | {"about": machine | {"rounds": 9}})
    assert "Rows of another run (tcp-protocol): a CPU, 2 cores, 4.0 GiB; Linux 6.1; Python 3.11; 9 rounds" in document.section(joined, {})
    assert text.startswith("# Performance\n")
    assert text.endswith(f"{document.END}\n")


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        document.between_marks("# Performance\n", "results")


def test_a_markdown_cell_keeps_to_its_cell() -> None:
    assert document.table(["a", "b"], [["x|y", "1\n2"]]) == "| a | b |\n|---|---|\n| x\\|y | 1<br>2 |"


# --- the command line


@pytest.mark.parametrize("text", ["no-path", "gone=/nowhere", f"uvloop={ROOT}", f"{OURS}={ROOT}", f"floor={ROOT}"])
def test_a_build_needs_a_checkout_and_a_name_that_is_free(text: str) -> None:
    with pytest.raises(SystemExit, match="--build"):
        command_line.parse_builds([text])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "bench.json"),
        (["--details"], "bench.json"),
        (["--only", "udp"], "bench-part.json"),
        (["--quick"], "bench-part.json"),
        (["--rounds", "3"], "bench-part.json"),
        (["--against", "none"], "bench-part.json"),
        (["--only", "udp", "--json", "mine.json"], "mine.json"),
    ],
)
def test_a_restricted_run_does_not_take_the_place_of_a_whole_runs_figures(
    arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUICK", raising=False)
    assert command_line.json_path(command_line.parse(arguments)).name == name


def test_a_document_of_some_rows_is_refused() -> None:
    with pytest.raises(SystemExit, match="would lose the other rows"):
        command_line.main(["--only", "udp", "--document"])


def test_the_list_names_rows_with_who_takes_part_and_the_goals(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--only", "file-depth-1,relay", "--list"]) == 0
    relay, depth = capsys.readouterr().out.splitlines()
    assert relay.split()[0] == "relay"
    assert relay.endswith("| against haproxy | no goal")
    assert depth.split()[0] == "file-depth-1"
    assert "against floor, aiofiles, caio" in depth
    assert "CPU time per message ≤ 6 µs; rate by CPU time ≥ 10 × aiofiles" in depth


@pytest.mark.parametrize("arguments", [["--only", "nothing-like-this"], ["--only", "udp", "--against", "trio"]])
def test_what_does_not_exist_is_refused_before_anything_runs(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="nothing-like-this|known are"):
        command_line.main(arguments)
