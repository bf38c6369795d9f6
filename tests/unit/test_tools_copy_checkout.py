"""tools/copy_checkout.py: sources come over, what was built from them does not, and the copy follows the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "copy_checkout.py"


def copy(checkout: Path, destination: Path) -> str:
    done = subprocess.run(
        [sys.executable, checkout / "tools" / "copy_checkout.py", destination], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_copies_sources_only_and_follows(tmp_path: Path) -> None:
    checkout, destination = tmp_path / "checkout", tmp_path / "checkout" / ".cache" / "copy"
    for name in ("tools", "aiouring", ".git", "bpf_progs"):
        (checkout / name).mkdir(parents=True)
    (checkout / "tools" / "copy_checkout.py").write_text(TOOL.read_text())
    for name in ("_ring.pyx", "_ring.c", "_ring.cpython-311-x86_64-linux-gnu.so"):
        (checkout / "aiouring" / name).write_text(name)
    (checkout / ".git" / "HEAD").write_text("ref")
    (checkout / "bpf_progs" / "echo.bpf.c").write_text("a source in C")

    assert copy(checkout, destination).startswith("3 files")
    assert (destination / "aiouring" / "_ring.pyx").exists()
    assert (destination / "bpf_progs" / "echo.bpf.c").exists()
    assert not (destination / "aiouring" / "_ring.c").exists()
    assert not (destination / ".git").exists()

    # What a build leaves in the copy outlives the next copy; a source that went away does not.
    (destination / "aiouring" / "_ring.c").write_text("made in the copy")
    assert copy(checkout, destination).startswith("0 files")
    (checkout / "bpf_progs" / "echo.bpf.c").unlink()
    (checkout / "aiouring" / "_ring.pyx").write_text("changed")
    assert copy(checkout, destination).startswith("1 files")
    assert (destination / "aiouring" / "_ring.c").exists()
    assert not (destination / "bpf_progs" / "echo.bpf.c").exists()
