"""BPF operations as links: as requests of the kernel's, called by the hook, or run by Python; the same results, errors and callbacks."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import bpf
from aiouring.bpf import Hook
from tests.unit.hook_programs import ENGINES as HOOK_ENGINES
from tests.unit.hook_programs import pair
from tests.unit.op_programs import ENGINES, NATIVE, crc32c, load, need, some
from tests.unit.test_op_own import PROGRAM, build_for, calls


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    need(request.param)
    return request.param


@pytest.fixture(params=HOOK_ENGINES)
async def hook(request: pytest.FixtureRequest) -> AsyncIterator[Hook]:
    with Hook.load("standard", engine=request.param) as hook:
        yield hook
        assert hook.stats["tasks"] == 0
        assert hook._attached.region.free_chain_count == 256
    assert asyncio.get_running_loop().ring_stats()["slots_in_use"] == 1  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An operation that counts the calls of its four functions, built for an engine; once for all that need the same files."""
    made: dict[bool, Path] = {}

    def source_for(engine: str) -> Path:
        native = engine in NATIVE
        if native not in made:
            made[native] = tmp_path_factory.mktemp("built") / "mine.bpf.c"
            made[native].write_text(PROGRAM)
            build_for(engine, made[native])
        return made[native]

    return source_for


def free(buffer: bytearray) -> bool:
    try:
        buffer.append(0)
    except BufferError:
        return False
    buffer.pop()
    return True


async def test_read_checksum_write(engine: Any, hook: Hook, tmp_path: Path) -> None:
    data = os.urandom(5000)
    (tmp_path / "src").write_bytes(data)
    crc = await bpf.Op.load("crc32c", engine=engine)
    buffer = bytearray(8192)
    for carry in (True, False):
        async with aiouring.Chain() as chain:
            src = chain.open(tmp_path / "src")
            dst = chain.open(tmp_path / "dst", os.O_WRONLY | os.O_CREAT, 0o600)
            read = chain.read(src, memoryview(buffer)[: 8192 if carry else 5000], offset=0)
            chain.bpf(crc, buffer, length=read.result if carry else 5000)
            chain.write(dst, buffer, length=read.result if carry else 5000, offset=0)
        assert await chain == [None, None, 5000, crc32c(data), 5000]
        assert (tmp_path / "dst").read_bytes() == data
        (tmp_path / "dst").unlink()
    assert free(buffer)
    crc.close()


async def test_what_an_operation_finds_is_a_length(engine: Any, hook: Hook, tmp_path: Path) -> None:
    find = await bpf.Op.load("find", engine=engine)
    buffer = bytearray(100)
    path = tmp_path / "file"
    for text, expected in ((b"head|body", b"head"), (b"|", b""), (b"nothing of the kind", None)):
        path.write_bytes(text)
        (tmp_path / "out").write_bytes(b"")
        async with aiouring.Chain() as chain:
            read = chain.read(chain.open(path), buffer)
            found = chain.bpf(find, buffer, b"|", length=read.result)
            chain.write(chain.open(tmp_path / "out", os.O_WRONLY), buffer, length=found.result, offset=0)
        if expected is not None:
            assert (await chain)[2:] == [len(expected), None, len(expected)]
        else:
            with pytest.raises(aiouring.ChainError) as raised:
                await chain
            assert (raised.value.index, raised.value.errno) == (4, errno.EINVAL)
            assert raised.value.results == [None, len(text), -1, None]
        assert (tmp_path / "out").read_bytes() == (expected or b"")
    find.close()


