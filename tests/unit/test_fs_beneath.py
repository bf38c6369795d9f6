"""aiouring.fs.open_beneath(): what leads out of a folder and what does not, and that no descriptor is lost on the way."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

import aiouring
from aiouring import fs


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a folder with files and links in it, and secrets beside it."""
    root = tmp_path / "root"
    root.joinpath("sub").mkdir(parents=True)
    root.joinpath("file").write_bytes(b"here")
    root.joinpath("sub", "file").write_bytes(b"below")
    tmp_path.joinpath("secret").write_bytes(b"secret")
    for name, target in {
        "link": "sub/file",
        "up-and-down": "sub/../file",
        "out": "../secret",
        "absolute": "/etc/passwd",
        "absolute-inside": str(root / "file"),
        "loop": "loop",
        "out-and-in": "../root/file",
    }.items():
        root.joinpath(name).symlink_to(target)
    os.mkfifo(root / "fifo")
    fd = os.open(root, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.fixture(params=["aiouring", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """By the ring, and in the executor of a loop that has none."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def body() -> None:
            await main()

        loop_factory = aiouring.new_event_loop if request.param == "aiouring" else asyncio.SelectorEventLoop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(body())

    return run


Run = Callable[[Callable[[], Awaitable[None]]], None]


async def contents(path: str | bytes | os.PathLike[str], folder: int) -> bytes:
    fd = await fs.open_beneath(path, dir_fd=folder)
    try:
        assert not os.get_inheritable(fd)
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_what_is_below(run: Run, folder: int) -> None:
    async def main() -> None:
        for path, expected in [
            ("file", b"here"),
            (b"file", b"here"),
            (Path("sub/file"), b"below"),
            ("sub/../file", b"here"),
            ("link", b"below"),
            ("up-and-down", b"here"),
            ("./sub//file", b"below"),
        ]:
            assert await contents(path, folder) == expected
        fd = await fs.open_beneath("sub", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        assert os.listdir(fd) == ["file"]
        os.close(fd)
        # Looking at a pipe, and opening it without waiting.
        for flags in (os.O_PATH, os.O_RDONLY | os.O_NONBLOCK):
            fd = await fs.open_beneath("fifo", flags, dir_fd=folder)
            assert (await fs.stat(fd)).st_mode & 0o170000 == 0o010000
            os.close(fd)

    run(main)


def test_what_leads_out(run: Run, folder: int) -> None:
    async def main() -> None:
        for path, number in [
            ("..", errno.EXDEV),
            ("../secret", errno.EXDEV),
            ("sub/../../secret", errno.EXDEV),
            ("out", errno.EXDEV),
            ("absolute", errno.EXDEV),
            ("absolute-inside", errno.EXDEV),
            ("out-and-in", errno.EXDEV),
            ("/etc/passwd", errno.EXDEV),
            ("/", errno.EXDEV),
            ("loop", errno.ELOOP),
            ("missing", errno.ENOENT),
            ("", errno.ENOENT),
            ("file/", errno.ENOTDIR),
            ("file/more", errno.ENOTDIR),
            ("n" * 300, errno.ENAMETOOLONG),
        ]:
            with pytest.raises(OSError) as refused:
                await fs.open_beneath(path, dir_fd=folder)
            assert (path, refused.value.errno, refused.value.filename) == (path, number, path)
        with pytest.raises(OSError) as refused:
            await fs.open_beneath("file", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        assert refused.value.errno == errno.ENOTDIR
        with pytest.raises(OSError) as refused:
            await fs.open_beneath("file", dir_fd=-1)
        assert refused.value.errno == errno.EBADF

    run(main)


def test_making_a_file(run: Run, folder: int, tmp_path: Path) -> None:
    async def main() -> None:
        mask = os.umask(0)
        try:
            fd = await fs.open_beneath("sub/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=folder)
        finally:
            os.umask(mask)
        os.write(fd, b"new")
        assert os.fstat(fd).st_mode & 0o7777 == 0o640
        os.close(fd)
        assert await contents("sub/new", folder) == b"new"
        with pytest.raises(FileExistsError):
            await fs.open_beneath("sub/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=folder)
        with pytest.raises(OSError) as refused:
            await fs.open_beneath("../new", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
        assert refused.value.errno == errno.EXDEV
        assert not tmp_path.joinpath("new").exists()

    run(main)


def test_wrong_arguments(run: Run, folder: int) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="null byte"):
            await fs.open_beneath("fi\0le", dir_fd=folder)
        with pytest.raises(TypeError):
            await fs.open_beneath(5, dir_fd=folder)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await fs.open_beneath("file", dir_fd="folder")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await fs.open_beneath("file")  # type: ignore[call-arg]

    run(main)


def test_cancelling_leaves_no_descriptor_open(run: Run, folder: int) -> None:
    async def main() -> None:
        await contents("file", folder)
        before = len(os.listdir("/proc/self/fd"))
        for turns in range(6):
            opening = [asyncio.ensure_future(fs.open_beneath("sub/file", dir_fd=folder)) for _ in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for one in opening:
                one.cancel()
            for outcome in await asyncio.gather(*opening, return_exceptions=True):
                if isinstance(outcome, int):
                    os.close(outcome)
                else:
                    assert isinstance(outcome, asyncio.CancelledError)
        # A descriptor that came too late is closed by a request, of which the next one tells that it is through.
        await contents("file", folder)
        assert len(os.listdir("/proc/self/fd")) == before

    run(main)


def test_many_at_once(run: Run, folder: int) -> None:
    async def main() -> None:
        opened = await asyncio.gather(*(fs.open_beneath("link", dir_fd=folder) for _ in range(200)))
        assert len(set(opened)) == 200
        for fd in opened:
            assert os.read(fd, 100) == b"below"
            os.close(fd)

    run(main)


def test_a_folder_that_is_moved_all_the_time(run: Run, folder: int, tmp_path: Path) -> None:
    """Its link with ".." leads to what is in the root, or it is refused, or not there; never to what is beside the place where it was moved to."""
    root = tmp_path / "root"
    root.joinpath("sub", "up").symlink_to("../file")
    tmp_path.joinpath("file").write_bytes(b"secret")
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            root.joinpath("sub").rename(tmp_path / "moved")
            tmp_path.joinpath("moved").rename(root / "sub")

    async def main() -> None:
        seen = set()
        for _ in range(1000):
            try:
                seen.add(await contents("sub/up", folder))
            except OSError as error:
                assert error.errno in (errno.ENOENT, errno.EXDEV, errno.EAGAIN)
        assert seen <= {b"here"}

    mover = threading.Thread(target=move)
    mover.start()
    try:
        run(main)
    finally:
        stop.set()
        mover.join()


def test_auditing(folder: int) -> None:
    heard = []
    active = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open" and arguments[0] == "sub/file":
            heard.append(arguments)

    sys.addaudithook(hook)
    try:
        assert aiouring.run(contents("sub/file", folder)) == b"below"
    finally:
        active = False
    assert heard == [("sub/file", None, os.O_CLOEXEC)]
