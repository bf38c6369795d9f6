"""aiouring.open where things go wrong in earnest: full disks, limits, devices, files that change meanwhile, descriptors that are closed under a file,
thousands of files.

What an error is, what is written by then and what is still there afterwards is compared with the built-in open wherever that can have the same fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import pty
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring

from .files import slots_in_use, small_disk, until
from .open_files import BIG, BLOCK, CONTENT, called, came_to, finished

Loop = Any


@pytest.fixture
def two_small_disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two file systems of 256 KiB: one for the built-in."""
    with small_disk(tmp_path / "theirs", 256 << 10) as theirs, small_disk(tmp_path / "ours", 256 << 10) as ours:
        yield theirs, ours


# --- full disks


@pytest.mark.parametrize(
    ("mode", "buffering"), [("wb", 0), ("wb", -1), ("wb", 100), ("wb", 300_000), ("ab", -1), ("w+b", -1), ("w", -1), ("w", 1), ("w+", 5000)]
)
def test_a_disk_that_gets_full(mode: str, buffering: int, loop: Loop, two_small_disks: tuple[Path, Path]) -> None:
    """Write until nothing goes in any more, make room, and go on: at each step the same as with the built-in, to the last byte."""
    theirs, ours = (folder / "file" for folder in two_small_disks)
    for folder in two_small_disks:
        (folder / "filler").write_bytes(b"f" * (100 << 10))
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8"}
    pieces: list[Any] = [BLOCK[:100], BLOCK, BLOCK[:5000], BLOCK, BLOCK, BLOCK[:100], BLOCK]
    if text:
        pieces = [piece.decode() + "\n" for piece in pieces]

    async def main() -> None:
        with open(theirs, mode, buffering, **text) as their_file:
            our_file = await aiouring.open(ours, mode, buffering, **text)
            seen = set()
            for room_is_made in (False, True):
                for piece in pieces if not room_is_made else pieces[:1]:
                    expected = came_to(their_file.write, piece)
                    assert await finished(our_file.write(piece)) == expected
                    seen.add(expected)
                    assert ours.read_bytes() == theirs.read_bytes()
                if not room_is_made:
                    expected = came_to(their_file.flush)
                    assert await finished(our_file.flush()) == expected
                    seen.add(expected)
                    assert ours.read_bytes() == theirs.read_bytes()
                    for folder in two_small_disks:
                        (folder / "filler").unlink()
            assert ("raised", OSError, errno.ENOSPC) in seen
            # What the buffer held back is still there, and goes out now that there is room.
            expected = came_to(their_file.close)
            assert await finished(our_file.close()) == expected
            assert our_file.closed
            assert ours.read_bytes() == theirs.read_bytes()

    loop.run_until_complete(main())


def test_the_error_names_the_file(loop: Loop, tmp_path: Path) -> None:
    async def main(folder: Path) -> None:
        file = await aiouring.open(folder / "file", "wb", 0)
        with pytest.raises(OSError) as caught:
            while True:
                assert await file.write(BLOCK)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(folder / "file")
        await file.close()

    with small_disk(tmp_path / "disk", 128 << 10) as folder:
        loop.run_until_complete(main(folder))


@pytest.mark.parametrize("mode", ["wb", "w", "w+b"])
def test_a_close_that_cannot_write_says_so_and_closes(mode: str, loop: Loop, two_small_disks: tuple[Path, Path]) -> None:
    theirs, ours = (folder / "file" for folder in two_small_disks)
    data: Any = b"x" * 5000 if "b" in mode else "x" * 5000

    async def main() -> None:
        with open(theirs, mode, 20_000) as their_file:
            our_file = await aiouring.open(ours, mode, 20_000)
            their_file.write(data)
            await our_file.write(data)
            for folder in two_small_disks:
                with open(folder / "filler", "wb") as filler, contextlib.suppress(OSError):
                    filler.write(b"f" * BIG)
            expected = came_to(their_file.close)
            assert expected == ("raised", OSError, errno.ENOSPC)
            fd = our_file.fileno()
            assert await finished(our_file.close()) == expected
            assert our_file.closed and their_file.closed
            with pytest.raises(OSError):
                os.fstat(fd)
            await our_file.close()
            with pytest.raises(ValueError):
                await our_file.write(data)
            assert ours.read_bytes() == theirs.read_bytes()

    loop.run_until_complete(main())


