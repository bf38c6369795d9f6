"""`python -m aiouring cp` as a user runs it: real files, killed and interrupted in the middle, full disks, sources that change.

A copy is caught in the middle by looking at its partial file, which the test waits for.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import support

pytestmark = pytest.mark.skipif(support.LOOP == "asyncio", reason="asyncio has no such command")

LARGE = 300_000_000
DISK_PATIENCE_S = 100


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "aiouring", "cp", *map(str, arguments)]


def cp(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, errors="surrogateescape", timeout=DISK_PATIENCE_S,
        env=support.child_environment(), **options,
    )  # fmt: skip
    # How far it is, is told only when it takes a while, which is the machine's affair.
    done.stderr = re.sub(r"(?m)^ *[0-9.]+ %  .*/s\n", "", done.stderr)
    return done


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A copy that is to be caught on its way: who watches it comes first on a busy machine."""
    return subprocess.Popen(
        ["nice", "-n", "5", *command(*arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=support.child_environment(), process_group=0, **options,
    )  # fmt: skip


def large_file(path: Path, size: int = LARGE) -> Path:
    piece = support.payload(10_000_000)
    with open(path, "wb") as file:
        for number in range(size // len(piece)):
            file.write(number.to_bytes(4, "big") + piece[4:])
        file.write(piece[: size % len(piece)])
    return path


def parts_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith(".aiouring-part")]


def stop(process: subprocess.Popen[str], part: Path) -> None:
    """Keeps a copy where it is until end(), however long it takes this process to do what it does to it meanwhile."""
    process.send_signal(signal.SIGSTOP)
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    caught = found is not None and found.si_code == os.CLD_STOPPED and part.exists()
    assert caught, f"the copy ended before it could be caught: {process.poll() is not None and process.communicate()}"


def wait_for_part(process: subprocess.Popen[str], folder: Path, size: int = 1) -> Path:
    """Until the copy has come so far; it is stopped there."""
    deadline = time.monotonic() + support.PATIENCE_S
    while True:
        for part in parts_in(folder) if folder.exists() else []:
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_size >= size:
                    stop(process, part)
                    return part
        assert process.poll() is None, f"the copy ended before it could be caught: {process.communicate()}"
        assert time.monotonic() < deadline, "no partial file"


def wait_for_writes(process: subprocess.Popen[str], part: Path, size: int) -> None:
    """Until the process has written so much; the size of a partial file with O_DIRECT is the whole from the beginning. It goes on until then."""
    process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + support.PATIENCE_S
    begin_ns = time.time_ns()
    while True:
        found = part.stat()
        if os.major(found.st_dev) == 0:
            # In memory nothing is counted, and no room is reserved: what is there was written, if it was now.
            written = found.st_blocks * 512 if found.st_mtime_ns > begin_ns else 0
        else:
            counters = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
            written = int(counters["write_bytes"])
        if written >= size:
            stop(process, part)
            return
        assert process.poll() is None, f"the copy ended before it could be caught: {process.communicate()}"
        assert time.monotonic() < deadline, "nothing was written"


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """A copy that is interrupted while it waits for the disk ends when the disk has done it, which takes a busy one long for 300 MB."""
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=DISK_PATIENCE_S)
    return process.returncode, errors


def same(first: Path, second: Path) -> bool:
    filecmp.clear_cache()
    return filecmp.cmp(first, second, shallow=False)


def trees_are_equal(first: Path, second: Path) -> bool:
    return subprocess.run(["diff", "--recursive", "--no-dereference", str(first), str(second)], capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"needs program: mount, by root ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# -- files and folders ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--verify",), ("--direct",), ("--direct", "--verify"), ("--resume", "--verify")], ids=" ".join)
