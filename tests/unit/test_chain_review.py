"""Chains in situations that a review found wanting: a full region, tasks that never begin, moves, links that were refused."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import aiouring
from aiouring import bpf
from tests.unit.hook_programs import pair
from tests.unit.op_programs import busy_executor


async def test_a_carried_length_is_never_left_out_for_want_of_a_slot() -> None:
    buffers = [bytearray(8) for _ in range(256)]
    pairs = [pair() for _ in buffers]

    async def wait_for(sock: socket.socket, buffer: bytearray) -> None:
        async with aiouring.Chain() as chain:
            received = chain.recv(sock, buffer)
            chain.send(sock, buffer, length=received.result)
        await chain

    tasks = [asyncio.ensure_future(wait_for(ours, buffer)) for (ours, _), buffer in zip(pairs, buffers, strict=True)]
    await asyncio.sleep(0)
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(b"abc")
        source.flush()
        chain = aiouring.Chain()
        data = chain.read(source, bytearray(3), offset=0)
        chain.fsync(target)
        chain.write(target, b"S" * 64, offset=0, length=data.result)
        with pytest.raises(OSError) as busy:
            await chain
        assert busy.value.errno == errno.EBUSY
        assert os.pread(target.fileno(), 100, 0) == b""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


async def test_an_operation_whose_task_is_cancelled_before_it_begins() -> None:
    crc = await bpf.Op.load("crc32c", engine="inline")
    buffer = bytearray(1 << 20)  # Python runs it

    async def use() -> Any:
        chain = aiouring.Chain()
        chain.bpf(crc, buffer)
        return await chain

    user = asyncio.ensure_future(use())
    mine = {user, asyncio.current_task()}
    while not (others := asyncio.all_tasks() - mine):
        await asyncio.sleep(0)
    for task in others:
        task.cancel()
    with pytest.raises(aiouring.ChainError) as ended:
        await asyncio.wait_for(user, 20)
    assert ended.value.errno == errno.ECANCELED
    buffer.append(0)  # nobody has it


async def test_an_operation_that_is_over_at_once() -> None:
    loop = asyncio.get_running_loop()
    crc = await bpf.Op.load("crc32c", engine="inline")

    def run_now(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Future[Any]:
        if coro.__name__ != "run_operation":
            return asyncio.Task(coro, loop=loop, **options)
        future = loop.create_future()
        coro.close()
        future.set_result(7)
        return future

    loop.set_task_factory(run_now)  # type: ignore[arg-type]
    chain = aiouring.Chain()
    chain.bpf(crc, bytearray(1 << 20))
    assert await asyncio.wait_for(chain, 20) == [7]


def test_what_a_receive_had_left_comes_once_though_the_loop_moves(loop: aiouring.Loop) -> None:
    ours, theirs = pair()
    buffer = bytearray(10)
    chain = aiouring.Chain()

    async def begin() -> None:
        receive = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        theirs.send(b"abc")
        while not receive._fut_waiter.done():  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        receive.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receive
        chain.timeout(0.2)
        chain.recv(ours, buffer)
        await chain.__aexit__(None, None, None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(begin()))
    thread.start()
    thread.join()

    async def end() -> Any:
        return await chain

    with ours, theirs:
        assert loop.run_until_complete(end()) == [None, 3]
        assert buffer == b"abc" + bytes(7)


async def test_a_link_that_was_refused_leaves_nothing_behind() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 8)
        file.flush()
        chain = aiouring.Chain()
        data = chain.read(file, bytearray(16), offset=0)
        with pytest.raises(ValueError, match="offset"):
            chain.write(file, b"", offset=-5, length=data.result)
        chain.fsync(file)
        with pytest.raises(aiouring.ChainError, match="it moved 8 of 16 bytes"):  # which somebody would take, had the write been accepted
            await chain
        chain = aiouring.Chain()
        chain.read(file, bytearray(4), offset=0)
        with pytest.raises(BufferError):
            chain.read(9999, b"read-only", offset=0)
        assert await chain == [4]


# -- code of the user's that runs in the middle ----------------------------------------------------------------------------------------------------


class Number(int):
    """A number that does something when it is compared."""

    act: Callable[[], object] = staticmethod(lambda: None)

    def __lt__(self, other: int) -> bool:
        act, self.act = self.act, lambda: None
        act()
        return int(self) < other


@pytest.mark.parametrize("way", ["await", "submit", "drop", "spoil"])
@pytest.mark.parametrize("offset", [0, -5])
async def test_code_of_an_argument_does_not_get_a_chain_with_half_a_link(way: str, offset: int) -> None:
    chain = aiouring.Chain()
    buffer = bytearray(4)
    refused: list[BaseException] = []

    def act() -> None:
        with pytest.raises(RuntimeError, match="a link is being added") as error:
            if way == "await":
                chain.__await__().send(None)
            elif way == "submit":
                chain.__aexit__(None, None, None).send(None)
            elif way == "drop":
                chain.__aexit__(KeyError, KeyError(), None).send(None)
            else:
                chain.__init__(timeout="soon")  # type: ignore[arg-type, misc]
        refused.append(error.value)

    with tempfile.TemporaryFile() as file:
        descriptor = Number(file.fileno())
        descriptor.act = act
        file.write(b"abcd")
        file.flush()
        chain.timeout(0.001)
        if offset < 0:
            with pytest.raises(ValueError, match="offset"):
                chain.read(descriptor, buffer, length=3, offset=offset)
        else:
            chain.read(descriptor, buffer, length=3, offset=offset)
        assert len(refused) == 1
        assert await chain == ([None] if offset < 0 else [None, 3])
    assert buffer == (bytes(4) if offset < 0 else b"abc\0")
    buffer.append(0)


class Liar(int):
    """A number that is in any bounds, as it says itself."""

    def __lt__(self, other: int) -> bool:
        return False

    __gt__ = __lt__

    def __le__(self, other: int) -> bool:
        return True

    __ge__ = __le__


@pytest.mark.parametrize("number", [5, -1, 1 << 70])
async def test_a_number_that_says_that_it_is_in_bounds(number: int) -> None:
    fill = await bpf.Op.load("fill", engine="inline")
    buffer = bytearray(4)
    chain = aiouring.Chain()
    for add in (chain.read, chain.write):
        with pytest.raises(ValueError, match="length is from 0 to 4"):
            add(0, buffer, length=Liar(number))
    if number != 5:
        with pytest.raises(ValueError, match="offset is from 0"):
            chain.read(0, buffer, offset=Liar(number))
        with pytest.raises(ValueError, match="flags have 32 bits"):
            chain.bpf(fill, buffer, flags=Liar(number))
    with pytest.raises(ValueError, match="the length is at most"):
        chain.bpf(fill, buffer, length=Liar(number))
    assert await chain == []
    buffer.append(0)


@pytest.mark.parametrize("way", ["cancel", "close", "throw", "raise", "socket"])
@pytest.mark.parametrize("carries", [False, True])
async def test_a_chain_that_ends_while_its_files_are_taken(way: str, carries: bool) -> None:
    """fileno() is the user's: what it does to the chain is heard when nothing is half done."""
    loop = asyncio.get_running_loop()
    if carries:
        bpf.hooks.attach_standard(loop)
    before = loop.ring_stats()  # type: ignore[attr-defined]
    chain = aiouring.Chain()
    waiting: Any = chain.__await__()
    ours, theirs = pair()

    class File:
        def fileno(self) -> int:
            if way == "cancel":
                assert waiting.cancel()
            elif way == "close":
                waiting.close()
            elif way == "throw":
                with pytest.raises(KeyError):
                    waiting.throw(KeyError())
            elif way == "socket":
                ours.close()
            else:
                raise ZeroDivisionError
            return other.fileno()

    async def use() -> Any:
        return await waiting

    buffers = [bytearray(4) for _ in range(3)]
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as other, ours, theirs:
        for each in (file, other):
            each.write(b"abcd")
            each.flush()
        theirs.send(b"abcd")
        data = chain.read(file, buffers[0], offset=0)
        chain.recv(ours, buffers[1])
        chain.read(File(), buffers[2], offset=0, length=data.result if carries else None)
        with pytest.raises({"cancel": asyncio.CancelledError, "raise": ZeroDivisionError, "socket": OSError}.get(way, RuntimeError)):
            await asyncio.wait_for(use(), 20)
        assert buffers == [bytes(4)] * 3  # nothing was submitted
        for buffer in buffers:
            buffer.append(0)
        stats = loop.ring_stats()  # type: ignore[attr-defined]
        assert [stats[name] for name in ("slots_in_use", "registered_files")] == [before[name] for name in ("slots_in_use", "registered_files")]


