"""fs.copyfile, copytree and rmtree: bytes of every size, holes, O_DIRECT, progress, errors, cancellation, and trees beside shutil's."""

from __future__ import annotations

import asyncio
import errno
import filecmp
import functools
import gc
import itertools
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import aiouring
from aiouring import _copy, copying, fs

from .files import cancel_at_each_wait, close_at_each_wait, names_in, slots_in_use, small_disk, until

BLOCK = 256 * 1024
SIZES = [0, 1, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 8 * BLOCK, 8 * BLOCK + 1, 5_000_011]


def same(first: Path, second: Path) -> bool:
    filecmp.clear_cache()
    return filecmp.cmp(first, second, shallow=False)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("size", SIZES)
async def test_copies_of_every_size(tmp_path: Path, rng: random.Random, size: int, direct: bool) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(rng.randbytes(size))
    src.chmod(0o604)
    seen: list[tuple[int, int]] = []
    assert await fs.copyfile(src, dst, direct=direct, progress=lambda done, total: seen.append((done, total))) == str(dst)
    assert same(src, dst)
    assert stat.S_IMODE(dst.stat().st_mode) == 0o604
    assert seen[0] == (0, size) and seen[-1] == (size, size)
    assert all(first[0] <= second[0] for first, second in itertools.pairwise(seen))
    assert names_in(tmp_path) == {"src", "dst"} and slots_in_use() == 0


@hypothesis.settings(max_examples=60, deadline=None, database=None)
@hypothesis.seed(int(os.environ.get("AIOURING_SEED") or 0))
@hypothesis.given(
    pieces=strategies.lists(strategies.tuples(strategies.integers(0, 400_000), strategies.integers(0, 400_000)), max_size=6),
    tail=strategies.integers(0, 400_000),
    start=strategies.integers(0, 500_000),
    block_pages=strategies.integers(1, 20),
    depth=strategies.integers(1, 9),
    direct=strategies.booleans(),
    with_digest=strategies.booleans(),
)
def test_holes_blocks_and_checksums(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]], tail: int, start: int, block_pages: int, depth: int,
    direct: bool, with_digest: bool,
) -> None:  # fmt: skip
    """Files of data and holes in random places, copied by random numbers of blocks of random sizes, from a random place on."""
    folder = tmp_path_factory.mktemp("holes")
    with open(folder / "src", "wb") as file:
        for hole, data in pieces:
            file.seek(hole, os.SEEK_CUR)
            file.write(os.urandom(data))
        file.truncate(file.tell() + tail)
    whole = (folder / "src").read_bytes()
    start = min(start, len(whole))
    if direct:
        start = start // 4096 * 4096
    (folder / "dst").write_bytes(whole[:start])
    digested = bytearray()

    async def main() -> None:
        async with copying.source(str(folder / "src"), direct) as (src_fd, found, _):
            dst_fd = os.open(folder / "dst", os.O_WRONLY | (os.O_DIRECT if direct else 0))
            try:
                end = await copying.copy_contents(
                    src_fd, dst_fd, src="src", dst="dst", size=found.st_size, sparse=True, start=start, direct=direct,
                    digest=digested.extend if with_digest else None,
                )  # fmt: skip
            finally:
                os.close(dst_fd)
        assert end == len(whole)
        assert slots_in_use() == 0

    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(copying, "_BLOCK_BYTES", block_pages * 4096)
        patch.setattr(copying, "_DIRECT_BLOCK_BYTES", block_pages * 4096)
        patch.setattr(copying, "_BLOCKS", depth)
        aiouring.run(main())
    assert (folder / "dst").read_bytes() == whole
    if with_digest:
        assert bytes(digested) == whole[start:]
    shutil.rmtree(folder)


async def test_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    with open(src, "wb") as file:
        for place in (0, 10_000_000, 99_000_000):
            file.seek(place)
            file.write(b"data")
        file.truncate(100_000_000)
    for direct in (False, True):
        await fs.copyfile(src, dst, direct=direct)
        assert same(src, dst)
        assert dst.stat().st_blocks <= src.stat().st_blocks + 8