async def test_random_operations_do_what_awaits_do(engine: Any, hook: Hook, rng: random.Random) -> None:
    """Pipelines over three buffers, of which some fail, against the same calls awaited one by one."""
    names = ["copy", "fill", "crc32c", "xor", "find", "count"]
    loaded = await load(engine, *names)
    for _ in range(some("kernel" if hook.engine == "kernel" else engine, 60)):
        size = rng.choice([0, 1, 100, 4096, 5000, 40_000, 70_000])
        first = [bytearray(rng.randbytes(size)) for _ in range(3)]
        second = [bytearray(buffer) for buffer in first]
        steps = []
        for _ in range(rng.randint(1, 8)):
            name = rng.choice(names)
            places = rng.sample(range(3), 2 if name in ("copy", "xor", "find") else 1)
            flags = rng.choice([0, rng.randint(0, 260)])
            steps.append((name, places, flags, rng.choice([None, size // 2])))
        async with aiouring.Chain() as chain:
            for name, places, flags, length in steps:
                chain.bpf(loaded[name], *(first[place] for place in places), flags=flags, length=length)
        got: list[Any]
        try:
            got = await chain
        except aiouring.ChainError as error:
            got = [*error.results, (error.errno, str(error.__cause__))]
        expected: list[Any] = []
        for name, places, flags, length in steps:
            try:
                expected.append(await loaded[name](*(second[place] for place in places), flags=flags, length=length))
            except OSError as error:
                expected.append((error.errno, str(error)))
                break
        assert got == expected, steps
        assert first == second, steps
        assert all(map(free, first))
    for op in loaded.values():
        op.close()


async def test_an_operation_that_fails(engine: Any, hook: Hook) -> None:
    fill = await bpf.Op.load("fill", engine=engine)
    buffer = bytearray(10)
    left, right = pair()
    with left, right:
        async with aiouring.Chain() as chain:
            chain.send(left, b"before")
            chain.bpf(fill, buffer, flags=256)
            chain.send(left, b"never")
        with pytest.raises(aiouring.ChainError, match=r"link 2 of 3, bpf\(\): fill: ") as raised:
            await chain
        assert (raised.value.index, raised.value.errno) == (1, errno.EINVAL)
        assert str(raised.value.__cause__).startswith("[Errno 22] fill: ")
        assert raised.value.filename is None
        async with aiouring.Chain() as chain:
            chain.bpf(fill, buffer, flags=256, hard=True)
            chain.send(left, b"after")
        with pytest.raises(aiouring.ChainError) as raised:
            await chain
        assert raised.value.outcomes[1] == 5
        assert right.recv(100) == b"beforeafter"
    fill.close()


@pytest.mark.parametrize("carry", [False, True])
async def test_operations_hear_that_they_will_not_run(engine: Any, folders: Callable[[str], Path], tmp_path: Path, carry: bool) -> None:
    """After a failure, and after a cancellation: prep, fail and cleanup, once each, and no issue."""
    mine = await bpf.Op.load(folders(engine), engine=engine)
    before = await calls(mine)
    buffer = bytearray(100)
    for round_ in range(1, 4):
        async with aiouring.Chain() as chain:
            ran = chain.bpf(mine, b"1234")
            chain.open(tmp_path / "missing")
            chain.bpf(mine, buffer, length=ran.result if carry else None)
            chain.bpf(mine, buffer)
        with pytest.raises(aiouring.ChainError) as raised:
            await chain
        assert raised.value.errno == errno.ENOENT
        now = await calls(mine)
        # Each round: one that ran, two that did not, and the four questions of before.
        assert now[2] - before[2] == 2 * round_
        assert now[1] - before[1] == round_ + 4 * round_
        assert now[3] - before[3] == now[0] - before[0] == 3 * round_ + 4 * round_
    left, right = pair()
    with left, right:
        before = await calls(mine)
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.bpf(mine, buffer, length=data.result if carry else 10)
        task = asyncio.ensure_future(wait_for_end(chain))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        now = await calls(mine)
        assert [now[index] - before[index] for index in range(4)] == [5, 4, 1, 5]
    assert free(buffer)
    mine.close()


async def wait_for_end(chain: aiouring.Chain) -> list[Any]:
    return await chain


async def test_cancelled_while_it_runs(engine: Any, hook: Hook) -> None:
    """Eight times 4 MiB, which other engines than the kernel's give to a thread."""
    count = await bpf.Op.load("count", engine=engine)
    crc = await bpf.Op.load("crc32c", engine=engine)
    left, right = pair()
    buffers = [bytearray(4 << 20) for _ in range(8)]
    with left, right:
        async with aiouring.Chain() as chain:
            chain.send(left, b"begun")
            for buffer in buffers:
                chain.bpf(crc, buffer)
            chain.bpf(count, buffers[0])
        task = asyncio.ensure_future(wait_for_end(chain))
        assert await asyncio.get_running_loop().sock_recv(right, 10) == b"begun"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert chain.outcomes is not None and chain.outcomes[0] == 5
        assert all(map(free, buffers))
        # And whole.
        async with aiouring.Chain() as chain:
            for buffer in buffers[:2]:
                chain.bpf(count, buffer)
        assert await chain == [4 << 20] * 2
    count.close()
    crc.close()


@pytest.mark.parametrize("engine", ["inline", "prog_run"])
def test_the_loop_is_closed_while_python_runs_it(engine: Any) -> None:
    need(engine)
    loop = aiouring.new_event_loop()
    buffer = bytearray(4 << 20)

    async def begin() -> None:
        op = await bpf.Op.load("crc32c", engine=engine)
        chain = aiouring.Chain()
        for _ in range(10):
            chain.bpf(op, buffer)
        asyncio.ensure_future(wait_for_end(chain))
        for _ in range(3):
            await asyncio.sleep(0)

    async def end() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_until_complete(begin())
    loop.run_until_complete(end())
    assert free(buffer)
    loop.close()


async def test_what_is_refused_before(engine: Any) -> None:
    crc = await bpf.Op.load("crc32c", engine=engine)
    fill = await bpf.Op.load("fill", engine=engine)
    chain = aiouring.Chain()
    for kind, call in (
        (TypeError, lambda: chain.bpf(crc)),
        (TypeError, lambda: chain.bpf(crc, b"1", b"2")),
        (TypeError, lambda: chain.bpf("crc32c", b"1")),  # type: ignore[arg-type]
        (BufferError, lambda: chain.bpf(fill, b"read-only")),
        (ValueError, lambda: chain.bpf(crc, b"1", flags=-1)),
        (ValueError, lambda: chain.bpf(crc, b"1", length=2)),
    ):
        with pytest.raises(kind):
            call()
    assert chain.links == ()
    assert await chain == []
    crc.close()
    fill.close()


@pytest.mark.parametrize("native", [pytest.param(name, marks=getattr(pytest.mark, f"bpf_{name}")) for name in NATIVE])
async def test_a_native_operation_is_linked(native: Any, tmp_path: Path) -> None:
    """read, operation, write: one entry into the kernel, and no hook."""
    data = os.urandom(4096)
    (tmp_path / "src").write_bytes(data)
    crc = await bpf.Op.load("crc32c", engine=native)
    buffer = bytearray(4096)
    loop: Any = asyncio.get_running_loop()
    left, right = pair()
    enters = []
    with (tmp_path / "src").open("rb") as src, left, right:
        for _ in range(5):
            async with aiouring.Chain() as chain:
                chain.read(src, buffer, offset=0)
                chain.bpf(crc, buffer)
                chain.send(left, buffer)
            before = loop.ring_stats()["enters"]
            assert await chain == [4096, crc32c(data), 4096]
            enters.append(loop.ring_stats()["enters"] - before)
            assert right.recv(5000) == data
    # The thread that loaded the operation may wake the loop once more, however late it gets to that.
    assert sorted(enters)[:4] == [1, 1, 1, 1], enters
    crc.close()
