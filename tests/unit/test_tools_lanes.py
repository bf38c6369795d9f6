"""tools/lanes.py: a lane that failed, that ran nothing or that skipped too much never ends a run with status 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lanes.py"

SETTINGS = """
[tool.aiouring]
lanes-without-tests = ["lint"]
lanes-with-foreign-tests = ["foreign"]
[tool.aiouring.skips]
units = 1
foreign = 5
"""

PASSED = '<testcase classname="m" name="one"/>'
FAILED = '<testcase classname="m" name="two"><failure message="no">x</failure></testcase>'
ERROR = '<testcase classname="m" name="three"><error message="no">x</error></testcase>'
SKIPPED = '<testcase classname="m" name="four"><skipped message="needs kernel: opcode FTRUNCATE"/></testcase>'
SKIPPED_SO = '<testcase classname="m" name="five"><skipped message="flaky"/></testcase>'


class Project:
    """A folder with the tool, its settings, and lanes that leave the results they are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.makefile = ""
        (folder / "tools").mkdir()
        (folder / "tools" / "lanes.py").write_text(TOOL.read_text())
        (folder / "pyproject.toml").write_text(SETTINGS)
        self.results = folder / ".cache" / "results"

    def lane(self, name: str, text: str | None, status: int = 0, file: str | None = None) -> None:
        self.makefile += f".PHONY: {name}\n{name}:\n\t@echo running {name}\n"
        if text is not None:
            left = self.folder / f"{name}.left"
            left.write_text(text)
            self.makefile += f"\t@cp {left} .cache/results/{file or name + '.xml'}\n"
        self.makefile += f"\t@exit {status}\n"

    def run(self, *lanes: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "Makefile").write_text(self.makefile)
        # A make that runs these tests passes its own settings down by environment; this one starts fresh.
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return subprocess.run(
            [sys.executable, self.folder / "tools" / "lanes.py", *lanes], capture_output=True, text=True, env=environment
        )


def junit(*cases: str) -> str:
    return f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_sums_over_lanes_and_files(project: Project) -> None:
    project.lane("units", junit(PASSED, PASSED, SKIPPED))
    project.lane("parts", junit(PASSED), file="parts-first.xml")
    project.lane("lint", None)
    done = project.run("units", "parts", "lint")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed, 1 skipped"
    assert (project.results / "closing-line").read_text() == "3 passed, 0 failed, 1 skipped\n"
    assert "needs kernel: opcode FTRUNCATE" in done.stdout
    assert (project.results / "units.log").read_text() == "running units\n"


def test_a_failed_lane_does_not_hide_the_next(project: Project) -> None:
    project.lane("units", junit(PASSED, FAILED, ERROR), status=1)
    project.lane("after", junit(PASSED))
    done = project.run("units", "after")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "2 passed, 2 failed, 0 skipped"
    assert "failed test: m::two: no\n" in done.stdout


def test_failed_tests_under_status_0_fail(project: Project) -> None:
    project.lane("units", junit(PASSED, FAILED))
    assert project.run("units").returncode == 1


def test_a_lane_that_fails_as_a_whole_counts_as_one_failed_test(project: Project) -> None:
    project.lane("units", junit(PASSED), status=3)
    done = project.run("units")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("text", [None, junit(), junit(SKIPPED), "<cut off"])
def test_a_lane_without_a_test_that_ran_fails(project: Project, text: str | None) -> None:
    project.lane("units", text)
    done = project.run("units")
    assert done.returncode == 1
    assert " 1 failed" in done.stdout.splitlines()[-1]


def test_results_of_an_earlier_run_do_not_count(project: Project) -> None:
    project.lane("units", None)
    project.results.mkdir(parents=True)
    (project.results / "units.xml").write_text(junit(PASSED))
    assert project.run("units").returncode == 1


def test_skips_are_bounded(project: Project) -> None:
    project.lane("units", junit(PASSED, SKIPPED, SKIPPED))
    done = project.run("units")
    assert done.returncode == 1
    assert "2 tests were skipped; pyproject.toml allows 1" in done.stdout


def test_a_skip_says_what_the_machine_lacks(project: Project) -> None:
    project.lane("units", junit(PASSED, SKIPPED_SO))
    done = project.run("units")
    assert done.returncode == 1
    assert "'flaky'" in done.stdout


def test_json_results_and_foreign_reasons(project: Project) -> None:
    found = {"passed": 7, "failed": 0, "skipped": 1, "skips": [{"test": "t", "reason": "Windows only"}]}
    project.lane("foreign", json.dumps(found), file="foreign.json")
    done = project.run("foreign")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "7 passed, 0 failed, 1 skipped"
