"""Files that are no quiet regular file: FIFOs, terminals, full disks, size limits, O_NONBLOCK, /proc, and files that change meanwhile."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import pty
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring._file import RawFile

from .open_files import called
from .sockets import started


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def in_thread(function: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


# -- FIFOs and pipes ------------------------------------------------------------------------------------------------------------------------


async def test_a_fifo_is_opened_when_its_other_end_is(fifo: Path) -> None:
    reader = await started(aiouring.open(fifo, "rb"))
    write_end = await in_thread(os.open, fifo, os.O_WRONLY)
    async with await reader as file:
        assert not file.seekable()
        waiting = await started(file.read(5))
        os.write(write_end, b"ab")
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        os.write(write_end, b"cde")
        assert await waiting == b"abcde"
        os.close(write_end)
        assert await file.read() == b""
    writer = await started(aiouring.open(fifo, "w"))
    read_end = await in_thread(os.open, fifo, os.O_RDONLY)
    async with await writer as file:
        await file.write("text")
    assert os.read(read_end, 10) == b"text"
    os.close(read_end)


async def test_a_writer_that_has_come_and_gone_before_open_returned(fifo: Path) -> None:
    opening = await started(aiouring.open(fifo, "r"))

    def write() -> None:
        with open(fifo, "w") as file:
            file.write("a line\n")

    await in_thread(write)
    async with await opening as file:
        assert await file.readline() == "a line\n"
        assert await file.readline() == ""


@pytest.mark.parametrize("mode", ["rb", "wb", "r", "w"])
async def test_opening_a_fifo_may_be_cancelled(fifo: Path, mode: str) -> None:
    for _ in range(3):
        opening = await started(aiouring.open(fifo, mode))
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.get_running_loop().ring_stats()["slots_in_use"] == 1


@pytest.fixture
def pipe_ends() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize(
    ("call", "rest"),
    [("read", (10,)), ("read", ()), ("readline", ()), ("readlines", ()), ("readinto", (bytearray(10),)), ("read1", (10,)), ("__anext__", ())],
)
@pytest.mark.parametrize("fed", [b"", b"abc", b"x\nabc"])
async def test_a_cancelled_read_of_a_pipe_loses_nothing(pipe_ends: tuple[int, int], call: str, rest: tuple[Any, ...], fed: bytes) -> None:
    read_end, write_end = pipe_ends
    async with aiouring.open(read_end, "rb") as file:
        if fed.startswith(b"x\n"):
            os.write(write_end, b"x\n")
            assert await file.readline() == b"x\n"
            fed = fed[2:]
        waiting = asyncio.ensure_future(getattr(file, call)(*rest))
        await asyncio.sleep(0)
        if fed and call not in ("read1",):
            os.write(write_end, fed)
            for _ in range(3):
                await asyncio.sleep(0)
        if waiting.done():
            return
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        os.write(write_end, b"def\n")
        assert await file.readline() == (fed if call not in ("read1",) else b"") + b"def\n"


@pytest.mark.parametrize("call", ["read", "readline", "readinto", "readlines"])
@pytest.mark.parametrize("text", [False, True])
async def test_a_result_that_its_task_never_took_goes_back_to_the_pipe(pipe_ends: tuple[int, int], call: str, text: bool) -> None:
    read_end, write_end = pipe_ends
    if text and call == "readinto":
        return
    loop = asyncio.get_running_loop()
    async with aiouring.open(read_end, "r" if text else "rb") as file:
        buffer = bytearray(4)
        arguments: tuple[Any, ...] = {"read": (4,), "readline": (), "readinto": (buffer,), "readlines": (2,)}[call]
        waiting = await started(getattr(file, call)(*arguments))
        next_call = await started(file.readline())
        os.write(write_end, b"abc\n")
        # The cancel stands before the task's wake-up, which the completion puts behind it in this very turn.
        loop.call_soon(waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        expected: Any = "abc\n" if text else b"abc\n"
        assert await next_call == expected
        os.write(write_end, b"def\n")
        assert await file.readline() == ("def\n" if text else b"def\n")


async def test_a_text_of_a_pipe_whose_reads_were_cancelled(pipe_ends: tuple[int, int]) -> None:
    """In the midst of a character, of a newline and of a line."""
    read_end, write_end = pipe_ends
    async with aiouring.open(read_end, "r", encoding="utf-8") as file:
        for piece in ("aé\r".encode(), b"\nb\n\xe2\x82", b"\xacc\rd"):
            for call in (file.readlines(), file.read(20), file.read()):
                waiting = await started(call)
                os.write(write_end, piece[:1])
                piece = piece[1:]
                for _ in range(3):
                    await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            os.write(write_end, piece)
        os.close(write_end)
        assert await file.read() == "aé\nb\n€c\nd"


async def test_writes_to_a_slow_pipe_are_whole(pipe_ends: tuple[int, int]) -> None:
    read_end, write_end = pipe_ends
    data = os.urandom(1_000_000)

    def drain() -> bytes:
        got = b""
        while len(got) < len(data):
            got += os.read(read_end, 100_000)
        return got

    async with aiouring.open(write_end, "wb") as file:
        writing = asyncio.ensure_future(file.write(data))
        assert await in_thread(drain) == data
        assert await writing == len(data)


async def test_a_cancelled_write_to_a_full_pipe(pipe_ends: tuple[int, int]) -> None:
    """What earlier calls wrote stays in the buffer and comes out in order."""
    read_end, write_end = pipe_ends
    file = await aiouring.open(write_end, "wb", 100)
    capacity = await file.write(b"x" * 65536)
    await file.write(b"kept")
    for call in (lambda: file.write(b"y" * 1000), file.flush):
        waiting = await started(call())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert len(os.read(read_end, 100_000)) == capacity
    await file.write(b" after")
    await file.close()
    assert os.read(read_end, 100) == b"kept after"


async def test_a_cancelled_write_of_text_to_a_full_pipe(pipe_ends: tuple[int, int]) -> None:
    read_end, write_end = pipe_ends
    file = await aiouring.open(write_end, "w", 100)
    await file.write("x" * 65536)
    await file.write("kept")
    for call in (lambda: file.write("y" * 9000), file.flush, lambda: file.write("z" * 9000)):
        waiting = await started(call())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert os.read(read_end, 100_000) == b"x" * 65536
    await file.write(" after")
    await file.close()
    assert os.read(read_end, 100) == b"kept after"


async def test_close_on_a_full_pipe_may_be_cancelled_and_closes(pipe_ends: tuple[int, int]) -> None:
    _, write_end = pipe_ends
    file = await aiouring.open(write_end, "wb")
    await file.write(b"x" * 65536)
    await file.write(b"lost")
    closing = await started(file.close())
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert file.closed
    with pytest.raises(OSError):
        os.fstat(write_end)


async def test_a_pipe_without_a_reader(pipe_ends: tuple[int, int]) -> None:
    read_end, write_end = pipe_ends
    os.close(read_end)
    file = await aiouring.open(write_end, "wb", 0)
    with pytest.raises(BrokenPipeError):
        await file.write(b"x")
    await file.close()


async def test_a_pipe_has_no_position(pipe_ends: tuple[int, int]) -> None:
    read_end, write_end = pipe_ends
    os.write(write_end, b"x")
    async with aiouring.open(read_end, "rb") as file:
        for call in (file.seek(0), file.tell(), file.pread(1, 0)):
            with pytest.raises(OSError):
                await call
        assert await file.peek() == b"x"
    with pytest.raises(OSError, match="not seekable"):
        await aiouring.open(write_end, "r+b")
    os.fstat(write_end)  # still the caller's


async def test_descriptors_with_o_nonblock_are_waited_for(pipe_ends: tuple[int, int]) -> None:
    read_end, write_end = pipe_ends
    for end in pipe_ends:
        os.set_blocking(end, False)
    async with aiouring.open(read_end, "rb") as reader, aiouring.open(write_end, "wb", 0) as writer:
        waiting = await started(reader.read(3))
        await writer.write(b"abc")
        assert await waiting == b"abc"
        waiting = await started(reader.readline())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await writer.write(b"x" * 4096)
        await writer.write(b"\n")
        assert await reader.readline() == b"x" * 4096 + b"\n"
        full = asyncio.ensure_future(writer.write(b"y" * 65536))
        got = b""
        while len(got) < 65536:
            got += await reader.read1(65536)
        assert got == b"y" * 65536
        assert await full == 65536


async def test_a_regular_file_with_o_nonblock(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"line\n" * 10_000)
    for cached in (True, False):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not cached:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        async with aiouring.open(fd, "rb") as file:
            assert await file.pread(5, 40_000) == b"line\n"
            assert await file.readline() == b"line\n"
            assert len(await file.read()) == 49_995


# -- terminals and devices --------------------------------------------------------------------------------------------------------------------


async def test_a_terminal() -> None:
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    try:
        async with aiouring.open(name, "r+b", buffering=0) as raw:
            assert raw.isatty()
            assert not raw.seekable()
        async with aiouring.open(name, "w") as out:
            assert out.isatty()
            assert out.line_buffering
            await out.write("one\ntwo")
            await out.flush()
        async with aiouring.open(name, "r") as file:
            waiting = await started(file.readline())
            os.write(ours, b"typed\n")
            assert await waiting == "typed\n"
            waiting = await started(file.readline())
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            os.write(ours, b"more\n")
            assert await file.readline() == "more\n"
    finally:
        os.close(ours)
        os.close(theirs)


async def test_devices() -> None:
    async with aiouring.open("/dev/zero", "rb") as zero:
        assert await zero.read(10_000) == bytes(10_000)
        assert len(await zero.read1(10)) == 10
    async with aiouring.open("/dev/urandom", "rb", buffering=0) as random:
        assert len(set(await random.read(1000))) > 10
    async with aiouring.open("/dev/null", "r+b") as null:
        assert await null.write(b"x" * 100_000) == 100_000
        assert await null.read() == b""
    async with aiouring.open("/dev/null", "w") as text:
        await text.write("x" * 100_000)


async def test_proc_files_have_no_size() -> None:
    with open("/proc/self/status", "rb") as theirs:
        first = theirs.readline()
    async with aiouring.open("/proc/self/status", "rb") as file:
        assert await file.readline() == first
        assert len(await file.read()) > 100
    async with aiouring.open("/proc/self/maps") as text:
        assert len(await text.readlines()) == len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("mode", ["w", "wb"])
async def test_a_full_device(mode: str) -> None:
    piece: Any = "x" if mode == "w" else b"x"
    file = await aiouring.open("/dev/full", mode)
    await file.write(piece * 100)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            await file.flush()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == "/dev/full"
    with pytest.raises(OSError) as caught:
        await file.write(piece * 100_000)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        await file.close()
    assert caught.value.errno == errno.ENOSPC
    assert file.closed
    raw = await aiouring.open("/dev/full", "wb", 0)
    with pytest.raises(OSError):
        await raw.write(b"x")
    with pytest.raises(OSError):
        await raw.pwrite(b"x", 0)
    await raw.close()


async def test_an_input_error_is_told() -> None:
    """/proc/self/mem has nothing at address 0, and says EIO."""
    async with aiouring.open("/proc/self/mem", "rb", buffering=0) as file:
        for call in (file.pread(10, 0), file.read(10), file.pread_into(bytearray(10), 4096), file.preadv([bytearray(10)], 0)):
            with pytest.raises(OSError) as caught:
                await call
            assert caught.value.errno == errno.EIO
            assert caught.value.filename == "/proc/self/mem"


@pytest.mark.parametrize("buffering", [0, 100, -1])
async def test_a_size_limit(tmp_path: Path, buffering: int) -> None:
    """RLIMIT_FSIZE: the write that reaches it is short, the one after it fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "a"
    file = await aiouring.open(path, "wb", buffering)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        if buffering == 0:
            assert await file.write(b"x" * 20_000) == 10_000
        with pytest.raises(OSError) as caught:
            for _ in range(3):
                await file.write(b"x" * 20_000)
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError) as caught:
            await file.pwrite(b"x" * 100, 9_950)
            raise AssertionError
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await file.close()
    assert path.stat().st_size == 10_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB of tmpfs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], stderr=subprocess.PIPE, text=True)
    if mounted.returncode:
        pytest.skip(f"needs program: a mount that may mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("mode", ["w", "wb"])
async def test_a_full_disk(small_disk: Path, mode: str) -> None:
    piece: Any = "0123456789" if mode == "w" else b"0123456789"
    path = small_disk / "a"
    file = await aiouring.open(path, mode)
    acknowledged = 0
    with pytest.raises(OSError) as caught:
        while True:
            acknowledged += await file.write(piece * 37)
    assert caught.value.errno == errno.ENOSPC
    full = path.read_bytes()
    assert len(full) <= 65536
    # Room again: what was acknowledged comes out, in order and once.
    (small_disk / "b").touch()
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    await file.close()
    data = path.read_bytes()
    assert len(data) >= acknowledged
    assert data[:acknowledged] == (b"0123456789" * 10_000)[:acknowledged]


# -- files that change ----------------------------------------------------------------------------------------------------------------------------


async def test_a_file_that_is_truncated_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1_000_000)
    async with aiouring.open(path, "rb") as file, aiouring.open(path, "r") as text:
        assert len(await file.read(10_000)) == 10_000
        assert len(await text.read(10)) == 10
        os.truncate(path, 50_000)
        assert len(await file.read()) == 40_000
        assert await file.read() == b""
        assert await file.pread(100, 49_950) == b"x" * 50
        assert await file.pread(100, 60_000) == b""
        os.truncate(path, 0)
        assert await file.seek(0, 2) == 0
        assert await file.read() == b""
        assert len(await text.read()) <= 8192


