"""Chains in situations that a review found wanting: a full region, tasks that never begin, moves, links that were refused."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tempfile
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

import aiouring
from aiouring import bpf
from tests.unit.hook_programs import pair


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
