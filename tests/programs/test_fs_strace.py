"""docs/files.md says which file-system call goes through the ring and which through the executor; strace says whether that is so.

A child makes each call of the table between two marker calls (access() of a path that names the call), and strace shows what the process asked the
kernel for in between, thread by thread.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiouring import fs

from . import support

pytestmark = pytest.mark.skipif(support.LOOP == "asyncio", reason="asyncio's loop has no ring")

# What the interpreter and the loop may do besides. The loop's thread waits in io_uring_enter; asyncio asks for the process's number each time that
# one asks it for the running loop (before Python 3.12).
INNOCENT = {"futex", "brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "restart_syscall", "io_uring_enter", "getpid"}
# What a thread of the executor does when it begins, and to wake the loop when it ends.
THREADS = {"clone3", "clone", "rseq", "set_robust_list", "rt_sigprocmask", "gettid", "prctl", "write"}

#: Each call of the table, as it is written there, and what the child runs for it. `d` is a folder of its own, with files and links in it.
CALLS = {
    "stat": "fs.stat(d + '/file')",
    "lstat": "fs.lstat(d + '/link')",
    "samefile": "fs.samefile(d + '/file', d + '/link')",
    "exists": "fs.exists(d + '/file')",
    "lexists": "fs.lexists(d + '/link')",
    "is_file": "fs.is_file(d + '/file')",
    "is_dir": "fs.is_dir(d)",
    "is_symlink": "fs.is_symlink(d + '/link')",
    "is_fifo": "fs.is_fifo(d + '/file')",
    "is_socket": "fs.is_socket(d + '/file')",
    "is_block_device": "fs.is_block_device(d + '/file')",
    "is_char_device": "fs.is_char_device('/dev/null')",
    "open_beneath": "fs.open_beneath('file', dir_fd=os.open(d, os.O_PATH))",
    "mkdir": "fs.mkdir(d + '/made')",
    "makedirs": "fs.makedirs(d + '/made/x/y/z')",
    "rmdir": "fs.rmdir(d + '/made/x/y/z')",
    "unlink": "fs.unlink(d + '/unwanted')",
    "remove": "fs.remove(d + '/unwanted too')",
    "rename": "fs.rename(d + '/file', d + '/renamed')",
    "replace": "fs.replace(d + '/renamed', d + '/file')",
    "link": "fs.link(d + '/file', d + '/hard')",
    "symlink": "fs.symlink('file', d + '/soft')",
    "setxattr": "fs.setxattr(d + '/file', 'user.a', b'value')",
    "getxattr": "fs.getxattr(d + '/file', 'user.a')",
    "setxattr(follow_symlinks=False)": "fs.setxattr(d + '/file', 'user.b', b'value', follow_symlinks=False)",
    "getxattr(follow_symlinks=False)": "fs.getxattr(d + '/file', 'user.b', follow_symlinks=False)",
    "listxattr": "fs.listxattr(d + '/file')",
    "removexattr": "fs.removexattr(d + '/file', 'user.a')",
    "truncate(descriptor)": "fs.truncate(fd, 100)",
    "truncate(path)": "fs.truncate(d + '/file', 50)",
    "chmod": "fs.chmod(d + '/file', 0o600)",
    "chown": "fs.chown(d + '/file', -1, -1)",
    "utime": "fs.utime(d + '/file', ns=(1, 2))",
    "access": "fs.access(d + '/file', os.R_OK)",
    "readlink": "fs.readlink(d + '/link')",
    "listdir": "fs.listdir(d)",
    "scandir": "collect(fs.scandir(d))",
    "walk": "collect(fs.walk(d))",
    "DirEntry.stat": "entry.stat()",
    "is_mount": "fs.is_mount(d)",
    "read_bytes": "fs.read_bytes(d + '/file')",
    "read_text": "fs.read_text(d + '/file', 'latin-1')",
    "write_bytes": "fs.write_bytes(d + '/written', b'data')",
    "write_text": "fs.write_text(d + '/written', 'text', 'utf-8')",
    "write_bytes(atomic=True)": "fs.write_bytes(d + '/written', b'data', atomic=True)",
    "write_text(atomic=True)": "fs.write_text(d + '/new', 'text', 'utf-8', atomic=True)",
    "write_bytes(atomic=True) where a new file's mode or owner is not the old one's": "fs.write_bytes(d + '/odd', b'data', atomic=True)",
    "copyfile": "fs.copyfile(d + '/large', d + '/copy')",
    "copyfile of a sparse file": "fs.copyfile(d + '/sparse', d + '/sparse copy')",
    "copyfile of a file whose mode the umask takes away from": "fs.copyfile(d + '/odd', d + '/odd copy')",
    "copytree": "fs.copytree(d + '/tree', d + '/tree copy')",
    "rmtree": "fs.rmtree(d + '/tree copy')",
}  # fmt: skip

CHILD = """
import asyncio, json, os, sys
import aiouring
from aiouring import fs

