"""All access to the served folder: opening what a path names without ever leaving the folder, reading it, listing folders.

Called by `folder`. What the kernel has a request for goes through the loop's ring (aiouring.fs), the rest runs in worker threads: nothing here
waits in the loop's thread.

A path is resolved by the kernel with openat2(RESOLVE_BENEATH): no "..", no symbolic link and no rename that happens meanwhile leads out of the
root, and absolute links lead nowhere. Where that call is refused (a loop without io_uring under an old seccomp profile) we walk from folder to
folder ourselves, by the same rules. Either way what was checked is the descriptor that is served from: between check and use there is no
name that could change.

Who owns what: an OpenFile owns its descriptor; who gets one closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiouring
from aiouring import fs

T = TypeVar("T")

LINKS_MAX = 40  # the kernel's own limit for symbolic links in one path
TRIES = 5

# Without waiting: opening a named pipe would wait for somebody who writes into it. Not as a controlling terminal.
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TO_LOOK_AT = os.O_PATH | os.O_CLOEXEC
_TO_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Status:
    """What of a file's state says that it is still the same version: two equal ones, and nothing was written in between."""

    mode: int
    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @classmethod
    def of(cls, found: os.stat_result) -> Status:
        return cls(found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


class OpenFile:
    """A regular file, open for reading."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def position(self) -> int:
        """Where the last sendfile() ended, also if it was cancelled."""
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


@dataclass(slots=True)
class Loaded:
    """What a path names. A folder has neither body nor file; neither has a file that is as it was known to be."""

    status: Status
    body: bytes | None = None
    file: OpenFile | None = None


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """One line of a folder."""

    name: bytes
    is_folder: bool
    size: int
    modified_ns: int


class NotServed(OSError):
    """It is there, and it is nothing that is handed out: a pipe, a socket, a device."""


class Files:
    """The files below one folder, which is held open: it may be renamed meanwhile."""

    def __init__(self, root: Path) -> None:
        self._root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._kernel_refuses = False

    def close(self) -> None:
        fd, self._root_fd = self._root_fd, -1
        if fd >= 0:
            os.close(fd)

    async def load(self, path: bytes, body_bytes_max: int, known: Status | None = None) -> Loaded:
        """What is at `path` (relative to the root; b"" is the root itself): its body if that is short, else the open file.

        Raises FileNotFoundError, NotADirectoryError, PermissionError, NotServed, and OSError with EXDEV for a path that leads out of the root.
        """
        # Looked at before it is opened: to open a pipe or a device can do something to it.
        fd = await self._open(path, _TO_LOOK_AT)
        try:
            status = Status.of(await fs.stat(fd))
        finally:
            os.close(fd)
        if status.is_folder or status == known:
            return Loaded(status)
        if not status.is_regular:
            raise NotServed(errno.EACCES, "not a regular file")
        file = OpenFile(await self._open(path, _TO_READ))
        try:
            os.set_blocking(file.fileno(), True)
            return await self._read(file, body_bytes_max)
        except BaseException:
            file.close()
            raise

    @staticmethod
    async def _read(file: OpenFile, body_bytes_max: int) -> Loaded:
        status = Status.of(await fs.stat(file.fileno()))
        if not status.is_regular:
            raise NotServed(errno.EACCES, "not a regular file")  # another file by now than the one that was looked at
        for _ in range(TRIES):
            if status.size > body_bytes_max:
                break
            reader = await aiouring.open(file.fileno(), "rb", 0, closefd=False)
            body = await reader.pread(status.size, 0)  # less than that only where the file has become shorter
            before, status = status, Status.of(await fs.stat(file.fileno()))
            if status == before and len(body) == status.size:
                file.close()
                return Loaded(status, body)
        # It is large, or somebody writes to it all the time. What is sent from the open file is as long as announced, or ends the connection.
        return Loaded(status, file=file)

    async def entries(self, path: bytes, count_max: int, *, dot_files: bool) -> tuple[list[FolderEntry], bool]:
        """What of a folder can be served, in no order, and whether there is more than `count_max`. Raises as load()."""
        fd = await self._open(path, _TO_LIST)
        try:
            return await _in_thread(lambda: self._entries(fd, path, count_max, dot_files))
        finally:
            os.close(fd)

    async def _open(self, path: bytes, flags: int) -> int:
        if not self._kernel_refuses:
            try:
                return await fs.open_beneath(path or b".", flags, dir_fd=self._root_fd)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM) or await self._kernel_resolves():
                    raise
        return await _in_thread(lambda: self._by_walking(path, flags), os.close)

    async def _kernel_resolves(self) -> bool:
        """Whether the kernel refuses a path, and not the call."""
        try:
            os.close(await fs.open_beneath(b".", _TO_LOOK_AT, dir_fd=self._root_fd))
        except OSError:
            self._kernel_refuses = True
        return not self._kernel_refuses

    # -- in a worker thread

    def _entries(self, folder_fd: int, path: bytes, count_max: int, dot_files: bool) -> tuple[list[FolderEntry], bool]:
        found: list[FolderEntry] = []
        with os.scandir(folder_fd) as names:
            for item in names:
                name = os.fsencode(item.name)
                if name.startswith(b".") and not dot_files:
                    continue
                if len(found) == count_max:
                    return found, True
                status = self._status_of_entry(path, name, item)
                if status is not None and (status.is_folder or status.is_regular):
                    found.append(FolderEntry(name, status.is_folder, status.size, status.modified_ns))
        return found, False

    def _status_of_entry(self, path: bytes, name: bytes, item: os.DirEntry[str]) -> Status | None:
        """None for what has gone since, and for links that lead nowhere or out of the root, of which nothing shall be told."""
        try:
            if not item.is_symlink():
                return Status.of(item.stat(follow_symlinks=False))
            fd = self._by_walking(os.path.join(path, name), _TO_LOOK_AT)
            try:
                return Status.of(os.fstat(fd))
            finally:
                os.close(fd)
        except OSError:
            return None

    def _by_walking(self, path: bytes, flags: int) -> int:
        """As fs.open_beneath(), in steps: each from a folder that we hold open to one name in it, and links are followed here."""
        if path.startswith(b"/"):
            raise OSError(errno.EXDEV, "the path leads out of the root")
        folders = [os.dup(self._root_fd)]
        left = _steps(path)
        links = 0
        try:
            while left:
                name = left.pop()
                if name == b".":
                    continue  # behind a file it was an error already, see below
                if name == b"..":
                    if len(folders) == 1:
                        raise OSError(errno.EXDEV, "the path leads out of the root")
                    os.close(folders.pop())
                    continue
                fd = os.open(name, _TO_LOOK_AT | os.O_NOFOLLOW, dir_fd=folders[-1])
                mode = os.fstat(fd).st_mode
                if stat.S_ISLNK(mode):
                    try:
                        target = os.readlink(b"", dir_fd=fd)
                    finally:
                        os.close(fd)
                    links += 1
                    if links > LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if target.startswith(b"/"):
                        raise OSError(errno.EXDEV, "the path leads out of the root")
                    left += _steps(target)
                elif stat.S_ISDIR(mode):
                    folders.append(fd)
                else:
                    os.close(fd)
                    if left:
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    if flags & os.O_DIRECTORY:
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    # Not a link when we looked; if it is one now, O_NOFOLLOW refuses it.
                    return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folders[-1])
            return os.open(b".", flags, dir_fd=folders[-1])
        finally:
            for fd in folders:
                os.close(fd)


async def _in_thread(function: Callable[[], T], drop: Callable[[T], None] | None = None) -> T:
    """`drop` gets what comes when nobody waits for it any more."""
    future = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # Until the function ends, what it works on must not be closed, however often we are told to hurry.
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None and drop is not None:
            drop(future.result())
        raise


def _steps(path: bytes) -> list[bytes]:
    """The names of a path, the first one last. A slash at its end asks for a folder, as a dot behind it does."""
    names = [name for name in path.split(b"/") if name]
    if path.endswith(b"/"):
        names.append(b".")
    return names[::-1]
