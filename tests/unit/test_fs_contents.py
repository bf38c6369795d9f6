"""Whole files: read_bytes and write_bytes, text, the atomic way, and what happens when the disk is full or the call is cancelled."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import fs, parts
from aiouring.executor import open_in_executor, stoppable

from .files import cancel_at_each_wait, close_at_each_wait, names_in, slots_in_use, small_disk, until

SIZES = [0, 1, 4095, 16383, 16384, 16385, 65535, 65536, 65537, 262_144, 1_048_576, 1_048_577, 5_000_011]


@pytest.mark.parametrize("size", SIZES)
async def test_bytes_of_every_size(tmp_path: Path, rng: random.Random, size: int) -> None:
    data = rng.randbytes(size)
    path = tmp_path / "file"
    for atomic in (False, True):
        assert await fs.write_bytes(path, data, atomic=atomic) == size
        assert path.read_bytes() == data
        read = await fs.read_bytes(path)
        assert read == data and type(read) is bytes
    assert names_in(tmp_path) == {"file"}


async def test_files_whose_size_says_nothing() -> None:
    assert await fs.read_bytes("/proc/self/cmdline") == Path("/proc/self/cmdline").read_bytes()
    maps = await fs.read_bytes("/proc/self/maps")
    assert len(maps) > 16384 and maps.endswith(b"\n") and b"[stack]" in maps
    assert await fs.read_bytes("/dev/null") == b""


async def test_ten_thousand_files_at_once(tmp_path: Path) -> None:
    """More than there may be descriptors: the calls take turns."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        for number in range(100):
            (tmp_path / str(number)).write_bytes(b"%d" % number * 1000)
        calls = [fs.read_bytes(tmp_path / str(number % 100)) for number in range(10_000)]
        read = await asyncio.gather(*calls)
        assert all(data == b"%d" % (number % 100) * 1000 for number, data in enumerate(read))
        await asyncio.gather(*(fs.write_bytes(tmp_path / f"new{number}", b"%d" % number) for number in range(500)))
        assert all((tmp_path / f"new{number}").read_bytes() == b"%d" % number for number in range(500))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert slots_in_use() == 0


async def test_calls_in_line_can_be_cancelled(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "file").write_bytes(b"contents")
    # These take all the places and do not end.
    stuck = [asyncio.ensure_future(fs.read_bytes(fifo)) for _ in range(64)]
    waiting = [asyncio.ensure_future(fs.read_bytes(tmp_path / "file")) for _ in range(10)]
    await until(lambda: slots_in_use() >= 64)
    assert not any(task.done() for task in waiting)
    waiting[3].cancel()
    stuck[5].cancel()
    assert isinstance((await asyncio.gather(waiting[3], return_exceptions=True))[0], asyncio.CancelledError)
    for index, task in enumerate(waiting):
        if index != 3:
            assert await task == b"contents"
    for task in stuck:
        task.cancel()
    ended = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in ended)
    assert slots_in_use() == 0


async def test_a_fifo_is_read_to_its_writers_end(tmp_path: Path, rng: random.Random) -> None:
    """As open() does, the call waits for a writer first."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    data = rng.randbytes(300_000)
    begun = threading.Event()

    def write() -> None:
        begun.wait()
        with open(fifo, "wb", buffering=0) as file:
            for start in range(0, len(data), 7919):
                file.write(data[start : start + 7919])

    writer = threading.Thread(target=write)
    writer.start()
    reading = asyncio.ensure_future(fs.read_bytes(fifo))
    await until(lambda: slots_in_use() == 1)
    begun.set()
    assert await reading == data
    writer.join()


@pytest.mark.parametrize("data", [b"", b"short"])
async def test_a_fifo_whose_writer_has_come_and_gone(tmp_path: Path, data: bytes) -> None:
    """Before the call has noticed that there was none at first."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for turns in range(8):
        reading = asyncio.ensure_future(fs.read_bytes(fifo))
        for _ in range(turns):
            await asyncio.sleep(0)
        while True:
            try:
                fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                await asyncio.sleep(0)
            else:
                break
        os.write(fd, data)
        os.close(fd)
        assert await reading == data


