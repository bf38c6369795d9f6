"""aiouring.open(): opening, attributes, positional calls, the order of concurrent calls, and the end."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import io
import os
import random
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring._file import BinaryFile, BinaryReader, RawFile
from aiouring._textfile import TextFile

# -- opening --------------------------------------------------------------------------------------------------------------------------------


async def test_await_and_async_with(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with aiouring.open(path, "w") as file:
        assert await file.write("line 1\nline 2\n") == 14
        assert [file.closed] == [False]
    assert file.closed
    file = await aiouring.open(path)
    assert await file.readlines() == ["line 1\n", "line 2\n"]
    await file.close()
    await file.close()
    with pytest.raises(ValueError, match="closed"):
        await file.read()
    async with await aiouring.open(path, "rb") as again:
        assert await again.read() == b"line 1\nline 2\n"
    with pytest.raises(ZeroDivisionError):
        async with aiouring.open(path, "ab") as third:
            await third.write(b"more")
            raise ZeroDivisionError
    assert third.closed
    assert path.read_bytes() == b"line 1\nline 2\nmore"


async def test_opening_is_a_coroutine(tmp_path: Path) -> None:
    opening = aiouring.open(tmp_path / "a", "wb")
    assert asyncio.iscoroutine(opening)
    file = await asyncio.create_task(opening)
    await file.close()
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        aiouring.open(tmp_path / "b", "wb")
    assert not (tmp_path / "b").exists()
    aiouring.open(tmp_path / "b", "wb").close()


def test_the_signature_is_the_builtins() -> None:
    ours, builtin = (inspect.signature(function).parameters for function in (aiouring.open, builtins.open))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in builtin.values()]


BAD_ARGUMENTS = [
    ("q",), ("",), ("rw",), ("rr",), ("rtb",), ("t",), ("+",), ("rU",), ("r", 0), (3,), ("r", "1"), ("r", None),
    ("rb", -1, "utf-8"), ("rb", -1, None, "strict"), ("rb", -1, None, None, "\n"),
    ("r", -1, "no such encoding"), ("r", -1, "hex"), ("r", -1, 5),
    ("r", -1, None, 5), ("r", -1, None, None, "x"), ("r", -1, None, None, 5), ("r", -1, None, None, None, False),
]  # fmt: skip


def builtin_open(*arguments: Any) -> None:
    with builtins.open(*arguments):
        pass


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
async def test_bad_arguments_are_refused_as_by_the_builtin(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    with pytest.raises((ValueError, TypeError, LookupError)) as builtin:
        builtin_open(path, *arguments)
    with pytest.raises((ValueError, TypeError, LookupError)) as ours:
        await aiouring.open(path, *arguments)
    assert ours.type is builtin.type


@pytest.mark.parametrize("path", [None, 1.5, [], -1, "null\0byte", b"null\0byte", object()], ids=repr)
async def test_bad_paths_are_refused_as_by_the_builtin(path: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as builtin:
        builtin_open(path)
    with pytest.raises((ValueError, TypeError)) as ours:
        await aiouring.open(path)
    assert ours.type is builtin.type


async def test_errors_name_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "file"
    for path in (str(missing), os.fsencode(missing), missing):
        with pytest.raises(FileNotFoundError) as caught:
            await aiouring.open(path)
        assert caught.value.filename == os.fspath(path)
    with pytest.raises(IsADirectoryError) as directory:
        await aiouring.open(tmp_path)
    assert directory.value.filename == str(tmp_path)
    with pytest.raises(IsADirectoryError):
        await aiouring.open(tmp_path, "w")
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError) as exists:
        await aiouring.open(tmp_path / "there", "x")
    assert exists.value.filename == str(tmp_path / "there")
    with pytest.raises(OSError) as descriptor:
        await aiouring.open(10**6)
    assert descriptor.value.errno == 9


async def test_descriptors_and_who_closes_them(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 3, os.SEEK_SET)
    async with aiouring.open(fd, "r+b", closefd=False) as file:
        assert file.name == fd
        assert file.fileno() == fd
        assert await file.tell() == 3
        assert await file.read(2) == b"34"
        await file.write(b"x")
    assert os.lseek(fd, 0, os.SEEK_CUR) == 6
    assert path.read_bytes() == b"01234x6789"
    async with aiouring.open(fd, "rb") as file:
        assert await file.read() == b"6789"
    with pytest.raises(OSError):
        os.fstat(fd)


async def test_the_position_is_shared_with_who_asks_for_the_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with aiouring.open(path, "wb") as file:
        await file.write(b"from us\n")
        await file.flush()
        process = await asyncio.create_subprocess_exec("echo", "from the child", stdout=file.fileno())
        await process.wait()
        await file.write(b"from us again\n")
    assert path.read_bytes() == b"from us\nfrom the child\nfrom us again\n"
    async with aiouring.open(path, "rb") as file:
        assert await file.readline() == b"from us\n"
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) >= 8
        assert await file.read() == b"from the child\nfrom us again\n"


async def test_an_opener_is_called_with_path_and_flags(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    threads = []

    def opener(path: str, flags: int) -> int:
        threads.append(threading.current_thread())
        return os.open(path, flags, 0o600, dir_fd=folder)

    try:
        async with aiouring.open("b", "w", opener=opener) as file:
            await file.write("x")
            assert not os.get_inheritable(file.fileno())
    finally:
        os.close(folder)
    assert (tmp_path / "b").read_text() == "x"
    assert threads != [threading.main_thread()]
    with pytest.raises(ValueError, match="opener returned -1"):
        await aiouring.open("b", opener=lambda path, flags: -1)
    with pytest.raises(TypeError, match="expected integer"):
        await aiouring.open("b", opener=lambda path, flags: "1")  # type: ignore[return-value]


async def test_opening_is_audited(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []
    wanted = str(tmp_path / "a")
    done = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not done and event == "open" and args[0] == wanted:
            seen.append(args)

    sys.addaudithook(hook)
    async with aiouring.open(wanted, "w"):
        pass
    done = True
    assert seen == [(wanted, "w", os.O_CLOEXEC | os.O_WRONLY | os.O_CREAT | os.O_TRUNC)]


async def test_line_buffering_in_binary_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="line buffering"):
        file = await aiouring.open(tmp_path / "a", "wb", 1)
    await file.close()


@pytest.mark.parametrize("mode", ["r", "w", "a", "x", "r+", "w+", "a+", "x+"])
@pytest.mark.parametrize("kind", ["text", "buffered", "raw"])
async def test_attributes(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "a"
    if "x" not in mode:
        path.write_bytes(b"x")
    options: dict[str, Any] = {"encoding": "latin-1", "errors": "replace", "newline": ""} if kind == "text" else {}
    arguments = (path, mode if kind == "text" else mode + "b", 0 if kind == "raw" else -1)
    ours = await aiouring.open(*arguments, **options)
    if "x" in mode:
        path.unlink()
    with builtins.open(*arguments, **options) as theirs:
        assert isinstance(ours, {"text": TextFile, "buffered": BinaryFile, "raw": RawFile}[kind])
        assert isinstance(ours, BinaryReader) == (kind == "buffered" and hasattr(theirs, "peek"))
        for name in ("name", "mode", "closed", "encoding", "errors", "newlines", "line_buffering", "write_through"):
            assert getattr(ours, name, "none") == getattr(theirs, name, "none"), name
        for name in ("readable", "writable", "seekable", "isatty"):
            assert getattr(ours, name)() == getattr(theirs, name)(), name
        for name in ("peek", "read1", "readinto", "readinto1", "readall", "buffer", "raw"):
            assert hasattr(ours, name) == hasattr(theirs, name), name
        if kind == "text":
            assert ours.buffer.mode == theirs.buffer.mode
            assert ours.buffer.raw.mode == theirs.buffer.raw.mode
    assert str(path) in repr(ours)
    await ours.close()
    for name in ("fileno", "isatty"):
        with pytest.raises(ValueError, match="closed"):
            getattr(ours, name)()


async def test_the_layers_share_one_position(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"line 1\nline 2\n" * 1000)
    async with aiouring.open(path) as text:
        assert await text.readline() == "line 1\n"
        assert await text.buffer.tell() == 8192
        assert await text.buffer.raw.tell() == 8192
        await text.buffer.seek(7)
        assert await text.buffer.readline() == b"line 2\n"
        await text.buffer.raw.seek(14)
        assert await text.buffer.raw.read(7) == b"line 1\n"
    async with aiouring.open(path, "rb", buffering=0) as raw:
        assert await raw.read(3) == b"lin"
        assert await raw.readline() == b"e 1\n"
        assert await raw.tell() == 7
        assert len(await raw.readall()) == 14 * 1000 - 7


# -- by position ------------------------------------------------------------------------------------------------------------------------------


async def test_positional_calls(tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(100_000)
    path = tmp_path / "a"
    async with aiouring.open(path, "w+b") as file:
        assert await file.pwrite(data, 0) == len(data)
        assert await file.pread(10, 5) == data[5:15]
        assert await file.pread(100, len(data) - 3) == data[-3:]
        assert await file.pread(100, len(data)) == b""
        assert await file.pread(0, 0) == b""
        buffer = bytearray(1000)
        assert await file.pread_into(buffer, 99_500) == 500
        assert buffer[:500] == data[-500:]
        assert buffer[500:] == bytes(500)
        buffers = [bytearray(7), bytearray(), bytearray(2000)]
        assert await file.preadv(buffers, 1) == 2007
        assert b"".join(buffers) == data[1:2008]
        assert await file.preadv([bytearray(10), bytearray(10)], len(data) - 12) == 12
        assert await file.preadv([], 0) == 0
        assert await file.pwritev([b"ab", bytearray(b""), memoryview(b"cde")], 3) == 5
        assert await file.pread(7, 2) == data[2:3] + b"abcde" + data[8:9]
        many = [bytes([n & 255]) for n in range(2500)]
        assert await file.pwritev(many, 0) == 2500
        got = [bytearray(1) for _ in range(2500)]
        assert await file.preadv(got, 0) == 2500
        assert b"".join(got) == b"".join(many)
        assert await file.tell() == 0
        for call in (file.pread(1, -1), file.pread(-1, 0), file.pread_into(buffer, -1), file.pwrite(b"", -1), file.preadv([], -1)):
            with pytest.raises(OSError) as caught:
                await call
            assert caught.value.errno == 22
            assert caught.value.filename == str(path)
        with pytest.raises(BufferError):
            await file.pread_into(b"read only", 0)
        with pytest.raises(TypeError):
            await file.pwrite("text", 0)
        with pytest.raises(TypeError):
            await file.preadv([bytearray(1), 1], 0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="closed"):
        await file.pread(1, 0)
    async with aiouring.open(path, "rb") as file:
        with pytest.raises(OSError):
            await file.pwrite(b"x", 0)


async def test_many_positional_calls_at_once(tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(1 << 20)
    path = tmp_path / "a"
    path.write_bytes(data)

    async def read(number: int) -> None:
        place = random.Random(number).randrange(len(data))
        assert await file.pread(5000, place) == data[place : place + 5000]

    async with aiouring.open(path, "rb") as file:
        for _ in range(3):
            await asyncio.gather(*[read(number) for number in range(500)])
        stats = asyncio.get_running_loop().ring_stats()
    assert stats["slots_in_use"] == 1


async def test_positional_writes_are_seen_by_the_stream(tmp_path: Path) -> None:
    async with aiouring.open(tmp_path / "a", "w+b") as file:
        await file.write(b"0" * 300_000)
        await file.seek(0)
        assert await file.read(100_000) == b"0" * 100_000
        assert await file.read(10_000) == b"0" * 10_000  # and reads ahead
        await file.pwrite(b"1" * 300_000, 0)
        # What is in the buffer is older; what was read ahead below it was forgotten.
        assert set((await file.read())[4096:]) == set(b"1")


async def test_fsync_advise_allocate(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with aiouring.open(path, "w+b") as file:
        await file.write(b"x")
        assert path.read_bytes() == b""
        await file.fsync()
        assert path.read_bytes() == b"x"
        await file.write(b"y")
        await file.fdatasync()
        assert path.read_bytes() == b"xy"
        await file.advise(0, 0, os.POSIX_FADV_SEQUENTIAL)
        await file.advise(advice=os.POSIX_FADV_DONTNEED)
        await file.advise(0, 1 << 40, os.POSIX_FADV_WILLNEED)
        await file.allocate(0, 10_000)
        assert path.stat().st_size == 10_000
        await file.allocate(0, 50_000, 1)  # FALLOC_FL_KEEP_SIZE
        assert path.stat().st_size == 10_000
        for call in (file.advise(0, 0, 999), file.allocate(0, 0)):
            with pytest.raises(OSError) as caught:
                await call
            assert caught.value.errno == 22
        with pytest.raises(OSError):
            await file.advise(-1)
    async with aiouring.open(path, "w") as text:
        await text.write("é")
        await text.fsync()
        assert path.read_bytes() == "é".encode()


# -- concurrent calls ---------------------------------------------------------------------------------------------------------------------------


async def test_stream_calls_take_turns_in_order(tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(400_000)
    path = tmp_path / "a"
    path.write_bytes(data)
    ended: list[int] = []

    async def read(number: int) -> bytes:
        piece = await file.read(1000)
        ended.append(number)
        return piece

    async with aiouring.open(path, "rb") as file:
        pieces = await asyncio.gather(*[read(number) for number in range(400)])
        assert b"".join(pieces) == data
        assert ended == list(range(400))
    async with aiouring.open(path, "wb") as written:
        counts = await asyncio.gather(*[written.write(data[n * 1000 : n * 1000 + 1000]) for n in range(400)], written.flush())
        assert counts == [1000] * 400 + [None]
        assert path.read_bytes() == data
    async with aiouring.open(path, "w") as text:
        await asyncio.gather(*[text.write(f"{n}\n" * (n % 50)) for n in range(500)])
    lines = [f"{n}\n" for n in range(500) for _ in range(n % 50)]
    async with aiouring.open(path) as text:
        assert await asyncio.gather(*[text.readline() for _ in lines], text.readline()) == [*lines, ""]


async def test_mixed_calls_take_turns(tmp_path: Path) -> None:
    async with aiouring.open(tmp_path / "a", "w+b") as file:
        results = await asyncio.gather(
            file.write(b"x" * 10_000), file.seek(5), file.write(b"abc"), file.tell(), file.seek(0), file.read(10), file.truncate(7), file.seek(0, 2)
        )
    assert results == [10_000, 5, 3, 8, 0, b"xxxxxabcxx", 7, 7]


async def test_iteration_by_several_tasks_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("".join(f"{n}\n" for n in range(30_000)))
    lines: list[str] = []

    async def consume() -> None:
        async for line in file:
            lines.append(line)
            if len(lines) % 7 == 0:
                await asyncio.sleep(0)

    async with aiouring.open(path) as file:
        await asyncio.gather(*[consume() for _ in range(5)])
    assert lines == [f"{n}\n" for n in range(30_000)]


async def test_close_waits_for_what_was_begun_before(tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(3_000_000)
    path = tmp_path / "a"
    async with aiouring.open(path, "w+b") as file:
        write = asyncio.ensure_future(file.write(data))
        positional = [asyncio.ensure_future(file.pread(1000, 0)) for _ in range(50)]
        closing = asyncio.ensure_future(file.close())
        late = asyncio.ensure_future(file.write(b"late"))
        await closing
        assert file.closed
        assert await write == len(data)
        await asyncio.gather(*positional)
        with pytest.raises(ValueError, match="closed"):
            await late
        with pytest.raises(ValueError, match="closed"):
            await file.pread(1, 0)
    assert path.read_bytes() == data


# -- what awaitables are --------------------------------------------------------------------------------------------------------------------------


async def test_calls_are_coroutines(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc\n" * 3)
    async with aiouring.open(path, "rb") as file:
        call: Any = file.read(2)
        assert asyncio.iscoroutine(call)
        assert "not awaited yet" in repr(call)
        assert await call == b"ab"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call
        assert await asyncio.create_task(file.read(2)) == b"c\n"
        assert await asyncio.wait_for(file.pread(3, 0), 10) == b"abc"
        with pytest.warns(RuntimeWarning, match=r"'BinaryFile\.read' was never awaited"):
            file.read(1)  # type: ignore[unused-coroutine]
        with pytest.warns(RuntimeWarning, match=r"'File\.pread' was never awaited"):
            file.pread(1, 0)  # type: ignore[unused-coroutine]
        file.read(1).close()
        make: Any = asyncio.tasks._PyTask
        assert await make(file.readline(), loop=asyncio.get_running_loop()) == b"abc\n"


async def test_calls_serve_again_only_when_nobody_has_them(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("line\n" * 1000)
    async with aiouring.open(path) as file:
        kept: list[Any] = []
        for number in range(300):
            call: Any = file.readline() if number % 2 else file.pread(5, 0)
            assert not any(call is other for other in kept)
            assert await call in ("line\n", b"line\n")
            if number % 3 == 0:
                kept.append(call)
        for call in kept:
            assert not call.cancel()
            with pytest.raises(RuntimeError, match="cannot reuse"):
                await call


async def test_str_subclasses_and_buffers_are_written(tmp_path: Path) -> None:
    class Text(str):
        __slots__ = ()

    path = tmp_path / "a"
    async with aiouring.open(path, "w", encoding="utf-8") as file:
        await file.write(Text("é"))
        with pytest.raises(TypeError, match="must be str, not bytes"):
            await file.write(b"x")
        with pytest.raises(TypeError, match="must be str, not int"):
            await file.writelines(["a", 1])  # type: ignore[list-item]
    assert path.read_text("utf-8") == "éa"
    async with aiouring.open(path, "wb") as written:
        await written.write(bytearray(b"1"))
        await written.write(memoryview(b"x2y")[1:2])
        await written.writelines([b"3", bytearray(b"4")])
        with pytest.raises(TypeError):
            await written.write("5")
    assert path.read_bytes() == b"1234"


async def test_readinto_other_buffers(tmp_path: Path) -> None:
    import array

    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 100)
    numbers = array.array("I", [0] * 10)
    async with aiouring.open(path, "rb") as file:
        assert await file.readinto(numbers) == 40
        assert numbers.tobytes() == bytes(range(40))
        with pytest.raises(TypeError, match="read-write"):
            await file.readinto(b"read only")
        big = memoryview(bytearray(20_000))
        assert await file.readinto(big[10:]) == 19_990


async def test_a_large_text_of_every_newline(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a\r\nb\rc\nd" * 20_000)
    for newline in (None, "", "\n", "\r", "\r\n"):
        async with aiouring.open(path, newline=newline) as file:
            lines = [line async for line in file]
            newlines = file.newlines
        with builtins.open(path, newline=newline) as theirs:
            assert lines == list(theirs)
            assert newlines == theirs.newlines


# -- on another loop ------------------------------------------------------------------------------------------------------------------------------


def test_on_asyncios_loop(tmp_path: Path) -> None:
    path = tmp_path / "a"

    async def main() -> None:
        async with aiouring.open(path, "w+", encoding="utf-8") as file:
            assert await file.write("é\nb\n") == 4
            await file.seek(0)
            assert [line async for line in file] == ["é\n", "b\n"]
            assert await file.pread(2, 0) == "é".encode()
            assert await file.pwrite(b"c", 3) == 1
            buffer = bytearray(2)
            assert await file.preadv([buffer], 3) == 2
            assert buffer == b"c\n"
            await file.fsync()
            assert file.encoding == "utf-8"
            assert file.fileno() > 2
            assert await file.buffer.raw.tell() == 5
            with pytest.raises(AttributeError):
                file.nothing  # noqa: B018
            order = await asyncio.gather(file.seek(0), file.read(1), file.read(1))
            assert list(order) == [0, "é", "\n"]
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        with pytest.raises(FileNotFoundError):
            await aiouring.open(tmp_path / "missing")

    asyncio.run(main())


async def test_a_file_belongs_to_its_loop(tmp_path: Path) -> None:
    async with aiouring.open(tmp_path / "a", "wb") as file:
        await file.write(b"x")

        def other() -> BaseException:
            async def main() -> None:
                await file.flush()

            with pytest.raises(RuntimeError) as caught:
                aiouring.run(main())
            return caught.value

        assert "loop" in str(await asyncio.to_thread(other))
        await file.flush()


async def test_encoding_warning(tmp_path: Path) -> None:
    code = f"import aiouring\nasync def main():\n    (await aiouring.open({str(tmp_path / 'a')!r}, 'w')).close().close()\naiouring.run(main())"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "warn_default_encoding", "-W", "ignore::ResourceWarning", "-c", code, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert b"EncodingWarning: 'encoding' argument not specified" in stderr
    assert b"<string>:3" in stderr


async def test_defaults_are_the_builtins(tmp_path: Path) -> None:
    async with aiouring.open(tmp_path / "a", "w") as file:
        with warnings.catch_warnings(), builtins.open(tmp_path / "a", "w") as theirs:
            assert isinstance(theirs, io.TextIOWrapper)
            assert (file.encoding, file.errors) == (theirs.encoding, theirs.errors)


# -- the documentation ----------------------------------------------------------------------------------------------------------------------------


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    """As a reader would try it: a script in a folder of its own."""
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text()
    example = text.split("## Open files", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run([sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "first line\nsecond line\nb'first' b'second' b'FIRST line'\n"
    assert (tmp_path / "notes.txt").read_bytes() == b"FIRST line\nsecond line\n"


def test_the_documentation_names_each_method() -> None:
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text().split("## Open files", 1)[1].split("\n## ", 1)[0]
    for kind in (RawFile, BinaryFile, BinaryReader, TextFile):
        for name in dir(kind):
            assert name.startswith("_") or re.search(rf"`{name}\b", text) or name in ("descriptor", "write_through"), name