@pytest.mark.parametrize("size", [0, 1, 4096, 1_048_577, 20_000_003])
def test_a_file(tmp_path: Path, size: int, options: tuple[str, ...]) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(support.payload(size))
    src.chmod(0o754)
    os.setxattr(src, "user.note", b"kept")
    os.utime(src, ns=(1_000_000_000_000_000_001, 1_100_000_000_000_000_002))
    done = cp(src, dst, *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert re.match(r"copied 1 file, .* in .* s \(.*/s\)" + ("; verified" if "--verify" in options else "") + "\n$", done.stdout)
    assert same(src, dst)
    found = dst.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o754, 1_100_000_000_000_000_002)
    assert os.getxattr(dst, "user.note") == b"kept"
    assert sorted(os.listdir(tmp_path)) == ["dst", "src"]


def test_where_a_copy_goes(tmp_path: Path) -> None:
    src, folder = tmp_path / "src", tmp_path / "folder"
    src.write_bytes(b"new")
    folder.mkdir()
    assert cp(src, folder, "--quiet").returncode == 0
    assert (folder / "src").read_bytes() == b"new"
    (folder / "old").write_bytes(b"old contents")
    done = cp(src, folder / "old", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "old").read_bytes() == b"new"
    (tmp_path / "link").symlink_to("folder/old")
    (folder / "old").write_bytes(b"old contents")
    assert cp(src, tmp_path / "link").returncode == 0
    assert (tmp_path / "link").is_symlink() and (folder / "old").read_bytes() == b"new"
    # A folder: its new name, or with a slash the one that it goes into.
    assert cp(folder, tmp_path / "copy").returncode == 0 and cp(folder, tmp_path / "copy").returncode == 0
    assert trees_are_equal(folder, tmp_path / "copy")
    assert cp(folder, f"{tmp_path / 'copy'}/").returncode == 0
    assert trees_are_equal(folder, tmp_path / "copy" / "folder")
    assert cp(f"{folder}/.", f"{tmp_path / 'copy'}/").returncode == 0
    assert cp("src", "relative", cwd=tmp_path).returncode == 0 and (tmp_path / "relative").read_bytes() == b"new"


def make_tree(folder: Path) -> Path:
    for number in range(60):
        inner = folder / f"a{number % 4}" / f"b{number % 3}"
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"file {number}").write_bytes(support.payload(number * number * 997, number))
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("a0/b0/file 0")
    (folder / "broken").symlink_to("nowhere")
    (folder / "to folder").symlink_to("a1")
    (folder / os.fsdecode(b"odd \xff name\n")).write_bytes(b"odd")
    (folder / "a1" / "b1").chmod(0o711)
    os.utime(folder / "a2", ns=(5, 7))
    return folder


@pytest.mark.parametrize("options", [(), ("--verify",), ("--direct",)], ids=" ".join)
def test_a_folder(tmp_path: Path, options: tuple[str, ...]) -> None:
    src = make_tree(tmp_path / "src")
    done = cp(src, tmp_path / "dst", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("copied 61 files, ")
    assert trees_are_equal(src, tmp_path / "dst")
    assert os.readlink(tmp_path / "dst" / "broken") == "nowhere"
    assert stat.S_IMODE((tmp_path / "dst" / "a1" / "b1").stat().st_mode) == 0o711
    assert (tmp_path / "dst" / "a2").stat().st_mtime_ns == 7
    again = cp(src, tmp_path / "dst", "--resume", *options)
    assert (again.returncode, again.stderr) == (0, "") and "61 had been copied before" in again.stdout
    assert not parts_in(tmp_path)


def test_what_cannot_be_copied_is_told_and_the_rest_is_copied(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "src")
    os.mkfifo(src / "a0" / "fifo")
    (tmp_path / "dst" / "a3" / "b0" / "file 15").mkdir(parents=True)  # a folder where a file is to go
    done = cp(src, tmp_path / "dst")
    assert done.returncode == 1
    complaints = done.stderr.splitlines()
    assert len(complaints) == 2, done.stderr
    assert any("fifo" in line and "left out" in line for line in complaints)
    assert any("file 15" in line and "Is a directory" in line for line in complaints)
    assert done.stdout.startswith("copied 60 files")
    os.unlink(src / "a0" / "fifo")
    shutil.rmtree(tmp_path / "dst" / "a3" / "b0" / "file 15")
    assert cp(src, tmp_path / "dst", "--resume").returncode == 0
    assert trees_are_equal(src, tmp_path / "dst")


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"data")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for src, dst, message in (
        ("missing", "dst", "missing: No such file or directory"),
        ("src", "missing/dst", "missing/dst: No such file or directory"),
        ("src", "src", "are the same file"),
        ("src", "fifo", "fifo' is no regular file"),
        ("fifo", "dst", "fifo' is no regular file"),
        ("src", "src/dst", "src/dst: Not a directory"),
        ("folder", "src", "src: File exists"),
        ("folder", "folder/inner", "lies in"),
        ("folder", "folder", "lies in"),
    ):
        done = cp(tmp_path / src, tmp_path / dst)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, (src, dst, done.stderr)
        assert done.stdout == ""
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "src"]
    assert (tmp_path / "src").read_bytes() == b"data" and os.listdir(tmp_path / "folder") == []