@pytest.mark.parametrize("way", ["close", "throw"])
async def test_a_chain_that_is_given_up_before_it_is_submitted(way: str) -> None:
    buffer = bytearray(4)
    chain = aiouring.Chain()
    chain.read(0, buffer)
    waiting: Any = chain.__await__()
    if way == "close":
        waiting.close()
    else:
        with pytest.raises(KeyError):
            waiting.throw(KeyError())
    buffer.append(0)  # though the chain is still there
    with pytest.raises(RuntimeError, match="a chain that is over"):
        await chain


async def test_a_link_of_no_place_in_the_chain() -> None:
    with tempfile.TemporaryFile() as file:
        chain = aiouring.Chain()
        chain.read(file, bytearray(4), offset=0)
        for index in (1, 0x7FFFFFFF, 0xFFFFFFFF):
            link = aiouring.Link(chain, index, "read", False)
            with pytest.raises(ValueError, match="links before it"):
                chain.write(file, b"abcd", offset=0, length=link)
            with pytest.raises(TypeError, match="only what open"):
                chain.fsync(link)
        assert await chain == [0]


@pytest.mark.parametrize("way", ["weakref", "attribute"])
async def test_the_chain_of_a_link_while_the_chain_goes(way: str) -> None:
    """The user's object is in the middle of its end: the link makes another one of it."""
    seen: list[Any] = []

    class Later:
        def __del__(self) -> None:
            seen.append(link.chain)

    class Own(aiouring.Chain):
        later: Later

    chain = Own()
    link = chain.timeout(0)
    assert await chain == [None]
    if way == "attribute":
        chain.later = Later()
    else:
        reference = weakref.ref(chain, lambda reference: seen.append(link.chain))
    del chain
    gc.collect()
    assert way == "attribute" or reference() is None
    assert len(seen) == 1 and type(seen[0]) is aiouring.Chain and seen[0].links[0] is link
    seen.clear()
    assert link.chain.links == (link,)


