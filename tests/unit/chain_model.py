"""What the tests of chains share: random chains, run by aiouring.Chain, and step by step by plain calls, which is what they are compared with."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiouring

FILES = ("one", "two", "three", "missing")


@dataclass
class Step:
    """One link: its call, and what it is called with. `length` and `offset` are numbers, None, or (earlier step, number to add)."""

    name: str
    file: Any = None  # a name, the index of an open step, "socket", a buffer's index ...
    buffer: int = 0
    length: Any = None
    offset: Any = None
    flags: int = 0
    hard: bool = False
    whole: bool = False


@dataclass
class World:
    """Two files with contents, a missing one, a connected pair of sockets with bytes on their way, and buffers."""

    folder: Path
    seed: int
    ours: socket.socket = field(init=False)
    peer: socket.socket = field(init=False)
    buffers: list[bytearray] = field(init=False)
    fds: dict[str, int] = field(init=False)

    def __enter__(self) -> World:
        rng = random.Random(self.seed)
        self.folder.mkdir()
        for name in FILES[:3]:
            (self.folder / name).write_bytes(rng.randbytes(rng.choice([0, 1, 4095, 4096, 10_000, 70_000])))
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.peer.setblocking(False)
        self.peer.send(rng.randbytes(20_000))
        self.buffers = [bytearray(rng.randbytes(size)) for size in (0, 100, 4096, 20_000)]
        self.fds = {name: os.open(self.folder / name, os.O_RDWR) for name in FILES[:2]}
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.ours.close()
        self.peer.close()

    def seen(self) -> dict[str, Any]:
        """All that a chain can have changed."""
        self.peer.setblocking(False)
        sent = []
        try:
            while data := self.peer.recv(1 << 20):
                sent.append(data)
        except BlockingIOError:
            pass
        left = []
        try:
            while data := self.ours.recv(1 << 20):
                left.append(data)
        except BlockingIOError:
            pass
        return {
            "files": {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())},
            "sent": b"".join(sent),
            "left": b"".join(left),
            "buffers": [bytes(buffer) for buffer in self.buffers],
        }


def random_steps(rng: random.Random, *, carry: bool) -> list[Step]:
    """A chain of up to a dozen links, of which some fail. With `carry` some take what earlier ones bring."""
    steps: list[Step] = []
    to_receive = 20_000
    for _ in range(rng.randint(1, 12)):
        name = rng.choice(["read"] * 4 + ["write"] * 4 + ["send", "recv", "recv", "fsync", "statx", "open", "open", "close", "timeout"])
        step = Step(name, hard=rng.random() < 0.2)
        opened = [index for index, other in enumerate(steps) if other.name == "open"]
        movers = [index for index, other in enumerate(steps) if other.name in ("read", "write", "send", "recv")]
        files: list[Any] = ["one", "two", *opened]

        def number(most: int, movers: list[int] = movers) -> Any:
            if carry and movers and rng.random() < 0.6:
                return (rng.choice(movers), rng.choice([0, 0, 0, 1, 100, -50]))
            return rng.randint(0, most)

        if name in ("read", "write", "send", "recv"):
            step.buffer = rng.randrange(4)
            size = (0, 100, 4096, 20_000)[step.buffer]
            step.length = None if rng.random() < 0.4 else number(size)
        if name in ("read", "write"):
            step.file = rng.choice(files)
            step.offset = number(12_000) if rng.random() < 0.8 else None
        elif name == "recv":
            step.whole = rng.random() < 0.5
            # Never more than there is: a chain would wait, as a plain receive would.
            if isinstance(step.length, tuple) or step.buffer == 0 or step.length == 0:
                step.buffer, step.length = 1, None
            wanted = (0, 100, 4096, 20_000)[step.buffer] if step.length is None else step.length
            if wanted > to_receive:
                continue
            to_receive -= wanted
        elif name == "fsync":
            step.file = rng.choice(files)
            step.flags = rng.randint(0, 1)
        elif name == "statx":
            step.file = rng.choice(FILES)
        elif name == "open":
            step.file = rng.choice(FILES)
            step.flags = rng.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_EXCL])
        elif name == "close":
            if not opened:
                continue
            step.file = rng.choice(opened)
        steps.append(step)
    return steps


def build(chain: aiouring.Chain, world: World, steps: list[Step]) -> list[aiouring.Link]:
    links: list[aiouring.Link] = []

    def number(value: Any) -> Any:
        return links[value[0]].result + value[1] if isinstance(value, tuple) else value

    def file(value: Any) -> Any:
        return links[value] if isinstance(value, int) else world.fds[value]

    for step in steps:
        hard = step.hard
        if step.name == "open":
            link = chain.open(world.folder / step.file, step.flags, 0o600, hard=hard)
        elif step.name == "read":
            link = chain.read(file(step.file), world.buffers[step.buffer], length=number(step.length), offset=number(step.offset), hard=hard)
        elif step.name == "write":
            link = chain.write(file(step.file), world.buffers[step.buffer], length=number(step.length), offset=number(step.offset), hard=hard)
        elif step.name == "send":
            link = chain.send(world.ours, world.buffers[step.buffer], length=number(step.length), hard=hard)
        elif step.name == "recv":
            link = chain.recv(world.ours, world.buffers[step.buffer], length=number(step.length), whole=step.whole, hard=hard)
        elif step.name == "fsync":
            link = chain.fsync(file(step.file), data_only=bool(step.flags), hard=hard)
        elif step.name == "statx":
            link = chain.statx(world.folder / step.file, hard=hard)
        elif step.name == "close":
            link = chain.close(links[step.file], hard=hard)
        else:
            link = chain.timeout(0, hard=hard)
        links.append(link)
    return links


def plain(value: Any) -> Any:
    """An outcome, comparable: a number, None, ("stat", size), ("error", errno), "not run"."""
    if isinstance(value, os.stat_result):
        return ("stat", value.st_size, value.st_mode)
    if isinstance(value, OSError):
        return "not run" if value.errno == errno.ECANCELED else ("error", value.errno)
    return value


async def run_chain(world: World, steps: list[Step]) -> tuple[list[Any], int | None]:
    """The outcomes, and the index of the link that failed."""
    async with aiouring.Chain() as chain:
        links = build(chain, world, steps)
    failed = None
    try:
        results = await chain
    except aiouring.ChainError as error:
        failed = error.index
        assert error.link is links[failed]
        assert [plain(value) for value in error.results] == [plain(value) for value in error.outcomes[:failed]]
        assert isinstance(error.__cause__, OSError) and error.__cause__.errno == error.errno
        assert chain.outcomes == error.outcomes
    else:
        assert chain.outcomes == results
    assert chain.outcomes is not None
    return [plain(value) for value in chain.outcomes], failed


async def run_plainly(world: World, steps: list[Step]) -> tuple[list[Any], int | None]:
    """The same with one call after the other."""
    loop = asyncio.get_running_loop()
    outcomes: list[Any] = []
    raw: list[int] = []  # results, or -errno
    opened: dict[int, int] = {}
    failed = None
    ended = False
    taken = {value[0] for step in steps for value in (step.length, step.offset) if isinstance(value, tuple)}

    def file(value: Any) -> int:
        if isinstance(value, int):
            if value not in opened:
                raise OSError(errno.EBADF, "not open")
            return opened[value]
        return world.fds[value]

    def number(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        before = raw[value[0]]
        if before < 0 or before + value[1] < 0:
            raise OSError(errno.EINVAL, "no number")
        return before + value[1]

    async def do(index: int, step: Step) -> Any:
        buffer = memoryview(world.buffers[step.buffer])
        length = number(step.length)
        if length is not None and length > len(buffer):
            raise OSError(errno.EMSGSIZE, "too long")
        offset = number(step.offset)
        buffer = buffer[: len(buffer) if length is None else length]
        if step.name == "open":
            if index in opened:
                os.close(opened.pop(index))
            opened[index] = os.open(world.folder / step.file, step.flags, 0o600)
            return None
        if step.name == "read":
            return os.readv(file(step.file), [buffer]) if offset is None else os.preadv(file(step.file), [buffer], offset)
        if step.name == "write":
            return os.write(file(step.file), buffer) if offset is None else os.pwrite(file(step.file), buffer, offset)
        if step.name == "send":
            await loop.sock_sendall(world.ours, buffer)
            return len(buffer)
        if step.name == "recv":
            moved = 0
            while moved < len(buffer):
                moved += await loop.sock_recv_into(world.ours, buffer[moved:])
                if not step.whole:
                    break
            return moved
        if step.name == "fsync":
            return (os.fdatasync if step.flags else os.fsync)(file(step.file))
        if step.name == "statx":
            return os.stat(world.folder / step.file)
        if step.name == "close":
            fd = file(step.file)
            del opened[step.file]
            return os.close(fd)
        return await asyncio.sleep(0)

    for index, step in enumerate(steps):
        if ended:
            outcomes.append("not run")
            raw.append(-errno.ECANCELED)
            continue
        bad = False
        try:
            value = await do(index, step)
        except OSError as error:
            value = error
            bad = True
        raw.append(value if isinstance(value, int) else -value.errno if bad else 0)
        wanted = None
        if not bad and step.name in ("read", "write", "send", "recv"):
            length = number(step.length)
            wanted = len(world.buffers[step.buffer]) if length is None else length
            last_read = index + 1 == len(steps) and step.name in ("read", "recv")
            some = step.name == "recv" and not step.whole
            if value < wanted and index not in taken and not step.hard and not last_read and not some:
                value = OSError(errno.EIO if step.name in ("write", "send") else errno.ENODATA, "short")
                bad = True
        outcomes.append(plain(value))
        if bad:
            failed = index if failed is None else failed
            ended = not step.hard
    for fd in opened.values():
        os.close(fd)
    return outcomes, failed


async def compare(folder: Path, seed: int, *, carry: bool, until: Callable[[], None] | None = None) -> bool:
    """One random chain both ways. Whether it carried something."""
    rng = random.Random(seed)
    steps = random_steps(rng, carry=carry)
    with World(folder / f"plain-{seed}", seed) as expected, World(folder / f"chain-{seed}", seed) as world:
        outcomes = await run_plainly(expected, steps)
        got = await run_chain(world, steps)
        assert got == outcomes, steps
        assert world.seen() == expected.seen(), steps
        for buffer in world.buffers:
            buffer.append(0)  # BufferError if it were still exported
    return any(isinstance(value, tuple) for step in steps for value in (step.length, step.offset))