async def test_a_read_is_cancelled_at_each_wait(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "file"
    path.write_bytes(rng.randbytes(3_000_000))

    def check(cancelled: bool) -> None:
        assert slots_in_use() == 0

    assert await cancel_at_each_wait(lambda: fs.read_bytes(path), check) == 1
    task = asyncio.ensure_future(fs.read_bytes(path))
    for _ in range(5):  # somewhere between its pieces
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slots_in_use() == 0


async def test_a_read_coroutine_is_closed_at_each_wait(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)

    async def check() -> None:
        await until(lambda: slots_in_use() == 0)

    await close_at_each_wait(lambda: fs.read_bytes(path), check)


async def test_text_as_open_reads_and_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "text"
    text = "one\ntwo\r\nthree\rfour äöü €\n"
    for encoding in ("utf-8", "utf-16", "latin-1"):
        for newline in (None, "", "\n", "\r\n"):
            for atomic in (False, True):
                errors = "replace" if encoding == "latin-1" else None
                assert await fs.write_text(path, text, encoding, errors, newline, atomic=atomic) == len(text)
                written = path.read_bytes()
                with open(path, "w", encoding=encoding, errors=errors, newline=newline) as file:
                    file.write(text)
                assert written == path.read_bytes()
                with open(path, encoding=encoding, newline=newline) as file:
                    expected = file.read()
                assert await fs.read_text(path, encoding, newline=newline) == expected
    with pytest.raises(TypeError, match="data must be str, not bytes"):
        await fs.write_text(path, b"bytes")
    with pytest.raises(UnicodeEncodeError):
        await fs.write_text(path, "€", "ascii")
    with pytest.raises(LookupError):
        await fs.read_text(path, "nonsense")
    path.write_bytes(b"\xff\xff")
    with pytest.raises(UnicodeDecodeError):
        await fs.read_text(path, "utf-8")


async def test_what_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), memoryview(b"every other")[::2]):
        assert await fs.write_bytes(path, data) == len(bytes(data))
        assert path.read_bytes() == bytes(data)
    for nothing in ("str", 5, None):
        with pytest.raises(TypeError):
            await fs.write_bytes(path, nothing)
    assert path.read_bytes() == b"eeyohr"  # and it was not truncated


