"""What a chain leaves in the user's hands: results by the links, errors that travel, one await, and objects that go by themselves."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import bpf
from tests.unit.hook_programs import pair
from tests.unit.op_programs import crc32c, need


async def wait_for_end(chain: aiouring.Chain) -> list[Any]:
    return await chain


async def test_a_links_result_is_what_it_brought(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    buffer = bytearray(4)
    async with aiouring.Chain() as chain:
        file = chain.open(path, os.O_RDWR)
        data = chain.read(file, buffer, offset=2)
        chain.write(file, buffer, length=data, offset=data.result + 4)  # a link is as good as its result
        look = chain.statx(path)
        assert repr(data.result) == "<result of <Link 1 read()>>"  # the chain is not over
    results = await chain
    assert results[:3] == [None, 4, 4]
    assert file.result is None
    assert data.result == 4
    assert look.result.st_size == results[3].st_size == 12
    assert path.read_bytes() == b"012345672345"
    assert [link.result for link in chain.links[:3]] == [None, 4, 4]


async def test_the_result_of_a_link_that_failed_is_its_error(tmp_path: Path) -> None:
    async with aiouring.Chain() as chain:
        pause = chain.timeout(0)
        missing = chain.open(tmp_path / "missing")
        never = chain.timeout(0)
    with pytest.raises(aiouring.ChainError):
        await chain
    assert pause.result is None
    with pytest.raises(FileNotFoundError):
        missing.result  # noqa: B018
    with pytest.raises(OSError, match="did not run"):
        never.result  # noqa: B018


async def test_an_error_is_pickled_and_copied_with_its_fields(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    async with aiouring.Chain() as chain:
        chain.statx(tmp_path)
        chain.open(missing)
        chain.timeout(0)
    with pytest.raises(aiouring.ChainError) as raised:
        await chain
    error = raised.value
    copies = [copy.copy(error), copy.deepcopy(error)]
    copies += [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for other in copies:
        assert type(other) is aiouring.ChainError
        assert (other.errno, other.strerror, other.filename) == (errno.ENOENT, error.strerror, missing)
        assert str(other) == str(error)
        assert other.index == 1
        assert other.results == error.results and other.results[0].st_mode == tmp_path.stat().st_mode
        assert [str(outcome) for outcome in other.outcomes[1:]] == [str(outcome) for outcome in error.outcomes[1:]]
        assert isinstance(other.__cause__, FileNotFoundError) and other.__cause__.filename == missing
        assert (other.link.index, other.link.name, other.link.hard) == (1, "open", False)
    assert error.link is copies[0].link is chain.links[1]
    assert error.link.chain is chain
    assert copies[1].link.chain is None
    with pytest.raises(ValueError, match="link of another chain"):
        aiouring.Chain().write(1, b"12345", length=copies[1].link)


async def test_one_await_is_all(tmp_path: Path) -> None:
    left, right = pair()
    with left, right:
        chain = aiouring.Chain()
        chain.recv(left, bytearray(1))
        task = asyncio.ensure_future(wait_for_end(chain))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="awaited already: its results go to one place"):
            await chain
        right.send(b"x")
        # Also where the results are there and the first has not taken them yet.
        with pytest.raises(RuntimeError, match="awaited already"):
            while not task.done():
                await asyncio.sleep(0)
                await chain
        assert await task == [1]
        with pytest.raises(RuntimeError, match="a chain that is over"):
            await chain


async def test_nothing_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    gc.collect()
    gc.disable()
    try:
        with path.open("rb") as file:
            chain = aiouring.Chain()
            link = chain.read(file, bytearray(5), offset=0)
            assert chain.links[0] is link and link.chain is chain
            assert await chain == [5]
            seen = weakref.ref(chain)
            del chain
            assert seen() is None
            again: Any = link.chain  # another one, of the same requests
            assert again.links == (link,) and again.outcomes == [5]
            with pytest.raises(RuntimeError, match="cannot reuse"):
                await again
            del again, link
            assert gc.collect() == 0
    finally:
        gc.enable()


async def test_a_chain_in_a_cycle_is_collected_and_its_links_go_on() -> None:
    class Mine(aiouring.Chain):
        """Has room for what refers back to it."""

    left, right = pair()
    with left, right:
        chain = Mine()
        link = chain.recv(left, bytearray(1))
        chain.cycle = chain  # type: ignore[attr-defined]
        async with chain:
            pass
        seen = weakref.ref(chain)
        del chain
        gc.collect()
        assert seen() is None
        again: Any = link.chain
        assert type(again) is aiouring.Chain
        assert again.links == (link,)
        right.send(b"x")
        assert await again == [1]


def test_chains_of_several_loops_in_one_thread() -> None:
    async def pause() -> list[Any]:
        async with aiouring.Chain() as chain:
            chain.timeout(0)
        return await chain

    loops = [aiouring.new_event_loop() for _ in range(3)]
    for loop in [*loops, *loops]:
        assert loop.run_until_complete(pause()) == [None]
    loops[-1].close()  # and is still there
    assert loops[0].run_until_complete(pause()) == [None]
    loops[0].close()
    other = asyncio.new_event_loop()
    with pytest.raises(TypeError, match="needs aiouring's event loop"):
        other.run_until_complete(pause())
    other.close()
    assert loops[1].run_until_complete(pause()) == [None]
    loops[1].close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        pause().send(None)


@pytest.mark.parametrize("engine", ["inline", "prog_run"])
async def test_what_is_closed_under_a_link_that_python_runs(engine: Any) -> None:
    """The chain's link has its operation and its memory from the beginning: who closes them closes them for later calls."""
    need(engine)
    data = os.urandom(1 << 17)  # too long for the hook
    loop: Any = asyncio.get_running_loop()
    left, right = pair()
    small = bytearray(4)
    with left, right:
        crc = await bpf.Op.load("crc32c", engine=engine)
        buffer = bpf.register_buffer(bytearray(data))
        chain = aiouring.Chain()
        chain.recv(left, small)
        whole = chain.bpf(crc, buffer)
        again = chain.bpf(crc, buffer, length=100)
        task = asyncio.ensure_future(wait_for_end(chain))
        for _ in range(3):
            await asyncio.sleep(0)
        crc.close()
        buffer.close()
        right.send(b"go")
        assert await task == [2, crc32c(data), crc32c(data[:100])]
        assert (whole.result, again.result) == (crc32c(data), crc32c(data[:100]))
        with pytest.raises(RuntimeError, match="operation is closed"):
            await crc(b"x")
        await buffer.wait_closed()
    assert loop.ring_stats()["slots_in_use"] == 1


async def test_a_carried_length_of_an_operation_that_python_runs(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    buffer = bytearray(200_000)
    crc = await bpf.Op.load("crc32c", engine="inline")
    with (tmp_path / "file").open("rb") as file:
        chain = aiouring.Chain()
        read = chain.read(file, buffer, offset=0)
        chain.bpf(crc, buffer, length=read)
        chain.bpf(crc, buffer)
        assert await chain == [len(data), crc32c(data), crc32c(bytes(buffer))]
    buffer.append(0)  # nobody has it
    crc.close()