def test_usage() -> None:
    for wrong in ((), ("one",), ("one", "two", "--nonsense"), ("one", "two", "three")):
        done = cp(*wrong)
        assert done.returncode == 2 and "usage:" in done.stderr
    shown = cp("--help")
    assert shown.returncode == 0 and "--resume" in shown.stdout and "exit status" in shown.stdout


# -- copies that end early -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--verify",), ("--direct",)], ids=" ".join)
def test_killed_and_resumed(tmp_path: Path, options: tuple[str, ...]) -> None:
    src, dst = large_file(tmp_path / "src"), tmp_path / "dst"
    process = start(src, dst, *options)
    part = wait_for_part(process, tmp_path, 20_000_000)
    wait_for_writes(process, part, 20_000_000)
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    assert part.exists() and not dst.exists()
    done = cp(src, dst, "--resume", *options)
    assert done.returncode == 0, done.stderr
    resumed = re.search(r"goes on at byte (\d+) of 300000000; what was there is equal", done.stderr)
    assert resumed and int(resumed[1]) > 1_000_000, done.stderr
    assert same(src, dst) and sorted(os.listdir(tmp_path)) == ["dst", "src"]


def test_killed_many_times(tmp_path: Path) -> None:
    """Each run goes a little further; whenever it is killed, no target is there, and in the end it is the source's equal."""
    src, dst = large_file(tmp_path / "src", 200_000_000), tmp_path / "dst"
    reached = 0
    for size in (1, 30_000_000, 60_000_000, 90_000_000, 120_000_000):
        process = start(src, dst, "--resume")
        part = wait_for_part(process, tmp_path, size)
        # Equal so far, and more is being written.
        process.send_signal(signal.SIGCONT)
        while part.stat().st_blocks * 512 < size:
            assert process.poll() is None
        stop(process, part)
        process.kill()
        process.communicate()
        assert not dst.exists()
        reached = max(reached, part.stat().st_size)
    assert reached >= 120_000_000
    done = cp(src, dst, "--resume", "--verify")
    assert done.returncode == 0 and "goes on at byte" in done.stderr, done.stderr
    assert same(src, dst) and not parts_in(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_and_resumed(tmp_path: Path, number: signal.Signals, status: int) -> None:
    src, dst = large_file(tmp_path / "src"), tmp_path / "dst"
    process = start(src, dst, "--verify")
    part = wait_for_part(process, tmp_path, 20_000_000)
    process.send_signal(number)
    code, errors = end(process)
    assert code == status, errors
    assert f"{part}: the partial copy stays; the same command with --resume goes on with it" in errors
    assert "Traceback" not in errors and part.exists() and not dst.exists()
    # Without --resume a copy begins anew, with the same partial file.
    process = start(src, dst, "--verify")
    wait_for_writes(process, part, 1_000_000)
    process.send_signal(number)
    assert end(process)[0] == status
    done = cp(src, dst, "--resume")
    assert done.returncode == 0 and same(src, dst) and not parts_in(tmp_path)


def test_a_folder_interrupted_and_resumed(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "src")
    for number in range(4):
        large_file(src / f"large {number}", 60_000_000)
    process = start(src, tmp_path / "dst")
    wait_for_part(process, tmp_path / "dst", 10_000_000)
    process.send_signal(signal.SIGINT)
    code, errors = end(process)
    assert code == 130 and "the partial copy stays" in errors
    done = cp(src, tmp_path / "dst", "--resume", "--verify")
    assert done.returncode == 0 and re.search("[0-9]+ had been copied before", done.stdout), done.stdout
    assert trees_are_equal(src, tmp_path / "dst")


def test_a_folder_is_its_owners_until_all_is_in_it(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    large_file(src / "large")
    src.chmod(0o750)
    process = start(src, tmp_path / "dst")
    wait_for_part(process, tmp_path / "dst")
    assert stat.S_IMODE((tmp_path / "dst").stat().st_mode) == 0o700
    assert end(process)[0] == 0
    assert stat.S_IMODE((tmp_path / "dst").stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="needs program: root, to own files of two users")
def test_what_runs_as_its_owner_does_not_run_as_who_copies_it(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(b"#!")
    for owner, group, there, mode in (
        (1234, 2345, False, 0o755),
        (0, 2345, False, 0o4755),
        (1234, 0, False, 0o2755),
        (0, 0, False, 0o6755),
        (1234, 2345, True, 0o755),
    ):
        os.chown(src, owner, group)
        src.chmod(0o6755)
        dst = tmp_path / "dst"
        dst.unlink(missing_ok=True)
        if there:
            dst.touch()
        assert cp(src, dst).returncode == 0
        assert stat.S_IMODE(dst.stat().st_mode) == mode, (owner, group)


def test_a_complete_copy_that_cannot_get_its_name_stays(tmp_path: Path) -> None:
    src, dst = large_file(tmp_path / "src"), tmp_path / "dst"
    process = start(src, dst)
    part = wait_for_part(process, tmp_path)
    dst.mkdir()
    code, errors = end(process)
    assert code == 1 and "Is a directory" in errors and "the partial copy stays" in errors, errors
    assert same(src, part)
    dst.rmdir()
    done = cp(src, dst, "--resume")
    assert done.returncode == 0 and f"goes on at byte {LARGE // 4096 * 4096}" in done.stderr, done.stderr
    assert same(src, dst) and not parts_in(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs program: root, to make files for another user")
def test_a_file_system_that_gives_all_files_to_one_user(tmp_path: Path) -> None:
    """As vfat mounted with uid=1234. Here the process does that itself, by setfsuid(2)."""
    src = tmp_path / "src"
    src.write_bytes(b"data" * 1000)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, 1234, -1)
    for above in folder.parents:
        if above != Path("/") and above.stat().st_uid == 0 and not above.stat().st_mode & stat.S_ISVTX:
            above.chmod(above.stat().st_mode | 0o055)
    program = "import concurrent.futures.thread, ctypes, sys, aiouring.__main__ as us; ctypes.CDLL(None).setfsuid(1234); sys.exit(us.main())"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program, "cp", str(src), str(folder / "dst")], capture_output=True, text=True, env=support.child_environment()
        )
        assert done.returncode == 0, done.stderr
        assert same(src, folder / "dst") and (folder / "dst").stat().st_uid == 1234
    assert os.listdir(folder) == ["dst"]


def test_names_do_nothing_to_the_terminal(tmp_path: Path) -> None:
    """They may have line feeds and escape sequences in them."""
    name = "a\x1b[31mb\nc\x9b"
    os.mkfifo(tmp_path / name)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / name)
    for src in (tmp_path / name, tmp_path / f"missing{name}", tmp_path / "folder"):
        done = cp(src, tmp_path / "dst")
        assert done.returncode == 1
        assert r"a\x1b[31mb\x0ac" in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1 and not set(done.stderr[:-1]) & {"\x1b", "\n", "\x9b"}, done.stderr


