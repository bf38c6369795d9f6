"""aiofiles.os.path, by aiouring.fs."""
import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from aiouring import fs

__all__ = ["exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink", "ismount", "samefile"]

exists = fs.exists
isdir = fs.is_dir
isfile = fs.is_file
islink = fs.is_symlink
ismount = fs.is_mount
samefile = fs.samefile


async def getsize(path: Any) -> int:
    return (await fs.stat(path)).st_size


async def getatime(path: Any) -> float:
    return (await fs.stat(path)).st_atime


async def getctime(path: Any) -> float:
    return (await fs.stat(path)).st_ctime


async def getmtime(path: Any) -> float:
    return (await fs.stat(path)).st_mtime


def wrap(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """In a thread."""

    @functools.wraps(function)
    async def call(*arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(function, *arguments, **options)

    return call
