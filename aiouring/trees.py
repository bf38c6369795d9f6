"""Trees of files: copytree, rmtree.

Used by `fs` and `cp`. Calls `copying` for each file, `_fsop`, `descriptors` and `executor` (which lists the folders).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat as stat_module
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from aiouring import _fdop, _fsop
from aiouring.copying import Progress, copy_link, copyfile, stat_path
from aiouring.descriptors import open_fd
from aiouring.executor import in_executor

T = TypeVar("T")

# What one folder of a tree has in work at once.
_ENTRIES_AT_ONCE = 16
_FOLDER_ITSELF = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


# -- copies -----------------------------------------------------------------------------------------------------------------------


async def each(items: Iterable[T], work: Callable[[T], Awaitable[object]], at_once: int = _ENTRIES_AT_ONCE) -> None:
    """`await work(item)` for each, a few at a time. The first exception ends the others and is raised."""
    iterator = iter(items)

    async def worker() -> None:
        for item in iterator:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class _Entry:
    """One entry of a folder that is copied."""

    __slots__ = ("kind", "name", "size")

    def __init__(self, name: Any, kind: str, size: int = 0) -> None:
        self.name = name
        self.kind = kind  # folder, file, link, dangling, special
        self.size = size


def _list_tree_folder(folder: Any, symlinks: bool) -> list[_Entry]:
    """In a thread."""
    entries = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_symlink():
                if symlinks:
                    entries.append(_Entry(entry.name, "link"))
                    continue
                if not os.path.exists(entry.path):
                    entries.append(_Entry(entry.name, "dangling"))
                    continue
            if entry.is_dir():
                entries.append(_Entry(entry.name, "folder"))
            elif entry.is_file():
                try:
                    size = entry.stat().st_size
                except OSError:
                    size = 0  # it has just gone, for example: its own copy tells, and the other entries are copied
                entries.append(_Entry(entry.name, "file", size))
            else:
                entries.append(_Entry(entry.name, "special"))
    return entries


def _copy_stats(pairs: list[tuple[Any, Any, bool]]) -> list[tuple[Any, Any, str]]:
    """In a thread: times, extended attributes and modes of many entries at once."""
    errors = []
    for src, dst, follow in pairs:
        try:
            shutil.copystat(src, dst, follow_symlinks=follow)
        except OSError as error:
            errors.append((src, dst, str(error)))
    return errors


class _Tree:
    """One copytree()."""

    def __init__(
        self, symlinks: bool, ignore: Any, ignore_dangling: bool, exist_ok: bool, progress: Progress | None, direct: bool
    ) -> None:
        self.symlinks = symlinks
        self.ignore = ignore
        self.ignore_dangling = ignore_dangling
        self.exist_ok = exist_ok
        self.progress = progress
        self.direct = direct
        self.errors: list[Any] = []
        self.plan: dict[Any, list[_Entry]] = {}
        self.done = self.total = 0

    async def measure(self, folder: Any) -> None:
        entries = self.plan[folder] = await self._entries(folder)
        for entry in entries:
            if entry.kind == "file":
                self.total += entry.size
            elif entry.kind == "folder":
                try:
                    await self.measure(os.path.join(folder, entry.name))
                except OSError:
                    pass  # the copy tells

    async def _entries(self, folder: Any) -> list[_Entry]:
        entries = await in_executor(_list_tree_folder, folder, self.symlinks)
        if self.ignore is not None:
            ignored = self.ignore(os.fspath(folder), [entry.name for entry in entries])
            entries = [entry for entry in entries if entry.name not in ignored]
        return entries

    async def folder(self, src: Any, dst: Any, above: bool = False) -> None:
        entries = self.plan.pop(src, None)
        if entries is None:
            entries = await self._entries(src)
        await self._make(dst, above)
        stats: list[tuple[Any, Any, bool]] = []

        async def one(entry: _Entry) -> None:
            src_path, dst_path = os.path.join(src, entry.name), os.path.join(dst, entry.name)
            try:
                if await self._one(entry, src_path, dst_path):
                    stats.append((src_path, dst_path, entry.kind != "link"))
            except shutil.Error as error:
                self.errors.extend(error.args[0] if isinstance(error.args[0], list) else [(src_path, dst_path, str(error))])
            except OSError as error:
                self.errors.append((src_path, dst_path, str(error)))

        await each((entry for entry in entries if entry.kind != "folder"), one)
        for entry in entries:
            if entry.kind == "folder":
                try:
                    await self.folder(os.path.join(src, entry.name), os.path.join(dst, entry.name))
                except OSError as error:
                    self.errors.append((os.path.join(src, entry.name), os.path.join(dst, entry.name), str(error)))
        stats.append((src, dst, True))
        self.errors += await in_executor(_copy_stats, stats)

    async def _make(self, folder: Any, above: bool) -> None:
        if above:
            await in_executor(os.makedirs, folder, exist_ok=self.exist_ok)
            return
        call = _fsop.mkdir(folder, 0o777, None)
        try:
            await (in_executor(os.mkdir, folder) if call is None else call)
        except FileExistsError:
            if not self.exist_ok or not stat_module.S_ISDIR((await stat_path(folder, True)).st_mode):
                raise

    async def _one(self, entry: _Entry, src: Any, dst: Any) -> bool:
        """Copy what is no folder. False: there is nothing whose times are to be copied."""
        if entry.kind == "dangling":
            if self.ignore_dangling:
                return False
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), src)
        if entry.kind == "special":
            raise shutil.SpecialFileError(f"{os.fsdecode(src)!r} is no regular file")
        if entry.kind == "link":
            await copy_link(src, dst)
            return True
        before = 0

        def moved(done: int, total: int) -> None:
            nonlocal before
            self.done += done - before
            before = done
            if self.progress is not None:
                self.progress(self.done, max(self.done, self.total))

        await copyfile(src, dst, progress=None if self.progress is None else moved, direct=self.direct)
        return True


async def copytree(
    src: Any,
    dst: Any,
    symlinks: bool = False,
    ignore: Callable[[Any, list[Any]], Iterable[Any]] | None = None,
    ignore_dangling_symlinks: bool = False,
    dirs_exist_ok: bool = False,
    *,
    progress: Progress | None = None,
    direct: bool = False,
) -> Any:
    """As shutil.copytree(): a folder with all that is in it, with modes, times and extended attributes; returns `dst`.

    Each file is copied as by copyfile(), sixteen of a folder at once. Errors of single entries are collected, and raised at the end as
    shutil.Error with a list of (source, target, message). progress: called with (bytes done, bytes in all) of the tree, which is listed
    before the first copy for that. direct: as for copyfile().

    After a cancellation the files that were complete are there.
    """
    src, dst = os.fspath(src), os.fspath(dst)
    tree = _Tree(symlinks, ignore, ignore_dangling_symlinks, dirs_exist_ok, progress, direct)
    if progress is not None:
        await tree.measure(src)
        progress(0, tree.total)
    await tree.folder(src, dst, above=True)
    if tree.errors:
        raise shutil.Error(tree.errors)
    return dst


# -- removal ---------------------------------------------------------------------------------------------------------------------


async def rmtree(
    path: Any,
    ignore_errors: bool = False,
    onerror: Callable[[Any, Any, Any], object] | None = None,
    *,
    onexc: Callable[[Any, Any, BaseException], object] | None = None,
) -> None:
    """As shutil.rmtree(): remove a folder and all that is in it.

    It works by descriptors of folders, so that no symbolic link which somebody puts in the way meanwhile leads it elsewhere. onexc: called with
    (function of os, path, exception) for each error instead of raising the first; onerror: the same with a tuple as of sys.exc_info() in its
    last place. After a cancellation a part of the tree is gone.
    """

    def failed(function: Any, where: Any, error: OSError) -> None:
        if error.errno is not None or sys.version_info >= (3, 12):
            error.filename = where
        if ignore_errors:
            return
        if onexc is not None:
            onexc(function, where, error)
        elif onerror is not None:
            onerror(function, where, (type(error), error, error.__traceback__))
        else:
            raise error

    path = os.fspath(path)
    try:
        fd = await open_fd(path, _FOLDER_ITSELF)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and await _is_link(path):
            failed(os.path.islink, path, OSError("Cannot call rmtree on a symbolic link"))
        else:
            failed(os.open, path, error)
        return
    try:
        await _empty(fd, path, failed)
    finally:
        _fdop.close_unawaited(fd)
    await _remove(os.rmdir, path, None, path, failed)


async def _is_link(path: Any) -> bool:
    try:
        return stat_module.S_ISLNK((await stat_path(path, False)).st_mode)
    except OSError:
        return False


def _list_folder_fd(fd: int) -> list[tuple[str, bool]]:
    """In a thread."""
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


async def _empty(fd: int, path: Any, failed: Callable[[Any, Any, OSError], None]) -> None:
    try:
        entries = await in_executor(_list_folder_fd, fd)
    except OSError as error:
        failed(os.scandir, path, error)
        return

    def full(name: str) -> Any:
        return os.path.join(path, os.fsencode(name) if isinstance(path, bytes) else name)

    async def remove_file(name: str) -> None:
        await _remove(os.unlink, name, fd, full(name), failed)

    await each((name for name, is_folder in entries if not is_folder), remove_file)
    for name, is_folder in entries:
        if not is_folder:
            continue
        try:
            inner = await open_fd(name, _FOLDER_ITSELF, dir_fd=fd)
        except OSError as error:
            failed(os.open, full(name), error)
            continue
        try:
            await _empty(inner, full(name), failed)
        finally:
            _fdop.close_unawaited(inner)
        await _remove(os.rmdir, name, fd, full(name), failed)


async def _remove(function: Any, name: Any, dir_fd: int | None, path: Any, failed: Callable[[Any, Any, OSError], None]) -> None:
    call = (_fsop.rmdir if function is os.rmdir else _fsop.unlink)(name, dir_fd)
    try:
        await (in_executor(function, name, dir_fd=dir_fd) if call is None else call)
    except OSError as error:
        failed(function, path, error)
