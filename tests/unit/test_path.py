"""aiouring.Path: its methods beside pathlib.Path's, and the names of anyio.Path."""

from __future__ import annotations

import asyncio
import inspect
import os
import pathlib
import pickle
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import aiouring
from aiouring import Path

# Both sides run a script of calls in a folder of their own.
NAMES = strategies.sampled_from(["a", "b", "c", "a/b", "a/c", "b/a", ".", "a/..", "a//b/", "", "missing/x", "ä", "x.tar.gz", "~", "n" * 300, "a\0"])
PATTERNS = strategies.sampled_from(["*", "**", "**/*", "a*", "*/b", "?", "*.gz", "../*", "[ab]", "**/b", "", "/abs", "a/../*"])
MODES = strategies.sampled_from([0o777, 0o700, 0o640])


def calls(name: str, *arguments: strategies.SearchStrategy[Any]) -> strategies.SearchStrategy[tuple[Any, ...]]:
    return strategies.tuples(strategies.just(name), NAMES, strategies.tuples(*arguments))


CALLS = strategies.one_of(
    *(calls(name) for name in (
        "exists", "is_dir", "is_file", "is_symlink", "is_fifo", "is_socket", "is_block_device", "is_char_device", "is_mount", "owner", "group",
        "readlink", "rmdir", "read_bytes", "stat", "lstat", "iterdir", "absolute", "expanduser",
    )),
    calls("mkdir", MODES, strategies.booleans(), strategies.booleans()),
    calls("touch", MODES, strategies.booleans()),
    calls("unlink", strategies.booleans()),
    calls("write_bytes", strategies.binary(max_size=9)),
    # Text that cannot be encoded leaves the file alone here, where pathlib truncates it first.
    calls("write_text", strategies.text(strategies.characters(codec="utf-8"), max_size=9), strategies.sampled_from(["utf-8", "utf-16"])),
    calls("read_text", strategies.sampled_from(["utf-8", "utf-16", "ascii"])),
    calls("chmod", MODES),
    calls("lchmod", MODES),
    calls("resolve", strategies.booleans()),
    calls("glob", PATTERNS),
    calls("rglob", PATTERNS),
    calls("rename", NAMES),
    calls("replace", NAMES),
    calls("symlink_to", NAMES),
    calls("hardlink_to", NAMES),
    calls("samefile", NAMES),
)  # fmt: skip


