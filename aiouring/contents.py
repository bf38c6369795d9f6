"""Whole files: read_bytes, write_bytes, read_text, write_text.

Used by `fs` and `path`. Calls `_readfile`, `descriptors` and `executor`.
"""

from __future__ import annotations

import errno
import io
import os
import random
import stat as stat_module
from typing import Any

from aiouring import _fsop, _readfile
from aiouring._types import StrOrBytesPath
from aiouring.descriptors import close_fd, drop_file, fsync_fd, fsync_folder, open_fd, opened, stat_fd, turn, write_all
from aiouring.executor import in_executor

Buffer = bytes | bytearray | memoryview

_NAME_BYTES_MOST = 255
# For names that are free as a rule; O_EXCL finds out. One system call for the seed, none for a name.
_numbers = random.Random()


async def read_bytes(path: StrOrBytesPath) -> bytes:
    """All bytes of a file.

    OPENAT, READ and CLOSE requests that follow each other without the task. Large files are read a mebibyte at a time, so that the rest of the
    loop has its turn. At most 64 files are open at once on a loop; more calls wait in line.
    """
    call = _readfile.read_bytes(path)
    if call is None:
        return await in_executor(_read_bytes, path)
    return await call


def _read_bytes(path: StrOrBytesPath) -> bytes:
    with open(path, "rb") as file:
        return file.read()


async def read_text(path: StrOrBytesPath, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
    """All text of a file: decoded, and with line ends translated, as open() does."""
    encoding = io.text_encoding(encoding)
    with io.TextIOWrapper(io.BytesIO(await read_bytes(path)), encoding, errors, newline) as text:
        return text.read()


async def write_bytes(path: StrOrBytesPath, data: Buffer, *, atomic: bool = False) -> int:
    """Write a file of these bytes, and return their number. A file of that name is overwritten.

    atomic: the file has its old contents or all the new ones at every moment, for everyone who opens it and after a crash of the machine. A temporary
    file in the same folder is written, fsynced and renamed, and the folder is fsynced. A symbolic link stays, and what it leads to is
    replaced. Mode and, as far as permitted, owner and group of the file that was there are kept; its access control lists, extended
    attributes and hard links are not. What is no regular file cannot be replaced: OSError with EINVAL. After an error or a cancellation the
    temporary file is gone and the old file is there, but for one that comes after the rename (from the folder's fsync): then the new one is.

    Without `atomic` an error or a cancellation leaves the file partly written, as open() and write() would.

    `data` other than bytes is copied first. At most 32 whole-file calls that write have files open at once on a loop; more wait in line.
    """
    path = os.fspath(path)
    plain = data if type(data) is bytes else bytes(memoryview(data))
    async with turn():
        if atomic:
            await _replace(path, plain)
        else:
            async with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666) as fd:
                await write_all(fd, plain, path)
    return len(plain)


async def write_text(
    path: StrOrBytesPath,
    data: str,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    atomic: bool = False,
) -> int:
    """Write a file of this text, and return its number of characters: encoded, and with line ends translated, as open() does.

    Text that cannot be encoded raises UnicodeEncodeError before the file is touched. The rest is as with write_bytes().
    """
    if not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")
    encoding = io.text_encoding(encoding)
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding, errors, newline)
    count = text.write(data)
    text.flush()
    await write_bytes(path, raw.getvalue(), atomic=atomic)
    return count


# -- atomic -------------------------------------------------------------------------------------------------------------------------------------


async def _replace(path: Any, data: bytes) -> None:
    target, found = await file_to_replace(path)
    temporary, fd = await open_temporary(target, 0o666) if found is None else await open_temporary(target, found.st_mode, replacing=True)
    try:
        await write_all(fd, data, path)
        if found is not None:
            await take_over(fd, found.st_mode, found)
        await fsync_fd(fd, path)
    except BaseException as error:
        await drop_file(fd, temporary, error)
        raise
    await put_in_place(fd, temporary, target, durably=True)


