"""aiouring.open and the built-in open side by side: the same random operations on two copies of a file, which must not differ in anything.

What is compared after each step: the result or the exception's type and errno, the attributes, and the bytes on the disk; so also when buffered bytes
get there. A step may be a call that is cancelled: it has then done nothing, or all.

The run's seed decides everything (see tests/conftest.py). AIOURING_FILE_MODEL=20 runs twenty times as many examples, and makes one that fails as
short as can be, which takes minutes.
"""

from __future__ import annotations

import asyncio
import builtins
import io
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import aiouring

FACTOR = float(os.environ.get("AIOURING_FILE_MODEL") or 0)

# Where something changes in the built-in's buffer (a block of the disk, 8 KiB), in its text chunks (8 KiB), in what is read ahead (32 to 256 KiB), in
# reads that go past that (64 KiB), or in the buffers that a test asks for.
EDGES = [1, 2, 3, 7, 16, 100, 512, 4096, 8192, 2 * 8192, 32768, 65536, 131072, 262144]
SIZES = strategies.one_of(
    strategies.integers(0, 20),
    strategies.integers(0, 300),
    strategies.builds(lambda edge, off: max(0, edge + off), strategies.sampled_from(EDGES), strategies.integers(-2, 2)),
    strategies.integers(0, 20_000),
    strategies.integers(0, 400_000),
)
SOME_SIZES = strategies.one_of(strategies.none(), strategies.just(-1), SIZES, SIZES, SIZES, strategies.integers(-9, -1))
SEEDS = strategies.integers(0, 2**32)
NEWLINES = ["\n", "\r", "\r\n", "\n\n", "\r\r\n", "\n\r"]
# What an encoding has; more than it has is drawn as well.
ALPHABETS = {
    "utf-8": "abc dé–√😀",
    "utf-8-sig": "abc dé–√😀\ufeff",
    "utf-16": "abc dé–√😀",
    "utf-16-le": "abc dé–√😀",
    "latin-1": "abc déß",
    "ascii": "abc d",
    "shift_jis": "abc dあ漢字ｱ",
}
ENCODINGS = [*ALPHABETS, None]
ERRORS = [None, "strict", "replace", "ignore", "surrogateescape", "backslashreplace"]


# --- what is written and read


def make_text(seed: int, size: int, encoding: str | None) -> str:
    """Lines of `size` characters together: of one length or of many, with one kind of newline or with all."""
    chance = random.Random(seed)
    alphabet = ALPHABETS[encoding or "utf-8"]
    if chance.random() < 0.3:
        alphabet = "abcdefgh "
    elif chance.random() < 0.1:
        alphabet += "é漢\udc80"
    newlines = NEWLINES if chance.random() < 0.5 else [chance.choice(NEWLINES[:3])]
    longest = chance.choice([1, 10, 80, 80, 1000, 30_000, 10**9])
    # One line over and over, so that a text of many is made quickly; its length is no power of two.
    pattern = ""
    while len(pattern) < min(size, 997):
        pattern += "".join(chance.choices(alphabet, k=chance.randrange(min(longest, 200) + 1)))
        pattern += chance.choice(newlines) if longest < 200 or chance.random() < 200 / longest else ""
        pattern += "." if not pattern else ""
    return (pattern * (size // max(1, len(pattern)) + 1))[:size]


def make_bytes(seed: int, size: int, encoding: str | None) -> bytes:
    """Text in this encoding, at times with bytes in it that are none; cut, at times, in the midst of a character."""
    chance = random.Random(seed)
    data = bytearray(make_text(seed, size, encoding).encode(encoding or "utf-8", "ignore"))
    if chance.random() < 0.25:
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data) + 1)
            data[at:at] = chance.choice([b"\xff", b"\x80\x81", b"\xed\xa0\x80", b"\x00", b"\xf0\x9f"])
    return bytes(data[:size])


# --- how one is opened


class How:
    """The arguments of open()."""

    def __init__(self, mode: str, **options: Any) -> None:
        self.mode = mode
        self.options = options

    def __repr__(self) -> str:
        return f"open({self.mode!r}, {', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def modes(binary: bool) -> strategies.SearchStrategy[str]:
    letters = strategies.sampled_from(["r", "r", "r", "w", "a", "x"])
    return strategies.builds(lambda letter, plus: letter + plus + ("b" if binary else ""), letters, strategies.sampled_from(["", "+", "+"]))