async def test_a_file_that_grows_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with open(path, "ab", 0) as grows:
        async with aiouring.open(path, "rb") as file, aiouring.open(path) as text:
            for number in range(50):
                assert await file.readline() == b""
                assert await text.readline() == ""
                line = b"%d" % number * 500 + b"\n"
                grows.write(line)
                assert await file.readline() == line
                assert await text.readline() == line.decode()
            assert await file.read() == b""
            grows.write(b"more")
            assert await file.read() == b"more"
            assert [line async for line in text] == ["more"]


async def test_several_writers_append(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with aiouring.open(path, "ab") as first, aiouring.open(path, "ab") as second:
        for number in range(20):
            await first.write(b"first %d\n" % number)
            await first.flush()
            await second.write(b"second %d\n" % number)
            await second.flush()
            assert await second.tell() == path.stat().st_size
    lines = path.read_bytes().splitlines()
    assert lines == [b"%s %d" % (who, number) for number in range(20) for who in (b"first", b"second")]


async def test_raw_writes_may_be_short_and_say_so(tmp_path: Path) -> None:
    async with aiouring.open(tmp_path / "a", "wb", 0) as file:
        assert isinstance(file, RawFile)
        assert await file.write(b"") == 0
        assert await file.write(b"abc") == 3
        await file.writelines([b"d", b"ef"])
        assert await file.tell() == 6


async def test_holes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with aiouring.open(path, "w+b") as file:
        await file.seek(1 << 20)
        await file.write(b"end")
        await file.flush()
        assert await file.seek(0, os.SEEK_DATA) == 1 << 20
        assert await file.seek(0, os.SEEK_HOLE) == 0
        with pytest.raises(OSError) as caught:
            await file.seek(1 << 30, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
        assert await file.truncate(1 << 40) == 1 << 40
        assert await file.seek(-3, os.SEEK_END) == (1 << 40) - 3
        assert await file.read(10) == bytes(3)


async def test_an_unbuffered_file_reads_what_is_there_now(tmp_path: Path) -> None:
    """Nothing is read ahead for who asks for no buffer: what somebody else writes behind the position is seen, as with the built-in."""
    path = tmp_path / "a"
    path.write_bytes(b"a" * 100_000)
    with open(path, "rb", 0) as theirs, open(path, "r+b", 0) as writer:
        async with aiouring.open(path, "rb", 0) as ours:
            for number in range(20):
                assert await ours.read(100) == theirs.read(100)
                os.pwrite(writer.fileno(), b"%d" % number * 50, 100 * number + 100)
            assert await ours.readline() == theirs.readline()


async def test_positional_writes_beside_reads_are_seen_by_later_reads(tmp_path: Path) -> None:
    """A read that was begun together with the write may have read ahead what was there before. Those after it may not."""
    path = tmp_path / "a"
    for number in range(100):
        path.write_bytes(b"a" * 300_000)
        async with aiouring.open(path, "r+b") as file:
            first = asyncio.ensure_future(called(file.read(10)))
            await asyncio.gather(*[called(file.pwrite(b"b" * 1000, 20_000 + 1000 * place)) for place in range(number % 7 + 1)], first)
            await file.seek(10, 0)
            assert await file.read(19_990) == b"a" * 19_990
            assert await file.read(1000) == b"b" * 1000


# -- what is refused, and in which order it is looked at ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("closed", [False, True])
async def test_arguments_are_looked_at_first(buffering: int, closed: bool, tmp_path: Path) -> None:
    """Of two mistakes the one is named that the built-in names."""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("write", ("x",)), ("write", (b"x",)), ("readinto", (b"\0\0",)), ("readinto", (bytearray(2),)), ("readinto", (5,)), ("seek", (0, 7)),
        ("seek", (0, -1)),
    ]  # fmt: skip
    for mode in ("rb", "ab"):
        with open(path, mode, buffering) as theirs:
            async with aiouring.open(path, mode, buffering) as ours:
                if closed:
                    theirs.close()
                    await ours.close()
                for name, arguments in [*calls, *([("readinto1", (b"\0\0",))] if buffering else [])]:
                    with pytest.raises(Exception) as expected:
                        if getattr(theirs, name)(*arguments) is not None:
                            raise ZeroDivisionError
                    with pytest.raises(Exception) as found:
                        if await getattr(ours, name)(*arguments) is not None:
                            raise ZeroDivisionError
                    assert (found.type, getattr(found.value, "errno", None)) == (expected.type, getattr(expected.value, "errno", None)), (mode, name)


async def test_calls_of_no_bytes_by_position(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    async with aiouring.open(path, "rb") as reader, aiouring.open(path, "ab") as writer:
        assert await reader.pread(0, 0) == b""
        assert await reader.pread_into(bytearray(), 0) == await reader.preadv([], 0) == await reader.preadv([bytearray()], 0) == 0
        assert await writer.pwrite(b"", 0) == await writer.pwritev([], 0) == await writer.pwritev([b"", b""], 0) == 0
        for wrong in (writer.pread(0, 0), writer.pread_into(bytearray(), 0), writer.preadv([], 0), reader.pwrite(b"", 0), reader.pwritev([b""], 0)):
            with pytest.raises(OSError) as caught:
                await wrong
            assert caught.value.errno == errno.EBADF


async def test_truncate_and_flush_let_tell_tell_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for name in ("truncate", "flush"):
        path.write_text("one\ntwo\n")
        with open(path, "r+") as theirs:
            async with aiouring.open(path, "r+") as ours:
                assert await ours.read(1) == theirs.read(1) == "o"
                assert await anext(ours) == next(theirs) == "ne\n"
                with pytest.raises(OSError, match="disabled"):
                    await ours.tell()
                getattr(theirs, name)()
                await getattr(ours, name)()
                assert await ours.tell() == theirs.tell()


async def test_a_place_among_what_an_iteration_has_decoded_is_not_told(tmp_path: Path) -> None:
    """What that was decoded from is not kept. The built-in tells the chunk's end, or a number from bytes that are not its own."""
    path = tmp_path / "a"
    path.write_text("eins\n" * 4000)
    for begin in (False, True):
        async with aiouring.open(path, "r+") as file:
            if begin:
                assert await file.readline() == "eins\n"
                await file.seek(0)
            assert await anext(file) == "eins\n"
            await file.flush()
            with pytest.raises(OSError, match="can't reconstruct"):
                await file.tell()
            with pytest.raises(OSError, match="can't reconstruct"):
                await file.seek(0, 1)
            # From the next chunk on it is known again.
            await file.read(10_000)
            place = await file.tell()
            line = await file.readline()
            await file.seek(place)
            assert (line, place) == (await file.readline(), 10_005)


async def test_a_place_is_told_whatever_the_last_chunk_was(tmp_path: Path) -> None:
    """The guess where it may be goes by the last chunk's ratio of bytes to characters, which leads past the end of the short one of the seek."""
    path = tmp_path / "a"
    path.write_bytes("\ré".encode() + "€".encode() * 5000)
    async with aiouring.open(path, encoding="utf-8") as file:
        assert await file.read(1) == "\n"
        # Between the \n that \r has become and what follows: to come there, both have to be decoded together.
        place = await file.tell()
        assert place > 1 << 96
        await file.seek(place)
        assert await file.read(1) == "é"
        assert await file.tell() == 3
        await file.seek(3)
        assert await file.read(2) == "€€"
        assert await file.tell() == 9


async def test_what_cannot_be_read_says_so_whatever_the_length(tmp_path: Path) -> None:
    for mode in ("wb", "ab", "xb"):
        async with aiouring.open(tmp_path / mode, mode) as file:
            for size in (-7, -1, 5, None):
                with pytest.raises(io.UnsupportedOperation):
                    await file.read(size)
    async with aiouring.open(tmp_path / "wb", "rb") as file:
        with pytest.raises(ValueError, match="non-negative"):
            await file.read(-7)
