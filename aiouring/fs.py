"""File-system calls for asynchronous programs, with the names, arguments, results and exceptions of `os` and `shutil`.

What the kernel has as an io_uring request goes through the ring; the rest, and what the running kernel or another loop has no request for,
goes through the loop's executor. `docs/files.md` has the table. Nothing here blocks the loop's thread.

Calls `_fsop` (one call, one request), `contents` (whole files), `copying`, `trees`, `scan` (folders) and `executor`. `Path` is
built on it.

Cancelling: a call that is cancelled raises CancelledError when the kernel or the thread is done with it. Whether it has taken effect is then
not known, but it takes none later.
"""

from __future__ import annotations

import os
import stat as stat_module
from typing import Any

from aiouring import _beneath, _fsop
from aiouring._types import FdOrPath, StrOrBytesPath
from aiouring.contents import read_bytes, read_text, write_bytes, write_text
from aiouring.copying import copyfile
from aiouring.executor import descriptor_in_executor, in_executor
from aiouring.scan import DirEntry, listdir, scandir, walk
from aiouring.trees import copytree, rmtree

__all__ = [
    "DirEntry",
    "access",
    "chmod",
    "chown",
    "copyfile",
    "copytree",
    "exists",
    "getxattr",
    "is_block_device",
    "is_char_device",
    "is_dir",
    "is_fifo",
    "is_file",
    "is_mount",
    "is_socket",
    "is_symlink",
    "lexists",
    "link",
    "listdir",
    "listxattr",
    "lstat",
    "makedirs",
    "mkdir",
    "open_beneath",
    "read_bytes",
    "read_text",
    "readlink",
    "remove",
    "removexattr",
    "rename",
    "replace",
    "rmdir",
    "rmtree",
    "samefile",
    "scandir",
    "setxattr",
    "stat",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "walk",
    "write_bytes",
    "write_text",
]

# -- what a path is -------------------------------------------------------------------------------------------------------------------------