def interrupted_part(src: Path, dst: Path, size: int = 20_000_000) -> Path:
    process = start(src, dst)
    part = wait_for_part(process, dst.parent, size)
    process.kill()
    process.communicate()
    return part


@pytest.mark.parametrize("at", [0, 5_000_000, 12_345_678])
def test_a_part_that_is_not_equal_is_copied_again_from_there(tmp_path: Path, at: int) -> None:
    src, dst = large_file(tmp_path / "src", 100_000_000), tmp_path / "dst"
    part = interrupted_part(src, dst)
    with open(part, "r+b") as file:
        file.seek(at)
        file.write(bytes(byte ^ 1 for byte in src.read_bytes()[at : at + 3]))
    done = cp(src, dst, "--resume", "--verify")
    assert done.returncode == 0, done.stderr
    assert ("goes on at byte" in done.stderr) is (at >= 4096)
    if at >= 4096:
        assert f"goes on at byte {at // 4096 * 4096} of" in done.stderr
    assert same(src, dst)


def test_a_source_that_changed_since_is_copied_anew(tmp_path: Path) -> None:
    src, dst = large_file(tmp_path / "src", 100_000_000), tmp_path / "dst"
    part = interrupted_part(src, dst)
    with open(src, "r+b") as file:
        file.write(b"changed")
    done = cp(src, dst, "--resume")
    assert done.returncode == 0
    assert f"{part}: not used" in done.stderr and "goes on at" not in done.stderr
    assert same(src, dst)


