"""What is in a folder: listdir, scandir, walk. The kernel has no request that lists a folder, so this is the executor's work, in pieces.

Used by `fs` and `path`. Calls `executor`, and `_fsop` for an entry's stat().
"""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, AnyStr, Generic, Self

from aiouring import _fsop
from aiouring.executor import in_executor

# Entries that one visit of a thread brings: enough to make the visit's cost small, few enough that a folder of millions is not held at once.
_ENTRIES_A_VISIT = 1000


class DirEntry(Generic[AnyStr]):
    """One entry of a folder, as os.DirEntry. What is_dir() and its relatives need was found out when the folder was read: they never block."""

    __slots__ = ("_directory", "_file", "_folder_fd", "_inode", "_lstat", "_stat", "_symlink", "name", "path")

    name: AnyStr
    path: AnyStr

    def __init__(self, entry: os.DirEntry[AnyStr], folder_fd: int | None) -> None:
        """For scandir(), in the executor's thread: an entry of a file system that does not tell the type makes a system call here."""
        self.name = entry.name
        self.path = entry.path
        self._folder_fd = folder_fd
        self._inode = entry.inode()
        self._symlink = entry.is_symlink()
        self._directory = _answer(entry.is_dir)
        self._file = _answer(entry.is_file)
        self._stat: os.stat_result | None = None
        self._lstat: os.stat_result | None = None

    def inode(self) -> int:
        """The number of the entry's inode."""
        return self._inode

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder, or a symbolic link to one."""
        return _told(self._directory) if follow_symlinks or not self._symlink else False

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file, or a symbolic link to one."""
        return _told(self._file) if follow_symlinks or not self._symlink else False

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self._symlink

    def is_junction(self) -> bool:
        """False: Linux has no junctions."""
        return False

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The entry's stat, asked of the kernel at the first call and remembered, as os.DirEntry does."""
        if not self._symlink or not follow_symlinks:
            if self._lstat is None:
                self._lstat = await self._ask(False)
            return self._lstat
        if self._stat is None:
            self._stat = await self._ask(True)
        return self._stat

    async def _ask(self, follow_symlinks: bool) -> os.stat_result:
        path = self.path if self._folder_fd is None else self.name
        call = _fsop.stat(path, self._folder_fd, follow_symlinks)
        if call is None:
            return await in_executor(os.stat, path, dir_fd=self._folder_fd, follow_symlinks=follow_symlinks)
        return await call

    def __fspath__(self) -> AnyStr:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


def _answer(question: Callable[[], bool]) -> bool | OSError:
    try:
        return question()
    except OSError as error:
        return error  # os.DirEntry raises it when it is asked, and so do we


def _told(answer: bool | OSError) -> bool:
    if isinstance(answer, OSError):
        raise answer.with_traceback(None)
    return answer


class ScandirIterator(Generic[AnyStr]):
    """What scandir() returns: an asynchronous iterator and an asynchronous context manager."""

    def __init__(self, path: Any) -> None:
        self._path = path
        self._folder: Any = None  # os.scandir()'s iterator
        self._folder_fd = path if isinstance(path, int) else None
        self._entries: list[DirEntry[AnyStr]] = []  # the next one last
        self._busy = False
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DirEntry[AnyStr]:
        if not self._entries and not self._over:
            await self._visit(self._read_some)
        if not self._entries:
            raise StopAsyncIteration
        return self._entries.pop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the folder. Entries that were not taken yet are dropped. A folder that was read to its end is closed already."""
        self._entries = []
        self._over = True
        if self._folder is not None:
            await self._visit(self._close)

    async def _visit(self, work: Callable[[], None]) -> None:
        if self._busy:
            raise RuntimeError("another task is reading this folder")
        self._busy = True
        try:
            await in_executor(work)
        finally:
            self._busy = False

    def _read_some(self) -> None:
        """In the executor's thread."""
        entries: list[DirEntry[AnyStr]] = []
        if self._folder is None:
            self._folder = os.scandir(self._path)
        try:
            for entry in self._folder:
                entries.append(DirEntry(entry, self._folder_fd))
                if len(entries) == _ENTRIES_A_VISIT:
                    break
            else:
                self._close()
        except OSError:
            self._close()
            raise
        entries.reverse()
        self._entries = entries

    def _close(self) -> None:
        self._over = True
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()


def scandir(path: Any = ".") -> ScandirIterator[Any]:
    """As os.scandir(), to be used with `async for` and `async with`: the entries of a folder, a thousand at a time from the executor.

    OSError comes from the first step of the iteration. A descriptor as `path` must stay open as long as the entries' stat() is used.
    """
    return ScandirIterator(path)


async def listdir(path: Any = None) -> Any:
    """As os.listdir(): the names in a folder, in no order."""
    return await in_executor(os.listdir, path)


def _list_folder(folder: Any, follow_symlinks: bool) -> tuple[list[Any], list[Any], list[Any]] | OSError:
    """In the executor's thread: the names of the folders and of the rest in a folder, and those of the folders that walk() goes into."""
    folders: list[Any] = []
    rest: list[Any] = []
    to_walk: list[Any] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False  # as os.walk(): is_dir() of a DirEntry that cannot be asked
                if not is_folder:
                    rest.append(entry.name)
                    continue
                folders.append(entry.name)
                if follow_symlinks or not _is_link(entry):
                    to_walk.append(entry.name)
    except OSError as error:
        return error
    return folders, rest, to_walk


def _is_link(entry: os.DirEntry[Any]) -> bool:
    try:
        return entry.is_symlink()
    except OSError:
        return False


async def walk(
    top: Any, topdown: bool = True, onerror: Callable[[OSError], object] | None = None, followlinks: bool = False
) -> AsyncIterator[tuple[Any, list[Any], list[Any]]]:
    """As os.walk(), with `async for`: (folder, names of folders in it, names of the rest) for each folder below `top` and itself.

    With `topdown` the caller may change the list of folders in place. One visit of a thread reads a whole folder.
    """
    stack: list[Any] = [os.fspath(top)]
    while stack:
        folder = stack.pop()
        if isinstance(folder, tuple):
            yield folder
            continue
        found = await in_executor(_list_folder, folder, followlinks)
        if isinstance(found, OSError):
            if onerror is not None:
                onerror(found)
            continue
        folders, rest, to_walk = found
        if topdown:
            known = set(to_walk)
            yield folder, folders, rest
            for name in reversed(folders):
                path = os.path.join(folder, name)
                # Names that the caller has put in are asked for, as os.walk() asks for all.
                if followlinks or name in known or not await _is_symlink(path):
                    stack.append(path)
        else:
            stack.append((folder, folders, rest))
            for name in reversed(to_walk):
                stack.append(os.path.join(folder, name))


async def _is_symlink(path: Any) -> bool:
    try:
        call = _fsop.lstat(path, None)
        found = await in_executor(os.lstat, path) if call is None else await call
    except (OSError, ValueError):
        return False
    return stat_module.S_ISLNK(found.st_mode)
