"""Path: pathlib's paths for asynchronous programs, as anyio.Path.

Users make it with aiouring.Path(...). Calls `fs` and `files`. What is pure computation is pathlib.PurePosixPath's, which it inherits from, and what
pathlib alone knows how to do (glob, resolve, owner) is pathlib's own code in the loop's executor.
"""

from __future__ import annotations

import errno
import itertools
import os
import pathlib
import stat as stat_module
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

from aiouring import fs
from aiouring._types import StrPath
from aiouring.descriptors import opened
from aiouring.executor import in_executor
from aiouring.files import Opening
from aiouring.files import open as open_file

# What pathlib takes for "does not exist" where it answers a question with a bool; every other error is raised.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
_PATHS_A_VISIT = 256


class Path(pathlib.PurePosixPath):
    """A path whose methods that touch the file system are coroutines, and asynchronous iterators where pathlib has generators.

    Arguments, results and exceptions are pathlib.Path's of the running Python. It is a PurePosixPath: it compares equal to other paths, works
    with `/` and `os.fspath`, and is not a `pathlib.Path`. Differences from anyio.Path: none that its documentation names, but for `limiter`.
    """

    __slots__ = ()

    if sys.version_info < (3, 12):

        def with_segments(self, *pathsegments: StrPath) -> Self:
            """A new path of this type from the segments."""
            return type(self)(*pathsegments)

    # -- where one is -------------------------------------------------------------------------------------------------------------------------

    @classmethod
    async def cwd(cls) -> Self:
        """The current folder."""
        return cls(await in_executor(os.getcwd))

    @classmethod
    async def home(cls) -> Self:
        """The user's home folder."""
        return cls(await in_executor(pathlib.Path.home))

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """The path of a `file:` URI, as Python 3.13's pathlib.Path.from_uri()."""
        from urllib.parse import unquote_to_bytes

        if not uri.startswith("file:"):
            raise ValueError(f"URI does not start with 'file:': {uri!r}")
        path = uri[5:]
        if path[:3] == "///":
            path = path[2:]
        elif path[:12] == "//localhost/":
            path = path[11:]
        made = cls(os.fsdecode(unquote_to_bytes(path)))
        if not made.is_absolute():
            raise ValueError(f"URI is not absolute: {uri!r}")
        return made

    async def absolute(self) -> Self:
        """The path below the current folder, if it is not absolute. `..` and symbolic links stay."""
        if self.is_absolute():
            return self
        return self.with_segments(await in_executor(pathlib.Path(self).absolute))

    async def resolve(self, strict: bool = False) -> Self:
        """The absolute path without `..` and symbolic links. strict: FileNotFoundError if it does not exist."""
        return self.with_segments(await in_executor(pathlib.Path(self).resolve, strict))

    async def expanduser(self) -> Self:
        """The path with `~` and `~user` replaced by the home folder. Raises RuntimeError if there is none."""
        if not self.parts or not self.parts[0].startswith("~"):
            return self
        return self.with_segments(await in_executor(pathlib.Path(self).expanduser))

    async def readlink(self) -> Self:
        """What the symbolic link says."""
        return self.with_segments(await fs.readlink(str(self)))

    # -- what it is -----------------------------------------------------------------------------------------------------------------------------

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat()."""
        return await fs.stat(str(self), follow_symlinks=follow_symlinks)

    async def lstat(self) -> os.stat_result:
        """As os.lstat()."""
        return await fs.stat(str(self), follow_symlinks=False)

    async def _mode(self, follow_symlinks: bool = True) -> int:
        """The st_mode, 0 where there is nothing."""
        try:
            return (await self.stat(follow_symlinks=follow_symlinks)).st_mode
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        except ValueError:
            pass  # a NUL: no such path can exist
        return 0

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the path exists."""
        return await self._mode(follow_symlinks) != 0

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return stat_module.S_ISDIR(await self._mode(follow_symlinks))

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file."""
        return stat_module.S_ISREG(await self._mode(follow_symlinks))

    async def is_symlink(self) -> bool:
        """Whether it is a symbolic link, broken or not."""
        return stat_module.S_ISLNK(await self._mode(False))

    async def is_fifo(self) -> bool:
        """Whether it is a named pipe."""
        return stat_module.S_ISFIFO(await self._mode())

    async def is_socket(self) -> bool:
        """Whether it is a unix socket."""
        return stat_module.S_ISSOCK(await self._mode())

    async def is_block_device(self) -> bool:
        """Whether it is a block device."""
        return stat_module.S_ISBLK(await self._mode())

    async def is_char_device(self) -> bool:
        """Whether it is a character device."""
        return stat_module.S_ISCHR(await self._mode())

    async def is_mount(self) -> bool:
        """Whether a file system is mounted here."""
        return await in_executor(pathlib.Path(self).is_mount)

    async def is_junction(self) -> bool:
        """False: Linux has no junctions."""
        return False

    async def samefile(self, other_path: StrPath) -> bool:
        """Whether both paths are the same file."""
        return os.path.samestat(await self.stat(), await fs.stat(os.fspath(other_path)))

    async def owner(self) -> str:
        """The name of the user that the file belongs to. KeyError if that user has none."""
        return await in_executor(pathlib.Path(self).owner)

    async def group(self) -> str:
        """The name of the group that the file belongs to. KeyError if that group has none."""
        return await in_executor(pathlib.Path(self).group)

    # -- folders ----------------------------------------------------------------------------------------------------------------------------------

    async def iterdir(self) -> AsyncIterator[Self]:
        """The paths in this folder, in no order."""
        for name in await fs.listdir(str(self)):
            yield self / name

    async def glob(self, pattern: str, **options: Any) -> AsyncIterator[Self]:
        """The paths that match the pattern. Options: those of the running Python's pathlib.Path.glob() (case_sensitive, recurse_symlinks)."""
        async for path in self._iterate(lambda: pathlib.Path(self).glob(pattern, **options)):
            yield path

    async def rglob(self, pattern: str, **options: Any) -> AsyncIterator[Self]:
        """The paths at any depth that match the pattern. Options as for glob()."""
        async for path in self._iterate(lambda: pathlib.Path(self).rglob(pattern, **options)):
            yield path

    async def _iterate(self, start: Callable[[], Iterator[pathlib.Path]]) -> AsyncIterator[Self]:
        iterator = await in_executor(start)
        while paths := await in_executor(lambda: list(itertools.islice(iterator, _PATHS_A_VISIT))):
            for path in paths:
                yield self.with_segments(path)

    async def walk(
        self, top_down: bool = True, on_error: Callable[[OSError], object] | None = None, follow_symlinks: bool = False
    ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
        """As Python 3.12's pathlib.Path.walk(): (folder, names of folders, names of the rest), where a link to a folder is one of the rest
        unless follow_symlinks."""
        stack: list[Self | tuple[Self, list[str], list[str]]] = [self]
        while stack:
            folder = stack.pop()
            if isinstance(folder, tuple):
                yield folder
                continue
            folders: list[str] = []
            rest: list[str] = []
            try:
                async with fs.scandir(str(folder)) as entries:
                    async for entry in entries:
                        try:
                            is_folder = entry.is_dir(follow_symlinks=follow_symlinks)
                        except OSError:
                            is_folder = False
                        (folders if is_folder else rest).append(entry.name)
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            if top_down:
                yield folder, folders, rest
            else:
                stack.append((folder, folders, rest))
            stack += [folder / name for name in reversed(folders)]

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Make this folder; parents: also those above it that are missing; exist_ok: it may be there."""
        try:
            await fs.mkdir(str(self), mode)
        except FileNotFoundError:
            if not parents or self.parent == self:
                raise
            await self.parent.mkdir(parents=True, exist_ok=True)
            await self.mkdir(mode, parents=False, exist_ok=exist_ok)
        except OSError:
            # Not FileExistsError alone: a read-only file system answers otherwise for what exists.
            if not exist_ok or not await self.is_dir():
                raise

    async def rmdir(self) -> None:
        """Remove this folder, which must be empty."""
        await fs.rmdir(str(self))

    # -- names ------------------------------------------------------------------------------------------------------------------------------------

    async def unlink(self, missing_ok: bool = False) -> None:
        """Remove this file or symbolic link; missing_ok: it may be gone."""
        try:
            await fs.unlink(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def rename(self, target: StrPath) -> Self:
        """Rename to `target`, and return that as a path. A file of that name is replaced."""
        await fs.rename(str(self), os.fspath(target))
        return self.with_segments(target)

    async def replace(self, target: StrPath) -> Self:
        """rename(): on Linux there is no difference."""
        await fs.replace(str(self), os.fspath(target))
        return self.with_segments(target)

    async def symlink_to(self, target: StrPath, target_is_directory: bool = False) -> None:
        """Make this path a symbolic link that says `target`."""
        await fs.symlink(os.fspath(target), str(self), target_is_directory)

    async def hardlink_to(self, target: StrPath) -> None:
        """Make this path a hard link to the file `target`."""
        await fs.link(os.fspath(target), str(self))

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make an empty file, or set the times of the one that is there to now. Without exist_ok: FileExistsError if there is one."""
        if exist_ok:
            try:
                await fs.utime(str(self))
            except OSError:
                pass  # opening it tells more
            else:
                return
        async with opened(str(self), os.O_CREAT | os.O_WRONLY | (0 if exist_ok else os.O_EXCL), mode):
            pass

    # -- attributes and contents ------------------------------------------------------------------------------------------------------------------

    async def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        """Change the permissions."""
        await fs.chmod(str(self), mode, follow_symlinks=follow_symlinks)

    async def lchmod(self, mode: int) -> None:
        """chmod() of a symbolic link itself, which Linux does not have: NotImplementedError for one."""
        await fs.chmod(str(self), mode, follow_symlinks=False)

    def open(
        self, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> Opening[Any]:
        """aiouring.open() of this path, with the same arguments: await it, or use it in `async with`."""
        return open_file(str(self), mode, buffering, encoding, errors, newline)

    async def read_bytes(self) -> bytes:
        """All the file's bytes."""
        return await fs.read_bytes(str(self))

    async def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """All the file's text."""
        return await fs.read_text(str(self), encoding, errors, newline)

    async def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Write a file of these bytes, and return their number. For one that is there whole or not at all: fs.write_bytes(atomic=True)."""
        return await fs.write_bytes(str(self), data)

    async def write_text(self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> int:
        """Write a file of this text, and return its number of characters."""
        return await fs.write_text(str(self), data, encoding, errors, newline)