def test_a_source_that_changes_meanwhile_is_no_copy(tmp_path: Path) -> None:
    src, dst = large_file(tmp_path / "src"), tmp_path / "dst"
    dst.write_bytes(b"old")

    def grow() -> None:
        with src.open("ab") as file:
            file.write(b"more")

    changes: list[Callable[[], None]] = [lambda: os.truncate(src, 1000), grow, lambda: os.utime(src, ns=(1, 1))]
    for change in changes:
        large_file(src)
        process = start(src, dst)
        wait_for_part(process, tmp_path)
        change()
        code, errors = end(process)
        assert code == 1 and f"{src}: changed while it was copied" in errors, errors
        assert dst.read_bytes() == b"old" and not parts_in(tmp_path)


def test_two_copies_of_the_same(tmp_path: Path) -> None:
    src, dst = large_file(tmp_path / "src"), tmp_path / "dst"
    first = start(src, dst, "--verify")
    wait_for_part(first, tmp_path, 1_000_000)
    second = cp(src, dst)
    assert second.returncode == 1 and "another process is copying it" in second.stderr, second.stderr
    assert end(first)[0] == 0
    assert same(src, dst)


def test_something_in_the_way_of_the_part(tmp_path: Path) -> None:
    src, dst = large_file(tmp_path / "src", 100_000_000), tmp_path / "dst"
    part = interrupted_part(src, dst)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for put in (part.symlink_to, lambda target: os.link(target, part), lambda target: os.mkfifo(part)):
        part.unlink()
        put(precious)
        done = cp(src, dst, "--resume")
        assert done.returncode == 1 and done.stderr, done.stderr
        assert precious.read_bytes() == b"precious" and not dst.exists()


