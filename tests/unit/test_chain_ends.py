"""How chains end: cancelled, timed out, failed at each place, closed under, moved, forked, dropped; and that nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import random
import resource
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import _hook
from aiouring.bpf import Hook
from tests.unit.hook_programs import ENGINES, build_program, compile_program, pair

# Each test runs with linked requests, and with results that are carried by either engine.
MODES = ["linked", *ENGINES]


class Mode:
    """How a chain is made to run: `length` is a whole number, or the result of a link that brings it."""

    def __init__(self, name: str, hook: Any) -> None:
        self.name = name
        self.hook = hook

    def length(self, link: aiouring.Link, number: int) -> Any:
        return number if self.name == "linked" else link.result


@pytest.fixture(params=MODES)
async def mode(request: pytest.FixtureRequest) -> AsyncIterator[Mode]:
    loop: Any = asyncio.get_running_loop()
    before = descriptors()
    if request.param == "linked":
        yield Mode("linked", None)
    else:
        with Hook.load("standard", engine=request.param) as hook:
            yield Mode(request.param, hook)
            assert hook.stats["tasks"] == 0
            assert hook._attached.region.free_chain_count == 256
    await settle()
    stats = loop.ring_stats()
    assert stats["slots_in_use"] == 1
    assert stats["registered_files"] == 0
    assert stats["stale_cqes"] == 0
    assert descriptors() <= before + 1  # a hook in the kernel may have left its loader's


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle() -> None:
    """What is closed by requests that nobody waits for is closed."""
    for _ in range(3):
        await asyncio.sleep(0)


def free(buffer: bytearray) -> bool:
    """Whether nobody has it exported."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    buffer.pop()
    return True


async def in_flight(chain: aiouring.Chain) -> asyncio.Task[list[Any]]:
    """A task that waits for it, with the first link in the kernel's hands."""
    task = asyncio.ensure_future(wait_for_end(chain))
    await settle()
    assert not task.done()
    return task


async def wait_for_end(chain: aiouring.Chain) -> list[Any]:
    return await chain


# -- cancellation and time-outs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links_before", range(4))
async def test_cancelled_at_each_link(mode: Mode, links_before: int) -> None:
    """The link that waits is the first, the second ...; those before have brought something, and those after it never run."""
    loop = asyncio.get_running_loop()
    left, right = pair()
    ours, peer = pair()
    buffer = bytearray(100)
    with left, right, ours, peer:
        async with aiouring.Chain() as chain:
            first = None
            for _ in range(links_before):
                first = chain.send(ours, b"x" * 100)
            waits = chain.recv(left, buffer)
            chain.send(ours, b"never", length=mode.length(first or waits, 5))
        task = await in_flight(chain)
        for _ in range(links_before):
            assert await loop.sock_recv(peer, 100) == b"x" * 100
        assert not free(buffer)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert free(buffer)
        assert chain.outcomes is not None
        assert [value if isinstance(value, int) else value.errno for value in chain.outcomes] == [100] * links_before + [errno.ECANCELED] * 2
        right.send(b"still there")  # nothing of the chain takes it
        assert await loop.sock_recv(left, 100) == b"still there"
        with pytest.raises(BlockingIOError):
            peer.recv(100)


async def test_cancelled_before_it_is_submitted(mode: Mode) -> None:
    left, right = pair()
    buffer = bytearray(10)
    with left, right:
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 3))
        right.send(b"abc")
        task = asyncio.ensure_future(wait_for_end(chain))
        task.cancel()  # before it ran: the chain goes on by itself, as its block was left
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.get_running_loop().sock_recv(right, 10) == b"abc"
        assert await chain == [3, 3]


async def test_cancelled_in_the_turn_in_which_it_is_queued(mode: Mode) -> None:
    left, right = pair()
    buffer = bytearray(10)
    with left, right:
        right.send(b"abc")

        chain = aiouring.Chain()
        data = chain.recv(left, buffer, hard=True)
        chain.send(left, buffer, length=mode.length(data, 3))

        async def main() -> list[Any]:
            return await chain

        task = asyncio.ensure_future(main())
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert free(buffer)
        if mode.name == "linked":  # taken back before the kernel has seen it
            assert chain.outcomes is not None
            assert [str(outcome) for outcome in chain.outcomes] == ["[Errno 125] it did not run"] * 2
            assert await asyncio.get_running_loop().sock_recv(left, 10) == b"abc"


