"""aiouring.open(): its arguments, and the way from a path to a file.

Used by user code; `aiouring` exports open(). Calls `_fileop`, `_file` and `_textfile`, which do what runs per call; here is what runs once per file.
Calls `executor` for openers, and `threadfiles` on other loops.
"""

from __future__ import annotations

import asyncio
import functools
import io
import locale
import operator
import os
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, SupportsIndex, TypeVar, overload

from aiouring._file import BinaryFile, RawFile, binary_file
from aiouring._fileop import open_descriptor
from aiouring._loop import LoopCore
from aiouring._textfile import TextFile, text_file
from aiouring.executor import descriptor_in_executor, uninterrupted
from aiouring.threadfiles import open_in_thread

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenBinaryModeReading, OpenBinaryModeUpdating, OpenBinaryModeWriting, OpenTextMode

    from aiouring._file import BinaryReader

__all__ = ["open"]

File = TypeVar("File")
Opener = Callable[[Any, int], int]
FileDescriptorOrPath = int | str | bytes | os.PathLike[str] | os.PathLike[bytes]

Path = str | bytes | int

NEW_FILE_MODE = 0o666


class Opening(Coroutine[Any, Any, File], Generic[File]):
    """What open() returns: await it, or use it in `async with`, which closes the file at the end."""

    __slots__ = ("_coroutine", "_file")

    def __init__(self, coroutine: Coroutine[Any, Any, File]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, File]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    async def __aenter__(self) -> File:
        self._file: Any = await self._coroutine
        return self._file

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._file.close()


class _Mode:
    """A mode string, taken apart and checked in the built-in's order."""

    __slots__ = ("binary", "flags", "kinds", "letters")

    def __init__(self, letters: str) -> None:
        self.letters = letters
        kinds = set(letters)
        if kinds - set("axrwb+t") or len(letters) > len(kinds):
            raise ValueError(f"invalid mode: {letters!r}")
        self.binary = "b" in kinds
        if self.binary and "t" in kinds:
            raise ValueError("can't have text and binary mode at once")
        if len(kinds & set("xrwa")) > 1:
            raise ValueError("must have exactly one of create/read/write/append mode")
        if not kinds & set("xrwa"):
            raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
        both = "+" in kinds
        reads, writes = "r" in kinds or both, "r" not in kinds or both
        self.kinds = "r" * reads + "w" * writes + "a" * ("a" in kinds) + "x" * ("x" in kinds)
        self.flags = os.O_CLOEXEC | (os.O_RDWR if reads and writes else os.O_RDONLY if reads else os.O_WRONLY)
        if "w" in kinds:
            self.flags |= os.O_CREAT | os.O_TRUNC
        elif "x" in kinds:
            self.flags |= os.O_CREAT | os.O_EXCL
        elif "a" in kinds:
            self.flags |= os.O_CREAT | os.O_APPEND


_modes: dict[str, _Mode] = {}