async def stat(path: FdOrPath, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    """As os.stat(): the same fields and values. A STATX request."""
    call = _fsop.stat(path, dir_fd, follow_symlinks)
    if call is None:
        return await in_executor(os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    return await call


async def lstat(path: StrOrBytesPath, *, dir_fd: int | None = None) -> os.stat_result:
    """As os.lstat(): stat() of a symbolic link itself."""
    call = _fsop.lstat(path, dir_fd)
    if call is None:
        return await in_executor(os.lstat, path, dir_fd=dir_fd)
    return await call


async def _mode(path: FdOrPath, follow_symlinks: bool = True) -> int:
    """The st_mode, or 0 where os.path's functions say False: the path does not exist, cannot be reached, or is no path at all."""
    try:
        if follow_symlinks:
            return (await stat(path)).st_mode
        return (await lstat(path)).st_mode  # type: ignore[arg-type]  # an integer is a TypeError there, as in os.path.islink()
    except (OSError, ValueError):
        return 0


async def exists(path: FdOrPath) -> bool:
    """As os.path.exists(): False also where the path cannot be reached. A broken symbolic link does not exist."""
    return await _mode(path) != 0


async def lexists(path: StrOrBytesPath) -> bool:
    """As os.path.lexists(): True also for a broken symbolic link."""
    return await _mode(path, False) != 0


async def is_file(path: FdOrPath) -> bool:
    """Whether it is a regular file, or a symbolic link to one: os.path.isfile()."""
    return stat_module.S_ISREG(await _mode(path))


async def is_dir(path: FdOrPath) -> bool:
    """Whether it is a folder, or a symbolic link to one: os.path.isdir()."""
    return stat_module.S_ISDIR(await _mode(path))


async def is_symlink(path: StrOrBytesPath) -> bool:
    """Whether it is a symbolic link, broken or not: os.path.islink()."""
    return stat_module.S_ISLNK(await _mode(path, False))


async def is_fifo(path: FdOrPath) -> bool:
    """Whether it is a named pipe, or a symbolic link to one."""
    return stat_module.S_ISFIFO(await _mode(path))


async def is_socket(path: FdOrPath) -> bool:
    """Whether it is a unix socket, or a symbolic link to one."""
    return stat_module.S_ISSOCK(await _mode(path))


async def is_block_device(path: FdOrPath) -> bool:
    """Whether it is a block device, or a symbolic link to one."""
    return stat_module.S_ISBLK(await _mode(path))


async def is_char_device(path: FdOrPath) -> bool:
    """Whether it is a character device, or a symbolic link to one."""
    return stat_module.S_ISCHR(await _mode(path))


async def is_mount(path: FdOrPath) -> bool:
    """As os.path.ismount()."""
    return await in_executor(os.path.ismount, path)


async def samefile(first: FdOrPath, second: FdOrPath) -> bool:
    """Whether both are the same file: os.path.samefile()."""
    return os.path.samestat(await stat(first), await stat(second))


async def access(path: FdOrPath, mode: int, *, dir_fd: int | None = None, effective_ids: bool = False, follow_symlinks: bool = True) -> bool:
    """As os.access()."""
    return await in_executor(os.access, path, mode, dir_fd=dir_fd, effective_ids=effective_ids, follow_symlinks=follow_symlinks)


async def readlink(path: Any, *, dir_fd: int | None = None) -> Any:
    """As os.readlink(): what a symbolic link says, as str or bytes like the path."""
    return await in_executor(os.readlink, path, dir_fd=dir_fd)


async def open_beneath(path: StrOrBytesPath, flags: int = os.O_RDONLY, mode: int = 0o777, *, dir_fd: int) -> int:
    """A new descriptor of what `path` names below the folder `dir_fd`, whatever is in the path: for paths that come from somebody else.

    No "..", no symbolic link and no rename that happens meanwhile leads out of the folder, and nothing absolute leads anywhere, not even into it:
    all that is an OSError with EXDEV. `flags` and `mode` are os.open()'s; with os.O_PATH one can look at a thing before opening it for reading.
    The descriptor is not inherited. Cancelled, it leaves no descriptor open.

    An OPENAT2 request with RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS; on other loops openat2(2) in the executor.
    """
    call = _beneath.open_beneath(path, flags, mode, dir_fd)
    if call is None:
        return await descriptor_in_executor(_beneath.open_beneath_now, path, flags, mode, dir_fd)
    return await call


# -- names ------------------------------------------------------------------------------------------------------------------------------------


async def mkdir(path: StrOrBytesPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """As os.mkdir(). A MKDIRAT request (Linux 5.15)."""
    call = _fsop.mkdir(path, mode, dir_fd)
    if call is None:
        return await in_executor(os.mkdir, path, mode, dir_fd=dir_fd)
    return await call


async def makedirs(name: StrOrBytesPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """As os.makedirs(): a folder and those above it that are missing. `mode` is the last one's; the others get 0o777 less the umask."""
    head, tail = os.path.split(os.fspath(name))
    if not tail:
        head, tail = os.path.split(head)
    if head and tail and not await exists(head):
        try:
            await makedirs(head, exist_ok=exist_ok)
        except FileExistsError:
            pass  # somebody else made it meanwhile
        if tail in (os.curdir, os.fsencode(os.curdir)):
            return
    try:
        await mkdir(name, mode)
    except OSError:
        # Not FileExistsError alone: a read-only file system answers otherwise for what exists.
        if not exist_ok or not await is_dir(name):
            raise


async def rmdir(path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
    """As os.rmdir(). An UNLINKAT request (Linux 5.11)."""
    call = _fsop.rmdir(path, dir_fd)
    if call is None:
        return await in_executor(os.rmdir, path, dir_fd=dir_fd)
    return await call


async def unlink(path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
    """As os.unlink(). An UNLINKAT request (Linux 5.11)."""
    call = _fsop.unlink(path, dir_fd)
    if call is None:
        return await in_executor(os.unlink, path, dir_fd=dir_fd)
    return await call


remove = unlink


async def rename(src: StrOrBytesPath, dst: StrOrBytesPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
    """As os.rename(). A RENAMEAT request (Linux 5.11)."""
    call = _fsop.rename(src, dst, src_dir_fd, dst_dir_fd)
    if call is None:
        return await in_executor(os.rename, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    return await call


async def replace(src: StrOrBytesPath, dst: StrOrBytesPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
    """As os.replace(), which is rename() on Linux."""
    call = _fsop.rename(src, dst, src_dir_fd, dst_dir_fd)
    if call is None:
        return await in_executor(os.replace, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    return await call


async def link(
    src: StrOrBytesPath,
    dst: StrOrBytesPath,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    follow_symlinks: bool = True,
) -> None:
    """As os.link(). A LINKAT request (Linux 5.15)."""
    call = _fsop.link(src, dst, src_dir_fd, dst_dir_fd, follow_symlinks)
    if call is None:
        return await in_executor(os.link, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
    return await call


async def symlink(src: StrOrBytesPath, dst: StrOrBytesPath, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
    """As os.symlink(): `dst` becomes a symbolic link that says `src`. A SYMLINKAT request (Linux 5.15)."""
    call = _fsop.symlink(src, dst, dir_fd)
    if call is None:
        return await in_executor(os.symlink, src, dst, target_is_directory, dir_fd=dir_fd)
    return await call


# -- attributes ---------------------------------------------------------------------------------------------------------------------------------


async def chmod(path: FdOrPath, mode: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
    """As os.chmod()."""
    await in_executor(os.chmod, path, mode, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


async def chown(path: FdOrPath, uid: int, gid: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
    """As os.chown()."""
    await in_executor(os.chown, path, uid, gid, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


async def utime(
    path: FdOrPath,
    times: tuple[float, float] | None = None,
    *,
    ns: tuple[int, int] | None = None,
    dir_fd: int | None = None,
    follow_symlinks: bool = True,
) -> None:
    """As os.utime(): `times` in seconds or `ns` in nanoseconds, access and modification; neither: now."""
    if ns is None:
        await in_executor(os.utime, path, times, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    else:
        await in_executor(os.utime, path, times, ns=ns, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


async def truncate(path: FdOrPath, length: int) -> None:
    """As os.truncate(). For a descriptor an FTRUNCATE request (Linux 6.9), for a path the executor."""
    call = _fsop.truncate(path, length) if isinstance(path, int) else None
    if call is None:
        return await in_executor(os.truncate, path, length)
    return await call


async def getxattr(path: FdOrPath, attribute: StrOrBytesPath, *, follow_symlinks: bool = True) -> bytes:
    """As os.getxattr(). A GETXATTR or FGETXATTR request (Linux 5.19); the executor where a symbolic link is not followed."""
    call = _fsop.getxattr(path, attribute) if follow_symlinks else None
    if call is None:
        return await in_executor(os.getxattr, path, attribute, follow_symlinks=follow_symlinks)
    return await call


async def setxattr(
    path: FdOrPath, attribute: StrOrBytesPath, value: bytes | bytearray | memoryview, flags: int = 0, *, follow_symlinks: bool = True
) -> None:
    """As os.setxattr(). A SETXATTR or FSETXATTR request (Linux 5.19); the executor where a symbolic link is not followed."""
    call = _fsop.setxattr(path, attribute, value, flags) if follow_symlinks else None
    if call is None:
        return await in_executor(os.setxattr, path, attribute, value, flags, follow_symlinks=follow_symlinks)
    return await call


async def listxattr(path: FdOrPath | None = None, *, follow_symlinks: bool = True) -> list[str]:
    """As os.listxattr()."""
    return await in_executor(os.listxattr, path, follow_symlinks=follow_symlinks)


async def removexattr(path: FdOrPath, attribute: StrOrBytesPath, *, follow_symlinks: bool = True) -> None:
    """As os.removexattr()."""
    await in_executor(os.removexattr, path, attribute, follow_symlinks=follow_symlinks)
