"""copyfile(): blocks in flight, a temporary name, a rename.

Used by `fs`, `trees` and `cp`. Calls `_copy` (the blocks), `_fsop`, `contents`, `descriptors` and `executor`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat as stat_module
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from aiouring import _copy, _fdop, _fsop
from aiouring.contents import file_to_replace, open_temporary, put_in_place, stat_or_none, take_over
from aiouring.descriptors import allocate_fd, drop_file, fsync_fd, open_fd, stat_fd, truncate_fd, turn
from aiouring.executor import in_executor

Progress = Callable[[int, int], object]
Digest = Callable[[memoryview | bytes], object]

_BLOCK_BYTES = 256 * 1024
_DIRECT_BLOCK_BYTES = 1024 * 1024
_BLOCKS = 8
# What every disk's O_DIRECT takes: a page.
_DIRECT_ALIGNMENT = 4096
# Room is reserved for files from this size on: below, what it saves is less than what it costs.
_ALLOCATE_FROM_BYTES = 1024 * 1024
# Where there is no ring a thread copies this much at a time, so that the progress is told and a cancellation is heard.
_THREAD_PIECE_BYTES = 8 * 1024 * 1024
_NO_END = 2**63 - 1


async def copyfile(
    src: Any,
    dst: Any,
    *,
    follow_symlinks: bool = True,
    progress: Progress | None = None,
    direct: bool = False,
    fsync: bool = False,
) -> Any:
    """Copy a regular file's contents and mode; returns `dst`. As shutil.copy(), but that `dst` is a file's name and not a folder's.

    Several blocks are in flight at once, read ahead and written behind each other. They go to a temporary file in the folder of `dst`, which
    is renamed when it is complete: the name `dst` never leads to a part of the copy. Room for a large file is reserved first, so a full disk
    is known early; holes of a sparse file stay holes. A file that was there is replaced: its owner is kept as far as permitted. If `dst` is
    a symbolic link, what it leads to is replaced.

    progress: called in the loop's thread with (bytes done, bytes in all); what it raises ends the copy and is raised. direct: bypass the page cache
    with O_DIRECT and buffers registered with the ring, on each side whose file system takes it. fsync: return when the copy is on the disk, name
    and all. follow_symlinks=False: a symbolic link is copied as such.

    Raises shutil.SameFileError, shutil.SpecialFileError for what is no regular file, and OSError with the name of the file that it is about.
    A source that changes meanwhile is copied as it is found. After an error or a cancellation `dst` is what it was, and the temporary file is gone.
    """
    src, dst = os.fspath(src), os.fspath(dst)
    async with turn():
        if not follow_symlinks and stat_module.S_ISLNK((await stat_path(src, False)).st_mode):
            await copy_link(src, dst)
            return dst
        async with source(src, direct) as (src_fd, before, src_direct):
            target, existing = await target_of(src, dst, before)
            dst_direct = direct
            flags = os.O_DIRECT if direct else 0
            try:
                temporary, dst_fd = await open_temporary(target, before.st_mode, flags, replacing=existing is not None)
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
                dst_direct = False
                temporary, dst_fd = await open_temporary(target, before.st_mode, replacing=existing is not None)
            try:
                await copy_contents(
                    src_fd, dst_fd, src=src, dst=dst, size=before.st_size, sparse=is_sparse(before),
                    progress=progress, direct=src_direct or dst_direct,
                )  # fmt: skip
                await take_over(dst_fd, before.st_mode, existing)
                if fsync:
                    await fsync_fd(dst_fd, dst)
            except BaseException as error:
                await drop_file(dst_fd, temporary, error)
                raise
            await put_in_place(dst_fd, temporary, target, durably=fsync)
    return dst


class source:
    """A regular file to copy from, for an `async with`: its descriptor, its stat, and whether it was opened with O_DIRECT."""

    def __init__(self, path: Any, direct: bool = False) -> None:
        self._path = path
        self._direct = direct
        self._fd = -1

    async def __aenter__(self) -> tuple[int, os.stat_result, bool]:
        # Before it is opened, which for a pipe would wait for its other end.
        _check_regular(await stat_path(self._path, True), self._path)
        if self._direct:
            try:
                self._fd = await open_fd(self._path, os.O_RDONLY | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
        if self._fd < 0:
            self._fd = await open_fd(self._path, os.O_RDONLY)
        try:
            found = await stat_fd(self._fd)
            _check_regular(found, self._path)
        except BaseException:
            _fdop.close_unawaited(self._fd)
            raise
        return self._fd, found, self._direct

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        _fdop.close_unawaited(self._fd)


def _check_regular(found: os.stat_result, path: Any) -> None:
    if stat_module.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat_module.S_ISREG(found.st_mode):
        raise shutil.SpecialFileError(f"{os.fsdecode(path)!r} is no regular file")


async def target_of(src: Any, dst: Any, found: os.stat_result) -> tuple[Any, os.stat_result | None]:
    """What the copy replaces: its path without a symbolic link at its end, and its stat, or None."""
    existing = await stat_or_none(dst, True)
    if existing is not None:
        if os.path.samestat(existing, found):
            raise shutil.SameFileError(f"{src!r} and {dst!r} are the same file")
        _check_regular(existing, dst)
    return await file_to_replace(dst)


async def stat_path(path: Any, follow_symlinks: bool) -> os.stat_result:
    call = _fsop.stat(path, None, follow_symlinks)
    return await in_executor(os.stat, path, follow_symlinks=follow_symlinks) if call is None else await call


async def copy_link(src: Any, dst: Any) -> None:
    says = await in_executor(os.readlink, src)
    call = _fsop.symlink(says, dst, None)
    await (in_executor(os.symlink, says, dst) if call is None else call)


def is_sparse(found: os.stat_result) -> bool:
    """Whether the file has less on the disk than its size: holes, as a rule."""
    return found.st_blocks * 512 < found.st_size


async def copy_contents(
    src_fd: int,
    dst_fd: int,
    *,
    src: Any,
    dst: Any,
    size: int,
    sparse: bool,
    start: int = 0,
    progress: Progress | None = None,
    direct: bool = False,
    digest: Digest | None = None,
) -> int:
    """Copy from `start` to the source's end, between descriptors; returns where that end was found, which the target's size is then.

    size: the source's, as far as known. digest: called with all bytes from `start` on, in order, in the executor's threads.
    """
    extents = [(start, _NO_END)]
    if sparse:
        extents = await in_executor(_data_of, src_fd, start, size, direct)
        extents.append((max(start, size), _NO_END))  # what came behind the end meanwhile
    allocated = not sparse and size - start >= _ALLOCATE_FROM_BYTES and await _allocate(dst_fd, size, dst, direct)
    told = None if progress is None else _Told(progress)
    if told is not None:
        told(start, size)
    # A small file needs no more memory than it has bytes, and some to find its end in.
    left = max(size - start, 0)
    block_bytes = min(_DIRECT_BLOCK_BYTES if direct else _BLOCK_BYTES, left // _DIRECT_ALIGNMENT * _DIRECT_ALIGNMENT + _DIRECT_ALIGNMENT)
    call = _copy.copy_blocks(
        src_fd, dst_fd, src=src, dst=dst, start=start, extents=extents, total=size, block_bytes=block_bytes,
        depth=min(_BLOCKS, left // block_bytes + 1), alignment=_DIRECT_ALIGNMENT if direct else 1, progress=told, digest=digest,
    )  # fmt: skip
    if call is None:
        end, written = await _copy_in_threads(src_fd, dst_fd, src, dst, start, extents, size, told, digest)
    else:
        end, written = await call
    if written != end or (allocated and size != end):
        await truncate_fd(dst_fd, end, dst)  # a hole at the end, the rest of O_DIRECT's last sector, room that was not needed
    if told is not None and told.last != (end, end):
        told(end, end)
    return end


class _Told:
    """A progress that knows what it has told last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.last = (-1, -1)

    def __call__(self, done: int, total: int) -> None:
        self.last = (done, total)
        self._progress(done, total)


