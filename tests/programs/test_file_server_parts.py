"""Parts of the file server that can be tested without one: staying below the root, conditions, ranges, the cache."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from aiouring import fs
from aiouring._beneath import open_beneath_now
from examples.file_server import conditions
from examples.file_server.cache import Cache, Entry
from examples.file_server.clock import Clock
from examples.file_server.files import Files, Loaded, Status
from examples.file_server.folder import decode
from examples.file_server.request import Refusal
from examples.file_server.server import Server
from examples.file_server.settings import Settings

# --- staying below the root


class Resolvers:
    """The kernel's way and ours, on one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = Files(root)

    @staticmethod
    def _outcome(opened: Callable[[bytes, int], int], path: bytes, flags: int) -> tuple[int, int] | int:
        """Which file it is, or the errno."""
        try:
            fd = opened(path, flags)
        except OSError as error:
            assert error.errno is not None
            return error.errno
        try:
            status = os.fstat(fd)
            return status.st_dev, status.st_ino
        finally:
            os.close(fd)

    def kernels(self, path: bytes, flags: int) -> int:
        return open_beneath_now(path, flags, 0, self.files._root_fd)

    def both(self, path: bytes, flags: int) -> tuple[tuple[int, int] | int, tuple[int, int] | int]:
        return self._outcome(self.kernels, path, flags), self._outcome(self.files._by_walking, path, flags)


@pytest.fixture(scope="module")
def resolvers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolvers]:
    folder = tmp_path_factory.mktemp("resolve")
    root = folder / "root"
    root.mkdir()
    folder.joinpath("secret").write_bytes(b"secret")
    found = Resolvers(root)
    yield found
    found.files.close()


NAMES = ["a", "b", "c", "d"]
TARGETS = some.lists(some.sampled_from([*NAMES, "..", "."]), min_size=1, max_size=5).map("/".join)
#: What stands at a place: a folder, a file, a pipe, or a link to somewhere.
THINGS = some.one_of(
    some.just("folder"),
    some.just("folder"),
    some.just("file"),
    some.just("fifo"),
    TARGETS.map(lambda target: f"link {target}"),
    TARGETS.map(lambda target: f"link {target}/"),
    TARGETS.map(lambda target: f"link /{target}"),
)
TREES = some.dictionaries(some.lists(some.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), THINGS, max_size=12)
PATHS = some.lists(some.sampled_from([*NAMES, "..", "."]), max_size=5).map("/".join)


def build(root: Path, tree: dict[str, str]) -> None:
    for item in root.iterdir():
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
    for place, thing in sorted(tree.items()):
        path = root / place
        try:
            if thing == "folder":
                path.mkdir(parents=True, exist_ok=True)
            elif thing == "file":
                path.write_bytes(place.encode())
            elif thing == "fifo":
                os.mkfifo(path)
            else:
                path.symlink_to(thing.removeprefix("link "))
        except OSError:
            pass  # it would be in a file, in a link, or in the place of another one


@given(tree=TREES, paths=some.lists(PATHS, min_size=1, max_size=8))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_our_way_and_the_kernels_find_the_same(resolvers: Resolvers, tree: dict[str, str], paths: list[str]) -> None:
    build(resolvers.root, tree)
    for path in paths:
        for flags in (os.O_PATH | os.O_CLOEXEC, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC):
            kernels, ours = resolvers.both(path.encode() or b".", flags)
            assert kernels == ours, f"{path!r} with {flags:#o}"


def test_the_ways_out(resolvers: Resolvers) -> None:
    links = {"up": "link ..", "far": "link a/../../secret", "etc": "link /etc/passwd", "x": "link x", "ok": "link a/b/../b"}
    build(resolvers.root, {"a/b": "folder", **links})
    for path, expected in [
        ("..", errno.EXDEV),
        ("../secret", errno.EXDEV),
        ("a/../../secret", errno.EXDEV),
        ("up/secret", errno.EXDEV),
        ("far", errno.EXDEV),
        ("etc", errno.EXDEV),
        ("x", errno.ELOOP),
        ("/etc/passwd", errno.EXDEV),
        ("missing", errno.ENOENT),
    ]:
        assert resolvers.both(path.encode(), os.O_PATH) == (expected, expected), path
    kernels, ours = resolvers.both(b"ok", os.O_PATH)
    assert kernels == ours != errno.ENOENT


