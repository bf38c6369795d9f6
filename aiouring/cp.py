"""`python -m aiouring cp SRC DST`: files and folders, with progress, checksums, and copies that go on where they ended.

Called by `__main__`. Calls `copying`, `parts` (the partial files), `display` (the progress) and `executor`.

While a file is copied it lies beside its target under a name that says what it is a copy of. It gets its final name when it is complete, and,
with --verify, after what is on the disk was read again and compared. What ends the copy before that leaves the partial file, and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import stat as stat_module
import sys
import threading
import time
from typing import Any

from aiouring import _fdop, display, parts
from aiouring._errors import RingUnavailable
from aiouring.contents import put_in_place, take_over
from aiouring.copying import copy_contents, copy_link, is_sparse, source, target_of
from aiouring.descriptors import fsync_fd, stat_fd, truncate_fd
from aiouring.display import show
from aiouring.executor import in_executor, stoppable
from aiouring.runner import run
from aiouring.trees import each

DONE, FAILED, USAGE, UNVERIFIED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

DESCRIPTION = """\
Copies a file, or a folder with all that is in it. Modes, times and extended attributes are kept; symbolic links in a folder are copied as
links; files that are there already are replaced, and what else a folder has stays. DST is the copy's new name. If it ends with a slash, or if
it is a folder and SRC is a file, the copy goes into it. A file gets its name when its copy is complete: until then it is called
.NAME.DIGITS.aiouring-part. Such a file stays when the copy is interrupted or fails, and --resume goes on with it."""
STATUSES = """\
exit status: 0 all was copied; 1 something was not, and a message says what; 2 wrong usage; 3 what was read and what is on the disk differ;
130 interrupted (Ctrl-C), 143 terminated: partial files stay for --resume."""

# Files below this size are copied several at once.
_SMALL_BYTES = 1024 * 1024
_SMALL_AT_ONCE = 8


class Changed(Exception):
    """The source is not what it was when the copy began."""


class Unverified(Exception):
    """What is on the disk is not what was read."""


class Copy:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, shown: display.Display) -> None:
        self.verify: bool = options.verify
        self.resume: bool = options.resume
        self.direct: bool = options.direct
        self.shown = shown
        self.status = DONE
        self.files = self.skipped = 0
        self.bytes = 0
        self.kept: list[Any] = []

    def failed(self, path: Any, why: object, status: int = FAILED) -> None:
        self.status = max(self.status, status)
        self.shown.note(f"{show(path)}: {why}")

    # -- what is to be copied ---------------------------------------------------------------------------------------------------------------

    async def path(self, src: str, dst: str) -> None:
        found = await in_executor(os.stat, src)
        is_folder = stat_module.S_ISDIR(found.st_mode)
        if dst.endswith("/") or (not is_folder and await in_executor(os.path.isdir, dst)):
            dst = os.path.join(dst, os.path.basename(await in_executor(os.path.realpath, src) if src.endswith(("/", ".")) else src))
        if not is_folder:
            self.shown.begin(found.st_size, 1)
            await self.entry(src, dst)
            return
        if await in_executor(parts.is_inside, dst, src):
            raise shutil.Error(f"{show(dst)} lies in {show(src)}")
        files, size = await stoppable(_measure, src)
        self.shown.begin(size, files)
        await self.folder(src, dst)

    async def folder(self, src: str, dst: str) -> None:
        try:
            entries = await in_executor(_list, src)
            await in_executor(_make_folder, dst)
        except OSError as error:
            self.failed(error.filename or src, error.strerror)
            return
        small = [name for name, kind, size in entries if kind == "file" and size < _SMALL_BYTES]
        await each(small, lambda name: self.entry(os.path.join(src, name), os.path.join(dst, name)), _SMALL_AT_ONCE)
        for name, kind, size in entries:
            inner_src, inner_dst = os.path.join(src, name), os.path.join(dst, name)
            if kind == "file" and size >= _SMALL_BYTES:
                await self.entry(inner_src, inner_dst)
            elif kind == "folder":
                await self.folder(inner_src, inner_dst)
            elif kind == "link":
                await self.link(inner_src, inner_dst)
            elif kind == "special":
                self.failed(inner_src, "is neither a file, a folder nor a symbolic link, and was left out")
        try:
            await in_executor(shutil.copystat, src, dst)
        except OSError as error:
            self.failed(error.filename or dst, error.strerror)

    async def link(self, src: str, dst: str) -> None:
        try:
            if await in_executor(_same_link, src, dst):
                return
            temporary = parts.link_name(dst)
            try:
                await copy_link(src, temporary)
            except asyncio.CancelledError:
                await in_executor(parts.remove, temporary)  # it may have been made
                raise
            await in_executor(_rename_link, src, temporary, dst)
        except OSError as error:
            self.failed(error.filename or dst, error.strerror)

    async def entry(self, src: str, dst: str) -> None:
        """One file; what goes wrong with it is told, and the others go on."""
        self.shown.file(src)
        try:
            await self.file(src, dst)
        except Unverified as error:
            self.failed(dst, error, UNVERIFIED)
        except (Changed, parts.Taken, shutil.Error, shutil.SpecialFileError) as error:
            self.failed(src, error)
        except OSError as error:
            self.failed(error.filename or src, error.strerror or error)

    # -- one file ---------------------------------------------------------------------------------------------------------------------------

    async def file(self, src: str, dst: str) -> None:
        async with source(src, self.direct) as (src_fd, before, src_direct):
            target, existing = await target_of(src, dst, before)
            if self.resume and await self.is_complete(src, target, before, existing):
                self.skipped += 1
                self.shown.advance(before.st_size)
                return
            part = parts.name_of(target, src, before)
            if self.resume:
                for other in await in_executor(parts.others, target, part):
                    self.shown.note(f"{show(other)}: not used, it is a part of another source or of what this one was before")
            try:
                fd, dst_direct = await parts.open_part(part, before.st_mode, self.direct)
            except OSError as error:
                raise OSError(error.errno, error.strerror, dst) from None
            if self.direct and not (src_direct and dst_direct):
                self.shown.note(f"{show(dst if src_direct else src)}: the file system does not take O_DIRECT; copied through the page cache")
            self.kept.append(part)
            finished = False
            try:
                await self.fill(src_fd, before, fd, src, dst, part, direct=src_direct or dst_direct)
                await take_over(fd, _mode_for(before, existing or await stat_fd(fd)), existing)
                await in_executor(_keep_stats, src_fd, fd, before)
                finished = True
            except (Changed, Unverified):
                # Of no use to anybody.
                self.kept.remove(part)
                await in_executor(parts.remove, part)
                raise
            finally:
                if not finished:
                    _fdop.close_unawaited(fd)
            await put_in_place(fd, part, target, durably=self.verify, keep=True)
            self.kept.remove(part)
            self.files += 1
            self.bytes += before.st_size

    async def is_complete(self, src: str, target: str, before: os.stat_result, existing: os.stat_result | None) -> bool:
        """Whether an earlier run has copied this file: the same size and time, and with --verify the same bytes."""
        if existing is None or (existing.st_size, existing.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return False
        return not self.verify or await stoppable(parts.same_bytes, src, target)

    async def fill(self, src_fd: int, before: os.stat_result, fd: int, src: str, dst: str, part: str, *, direct: bool) -> None:
        """Make the partial file a complete copy."""
        digest = hashlib.sha256() if self.verify else None
        start = shown = 0

        def moved(done: int, total: int) -> None:
            nonlocal shown
            self.shown.advance(done - shown)
            shown = done

        if self.resume:
            there = min((await stat_fd(fd)).st_size, before.st_size)
            while start < there:
                equal = await in_executor(parts.compare, src_fd, fd, start, there, digest)
                start += equal
                moved(start, before.st_size)
                if equal < parts.COMPARE_BYTES:
                    break
            if start:
                self.shown.note(f"{show(dst)}: goes on at byte {start} of {before.st_size}; what was there is equal")
        await truncate_fd(fd, start, dst)
        end = await copy_contents(
            src_fd, fd, src=src, dst=dst, size=before.st_size, sparse=is_sparse(before), start=start, progress=moved, direct=direct,
            digest=None if digest is None else digest.update,
        )  # fmt: skip
        after = await stat_fd(src_fd)
        if (end, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
            raise Changed("changed while it was copied")
        if digest is not None:
            await fsync_fd(fd, dst)
            self.shown.checking(src)
            on_disk = await stoppable(parts.checksum_on_disk, part, fd)
            if on_disk != digest.hexdigest():
                raise Unverified(f"what is on the disk (sha256 {on_disk}) is not what was read (sha256 {digest.hexdigest()})")


# -- in the executor's threads ---------------------------------------------------------------------------------------------------------------


def _list(folder: str) -> list[tuple[str, str, int]]:
    entries = []
    with os.scandir(folder) as found:
        for entry in found:
            if parts.is_part(entry.name):
                continue  # a copy of a folder that was itself being copied into
            if entry.is_symlink():
                entries.append((entry.name, "link", 0))
            elif entry.is_dir():
                entries.append((entry.name, "folder", 0))
            elif entry.is_file():
                try:
                    size = entry.stat().st_size
                except OSError:
                    size = 0  # it has just gone, for example: its own copy tells, and the other entries are copied
                entries.append((entry.name, "file", size))
            else:
                entries.append((entry.name, "special", 0))
    return sorted(entries)


def _measure(stop: threading.Event, folder: str) -> tuple[int, int]:
    files = size = 0
    for top, _, names in os.walk(folder):
        if stop.is_set():
            break
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(top, name))
                if stat_module.S_ISREG(found.st_mode) and not parts.is_part(name):
                    files += 1
                    size += found.st_size
    return files, size


def _make_folder(folder: str) -> None:
    """For its owner alone, until all is in it and it gets its source's mode."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise


