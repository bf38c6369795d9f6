"""Compiles a hook program or an operation: to objects for the kernel by clang, to a shared library for the inline engine by the C compiler.

Called by `python -m aiouring build-hook` and `build-op`, and by the package's own build, which loads this file by its path before anything is built:
it needs Python's standard library alone and imports nothing of aiouring.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

INCLUDE = Path(__file__).resolve().parent / "include"
# What bpf_tracing.h and its like call the machines.
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390", "ppc64le": "powerpc"}
SUFFIX = ".bpf.c"
# The objects of one operation: how their names end, and what the compiler is told.
OPERATION_OBJECTS = ((".op.bpf.o", ()), (".run.bpf.o", ("AIOURING_PROG_RUN",)))


# Behind the last byte of each object of an operation, where no loader looks: what its source was, so that one that was not built again is noticed.
STAMP = b"\naiouring-source "


class BuildFailed(Exception):
    """A compiler is missing or refused a program; the text says which and why."""


def find_clang() -> str | None:
    """The clang that AIOURING_CLANG names, or the first on PATH: `clang`, or one with a version in its name, as distributions have them."""
    named = os.environ.get("AIOURING_CLANG")
    names = [named] if named else ["clang", *(f"clang-{version}" for version in range(30, 12, -1))]
    return next((found for found in map(shutil.which, names) if found), None)


def run(command: list[str], folder: Path | None = None) -> str:
    """The command's output, its warnings among it; it runs in `folder`."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, cwd=folder)
    except OSError as error:
        raise BuildFailed(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise BuildFailed(f"{shlex.join(command)} ended with status {done.returncode}:\n{done.stdout}")
    return done.stdout


def system_includes(clang: str) -> list[str]:
    """The host's header folders. For BPF clang leaves out those of one architecture, where the kernel's headers have a part."""
    lines = run([clang, "-v", "-E", "-x", "c", os.devnull]).splitlines()
    folders = []
    inside = False
    for line in lines:
        if line.startswith("#include <...>"):
            inside = True
        elif line.startswith("End of search list"):
            break
        elif inside:
            folders.append(line.strip())
    return [argument for folder in folders for argument in ("-idirafter", folder)]


def build_object(source: Path, target: Path, includes: list[Path], clang: str | None = None, defines: Sequence[str] = ()) -> str:
    """Compiles `source` to an object for the kernel, with the types that the kernel and Python read its variables by; `defines` are macros. Gives the
    compiler's warnings.

    Raises BuildFailed where there is no clang or it refuses the program.
    """
    clang = clang or find_clang()
    if clang is None:
        raise BuildFailed("there is no clang, which alone compiles for the kernel (Debian's package clang)")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part").absolute()
    # The types' section names source files, and has their lines, for the verifier's words. clang looks for the lines under the names that it writes
    # there, so those have to lead to the files from where it runs: in the source's folder, or else the source's own lines would be empty.
    folder, here = source.parent.resolve(), Path.cwd()
    shown = os.path.relpath(here, folder) if folder.is_relative_to(here) else "."
    command = [os.path.abspath(clang), "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wno-unused-function"]
    # Where they lay says nothing to who reads it.
    command += [f"-ffile-prefix-map={folder}=.", f"-ffile-prefix-map={here}={shown}", "-fdebug-compilation-dir=."]
    command += [f"-D__TARGET_ARCH_{ARCHITECTURES.get(platform.machine(), platform.machine())}"]
    command += [*(f"-D{name}" for name in defines), *(f"-I{include.resolve()}" for include in includes), *system_includes(clang)]
    command += ["-c", source.name, "-o", str(part)]
    try:
        warnings = run(command, folder)
        strip = shutil.which("llvm-strip")
        if strip is not None:
            # Debugging information by itself, which is most of the file; the types and line numbers that the verifier shows stay.
            run([strip, "--strip-debug", str(part)])
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return warnings


def build_library(source: Path, target: Path, includes: list[Path]) -> str:
    """Compiles `source` to a shared library for the inline engine. Gives the compiler's warnings; raises BuildFailed."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    command = [*compiler, "-DAIOURING_INLINE", "-O2", "-g", "-Wall", "-Wno-unused-function", "-fPIC", "-shared", "-fvisibility=hidden"]
    command += [f"-ffile-prefix-map={source.parent.resolve()}=.", *(f"-I{folder}" for folder in includes), "-x", "c", str(source), "-o", str(part)]
    try:
        warnings = run(command)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return warnings


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `build-hook` and `build-op` to the commands of the package."""
    parser = commands.add_parser(
        "build-hook",
        help="compiles a hook program",
        description="Compiles a hook program, NAME.bpf.c, to NAME.bpf.o for the kernel engine and to NAME.bpf.so for the inline engine.",
    )
    add_arguments(parser, ["both", "kernel", "inline"])
    parser.set_defaults(run=build_hook)
    parser = commands.add_parser(
        "build-op",
        help="compiles an operation",
        description="Compiles an operation, NAME.bpf.c, to NAME.op.bpf.o for the engines opcode and module, to NAME.run.bpf.o for prog_run, and to "
        "NAME.op.so for inline.",
    )
    add_arguments(parser, ["all", "kernel", "prog_run", "inline"])
    parser.set_defaults(run=build_op)


def add_arguments(parser: argparse.ArgumentParser, engines: list[str]) -> None:
    """The arguments of both commands. The first engine stands for all of them."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the program, whose name ends with .bpf.c")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where the files go (default: beside the source)")
    parser.add_argument("-I", "--include", type=Path, action="append", default=[], metavar="FOLDER", help="another folder of headers")
    parser.add_argument("--engine", choices=engines, default=engines[0], help="build for this engine alone")


# For which engine, how, and how the file's name ends.
Target = tuple[str, Callable[[Path, Path, list[Path]], str], str]


def build_hook(options: argparse.Namespace) -> int:
    """The command `build-hook`: 0, or 1 where something could not be built, 2 for what is no program's name."""
    return build_all("build-hook", options, [("kernel", build_object, ".bpf.o"), ("inline", build_library, ".bpf.so")])


def build_op(options: argparse.Namespace) -> int:
    """The command `build-op`, with the same results."""

    def for_kernel(source: Path, target: Path, includes: list[Path]) -> str:
        return stamped(source, target, build_object(source, target, includes))

    def for_prog_run(source: Path, target: Path, includes: list[Path]) -> str:
        return stamped(source, target, build_object(source, target, includes, defines=OPERATION_OBJECTS[1][1]))

    def for_inline(source: Path, target: Path, includes: list[Path]) -> str:
        return stamped(source, target, build_library(source, target, includes))

    targets: list[Target] = [("kernel", for_kernel, ".op.bpf.o"), ("prog_run", for_prog_run, ".run.bpf.o"), ("inline", for_inline, ".op.so")]
    return build_all("build-op", options, targets)


def stamped(source: Path, target: Path, warnings: str) -> str:
    """Ends an object with its stamp. Raises BuildFailed for one without the symbol that AIOURING_OP makes: no compiler misses that."""
    if b"\0aiouring_operation\0" not in target.read_bytes():
        raise BuildFailed(f"{source.name} declares no operation: AIOURING_OP, at its end, does that")
    with open(target, "ab") as file:
        file.write(STAMP + digest(source))
    return warnings


def digest(source: Path) -> bytes:
    """What a stamp says of a source."""
    return hashlib.sha256(source.read_bytes()).hexdigest().encode()


def stamp_of(target: Path) -> bytes | None:
    """The digest of the source that an object was built from; None: there is no object, or it has no stamp."""
    size = len(STAMP) + 2 * hashlib.sha256().digest_size
    try:
        with open(target, "rb") as file:
            file.seek(-size, os.SEEK_END)
            end = file.read()
    except OSError:
        return None
    return end.removeprefix(STAMP) if end.startswith(STAMP) else None


def build_all(command: str, options: argparse.Namespace, targets: list[Target]) -> int:
    source: Path = options.source
    if not source.name.endswith(SUFFIX) or not source.is_file():
        fault = "there is no such file" if source.name.endswith(SUFFIX) else f"the name of a program ends with {SUFFIX}"
        print(f"{command}: {source}: {fault}", file=sys.stderr)
        return 2
    folder = options.output or source.parent
    name = source.name.removesuffix(SUFFIX)
    includes = [source.parent, *options.include, INCLUDE]
    status = 0
    for engine, build, suffix in targets:
        if options.engine not in ("both", "all", engine):
            continue
        target = folder / f"{name}{suffix}"
        existed = target.exists()
        try:
            warnings = build(source, target, includes)
        except BuildFailed as error:
            # What an earlier source gave would be another program than the new one of the other engines.
            old = f" (the old {target.name} was removed)" if existed else ""
            target.unlink(missing_ok=True)
            print(f"{command}: for the {engine} engine{old}: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{warnings}{target}: for the {engine} engine")
    return status
