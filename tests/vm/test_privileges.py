"""A loop without privileges under a hook that a process with them loaded: load_for_others() and Hook.adopt()."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiouring.bpf import Hook, load_for_others

pytestmark = [pytest.mark.kernel_hook, pytest.mark.usefixtures("descriptors")]

NUMBER = 500


def run_adopter(pass_fds: list[int] | None = None, **arguments: Any) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("adopt.py")), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=pass_fds or [])
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


def test_a_loop_adopts_what_it_inherited() -> None:
    with load_for_others(NUMBER) as loaded:
        fds = loaded.descriptors
        report = run_adopter(descriptors=fds, pass_fds=list(fds.values()))
        assert ran(report), report
        # It was let go of, and is there for the next one.
        report = run_adopter(descriptors=fds, memory_bytes=1 << 21, pass_fds=list(fds.values()))
        assert report["errno"] == errno.EINVAL and "memory_bytes" in report["text"]
        report = run_adopter(descriptors=fds, pass_fds=list(fds.values()))
        assert ran(report), report


def test_a_loop_adopts_what_was_pinned(bpf_folder: Path) -> None:
    with load_for_others(NUMBER) as loaded:
        loaded.pin(bpf_folder)
    report = run_adopter(pinned=str(bpf_folder))
    assert report["errno"] == errno.EACCES and str(bpf_folder) in report["text"]
    report = run_adopter(pinned=str(bpf_folder), open_first=True)
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