def test_an_interrupt_while_its_end_is_told(tmp_path: Path) -> None:
    """In debug mode that is Python code: here it gives up a timer. What the chain has opened is closed all the same."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    left, right = pair()
    buffer = bytearray(1)
    loop = aiouring.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    tasks: list[asyncio.Task[Any]] = []

    def interrupt(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_format_callback_source":
            sys.setprofile(None)
            raise KeyboardInterrupt

    async def main() -> None:
        chain = aiouring.Chain()
        chain.open(path, os.O_WRONLY)
        chain.recv(left, buffer)
        tasks.append(asyncio.ensure_future(wait_for_end(chain)))
        await settle()
        tasks[0].cancel()
        sys.setprofile(interrupt)
        await asyncio.wait(tasks)

    with left, right:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        loop.run_until_complete(asyncio.wait_for(task, 20))
        assert tasks[0].cancelled()
        assert os.read(reader, 1) == b""  # nobody has it open for writing
        assert free(buffer)
        assert loop.ring_stats()["registered_files"] == 0
        loop.close()
    os.close(reader)


async def test_cancelled_before_its_task_began() -> None:
    """The chain cannot hear of it, and may be awaited by another task. What is released with the cancelled one is what that alone had."""
    buffer = bytearray(1)
    chain = aiouring.Chain()
    chain.read(0, buffer)
    task = asyncio.ensure_future(wait_for_end(chain))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not free(buffer)
    with pytest.raises(ZeroDivisionError):
        async with chain:
            raise ZeroDivisionError
    assert free(buffer)  # which is how to give it up


async def test_hard_links_are_cancelled_one_after_another(mode: Mode) -> None:
    """Each goes on when the one before it is cancelled: all of them have to be."""
    left, right = pair()
    with left, right:
        buffers = [bytearray(10) for _ in range(6)]
        async with aiouring.Chain() as chain:
            for buffer in buffers:
                data = chain.recv(left, buffer, hard=True)
            chain.send(left, buffers[-1], length=mode.length(data, 10))
        task = await in_flight(chain)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(map(free, buffers))


async def test_a_time_out_ends_it(mode: Mode) -> None:
    left, right = pair()
    buffer = bytearray(10)
    with left, right:
        async with aiouring.Chain(timeout=0.01) as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 10))
        with pytest.raises(TimeoutError, match="not over after 0.01 seconds"):
            await chain
        assert free(buffer)
        async with aiouring.Chain(timeout=60) as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 10))
        right.send(b"0123456789")
        assert await chain == [10, 10]


async def test_a_closed_coroutine_lets_the_chain_end_without_it(mode: Mode) -> None:
    left, right = pair()
    buffer = bytearray(10)
    with left, right:
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 10))
        waiting = wait_for_end(chain)
        waiting.send(None)
        await settle()
        waiting.close()
        while not free(buffer):
            await asyncio.sleep(0)


# -- failures -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("at", range(4))
async def test_a_link_that_fails_at_each_place(mode: Mode, tmp_path: Path, at: int, hard: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    buffer = bytearray(10)
    missing = str(tmp_path / "missing")
    async with aiouring.Chain() as chain:
        file = chain.open(path, os.O_RDWR, hard=True)
        for index in range(4):
            if index == at:
                chain.open(missing, hard=hard)
            else:
                data = chain.read(file, buffer, offset=0, hard=True)
        if mode.name != "linked":
            chain.write(file, buffer, length=data.result, offset=0)
    with pytest.raises(aiouring.ChainError) as raised:
        await chain
    error = raised.value
    assert (error.errno, error.index, error.filename) == (errno.ENOENT, at + 1, missing)
    assert error.link is chain.links[at + 1]
    assert isinstance(error.__cause__, FileNotFoundError)
    assert error.results == [None] + [10] * at
    after = error.outcomes[at + 2 :]
    if hard:
        assert after == [10] * len(after)
    else:
        assert [value.errno for value in after] == [errno.ECANCELED] * len(after)
    assert f"link {at + 2} of {len(chain.links)}, open(): No such file or directory" in str(error)


@pytest.mark.parametrize("kind", ["fsync", "statx"])
async def test_what_the_kernel_does_not_sever_by_itself(mode: Mode, tmp_path: Path, kind: str) -> None:
    """An fsync or a statx that fails ends the chain like any other."""
    read_end, write_end = os.pipe()
    path = tmp_path / "file"
    try:
        async with aiouring.Chain() as chain:
            file = chain.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            data = chain.write(file, b"abc", offset=0)
            if kind == "fsync":
                chain.fsync(write_end)
            else:
                chain.statx(tmp_path / "missing")
            chain.write(file, b"never", length=mode.length(data, 3), offset=3)
        with pytest.raises(aiouring.ChainError) as raised:
            await chain
        assert raised.value.index == 2
        assert raised.value.errno == (errno.EINVAL if kind == "fsync" else errno.ENOENT)
        assert path.read_bytes() == b"abc"
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_short_reads_and_what_they_sever(mode: Mode, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    buffer, other = bytearray(100), bytearray(10)
    with path.open("rb+") as file:
        async with aiouring.Chain() as chain:
            first = chain.read(file, other, offset=0)
            chain.read(file, buffer, offset=0)
            chain.write(file, b"never", length=mode.length(first, 5), offset=0)
        with pytest.raises(aiouring.ChainError, match=r"link 2 of 3, read\(\): it moved 10 of 100 bytes") as raised:
            await chain
        assert raised.value.errno == errno.ENODATA
        # As the last link it is what any read at the end of a file is.
        async with aiouring.Chain() as chain:
            chain.read(file, other, offset=0)
            chain.read(file, buffer, offset=4)
        assert await chain == [10, 6]
        # A hard one, and one whose result is taken, may be short anywhere.
        async with aiouring.Chain() as chain:
            chain.read(file, buffer, offset=0, hard=True)
            chain.write(file, b"hard", offset=0)
        assert await chain == [10, 4]
    assert path.read_bytes() == b"hard456789"


async def test_a_short_write_is_an_error_wherever_it_is(tmp_path: Path) -> None:
    """The file may have 10 bytes: of 20 that are written, ten go there."""
    path = tmp_path / "file"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("wb") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            async with aiouring.Chain() as chain:
                chain.write(file, b"x" * 20, offset=0)
            with pytest.raises(aiouring.ChainError, match="it moved 10 of 20 bytes") as raised:
                await chain
            assert raised.value.errno == errno.EIO
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_peer_that_is_gone(mode: Mode) -> None:
    left, right = pair()
    buffer = bytearray(10)
    with left:
        right.send(b"0123456789")
        right.close()
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 10))
        with pytest.raises(aiouring.ChainError) as raised:
            await chain
        assert raised.value.index == 1
        assert isinstance(raised.value.__cause__, BrokenPipeError)


# -- carried numbers ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_length_is_never_more_than_the_buffer(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    big, small = bytearray(100), bytearray(b"s" * 10)
    after = bytearray(b"a" * 100)
    with Hook.load("standard", engine=engine), path.open("rb+") as file:
        for added in (0, -89, 1 << 40, 1 << 62):
            async with aiouring.Chain() as chain:
                data = chain.read(file, big, offset=0)
                chain.read(file, small, length=data.result + added, offset=0)
            with pytest.raises(aiouring.ChainError, match="more than the 10 bytes of its buffer") as raised:
                await chain
            assert raised.value.errno == errno.EMSGSIZE
            assert small == b"s" * 10 and after == b"a" * 100
        async with aiouring.Chain() as chain:
            data = chain.read(file, big, offset=0)
            chain.read(file, small, length=data.result - 101, offset=0)
        with pytest.raises(aiouring.ChainError) as raised:
            await chain
        assert raised.value.errno == errno.EINVAL
        # The last byte of the buffer, and none.
        for added, expected in ((-90, 10), (-100, 0)):
            async with aiouring.Chain() as chain:
                data = chain.read(file, big, offset=0)
                chain.read(file, small, length=data.result + added, offset=0)
            assert await chain == [100, expected]


@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_carried_runs_with_nothing(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    buffer = bytearray(10)
    with Hook.load("standard", engine=engine), path.open("rb+") as file:
        async with aiouring.Chain() as chain:
            data = chain.read(file, buffer, offset=0)
            chain.write(file, buffer, length=data.result, offset=data.result)
        assert await chain == [0, 0]


@pytest.mark.parametrize("engine", ENGINES)
async def test_more_chains_than_there_are_slots(engine: Any) -> None:
    left, right = pair()
    loop: Any = asyncio.get_running_loop()
    with left, right, Hook.load("standard", engine=engine) as hook:
        buffers = [bytearray(1) for _ in range(256)]
        chains = []
        for buffer in buffers:
            async with aiouring.Chain() as chain:
                data = chain.recv(left, buffer)
                chain.send(left, buffer, length=data.result)
            chains.append(chain)
        extra = bytearray(1)
        with pytest.raises(OSError, match="256 chains") as raised:
            async with aiouring.Chain() as chain:
                data = chain.recv(left, extra)
                chain.send(left, extra, length=data.result)
        assert raised.value.errno == errno.EBUSY
        assert free(extra)
        await settle()
        with pytest.raises(RuntimeError, match="256 tasks and chains run"):
            hook.detach()
        right.send(bytes(range(256)))
        for chain in chains:
            assert await chain == [1, 1]
        got = b""
        while len(got) < 256:
            got += await loop.sock_recv(right, 256)
        assert sorted(got) == list(range(256))


async def test_a_hook_without_chains_refuses(tmp_path: Path) -> None:
    left, right = pair()
    with left, right, Hook.load(build_program(tmp_path, "    return AIOURING_WAKE;", engine="inline"), engine="inline"):
        buffer = bytearray(1)
        with pytest.raises(RuntimeError, match="a hook with chains"):
            async with aiouring.Chain() as chain:
                data = chain.recv(left, buffer)
                chain.send(left, buffer, length=data.result)
        assert free(buffer)


# -- descriptors, sockets, transports -----------------------------------------------------------------------------------------------------------


async def test_a_descriptor_that_is_another_file_by_now(mode: Mode, tmp_path: Path) -> None:
    """The number is closed and given to another file while the link before waits: the chain writes to the file that was meant."""
    left, right = pair()
    buffer = bytearray(5)
    meant, other = tmp_path / "meant", tmp_path / "other"
    other.write_bytes(b"")
    with left, right:
        fd = os.open(meant, os.O_RDWR | os.O_CREAT)
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.write(fd, buffer, length=mode.length(data, 5), offset=0)
        task = await in_flight(chain)
        os.close(fd)
        again = os.open(other, os.O_RDWR)
        try:
            os.dup2(again, fd)
            right.send(b"bytes")
            assert await task == [5, 5]
        finally:
            os.close(again)
            if again != fd:
                os.close(fd)
    assert meant.read_bytes() == b"bytes"
    assert other.read_bytes() == b""


async def test_a_socket_that_is_closed_under_it(mode: Mode) -> None:
    """The chain ends, and the peer sees the end at once."""
    left, right = pair()
    buffer = bytearray(5)
    loop: Any = asyncio.get_running_loop()
    with right:
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 5))
        task = await in_flight(chain)
        left.close()
        with pytest.raises(aiouring.ChainError, match="a socket of the chain was closed"):
            await task
        assert await loop.sock_recv(right, 10) == b""


async def test_what_a_cancelled_receive_left_comes_first(mode: Mode) -> None:
    left, right = pair()
    loop: Any = asyncio.get_running_loop()
    with left, right:
        for size, whole, expected in ((4, False, b"left"), (2, False, b"le"), (8, True, b"left-new"), (4, True, b"left")):
            await leave(left, right, b"left")
            buffer = bytearray(size)
            async with aiouring.Chain() as chain:
                data = chain.recv(left, buffer, whole=whole)
                chain.send(left, buffer, length=mode.length(data, size))
            if whole and size > 4:
                right.send(b"-new")
            assert await chain == [size, size]
            assert bytes(buffer) == expected
            assert await loop.sock_recv(right, 100) == expected
            if size == 2:
                assert await loop.sock_recv(left, 100) == b"ft"


async def test_what_was_left_goes_back_when_the_chain_fails(mode: Mode, tmp_path: Path) -> None:
    left, right = pair()
    loop: Any = asyncio.get_running_loop()
    with left, right:
        await leave(left, right, b"left")
        buffer = bytearray(10)
        async with aiouring.Chain() as chain:
            chain.open(tmp_path / "missing")
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=mode.length(data, 4))
        with pytest.raises(aiouring.ChainError):
            await chain
        assert await loop.sock_recv(left, 100) == b"left"


async def leave(sock: socket.socket, peer: socket.socket, data: bytes) -> None:
    """These bytes are what a cancelled receive leaves for the next one."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(loop.sock_recv(sock, 100))
    await asyncio.sleep(0)
    # Sent, received and completed in one turn: this task's wake-up stands before that of the one it cancels.
    await loop.sock_sendall(peer, data)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_transports_descriptor_is_refused() -> None:
    loop = asyncio.get_running_loop()
    left, right = pair()
    with right:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        for sock in (left, left.fileno()):
            with pytest.raises(RuntimeError, match="is used by transport"):
                async with aiouring.Chain() as chain:
                    chain.send(sock, b"between")
        with pytest.raises(RuntimeError, match="is used by transport"):
            async with aiouring.Chain() as chain:
                chain.close(left.fileno())
        transport.abort()
        await settle()


