"""The part of the package's build that has to do with BPF: called by setup.py, which stays as plain as for any Cython package.

Before the extensions are built it puts the headers of programs and libbpf's headers for BPF code into `aiouring/bpf/include`, compiles
`bpf_progs/*.bpf.c` and `bpf_progs/ops/*.bpf.c` into `aiouring/bpf/objects`, and gives the extensions that call libbpf its archives. Both folders are
made here and ignored by git. A machine without clang or without a libbpf builds all the same, and the build says what is left out.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

from tools import find_libbpf

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aiouring" / "bpf"
PROGRAMS = ROOT / "bpf_progs"
LIBBPF_MODULES = ("aiouring.bpf._libbpf", "aiouring.bpf._libbpf_op")
# Of libbpf's headers, those that are included by programs for the kernel.
BPF_HEADERS = ("bpf_helpers.h", "bpf_helper_defs.h", "bpf_tracing.h", "bpf_core_read.h", "bpf_endian.h")


def load_by_path(path: Path) -> ModuleType:
    """A module of the package, which cannot be imported by its name before its extensions are built."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


programs = load_by_path(PACKAGE / "build.py")


def copy_if_newer(source: Path, target: Path) -> None:
    if not target.exists() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def copy_headers(libbpf_include: Path | None) -> None:
    """What a program's `#include <aiouring/...>` and `#include <bpf/...>` find, for this build and in the installed package."""
    for header in sorted((PROGRAMS / "include").rglob("*.h")):
        copy_if_newer(header, PACKAGE / "include" / header.relative_to(PROGRAMS / "include"))
    if libbpf_include is not None:
        for name in BPF_HEADERS:
            copy_if_newer(libbpf_include / "bpf" / name, PACKAGE / "include" / "bpf" / name)


def compile_programs() -> None:
    """Compiles what changed; says in one line if there is no clang."""
    objects = [(source, source.name.replace(".bpf.c", ".bpf.o"), ()) for source in sorted(PROGRAMS.glob("*.bpf.c"))]
    for source in sorted((PROGRAMS / "ops").glob("*.bpf.c")):
        objects += [(source, source.name.replace(".bpf.c", suffix), defines) for suffix, defines in programs.OPERATION_OBJECTS]
    if not objects:
        return
    if programs.find_clang() is None:
        print("bpf: there is no clang: the objects of hooks and operations are missing, so that those that ship run in this process", flush=True)
        return
    headers = [*(PACKAGE / "include").rglob("*.h"), *(PROGRAMS / "ops").glob("*.h")]
    newest_header = max((header.stat().st_mtime_ns for header in headers), default=0)
    for source, name, defines in objects:
        target = PACKAGE / "objects" / name
        if target.exists() and target.stat().st_mtime_ns > max(source.stat().st_mtime_ns, newest_header):
            continue
        print(f"bpf: compiling {name}", flush=True)
        try:
            print(programs.build_object(source, target, [PACKAGE / "include"], defines=defines), end="", flush=True)
        except programs.BuildFailed as error:
            # A program that is refused is a fault of the sources; a stale object in its place would hide it.
            target.unlink(missing_ok=True)
            raise SystemExit(f"bpf: {error}") from error


class BuildExtensions(build_ext):  # type: ignore[misc]
    """build_ext, with libbpf looked for first."""

    extensions: list[Extension]

    def run(self) -> None:
        folder = Path(self.build_temp) / "libbpf"
        try:
            libbpf = find_libbpf.find_libbpf(folder)
        except find_libbpf.Unavailable as error:
            print(f"bpf: no libbpf {find_libbpf.VERSION_MIN} or newer: {error}. Nothing can be loaded into the kernel.", flush=True)
            self.extensions = [extension for extension in self.extensions if extension.name not in LIBBPF_MODULES]
            copy_headers(None)
        else:
            copy_headers(libbpf.include)
            for extension in self.extensions:
                if extension.name in LIBBPF_MODULES:
                    extension.include_dirs.append(str(libbpf.include))
                    extension.extra_objects += map(str, libbpf.archives)
                    extension.extra_link_args = [*extension.extra_link_args, *find_libbpf.LINK_ARGUMENTS]
        compile_programs()
        super().run()


class BuildPython(build_py):  # type: ignore[misc]
    """build_py, after build_ext: it copies what that makes beside the extensions."""

    def run(self) -> None:
        if not self.editable_mode:
            self.run_command("build_ext")
            # setuptools keeps a list of the package's files that it made before.
            self.__dict__.pop("data_files", None)
        super().run()


COMMANDS = {"build_ext": BuildExtensions, "build_py": BuildPython}