async def outcome(kind: Any, base: str, step: tuple[Any, ...]) -> Any:
    name, path, arguments = step

    def neutral(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(base, "BASE")
        if isinstance(value, pathlib.PurePath):
            return "path", neutral(str(value))
        if isinstance(value, os.stat_result):
            return stat.filemode(value.st_mode), value.st_nlink, value.st_uid
        return value

    try:
        target = kind(base) / path if path else kind(base)
        if name in ("rename", "replace", "hardlink_to", "samefile"):
            arguments = (kind(base) / arguments[0],)
        if name == "symlink_to":
            arguments = (kind(arguments[0]),)
        answer = getattr(target, name)(*arguments)
        if isinstance(answer, AsyncIterator):
            found = [item async for item in answer]
            assert all(type(item) is kind for item in found)
            return sorted(map(neutral, found))
        if inspect.iscoroutine(answer):
            answer = await answer
            if isinstance(answer, pathlib.PurePath):
                assert isinstance(answer, kind)
        elif hasattr(answer, "__next__"):
            return sorted(map(neutral, answer))
        return neutral(answer)
    except OSError as error:
        return type(error), error.errno, neutral(error.filename), neutral(error.filename2)
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
        return (type(error),)


@hypothesis.settings(max_examples=int(os.environ.get("AIOURING_FS_EXAMPLES", "150")), deadline=None, database=None)
@hypothesis.seed(int(os.environ.get("AIOURING_SEED") or 0))
@hypothesis.given(script=strategies.lists(CALLS, min_size=1, max_size=25))
def test_the_same_calls_do_what_pathlib_does(script: list[tuple[Any, ...]]) -> None:
    async def main(bases: list[str]) -> None:
        for step in script:
            expected = await outcome(pathlib.Path, bases[0], step)
            assert await outcome(Path, bases[1], step) == expected, step

    with tempfile.TemporaryDirectory() as parent:
        bases = [os.path.join(parent, name, "base") for name in ("one", "two")]
        for base in bases:
            os.makedirs(base + "/a/b")
            pathlib.Path(base, "b").write_bytes(b"contents")
            pathlib.Path(base, "x.tar.gz").touch()
            os.symlink("a", base + "/c")
        aiouring.run(main(bases))
        listed = [sorted(str(path).replace(base, "") for path in pathlib.Path(base).rglob("*")) for base in bases]
        assert listed[0] == listed[1]


def test_it_has_the_names_of_anyios(tmp_path: pathlib.Path) -> None:
    anyio = pytest.importorskip("anyio", reason="needs program: the library anyio")
    names = {name for name in dir(anyio.Path) if not name.startswith("_")}
    # Whose thread a call runs in is no question here; copying and moving came with Python 3.14.
    assert names - set(dir(Path)) <= {"limiter", "copy", "copy_into", "move", "move_into", "info"}
    ours, theirs = Path(tmp_path, "a", "..", "b.tar.gz"), anyio.Path(tmp_path, "a", "..", "b.tar.gz")
    for name in sorted(names & set(dir(Path))):
        first, second = getattr(ours, name), getattr(theirs, name)
        assert callable(first) == callable(second), name
        if not callable(first) and name != "parents":
            assert (str(first), type(first) is Path) == (str(second), type(second) is anyio.Path), name
    assert [str(parent) for parent in ours.parents] == [str(parent) for parent in theirs.parents]


async def test_it_answers_as_anyios_does(tmp_path: pathlib.Path) -> None:
    """The same awaits and the same asynchronous iterations, in two folders."""
    anyio = pytest.importorskip("anyio", reason="needs program: the library anyio")

    async def script(kind: Any, base: Any) -> list[Any]:
        answers: list[Any] = []
        await (base / "x" / "y").mkdir(parents=True)
        answers.append(await (base / "x" / "file").write_text("text\n"))
        answers.append(await (base / "x" / "file").read_text())
        answers.append(sorted([str(path.relative_to(base)) async for path in base.iterdir()]))
        answers.append(sorted([str(path.relative_to(base)) async for path in base.rglob("*")]))
        answers.append(sorted([path.name async for path in (base / "x").glob("f*")]))
        renamed = await (base / "x" / "file").rename(base / "x" / "renamed")
        answers.append((type(renamed) is kind, renamed.name, await renamed.exists(), await (base / "x" / "file").exists()))
        await (base / "link").symlink_to("x")
        answers.append((str(await (base / "link").readlink()), await (base / "link").is_symlink(), await (base / "link").is_dir()))
        await (base / "hard").hardlink_to(renamed)
        answers.append((await renamed.samefile(base / "hard"), (await renamed.stat()).st_nlink))
        answers.append((await (base / "link" / "..").resolve()) == await base.resolve())
        answers.append(str(await kind.cwd()))
        answers.append(str(await kind.home()))
        answers.append(str(await kind("~").expanduser()))
        answers.append(str(await kind("relative").absolute()))
        return answers

    ours = await script(Path, Path(tmp_path / "ours"))
    assert ours == await asyncio.to_thread(asyncio.run, script(anyio.Path, anyio.Path(tmp_path / "theirs")))


def test_it_is_a_pure_path() -> None:
    path = Path("/usr") / "lib" / "x.tar.gz"
    assert issubclass(Path, pathlib.PurePath) and not issubclass(Path, pathlib.Path)
    assert path == pathlib.PurePosixPath("/usr/lib/x.tar.gz") and hash(path) == hash(pathlib.PurePosixPath("/usr/lib/x.tar.gz"))
    assert os.fspath(path) == str(path) == "/usr/lib/x.tar.gz" and bytes(path) == b"/usr/lib/x.tar.gz"
    assert repr(path) == "Path('/usr/lib/x.tar.gz')"
    for derived in (path.parent, path.parents[1], path.with_name("y"), path.with_suffix(".y"), path.with_stem("y"), "/" / path, path.joinpath("z"),
                    path.relative_to("/usr"), path.with_segments("a", "b"), pickle.loads(pickle.dumps(path))):  # fmt: skip
        assert type(derived) is Path
    assert pickle.loads(pickle.dumps(path)) == path and {path: 1}[Path("/usr//lib/x.tar.gz")] == 1
    assert Path("a") < Path("b") and Path("a/b").is_relative_to("a") and path.match("*.gz")
    assert Path(pathlib.Path("a"), Path("b")) == Path("a/b") and pathlib.Path(Path("a")) == pathlib.Path("a")
    assert Path() == Path(".") and path.as_uri() == "file:///usr/lib/x.tar.gz" and Path.from_uri("file:///a%20b") == Path("/a b")
    for wrong in ("http://x", "file:relative"):
        with pytest.raises(ValueError):
            Path.from_uri(wrong)
    if sys.version_info >= (3, 13):
        for uri in ("file:/a", "file:///a%20b", "file://localhost/a", "file:////a"):
            assert Path.from_uri(uri) == pathlib.Path.from_uri(uri)


async def test_walk(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "link").symlink_to("a")
    for top_down in (False, True):
        for follow in (False, True):
            steps = [(str(top), sorted(folders), sorted(files))
                     async for top, folders, files in Path(tmp_path).walk(top_down, follow_symlinks=follow)]  # fmt: skip
            expected = [(top, sorted(folders), sorted(files)) for top, folders, files in os.walk(tmp_path, top_down, followlinks=follow)]
            if not follow:  # os.walk() calls a link to a folder a folder
                expected = [(top, [name for name in folders if name != "link"], sorted(files + [name for name in folders if name == "link"]))
                            for top, folders, files in expected]  # fmt: skip
            assert sorted(steps) == sorted(expected)
            if sys.version_info >= (3, 12):
                theirs = [(str(top), sorted(folders), sorted(files))
                          for top, folders, files in pathlib.Path(tmp_path).walk(top_down, follow_symlinks=follow)]  # fmt: skip
                assert sorted(steps) == sorted(theirs)
    seen = []
    async for top, folders, _ in Path(tmp_path).walk():
        seen.append(top.name)
        folders[:] = [name for name in folders if name != "a"]
    assert seen == [tmp_path.name]
    errors: list[OSError] = []
    assert [step async for step in Path(tmp_path / "missing").walk(on_error=errors.append)] == []
    assert isinstance(errors[0], FileNotFoundError)


async def test_open(tmp_path: pathlib.Path) -> None:
    path = Path(tmp_path, "file")
    async with path.open("w", encoding="utf-8", newline="\r\n") as file:
        await file.write("one\ntwo ä\n")
    assert (tmp_path / "file").read_bytes() == "one\r\ntwo ä\r\n".encode()
    async with path.open(encoding="utf-8") as file:
        assert [line async for line in file] == ["one\n", "two ä\n"]
    file = await path.open("rb", 0)
    assert await file.read() == "one\r\ntwo ä\r\n".encode()
    await file.close()
    with pytest.raises(FileNotFoundError) as caught:
        await Path(tmp_path, "missing").open()
    assert caught.value.filename == str(tmp_path / "missing")


async def test_cancelled_iterations_close_their_folders(tmp_path: pathlib.Path) -> None:
    for number in range(3000):
        (tmp_path / str(number)).touch()

    async def endless() -> None:
        while True:
            async for _ in Path(tmp_path).rglob("*"):
                await asyncio.sleep(0)

    task = asyncio.ensure_future(endless())
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_questions_about_what_cannot_be_reached(tmp_path: pathlib.Path) -> None:
    """pathlib says False where there is nothing, and raises what else goes wrong."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path in ("missing", "loop", "file/x", "a\0b"):
        assert not await Path(tmp_path, path).exists()
        assert not await Path(tmp_path, path).is_dir()
    with pytest.raises(OSError, match="too long"):
        await Path(tmp_path, "n" * 300).exists()
    assert await Path(tmp_path, "loop").is_symlink() and await Path(tmp_path, "loop").exists(follow_symlinks=False)
    assert not await Path(tmp_path).is_junction()
