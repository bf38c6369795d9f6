"""aiouring.open() and the built-in open() side by side: the same random calls, and no difference in results, positions, exceptions and bytes."""

from __future__ import annotations

import asyncio
import builtins
import random
import sys
from pathlib import Path
from typing import Any

import pytest

import aiouring

LETTERS = {
    "utf-8": "ab\n\r\n é€😀",
    "latin-1": "ab\n\r é",
    "ascii": "ab\n\r c",
    "utf-16": "ab\n\r €😀",
    "utf-16-le": "ab\n\r€😀",
    "utf-8-sig": "ab\n\ré€",
    "shift_jis": "ab\n\rあい",
    "utf-7": "ab\n\r€é",
    "gb18030": "ab\n\ré€中",
}
SIZES = [-1, 0, 1, 2, 7, 100, 4095, 4096, 4097, 8192, 10000]
READS = {"read", "read1", "readinto", "readinto1", "peek", "readline", "readlines", "next"}
ENDED = "the end"

Call = tuple[str, tuple[Any, ...]]


class Files:
    """One file of each, opened alike, with the same content."""

    def __init__(self, rng: random.Random, folder: Path, text: bool, modes: list[str]) -> None:
        self.rng = rng
        self.text = text
        self.mode = rng.choice(modes)
        self.buffering = rng.choice([-1, -1, -1, 2, 16, 100, 8192, 50000])
        self.encoding = rng.choice(["utf-8", *LETTERS])
        self.options: dict[str, Any] = {}
        if text:
            self.options = {
                "encoding": self.encoding,
                "newline": rng.choice([None, None, "", "\n", "\r", "\r\n"]),
                "errors": rng.choice(["strict", "replace"]),
            }
            if rng.random() < 0.1:
                self.buffering = 1
        else:
            self.mode += "b"
            if rng.random() < 0.2:
                self.buffering = 0
        content: Any = self.content() + self.content()
        if text:
            content = content.encode(self.encoding)
        if rng.random() < 0.1:
            content = rng.randbytes(3000)
        self.paths = folder / "ours", folder / "builtin"
        for path in self.paths:
            path.unlink(missing_ok=True)
            if "x" not in self.mode:
                path.write_bytes(content)
        self.told = [0]
        self.unflushed = False  # what was written since the last flush
        self.iterated = False
        self.log: list[object] = [f"{self.mode} buffering={self.buffering} {self.options} {len(content)} bytes"]

    async def open(self) -> None:
        self.ours: Any = await aiouring.open(self.paths[0], self.mode, self.buffering, **self.options)
        self.builtin: Any = builtins.open(self.paths[1], self.mode, self.buffering, **self.options)  # noqa: SIM115

    def content(self) -> Any:
        size = self.rng.choice([0, 1, 10, 300, 4096, 5000, 9000, 20000])
        if self.text:
            return "".join(self.rng.choices(LETTERS[self.encoding], k=size))
        return bytes(self.rng.choices(b"ab\n\r\x00\xff", k=size))

    def next_call(self) -> Call:
        rng, text = self.rng, self.text
        size = rng.choice(SIZES)
        choices: list[Call] = [
            ("read", (size,)),
            ("read", (size,)),
            ("readline", (rng.choice([-1, 0, 1, 5, 5000]),)),
            ("readline", ()),
            ("readlines", (rng.choice([-1, 0, 1, 500]),)),
            ("next", ()),
            ("write", ()),
            ("write", ()),
            ("writelines", ()),
            ("tell", ()),
            ("tell", ()),
            ("seek", (rng.choice(self.told),)),
            ("seek", (0 if text else rng.choice([0, 1, 5, 100, 4096, 8000, 30000]),)),
            ("seek", (0, 2)),
            ("seek", (0 if text else rng.choice([-3, 0, 2, 5, 5000]), 1)),
            ("seek", (0 if text else rng.choice([-3, 0, 5]), 2)),
            ("truncate", (rng.choice([0, 1, 10, 5000]),)),
            ("truncate", ()),
            ("flush", ()),
            ("attributes", ()),
        ]
        if not text:
            choices += [
                ("peek", (rng.choice([0, 1, 10]),)),
                ("read1", (size,)),
                ("readinto", (rng.choice([0, 1, 10, 4096, 9000]),)),
                ("readinto1", (rng.choice([0, 1, 10, 4096, 9000]),)),
            ]
        if rng.random() < 0.02:
            return ("close", ())
        call = rng.choice(choices)
        if call[0] == "write":
            return ("write", (self.content(),))
        if call[0] == "writelines":
            return ("writelines", ([self.content()[:50] for _ in range(rng.randrange(4))],))
        return call

    async def where_the_builtin_errs(self, name: str) -> None:
        """Around two faults of it. Before 3.13 it may read before it has flushed, and writes what waited elsewhere then; and its tell() may take
        an old state for one of now when lines were read by next(), tell() was switched on again, and nothing has moved it."""
        if sys.version_info < (3, 13) and self.unflushed and "+" in self.mode and name in READS:
            await self.both(("flush", ()))
            self.unflushed = False
        if self.text and self.iterated and not self.builtin.closed and name not in ("next", "tell", "readlines", "attributes", "close"):
            await self.both(("seek", (0,)))
            self.iterated = self.unflushed = False
        self.iterated = self.iterated or name in ("next", "readlines")
        self.unflushed = self.unflushed or name in ("write", "writelines")

    async def both(self, call: Call) -> object:
        expected = outcome(self.builtin, call)
        result = await ours(self.ours, call)
        self.log.append((call[0], str(call[1])[:60], str(expected)[:100], str(result)[:100]))
        assert result == expected, self.report()
        return result

    async def end(self) -> None:
        await self.both(("close", ()))
        assert self.paths[0].read_bytes() == self.paths[1].read_bytes(), self.report()

    def report(self) -> str:
        return "\n".join(str(line) for line in [self.log[0], *self.log[1:][-10:]])


