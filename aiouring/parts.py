"""The partial files of `python -m aiouring cp`: their names, their opening, their comparison with the source, their checksum.

Used by `cp`. All but open_part() blocks, and is called in the executor's threads.

A partial file lies in the target's folder, so that a rename gives it its final name. Its name carries a digest of what the source was (path,
inode, size, time of change): a copy that goes on finds only a part of the same source. Its bytes are compared nevertheless before a copy goes on,
because blocks are written in no order and the last ones before a crash may be missing. Who writes to it holds a lock on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import stat as stat_module
import threading
from typing import Any

from aiouring import _fdop
from aiouring.descriptors import open_fd, stat_fd
from aiouring.executor import in_executor

ENDING = ".aiouring-part"
COMPARE_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_PAGE_BYTES = 4096
_NAME_BYTES_MOST = 255
_DIGITS = 16


class Taken(Exception):
    """The partial file is somebody else's, or another process writes to it."""


def name_of(target: str, src: str, found: os.stat_result) -> str:
    """The partial file's name for a copy of this source."""
    what = f"{os.path.realpath(src)}\0{found.st_ino}\0{found.st_size}\0{found.st_mtime_ns}"
    return _name(target, hashlib.sha256(os.fsencode(what)).hexdigest()[:_DIGITS])


def link_name(target: str) -> str:
    """A name for a symbolic link that is about to be renamed."""
    return _name(target, secrets.token_hex(_DIGITS // 2))


def _name(target: str, digits: str) -> str:
    folder, name = os.path.split(target)
    ending = f".{digits}{ENDING}"
    return os.path.join(folder, "." + os.fsdecode(os.fsencode(name)[: _NAME_BYTES_MOST - len(ending) - 1]) + ending)


def is_part(name: str) -> bool:
    """Whether a file's name is one of ours."""
    digits = name[-len(ENDING) - _DIGITS : -len(ENDING)]
    return name.startswith(".") and name.endswith(ENDING) and len(digits) == _DIGITS and not set(digits) - set("0123456789abcdef")


def others(target: str, part: str) -> list[str]:
    """Partial files for the same target whose source is not this one."""
    folder, own = os.path.split(part)
    beginning = own[: -len(ENDING) - _DIGITS]
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    return sorted(
        os.path.join(folder, name) for name in names if name != own and is_part(name) and name[: -len(ENDING) - _DIGITS] == beginning
    )


async def open_part(part: str, mode: int, direct: bool) -> tuple[int, bool]:
    """Open the partial file, made if it is not there, and lock it. Returns the descriptor and whether it is open with O_DIRECT."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    made = True
    while True:
        try:
            # Made by us, it is ours whoever it belongs to: some mounted file systems give all files to one user.
            fd = await open_fd(part, flags | (os.O_DIRECT if direct else 0) | (os.O_CREAT | os.O_EXCL if made else 0), mode & 0o777 | 0o200)
        except FileExistsError:
            made = False
            continue
        except FileNotFoundError:
            if made:
                raise
            made = True  # it was just renamed or removed
            continue
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
            direct = False
            if made:
                await in_executor(remove, part)  # a file system that refuses O_DIRECT has made the file before
            continue
        try:
            found = await stat_fd(fd)
            if not stat_module.S_ISREG(found.st_mode) or not (made or found.st_uid == os.geteuid()) or found.st_nlink > 1:
                raise Taken(f"{part} is in the way, and no partial copy of ours")
            if await in_executor(_lock, fd, part):
                return fd, direct
        except BlockingIOError:
            _fdop.close_unawaited(fd)
            raise Taken(f"another process is copying it to {part}") from None
        except BaseException:
            _fdop.close_unawaited(fd)
            raise
        _fdop.close_unawaited(fd)  # the other process has just renamed it: it is a complete copy now


def _lock(fd: int, part: str) -> bool:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(part))
    except FileNotFoundError:
        return os.fstat(fd).st_nlink > 0


def remove(path: str) -> None:
    """Remove a file of ours; it may be gone."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def _buffer() -> mmap.mmap:
    """Memory that O_DIRECT takes: it begins at a page."""
    return mmap.mmap(-1, _PIECE_BYTES)


def _read(fd: int, buffer: mmap.mmap, offset: int, most: int) -> memoryview:
    """Up to `most` bytes, fewer only at the file's end."""
    filled = 0
    view = memoryview(buffer)
    while filled < most:
        count = os.preadv(fd, [view[filled:]], offset + filled)
        filled += count
        if count == 0 or count % _PAGE_BYTES:
            break  # O_DIRECT goes on at whole pages only, and an end is there as a rule
    return view[: min(filled, most)]


def compare(src_fd: int, part_fd: int, start: int, end: int, digest: Any) -> int:
    """How many bytes of the source and its partial copy are equal from `start` on, in whole pages, COMPARE_BYTES at most. `digest` gets them."""
    equal = 0
    first, second = _buffer(), _buffer()
    while start + equal < end and equal < COMPARE_BYTES:
        most = min(_PIECE_BYTES, end - start - equal)
        ours, theirs = _read(src_fd, first, start + equal, most), _read(part_fd, second, start + equal, most)
        count = min(len(ours), len(theirs))
        if ours[:count] != theirs[:count]:
            count = _first_difference(ours, theirs, count)
        if count < most or count < _PIECE_BYTES:
            count = count // _PAGE_BYTES * _PAGE_BYTES  # the copy goes on at a page, for O_DIRECT's sake
            if digest is not None:
                digest.update(ours[:count])
            return min(equal + count, COMPARE_BYTES - 1)
        if digest is not None:
            digest.update(ours)
        equal += count
    return equal


def _first_difference(first: memoryview, second: memoryview, end: int) -> int:
    """The beginning of the first page in which they differ."""
    for page in range(0, end, _PAGE_BYTES):
        stop = min(page + _PAGE_BYTES, end)
        if first[page:stop] != second[page:stop]:
            return page
    return end


def same_bytes(stop: threading.Event, first: str, second: str) -> bool:
    """Whether two files have the same contents. False where it is stopped."""
    buffers = _buffer(), _buffer()
    with open(first, "rb", buffering=0) as one, open(second, "rb", buffering=0) as other:
        offset = 0
        while not stop.is_set():
            pieces = _read(one.fileno(), buffers[0], offset, _PIECE_BYTES), _read(other.fileno(), buffers[1], offset, _PIECE_BYTES)
            if pieces[0] != pieces[1]:
                return False
            if not pieces[0]:
                return True
            offset += len(pieces[0])
    return False


def checksum_on_disk(stop: threading.Event, part: str, part_fd: int) -> str:
    """The SHA-256 of what the disk has, not of what the page cache has. The file was fsynced. Where it is stopped, that of a part."""
    os.posix_fadvise(part_fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        digest = hashlib.sha256()
        buffer = _buffer()
        offset = 0
        while not stop.is_set() and (piece := _read(fd, buffer, offset, _PIECE_BYTES)):
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest()
    finally:
        os.close(fd)


def attributes_of(fd: int) -> list[str]:
    """The names of the extended attributes."""
    try:
        return os.listxattr(fd)
    except OSError:
        return []


def is_inside(inner: str, outer: str) -> bool:
    """Whether a path, which need not exist, is a folder or lies in it."""
    inner, outer = os.path.realpath(inner), os.path.realpath(outer)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