def _data_of(fd: int, start: int, size: int, direct: bool) -> list[tuple[int, int]]:
    """In a thread: where the file has data, up to `size`."""
    extents = []
    while start < size:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
            start = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # no more data
            if error.errno != errno.EINVAL:
                raise
            begin, start = start, size  # this file system does not tell
        if direct:
            begin = begin // _DIRECT_ALIGNMENT * _DIRECT_ALIGNMENT
            start = -(-start // _DIRECT_ALIGNMENT) * _DIRECT_ALIGNMENT
        if begin < size:
            extents.append((begin, start))
    return extents


async def _allocate(fd: int, size: int, dst: Any, direct: bool) -> bool:
    """Reserve room for the whole copy, where that makes sense. Whether it was tried."""
    # File systems without a disk of their own (tmpfs, NFS, overlay) have major number 0. There it is of no use or costs as much as writing.
    if os.major((await stat_fd(fd)).st_dev) == 0:
        return False
    await allocate_fd(fd, size, dst, keep_size=not direct)  # O_DIRECT is slow where it extends the file
    return True


async def _copy_in_threads(
    src_fd: int,
    dst_fd: int,
    src: Any,
    dst: Any,
    offset: int,
    extents: Iterable[tuple[int, int]],
    size: int,
    progress: Progress | None,
    digest: Digest | None,
) -> tuple[int, int]:
    """copy_blocks() without a ring."""
    written = offset
    for start, stop in extents:
        if digest is not None and start > offset:
            await in_executor(_digest_zeros, digest, start - offset)
        offset = start
        while offset < stop:
            count = await in_executor(_copy_piece, src_fd, dst_fd, src, dst, offset, min(stop - offset, _THREAD_PIECE_BYTES), digest)
            if count == 0:
                return offset, written
            offset = written = offset + count
            if progress is not None:
                progress(offset, max(offset, size))
    return offset, written


def _digest_zeros(digest: Digest, count: int) -> None:
    zeros = bytes(65536)
    while count > 0:
        digest(zeros[:count])
        count -= len(zeros)


def _copy_piece(src_fd: int, dst_fd: int, src: Any, dst: Any, offset: int, count: int, digest: Digest | None) -> int:
    done = 0
    while done < count:
        try:
            data = os.pread(src_fd, min(count - done, _BLOCK_BYTES), offset + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, src) from None
        if not data:
            break
        if digest is not None:
            digest(data)
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(dst_fd, view, offset + done)
            except OSError as error:
                raise OSError(error.errno, error.strerror, dst) from None
            done += written
            view = view[written:]
    return done