def test_walking_leaves_no_descriptor_open(resolvers: Resolvers) -> None:
    build(resolvers.root, {"a/b/c": "folder", "a/b/d": "link ../../../secret", "b": "link a/b/c", "c": "file"})
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"a/b/c", b"a/b/d", b"b", b"b/missing", b"c", b"c/d", b"missing", b"a/b/c/../../../..", b"."):
        for flags in (os.O_PATH, os.O_RDONLY):
            resolvers._outcome(resolvers.files._by_walking, path, flags)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_where_the_kernel_lacks_openat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(path: bytes, flags: int, *, dir_fd: int) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(fs, "open_beneath", refuse)
    tmp_path.joinpath("root").mkdir()
    tmp_path.joinpath("root", "file").write_bytes(b"here")
    tmp_path.joinpath("root", "link").symlink_to("file")
    tmp_path.joinpath("root", "out").symlink_to("../secret")
    tmp_path.joinpath("secret").write_bytes(b"secret")
    files = Files(tmp_path / "root")
    try:
        for name in (b"file", b"link"):
            found = await files.load(name, 100)
            assert (found.body, found.file) == (b"here", None)
            large = await files.load(name, 3)
            assert large.file is not None
            assert os.pread(large.file.fileno(), 10, 0) == b"here"
            assert os.get_blocking(large.file.fileno())
            large.file.close()
        with pytest.raises(OSError) as refused:
            await files.load(b"out", 100)
        assert refused.value.errno == errno.EXDEV
        entries, more = await files.entries(b"", 10, dot_files=False)
        assert ({entry.name for entry in entries}, more) == ({b"file", b"link"}, False)
    finally:
        files.close()