d, calls = sys.argv[1], json.loads(sys.argv[2])

async def collect(items):
    return [item async for item in items]

async def main():
    # Each module that a call imports, each codec, and the executor's threads are there before the first marker.
    await asyncio.gather(*(asyncio.to_thread(sum, ()) for _ in range(8)))
    await fs.copyfile(d + "/file", d + "/warm")
    await fs.write_text(d + "/warm", "", "utf-8", atomic=True)
    await fs.read_text(d + "/warm", "latin-1")
    await fs.copytree(d + "/empty", d + "/empty too")
    entry = [entry for entry in await collect(fs.scandir(d)) if entry.name == "file"][0]
    names = {"fs": fs, "os": os, "d": d, "fd": os.open(d + "/file", os.O_RDWR), "entry": entry, "collect": collect}
    for number, source in enumerate(calls):
        call = eval(compile(source, "call", "eval"), names)
        os.access(f"/marker/begin/{number}", 0)
        try:
            await call
        finally:
            os.access(f"/marker/end/{number}", 0)

aiouring.run(main())
"""


def rows() -> dict[str, tuple[str, str]]:
    """The table: from each call to its way and how."""
    text = (support.REPOSITORY / "docs" / "files.md").read_text()
    section = text.split("## File-system calls", 1)[1].split("\n## ", 1)[0]
    found: dict[str, tuple[str, str]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3 or cells[0] in ("call", "---"):
            continue
        for name in re.split(r", (?=`)", cells[0]):
            plain = name.replace("`", "")
            assert plain not in found, f"{plain} stands twice in the table"
            found[plain] = (cells[1], cells[2])
    return found


def test_the_table_has_every_call() -> None:
    table = rows()
    assert set(table) == set(CALLS), "the table of docs/files.md and the calls of this test differ"
    functions = {name for name in fs.__all__ if name != "DirEntry"}
    assert functions <= {re.split(r"[(. ]", name)[0] for name in table}
    assert {way for way, _ in table.values()} == {"ring", "executor"}


def test_the_table_is_true(tmp_path: Path) -> None:
    strace = support.require_program("strace", "strace")
    folder = tmp_path / "folder"
    (folder / "tree" / "inner").mkdir(parents=True)
    (folder / "tree" / "inner" / "file").write_bytes(b"data")
    (folder / "empty").mkdir()
    for name in ("file", "unwanted", "unwanted too", "written", "odd"):
        (folder / name).write_bytes(b"data" * 100)
        (folder / name).chmod(0o644)
    (folder / "odd").chmod(0o666)
    (folder / "link").symlink_to("file")
    (folder / "large").write_bytes(support.payload(5_000_000))
    (folder / "large").chmod(0o644)
    with open(folder / "sparse", "wb") as file:
        file.truncate(1_000_000)
    trace = tmp_path / "trace"
    done = subprocess.run(
        [strace, "-f", "-s", "200", "-o", str(trace), sys.executable, "-c", CHILD, str(folder), json.dumps(list(CALLS.values()))],
        capture_output=True, text=True, env=support.child_environment(), timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = rows()
    seen = calls_between_markers(trace.read_text())
    assert set(seen) == set(range(len(CALLS)))
    wrong = []
    for number, name in enumerate(CALLS):
        way, how = table[name]
        loop_calls, other_calls = seen[number]
        if loop_calls:
            wrong.append(f"{name}: the loop's thread called {sorted(loop_calls)}")
        if way == "ring" and other_calls:
            wrong.append(f"{name}: another thread called {sorted(other_calls)}")
        expected = set(re.findall(r"`(\w+)`", how)) if way == "executor" else set()
        if expected - other_calls:
            wrong.append(f"{name}: no thread called {sorted(expected - other_calls)}, but {sorted(other_calls)}")
        if way == "executor" and not expected:
            wrong.append(f"{name}: the table names no system call")
    assert not wrong, "\n".join(wrong)


def calls_between_markers(trace: str) -> dict[int, tuple[set[str], set[str]]]:
    """For each call, what the loop's thread and what the other threads asked the kernel for. Waiting for the loop's pipe is no question."""
    seen: dict[int, tuple[set[str], set[str]]] = {}
    current: int | None = None
    loop_thread = ""
    for line in trace.splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match is None:
            continue  # the second half of a call, a signal, an exit
        thread, name, arguments = match.groups()
        marker = re.search(r'"/marker/(begin|end)/(\d+)"', arguments)
        if marker:
            loop_thread = thread
            current = int(marker[2]) if marker[1] == "begin" else None
            if current is not None:
                seen[current] = (set(), set())
        elif current is not None and name not in INNOCENT:
            if thread == loop_thread:
                seen[current][0].add(name)
            elif name not in THREADS:
                seen[current][1].add(name)
    return seen
