"""The hooks that ship: the same randomised traffic under each engine and under plain asyncio code, every byte, result and error compared."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring.bpf import Hook, discard, echo
from aiouring.bpf.hooks import Engine
from tests.unit.hook_programs import ENGINES, pair, plain_discard, plain_echo, plain_relay, receive_all


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    value: Engine = request.param
    return value


def chunks(rng: random.Random) -> list[bytes]:
    """What one side sends: nothing, many small pieces, or some that are larger than socket buffers."""
    kind = rng.choice(["none", "small", "mixed", "large"])
    sizes = {
        "none": [],
        "small": [rng.randint(1, 2000) for _ in range(rng.randint(1, 60))],
        "mixed": [rng.choice([1, 100, 65535, 65536, 65537, 200_000]) for _ in range(rng.randint(1, 8))],
        "large": [rng.randint(500_000, 1_500_000)],
    }[kind]
    return [rng.randbytes(size) for size in sizes]


async def send_chunks(loop: Any, sock: socket.socket, pieces: list[bytes], *, end: bool) -> None:
    for piece in pieces:
        await loop.sock_sendall(sock, piece)
    if end:
        sock.shutdown(socket.SHUT_WR)


async def relay_traffic(relaying: Callable[..., Awaitable[Any]], rng: random.Random, *, tcp: bool) -> dict[str, Any]:
    """Two clients with a relay between them: what each of them received, and what the relay returned."""
    loop = asyncio.get_running_loop()
    left, a = pair(tcp=tcp)
    b, right = pair(tcp=tcp)
    with left, a, b, right:
        from_left, from_right = chunks(rng), chunks(rng)
        job = asyncio.ensure_future(relaying(a, b))
        senders = [send_chunks(loop, left, from_left, end=True), send_chunks(loop, right, from_right, end=True)]
        got_right, got_left, *_ = await asyncio.gather(receive_all(loop, right), receive_all(loop, left), *senders)
        result = await job
        assert got_right == b"".join(from_left)
        assert got_left == b"".join(from_right)
    return {"right": got_right, "left": got_left, "result": tuple(result)}


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_a_relay_passes_on_what_plain_code_passes_on(engine: Engine, rng: random.Random, tcp: bool) -> None:
    for _ in range(8):
        state = rng.getstate()
        expected = await relay_traffic(plain_relay, rng, tcp=tcp)
        rng.setstate(state)
        with Hook.load("standard", engine=engine) as hook:
            assert hook.engine == engine
            assert await relay_traffic(aiouring.relay, rng, tcp=tcp) == expected
            assert hook.stats["tasks"] == 0


async def one_way_traffic(job_of: Callable[[socket.socket], Awaitable[int]], rng: random.Random, *, tcp: bool) -> tuple[bytes, int]:
    loop = asyncio.get_running_loop()
    left, right = pair(tcp=tcp)
    with left, right:
        pieces = chunks(rng)
        job = asyncio.ensure_future(job_of(right))
        sending = asyncio.ensure_future(send_chunks(loop, left, pieces, end=True))
        got = b""
        while len(got) < (0 if job_of in (discard, plain_discard) else sum(map(len, pieces))):
            got += await loop.sock_recv(left, 65536)
        await sending
        return got, await job


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_echo_and_discard_do_what_plain_code_does(engine: Engine, rng: random.Random, tcp: bool) -> None:
    for ours, plain in ((echo, plain_echo), (discard, plain_discard)):
        for _ in range(5):
            state = rng.getstate()
            expected = await one_way_traffic(plain, rng, tcp=tcp)
            rng.setstate(state)
            with Hook.load("standard", engine=engine):
                assert await one_way_traffic(ours, rng, tcp=tcp) == expected


async def test_python_sleeps_while_a_relay_works(engine: Engine) -> None:
    """1,000 messages there and back, sent by a thread: not one turn of the loop."""
    loop = asyncio.get_running_loop()
    left, a = pair()
    b, right = pair()
    with left, a, b, right, Hook.load("standard", engine=engine) as hook:
        job = asyncio.ensure_future(aiouring.relay(a, b))
        await asyncio.sleep(0)
        left.setblocking(True)
        right.setblocking(True)

        def clients() -> tuple[int, int]:
            before = loop.ring_stats()["turns"]  # type: ignore[attr-defined]
            for _ in range(1000):
                left.sendall(b"x" * 1024)
                assert right.recv(2048)
                right.sendall(b"y")
                assert left.recv(2048) == b"y"
            return before, loop.ring_stats()["turns"]  # type: ignore[attr-defined]

        before, after = await loop.run_in_executor(None, clients)
        assert after - before <= 1  # the first is the turn that began the wait
        assert hook.stats["consumed"] >= 2000
        left.close()
        right.close()
        await job


async def test_a_peer_that_resets_ends_a_relay_as_it_ends_plain_code(engine: Engine) -> None:
    for relaying in (plain_relay, aiouring.relay):
        left, a = pair(tcp=True)
        b, right = pair(tcp=True)
        with left, a, b, right, Hook.load("standard", engine=engine) as hook:
            job = asyncio.ensure_future(relaying(a, b))
            await asyncio.sleep(0)
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left.close()
            with pytest.raises(ConnectionResetError):
                await job
            assert hook.stats["tasks"] == 0


async def test_a_relay_that_is_idle_times_out(engine: Engine) -> None:
    left, a = pair()
    b, right = pair()
    with left, a, b, right, Hook.load("standard", engine=engine) as hook:
        with pytest.raises(TimeoutError):
            await aiouring.relay(a, b, idle_timeout=0.02)
        assert hook.stats["tasks"] == 0


async def test_cancelling_tasks_frees_them(engine: Engine, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine) as hook:
        for turns in (*range(6), 50):
            left, a = pair()
            b, right = pair()
            with left, a, b, right:
                jobs = [asyncio.ensure_future(aiouring.relay(a, b)), asyncio.ensure_future(echo(left))]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for job in jobs:
                    job.cancel()
                results = await asyncio.gather(*jobs, return_exceptions=True)
                assert all(isinstance(result, asyncio.CancelledError) for result in results)
        # One that cannot send: its peer does not read.
        left, a = pair()
        with left, a:
            job = asyncio.ensure_future(echo(a))
            left.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    left.send(bytes(65536))
                    await asyncio.sleep(0)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
        assert hook.stats["tasks"] == 0
        await asyncio.sleep(0)
        assert loop.ring_stats()["slots_in_use"] == 1  # type: ignore[attr-defined]


class Collector(asyncio.Protocol):
    """Notes what comes, and its end."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def test_a_relay_takes_over_transports_with_what_they_had_on_their_way(engine: Engine, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load("standard", engine=engine):
        for size in (1, 1000, 300_000):
            left, a = pair(tcp=True)
            b, right = pair(tcp=True)
            with left, right:
                ta, pa = await loop.create_connection(Collector, sock=a)
                tb, pb = await loop.create_connection(Collector, sock=b)
                greeting, body = rng.randbytes(size), rng.randbytes(size)
                tb.write(greeting)  # goes out before what is relayed
                sending = asyncio.ensure_future(send_chunks(loop, left, [body], end=True))
                for _ in range(rng.randint(0, 3)):
                    await asyncio.sleep(0)
                job = asyncio.ensure_future(aiouring.relay(ta, tb))
                right_got = asyncio.ensure_future(receive_all(loop, right))
                await sending
                received = await right_got
                early = bytes(pa.data)  # what the protocol had before the relay began
                assert early + received[len(greeting) :] == body
                assert received[: len(greeting)] == greeting
                right.close()
                result = await job
                assert result == (size - len(early), 0)
                assert bytes(pa.data) == early
                assert await pa.lost is None
                assert await pb.lost is None
                assert await receive_all(loop, left) == b""


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 262_144, 262_145, 5_000_000])
async def test_copies_are_equal(engine: Engine, tmp_path: Path, rng: random.Random, size: int) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    data = rng.randbytes(size)
    src.write_bytes(data)
    with Hook.load("standard", engine=engine):
        for depth in (1, 3, 8):
            for offset, count, target in ((0, None, 0), (0, size // 2, 7), (size // 3, None, 0), (size // 3, size, 100), (size + 5, None, 0)):
                dst.write_bytes(b"")
                with src.open("rb") as source, dst.open("r+b") as copy:
                    moved = await aiouring.copy(source, copy, count, depth=depth, src_offset=offset, dst_offset=target)
                expected = data[offset:][: size if count is None else count]
                assert moved == len(expected)
                assert dst.read_bytes() == (bytes(target) + expected if expected else b"")


async def test_copy_errors_and_arguments(engine: Engine, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(bytes(1_000_000))
    with Hook.load("standard", engine=engine) as hook:
        with src.open("rb") as source:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await aiouring.copy(source, source)
            read_end, write_end = os.pipe()
            try:
                with pytest.raises(OSError, match="positions"):
                    await aiouring.copy(source, write_end)
            finally:
                os.close(read_end)
                os.close(write_end)
            with pytest.raises(ValueError, match="depth"):
                await aiouring.copy(source, source, depth=9)
        assert hook.stats["tasks"] == 0


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, 3_000_000])
async def test_a_file_is_sent_as_plain_code_sends_it(engine: Engine, tmp_path: Path, rng: random.Random, size: int) -> None:
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    data = rng.randbytes(size)
    path.write_bytes(data)
    with Hook.load("standard", engine=engine):
        for offset, count in ((0, None), (size // 2, None), (0, size // 3 or None)):
            left, a = pair(tcp=True)
            with left:
                transport, protocol = await loop.create_connection(Collector, sock=a)
                transport.write(b"head")
                getting = asyncio.ensure_future(receive_all(loop, left))
                with path.open("rb") as file:
                    sent = await aiouring.send_file(transport, file, offset, count)
                    assert file.tell() == (offset + sent if sent else 0)
                transport.write(b"tail")
                transport.close()
                expected = data[offset:][: size if count is None else count]
                assert sent == len(expected)
                assert await getting == b"head" + expected + b"tail"
                assert await protocol.lost is None


def test_a_loop_closes_with_tasks_in_flight(engine: Engine) -> None:
    left, a = pair()
    b, right = pair()

    async def begin() -> None:
        Hook.load("standard", engine=engine).attach()
        for job in (aiouring.relay(a, b), echo(left)):
            task = asyncio.ensure_future(job)
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            kept.append(task)
        await asyncio.sleep(0)

    kept: list[Any] = []
    loop = aiouring.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    kept.clear()
    gc.collect()
    for sock in (left, a, b, right):
        sock.close()


async def test_no_more_tasks_than_slots(engine: Engine) -> None:
    with Hook.load("standard", engine=engine) as hook:
        left, right = pair()
        with left, right:
            jobs = [asyncio.ensure_future(discard(right)) for _ in range(1024)]
            await asyncio.sleep(0)
            with pytest.raises(OSError, match="1024 tasks"):
                await discard(right)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        assert hook.stats["tasks"] == 0