# -- disks ----------------------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_and_then_a_larger_one(tmp_path: Path) -> None:
    src = large_file(tmp_path / "src", 50_000_000)
    with small_disk(tmp_path / "disk", 20_000_000) as disk:
        done = cp(src, disk / "dst")
        assert done.returncode == 1
        assert f"cp: {disk / 'dst'}: No space left on device" in done.stderr
        assert "the partial copy stays" in done.stderr and not (disk / "dst").exists()
        subprocess.run(["mount", "-o", "remount,size=80000000", str(disk)], check=True)
        done = cp(src, disk / "dst", "--resume", "--verify")
        assert done.returncode == 0 and "goes on at byte" in done.stderr, done.stderr
        assert same(src, disk / "dst") and os.listdir(disk) == ["dst"]


def test_a_disk_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"data")
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = cp(tmp_path / "src", disk / "dst")
        assert done.returncode == 1 and f"cp: {disk / 'dst'}: Read-only file system" in done.stderr


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    src = large_file(tmp_path / "src", 10_000_000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    done = cp(src, tmp_path / "dst", preexec_fn=limit)
    assert done.returncode == 1 and f"cp: {tmp_path / 'dst'}: File too large" in done.stderr, done.stderr
    assert not (tmp_path / "dst").exists()
    assert cp(src, tmp_path / "dst", "--resume").returncode == 0 and same(src, tmp_path / "dst")


def test_a_disk_that_gives_back_something_else(tmp_path: Path) -> None:
    """The bytes of the partial file are changed behind the copy's back, before it reads them again."""
    src = large_file(tmp_path / "src", 10_000_000)
    program = """
import sys
import aiouring.parts
from aiouring.__main__ import main

real = aiouring.parts.checksum_on_disk

def on_a_bad_disk(stop, part, fd):
    with open(part, "r+b") as file:
        file.seek(5_000_000)
        file.write(b"!")
    return real(stop, part, fd)

aiouring.parts.checksum_on_disk = on_a_bad_disk
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "cp", str(src), str(tmp_path / "dst"), "--verify"], capture_output=True, text=True,
        env=support.child_environment(), timeout=60,
    )  # fmt: skip
    assert done.returncode == 3 and "is not what was read" in done.stderr, done.stderr
    assert os.listdir(tmp_path) == ["src"]


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    with open(src, "wb") as file:
        file.seek(100_000_000)
        file.write(b"end")
        file.truncate(150_000_000)
    for options in ((), ("--verify",), ("--direct",)):
        assert cp(src, dst, *options).returncode == 0
        assert same(src, dst) and dst.stat().st_blocks * 512 < 1_000_000


# -- what is shown ----------------------------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """The exit status, and what a terminal shows of standard error."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=secondary, env=support.child_environment(TERM="xterm", COLUMNS="120", **environment)
    ) as process:
        os.close(secondary)
        shown = b""
        with open(primary, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
            while piece := terminal.read(65536):
                shown += piece
    return process.returncode, shown.decode(errors="replace")


def test_a_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    src = large_file(tmp_path / "a name", 100_000_000)
    status, shown = on_a_terminal(src, tmp_path / "dst", "--verify")
    assert status == 0
    assert "'a name'" in shown and "100.0" not in shown.splitlines()[0] and "━" in shown and "MiB" in shown
    status, shown = on_a_terminal(src, tmp_path / "dst", "--quiet")
    assert (status, shown) == (0, "")


def test_plain_lines_without_rich(tmp_path: Path) -> None:
    """The import of rich fails, as where it is not installed."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'rich' else find(name, *rest)\n"
        "import sys\nsys.modules['rich'] = None\n"
    )
    src = large_file(tmp_path / "src")
    path = os.pathsep.join([str(tmp_path / "hidden"), str(support.REPOSITORY)])
    status, shown = on_a_terminal(src, tmp_path / "dst", "--verify", PYTHONPATH=path)
    assert status == 0 and "━" not in shown
    for line in shown.splitlines():
        assert re.fullmatch(r" *[0-9.]+ %  [0-9.]+ \w+ of 286\.1 MiB, [0-9.]+ \w+/s", line), line
    assert same(src, tmp_path / "dst")