def test_async_with_raises_what_the_close_raises(loop: Loop, tmp_path: Path) -> None:
    async def main(folder: Path) -> None:
        with pytest.raises(OSError) as caught:
            async with aiouring.open(folder / "file", "wb", BIG) as file:
                await file.write(b"x" * (BIG // 2))
        assert caught.value.errno == errno.ENOSPC
        assert file.closed

    with small_disk(tmp_path / "disk", 64 << 10) as folder:
        loop.run_until_complete(main(folder))


def test_calls_by_position_on_a_full_disk(loop: Loop, tmp_path: Path) -> None:
    async def main(folder: Path) -> None:
        async with aiouring.open(folder / "file", "w+b") as file:
            assert await finished(file.pwrite(b"x" * BIG, 0)) == ("raised", OSError, errno.ENOSPC)
            # What there was room for is written, as by a loop of pwrite(2).
            assert (folder / "file").stat().st_size == 64 << 10
            assert await finished(file.pwritev([BLOCK[:5], BLOCK, BLOCK], 64 << 10)) == ("raised", OSError, errno.ENOSPC)
            assert await finished(file.allocate(0, BIG)) == ("raised", OSError, errno.ENOSPC)
            assert await file.pread(BIG, 0) == b"x" * (64 << 10)
            await file.truncate(0)
            assert await file.pwrite(b"y" * 100, 0) == 100
        assert (folder / "file").read_bytes() == b"y" * 100

    with small_disk(tmp_path / "disk", 64 << 10) as folder:
        loop.run_until_complete(main(folder))


# --- the process's limit for files


FSIZE = """
import asyncio, errno, resource, signal, sys
import aiouring

path, how, mode, buffering = sys.argv[1:]
caught = []
if how == "handler":
    signal.signal(signal.SIGXFSZ, lambda number, frame: caught.append(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
data = b"x" * 64_000 if "b" in mode else "x" * 64_000

async def main():
    file = await aiouring.open(path, mode, int(buffering))
    sizes = []
    for call in range(4):
        try:
            sizes.append(await file.write(data))
            await file.flush()
        except OSError as error:
            sizes.append(errno.errorcode[error.errno])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await file.close()
    print(sizes)

aiouring.run(main())
"""


@pytest.mark.parametrize("how", ["ignored", "handler"])
@pytest.mark.parametrize(
    ("mode", "buffering", "sizes", "bytes_in_the_end"),
    [
        ("wb", "0", "[64000, 36000, 'EFBIG', 'EFBIG']", 100_000),
        ("ab", "0", "[64000, 36000, 'EFBIG', 'EFBIG']", 100_000),
    ],
)
def test_a_file_that_may_not_grow(how: str, mode: str, buffering: str, sizes: str, bytes_in_the_end: int, tmp_path: Path) -> None:
    """RLIMIT_FSIZE. Python ignores SIGXFSZ; a program may have its own handler. Neither takes a byte or the process away."""
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", FSIZE, str(path), how, mode, buffering], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sizes
    assert path.read_bytes() == b"x" * bytes_in_the_end


@pytest.mark.parametrize("mode", ["wb", "w", "w+b"])
def test_what_a_limit_held_back_is_written_when_it_is_lifted(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", FSIZE, str(path), "ignored", mode, "8192"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # The built-in in the same place, for what it raises and what is in the file in the end.
    other = tmp_path / "theirs"
    theirs = FSIZE.replace("await aiouring.open", "open").replace("await file", "file").replace("aiouring.run", "asyncio.run")
    expected = subprocess.run([sys.executable, "-c", theirs, str(other), "ignored", mode, "8192"], capture_output=True, text=True, timeout=60)
    assert expected.returncode == 0, expected.stderr
    assert "EFBIG" in expected.stdout
    assert done.stdout == expected.stdout
    assert path.read_bytes() == other.read_bytes()


# --- devices and files of the kernel's own


def test_dev_full(loop: Loop) -> None:
    async def main() -> None:
        for mode, buffering in (("wb", 0), ("wb", -1), ("w", -1), ("w", 1)):
            with open("/dev/full", mode, buffering) as theirs:
                ours = await aiouring.open("/dev/full", mode, buffering)
                data: Any = b"x\n" if "b" in mode else "x\n"
                for _ in range(3):
                    expected = came_to(theirs.write, data)
                    assert await finished(ours.write(data)) == expected
                    expected = came_to(theirs.flush)
                    assert expected in (("raised", OSError, errno.ENOSPC), ("returned", None))
                    assert await finished(ours.flush()) == expected
                expected = came_to(theirs.close)
                assert await finished(ours.close()) == expected
                assert ours.closed

    loop.run_until_complete(main())


def test_dev_zero_and_dev_null(loop: Loop) -> None:
    async def main() -> None:
        async with aiouring.open("/dev/zero", "rb") as zero:
            assert await zero.read(100_000) == bytes(100_000)
            buffer = bytearray(b"x" * 70_000)
            assert await zero.readinto(buffer) == 70_000
            assert not any(buffer)
            assert await zero.read1(10) == bytes(10)
        async with aiouring.open("/dev/zero", "rb", 0) as zero:
            assert await zero.read(5000) == bytes(5000)
            assert await zero.pread(10, 1 << 40) == bytes(10)
        async with aiouring.open("/dev/null", "r+b") as null:
            assert await null.write(BLOCK) == len(BLOCK)
            await null.flush()
            assert await null.read() == b""
        async with aiouring.open("/dev/null", encoding="utf-8") as null_text:
            assert await null_text.read() == ""
            assert [line async for line in null_text] == []

    loop.run_until_complete(main())


@pytest.mark.parametrize("path", ["/proc/self/status", "/proc/version", "/proc/self/environ", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_files_whose_size_is_not_what_they_hold(path: str, loop: Loop) -> None:
    if not os.path.exists(path):
        pytest.skip(f"needs kernel: {path}")

    async def main() -> None:
        def stable(data: bytes) -> list[bytes]:
            return [line for line in data.splitlines() if not line.startswith((b"Vm", b"Rss", b"volunt", b"nonvol", b"Threads", b"State"))]

        for buffering in (0, -1, 10):
            with open(path, "rb", buffering) as theirs:
                async with aiouring.open(path, "rb", buffering) as ours:
                    assert stable(await ours.read()) == stable(theirs.read())
                    assert await ours.read() == theirs.read()

    loop.run_until_complete(main())


def test_a_read_error_of_the_device(loop: Loop) -> None:
    """EIO: the process's own memory at address 0 cannot be read."""

    async def main() -> None:
        for buffering in (0, -1):
            with open("/proc/self/mem", "rb", buffering) as theirs:
                async with aiouring.open("/proc/self/mem", "rb", buffering) as ours:
                    expected = came_to(theirs.read, 10)
                    assert expected == ("raised", OSError, errno.EIO)
                    assert await finished(ours.read(10)) == expected
                    assert await finished(ours.pread(10, 0)) == expected
                    # The position is what it was.
                    assert await ours.tell() == theirs.tell()

    loop.run_until_complete(main())


def test_a_terminal(loop: Loop) -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        terminal = await aiouring.open(slave, "w")
        assert terminal.isatty()
        assert terminal.line_buffering
        await terminal.write("a line\nand")
        # Each line goes out by itself, and what follows with it, as the built-in does.
        other_side = await aiouring.open(master, "rb", 0)
        assert await other_side.read(100) == b"a line\r\nand"
        await terminal.close()
        assert await finished(other_side.read(100)) == ("raised", OSError, errno.EIO)
        await other_side.close()

    loop.run_until_complete(main())


# --- files that others change meanwhile


def test_a_file_that_grows_while_it_is_read(loop: Loop, tmp_path: Path) -> None:
    """As `tail -f`: the end is where it is when it is read, again each time."""
    path = tmp_path / "file"
    path.write_bytes(b"first\n")

    async def main() -> None:
        with open(path, "ab", 0) as growing:
            for mode, buffering in (("rb", -1), ("rb", 0), ("r", -1)):

                def as_read(data: bytes, mode: str = mode) -> Any:
                    return data if mode == "rb" else data.decode()

                size = path.stat().st_size
                async with aiouring.open(path, mode, buffering) as file:
                    assert len(await file.read()) == size
                    assert await file.read(10) == as_read(b"")
                    growing.write(b"second\n")
                    assert await file.readline() == as_read(b"second\n")
                    assert await file.readline() == as_read(b"")
                    growing.write(b"th")
                    assert await file.readline() == as_read(b"th")
                    growing.write(b"ird\n" * 50_000)
                    assert await file.read() == as_read(b"ird\n" * 50_000)
                    growing.write(b"x")
                    assert [line async for line in file] == [as_read(b"x")]
                    assert await file.pread(1, path.stat().st_size - 1) == b"x"

    loop.run_until_complete(main())


@pytest.mark.parametrize("buffering", [0, 100, -1])
def test_a_file_that_is_truncated_while_it_is_read(buffering: int, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        path.write_bytes(b"x" * BIG)
        async with aiouring.open(path, "rb", buffering) as file:
            assert await file.read(1000) == b"x" * 1000
            os.truncate(path, 2000)
            # What was read ahead may come still; the end comes where it ends, and nothing is made up.
            rest = await file.read()
            assert set(rest) <= {ord("x")}
            assert 1000 <= len(rest) < BIG - 1000
            assert await file.read(10) == b""
            assert await file.pread(5000, 0) == b"x" * 2000
            # Shorter than the position: that is the end too, and it is no error.
            os.truncate(path, 10)
            assert await file.read(10) == b""
            assert await file.seek(5) == 5
            assert await file.read() == b"x" * 5
            # And it grows again, with a hole.
            os.truncate(path, 3000)
            assert await file.seek(0) == 0
            assert await file.read() == b"x" * 10 + bytes(2990)

    loop.run_until_complete(main())


def test_a_file_that_another_one_of_ours_writes(loop: Loop, tmp_path: Path) -> None:
    """Bytes that were written before a read begins are read: by position at once, by the stream after a seek at the latest."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 200_000)

    async def main() -> None:
        async with aiouring.open(path, "rb") as reader, aiouring.open(path, "r+b", 0) as writer:
            assert await reader.read(10) == b"a" * 10
            await writer.seek(100_000)
            await writer.write(b"b" * 100_000)
            assert await reader.pread(10, 150_000) == b"b" * 10
            await reader.seek(100_000)
            assert await reader.read() == b"b" * 100_000

    loop.run_until_complete(main())


def test_a_file_that_is_removed_while_it_is_open(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with aiouring.open(path, "w+b") as file:
            await file.write(BLOCK)
            path.unlink()
            await file.seek(0)
            assert await file.read() == BLOCK

    loop.run_until_complete(main())


# --- descriptors that somebody closes


@pytest.mark.parametrize("mode", ["rb", "r", "r+b"])
def test_a_descriptor_that_is_closed_under_the_file(mode: str, loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"line\n" * 100_000)

    async def main() -> None:
        theirs: Any = open(path, mode)  # noqa: SIM115  # its descriptor is closed under it
        ours: Any = await aiouring.open(path, mode)
        os.close(theirs.fileno())
        os.close(ours.fileno())
        for name, arguments in (("read", (200_000,)), ("seek", (0, 2)), ("readline", ())):
            expected = came_to(getattr(theirs, name), *arguments)
            assert expected == ("raised", OSError, errno.EBADF), name
            assert await finished(getattr(ours, name)(*arguments)) == expected, name
        assert await finished(ours.pread(10, 0)) == ("raised", OSError, errno.EBADF)
        expected = came_to(theirs.close)
        assert expected == ("raised", OSError, errno.EBADF)
        assert await finished(ours.close()) == expected
        assert ours.closed and theirs.closed

    loop.run_until_complete(main())


def test_a_descriptor_that_is_closed_while_a_read_waits(loop: Loop) -> None:
    """The read holds the pipe in the kernel: it ends with what comes, and no other file gets it."""

    async def main() -> None:
        read_fd, write_fd = os.pipe()
        reader = await aiouring.open(read_fd, "rb", 0, closefd=False)
        waiting = asyncio.ensure_future(asyncio.wait_for(reader.read(10), None))
        for _ in range(10):
            await asyncio.sleep(0)
        os.close(read_fd)
        os.write(write_fd, b"abc")
        assert await waiting == b"abc"
        os.close(write_fd)
        assert await finished(reader.read(1)) == ("raised", OSError, errno.EBADF)
        await reader.close()

    loop.run_until_complete(main())


def test_closefd_false_leaves_the_descriptor(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        file = await aiouring.open(fd, "r+b", closefd=False)
        await file.write(b"abc")
        await file.close()
        assert os.pread(fd, 10, 0) == b"abc"
        os.close(fd)

    loop.run_until_complete(main())


def test_close_comes_after_what_was_begun(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        file = await aiouring.open(path, "w+b")
        calls = [asyncio.ensure_future(called(file.write(bytes([65 + number]) * 10_000))) for number in range(10)]
        calls.append(asyncio.ensure_future(called(file.pwrite(b"first", 0))))
        calls.append(asyncio.ensure_future(called(file.close())))
        late = asyncio.ensure_future(called(file.write(b"late")))
        results = await asyncio.gather(*calls)
        assert results == [10_000] * 10 + [5, None]
        with pytest.raises(ValueError):
            await late
        data = path.read_bytes()
        assert len(data) == 100_000
        assert data[10_000:] == b"".join(bytes([65 + number]) * 10_000 for number in range(1, 10))

    loop.run_until_complete(main())


def test_two_closes_at_once(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        file = await aiouring.open(tmp_path / "file", "wb")
        await file.write(b"abc")
        other = os.open("/dev/null", os.O_RDONLY)
        assert list(await asyncio.gather(called(file.close()), called(file.close()), called(file.close()))) == [None] * 3
        os.fstat(other)
        os.close(other)
        assert (tmp_path / "file").read_bytes() == b"abc"

    loop.run_until_complete(main())


# --- many


def test_thousands_of_files_at_once(loop: Loop, tmp_path: Path) -> None:
    count = 3000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"needs kernel: {count + 500} descriptors a process (RLIMIT_NOFILE)")

    async def main() -> None:
        before = slots_in_use()

        async def one(number: int) -> Any:
            file = await aiouring.open(tmp_path / f"{number}", "w+b")
            await file.write(b"%d\n" % number * 100)
            return file

        files = await asyncio.gather(*map(one, range(count)))
        assert len({file.fileno() for file in files}) == count

        async def read(number: int, file: Any) -> None:
            await file.seek(0)
            assert await file.readline() == b"%d\n" % number
            assert await file.read() == b"%d\n" % number * 99
            await file.close()

        await asyncio.gather(*(read(number, file) for number, file in enumerate(files)))
        assert slots_in_use() == before

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    try:
        loop.run_until_complete(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left_to_have(loop: Loop, tmp_path: Path) -> None:
    """EMFILE names the file, and what was open goes on."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def main() -> None:
        async with aiouring.open(path, "rb") as file:
            held = []
            try:
                with pytest.raises(OSError) as caught:
                    while True:
                        held.append(await aiouring.open(path, "rb"))
                assert caught.value.errno == errno.EMFILE
                assert caught.value.filename == str(path)
                assert await file.read() == CONTENT
            finally:
                for one in held:
                    await one.close()
            async with aiouring.open(path, "rb") as again:
                assert await again.read(4) == b"line"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        loop.run_until_complete(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("what", ["an error", "a cancellation", "a drop"])
def test_nothing_stays_behind(what: str, loop: Loop, tmp_path: Path) -> None:
    """The same over and over: objects, slots and descriptors are no more in the end than after the first times."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    async def one() -> None:
        if what == "an error":
            with pytest.raises(OSError):
                await aiouring.open(tmp_path / "nowhere" / "file")
            async with aiouring.open(path, "rb") as file:
                with pytest.raises(io.UnsupportedOperation):
                    await file.write(b"x")
                with pytest.raises(OSError):
                    await file.pread(5, -1)
        elif what == "a cancellation":
            async with aiouring.open(path, "r", encoding="utf-8") as file:
                task = asyncio.ensure_future(called(file.read()))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                unclosed: Any = await aiouring.open(path, "r+b")
                unclosed.read(5)  # never awaited
                await unclosed.read(5)
                del unclosed

    async def main() -> None:
        async def many() -> tuple[int, int, int]:
            for _ in range(100):
                await one()
            await until(lambda: slots_in_use() == 0)
            gc.collect()
            return len(gc.get_objects()), slots_in_use(), len(os.listdir("/proc/self/fd"))

        await many()
        objects, slots, descriptors = await many()
        assert (slots, descriptors) == (await many())[1:]
        assert abs((await many())[0] - objects) < 50

    loop.run_until_complete(main())


def test_errors_from_the_outside_are_what_the_built_in_raises(loop: Loop, tmp_path: Path) -> None:
    """What open() itself meets."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        for name, mode in [
            ("gone", "rb"), ("gone", "r+"), ("folder", "rb"), ("folder", "w"), ("folder", "ab"), ("loop", "r"), ("file/file", "rb"), ("file", "x"),
            ("x" * 300, "w"), ("gone/gone", "wb"), ("nul\0", "rb"), ("fifo", "r+"), ("fifo", "a+b"),
        ]:  # fmt: skip
            expected = came_to(open, tmp_path / name, mode)
            assert expected[0] == "raised", name
            assert await finished(aiouring.open(tmp_path / name, mode)) == expected, name
        for fd in (-1, 12345):
            expected = came_to(open, fd, "rb")
            try:
                found = await finished(aiouring.open(fd, "rb"))
            except ValueError as error:  # what is wrong with the arguments is said before anything is awaited
                found = ("raised", type(error), None)
            assert found == expected

    loop.run_until_complete(main())
    assert not [name for name in os.listdir(tmp_path) if name.startswith("gone")]
