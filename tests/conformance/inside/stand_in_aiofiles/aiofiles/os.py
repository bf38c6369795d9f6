"""aiofiles.os, by aiouring.fs. What that has no counterpart of is not here: renames, removedirs, statvfs, getcwd."""
import os
from typing import Any

from aiouring import fs

from . import ospath as path
from .ospath import wrap

__all__ = [
    "access",
    "link",
    "listdir",
    "makedirs",
    "mkdir",
    "path",
    "readlink",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "sendfile",
    "stat",
    "symlink",
    "unlink",
]

access = fs.access
link = fs.link
listdir = fs.listdir
makedirs = fs.makedirs
mkdir = fs.mkdir
readlink = fs.readlink
remove = fs.remove
rename = fs.rename
replace = fs.replace
rmdir = fs.rmdir
stat = fs.stat
symlink = fs.symlink
unlink = fs.unlink

# The test is of the descriptors: those of aiouring's files, in other hands.
sendfile = wrap(os.sendfile)


async def scandir(folder: Any) -> Any:
    """aiofiles gives os.scandir's iterator, which blocks; here all of it is there at once."""
    async with fs.scandir(folder) as entries:
        return iter([entry async for entry in entries])