def _same_link(src: str, dst: str) -> bool:
    return os.path.islink(dst) and os.readlink(src) == os.readlink(dst)


def _rename_link(src: str, temporary: str, dst: str) -> None:
    try:
        shutil.copystat(src, temporary, follow_symlinks=False)
        os.rename(temporary, dst)
    except BaseException as error:
        parts.remove(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, dst) from None
        raise


def _mode_for(source: os.stat_result, copy: os.stat_result) -> int:
    """The source's mode. What ran as its owner or group must not run as somebody else because it was copied."""
    mode = source.st_mode
    if source.st_uid != copy.st_uid:
        mode &= ~stat_module.S_ISUID
    if source.st_gid != copy.st_gid:
        mode &= ~stat_module.S_ISGID
    return mode


def _keep_stats(src_fd: int, fd: int, before: os.stat_result) -> None:
    for name in parts.attributes_of(src_fd):
        with contextlib.suppress(OSError):  # as cp: a file system may have none, or not this one
            os.setxattr(fd, name, os.getxattr(src_fd, name))
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- the command -------------------------------------------------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `cp` to the commands of the package."""
    cp = commands.add_parser("cp", help="copies files and folders", description=DESCRIPTION, epilog=STATUSES)
    cp.add_argument("src", metavar="SRC", help="a file or a folder")
    cp.add_argument("dst", metavar="DST", help="its new name; with a slash at its end: the folder into which it goes")
    cp.add_argument("--verify", action="store_true", help="read what is on the disk again and compare its SHA-256 with what was read")
    cp.add_argument("--resume", action="store_true", help="go on with what an earlier copy of the same source left, after comparing it")
    cp.add_argument("--direct", action="store_true", help="bypass the page cache (O_DIRECT) where the file systems allow that")
    cp.add_argument("--quiet", action="store_true", help="no progress and no summary; what goes wrong is told all the same")
    cp.set_defaults(run=main)


async def copy(options: argparse.Namespace, shown: display.Display) -> int:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    work = Copy(options, shown)
    begin = time.monotonic()
    try:
        await work.path(options.src, options.dst)
    except asyncio.CancelledError:
        work.status = TERMINATED if terminated else INTERRUPTED
    except (shutil.Error, shutil.SpecialFileError) as error:
        work.failed(options.src, error)
    except OSError as error:
        work.failed(error.filename or options.src, error.strerror or error)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        shown.end()
    kept = [part for part in work.kept if os.path.exists(part)]
    for part in kept:
        shown.note(f"{show(part)}: the partial copy stays; the same command with --resume goes on with it")
    if work.status == INTERRUPTED:
        shown.note("interrupted")
    if work.files or work.skipped or work.status == DONE:
        shown.summary(work.files, work.bytes, work.skipped, time.monotonic() - begin, verified=work.verify)
    return work.status


def main(options: argparse.Namespace) -> int:
    """The command, with its arguments. Returns the exit status."""
    shown = display.make(quiet=options.quiet)
    try:
        return run(copy(options, shown), fallback="asyncio")
    except RingUnavailable as error:
        shown.note(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED  # a second Ctrl-C, while the first was being told
    except BrokenPipeError:
        # Whoever read our messages has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