# -- operations ------------------------------------------------------------------------------------------------------------------------------------


def test_an_operation_of_another_loop(loop: aiouring.Loop) -> None:
    buffer = bytearray(1 << 20)

    async def build() -> aiouring.Chain:
        chain = aiouring.Chain()
        chain.bpf(await bpf.Op.load("crc32c", engine="inline"), buffer)
        return chain

    async def use(chain: aiouring.Chain) -> None:
        with pytest.raises(RuntimeError, match="crc32c: this operation was loaded for another event loop"):
            await chain

    chain = loop.run_until_complete(build())
    with asyncio.Runner(loop_factory=aiouring.new_event_loop) as runner:
        runner.run(use(chain))
    buffer.append(0)


@pytest.mark.parametrize("makes_task", [False, True])
async def test_an_operation_that_the_task_factory_refuses(makes_task: bool) -> None:
    """The hook waits for Python's answer: it gets one, also where a task has the coroutine already."""
    loop = asyncio.get_running_loop()
    crc = await bpf.Op.load("crc32c", engine="inline")
    reported: list[Any] = []
    tasks: list[asyncio.Task[Any]] = []
    buffer = bytearray(1 << 20)
    chain = aiouring.Chain()
    chain.bpf(crc, buffer)

    def refuse(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Future[Any]:
        task = asyncio.Task(coro, loop=loop, **options) if makes_task or coro.__name__ != "run_operation" else None
        if coro.__name__ != "run_operation":
            assert task is not None
            return task
        if task is not None:
            tasks.append(task)
        raise ZeroDivisionError

    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    loop.set_task_factory(refuse)  # type: ignore[arg-type]
    try:
        with pytest.raises(aiouring.ChainError) as failed:
            await asyncio.wait_for(chain, 20)
    finally:
        loop.set_task_factory(None)
    assert failed.value.errno == errno.EIO
    assert [type(error) for error in reported] == [ZeroDivisionError]
    buffer.append(0)
    for task in tasks:
        with pytest.raises(RuntimeError):
            await task


async def test_an_operation_that_is_not_waited_for() -> None:
    """A task factory whose future ends before its task: no thread has the buffers once the chain is over."""
    loop = asyncio.get_running_loop()
    copy = await bpf.Op.load("copy", engine="inline")
    source, target = bytearray(b"x" * (1 << 20)), bytearray(1 << 20)
    tasks: list[asyncio.Task[Any]] = []
    chain = aiouring.Chain()
    chain.bpf(copy, source, target)

    def give_up(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Future[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        if coro.__name__ != "run_operation":
            return task
        tasks.append(task)
        future = loop.create_future()
        loop.call_soon(loop.call_soon, future.set_exception, OSError(errno.EPIPE, "enough"))
        return future

    loop.set_task_factory(give_up)  # type: ignore[arg-type]
    with busy_executor(loop):
        with pytest.raises(aiouring.ChainError) as failed:
            await asyncio.wait_for(chain, 20)
        assert failed.value.errno == errno.EPIPE
        del chain
        source.append(0)
        target.append(0)
    loop.set_task_factory(None)
    await loop.run_in_executor(None, len, "")
    assert target == bytes((1 << 20) + 1)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(tasks[0], 20)