BUFFER_SIZES = strategies.one_of(strategies.just(-1), strategies.sampled_from([2, 3, 7, 16, 100, 512, 4096, 8192, 10_000, 100_000]))
HOW = {
    "raw": strategies.builds(How, modes(True), buffering=strategies.just(0)),
    "buffered": strategies.builds(How, modes(True), buffering=strategies.one_of(BUFFER_SIZES, BUFFER_SIZES, BUFFER_SIZES, strategies.just(1))),
    "text": strategies.builds(
        How,
        modes(False),
        buffering=strategies.one_of(BUFFER_SIZES, strategies.just(1)),
        encoding=strategies.sampled_from(ENCODINGS),
        errors=strategies.sampled_from(ERRORS),
        newline=strategies.sampled_from([None, "", "\n", "\r", "\r\n"]),
    ),
    # What open() refuses, or warns of.
    "odd": strategies.builds(
        How,
        strategies.sampled_from(["r", "rb", "w", "wb", "rw", "", "b", "rbt", "z", "r++", "+", "U", "rtb+", "xa"]),
        buffering=strategies.sampled_from([-1, 0, 1, -7, 5]),
        encoding=strategies.sampled_from([None, None, "utf-8", "no such", "base64"]),
        errors=strategies.sampled_from([None, None, "strict", "no such"]),
        newline=strategies.sampled_from([None, None, "", "x", "\n\n"]),
    ),
}


CLASSES = {"raw": io.RawIOBase, "buffered": io.BufferedIOBase, "text": io.TextIOBase}


# --- what a call came to


def end_of(error: BaseException) -> tuple[object, ...]:
    """What is compared of an exception. The end of an iteration is one, in either world."""
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        return ("the end",)
    return ("raised", type(error), error.errno if isinstance(error, OSError) else None)


def outcome(call: Callable[[], object]) -> tuple[object, ...]:
    try:
        value = call()
    except Exception as error:
        return end_of(error)
    return ("returned", type(value), bytes(value) if isinstance(value, memoryview) else value)


