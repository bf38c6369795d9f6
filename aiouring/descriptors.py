"""Bare descriptors, for work on whole files: open, write, fsync, close, on the ring where that can be and in the executor elsewhere.

Used by `contents` and `copying`. Calls `_fdop` and `executor`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from types import TracebackType

from aiouring import _fdop, _fsop
from aiouring._types import StrOrBytesPath
from aiouring.executor import in_executor, open_in_executor

# Files that whole-file calls of one loop have open at once, so that a program may begin ten thousand calls without running out of descriptors.
_FILES_AT_ONCE = 32

FALLOC_FL_KEEP_SIZE = 1


def turn() -> asyncio.Semaphore:
    """What a call holds while it has files open: `async with turn():`. A call that holds it waits for no other that needs it."""
    attributes = vars(asyncio.get_running_loop())
    semaphore: asyncio.Semaphore | None = attributes.get("_turns_of_files")
    if semaphore is None:
        semaphore = attributes["_turns_of_files"] = asyncio.Semaphore(_FILES_AT_ONCE)
    return semaphore


async def open_fd(path: StrOrBytesPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """A new descriptor, which is not inherited. OSError names the path."""
    call = _fdop.open_fd(path, flags, mode, dir_fd)
    if call is None:
        return await open_in_executor(path, flags | os.O_CLOEXEC, mode, dir_fd)
    return await call


async def close_fd(fd: int, path: StrOrBytesPath) -> None:
    """Close it, and wait for the answer, which can be that earlier writes failed. Whatever is raised, it is closed."""
    call = _fdop.close(fd, path)
    if call is None:
        await in_executor(os.close, fd)
    else:
        await call


class opened:
    """A descriptor for an `async with`. Where the block ends well, so has its close; an error of the block wins over the close's.

    A class and not a generator: a coroutine that is closed closes no asynchronous generator which it waits in (before Python 3.13).
    """

    def __init__(self, path: StrOrBytesPath, flags: int, mode: int = 0o777) -> None:
        self._path = path
        self._flags = flags
        self._mode = mode
        self._fd = -1

    async def __aenter__(self) -> int:
        self._fd = await open_fd(self._path, self._flags, self._mode)
        return self._fd

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if exc is None:
            await close_fd(self._fd, self._path)
        else:
            _fdop.close_unawaited(self._fd)


async def write_all(fd: int, data: bytes, path: StrOrBytesPath) -> None:
    """Write all the bytes at the start of the file."""
    call = _fdop.write_all(fd, data, path)
    if call is None:
        await in_executor(_write_all, fd, data, path)
    else:
        await call


def _write_all(fd: int, data: bytes, path: StrOrBytesPath) -> None:
    written = 0
    while written < len(data):
        try:
            count = os.write(fd, data[written : written + 1048576])
        except OSError as error:
            raise named(error, path) from None
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        written += count


def named(error: OSError, path: StrOrBytesPath) -> OSError:
    """The same error with the name of the file that it is about."""
    return OSError(error.errno, error.strerror, os.fspath(path))


async def fsync_fd(fd: int, path: StrOrBytesPath) -> None:
    """Wait until the file's contents and attributes are on the disk."""
    call = _fdop.fsync(fd, path)
    if call is not None:
        return await call
    try:
        await in_executor(os.fsync, fd)
    except OSError as error:
        raise named(error, path) from None


async def allocate_fd(fd: int, length: int, path: StrOrBytesPath, *, keep_size: bool) -> None:
    """Reserve room for `length` bytes, where the file system can. OSError when there is not that much room."""
    call = _fdop.allocate(fd, length, FALLOC_FL_KEEP_SIZE if keep_size else 0, path)
    if call is None:
        return  # it is an optimisation
    try:
        await call
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


async def stat_fd(fd: int) -> os.stat_result:
    """As os.fstat()."""
    call = _fsop.stat(fd, None, True)
    return await in_executor(os.fstat, fd) if call is None else await call


async def truncate_fd(fd: int, length: int, path: StrOrBytesPath) -> None:
    """As os.ftruncate()."""
    call = _fsop.truncate(fd, length)
    try:
        await (in_executor(os.ftruncate, fd, length) if call is None else call)
    except OSError as error:
        raise named(error, path) from None


async def fsync_folder(path: StrOrBytesPath) -> None:
    """Wait until the folder's entries are on the disk, where the file system and the folder's permissions let one ask for that."""
    try:
        async with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            await fsync_fd(fd, path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP):
            raise


async def drop_file(fd: int, path: StrOrBytesPath, error: BaseException) -> None:
    """Close and remove a file of ours while `error` is handled: it is gone when this ends, also when it ends with CancelledError. -1: closed."""
    if fd >= 0:
        _fdop.close_unawaited(fd)
    try:
        if isinstance(error, GeneratorExit):
            os.unlink(path)  # the coroutine is closed, and may not wait
            return
        call = _fsop.unlink(path, None)
        await (in_executor(os.unlink, path) if call is None else call.to_its_end())
    except OSError:
        pass  # it never was, or cannot be removed; the exception that is handled tells more
