"""Copies the checkout's sources to another folder, and of what was built from them Cython's C files alone; copies again only what changed.

Called by test-asan.sh, tests/conformance and the package's tests, so that a build with other flags, for another Python or of another kind never
meets the extension modules of `make build`. The C files are the same for all of these, and every file keeps its time stamp, so that Cython decides
there as it would here. What the build left in the destination stays there, so that a second build is a short one; a source that is gone from the
checkout is removed there too.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LEFT_OUT_FOLDERS = {".git", ".venv", ".cache", "build", "dist", "__pycache__"}
# Inside the package, what the build copies or compiles for hook programs.
BUILT_FOLDERS = {"aiouring/bpf/include", "aiouring/bpf/objects"}
BUILT_SUFFIXES = {".so", ".o", ".pyc"}


def is_from_cython(path: Path) -> bool:
    """Whether it is a C file that lies beside the .pyx it was made from."""
    return path.suffix == ".c" and path.with_suffix(".pyx").exists()


def files_to_copy(folder: Path) -> Iterator[Path]:
    """Every source below `folder`, and Cython's C files, relative to it."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT_FOLDERS and not name.endswith((".egg-info", "_cache"))]
        folders[:] = [name for name in folders if str(Path(parent, name).relative_to(folder)) not in BUILT_FOLDERS]
        for name in files:
            path = Path(parent, name)
            if path.suffix not in BUILT_SUFFIXES and path.is_file():
                yield path.relative_to(folder)


def copy_checkout(destination: Path, root: Path = ROOT) -> int:
    """Brings `destination` up to date with the checkout at `root`; gives the number of files that had to be copied."""
    wanted = set(files_to_copy(root))
    copied = 0
    for relative in sorted(wanted):
        source, target = root / relative, destination / relative
        stat = source.stat()
        if target.exists():
            there = target.stat()
            if (there.st_mtime_ns, there.st_size) == (stat.st_mtime_ns, stat.st_size):
                continue
            if is_from_cython(source) and there.st_mtime_ns > stat.st_mtime_ns:
                continue  # a build there has made it anew
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        copied += 1
    if destination.exists():
        for relative in set(files_to_copy(destination)) - wanted:
            if not (is_from_cython(destination / relative) and relative.with_suffix(".pyx") in wanted):
                (destination / relative).unlink()
    return copied


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    print(f"{copy_checkout(destination)} files copied to {destination}")