class FileModel(RuleBasedStateMachine):
    """One file and its copy. `kind` is a key of HOW; `loop` and `folder` are the test's."""

    kind: str
    loop: asyncio.AbstractEventLoop
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.their_path, self.our_path = self.folder / "theirs", self.folder / "ours"
        self.theirs: Any = None
        self.ours: Any = None
        self.how = How("")
        self.cookies: list[int] = []
        # After a cancelled call the stream is where it was, but less of it may be in the buffer: then only what must be is compared.
        self.same_buffers = True
        # It was written to, and neither flushed nor moved since.
        self.has_just_written = False
        # Lines were taken from it by iteration, which makes a text file forget from where.
        self.has_iterated = False
        # After that it was flushed, which lets it tell, though it does not know: the built-in then reads beyond the bytes that it has kept.
        self.tells_nonsense = False

    # -- both at once

    def await_(self, call: Any) -> object:
        async def main() -> object:
            return await call

        return self.loop.run_until_complete(main())

    def compare(self, theirs: Callable[[], object], ours: Callable[[], Any], what: str = "") -> tuple[object, ...]:
        """A call of the built-in, and one of ours, which is awaited."""
        expected = outcome(theirs)
        found = outcome(lambda: self.await_(ours()))
        assert found == expected, what
        if expected[0] == "raised" and issubclass(expected[1], UnicodeError):  # type: ignore[arg-type]
            # Where a text stream is after what it could not decode or encode differs between Pythons.
            self.both("seek", 0)
        return found

    def both(self, name: str, *arguments: Any, ours: tuple[Any, ...] | None = None) -> tuple[object, ...]:
        """The same method of both with the same arguments (or, for what each has its own of, others); gives the outcome."""
        mine = arguments if ours is None else ours
        came = self.compare(
            lambda: getattr(self.theirs, name)(*arguments), lambda: getattr(self.ours, name)(*mine), f"{name}{arguments!r:.100}"
        )
        self.note(name, came[0] == "returned")
        return came

    def note(self, name: str, returned: bool) -> None:
        if name in ("flush", "truncate") and self.has_iterated and self.kind == "text":
            self.tells_nonsense = True
        elif name == "seek" and returned:
            self.has_iterated = self.tells_nonsense = False

    def seek_before_tell(self) -> None:
        if self.tells_nonsense and not self.theirs.closed:
            self.both("seek", 0)

    def look(self, call: Callable[[Any], object]) -> None:
        """The same of both, which is not awaited."""
        expected, found = outcome(lambda: call(self.theirs)), outcome(lambda: call(self.ours))
        assert found == expected

    @property
    def is_open(self) -> bool:
        return self.theirs is not None

    @property
    def encoding(self) -> str | None:
        return self.how.options.get("encoding")

    # -- the beginning and the end

    @initialize(seed=SEEDS, size=SIZES, encoding=strategies.sampled_from(ENCODINGS), exists=strategies.sampled_from([True] * 9 + [False]))
    def begin(self, seed: int, size: int, encoding: str | None, exists: bool) -> None:
        self.content_encoding = encoding
        for path in (self.their_path, self.our_path):
            path.unlink(missing_ok=True)
            if exists:
                path.write_bytes(make_bytes(seed, size, encoding))

    def open_both(self, how: How) -> None:
        def open_one(function: Callable[..., Any], path: Path) -> tuple[tuple[object, ...], Any]:
            opened: Any = None

            def call() -> None:
                nonlocal opened
                opened = function(path, how.mode, **how.options)

            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                came = outcome(call)
            return (*came, [warning.category for warning in warned if came[0] == "returned"]), opened

        expected, theirs = open_one(builtins.open, self.their_path)
        found, ours = open_one(lambda *arguments, **options: self.await_(aiouring.open(*arguments, **options)), self.our_path)
        # Each stays where it can be closed before anything is compared.
        self.theirs, self.ours, self.how, self.cookies, self.same_buffers = theirs, ours, how, [], True
        self.has_just_written = self.has_iterated = self.tells_nonsense = False
        assert found == expected
        if theirs is not None:
            # FileIO learns by its first seek whether it can seek, and learns nothing good from one that fails.
            self.look(lambda file: file.seekable())
            assert ours.name == str(self.our_path)

    @precondition(lambda self: not self.is_open)
    @rule(data=strategies.data(), anew=strategies.sampled_from([False] * 5 + [True]))
    def open(self, data: strategies.DataObject, anew: bool) -> None:
        how = data.draw(HOW[self.kind])
        if self.kind == "text" and "r" in how.mode and data.draw(strategies.integers(0, 3)):
            how.options["encoding"] = self.content_encoding  # mostly what the file is in
        if anew or "x" in how.mode:
            for path in (self.their_path, self.our_path):
                path.unlink(missing_ok=True)
        self.open_both(how)

    @precondition(lambda self: not self.is_open)
    @rule(how=HOW["odd"], times=strategies.integers(0, 7))
    def open_oddly(self, how: How, times: int) -> None:
        if times:
            return
        if not how.mode.endswith("b") and how.options["buffering"] == 0:
            how.options["buffering"] = -1  # the built-in makes or empties the file before it refuses that
        self.open_both(how)
        if self.is_open and not isinstance(self.theirs, CLASSES[self.kind]):
            # What the steps do with it is made for the kind.
            self.both("close")
            self.forget()

    @precondition(lambda self: self.is_open)
    @rule(times=strategies.integers(0, 12))
    def close(self, times: int) -> None:
        if times < 8:
            return
        self.both("close")
        self.look(lambda file: file.closed)

    @precondition(lambda self: self.is_open and self.theirs.closed)
    @rule()
    def forget(self) -> None:
        """From here on they can be opened again."""
        self.theirs = self.ours = None

    @invariant()
    def the_same_bytes_are_on_the_disk(self) -> None:
        if not hasattr(self, "content_encoding"):
            return
        expected = self.their_path.read_bytes() if self.their_path.exists() else None
        found = self.our_path.read_bytes() if self.our_path.exists() else None
        # By hand: pytest's comparison of two long strings takes minutes.
        if found != expected:
            assert found is not None and expected is not None, (found, expected)
            assert len(found) == len(expected)
            at = next(place for place in range(len(found)) if found[place] != expected[place])
            assert found[at : at + 20] == expected[at : at + 20], f"they differ from {at} on"

    def teardown(self) -> None:
        if self.is_open:
            try:
                self.both("close")
            finally:
                for file in (self.theirs, self.ours):
                    if file is not None and not file.closed:
                        outcome(file.close if file is self.theirs else lambda: self.await_(self.ours.close()))
            self.the_same_bytes_are_on_the_disk()

    # -- reading

    def flush_before_read1(self) -> None:
        """The built-in's BufferedRandom.read1() does not flush, so it reads at a wrong place and later writes at one; its text files call it. Nobody
        should have that."""
        if self.has_just_written and self.kind != "raw" and not self.theirs.closed:
            self.both("flush")
            self.has_just_written = False

    @precondition(lambda self: self.is_open)
    @rule(size=SOME_SIZES)
    def read(self, size: int | None) -> None:
        if size is not None and size < -1 and not self.theirs.closed and not self.theirs.readable():
            size = -1  # which of two mistakes is named is not compared
        self.flush_before_read1()
        self.both("read", size)

    @precondition(lambda self: self.is_open)
    @rule(size=SOME_SIZES)
    def readline(self, size: int | None) -> None:
        self.flush_before_read1()
        self.both("readline", size)

    @precondition(lambda self: self.is_open)
    @rule()
    def one_line(self) -> None:
        self.flush_before_read1()
        self.both("readline")

    @precondition(lambda self: self.is_open)
    @rule(hint=SOME_SIZES)
    def readlines(self, hint: int | None) -> None:
        self.has_iterated = True
        self.flush_before_read1()
        self.both("readlines", hint)

    @precondition(lambda self: self.is_open)
    @rule(count=strategies.integers(1, 30))
    def iterate(self, count: int) -> None:
        self.flush_before_read1()
        self.has_iterated = True

        def theirs() -> list[Any]:
            lines = []
            for line in self.theirs:
                lines.append(line)
                if len(lines) == count:
                    break
            return lines

        async def ours() -> list[Any]:
            lines = []
            async for line in self.ours:
                lines.append(line)
                if len(lines) == count:
                    break
            return lines

        self.compare(theirs, ours)

    @precondition(lambda self: self.is_open)
    @rule()
    def next_line(self) -> None:
        self.has_iterated = True
        self.flush_before_read1()
        self.compare(lambda: next(self.theirs), lambda: self.ours.__anext__())

    @precondition(lambda self: self.is_open and self.kind != "text")
    @rule(size=SIZES, name=strategies.sampled_from(["readinto", "readinto1"]), what=strategies.sampled_from([bytearray, bytes]))
    def readinto(self, size: int, name: str, what: type[Any]) -> None:
        if name == "readinto1":
            self.flush_before_read1()
        if name == "readinto1" and (self.kind == "raw" or not self.same_buffers):
            name = "readinto"
        if self.theirs.closed or not self.theirs.readable():
            what = bytearray  # which of two mistakes is named is not compared
        theirs, ours = what(size), what(size)
        self.both(name, theirs, ours=(ours,))
        assert ours == theirs

    @precondition(lambda self: self.is_open and self.kind == "buffered" and self.same_buffers)
    @rule(size=strategies.one_of(SIZES, strategies.integers(-3, -1)), name=strategies.sampled_from(["read1", "peek"]))
    def what_is_there(self, size: int, name: str) -> None:
        self.flush_before_read1()
        if hasattr(self.theirs, name):
            self.both(name, size)
        else:
            assert not hasattr(self.ours, name)

    @precondition(lambda self: self.is_open and self.kind == "raw")
    @rule()
    def readall(self) -> None:
        if self.theirs.closed or self.theirs.readable():  # FileIO.readall() alone does not look first, and reads
            self.both("readall")

    # -- writing

    def seek_before_write(self) -> None:
        """Whether a write to a text file drops what was decoded for an iteration differs between Pythons, so it never comes to that."""
        if self.has_iterated and self.kind == "text" and not self.theirs.closed:
            self.both("seek", 0)
        self.has_just_written = True

    def make(self, seed: int, size: int) -> Any:
        return make_text(seed, size, self.encoding) if self.kind == "text" else make_bytes(seed, size, None)

    @precondition(lambda self: self.is_open)
    @rule(seed=SEEDS, size=SIZES, what=strategies.sampled_from(["as it is", "as it is", "bytearray", "memoryview", "of the wrong type"]))
    def write(self, seed: int, size: int, what: str) -> None:
        data = self.make(seed, size)
        self.seek_before_write()
        if what == "of the wrong type" and not self.theirs.closed and self.theirs.writable():
            data = data.encode(errors="ignore") if isinstance(data, str) else data.decode("latin-1")
        elif isinstance(data, bytes) and what != "as it is":
            data = (bytearray if what == "bytearray" else memoryview)(data)
        self.both("write", data)

    @precondition(lambda self: self.is_open)
    @rule(seed=SEEDS, sizes=strategies.lists(SIZES, max_size=5), bad=strategies.sampled_from([False] * 9 + [True]))
    def writelines(self, seed: int, sizes: list[int], bad: bool) -> None:
        self.seek_before_write()
        lines: list[Any] = [self.make(seed + number, size) for number, size in enumerate(sizes)]
        if bad and not self.theirs.closed and self.theirs.writable():
            lines.append(5)
        self.both("writelines", lines)

    @precondition(lambda self: self.is_open)
    @rule()
    def flush(self) -> None:
        self.both("flush")

    @precondition(lambda self: self.is_open)
    @rule(size=strategies.one_of(strategies.none(), SIZES, strategies.integers(-2, -1)))
    def truncate(self, size: int | None) -> None:
        self.both("truncate", size)

    # -- the position

    @precondition(lambda self: self.is_open)
    @rule()
    def tell(self) -> None:
        self.seek_before_tell()
        if self.same_buffers or self.kind != "text":
            returned, _, *value = self.both("tell")
            if returned == "returned":
                self.cookies.append(value[0])  # type: ignore[arg-type]
        else:
            # It tells the same place in another way.
            expected, found = outcome(self.theirs.tell), outcome(lambda: self.await_(self.ours.tell()))
            assert found[:2] == expected[:2]

    @precondition(lambda self: self.is_open and self.kind != "text")
    @rule(
        offset=strategies.one_of(SIZES, SIZES.map(lambda size: -size)),
        whence=strategies.sampled_from([0, 0, 0, 1, 1, 1, 2, 2, os.SEEK_DATA, os.SEEK_HOLE, 7]),
    )
    def seek(self, offset: int, whence: int) -> None:
        self.both("seek", offset, whence)

    @precondition(lambda self: self.is_open and self.kind == "text")
    @rule(where=strategies.sampled_from([(0,), (0, 0), (0, 1), (0, 2), (0, 2), (1, 1), (1, 2), (-1,), (0, 7)]))
    def seek_in_text(self, where: tuple[int, ...]) -> None:
        if where[1:] == (1,):
            self.seek_before_tell()
        self.both("seek", *where)

    @precondition(lambda self: self.is_open and self.cookies)
    @rule(which=strategies.integers(0, 99))
    def seek_to_a_told_place(self, which: int) -> None:
        self.both("seek", self.cookies[which % len(self.cookies)])

    # -- by position, which the built-in's users do with os.pread and os.pwrite

    def both_by_position(self, theirs: Callable[[int], object], ours: Callable[[], Any]) -> None:
        self.compare(lambda: theirs(self.theirs.fileno()), ours)

    @precondition(lambda self: self.is_open and not self.theirs.closed)
    @rule(size=SIZES.filter(bool), offset=SIZES)
    def pread(self, size: int, offset: int) -> None:
        self.both_by_position(lambda fd: os.pread(fd, size, offset), lambda: self.ours.pread(size, offset))

    @precondition(lambda self: self.is_open and not self.theirs.closed)
    @rule(size=SIZES.filter(bool), offset=SIZES)
    def pread_into(self, size: int, offset: int) -> None:
        theirs, ours = bytearray(size), bytearray(size)
        self.both_by_position(lambda fd: os.preadv(fd, [theirs], offset), lambda: self.ours.pread_into(ours, offset))
        assert ours == theirs

    @precondition(lambda self: self.is_open and not self.theirs.closed)
    @rule(seed=SEEDS, size=SIZES.filter(bool), offset=SIZES)
    def pwrite(self, seed: int, size: int, offset: int) -> None:
        data = make_bytes(seed, size, None)
        self.both_by_position(lambda fd: os.pwrite(fd, data, offset), lambda: self.ours.pwrite(data, offset))

    # -- what is not awaited

    @precondition(lambda self: self.is_open)
    @rule()
    def attributes(self) -> None:
        for name in ("closed", "mode", "encoding", "errors", "newlines", "line_buffering", "write_through"):
            if name == "newlines" and not self.same_buffers:
                continue  # those that a cancelled call has decoded stay known
            if hasattr(self.theirs, name):
                self.look(lambda file, name=name: getattr(file, name))  # type: ignore[misc]
            else:
                assert not hasattr(self.ours, name), name
        for name in ("readable", "writable", "seekable", "isatty"):
            self.look(lambda file, name=name: getattr(file, name)())  # type: ignore[misc]

    @precondition(lambda self: self.is_open)
    @rule(times=strategies.integers(0, 5))
    def fileno(self, times: int) -> None:
        """From here on ours expects that others use the descriptor; so not in each run."""
        if times == 5:
            self.look(lambda file: type(file.fileno()))

    # -- cancellation

    @precondition(lambda self: self.is_open and not self.theirs.closed)
    @rule(
        call=strategies.sampled_from(["read", "readline", "readlines", "readinto", "next", "tell", "write", "flush", "seek"]),
        size=SIZES,
        seed=SEEDS,
        turns=strategies.integers(0, 3),
    )
    def cancelled(self, call: str, size: int, seed: int, turns: int) -> None:
        """A call whose task is cancelled after some turns of the loop: if it says so the built-in does not do it, and else it does."""
        if (call == "readinto" and self.kind == "text") or (call in ("write", "seek") and turns):
            return  # what they have done by then is not said
        self.flush_before_read1()
        if call == "write":
            self.seek_before_write()
        elif call in ("next", "readlines"):
            self.has_iterated = True
        elif call == "tell":
            self.seek_before_tell()
        arguments: tuple[Any, ...] = (size,)
        ours: tuple[Any, ...] = arguments
        if call in ("tell", "flush", "next"):
            arguments = ours = ()
        elif call == "seek":
            arguments = ours = (0, 2)
        elif call == "write":
            arguments = ours = (self.make(seed, size),)
        elif call == "readinto":
            arguments, ours = (bytearray(size),), (bytearray(size),)
        was_cancelled = False

        async def main() -> object:
            nonlocal was_cancelled

            async def work() -> object:
                return await getattr(self.ours, "__anext__" if call == "next" else call)(*ours)

            task = asyncio.ensure_future(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                return await task
            except asyncio.CancelledError:
                was_cancelled = True
                return None

        found = outcome(lambda: self.loop.run_until_complete(main()))
        if was_cancelled:
            if turns:
                self.same_buffers = False
                self.both("flush")  # it may have flushed before it was cancelled
            return
        expected = outcome(lambda: next(self.theirs) if call == "next" else getattr(self.theirs, call)(*arguments))
        assert found == expected
        self.note(call, expected[0] == "returned")
        if call == "readinto":
            assert ours == arguments
        if expected[0] == "raised" and issubclass(expected[1], UnicodeError):  # type: ignore[arg-type]
            self.both("seek", 0)


def settings_of(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=max(1, int(examples * (FACTOR or 1))),
        phases=[hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if FACTOR else [])],
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )


@pytest.mark.timeout(0 if FACTOR else 300)
@pytest.mark.parametrize(("kind", "examples"), [("raw", 60), ("buffered", 120), ("text", 150)])
def test_no_difference(kind: str, examples: int, loop: asyncio.AbstractEventLoop, tmp_path: Path, rng: random.Random) -> None:
    model: type[FileModel] = type(f"FileModelOf{kind.title()}", (FileModel,), {"kind": kind, "loop": loop, "folder": tmp_path})
    seeded = hypothesis.seed(rng.getrandbits(64))(model)
    run_state_machine_as_test(seeded, settings=settings_of(examples))  # type: ignore[no-untyped-call]