async def file_to_replace(path: Any) -> tuple[Any, os.stat_result | None]:
    """The path without a symbolic link at its end, and what is there: a regular file or None. OSError for everything else."""
    found = await stat_or_none(path, False)
    if found is not None and stat_module.S_ISLNK(found.st_mode):
        path = await in_executor(os.path.realpath, path)
        found = await stat_or_none(path, False)
    if found is None or stat_module.S_ISREG(found.st_mode):
        return path, found
    if stat_module.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "it is no regular file, so it cannot be replaced by one", path)


async def stat_or_none(path: Any, follow_symlinks: bool) -> os.stat_result | None:
    try:
        call = _fsop.stat(path, None, follow_symlinks)
        if call is None:
            return await in_executor(os.stat, path, follow_symlinks=follow_symlinks)
        return await call
    except FileNotFoundError:
        return None


def temporary_name(target: Any, middle: str) -> Any:
    """A hidden name in the target's folder that says what it is for."""
    folder, name = os.path.split(target)
    ending = f".{middle}.tmp"
    raw = os.fsencode(name)[: _NAME_BYTES_MOST - len(ending) - 1]
    hidden = b"." + raw + ending.encode()
    return os.path.join(folder, hidden if isinstance(target, bytes) else os.fsdecode(hidden))


async def open_temporary(target: Any, mode: int, flags: int = 0, *, replacing: bool = False) -> tuple[Any, int]:
    """A new file beside the target, open for writing: its name and its descriptor.

    replacing: its group may be another one than that of the file which it will replace. What others may not do, the group may not either, until
    take_over() has given it group and mode.
    """
    if replacing:
        mode &= ~0o070 | (mode & 0o007) << 3
    while True:
        name = temporary_name(target, f"{_numbers.getrandbits(48):012x}")
        try:
            return name, await open_fd(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | flags, mode & 0o777)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno == errno.EINVAL and flags:
                await drop_file(-1, name, error)  # a file system that refuses O_DIRECT has made the file before
            # The caller knows nothing of our name.
            raise OSError(error.errno, error.strerror, target) from None
        except BaseException as error:
            await drop_file(-1, name, error)  # cancelled, and it may have been made
            raise


async def take_over(fd: int, mode: int, owner: os.stat_result | None) -> None:
    """Give a new file this mode, and, as far as this process may, owner and group of the file that it will replace."""
    made = await stat_fd(fd)
    mode = stat_module.S_IMODE(mode)
    uid, gid = (made.st_uid, made.st_gid) if owner is None else (owner.st_uid, owner.st_gid)
    if (made.st_uid, made.st_gid, stat_module.S_IMODE(made.st_mode)) != (uid, gid, mode):
        await in_executor(_take_over, fd, made, mode, uid, gid)


def _take_over(fd: int, made: os.stat_result, mode: int, uid: int, gid: int) -> None:
    """In a thread. What cannot be given away must not run as ours, and not as the group that it has."""
    if made.st_uid != uid:
        try:
            os.fchown(fd, uid, -1)
        except PermissionError:
            mode &= ~stat_module.S_ISUID
    if made.st_gid != gid:
        try:
            os.fchown(fd, -1, gid)
        except PermissionError:
            mode &= ~stat_module.S_ISGID
    os.fchmod(fd, mode)  # last: a change of owner takes bits away


async def put_in_place(fd: int, name: Any, target: Any, *, durably: bool, keep: bool = False) -> None:
    """Close a temporary file that is complete, and rename it to its final name. On an error it is removed, unless the caller wants to keep it."""

    async def drop(error: BaseException) -> None:
        if not keep:
            await drop_file(-1, name, error)

    try:
        await close_fd(fd, target)
    except BaseException as error:
        await drop(error)
        raise
    try:
        call = _fsop.rename(name, target, None, None)
        if call is None:
            await in_executor(os.rename, name, target)
        else:
            await call
    except OSError as error:
        await drop(error)
        raise OSError(error.errno, error.strerror, target) from None
    except BaseException as error:
        await drop(error)
        raise
    if durably:
        await fsync_folder(os.path.dirname(target) or (b"." if isinstance(target, bytes) else "."))
