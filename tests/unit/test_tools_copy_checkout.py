"""tools/copy_checkout.py: sources come over and Cython's C files, nothing else that was built, and the copy follows the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "copy_checkout.py"


def copy(checkout: Path, destination: Path) -> str:
    done = subprocess.run(
        [sys.executable, checkout / "tools" / "copy_checkout.py", destination], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_copies_sources_and_follows(tmp_path: Path) -> None:
    checkout, destination = tmp_path / "checkout", tmp_path / "checkout" / ".cache" / "copy"
    for name in ("tools", "aiouring", ".git", "bpf_progs"):
        (checkout / name).mkdir(parents=True)
    (checkout / "tools" / "copy_checkout.py").write_text(TOOL.read_text())
    for name in ("_ring.pyx", "_ring.c", "_ring.cpython-311-x86_64-linux-gnu.so", "_new.pyx"):
        (checkout / "aiouring" / name).write_text(name)
    (checkout / ".git" / "HEAD").write_text("ref")
    (checkout / "bpf_progs" / "echo.bpf.c").write_text("a source in C")

    assert copy(checkout, destination).startswith("5 files")
    assert (destination / "bpf_progs" / "echo.bpf.c").exists()
    for name in ("_ring.pyx", "_ring.c"):
        # Of the same age as here: Cython makes nothing anew for a time stamp.
        assert (destination / "aiouring" / name).stat().st_mtime_ns == (checkout / "aiouring" / name).stat().st_mtime_ns
    assert not list(destination.glob("aiouring/*.so"))
    assert not (destination / ".git").exists()

    # What a build leaves in the copy outlives the next copy; a source that went away does not, and nor does what was made from it.
    made = destination / "aiouring" / "_ring.c"
    made.write_text("made in the copy")
    newer_ns = (checkout / "aiouring" / "_ring.c").stat().st_mtime_ns + 10**9
    os.utime(made, ns=(newer_ns, newer_ns))
    (destination / "aiouring" / "_new.c").write_text("made in the copy, of what was not built here")
    (destination / "aiouring" / "_new.o").write_text("an object")
    assert copy(checkout, destination).startswith("0 files")
    (checkout / "bpf_progs" / "echo.bpf.c").unlink()
    (checkout / "aiouring" / "_ring.pyx").write_text("changed")
    assert copy(checkout, destination).startswith("1 files")
    assert made.read_text() == "made in the copy"
    assert (destination / "aiouring" / "_new.c").exists() and (destination / "aiouring" / "_new.o").exists()
    assert not (destination / "bpf_progs" / "echo.bpf.c").exists()
    (checkout / "aiouring" / "_new.pyx").unlink()
    copy(checkout, destination)
    assert not (destination / "aiouring" / "_new.c").exists()