async def test_an_open_file_waits_for_the_chain_before_it_closes(mode: Mode, tmp_path: Path) -> None:
    left, right = pair()
    buffer = bytearray(5)
    with left, right:
        file = await aiouring.open(tmp_path / "file", "wb+")
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.write(file, buffer, length=mode.length(data, 5), offset=0)
        task = await in_flight(chain)
        closing = asyncio.ensure_future(close_of(file))
        await settle()
        assert not closing.done()
        right.send(b"bytes")
        assert await task == [5, 5]
        await closing
    assert (tmp_path / "file").read_bytes() == b"bytes"


async def close_of(file: Any) -> None:
    await file.close()


async def test_locks_of_the_process_stay(tmp_path: Path) -> None:
    """The end of a chain is no close of the caller's file, which would let its POSIX locks go."""
    path = tmp_path / "file"
    with path.open("wb+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        async with aiouring.Chain() as chain:
            chain.write(file, b"abc", offset=0)
            chain.statx(file.fileno())
        await chain
        await settle()
        held = subprocess.run([sys.executable, "-c", "import fcntl, sys\nfcntl.lockf(open(sys.argv[1], 'rb+'), fcntl.LOCK_EX | fcntl.LOCK_NB)", path],
                              capture_output=True, text=True)  # fmt: skip
        assert "BlockingIOError" in held.stderr


async def test_direct_descriptors_are_given_back(mode: Mode, tmp_path: Path) -> None:
    """After a chain that closed its file, one that did not, one that failed before, and one that was cancelled between."""
    loop: Any = asyncio.get_running_loop()
    left, right = pair()
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with left, right:
        for end in ("closed", "left open", "failed", "cancelled"):
            buffer = bytearray(10)
            async with aiouring.Chain() as chain:
                if end == "failed":
                    chain.open(tmp_path / "missing")
                file = chain.open(path)
                data = chain.read(file, buffer)
                if end == "cancelled":
                    chain.recv(left, buffer)
                chain.read(file, buffer, length=mode.length(data, 10), offset=0)
                if end == "closed":
                    chain.close(file)
            if end == "cancelled":
                task = await in_flight(chain)
                assert loop.ring_stats()["registered_files"] >= 1
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif end == "failed":
                with pytest.raises(aiouring.ChainError):
                    await chain
            else:
                assert (await chain)[1] == 10
            assert loop.ring_stats()["registered_files"] == 0
        # And no file stays open for it: one that is unlinked would keep its blocks.
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
        assert str(path) not in opened


async def test_no_place_in_the_table(tmp_path: Path) -> None:
    loop: Any = asyncio.get_running_loop()
    left, right = pair()
    (tmp_path / "file").write_bytes(b"x")
    with left, right:
        async with aiouring.Chain() as filler:
            for _ in range(1):
                filler.recv(left, bytearray(1))
        chains = []
        try:
            while True:
                async with aiouring.Chain() as chain:
                    for _ in range(100):
                        chain.open(tmp_path / "file")
                    chain.recv(left, bytearray(1))
                chains.append(chain)
        except OSError as error:
            assert error.errno == errno.ENFILE
            assert "table of registered files is full" in str(error)
        # Others go on without the table.
        with (tmp_path / "file").open("rb") as file:
            async with aiouring.Chain() as chain:
                chain.read(file, bytearray(1), offset=0)
            assert await chain == [1]
        right.send(b"x" * (len(chains) + 1))
        await filler
        for chain in chains:
            assert (await chain)[-1] == 1
        assert loop.ring_stats()["registered_files"] == 0


# -- the loop: moved, closed, forked -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_a_loop_that_moves_to_another_thread(carry: bool, waits: bool, tmp_path: Path) -> None:
    """What may have run is an error; a chain of which nothing can have happened begins again."""
    loop = aiouring.new_event_loop()
    left, right = pair()
    path = tmp_path / "file"
    outcome: list[Any] = []
    buffer = bytearray(5)
    with left, right, path.open("wb+") as file:

        async def begin() -> None:
            async with aiouring.Chain() as chain:
                if waits:
                    data = chain.recv(left, buffer)
                else:
                    chain.timeout(30)
                    data = chain.read(file, buffer, offset=0)
                chain.write(file, b"12345", length=data.result if carry else 5, offset=0)
            chains.append(chain)
            await settle()

        async def end() -> None:
            await settle()
            right.send(b"bytes")
            task = asyncio.ensure_future(wait_for_end(chains[0]))
            if not waits and not carry:
                await settle()
                task.cancel()  # it has begun its pause again
            try:
                outcome.append(await task)
            except (aiouring.ChainError, asyncio.CancelledError) as error:
                outcome.append(error)

        chains: list[aiouring.Chain] = []
        loop.run_until_complete(begin())
        thread = threading.Thread(target=loop.run_until_complete, args=(end(),))
        thread.start()
        thread.join()
        if not waits and not carry:
            assert isinstance(outcome[0], asyncio.CancelledError)
        else:
            assert isinstance(outcome[0], aiouring.ChainError)
            assert outcome[0].errno == errno.ECANCELED
            assert "moved to another thread" in str(outcome[0])
        assert file.read() == b""
        assert free(buffer)
        thread = threading.Thread(target=loop.close)
        thread.start()
        thread.join()


@pytest.mark.parametrize("carry", [False, True])
def test_a_loop_that_is_closed_with_a_chain_in_flight(carry: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = aiouring.new_event_loop()
    left, right = pair()
    buffers = [bytearray(10) for _ in range(5)]
    before = descriptors()
    with left, right:

        async def main() -> None:
            async with aiouring.Chain() as chain:
                chain.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
                chain.send(left, b"go")
                for buffer in buffers:
                    data = chain.recv(left, buffer, hard=True)
                chain.send(left, buffers[0], length=data.result if carry else 5)
            await in_flight(chain)
            assert await loop.sock_recv(right, 10) == b"go"

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loop.run_until_complete(main())
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            del task
            loop.close()
            assert "did not end within" not in caplog.text  # what a close says that has waited for 5 s, and keeps the memory
            gc.collect()
        assert all(map(free, buffers))
        right.send(b"x")
        assert left.recv(10) == b"x"
    assert descriptors() <= before


def test_a_forked_child_cannot_use_it() -> None:
    program = """if True:
        import asyncio, os, socket, aiouring

        async def main():
            left, right = socket.socketpair()
            with left, right:
                await use(left, right)

        async def use(left, right):
            left.setblocking(False)
            buffer = bytearray(5)
            async with aiouring.Chain() as chain:
                data = chain.recv(left, buffer)
                chain.send(left, buffer, length=data.result)
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    other = aiouring.Chain()
                    other.timeout(0)
                    await other
                except RuntimeError as error:
                    status = 0 if "no running event loop" in str(error) else 2
                finally:
                    os._exit(status)
            print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            right.send(b"bytes")
            print(await chain, right.recv(10))

        aiouring.run(main())
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "child: 0\n[5, 5] b'bytes'\n"


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_hook_that_fails_ends_its_chains(engine: Any, tmp_path: Path) -> None:
    """A program with chains that returns no verdict at some time, or that somebody takes out of the kernel: it is detached, and its chains end with
    an error."""
    source = tmp_path / "mine.bpf.c"
    source.write_text("""
        #include <aiouring/chain.h>
        static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
        {
            if (aiouring_namespace(cqe) == AIOURING_NS_CHAIN)
                return aiouring_chain_cqe(hook, cqe);
            return cqe->res == 7 ? 12345 : AIOURING_WAKE;
        }
        AIOURING_HOOK(on_cqe)
    """)
    loop = asyncio.get_running_loop()
    left, right = pair()
    other, peer = pair()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    with left, right, other, peer:
        # Under emulation compiling takes half a minute.
        program = "standard" if engine == "kernel" else compile_program(source, engine=engine)
        hook = Hook.load(program, engine=engine).attach()
        buffer = bytearray(10)
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=data.result)
        task = await in_flight(chain)
        if engine == "kernel":
            hook._loaded.detach()
        peer.send(b"seven..")
        assert await loop.sock_recv(other, 100) == b"seven.."
        with pytest.raises(aiouring.ChainError, match="hook failed"):
            await task
        assert free(buffer)
        assert not hook.attached
        assert reported
        right.send(b"still there")
        assert await loop.sock_recv(left, 100) == b"still there"
        del hook
    # The next one is the standard hook.
    left, right = pair()
    with left, right:
        async with aiouring.Chain() as chain:
            data = chain.recv(left, buffer)
            chain.send(left, buffer, length=data.result)
        right.send(b"abc")
        assert await chain == [3, 3]
        _hook.engine_of(loop).detach()  # type: ignore[union-attr]


# -- how it is used -----------------------------------------------------------------------------------------------------------------------------


async def test_an_exception_in_the_block_submits_nothing(mode: Mode, tmp_path: Path) -> None:
    path = tmp_path / "file"
    buffer = bytearray(b"never")
    with path.open("wb+") as file:
        with pytest.raises(ZeroDivisionError):
            async with aiouring.Chain() as chain:
                data = chain.write(file, buffer, offset=0)
                chain.write(file, buffer, length=mode.length(data, 5), offset=0)
                raise ZeroDivisionError
        assert free(buffer)
        assert file.read() == b""
        with pytest.raises(RuntimeError):
            await chain


async def test_a_chain_is_used_once(mode: Mode, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        async with aiouring.Chain() as chain:
            data = chain.write(file, b"12345", offset=0)
            chain.write(file, b"12345", length=mode.length(data, 5), offset=5)
        with pytest.raises(RuntimeError, match="submitted already"):
            chain.write(file, b"too late")
        assert await chain == [5, 5]
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await chain
        with pytest.raises(RuntimeError, match="submitted already"):
            async with chain:
                pass


async def test_a_chain_that_nobody_awaits_warns_and_leaves_nothing(mode: Mode, tmp_path: Path) -> None:
    buffer = bytearray(b"12345")
    with (tmp_path / "file").open("wb+") as file:
        with pytest.warns(RuntimeWarning, match="'Chain' was never awaited"):
            async with aiouring.Chain() as chain:
                data = chain.write(file, buffer, offset=0)
                chain.write(file, buffer, length=mode.length(data, 5), offset=5)
            del chain, data
            while not free(buffer):
                await asyncio.sleep(0)
            await settle()
            gc.collect()
        assert file.read() == b"1234512345"
        with pytest.warns(RuntimeWarning, match="'Chain' was never awaited"):
            chain = aiouring.Chain()
            chain.write(file, buffer)
            del chain
            gc.collect()
        assert free(buffer)


async def test_links_of_others(tmp_path: Path) -> None:
    buffer = bytearray(5)
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    one, two = aiouring.Chain(), aiouring.Chain()
    file = one.open(path)
    data = one.read(file, buffer)
    with pytest.raises(ValueError, match="link of another chain"):
        two.read(file, buffer)
    with pytest.raises(ValueError, match="link of another chain"):
        two.write(1, buffer, length=data.result)
    with pytest.raises(TypeError, match="only what open"):
        one.read(data, buffer)
    with pytest.raises(TypeError, match="no number to take"):
        one.write(file, buffer, length=file.result)
    # A link that was made by hand to lie behind.
    ahead = aiouring.Link(one, 7, "read", False)
    with pytest.raises(ValueError, match="links before it"):
        one.write(file, buffer, length=ahead.result)
    assert len(one.links) == 2
    assert await one == [None, 5]
    assert await two == []


async def test_bad_arguments_leave_the_chain_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with (tmp_path / "file").open("rb+") as file, socket.socket() as sock:
        chain = aiouring.Chain()
        cases: list[tuple[type[BaseException], Any]] = [
            (BufferError, lambda: chain.read(file, b"read-only")),
            (BufferError, lambda: chain.read(file, memoryview(b"read-only"))),
            (TypeError, lambda: chain.write(file, "text")),
            (BufferError, lambda: chain.write(file, memoryview(bytearray(10))[::2])),
            (ValueError, lambda: chain.write(file, b"12345", length=6)),
            (ValueError, lambda: chain.write(file, b"12345", length=-1)),
            (ValueError, lambda: chain.write(file, b"12345", offset=-1)),
            (ValueError, lambda: chain.write(file, b"12345", offset=1 << 63)),
            (TypeError, lambda: chain.write(file, b"12345", length="5")),
            (TypeError, lambda: chain.write(object(), b"12345")),
            (ValueError, lambda: chain.write(-1, b"12345")),
            (TypeError, lambda: chain.read(sock, bytearray(5))),
            (TypeError, lambda: chain.close(file)),
            (TypeError, lambda: chain.close(sock)),
            (ValueError, lambda: chain.open("with\0zero")),
            (TypeError, lambda: chain.open(17)),
            (ValueError, lambda: chain.timeout(-1)),
            (ValueError, lambda: chain.timeout(float("nan"))),
            (ValueError, lambda: chain.statx(file, follow_symlinks=False)),
            (ValueError, lambda: aiouring.Chain(timeout=-1)),
        ]
        for kind, call in cases:
            with pytest.raises(kind):
                call()
        assert chain.links == ()
        chain.write(file, b"abc", offset=0)
        assert await chain == [3]
        # What is wrong by the time of the submission.
        released = memoryview(bytearray(5))
        released.release()
        with pytest.raises(ValueError):
            aiouring.Chain().write(file, released)
        fd = os.dup(file.fileno())
        os.close(fd)
        buffer = bytearray(5)
        with pytest.raises(OSError) as raised:
            async with aiouring.Chain() as chain:
                chain.read(fd, buffer)
        assert raised.value.errno == errno.EBADF
        assert free(buffer)
        with pytest.raises(ValueError, match="up to 128 links"):
            chain = aiouring.Chain()
            for _ in range(129):
                chain.timeout(0)
        assert len(await chain) == 128
        with pytest.raises(ValueError, match="up to 16 links"):
            async with aiouring.Chain() as chain:
                data = chain.read(file, buffer, offset=0)
                for _ in range(16):
                    chain.write(file, buffer, length=data.result, offset=0)


async def test_a_buffer_whose_export_adds_a_link() -> None:
    """Code of the user's that runs while a link is made."""
    chain = aiouring.Chain()

    class Sneaky:
        def fileno(self) -> int:
            return 0

        @property
        def __class__(self) -> type:  # isinstance() asks
            try:
                chain.timeout(0)
            except RuntimeError as error:
                refused.append(error)
            return object

        @__class__.setter
        def __class__(self, value: type) -> None: ...

    refused: list[RuntimeError] = []
    chain.read(Sneaky(), bytearray(1))
    assert refused
    # What it added before the link was begun is there.
    assert [link.name for link in chain.links] == ["timeout"] * (len(chain.links) - 1) + ["read"]
    assert [link.index for link in chain.links] == list(range(len(chain.links)))
    with contextlib.suppress(ZeroDivisionError):
        async with chain:
            raise ZeroDivisionError


def test_another_loop() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="needs aiouring's event loop"):
            async with aiouring.Chain() as chain:
                chain.timeout(0)

    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        loop.run_until_complete(main())


async def test_1000_chains_leave_nothing(mode: Mode, tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096)
    buffer = bytearray(4096)
    for _ in range(1000 if mode.name != "kernel" else 100):
        async with aiouring.Chain() as chain:
            file = chain.open(path, os.O_RDWR)
            data = chain.read(file, buffer, offset=0)
            chain.write(file, buffer, length=mode.length(data, 4096), offset=0)
            chain.close(file)
        assert await chain == [None, 4096, 4096, None]
    assert free(buffer)


async def test_names_that_the_kernel_refuses_while_it_takes_the_chain(mode: Mode, tmp_path: Path) -> None:
    """It would fail all that such a link is linked to: those before it run all the same."""
    path = tmp_path / "file"
    with path.open("wb+") as file:
        for bad, expected in (("", errno.ENOENT), ("x" * 5000, errno.ENAMETOOLONG)):
            async with aiouring.Chain() as chain:
                data = chain.write(file, b"12345", offset=0)
                chain.fsync(file)
                chain.open(bad)
                chain.write(file, b"never", length=mode.length(data, 5), offset=5)
            with pytest.raises(aiouring.ChainError) as raised:
                await chain
            assert (raised.value.index, raised.value.errno) == (2, expected)
            assert raised.value.results == [5, None]
            async with aiouring.Chain() as chain:
                data = chain.write(file, b"12345", offset=0)
                chain.statx(bad, hard=True)
                chain.write(file, b"after", length=mode.length(data, 5), offset=0)
            with pytest.raises(aiouring.ChainError) as raised:
                await chain
            assert (raised.value.index, raised.value.errno) == (1, expected)
            assert raised.value.outcomes[2] == 5
        assert path.read_bytes() == b"after"