def attributes(file: Any) -> list[object]:
    names = ["closed", "mode", "encoding", "errors", "newlines", "line_buffering"]
    found = [getattr(file, name, None) for name in names]
    for name in ["readable", "writable", "isatty"]:
        try:
            found.append(getattr(file, name)())
        except Exception as exc:
            found.append(type(exc))
    return found


def prepared(file: Any, call: Call) -> tuple[Any, tuple[Any, ...], bytearray | None]:
    name, args = call
    if name in ("readinto", "readinto1"):
        buffer = bytearray(args[0])
        return getattr(file, name), (buffer,), buffer
    return getattr(file, name), args, None


def outcome(file: Any, call: Call) -> object:
    try:
        if call[0] == "next":
            return next(file, ENDED)
        if call[0] == "attributes":
            return attributes(file)
        function, args, buffer = prepared(file, call)
        result = function(*args)
        return result if buffer is None else (result, bytes(buffer))
    except Exception as exc:
        return type(exc), getattr(exc, "errno", None)


async def ours(file: Any, call: Call) -> object:
    try:
        if call[0] == "next":
            return await anext(file, ENDED)
        if call[0] == "attributes":
            return attributes(file)
        function, args, buffer = prepared(file, call)
        result = await function(*args)
        return result if buffer is None else (result, bytes(buffer))
    except Exception as exc:
        return type(exc), getattr(exc, "errno", None)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("part", range(2))
async def test_random_calls(rng: random.Random, tmp_path: Path, text: bool, part: int) -> None:
    for _ in range(150):
        files = Files(rng, tmp_path, text, ["r", "r", "w", "a", "r+", "w+", "a+", "x", "x+"])
        await files.open()
        try:
            for _ in range(rng.randrange(1, 40)):
                call = files.next_call()
                await files.where_the_builtin_errs(call[0])
                result = await files.both(call)
                if call[0] == "tell" and isinstance(result, int):
                    files.told.append(result)
            await files.end()
        finally:
            await files.ours.close()
            files.builtin.close()


async def cancelled_somewhere(rng: random.Random, call: Any) -> object:
    """The call's outcome; None if it was cancelled: before its request was made, while that was in flight, or before the task had the result."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(call)
    turns = rng.randrange(4)

    def later() -> None:
        nonlocal turns
        turns -= 1
        if turns < 0:
            task.cancel()
        else:
            loop.call_soon(later)

    later()
    try:
        return await task
    except asyncio.CancelledError:
        return None


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("part", range(2))
async def test_cancelled_calls_leave_no_trace(rng: random.Random, tmp_path: Path, text: bool, part: int) -> None:
    """As above, but some reads, seeks and tells are cancelled. For the built-in's file they do not happen."""
    cancelled = 0
    for _ in range(150):
        files = Files(rng, tmp_path, text, ["r", "r", "r+", "w+"])
        files.options.pop("errors", None)
        if text:
            files.options["errors"] = "replace"
        await files.open()
        try:
            for _ in range(rng.randrange(1, 40)):
                call = files.next_call()
                # What these return depends on what is in the buffer, which a cancelled call may change.
                if call[0] in ("attributes", "close", "peek", "read1", "readinto1"):
                    continue
                await files.where_the_builtin_errs(call[0])
                if call[0] in READS | {"seek", "tell", "flush"} and rng.random() < 0.5:
                    result = await cancelled_somewhere(rng, ours(files.ours, call))
                    if result is None and call[0] != "flush":
                        cancelled += 1
                        files.log.append((call[0], "cancelled"))
                        if text and call[0] in ("next", "readlines"):
                            await files.both(("seek", (0,)))
                            files.iterated = False
                        continue
                    expected = outcome(files.builtin, call)
                    files.log.append((call[0], str(call[1])[:60], str(expected)[:100], str(result)[:100]))
                    assert result == expected, files.report()
                else:
                    result = await files.both(call)
                if call[0] == "tell" and isinstance(result, int):
                    files.told.append(result)
            await files.end()
        finally:
            await files.ours.close()
            files.builtin.close()
    assert cancelled > 50
