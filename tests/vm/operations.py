"""Makes what the guests of BPF operations need: the module, the patched kernel, and the program of operations.c with its object. Called by lane.py on
the host, where there are compilers and a network; what was made from the same files is used again."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from pathlib import Path

from aiouring.bpf.build import INCLUDE, build_object
from tools import find_libbpf

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "vm"
ABI = ROOT / "bpf_progs" / "include" / "aiouring"
SOURCES = ["operations.c", "operations_others.c", "operations_ring.c"]


def script(name: str, folder: Path) -> Path:
    """What one of the build scripts made and printed the place of."""
    done = subprocess.run([str(HERE / name), str(folder)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"test-vm: {name} failed")
    return Path(done.stdout.strip().splitlines()[-1])


def module(folder: Path) -> Path:
    return script("build-module.sh", folder)


def patched_kernel(folder: Path) -> Path:
    return script("build-kernel.sh", folder)


def program(folder: Path) -> tuple[Path, Path]:
    """The program and the object that it loads."""
    files = [*(HERE / source for source in SOURCES), HERE / "operations.h", HERE / "operations.bpf.c", ABI / "op_abi.h"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    place = folder / f"operations-{digest}"
    made = place / "operations", place / "operations.bpf.o"
    if all(file.exists() for file in made):
        return made
    place.mkdir(parents=True, exist_ok=True)
    build_object(HERE / "operations.bpf.c", made[1], [INCLUDE, ABI])
    libbpf = find_libbpf.find_libbpf(folder / "libbpf")
    command = ["gcc", "-O1", "-g", "-Wall", "-Wextra", "-Wno-missing-field-initializers", f"-I{ABI}", f"-I{libbpf.include}", "-o", str(made[0])]
    command += [*(str(HERE / source) for source in SOURCES), *map(str, libbpf.archives), "-lpthread"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"test-vm: {shlex.join(command)} failed:\n{done.stdout}")
    return made
