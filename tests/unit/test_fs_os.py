"""aiouring.fs beside os: the same calls in two folders give the same results, the same exceptions and the same trees."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import aiouring
from aiouring import fs

NAMES = ["a", "b", "c", "d", "ä"]
# Two levels deep, so that paths go through files, links and what is not there.
PATHS = strategies.one_of(
    strategies.sampled_from(NAMES),
    strategies.builds("{}/{}".format, strategies.sampled_from(NAMES[:3]), strategies.sampled_from(NAMES)),
    strategies.sampled_from(["", ".", "..", "a/", "./a", "a/../b", "a//b", "n" * 256, "a\0b"]),
)
# How a path is handed over.
STYLES = strategies.sampled_from(["str", "bytes", "PathLike", "dir_fd"])
MODES = strategies.sampled_from([0o777, 0o700, 0o644, 0o1777, 0o2755])
TIMES = strategies.integers(-(2**31), 2**33).map(lambda seconds: seconds * 10**9 + seconds % 10**9)
NS = strategies.tuples(TIMES, TIMES)
ATTRIBUTES = strategies.sampled_from(["user.one", "user.two", "nonsense", "user.\0"])
CONTENTS = strategies.one_of(strategies.binary(max_size=20), strategies.integers(0, 70_000).map(lambda size: os.urandom(size)))


def calls(name: str, *arguments: strategies.SearchStrategy[Any]) -> strategies.SearchStrategy[tuple[Any, ...]]:
    return strategies.tuples(strategies.just(name), *arguments)


CALLS = strategies.one_of(
    calls("mkdir", PATHS, STYLES, MODES),
    calls("makedirs", PATHS, strategies.booleans()),
    calls("rmdir", PATHS, STYLES),
    calls("unlink", PATHS, STYLES),
    calls("rename", PATHS, PATHS, STYLES),
    calls("replace", PATHS, PATHS, STYLES),
    calls("link", PATHS, PATHS, STYLES, strategies.booleans()),
    calls("symlink", PATHS, PATHS, STYLES),
    calls("readlink", PATHS, STYLES),
    calls("stat", PATHS, STYLES, strategies.booleans()),
    calls("lstat", PATHS, STYLES),
    calls("question", strategies.sampled_from(["exists", "lexists", "isfile", "isdir", "islink", "ismount"]), PATHS),
    calls("samefile", PATHS, PATHS),
    calls("access", PATHS, strategies.sampled_from([os.F_OK, os.R_OK, os.W_OK | os.X_OK])),
    calls("chmod", PATHS, MODES, STYLES),
    calls("utime", PATHS, NS, STYLES, strategies.booleans()),
    calls("truncate", PATHS, strategies.integers(-1, 100_000)),
    calls("setxattr", PATHS, ATTRIBUTES, CONTENTS, strategies.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]), strategies.booleans()),
    calls("getxattr", PATHS, ATTRIBUTES, strategies.booleans()),
    calls("listxattr", PATHS, strategies.booleans()),
    calls("removexattr", PATHS, ATTRIBUTES, strategies.booleans()),
    calls("listdir", PATHS, STYLES),
    calls("scandir", PATHS),
    calls("walk", PATHS, strategies.booleans(), strategies.booleans()),
    calls("read_bytes", PATHS),
    calls("write_bytes", PATHS, CONTENTS),
    calls("rmtree", PATHS),
    calls("by_fd", PATHS, strategies.sampled_from(["stat", "truncate", "getxattr", "setxattr", "listdir", "chmod", "utime"])),
)


def stat_of(found: os.stat_result) -> tuple[Any, ...]:
    """What two trees that were made alike have in common."""
    return stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, found.st_dev, found.st_rdev


class Given:
    """A path as a call gets it, and its dir_fd."""

    def __init__(self, base: str, folder_fd: int, path: str, style: str) -> None:
        self.dir_fd: dict[str, int] = {}
        full = base + "/" + path
        self.path: Any = full
        if style == "bytes":
            self.path = os.fsencode(full)
        elif style == "PathLike":
            self.path = PathLike(full)
        elif style == "dir_fd":
            self.path, self.dir_fd = path, {"dir_fd": folder_fd}


class PathLike:
    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


async def by_os(base: str, folder_fd: int, name: str, *args: Any) -> Any:
    return await perform(os, base, folder_fd, name, *args)


async def result_of(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


async def perform(side: Any, base: str, folder_fd: int, name: str, *args: Any) -> Any:
    """One call on one side, `os` or `fs`, and its result without what differs between two folders."""

    def given(path: str, style: str = "str") -> Given:
        return Given(base, folder_fd, path, style)

    def plain(path: str) -> str:
        return base + "/" + path

    async def call(function: str, *arguments: Any, **keywords: Any) -> Any:
        return await result_of(getattr(side, function)(*arguments, **keywords))

    match name, args:
        case "mkdir", (path, style, mode):
            target = given(path, style)
            return await call("mkdir", target.path, mode, **target.dir_fd)
        case "makedirs", (path, exist_ok):
            return await call("makedirs", plain(path), exist_ok=exist_ok)
        case ("rmdir" | "unlink"), (path, style):
            target = given(path, style)
            return await call(name, target.path, **target.dir_fd)
        case ("rename" | "replace"), (src, dst, style):
            first, second = given(src, style), given(dst, style)
            fds = {"src_dir_fd": folder_fd, "dst_dir_fd": folder_fd} if first.dir_fd else {}
            return await call(name, first.path, second.path, **fds)
        case "link", (src, dst, style, follow):
            first, second = given(src, style), given(dst, style)
            fds = {"src_dir_fd": folder_fd, "dst_dir_fd": folder_fd} if first.dir_fd else {}
            return await call("link", first.path, second.path, follow_symlinks=follow, **fds)
        case "symlink", (says, path, style):
            target = given(path, style)
            return await call("symlink", os.fsencode(says) if style == "bytes" else says, target.path, **target.dir_fd)
        case "readlink", (path, style):
            target = given(path, style)
            return await call("readlink", target.path, **target.dir_fd)
        case "stat", (path, style, follow):
            target = given(path, style)
            return stat_of(await call("stat", target.path, follow_symlinks=follow, **target.dir_fd))
        case "lstat", (path, style):
            target = given(path, style)
            return stat_of(await call("lstat", target.path, **target.dir_fd))
        case "question", (question, path):
            ours = {"isfile": "is_file", "isdir": "is_dir", "islink": "is_symlink", "ismount": "is_mount"}.get(question, question)
            function = getattr(os.path, question) if side is os else getattr(fs, ours)
            return await result_of(function(plain(path)))
        case "samefile", (first, second):
            return await result_of((os.path if side is os else fs).samefile(plain(first), plain(second)))
        case "access", (path, mode):
            return await call("access", plain(path), mode)
        case "chmod", (path, mode, style):
            target = given(path, style)
            return await call("chmod", target.path, mode, **target.dir_fd)
        case "utime", (path, times, style, follow):
            target = given(path, style)
            return await call("utime", target.path, ns=times, follow_symlinks=follow, **target.dir_fd)
        case "truncate", (path, length):
            return await call("truncate", plain(path), length)
        case "setxattr", (path, attribute, value, flags, follow):
            return await call("setxattr", plain(path), attribute, value, flags, follow_symlinks=follow)
        case ("getxattr" | "removexattr"), (path, attribute, follow):
            return await call(name, plain(path), attribute, follow_symlinks=follow)
        case "listxattr", (path, follow):
            return sorted(await call("listxattr", plain(path), follow_symlinks=follow))
        case "listdir", (path, style):
            target = given(path, style if style != "dir_fd" else "str")
            return sorted(await call("listdir", target.path))
        case "scandir", (path,):
            entries = []
            entry: Any
            if side is os:
                with os.scandir(plain(path)) as found:
                    for entry in found:
                        links = [] if entry.is_symlink() else [stat_of(entry.stat())]
                        entries.append((entry.name, entry.path, entry.is_symlink(), entry.is_dir(), entry.is_file(), links))
                        entries.append((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)))
            else:
                async with fs.scandir(plain(path)) as ours_found:
                    async for entry in ours_found:
                        links = [] if entry.is_symlink() else [stat_of(await entry.stat())]
                        entries.append((entry.name, entry.path, entry.is_symlink(), entry.is_dir(), entry.is_file(), links))
                        entries.append((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)))
            return sorted(entries, key=repr)
        case "walk", (path, topdown, follow):
            errors: list[Any] = []
            if side is os:
                steps = list(os.walk(plain(path), topdown, errors.append, False))
            else:
                steps = [step async for step in fs.walk(plain(path), topdown, errors.append, False)]
            return [(top, sorted(folders), sorted(rest)) for top, folders, rest in steps], [error.filename for error in errors]
        case "read_bytes", (path,):
            if side is os:
                with open(plain(path), "rb") as file:
                    return file.read()
            return await fs.read_bytes(plain(path))
        case "write_bytes", (path, data):
            if side is os:
                return pathlib.Path(base, path).write_bytes(data) if path else pathlib.Path(base).write_bytes(data)
            return await fs.write_bytes(pathlib.Path(base, path) if path else base, data)
        case "rmtree", (path,):
            if path in ("", ".", "..", "a/../b"):
                return None
            target_path = plain(path).rstrip("/")
            if os.path.islink(target_path):
                return None  # what shutil says of a broken link is another thing in each Python
            return await result_of((shutil if side is os else fs).rmtree(target_path))
        case "by_fd", (path, function):
            fd = os.open(plain(path), os.O_RDONLY if function == "listdir" or os.path.isdir(plain(path)) else os.O_RDWR)
            try:
                match function:
                    case "stat":
                        return stat_of(await call("stat", fd))
                    case "truncate":
                        return await call("truncate", fd, 7)
                    case "getxattr":
                        return await call("getxattr", fd, "user.one")
                    case "setxattr":
                        return await call("setxattr", fd, "user.one", b"by descriptor")
                    case "listdir":
                        return sorted(await call("listdir", fd))
                    case "chmod":
                        return await call("chmod", fd, 0o640)
                    case "utime":
                        return await call("utime", fd, ns=(5, 7))
            finally:
                os.close(fd)
    raise AssertionError(name)


async def outcome(side: Any, base: str, folder_fd: int, step: tuple[Any, ...]) -> Any:
    def neutral(value: Any) -> Any:
        """Without the folder's own name, and a descriptor's number."""
        if isinstance(value, str):
            return value.replace(base, "BASE")
        if isinstance(value, bytes):
            return value.replace(os.fsencode(base), b"BASE")
        if isinstance(value, (list, tuple)):
            return type(value)(neutral(item) for item in value)
        return value

    try:
        return "result", neutral(await perform(side, base, folder_fd, *step))
    except OSError as error:
        if step[0] in ("rename", "replace", "link", "symlink") and "" in step[1:3]:
            return ("an OSError",)  # of two bad paths a request complains about the empty one, the system call about the first
        name = "a descriptor" if isinstance(error.filename, int) else neutral(error.filename)
        return type(error), error.errno, name, neutral(error.filename2)
    except (ValueError, TypeError, OverflowError) as error:
        return (type(error),)


def tree_of(base: str) -> list[Any]:
    found = []
    for top, folders, rest in os.walk(base):
        for name in folders + rest:
            path = os.path.join(top, name)
            status = os.lstat(path)
            row: list[Any] = [path.replace(base, "BASE"), *stat_of(status)]
            if stat.S_ISLNK(status.st_mode):
                row.append(os.readlink(path).replace(base, "BASE"))
            else:
                row.append([(attribute, os.getxattr(path, attribute)) for attribute in sorted(os.listxattr(path))])
            if stat.S_ISREG(status.st_mode):
                row.append(pathlib.Path(path).read_bytes())
            if status.st_mtime_ns < 1_700_000_000 * 10**9 or status.st_mtime_ns > 2_200_000_000 * 10**9:
                row.append(status.st_mtime_ns)  # one that was set
            found.append(row)
    return sorted(found, key=lambda row: str(row[0]))


def make_trees(parent: str) -> list[str]:
    bases = []
    for name in ("one", "two"):
        base = os.path.join(parent, name, "base")  # `..` leads to a folder of its own
        os.makedirs(base + "/a/c")
        pathlib.Path(base, "b").write_bytes(b"contents of b")
        pathlib.Path(base, "a", "d").write_bytes(b"")
        os.symlink("a", base + "/c")
        os.symlink("nowhere", base + "/a/b")
        bases.append(base)
    return bases


@hypothesis.settings(
    max_examples=int(os.environ.get("AIOURING_FS_EXAMPLES", "150")), deadline=None, database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)  # fmt: skip
@hypothesis.seed(int(os.environ.get("AIOURING_SEED") or 0))
@hypothesis.given(script=strategies.lists(CALLS, min_size=1, max_size=30))
def test_the_same_calls_do_the_same(script: list[tuple[Any, ...]]) -> None:
    async def main(bases: list[str], fds: list[int]) -> None:
        for step in script:
            expected = await outcome(os, bases[0], fds[0], step)
            assert await outcome(fs, bases[1], fds[1], step) == expected, step
        assert asyncio.get_running_loop().ring_stats()["slots_in_use"] == 1  # the wake-up pipe's

    with tempfile.TemporaryDirectory(dir=os.environ.get("AIOURING_TEST_FOLDER")) as parent:
        bases = make_trees(parent)
        fds = [os.open(base, os.O_RDONLY) for base in bases]
        try:
            aiouring.run(main(bases, fds))
            assert tree_of(bases[1]) == tree_of(bases[0])
        finally:
            for fd in fds:
                os.close(fd)


async def test_stat_has_every_field_and_value(tmp_path: pathlib.Path) -> None:
    made = tmp_path / "file"
    made.write_bytes(b"x" * 10_000)
    os.utime(made, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to("file")
    for path in ("/dev/null", "/dev/zero", "/proc/self/status", "/", str(tmp_path), str(made), str(fifo), str(link)):
        ours, theirs = await fs.stat(path), os.stat(path)
        # Files of /proc have the time of the look.
        names = [name for name in dir(theirs) if name.startswith("st_") and not (path.startswith("/proc") and "time" in name)]
        assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names], path
        assert type(ours) is os.stat_result
        assert [type(getattr(ours, name)) for name in names] == [type(getattr(theirs, name)) for name in names]
        if not path.startswith("/proc"):
            assert ours == theirs and repr(ours) == repr(theirs)
    assert stat.S_ISLNK((await fs.lstat(link)).st_mode)
    assert (await fs.stat(link, follow_symlinks=False)).st_ino == os.lstat(link).st_ino


@pytest.mark.parametrize("seconds", [-(2**31), -1, 0, 1, 2**31, 2**33])
async def test_times_before_1970_and_after_2038(tmp_path: pathlib.Path, seconds: int) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, ns=(seconds * 10**9 + 123, seconds * 10**9 + 999_999_999))
    ours, theirs = await fs.stat(path), os.stat(path)
    for name in ("st_atime", "st_mtime", "st_atime_ns", "st_mtime_ns"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert tuple(ours) == tuple(theirs)


BAD_ARGUMENTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("a path that is none", lambda side: side.stat(None)),
    ("a float", lambda side: side.stat(1.5)),
    ("a descriptor and a dir_fd", lambda side: side.stat(1, dir_fd=0)),
    ("a descriptor that is not followed", lambda side: side.stat(1, follow_symlinks=False)),
    ("a descriptor beyond int", lambda side: side.stat(2**70)),
    ("a dir_fd that is a string", lambda side: side.stat("x", dir_fd="y")),
    ("a dir_fd beyond int", lambda side: side.stat("x", dir_fd=2**40)),
    ("a dir_fd below int", lambda side: side.stat("x", dir_fd=-(2**40))),
    ("a surrogate", lambda side: side.stat("\ud800")),
    ("mkdir of a descriptor", lambda side: side.mkdir(3)),
    ("a mode beyond int", lambda side: side.mkdir("x", 2**40)),
    ("a mode that is a string", lambda side: side.mkdir("x", "y")),
    ("lstat of a descriptor", lambda side: side.lstat(0)),
    ("a value that is str", lambda side: side.setxattr("/nowhere", "user.a", "str")),
    ("an attribute that is none", lambda side: side.getxattr("/nowhere", None)),
    ("a length that is a string", lambda side: side.truncate("/nowhere", "5")),
    ("a length beyond long", lambda side: side.truncate("/nowhere", 2**70)),
    ("a closed descriptor", lambda side: side.stat(987_654)),
    ("a closed descriptor's attribute", lambda side: side.getxattr(987_654, "user.a")),
    ("a closed descriptor's length", lambda side: side.truncate(987_654, 3)),
]


@pytest.mark.parametrize("bad", [call for _, call in BAD_ARGUMENTS], ids=[name for name, _ in BAD_ARGUMENTS])
async def test_bad_arguments_raise_what_os_raises(bad: Callable[[Any], Any]) -> None:
    with pytest.raises((OSError, ValueError, TypeError, OverflowError)) as theirs:
        bad(os)
    with pytest.raises((OSError, ValueError, TypeError, OverflowError)) as ours:
        await bad(fs)
    assert type(ours.value) is type(theirs.value)
    if isinstance(theirs.value, OSError) and isinstance(ours.value, OSError):
        assert (ours.value.errno, ours.value.strerror) == (theirs.value.errno, theirs.value.strerror)
        assert ours.value.filename == theirs.value.filename


async def test_errors_show_the_path_as_it_was_given(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing"
    for path in (str(missing), os.fsencode(missing), missing):
        for call in (fs.stat, fs.lstat, fs.unlink, fs.rmdir, fs.read_bytes, fs.readlink):
            with pytest.raises(FileNotFoundError) as caught:
                await call(path)
            assert caught.value.filename == os.fspath(path) and caught.value.filename2 is None
    other = os.fsencode(tmp_path / "other")  # of the same file system: the kernel looks at that first
    with pytest.raises(FileNotFoundError) as caught:
        await fs.rename(missing, other)
    assert (caught.value.filename, caught.value.filename2) == (str(missing), other)


async def test_permissions_are_those_of_the_caller(open_folder: pathlib.Path) -> None:
    """A request that a kernel thread carries out has the rights of the thread that asked for it."""
    closed = open_folder / "closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"secret")
    closed.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        calls: list[Awaitable[Any]] = [
            fs.stat(closed / "file"),
            fs.read_bytes(closed / "file"),
            fs.write_bytes(closed / "file", b""),
            fs.write_bytes(closed / "file", b"", atomic=True),
            fs.unlink(closed / "file"),
            fs.mkdir(closed / "folder"),
            fs.listdir(closed),
            fs.copyfile(closed / "file", open_folder / "copy"),
        ]
        for call in calls:
            with pytest.raises(PermissionError) as caught:
                await call
            assert str(closed) in str(caught.value.filename)
        assert await fs.exists(closed / "file") is False
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o700)
    assert (closed / "file").read_bytes() == b"secret"
