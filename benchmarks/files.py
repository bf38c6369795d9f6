"""The files that the rows of files read and write, and cp and dd, which are measured beside the libraries.

Used by measure.py; calls processes.py. All files are in the page cache of the disk that the checkout is on: they are made once, and read before each
sample. A tmpfs would be no better place: the kernel reads it for io_uring in worker threads, which says little about files on disks.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.contestants import APPS, ROOT, Contestant
from benchmarks.figures import Sample
from benchmarks.processes import Cores, Failed
from benchmarks.rows import Row

FOLDER = ROOT / ".cache" / "bench" / "files"
PIECE = 4096
BLOCK = 1 << 20
SMALL_FILES = 10_000
SMALL_FILE_BYTES = 1024
LAST_LINE = "the end\n"

_LINES_BLOCK_BYTES = 4 << 20
_COMMANDS = {
    ("dd", "read"): ["dd", "if={source}", "of=/dev/null", "bs=1M"],
    ("dd", "write"): ["dd", "if={zeros}", "of={written}", "bs=1M", "count={blocks}", "conv=notrunc"],
    ("dd", "read-and-write"): ["dd", "if={source}", "of={written}", "bs=1M", "conv=notrunc"],
    ("cp", "copyfile"): ["cp", "{source}", "{copy}"],
}


# --- the files


def _made(path: Path, size: int, write: Callable[[Path], None]) -> Path:
    """`path`, written first if it is not there with this size. It gets its name when it is whole and on the disk, so that nothing of it is still
    being written while a row is measured."""
    if not path.exists() or path.stat().st_size != size:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    return path


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(BLOCK)
        while file.readinto(buffer):
            pass


def _write_pieces(path: Path, size: int) -> None:
    """Each piece begins with its number, so that who reads at a wrong place is found out."""
    noise = os.urandom(PIECE - 8)
    with path.open("wb") as file:
        for number in range(size // PIECE):
            file.write(number.to_bytes(8, "little") + noise)


def _lines_block() -> bytes:
    """Lines of 20 to 120 characters, mostly ASCII, the same in each run."""
    chance = random.Random(1)
    words = ["request", "read", "of", "a", "file", "that", "is", "cached", "and", "naïve", "größe", "ring", "0.25", "2026-07-30T12:00:00", "–"]
    lines, size = [], 0
    while size < _LINES_BLOCK_BYTES:
        length = chance.randrange(20, 120)
        line = (" ".join(chance.choices(words, k=length // 2 + 1))[:length] + "\n").encode()
        lines.append(line)
        size += len(line)
    return b"".join(lines)


def _write_lines(path: Path, block: bytes, count: int) -> None:
    with path.open("wb") as file:
        for _ in range(count):
            file.write(block)
        file.write(LAST_LINE.encode())


def big_file(size: int) -> Path:
    """A file of numbered pieces."""
    return _made(FOLDER / f"pieces-{size >> 20}-MiB", size, lambda path: _write_pieces(path, size))


def text_file(size: int) -> Path:
    """A text of about this size."""
    block = _lines_block()
    count = max(1, size // len(block))
    return _made(FOLDER / f"lines-{size >> 20}-MiB", count * len(block) + len(LAST_LINE), lambda path: _write_lines(path, block, count))


def small_files() -> Path:
    """A folder with files that hold their own name again and again."""
    folder = FOLDER / "small"
    folder.mkdir(parents=True, exist_ok=True)
    if len(os.listdir(folder)) != SMALL_FILES:
        for number in range(SMALL_FILES):
            name = f"file-{number:05}"
            (folder / name).write_text(name * (SMALL_FILE_BYTES // len(name) + 1))
        os.sync()
    for path in folder.iterdir():
        path.read_bytes()
    return folder


def prepare(row: Row, factor: float) -> Path:
    """What the row works on, in the page cache. `factor`: how much shorter than a full run this one is."""
    if row.app == "small":
        return small_files()
    path = text_file(int(row.size * min(factor, 1.0))) if row.app == "lines" else big_file(row.size)
    _read(path)
    if row.app in ("write", "read-and-write"):
        target = Path(f"{path}.written")
        if not target.exists() or target.stat().st_size != row.size:
            shutil.copyfile(path, target)
        _read(target)
    return path


# --- what works on them


def app_command(contestant: Contestant, row: Row, path: Path) -> list[str]:
    """A library on uvloop, or ours on its own loop; the times are still lacking."""
    module, library = ("aiouring", "aiouring") if contestant.is_aiouring else ("uvloop", contestant.name)
    return [contestant.python, str(APPS / "files.py"), module, library, row.app, str(path), str(row.depth)]


def is_command(contestant: Contestant) -> bool:
    """Whether it is a program that ends when its work is done."""
    return contestant.name in ("cp", "dd")


def run_commands(contestant: Contestant, row: Row, path: Path, cores: Cores, warmup_s: float, window_s: float) -> Sample:
    """Runs cp or dd over the file until the window is over. What the same program takes for an empty file is subtracted each time, since nobody
    else's start is measured. The figures are for 1 MiB."""
    words = _COMMANDS.get((contestant.name, row.app))
    if words is None:
        raise Failed(f"{contestant.name} does nothing like this row")
    blocks = path.stat().st_size // BLOCK
    places = {"source": str(path), "written": f"{path}.written", "copy": f"{path}.copy", "zeros": "/dev/zero", "blocks": str(blocks)}
    command = ["taskset", "--cpu-list", str(cores.server), *(word.format(**places) for word in words)]
    nothing = ["taskset", "--cpu-list", str(cores.server), *(word.format(**places | {"source": "/dev/null", "blocks": "0"}) for word in words)]
    copy = Path(places["copy"])
    wall_ns = cpu_ns = runs = 0
    warm_ns = time.monotonic_ns() + int(warmup_s * 1e9)
    end_ns = warm_ns + int(window_s * 1e9)
    while True:
        begun_ns = time.monotonic_ns()
        start_wall_ns, start_cpu_ns = _run(nothing)
        copy.unlink(missing_ok=True)
        run_wall_ns, run_cpu_ns = _run(command)
        copy.unlink(missing_ok=True)
        if begun_ns < warm_ns:
            continue
        wall_ns += run_wall_ns - start_wall_ns
        cpu_ns += run_cpu_ns - start_cpu_ns
        runs += 1
        if time.monotonic_ns() >= end_ns:
            break
    if wall_ns <= 0 or cpu_ns <= 0:
        raise Failed("its file takes it no longer than an empty one")
    return {
        "cpu_us": cpu_ns / 1e3 / (runs * blocks),
        "rate": runs * blocks * 1e9 / wall_ns,
        "cpu_rate": runs * blocks * 1e9 / cpu_ns,
        "server_busy": cpu_ns / wall_ns,
    }


def _run(command: list[str]) -> tuple[int, int]:
    """The time and the CPU time of a program."""
    begin_ns = time.monotonic_ns()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        says = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_ns = time.monotonic_ns() - begin_ns
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{command[3]} ended with status {process.returncode}: {says.strip()}")
    return wall_ns, int((usage.ru_utime + usage.ru_stime) * 1e9)
