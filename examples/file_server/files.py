"""All access to the served folder: opening what a path names without ever leaving the folder, reading it, listing folders.

Called by `folder` and `listing`. Everything that could wait for a disk runs in worker threads, never in the loop's.

A path is resolved by the kernel with openat2(RESOLVE_BENEATH): no "..", no symbolic link and no rename that happens meanwhile leads out of the
root, and absolute links lead nowhere. Where that call is refused (an old seccomp profile) we walk from folder to folder ourselves, by the same
rules. Either way what was checked is the descriptor that is served from: between check and use there is no name that could change.

Who owns what: an OpenFile owns its descriptor; who gets one closes it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LINKS_MAX = 40  # the kernel's own limit for symbolic links in one path
TRIES = 5

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
# Without waiting: opening a named pipe would wait for somebody who writes into it. Not as a controlling terminal.
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TO_LOOK_AT = os.O_PATH | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


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
        self._open_beneath = self._by_openat2
        try:
            os.close(self._by_openat2(b".", _TO_LOOK_AT))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            self._open_beneath = self._by_walking

    def close(self) -> None:
        fd, self._root_fd = self._root_fd, -1
        if fd >= 0:
            os.close(fd)

    async def load(self, path: bytes, body_bytes_max: int, known: Status | None = None) -> Loaded:
        """What is at `path` (relative to the root; b"" is the root itself): its body if that is short, else the open file.

        Raises FileNotFoundError, NotADirectoryError, PermissionError, NotServed, and OSError with EXDEV for a path that leads out of the root.
        """
        return await self._in_thread(lambda: self._load(path, body_bytes_max, known))

    async def entries(self, path: bytes, count_max: int, *, dot_files: bool) -> tuple[list[FolderEntry], bool]:
        """What of a folder can be served, in no order, and whether there is more than `count_max`. Raises as load()."""
        return await self._in_thread(lambda: self._entries(path, count_max, dot_files))

    @staticmethod
    async def _in_thread(function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, function)

    # -- in a worker thread

    def _load(self, path: bytes, body_bytes_max: int, known: Status | None) -> Loaded:
        # Looked at before it is opened: to open a pipe or a device can do something to it.
        fd = self._open_beneath(path or b".", _TO_LOOK_AT)
        try:
            status = Status.of(os.fstat(fd))
        finally:
            os.close(fd)
        if status.is_folder or status == known:
            return Loaded(status)
        if not status.is_regular:
            raise NotServed(errno.EACCES, "not a regular file")
        file = OpenFile(self._open_beneath(path, _TO_READ))
        try:
            os.set_blocking(file.fileno(), True)
            return self._read(file, body_bytes_max)
        except BaseException:
            file.close()
            raise

    @staticmethod
    def _read(file: OpenFile, body_bytes_max: int) -> Loaded:
        status = Status.of(os.fstat(file.fileno()))
        if not status.is_regular:
            raise NotServed(errno.EACCES, "not a regular file")  # another file by now than the one that was looked at
        if status.size > body_bytes_max:
            return Loaded(status, file=file)
        for _ in range(TRIES):
            body = _read_all(file.fileno(), status.size)
            before, status = status, Status.of(os.fstat(file.fileno()))
            if status == before and len(body) == status.size:
                file.close()
                return Loaded(status, body)
            if status.size > body_bytes_max:
                return Loaded(status, file=file)
        # Somebody writes to it all the time. What is sent from the open file is at least as long as announced, or ends the connection.
        return Loaded(status, file=file)

    def _entries(self, path: bytes, count_max: int, dot_files: bool) -> tuple[list[FolderEntry], bool]:
        fd = self._open_beneath(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found: list[FolderEntry] = []
            with os.scandir(fd) as names:
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
        finally:
            os.close(fd)

    def _status_of_entry(self, path: bytes, name: bytes, item: os.DirEntry[str]) -> Status | None:
        """None for what has gone since, and for links that lead nowhere or out of the root, of which nothing shall be told."""
        try:
            if not item.is_symlink():
                return Status.of(item.stat(follow_symlinks=False))
            fd = self._open_beneath(os.path.join(path, name), _TO_LOOK_AT)
            try:
                return Status.of(os.fstat(fd))
            finally:
                os.close(fd)
        except OSError:
            return None

    # -- without leaving the root

    def _by_openat2(self, path: bytes, flags: int) -> int:
        how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
        for _ in range(TRIES):
            fd: int = _libc.syscall(_OPENAT2, self._root_fd, path, ctypes.byref(how), ctypes.sizeof(how))
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            # EAGAIN: something was renamed while a ".." of a link was followed, and the kernel cannot tell whether that led out.
            if number not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(number, os.strerror(number))

    def _by_walking(self, path: bytes, flags: int) -> int:
        """The same in steps, each from a folder that we hold open to one name in it, following links ourselves."""
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


def _steps(path: bytes) -> list[bytes]:
    """The names of a path, the first one last. A slash at its end asks for a folder, as a dot behind it does."""
    names = [name for name in path.split(b"/") if name]
    if path.endswith(b"/"):
        names.append(b".")
    return names[::-1]


def _read_all(fd: int, size: int) -> bytes:
    """`size` bytes from the beginning, or fewer where the file ends before."""
    body = os.pread(fd, size, 0)
    while len(body) < size:
        more = os.pread(fd, size - len(body), len(body))
        if not more:
            break
        body += more
    return body