async def test_a_file_that_is_written_to_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body cannot be taken whole, so the open file is handed out, with the state that it was last seen in."""
    path = tmp_path / "busy"
    path.write_bytes(b"x" * 1000)
    files = Files(tmp_path)
    ask, times = fs.stat, iter(range(100))

    async def change_and_ask(fd: int) -> os.stat_result:
        os.utime(path, ns=(0, next(times)))
        return await ask(fd)

    monkeypatch.setattr(fs, "stat", change_and_ask)
    try:
        found = await files.load(b"busy", 10_000)
    finally:
        files.close()
    assert found.body is None
    assert found.file is not None
    assert found.status == Status.of(path.stat())
    found.file.close()


async def test_what_is_unchanged_is_not_read_again(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_bytes(b"here")
    files = Files(tmp_path)
    try:
        first = await files.load(b"file", 100)
        assert await files.load(b"file", 100, first.status) == Loaded(first.status)
        tmp_path.joinpath("file").write_bytes(b"HERE")
        assert (await files.load(b"file", 100, first.status)).body == b"HERE"
    finally:
        files.close()


@given(some.text(alphabet="/.%2eEfFcC5\\aä", max_size=30))
def test_no_spelling_names_what_is_above(path: str) -> None:
    try:
        address = decode("/" + path, dot_files=True)
    except Refusal:
        return
    assert all(name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name for name in address.names)


# --- ranges and dates


NUMBERS = some.one_of(some.none(), some.integers(0, 60))


@given(size=some.integers(0, 50), specs=some.lists(some.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_ranges_are_what_was_asked_for(size: int, specs: list[tuple[int | None, int | None]]) -> None:
    field = "bytes=" + ",".join(f"{'' if first is None else first}-{'' if last is None else last}" for first, last in specs)
    valid = all((first is not None or last is not None) and (first is None or last is None or first <= last) for first, last in specs)
    wanted: set[int] = set()
    for first, last in specs:
        if first is None:
            wanted |= set(range(max(0, size - (last or 0)), size))
        else:
            wanted |= set(range(first, size if last is None else min(size, last + 1)))
    try:
        found = conditions.ranges(field, size)
    except conditions.NotSatisfiable:
        assert not wanted
        return
    if found is None:
        # Only what is no range, and all of an empty file.
        assert not valid or size == 0
        return
    assert valid
    assert sum(end - begin for begin, end in found) == len(wanted)  # no byte twice
    assert {place for begin, end in found for place in range(begin, end)} == wanted


@given(some.text(max_size=40))
def test_no_text_breaks_a_date_a_tag_or_a_range(text: str) -> None:
    conditions.date_s(text)
    file = conditions.Validators('"tag"', 1, 2.0)
    for name in ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"):
        conditions.evaluate({name: text}, file)
    conditions.range_applies({"if-range": text}, file)
    for field in (text, f"bytes={text}"):
        try:
            conditions.ranges(field, 10)
        except conditions.NotSatisfiable:
            pass


def test_dates() -> None:
    for text in ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
        assert conditions.date_s(text) == 784111777
    for text in ("", "now", "Sun, 06 Nov 1994", "Sun, 31 Feb 1994 08:49:37 GMT", "784111777", "Sun, 06 Nov 99999 08:49:37 GMT"):
        assert conditions.date_s(text) is None, text


# --- the cache


def entry_of(size: int) -> Entry:
    return Entry(None, bytes(size), ["Content-Type: text/plain"], "", None)


def test_the_cache_keeps_within_its_bound() -> None:
    chance = random.Random(3)
    cache = Cache(1_000_000, 1.0)
    clock = Clock()
    clock.refresh(0.0)
    entries: dict[bytes, Entry] = {}
    for _ in range(3000):
        path = b"%d" % chance.randrange(300)
        entry = entry_of(chance.choice([0, 10, 5000, 70_000, 300_000]))
        if cache.keep(path, entry):
            entries[path] = entry
            entry.valid_until_s = 1e9
            entry.prepare(clock)
            cache.learn(b"head %d" % chance.randrange(10_000), entry, b"")
        for other in chance.choices(list(entries.values()), k=3):
            other.hits += 1
        kept = [entry for path, entry in entries.items() if cache.find(path) is entry]
        assert cache.bytes_used == sum(entry.cost_bytes for entry in kept) <= 1_000_000
        # Who has gone holds no memory, whoever remembers it.
        assert all(entry.body is None and entry.wire is None and entry.until_s == 0 for entry in entries.values() if entry not in kept)
    assert len(cache.known) <= 4096
    assert not cache.keep(b"too large", entry_of(2_000_000))


def test_what_is_asked_for_stays_in_the_cache() -> None:
    cache = Cache(1_000_000, 1.0)
    popular = entry_of(100_000)
    assert cache.keep(b"popular", popular)
    for number in range(200):
        popular.hits += 1
        assert cache.keep(b"%d" % number, entry_of(100_000))
    assert cache.find(b"popular") is popular
    assert cache.counts().answers == 200


def test_what_is_being_sent_stays_and_makes_no_room() -> None:
    cache = Cache(1_000_000, 1.0)
    clock = Clock()
    clock.refresh(0.0)
    sent = []
    for number in range(10):
        entry = entry_of(200_000)
        if not cache.keep(b"%d" % number, entry):
            break
        entry.valid_until_s = 1.0
        entry.prepare(clock)
        sent.append(entry.pieces[1])  # as a transport's queue does
    del entry
    assert len(sent) == 4
    assert not cache.keep(b"one more", entry_of(200_000))
    sent.pop()
    assert cache.keep(b"one more", entry_of(200_000))


# --- the end


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_is_accepted_while_the_server_ends(tmp_path: Path, turns: int) -> None:
    """Nobody has told it to stop, and nothing is waited for that does not come."""
    server = Server(Settings(tmp_path, grace_s=3600, header_timeout_s=3600))
    address = await server.listen("127.0.0.1", 0)
    with socket.create_connection(address) as client:
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await server.close()
            try:
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            except ConnectionResetError:
                pass  # it was still in the kernel's queue
