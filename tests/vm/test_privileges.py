"""A loop without privileges under a hook that a process with them loaded: load_for_others() and Hook.adopt()."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring.bpf import Hook, load_for_others

pytestmark = [pytest.mark.kernel_hook, pytest.mark.usefixtures("descriptors")]

NUMBER = 500


PACKAGE = Path(aiouring.__file__).parent


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """For a process that has another user's rights: a checkout in root's home is closed to that one, so it gets a copy of the package."""
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in [PACKAGE, *PACKAGE.parents]):
        yield dict(os.environ)
        return
    with tempfile.TemporaryDirectory() as copy:
        os.chmod(copy, 0o755)
        shutil.copytree(PACKAGE, Path(copy) / "aiouring", ignore=shutil.ignore_patterns("*.c", "*.pyx", "__pycache__"))
        yield {**os.environ, "PYTHONPATH": copy}


def run_adopter(environment: dict[str, str], pass_fds: list[int] | None = None, **arguments: Any) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("adopt.py")), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=pass_fds or [], env=environment)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture
def bpf_folder() -> Iterator[Path]:
    folder = Path(f"/sys/fs/bpf/aiouring-test-{os.getpid()}")
    yield folder
    for path in folder.glob("*"):
        path.unlink()
    folder.rmdir()


def ran(report: dict[str, Any]) -> bool:
    return (
        report["engine"] == "kernel"
        and "CAP_BPF" in report["support"]
        and report["answer"] == report["again"] == "0123456789"
        and report["more_steps"] > report["steps"] > 10
    )


def test_a_loop_adopts_what_it_inherited(environment: dict[str, str]) -> None:
    with load_for_others(NUMBER) as loaded:
        fds = loaded.descriptors
        report = run_adopter(environment, descriptors=fds, pass_fds=list(fds.values()))
        assert ran(report), report
        # It was let go of, and is there for the next one.
        report = run_adopter(environment, descriptors=fds, memory_bytes=1 << 21, pass_fds=list(fds.values()))
        assert report["errno"] == errno.EINVAL and "memory_bytes" in report["text"]
        report = run_adopter(environment, descriptors=fds, pass_fds=list(fds.values()))
        assert ran(report), report


def test_a_loop_adopts_what_was_pinned(environment: dict[str, str], bpf_folder: Path) -> None:
    with load_for_others(NUMBER) as loaded:
        loaded.pin(bpf_folder)
    report = run_adopter(environment, pinned=str(bpf_folder))
    assert report["errno"] == errno.EACCES and str(bpf_folder) in report["text"]
    report = run_adopter(environment, pinned=str(bpf_folder), open_first=True)
    assert ran(report), report


def test_arguments_of_adopt(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="either pinned or descriptors"):
        Hook.adopt()
    with pytest.raises(TypeError, match="either pinned or descriptors"):
        Hook.adopt(pinned="folder", descriptors={})
    with pytest.raises(FileNotFoundError):
        Hook.adopt(tmp_path / "mine.bpf.o", pinned="folder")
    with pytest.raises(ValueError, match="no descriptor for"):
        Hook.adopt(descriptors={})
    with pytest.raises(FileNotFoundError):
        load_for_others(NUMBER, tmp_path / "mine.bpf.o")