async def test_a_new_file_has_the_mode_that_open_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        await fs.write_bytes(tmp_path / "plain", b"")
        await fs.write_bytes(tmp_path / "atomic", b"", atomic=True)
    finally:
        os.umask(before)
    for name in ("plain", "atomic"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


# -- atomic ------------------------------------------------------------------------------------------------------------------------------


async def test_the_old_file_is_there_whole_until_the_new_one_is(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "file"
    contents = [rng.randbytes(400_000) for _ in range(2)]
    path.write_bytes(contents[0])
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(40):
        await fs.write_bytes(path, contents[number % 2], atomic=True)
    stop.set()
    watcher.join()
    assert seen <= set(contents)


async def test_mode_and_owner_of_the_old_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    root = os.geteuid() == 0
    for mode in (0o600, 0o640, 0o666, 0o755, 0o4755 if root else 0o755):
        if root:
            os.chown(path, 1234, 2345)
        path.chmod(mode)
        await fs.write_bytes(path, b"new", atomic=True)
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == mode
        assert (found.st_uid, found.st_gid) == ((1234, 2345) if root else (os.getuid(), os.getgid()))
        assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs program: root, to own files of two users")
async def test_another_users_file_is_replaced_without_its_rights(open_folder: Path) -> None:
    """Whoever may write to the folder may replace the file, but not in its owner's name."""
    path = open_folder / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    path.chmod(0o6755)
    await asyncio.to_thread(os.getpid)  # what that imports, another user may not read
    os.seteuid(65534)
    try:
        await fs.write_bytes(path, b"new", atomic=True)
    finally:
        os.seteuid(0)
    found = path.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (65534, 0o755)
    assert path.read_bytes() == b"new"


async def test_a_symbolic_link_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("folder/other link")
    (tmp_path / "folder" / "other link").symlink_to("file")
    await fs.write_bytes(tmp_path / "link", b"new", atomic=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "other link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"new"
    (tmp_path / "broken").symlink_to("folder/made by it")
    await fs.write_bytes(tmp_path / "broken", b"new too", atomic=True)
    assert (tmp_path / "folder" / "made by it").read_bytes() == b"new too"
    assert names_in(tmp_path / "folder") == {"file", "other link", "made by it"}


async def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, error, number in (
        (tmp_path, IsADirectoryError, errno.EISDIR),
        (fifo, OSError, errno.EINVAL),
        ("/dev/null", OSError, errno.EINVAL),
        (tmp_path / "missing" / "file", FileNotFoundError, errno.ENOENT),
        (fifo / "file", NotADirectoryError, errno.ENOTDIR),
        (tmp_path / ("n" * 256), OSError, errno.ENAMETOOLONG),
    ):
        with pytest.raises(error) as caught:
            await fs.write_bytes(path, b"data", atomic=True)
        assert caught.value.errno == number and caught.value.filename == str(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert names_in(tmp_path) == {"fifo"}


async def test_names_of_every_kind(tmp_path: Path) -> None:
    for name in ("n" * 255, "ä" * 127, "with space", "-", ".hidden", "new\nline"):
        await fs.write_bytes(tmp_path / name, b"data", atomic=True)
        assert (tmp_path / name).read_bytes() == b"data"
    raw = os.fsencode(tmp_path) + b"/\xff\xfe" + b"\xe4" * 250
    await fs.write_bytes(raw, b"data", atomic=True)
    assert await fs.read_bytes(raw) == b"data"
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        await fs.write_bytes("relative", b"data", atomic=True)
        await fs.write_bytes(b"relative bytes", b"data", atomic=True)
    finally:
        os.chdir(here)
    assert (tmp_path / "relative").read_bytes() == (tmp_path / "relative bytes").read_bytes() == b"data"
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("again", [False, True])
async def test_an_atomic_write_is_cancelled_at_each_wait(tmp_path: Path, again: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o666)
    data = b"new" * 500_000

    def check(cancelled: bool) -> None:
        assert names_in(tmp_path) == {"file"}
        assert path.read_bytes() in (b"old", data) if cancelled else path.read_bytes() == data
        assert slots_in_use() == 0
        path.write_bytes(b"old")

    assert await cancel_at_each_wait(lambda: fs.write_bytes(path, data, atomic=True), check, again=again) >= 8


async def test_an_atomic_write_is_closed_at_each_wait(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    async def check() -> None:
        await until(lambda: slots_in_use() == 0)
        assert names_in(tmp_path) == {"file"}
        assert path.read_bytes() in (b"old", b"new")

    await close_at_each_wait(lambda: fs.write_bytes(path, b"new", atomic=True), check)


async def test_a_plain_write_is_cancelled_at_each_wait(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def check(cancelled: bool) -> None:
        assert slots_in_use() == 0

    assert await cancel_at_each_wait(lambda: fs.write_bytes(path, b"data"), check) == 3


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_full_disk(tmp_path: Path, atomic: bool) -> None:
    with small_disk(tmp_path / "disk", 1024 * 1024) as disk:
        path = disk / "file"
        path.write_bytes(b"old")
        with pytest.raises(OSError) as caught:
            await fs.write_bytes(path, b"x" * 3_000_000, atomic=atomic)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
        assert names_in(disk) == {"file"}
        if atomic:
            assert path.read_bytes() == b"old"
            assert await fs.write_bytes(path, b"y" * 900_000, atomic=True) == 900_000  # the temporary file's room is free again
            assert path.read_bytes() == b"y" * 900_000


def run_program(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(source), *arguments], capture_output=True, text=True, timeout=60)


def test_a_file_larger_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file.large").write_bytes(bytes(3_000_000))
    done = run_program(
        """
        import errno, resource, signal, sys
        import aiouring
        from aiouring import fs

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        async def main(path):
            for call in (fs.write_bytes(path, b"x" * 150_000, atomic=True), fs.copyfile(path + ".large", path)):
                try:
                    await call
                except OSError as error:
                    assert error.errno == errno.EFBIG and error.filename == path, error
                else:
                    raise AssertionError("it was written")

        aiouring.run(main(sys.argv[1]))
        """,
        str(tmp_path / "file"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == b"old" and names_in(tmp_path) == {"file", "file.large"}


async def test_dev_full() -> None:
    with pytest.raises(OSError) as caught:
        await fs.write_bytes("/dev/full", b"data")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "/dev/full"


# -- loops -------------------------------------------------------------------------------------------------------------------------------


def test_a_loop_that_is_closed_with_calls_in_flight(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "file").write_bytes(b"x" * 5_000_000)
    before = set(os.listdir("/proc/self/fd"))
    for turns in range(12):
        loop = aiouring.new_event_loop()

        async def begin(loop: asyncio.AbstractEventLoop = loop, turns: int = turns) -> list[asyncio.Task[Any]]:
            calls: list[Coroutine[Any, Any, Any]] = [
                fs.read_bytes(fifo), fs.read_bytes(tmp_path / "file"), fs.stat(tmp_path), fs.getxattr(tmp_path / "file", "user.none"),
            ]  # fmt: skip
            tasks = [loop.create_task(call) for call in calls]
            for _ in range(turns):
                await asyncio.sleep(0)
            return tasks

        tasks = loop.run_until_complete(begin())
        loop.close()
        for task in tasks:
            task._log_destroy_pending = False
            if task.done() and not task.cancelled():
                task.exception()
        del tasks, task, loop, begin
        import gc

        gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_loop_that_moves_to_another_thread(tmp_path: Path) -> None:
    """What can be asked again is; what cannot says that nobody knows. Nothing hangs, and the bytes are right."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 20_000)
    loop = aiouring.new_event_loop()
    calls: list[asyncio.Task[Any]] = []

    async def begin() -> None:
        for number in range(20):
            calls.append(loop.create_task(fs.read_bytes(tmp_path / "file")))
            calls.append(loop.create_task(fs.stat(tmp_path / "file")))
            calls.append(loop.create_task(fs.mkdir(tmp_path / f"folder {number}")))
        await asyncio.sleep(0)

    async def end() -> list[Any]:
        return await asyncio.gather(*calls, return_exceptions=True)

    answers: list[Any] = []
    loop.run_until_complete(begin())
    other = threading.Thread(target=lambda: answers.extend(loop.run_until_complete(end())))
    other.start()
    other.join()
    for number in range(20):
        data, found, made = answers[3 * number : 3 * number + 3]
        assert data == (tmp_path / "file").read_bytes()
        assert found.st_size == 256 * 20_000
        assert made is None or (isinstance(made, OSError) and made.errno == errno.ECANCELED and str(number) in str(made.filename))
        if made is None:
            assert (tmp_path / f"folder {number}").is_dir()
    loop.close()


def test_a_forked_child_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")

    async def main() -> None:
        assert await fs.read_bytes(tmp_path / "file") == b"data"
        child = os.fork()
        if child == 0:
            status = 1
            try:
                await fs.stat(tmp_path)
            except RuntimeError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert await fs.read_bytes(tmp_path / "file") == b"data"

    aiouring.run(main())


def state_of(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(") ")[2][0]


def is_waiting_worker(thread: Path) -> bool:
    try:
        if not (thread / "comm").read_text().startswith("iou-wrk"):
            return False
        return "io_wq" not in (thread / "wchan").read_text() and state_of(thread) == "S"
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended since it was listed


def test_a_process_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """As by Ctrl-Z and fg. It interrupts what waits in the kernel's workers, which begin it again: opening a pipe that nobody reads yet."""
    os.mkfifo(tmp_path / "fifo")
    program = textwrap.dedent("""
        import asyncio, sys, aiouring
        async def write():
            async with aiouring.open(sys.argv[1], "wb") as file:
                await file.write(b"open")
        async def main():
            await asyncio.gather(aiouring.fs.write_bytes(sys.argv[1], b"call"), write())
        aiouring.run(main())
    """)
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "fifo")], stderr=subprocess.PIPE)
    threads = Path(f"/proc/{child.pid}/task")

    try:
        while sum(map(is_waiting_worker, threads.iterdir())) < 2:
            assert child.poll() is None
        for _ in range(3):
            child.send_signal(signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            child.send_signal(signal.SIGCONT)
            while state_of(threads / str(child.pid)) == "T":
                pass
        reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors.decode()
        assert sorted([os.read(reading, 4), os.read(reading, 4)]) == [b"call", b"open"]
        os.close(reading)
    finally:
        child.kill()
        child.wait()


async def test_long_work_in_a_thread_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """As the reading of a large file that was copied, or the listing of a large tree."""
    begun = threading.Event()

    def work(stop: threading.Event, *, patience_s: float) -> bool:
        begun.set()
        return stop.wait(patience_s)

    task = asyncio.ensure_future(stoppable(work, patience_s=3600))
    await until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stoppable(work, patience_s=0) is False

    (tmp_path / "file").write_bytes(bytes(3_000_000))
    stop, go_on = threading.Event(), threading.Event()
    stop.set()
    whole = hashlib.sha256(bytes(3_000_000)).hexdigest()
    with open(tmp_path / "file", "rb+") as file:
        os.fsync(file.fileno())
        assert parts.checksum_on_disk(go_on, str(tmp_path / "file"), file.fileno()) == whole
        assert parts.checksum_on_disk(stop, str(tmp_path / "file"), file.fileno()) != whole
    assert parts.same_bytes(go_on, str(tmp_path / "file"), str(tmp_path / "file"))
    assert not parts.same_bytes(stop, str(tmp_path / "file"), str(tmp_path / "file"))


def test_a_descriptor_of_a_call_that_is_closed_in_the_executor(tmp_path: Path) -> None:
    """On another loop than ours. The coroutine is gone when the thread has opened the file: nobody but the thread's future can close it."""

    async def main() -> None:
        await asyncio.to_thread(os.getpid)
        before = names_in(Path("/proc/self/fd"))
        for _ in range(10):
            call = open_in_executor(tmp_path, os.O_RDONLY, 0, None)
            call.send(None)
            call.close()
        await asyncio.get_running_loop().shutdown_default_executor()
        await until(lambda: names_in(Path("/proc/self/fd")) == before)

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), 30))
    finally:
        loop.close()


def test_everything_works_on_asyncios_own_loop(tmp_path: Path) -> None:
    """By the executor alone."""

    async def main() -> None:
        path = tmp_path / "file"
        assert await fs.write_bytes(path, b"data" * 1000, atomic=True) == 4000
        assert await fs.write_bytes(path, b"data") == 4
        assert await fs.read_bytes(path) == b"data"
        assert (await fs.stat(path)).st_size == 4
        await fs.setxattr(path, "user.a", b"value")
        assert await fs.getxattr(path, "user.a") == b"value"
        await fs.link(path, tmp_path / "hard")
        await fs.symlink("file", tmp_path / "soft")
        await fs.rename(tmp_path / "hard", tmp_path / "renamed")
        await fs.replace(tmp_path / "renamed", tmp_path / "replaced")
        await fs.truncate(path, 2)
        await fs.makedirs(tmp_path / "x" / "y")
        with pytest.raises(FileExistsError):
            await fs.mkdir(tmp_path / "x")
        calls: list[tuple[int, int]] = []
        (tmp_path / "x" / "large").write_bytes(os.urandom(20_000_000))
        await fs.copyfile(tmp_path / "x" / "large", tmp_path / "x" / "copy", progress=lambda done, total: calls.append((done, total)))
        assert (tmp_path / "x" / "large").read_bytes() == (tmp_path / "x" / "copy").read_bytes()
        assert calls[0] == (0, 20_000_000) and calls[-1] == (20_000_000, 20_000_000)
        await fs.copytree(tmp_path / "x", tmp_path / "z")
        assert names_in(tmp_path / "z") == {"large", "copy", "y"}
        await fs.rmtree(tmp_path / "z")
        await fs.rmdir(tmp_path / "x" / "y")
        await fs.unlink(tmp_path / "x" / "copy")
        assert [name async for name, _, _ in fs.walk(tmp_path)] == [str(tmp_path), str(tmp_path / "x")]
        assert sorted([entry.name async for entry in fs.scandir(tmp_path)]) == ["file", "replaced", "soft", "x"]

        def check(cancelled: bool) -> None:
            assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]

        await cancel_at_each_wait(lambda: fs.write_bytes(path, b"data" * 1000, atomic=True), check)

    asyncio.run(main())


async def test_a_call_that_is_never_awaited_says_so(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        fs.stat(tmp_path)  # type: ignore[unused-coroutine]
    from aiouring import _fsop, _readfile

    for make in (lambda: _fsop.stat(tmp_path, None, True), lambda: _readfile.read_bytes(tmp_path), lambda: _fsop.getxattr(tmp_path, "user.a")):
        with pytest.warns(RuntimeWarning, match="never awaited"):
            make()


async def test_a_keyboard_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        run_program,
        """
        import asyncio, os, signal, sys
        import aiouring
        from aiouring import fs

        async def main(path):
            task = asyncio.ensure_future(fs.write_bytes(path, b"x" * 50_000_000, atomic=True))
            while not any(name.endswith(".tmp") for name in os.listdir(os.path.dirname(path))):
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            await task

        try:
            aiouring.run(main(sys.argv[1]))
        except KeyboardInterrupt:
            print(os.listdir(os.path.dirname(sys.argv[1])))
        """,
        str(tmp_path / "file"),
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="needs python: before 3.12, where None counts its references")
async def test_calls_leave_no_references(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    calls: list[Any] = [
        lambda: fs.stat(path), lambda: fs.read_bytes(path), lambda: fs.write_bytes(path, b"data"), lambda: fs.copyfile(path, tmp_path / "copy"),
        lambda: fs.write_bytes(path, b"data", atomic=True), lambda: fs.setxattr(path, "user.a", b"value"), lambda: fs.getxattr(path, "user.a"),
        lambda: fs.makedirs(tmp_path / "a" / "b", exist_ok=True), lambda: fs.exists(tmp_path / "missing"),
    ]  # fmt: skip
    for call in calls:
        await call()
        before = sys.getrefcount(None)
        for _ in range(200):
            await call()
        assert abs(sys.getrefcount(None) - before) < 100