@overload
def open(  # noqa: A001
    file: FileDescriptorOrPath,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[TextFile]: ...


@overload
def open(  # noqa: A001
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[RawFile]: ...


@overload
def open(  # noqa: A001
    file: FileDescriptorOrPath,
    mode: OpenBinaryModeReading | OpenBinaryModeUpdating,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[BinaryReader]: ...


@overload
def open(  # noqa: A001
    file: FileDescriptorOrPath,
    mode: OpenBinaryModeWriting,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[BinaryFile]: ...


@overload
def open(  # noqa: A001
    file: FileDescriptorOrPath,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]: ...


def open(  # noqa: A001
    file: FileDescriptorOrPath,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]:
    """The built-in open() for coroutines: `f = await aiouring.open(path)`, or `async with aiouring.open(path) as f`.

    Same arguments, same errors. The file's calls are awaited; what they do is what the built-in's do. `opener` is called in the loop's executor. On a
    loop that is not aiouring's the built-in's file does the work, in that loop's executor.
    """
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    checked = _modes.get(mode)
    if checked is None:
        checked = _modes[mode] = _Mode(mode)
    buffering = operator.index(buffering)
    path: Path
    if isinstance(file, (str, bytes)):
        path = file
    elif isinstance(file, SupportsIndex):
        path = operator.index(file)
        if path < 0:
            raise ValueError("negative file descriptor")
    else:
        path = os.fspath(file)
    if not closefd and not isinstance(path, int):
        raise ValueError("Cannot use closefd=False with file name")
    if checked.binary:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {'a' if name == 'newline' else 'an'} {name} argument")
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
                RuntimeWarning,
                stacklevel=2,
            )
            buffering = -1
        return Opening(_open(path, checked, buffering, None, None, None, closefd, opener))
    if buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    encoding = io.text_encoding(encoding)
    if encoding == "locale":
        encoding = locale.getencoding()  # it may change while the program runs
    return Opening(_open(path, checked, buffering, encoding, errors, newline, closefd, opener))


async def _open(
    path: Path,
    mode: _Mode,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Opener | None,
) -> Any:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, LoopCore):
        return await open_in_thread(path, mode.letters, buffering, encoding, errors, newline, closefd, opener)
    if encoding is None:
        return await _open_binary(loop, path, mode, buffering, closefd, opener)
    return await _open_text(loop, path, mode, buffering, encoding, errors, newline, closefd, opener)


async def _open_binary(
    loop: Any, path: Path, mode: _Mode, buffering: int, closefd: bool, opener: Opener | None
) -> BinaryFile | RawFile:
    kinds = mode.kinds + "c" * closefd
    if isinstance(path, int):
        return binary_file(loop, path, path, kinds, buffering)
    sys.audit("open", path, mode.letters, mode.flags)
    if opener is None:
        encoded = os.fsencode(path)
        if b"\0" in encoded:
            raise ValueError("embedded null byte")
        kinds += "p"
        fd = await open_descriptor(loop, encoded, path, mode.flags, NEW_FILE_MODE)
    else:
        fd = await _call_opener(opener, path, mode.flags)
    try:
        file = binary_file(loop, fd, path, kinds, buffering)
    except BaseException:
        os.close(fd)
        raise
    if opener is None and mode.kinds == "r" and file._is_fifo():
        return await _with_writer(loop, file, path, mode, kinds, buffering)
    return file


async def _with_writer(
    loop: Any, file: BinaryFile | RawFile, path: str | bytes, mode: _Mode, kinds: str, buffering: int
) -> BinaryFile | RawFile:
    """open() of a FIFO returns when its other end is open, but the kernel's first attempt does not wait.

    So it is opened once more, in a worker of the kernel, which waits. What was opened first tells of a writer that has come and gone meanwhile, for
    whom the second would wait in vain.
    """
    fd = file.fileno()
    waiting = asyncio.ensure_future(open_descriptor(loop, os.fsencode(path), path, mode.flags, NEW_FILE_MODE, True))
    written = loop.create_future()
    try:
        loop.add_reader(fd, lambda: written.done() or written.set_result(None))
        try:
            await asyncio.wait({waiting, written}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})
                if waiting.cancelled():
                    return file
        finally:
            loop.remove_reader(fd)
        second = binary_file(loop, waiting.result(), path, kinds, buffering)
    except BaseException as exc:
        waiting.cancel()
        # Where the coroutine is closed nobody can wait: its loop has gone, as a rule, and has closed what was opened.
        if not isinstance(exc, GeneratorExit):
            await uninterrupted(waiting)
        if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
            os.close(waiting.result())
        os.close(file._detach())
        raise
    os.close(file._detach())
    return second


async def _call_opener(opener: Opener, path: str | bytes, flags: int) -> int:
    def call() -> int:
        fd = opener(path, flags)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        os.set_inheritable(fd, False)
        return fd

    return await descriptor_in_executor(call)


@functools.lru_cache(maxsize=64)
def _checked_text(encoding: str, errors: str | None, newline: str | None) -> tuple[str, str]:
    """What the encoding and the error handler are called. The built-in's class checks the arguments."""
    model = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    assert model.errors is not None
    return model.encoding, model.errors


async def _open_text(
    loop: Any,
    path: Path,
    mode: _Mode,
    buffering: int,
    encoding: str,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Opener | None,
) -> TextFile:
    binary = await _open_binary(loop, path, mode, -1 if buffering == 1 else buffering, closefd, opener)
    assert isinstance(binary, BinaryFile)
    try:
        line_buffering = buffering == 1 or (buffering < 0 and binary.isatty())
        return text_file(binary, mode.letters, *_checked_text(encoding, errors, newline), newline, line_buffering)
    except BaseException:
        await binary.close()
        raise