async def test_a_large_file_has_its_room_reserved(tmp_path: Path) -> None:
    """Seen by a copy that stops after its first block: the temporary file has the whole of it then."""
    src = tmp_path / "src"
    src.write_bytes(bytes(30_000_000))
    blocks: list[int] = []

    def look(done: int, total: int) -> None:
        if done and not blocks:
            (temporary,) = names_in(tmp_path) - {"src"}
            blocks.append((tmp_path / temporary).stat().st_blocks)

    await fs.copyfile(src, tmp_path / "dst", progress=look)
    if os.major(src.stat().st_dev) == 0:
        pytest.skip("needs kernel: a file system on a disk, where room is reserved")
    assert blocks[0] * 512 >= 30_000_000
    assert (tmp_path / "dst").stat().st_size == 30_000_000


async def test_what_shutil_refuses(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(b"data")
    os.link(src, tmp_path / "hard")
    (tmp_path / "soft").symlink_to("src")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for dst in ("src", "hard", "soft"):
        with pytest.raises(shutil.SameFileError):
            await fs.copyfile(src, tmp_path / dst)
    for first, second in (("fifo", "dst"), ("src", "fifo")):
        with pytest.raises(shutil.SpecialFileError):
            await fs.copyfile(tmp_path / first, tmp_path / second)
    with pytest.raises(shutil.SpecialFileError):
        await fs.copyfile("/dev/zero", tmp_path / "dst")
    for first, second, error, named in (
        ("folder", "dst", IsADirectoryError, "folder"),
        ("src", "folder", IsADirectoryError, "folder"),
        ("missing", "dst", FileNotFoundError, "missing"),
        ("src", "missing/dst", FileNotFoundError, "missing/dst"),
        ("src/x", "dst", NotADirectoryError, "src/x"),
    ):
        with pytest.raises(error) as caught:
            await fs.copyfile(tmp_path / first, tmp_path / second)
        assert caught.value.filename == str(tmp_path / named)
    assert names_in(tmp_path) == {"src", "hard", "soft", "fifo", "folder"}
    assert src.read_bytes() == b"data"


async def test_links(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"data")
    (tmp_path / "link").symlink_to("src")
    await fs.copyfile(tmp_path / "link", tmp_path / "followed")
    await fs.copyfile(tmp_path / "link", tmp_path / "kept", follow_symlinks=False)
    assert not (tmp_path / "followed").is_symlink() and (tmp_path / "followed").read_bytes() == b"data"
    assert os.readlink(tmp_path / "kept") == "src"
    with pytest.raises(FileExistsError):
        await fs.copyfile(tmp_path / "link", tmp_path / "kept", follow_symlinks=False)
    # What the target leads to is replaced, and the link stays.
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "to other").symlink_to("other")
    await fs.copyfile(tmp_path / "src", tmp_path / "to other")
    assert (tmp_path / "to other").is_symlink() and (tmp_path / "other").read_bytes() == b"data"


