"""tests/conformance: a test that fails, hangs or takes its process down is seen, alone, and the list of expected failures binds.

The runner is started on a suite made for it, on this interpreter, as it starts the suites of others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from test import support  # type: ignore[import-not-found]

from tests.conformance import environments, expected, report, runner, suites

SUITE = """
    import os, signal, time, unittest

    class Plain(unittest.TestCase):
        def test_a_passes(self):
            pass

        def test_b_fails(self):
            print("what it saw")
            self.assertEqual(1, 2)

        def test_c_hangs(self):
            time.sleep(3600)

        def test_d_crashes(self):
            os.kill(os.getpid(), signal.SIGSEGV)

        def test_e_exits(self):
            os._exit(0)

        def test_f_fails_in_a_part(self):
            for number in range(3):
                with self.subTest(number=number):
                    self.assertNotEqual(number, 1)

        def test_g_skips_a_part(self):
            with self.subTest():
                self.skipTest("a part")

        @unittest.skip("the reason")
        def test_h_skips(self):
            pass

        @unittest.expectedFailure
        def test_i_fails_as_expected(self):
            self.fail()

        @unittest.expectedFailure
        def test_j_passes_unexpectedly(self):
            pass

        def test_k_fails_in_a_forked_child(self):
            if os.fork() == 0:
                raise RuntimeError("this process must not report")
            os.wait()

        def test_l_leaves_a_process_on_the_pipe(self):
            if os.fork() == 0:
                time.sleep(3600)

        def test_m_passes(self):
            pass

    class BrokenSetUp(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            raise RuntimeError("no set-up")

        def test_one(self):
            pass

    class SkippedSetUp(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            raise unittest.SkipTest("no such thing here")

        def test_one(self):
            pass
"""

OUTCOMES = {
    "test_a_passes": "passed",
    "test_b_fails": "failed",
    "test_c_hangs": "hung",
    "test_d_crashes": "crashed",
    "test_e_exits": "crashed",
    "test_f_fails_in_a_part": "failed",
    "test_g_skips_a_part": "skipped",
    "test_h_skips": "skipped",
    "test_i_fails_as_expected": "passed",
    "test_j_passes_unexpectedly": "failed",
    "test_k_fails_in_a_forked_child": "passed",
    "test_l_leaves_a_process_on_the_pipe": "passed",
    "test_m_passes": "passed",
}


def make_run(folder: Path, source: str) -> runner.Run:
    (folder / "made_up.py").write_text(textwrap.dedent(source))
    python = environments.Python(sys.executable, sys.version_info[:3])
    return runner.Run("made-up", "asyncio", environments.Environment(python, sys.executable), (str(folder),))


def list_tests(run: runner.Run, *files: str) -> tuple[dict[str, list[str]], list[runner.Result], float]:
    """The tests and results that the runner lists, and how long a test may say nothing that is then taken for hanging: much longer than a child needs
    on this machine, as busy as it is, until it has begun with its tests."""
    begun_s = time.monotonic()
    tests, results = runner.list_tests(run, files, 60)
    return tests, results, max(3.0, 3 * (time.monotonic() - begun_s))


def run_all(run: runner.Run) -> dict[str, runner.Result]:
    tests, results, patience_s = list_tests(run, "made_up")
    found = {result.test: result for result in results}

    def note(chunk: runner.Chunk, result: runner.Result) -> None:
        assert result.test not in found, "a test has two results"
        found[result.test] = result

    runner.run_chunks(list(runner.cut(run, tests)), 2, patience_s, note)
    return found


@pytest.mark.timeout(300)
def test_every_way_to_end(tmp_path: Path) -> None:
    results = run_all(make_run(tmp_path, SUITE))
    outcomes = {name.removeprefix("made_up.Plain."): result.outcome for name, result in results.items() if ".Plain." in name}
    assert outcomes == OUTCOMES
    assert "in test_c_hangs" in results["made_up.Plain.test_c_hangs"].detail
    assert "SIGSEGV" in results["made_up.Plain.test_d_crashes"].detail
    assert "1 != 2" in results["made_up.Plain.test_b_fails"].detail
    assert results["made_up.Plain.test_b_fails"].detail.endswith("it printed:\nwhat it saw")
    assert results["made_up.BrokenSetUp.test_one"].outcome == "failed"
    assert "no set-up" in results["made_up.BrokenSetUp.test_one"].detail
    assert results["made_up.SkippedSetUp.test_one"].outcome == "skipped"


LIMITS = """
    import unittest

    class Limits:
        def test_in_time(self):
            for elapsed in (0.05, {took}):
                self.assertLess(elapsed, 0.1)

        @unittest.expectedFailure
        def test_decorated(self):
            self.assertLess({took}, 0.1)

        def test_without_a_limit(self):
            self.assertLess({took}, 1)

    class Plain(Limits, unittest.TestCase):
        pass
"""


@pytest.mark.parametrize(
    ("slower", "took", "outcomes"),
    [(1, 0.05, "pfp"), (1, 0.3, "fpp"), (40, 0.3, "pfp"), (40, 3.9, "pff"), (40, 4.1, "fpf")],
)
def test_limits_are_longer_on_a_slower_machine_and_still_limits(tmp_path: Path, slower: float, took: float, outcomes: str) -> None:
    limits = tuple(
        suites.TimeLimit("made_up", function, f"self.assertLess({what}, {{}})", 0.1)
        for function, what in (("test_in_time", "elapsed"), ("test_decorated", took), ("test_that_is_gone", "elapsed"))
    )
    run = dataclasses.replace(make_run(tmp_path, LIMITS.format(took=took)), slower=slower, time_limits=limits)
    results = run_all(run)
    found = {name.removeprefix("made_up.Plain.test_"): result for name, result in results.items()}
    assert "".join(found[name].outcome[0] for name in ("in_time", "decorated", "without_a_limit")) == outcomes
    if outcomes[0] == "f":
        # The line of the traceback is that of the file.
        line = next(number for number, line in enumerate((tmp_path / "made_up.py").read_text().splitlines(), 1) if "(elapsed, 0.1)" in line)
        assert f'made_up.py", line {line}, in test_in_time' in found["in_time"].detail


def test_the_times_that_cpythons_tests_share_are_longer_too(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.append({str(suites.INSIDE)!r}); from inside import limits; limits.stretch_support(40); from test import support; "
        "print(support.LOOPBACK_TIMEOUT / 40, support.SHORT_TIMEOUT / 40)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{support.LOOPBACK_TIMEOUT} {support.SHORT_TIMEOUT}\n"


def test_crash_while_leaving_the_interpreter(tmp_path: Path) -> None:
    source = """
        import atexit, os, unittest

        class Plain(unittest.TestCase):
            def test_passes(self):
                atexit.register(os.abort)
    """
    results = run_all(make_run(tmp_path, source))
    assert {name: result.outcome for name, result in results.items()} == {
        "made_up.Plain.test_passes": "passed",
        "made_up.(exit of the interpreter)": "crashed",
    }


def test_file_that_cannot_be_imported(tmp_path: Path) -> None:
    results = run_all(make_run(tmp_path, "import no_such_module"))
    assert [(result.test, result.outcome) for result in results.values()] == [("made_up", "failed")]
    assert "no_such_module" in results["made_up"].detail


@pytest.mark.timeout(300)
def test_every_way_to_end_of_a_pytest_suite(tmp_path: Path) -> None:
    """aiofiles' tests are pytest's; its runs of any loop go through the same worker."""
    (tmp_path / "made_up.py").write_text(
        textwrap.dedent("""
            import asyncio, os, signal, time
            import pytest

            @pytest.mark.parametrize("mode", ["rb", "rb+"])
            @pytest.mark.parametrize("number", [-1, 0])
            async def test_a_passes_on_its_loop(mode, number):
                assert type(asyncio.get_running_loop()).__name__ == "_UnixSelectorEventLoop"

            async def test_b_fails():
                print("what it saw")
                assert 1 == 2

            @pytest.mark.skip(reason="the reason")
            def test_c_skips():
                pass

            @pytest.fixture
            def broken():
                raise RuntimeError("no set-up")

            def test_d_has_no_set_up(broken):
                pass

            def test_e_crashes():
                os.kill(os.getpid(), signal.SIGSEGV)

            def test_f_hangs():
                time.sleep(3600)

            def test_g_passes():
                pass
        """)
    )
    (tmp_path / "broken_file.py").write_text("import no_such_module")
    python = environments.Python(sys.executable, sys.version_info[:3])
    run = runner.Run("aiofiles", "asyncio", environments.Environment(python, sys.executable), (str(tmp_path),))
    tests, listed, patience_s = list_tests(run, "made_up", "broken_file")
    assert [(result.test, result.outcome) for result in listed] == [("broken_file", "failed")]
    assert "no_such_module" in listed[0].detail
    found: dict[str, runner.Result] = {}
    runner.run_chunks(list(runner.cut(run, tests)), 1, patience_s, lambda chunk, result: found.update({result.test: result}))
    assert {name.removeprefix("made_up."): result.outcome for name, result in found.items()} == {
        "test_a_passes_on_its_loop[-1-rb]": "passed",
        "test_a_passes_on_its_loop[-1-rb+]": "passed",
        "test_a_passes_on_its_loop[0-rb]": "passed",
        "test_a_passes_on_its_loop[0-rb+]": "passed",
        "test_b_fails": "failed",
        "test_c_skips": "skipped",
        "test_d_has_no_set_up": "failed",
        "test_e_crashes": "crashed",
        "test_f_hangs": "hung",
        "test_g_passes": "passed",
    }
    assert "1 == 2" in found["made_up.test_b_fails"].detail
    assert "what it saw" in found["made_up.test_b_fails"].detail
    assert found["made_up.test_c_skips"].detail == "the reason"
    assert "no set-up" in found["made_up.test_d_has_no_set_up"].detail


def test_verdict() -> None:
    def result(test: str, outcome: str) -> runner.Result:
        return runner.Result("file", test, outcome)

    ends = {"new": "failed", "listed": "hung", "mended": "passed", "skipped": "skipped", "elsewhere": "failed"}
    results = [result(test, outcome) for test, outcome in ends.items()]
    listed = {
        "listed": expected.Expectation("listed", "reason"),
        "mended": expected.Expectation("mended", "reason", ("3.12",)),
        "skipped": expected.Expectation("skipped", "reason"),
        "elsewhere": expected.Expectation("elsewhere", "reason", ("3.13",)),
    }
    verdict = expected.judge(results, "3.12", listed)
    assert [item.test for item in verdict.unexpected] == ["new", "elsewhere"]
    assert [item.test for item in verdict.expected] == ["listed"]
    assert [item.test for item in verdict.passed_though_listed] == ["mended"]
    assert expected.judge(results, "3.11", listed).passed_though_listed == []
    assert expected.never_ran({item.test for item in results}, {**listed, "gone": expected.Expectation("gone", "reason")}) == ["gone"]
    elsewhere = {"other": expected.Expectation("other", "reason", ("3.13",))}
    assert expected.never_ran(set(), elsewhere, {"3.11"}) == []
    assert expected.never_ran(set(), elsewhere, {"3.11", "3.13"}) == ["other"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("".join(f'[[uvloop]]\ntest = "t{number}"\nreason = "r"\n' for number in range(9)), "at most 8"),
        ("".join(f'[[cpython]]\ntest = "t{number}"\nreason = "r"\n' for number in range(13)), "at most 12"),
        ("".join(f'[[aiofiles]]\ntest = "t{number}"\nreason = "r"\n' for number in range(5)), "at most 4"),
        ('[[cpython]]\ntest = "t"\n', "needs a test and a reason"),
        ('[[cpython]]\ntest = "t"\nreason = " "\n', "needs a test and a reason"),
        ('[[cpython]]\ntest = "t"\nreason = "r"\nversion = "3.11"\n', "unknown keys"),
        ('[[cpython]]\ntest = "t"\nreason = "r"\n' * 2, "listed twice"),
        ('[[pypy]]\ntest = "t"\nreason = "r"\n', "no such suite"),
    ],
)
def test_list_that_breaks_its_rules(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(expected.ExpectationError, match=complaint):
        expected.read(path)


def test_list_of_the_project_keeps_its_rules() -> None:
    for suite, entries in expected.read().items():
        assert len(entries) <= expected.LIMITS[suite]


def test_json_counts(tmp_path: Path) -> None:
    python = environments.Python(sys.executable, (3, 12, 1))
    run = runner.Run("cpython", "aiouring", environments.Environment(python, sys.executable))
    results = [
        runner.Result("f", "f.one", "passed"),
        runner.Result("f", "f.two", "flaky", "once"),
        runner.Result("f", "f.three", "skipped", "Windows  only\n"),
        runner.Result("f", "f.four", "crashed", "SIGSEGV"),
        runner.Result("f", "f.five", "failed", "as listed"),
        runner.Result("f", "f.six", "passed"),
    ]
    listed = {name: expected.Expectation(name, "reason") for name in ("f.five", "f.six")}
    verdict = expected.judge(results, "3.12", listed)
    path = tmp_path / "results" / "conformance.json"
    report.write_json(path, "aiouring", [report.summary(run, results, verdict)], 1.0)
    document = json.loads(path.read_text())
    assert (document["passed"], document["failed"], document["skipped"], document["expected_failures"]) == (2, 2, 1, 1)
    assert document["failures"] == ["cpython 3.12.1 f.four: SIGSEGV", "cpython 3.12.1 f.six: passed, though expected to fail"]
    assert document["skips"] == [{"test": "cpython 3.12.1 f.three", "reason": "Windows only"}]
    assert report.describe(Counter(result.outcome for result in results)) == "2 passed, 1 flaky, 1 skipped, 1 failed, 1 crashed"


def test_ended_run_leaves_no_child(tmp_path: Path) -> None:
    source = """
        import os, pathlib, time, unittest

        class Plain(unittest.TestCase):
            def test_waits(self):
                pathlib.Path(os.environ["MADE_UP_PID"]).write_text(str(os.getpid()))
                time.sleep(3600)
    """
    run = make_run(tmp_path, source)
    pid_file = tmp_path / "pid"
    run.variables["MADE_UP_PID"] = str(pid_file)
    tests, _ = runner.list_tests(run, ("made_up",), 60)

    class Ended(Exception):
        pass

    def end(number: int, frame: object) -> None:
        raise Ended

    def end_when_it_waits() -> None:
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.01)
        # To the process, as another one would send it, so that it wakes the main thread.
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        waiting = threading.Thread(target=end_when_it_waits)
        waiting.start()
        with pytest.raises(Ended):
            runner.run_chunks(list(runner.cut(run, tests)), 1, 60, lambda chunk, result: None)
        waiting.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(int(pid_file.read_text()), 0)
            time.sleep(0.01)