async def test_the_target_appears_when_it_is_whole(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(os.urandom(20_000_000))
    dst.write_bytes(b"old")

    def look(done: int, total: int) -> None:
        assert dst.read_bytes() == b"old"

    await fs.copyfile(src, dst, progress=look)
    assert same(src, dst)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs program: root, to own files of two groups")
async def test_the_group_reads_nothing_that_is_not_for_it(tmp_path: Path) -> None:
    """While it is written the copy has this process's group, and not yet that of the file which it will replace."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(os.urandom(5_000_000))
    src.chmod(0o660)
    dst.write_bytes(b"old")
    os.chown(dst, 0, 2345)
    seen: set[tuple[int, int]] = set()

    def look(done: int, total: int) -> None:
        (temporary,) = names_in(tmp_path) - {"src", "dst"}
        found = (tmp_path / temporary).stat()
        seen.add((found.st_gid, stat.S_IMODE(found.st_mode)))

    await fs.copyfile(src, dst, progress=look)
    assert seen == {(os.getegid(), 0o600)}
    assert (dst.stat().st_gid, stat.S_IMODE(dst.stat().st_mode)) == (2345, 0o660)


@pytest.mark.parametrize("again", [False, True])
async def test_a_copy_is_cancelled_at_each_wait(tmp_path: Path, again: bool) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(os.urandom(5_000_000))
    src.chmod(0o666)
    dst.write_bytes(b"old")

    def check(cancelled: bool) -> None:
        assert names_in(tmp_path) == {"src", "dst"}
        assert slots_in_use() == 0
        if not cancelled:
            assert same(src, dst)
        else:
            assert dst.read_bytes() == b"old" or same(src, dst)
        dst.write_bytes(b"old")

    assert await cancel_at_each_wait(lambda: fs.copyfile(src, dst, fsync=True), check, again=again) >= 12


class CancelAfter:
    """A progress that cancels its task when it is told for the n-th time."""

    task: asyncio.Future[Any]

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, done: int, total: int) -> None:
        self.calls -= 1
        if self.calls == 0:
            self.task.cancel()


@pytest.mark.parametrize("direct", [False, True])
async def test_a_copy_is_cancelled_in_the_middle(tmp_path: Path, direct: bool) -> None:
    src = tmp_path / "src"
    src.write_bytes(os.urandom(20_000_000))
    for blocks in range(1, 18, 4):
        stop = CancelAfter(blocks)
        stop.task = asyncio.ensure_future(fs.copyfile(src, tmp_path / "dst", progress=stop, direct=direct))
        with pytest.raises(asyncio.CancelledError):
            await stop.task
        assert names_in(tmp_path) == {"src"} and slots_in_use() == 0


async def test_a_copy_coroutine_is_closed_at_each_wait(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(os.urandom(5_000_000))

    async def check() -> None:
        await until(lambda: slots_in_use() == 0)
        assert names_in(tmp_path) <= {"src", "dst"}

    await close_at_each_wait(lambda: fs.copyfile(src, tmp_path / "dst"), check)


async def test_an_error_of_the_progress_ends_the_copy(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(bytes(10_000_000))
    for fatal in (0, 1, 5):
        calls = 0

        def stop(done: int, total: int, fatal: int = fatal) -> None:
            nonlocal calls
            if calls == fatal:
                raise LookupError("enough")
            calls += 1

        with pytest.raises(LookupError, match="enough"):
            await fs.copyfile(src, tmp_path / "dst", progress=stop)
        assert names_in(tmp_path) == {"src"} and slots_in_use() == 0


@pytest.mark.parametrize("direct", [False, True])
async def test_a_full_disk(tmp_path: Path, direct: bool) -> None:
    src = tmp_path / "src"
    src.write_bytes(os.urandom(5_000_000))
    with small_disk(tmp_path / "disk", 2_000_000) as disk:
        with pytest.raises(OSError) as caught:
            await fs.copyfile(src, disk / "dst", direct=direct)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(disk / "dst")
        assert names_in(disk) == set() and slots_in_use() == 0
        os.truncate(src, 1_000_000)
        await fs.copyfile(src, disk / "dst", direct=direct)
        assert same(src, disk / "dst")


class Meanwhile:
    """Changes the source when the copy has come so far."""

    def __init__(self, at: int, change: Callable[[], None]) -> None:
        self.at = at
        self.change: Callable[[], None] | None = change

    def __call__(self, done: int, total: int) -> None:
        if done >= self.at and self.change is not None:
            self.change()
            self.change = None


@pytest.mark.parametrize("direct", [False, True])
async def test_a_source_that_changes_its_size_meanwhile(tmp_path: Path, direct: bool) -> None:
    """The copy has the length that the file had when its end was found, and no byte that never was there."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    data = os.urandom(10_000_000)
    for size in (0, 1, 4096, 3_000_001, 8 * 1024 * 1024, 9_999_999):
        src.write_bytes(data)
        await fs.copyfile(src, dst, progress=Meanwhile(1_000_000, functools.partial(os.truncate, src, size)), direct=direct)
        copy = dst.read_bytes()
        assert len(copy) >= size and copy[:size] == data[:size]
        assert all(copy[at] in (0, data[at]) for at in range(size, len(copy)))
    src.write_bytes(data)

    def grow() -> None:
        with open(src, "ab") as file:
            file.write(data[:777_777])

    await fs.copyfile(src, dst, progress=Meanwhile(1_000_000, grow))
    assert same(src, dst) and dst.stat().st_size == 10_777_777


async def test_many_copies_at_once(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"src{number}").write_bytes(os.urandom(number * 997))
    await asyncio.gather(*(fs.copyfile(tmp_path / f"src{number}", tmp_path / f"dst{number}") for number in range(200)))
    assert all(same(tmp_path / f"src{number}", tmp_path / f"dst{number}") for number in range(200))
    assert slots_in_use() == 0


async def test_other_callbacks_run_while_a_file_is_copied(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(bytes(50_000_000))
    task = asyncio.ensure_future(fs.copyfile(src, tmp_path / "dst"))
    turns = 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    await task
    assert turns > 50


def test_a_copy_goes_on_when_its_loop_moves_to_another_thread(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(os.urandom(30_000_000))
    for direct in (False, True):
        loop = aiouring.new_event_loop()
        moved = asyncio.Event()

        async def begin(loop: asyncio.AbstractEventLoop = loop, direct: bool = direct, moved: asyncio.Event = moved) -> asyncio.Task[Any]:
            task = loop.create_task(
                fs.copyfile(src, tmp_path / "dst", direct=direct, progress=lambda done, total: moved.set() if done else None)
            )
            await moved.wait()
            return task

        task = loop.run_until_complete(begin())
        other = threading.Thread(target=loop.run_until_complete, args=(task,))
        other.start()
        other.join()
        loop.close()
        assert task.result() == str(tmp_path / "dst")
        assert same(src, tmp_path / "dst")


@pytest.mark.parametrize("direct", [False, True])
def test_a_loop_is_closed_by_another_thread_while_it_copies(tmp_path: Path, direct: bool) -> None:
    """Workers of the kernel may still read and write the blocks' memory then: it is not given back before they end."""
    src = tmp_path / "src"
    src.write_bytes(os.urandom(30_000_000))
    for _ in range(5):
        loop = aiouring.new_event_loop()
        moved = asyncio.Event()

        async def begin(loop: asyncio.AbstractEventLoop = loop, moved: asyncio.Event = moved) -> asyncio.Task[Any]:
            task = loop.create_task(
                fs.copyfile(src, tmp_path / "dst", direct=direct, progress=lambda done, total: moved.set() if done else None)
            )
            await moved.wait()
            return task

        task = loop.run_until_complete(begin())
        closer = threading.Thread(target=loop.close)
        closer.start()
        closer.join()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task, loop, moved, begin, closer
        gc.collect()
        for path in names_in(tmp_path) - {"src"}:
            (tmp_path / path).unlink()  # the copy's task was never told, so its file stays


async def test_arguments_of_the_engine() -> None:
    for wrong in ({"depth": 0}, {"depth": 65}, {"block_bytes": 0}, {"alignment": 0}, {"alignment": 4096, "block_bytes": 5000}):
        with pytest.raises(ValueError, match="cannot be copied"):
            _copy.copy_blocks(0, 0, src="", dst="", start=0, extents=[(0, 1)], total=1, **{"block_bytes": 4096, "depth": 1, **wrong})  # type: ignore[arg-type]


# -- trees -------------------------------------------------------------------------------------------------------------------------------


def make_tree(folder: Path, rng: random.Random) -> None:
    folder.mkdir()
    for number in range(40):
        inner = folder / f"folder {number % 5}" / f"deeper {number % 3}"
        inner.mkdir(parents=True, exist_ok=True)
        file = inner / f"file {number}"
        file.write_bytes(rng.randbytes(rng.choice([0, 10, 5000, 300_000])))
        file.chmod(rng.choice([0o644, 0o600, 0o755, 0o444]))
        os.utime(file, ns=(number * 10**9 + 5, number * 10**9 + 7))
        os.setxattr(file, "user.number", b"%d" % number)
    (folder / "folder 0" / "link").symlink_to("deeper 0/file 0")
    (folder / "folder 1" / "link to a folder").symlink_to("../folder 2")
    (folder / "empty").mkdir(mode=0o711)
    os.utime(folder / "folder 3", ns=(11, 13))


def described(folder: Path) -> list[Any]:
    rows = []
    for top, folders, rest in os.walk(folder):
        for name in [*folders, *rest, "."]:
            path = Path(top, name)
            found = path.lstat()
            row: list[Any] = [str(path.relative_to(folder)), stat.filemode(found.st_mode), found.st_mtime_ns]
            if path.is_symlink():
                row[2] = os.readlink(path)
            else:
                row.append([(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))])
            if path.is_file():
                row.append(path.read_bytes())
            rows.append(row)
    return sorted(rows, key=lambda row: str(row[0]))


@pytest.mark.parametrize("symlinks", [False, True])
async def test_a_tree_as_shutil_copies_it(tmp_path: Path, rng: random.Random, symlinks: bool) -> None:
    src = tmp_path / "src"
    make_tree(src, rng)
    seen: list[tuple[int, int]] = []
    assert await fs.copytree(src, tmp_path / "ours", symlinks, progress=lambda done, total: seen.append((done, total))) == str(tmp_path / "ours")
    shutil.copytree(src, tmp_path / "theirs", symlinks)
    assert described(tmp_path / "ours") == described(tmp_path / "theirs")
    total = seen[0][1]
    assert seen[0][0] == 0 and seen[-1] == (total, total) and total > 1_000_000
    for wrong in (tmp_path / "ours", src / "folder 0" / "link"):
        with pytest.raises(FileExistsError):
            await fs.copytree(src, wrong)
    await fs.copytree(src, tmp_path / "ours", symlinks=False, dirs_exist_ok=True)
    assert slots_in_use() == 0


async def test_a_trees_errors_come_together(tmp_path: Path) -> None:
    src = tmp_path / "src"
    (src / "inner").mkdir(parents=True)
    (src / "inner" / "good").write_bytes(b"good")
    os.mkfifo(src / "inner" / "fifo")
    (src / "broken").symlink_to("nowhere")
    with pytest.raises(shutil.Error) as caught:
        await fs.copytree(src, tmp_path / "dst")
    failed = {Path(first).name for first, second, why in caught.value.args[0]}
    assert failed == {"fifo", "broken"}
    assert (tmp_path / "dst" / "inner" / "good").read_bytes() == b"good"
    (src / "inner" / "fifo").unlink()
    await fs.copytree(src, tmp_path / "second", ignore_dangling_symlinks=True)
    await fs.copytree(src, tmp_path / "third", symlinks=True)
    assert names_in(tmp_path / "second") == {"inner"} and names_in(tmp_path / "third") == {"inner", "broken"}
    await fs.copytree(src, tmp_path / "fourth", ignore=shutil.ignore_patterns("goo*", "broken"))
    assert [name for _, _, names in os.walk(tmp_path / "fourth") for name in names] == []
    with pytest.raises(FileNotFoundError):
        await fs.copytree(tmp_path / "missing", tmp_path / "fifth")
    assert not (tmp_path / "fifth").exists()


async def test_a_tree_whose_files_come_and_go(tmp_path: Path) -> None:
    """What has gone between the listing and its copy is one error, and all the rest is copied."""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(300):
        (src / f"{number}").write_bytes(b"stays")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for number in range(100):
                (src / f"comes and goes {number}").touch()
            for number in range(100):
                (src / f"comes and goes {number}").unlink()

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for turn in range(20):
            dst = tmp_path / f"dst {turn}"
            try:
                await fs.copytree(src, dst)
            except shutil.Error as errors:
                assert all("comes and goes" in os.path.basename(source) for source, _, _ in errors.args[0]), errors
            assert {name for name in names_in(dst) if not name.startswith("comes")} == {str(number) for number in range(300)}
    finally:
        stop.set()
        changing.join()


async def test_a_tree_into_itself_ends(tmp_path: Path) -> None:
    src = tmp_path / "src"
    (src / "folder").mkdir(parents=True)
    (src / "file").write_bytes(b"data")
    await fs.copytree(src, src / "copy")
    assert names_in(src) == {"file", "folder", "copy"} and names_in(src / "copy") == {"file", "folder"}


async def test_a_tree_is_cancelled_and_leaves_whole_files(tmp_path: Path, rng: random.Random) -> None:
    src = tmp_path / "src"
    make_tree(src, rng)
    for blocks in (1, 5, 20, 40):
        stop = CancelAfter(blocks)
        stop.task = asyncio.ensure_future(fs.copytree(src, tmp_path / "dst", progress=stop))
        with pytest.raises(asyncio.CancelledError):
            await stop.task
        for top, _, names in os.walk(tmp_path / "dst"):
            for name in names:
                path = Path(top, name)
                assert same(src / path.relative_to(tmp_path / "dst"), path)
        assert slots_in_use() == 0
        shutil.rmtree(tmp_path / "dst", ignore_errors=True)


async def test_rmtree(tmp_path: Path, rng: random.Random) -> None:
    for given in (Path, str, os.fsencode):
        make_tree(tmp_path / "tree", rng)
        (tmp_path / "tree" / "out").symlink_to(tmp_path)
        await fs.rmtree(given(tmp_path / "tree"))  # type: ignore[operator]
        assert names_in(tmp_path) == set()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(".")
    for path, error in (("file", NotADirectoryError), ("missing", FileNotFoundError), ("link", OSError)):
        with pytest.raises(error):
            await fs.rmtree(tmp_path / path)
        await fs.rmtree(tmp_path / path, ignore_errors=True)
        seen: list[tuple[Any, Any, Any]] = []

        def note(function: Any, where: Any, what: Any, seen: list[tuple[Any, Any, Any]] = seen) -> None:
            seen.append((function, where, what))

        await fs.rmtree(tmp_path / path, onerror=note)
        await fs.rmtree(tmp_path / path, onexc=note)
        assert [args[1] for args in seen] == [str(tmp_path / path)] * 2
        assert isinstance(seen[0][2][1], error) and isinstance(seen[1][2], error)
    assert names_in(tmp_path) == {"file", "link"} and slots_in_use() == 0


async def test_rmtree_does_not_follow_what_is_put_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that becomes a symbolic link after it was listed is not entered."""
    from aiouring import trees

    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"data")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    listed = trees._list_folder_fd

    def list_and_swap(fd: int) -> list[tuple[str, bool]]:
        entries = listed(fd)
        (tmp_path / "tree" / "inner").rmdir()
        (tmp_path / "tree" / "inner").symlink_to("../precious")
        return entries

    monkeypatch.setattr(trees, "_list_folder_fd", list_and_swap)
    with pytest.raises(OSError) as caught:
        await fs.rmtree(tmp_path / "tree")
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR) and caught.value.filename == str(tmp_path / "tree" / "inner")
    assert (tmp_path / "precious" / "file").read_bytes() == b"data"


async def test_a_folder_of_many_entries(tmp_path: Path) -> None:
    for number in range(2500):
        (tmp_path / f"{number}").touch()
    assert len(await fs.listdir(tmp_path)) == 2500
    names = set()
    async with fs.scandir(tmp_path) as entries:
        async for entry in entries:
            names.add(entry.name)
            assert entry.is_file() and not entry.is_dir() and entry.inode() == os.lstat(entry.path).st_ino
    assert len(names) == 2500
    async with fs.scandir(tmp_path) as entries:
        async for _ in entries:
            break  # and the folder is closed
    folders = fs.scandir(tmp_path)
    await folders.close()
    assert [entry async for entry in folders] == []
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        async with fs.scandir(fd) as entries:
            async for entry in entries:
                assert entry.path == entry.name
                assert (await entry.stat()).st_size == 0
                break
    finally:
        os.close(fd)
    with pytest.raises(NotADirectoryError):
        async for _ in fs.scandir(tmp_path / "1"):
            pass


INTERRUPTED = """if True:
    import asyncio, os, signal, sys, aiouring
    from aiouring import copying

    async def main():
        await asyncio.to_thread(int)
        pool = asyncio.get_running_loop()._default_executor
        adjust = pool._adjust_thread_count

        def interrupt():                            # what submit() does last: Runner's handler cancels the task there
            pool._adjust_thread_count = adjust
            signal.raise_signal(signal.SIGINT)
            adjust()

        src, dst = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
        pool._adjust_thread_count = interrupt
        await copying.copy_contents(src, dst, src=sys.argv[1], dst=sys.argv[2], size=5000, sparse=False, digest=lambda block: print(len(block)))

    try:
        with asyncio.Runner(loop_factory=aiouring.new_event_loop) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_interrupted_while_a_thread_is_given_a_block(tmp_path: Path) -> None:
    """The thread has the copy's memory then, which stays until it is through."""
    (tmp_path / "src").write_bytes(b"x" * 5000)
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, tmp_path / "src", tmp_path / "dst"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5000\ninterrupted\n", "")
