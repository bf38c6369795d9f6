"""Frames: the same randomised traffic under each engine, without one, and under plain asyncio code; every frame, end and error compared."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import Delimited, IncompleteFrameError, LengthPrefixed, _hook
from aiouring._frames import cut
from aiouring.bpf import Hook
from aiouring.framing import Framing
from tests.unit.hook_programs import ENGINES, build_program, check_fork, some
from tests.unit.hook_serving import serving, stats_of


@pytest.fixture(params=[*ENGINES, "none"])
def engine(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


class Singles(asyncio.Protocol):
    """Notes the frames that it gets one by one, and the end."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.eof = 0
        self.turns: set[int] = set()
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[BaseException | None] = self.loop.create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.note([data])

    def note(self, frames: list[bytes]) -> None:
        assert not self.lost.done()
        assert not self.eof
        self.frames += frames
        self.turns.add(stats_of(self.loop)["turns"])
        self.changed.set()

    def eof_received(self) -> None:
        self.eof += 1

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)

    async def has(self, count: int) -> list[bytes]:
        while len(self.frames) < count:
            self.changed.clear()
            await self.changed.wait()
        return self.frames


class Batches(Singles):
    """The same for who takes them by batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def frames_received(self, frames: list[bytes]) -> None:
        assert frames
        self.batches.append(len(frames))
        self.note(frames)

    def data_received(self, data: bytes) -> None:
        raise AssertionError("frames_received() is there")


def encoded(framing: Framing, body: bytes) -> bytes:
    if isinstance(framing, LengthPrefixed):
        return len(body).to_bytes(framing.size_bytes, framing.byteorder) + body
    return body + framing.delimiter


def random_framing(rng: random.Random, *, max_frame: int) -> Framing:
    limits = {"max_frame": max_frame, "max_delay": rng.choice([0, 0.0001, 0.001]), "max_batch": rng.choice([1, 3, 32])}
    if rng.random() < 0.5:
        size = rng.choice([1, 2, 4, 8])
        limits["max_frame"] = min(max_frame, 256**size - 1)
        return LengthPrefixed(size, rng.choice(["big", "little"]), **limits)  # type: ignore[arg-type]
    return Delimited(rng.choice([b"\n", b"\r\n", b"aab", b"\0\0\0\0\0\0\0\1"]), **limits)  # type: ignore[arg-type]


def random_stream(rng: random.Random, framing: Framing) -> list[bytes]:
    """Frames of all sizes, then perhaps half of one or one that is too long; cut at random."""
    sizes = rng.choice([[0, 1, 2], [5, 60, 300], [4000, 4096, 5000], [0, 100, 20_000], [60_000]])
    stream = bytearray()
    for _ in range(rng.randint(0, 40)):
        body = rng.randbytes(min(rng.choice(sizes), framing.max_frame))
        if isinstance(framing, Delimited):
            # Much that looks like the beginning of a delimiter.
            body = bytes(rng.choice(b"a\r\n\0b") for _ in body[:300]) + body[300:]
        stream += encoded(framing, body)
    kind = rng.choice(["whole", "whole", "half", "long"])
    if kind == "half":
        stream += encoded(framing, rng.randbytes(rng.randint(0, min(framing.max_frame, 5000))))
        del stream[-rng.randint(1, min(len(stream), 12)) :]
    elif kind == "long":
        if isinstance(framing, Delimited):
            stream += b"x" * (framing.max_frame + rng.randint(1, 20)) + framing.delimiter + b"more"
        elif framing.max_frame + 1 < 256**framing.size_bytes:
            stream += (framing.max_frame + 1).to_bytes(framing.size_bytes, framing.byteorder) + b"more"
    pieces = []
    at = 0
    largest = rng.choice([1, 7, 100, 5000, 100_000])
    if len(stream) > 3000:
        largest = max(largest, 100)
    while at < len(stream):
        step = rng.randint(1, largest)
        pieces.append(bytes(stream[at : at + step]))
        at += step
    return pieces


async def send(sock: socket.socket, pieces: list[bytes], rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    try:
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the server has ended it: a frame was too long


Result = tuple[list[bytes], str, bytes | None, int | None]


async def plain_frames(framing: Framing, reader: asyncio.StreamReader) -> Result:
    """What asyncio's own reader makes of a stream."""
    frames: list[bytes] = []
    head = b""
    try:
        while True:
            head = b""
            if isinstance(framing, Delimited):
                frames.append((await reader.readuntil(framing.delimiter))[: -len(framing.delimiter)])
                continue
            head = await reader.readexactly(framing.size_bytes)
            length = int.from_bytes(head, framing.byteorder)
            if length > framing.max_frame:
                return frames, "long", None, None
            frames.append(await reader.readexactly(length))
    except asyncio.LimitOverrunError:
        return frames, "long", None, None
    except asyncio.IncompleteReadError as error:
        partial = head + error.partial
        if not partial:
            return frames, "whole", None, None
        expected = len(head) + error.expected if head and error.expected is not None else None
        return frames, "half", partial, expected


def result_of(frames: list[bytes], error: BaseException | None) -> Result:
    if error is None:
        return frames, "whole", None, None
    if isinstance(error, IncompleteFrameError):
        return frames, "half", error.partial, error.expected
    assert isinstance(error, ValueError)
    assert "max_frame=" in str(error)
    return frames, "long", None, None


async def plain_results(framing: Framing, streams: list[list[bytes]]) -> list[Result]:
    results: list[asyncio.Future[Result]] = [asyncio.get_running_loop().create_future() for _ in streams]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int.from_bytes(await reader.readexactly(4), "big")
        results[number].set_result(await plain_frames(framing, reader))
        writer.transport.abort()

    async def client(number: int, pieces: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            writer.write(number.to_bytes(4, "big"))
            for piece in pieces:
                writer.write(piece)
            writer.write_eof()
            await reader.read()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=framing.max_frame)
    async with server:
        await asyncio.gather(*(client(number, pieces) for number, pieces in enumerate(streams)))
        return await asyncio.gather(*results)


@pytest.mark.parametrize("protocol", [Singles, Batches])
async def test_the_same_frames_as_plain_code(engine: str, protocol: type[Singles], rng: random.Random) -> None:
    for _ in range(some(engine, 12)):
        framing = random_framing(rng, max_frame=rng.choice([10, 300, 65_536, 1_000_000]))
        streams = [random_stream(rng, framing) for _ in range(rng.choice([1, 3, 8]))]
        expected = await plain_results(framing, streams)
        async with serving(engine, protocol, frames=framing) as running:
            ends = [await running.connect() for _ in streams]
            await asyncio.gather(*(send(sock, pieces, rng) for (sock, _), pieces in zip(ends, streams, strict=True)))
            for (sock, made), pieces, wanted in zip(ends, streams, expected, strict=True):
                error = await made.lost
                if not (wanted[1] == "long" and isinstance(error, OSError)):
                    assert result_of(made.frames, error) == wanted
                    assert made.eof == (wanted[1] != "long")
                assert cut(framing, pieces)[0] == wanted[0]
                sock.close()


def test_cutting_does_not_depend_on_the_cuts(rng: random.Random) -> None:
    for _ in range(200):
        framing = random_framing(rng, max_frame=rng.choice([1, 10, 300, 5000]))
        pieces = random_stream(rng, framing)
        stream = b"".join(pieces)
        frames, error = cut(framing, [stream])
        for other in (pieces, [stream[i : i + 1] for i in range(len(stream))]):
            again, other_error = cut(framing, other)
            assert again == frames
            assert type(other_error) is type(error)
            if isinstance(error, IncompleteFrameError):
                assert (other_error.partial, other_error.expected) == (error.partial, error.expected)  # type: ignore[union-attr]


async def test_python_wakes_once_a_batch(engine: str) -> None:
    """1,000 messages of which ten are a frame, sent by a thread: 100 frames in batches of 32."""
    if engine == "none":
        return
    loop = asyncio.get_running_loop()
    async with serving(engine, Batches, frames=LengthPrefixed(4, max_delay=60, max_batch=32)) as running:
        sock, made = await running.connect()
        # 28 more, so that the last of them fill a batch.
        frame = encoded(LengthPrefixed(4), b"x" * 96)
        counted = asyncio.Event()
        turns: list[int] = []
        sock.setblocking(True)

        def client() -> None:
            turns.append(stats_of(loop)["turns"])
            seen = running.hook.stats["cqes"]  # type: ignore[union-attr]
            for number in range(1000):
                sock.sendall(frame[number % 10 * 10 :][:10])
                # One message, one completion.
                while running.hook.stats["cqes"] == seen:  # type: ignore[union-attr]
                    pass
                seen = running.hook.stats["cqes"]  # type: ignore[union-attr]
            turns.append(stats_of(loop)["turns"])
            loop.call_soon_threadsafe(counted.set)

        thread = threading.Thread(target=client)
        thread.start()
        await counted.wait()
        thread.join()
        assert turns[1] - turns[0] <= 4
        await made.has(100)
        assert made.batches[:3] == [32, 32, 32]
        assert running.hook.stats["held"] >= 990  # type: ignore[union-attr]
        sock.close()


async def test_a_whole_frame_waits_no_longer_than_max_delay(engine: str) -> None:
    loop = asyncio.get_running_loop()
    for delay in (0, 0.02):
        async with serving(engine, Batches, frames=Delimited(b"\r\n", max_delay=delay)) as running:
            sock, made = await running.connect()
            begin = loop.time()
            for number in range(5):
                await loop.sock_sendall(sock, b"line\r\nha")
                # No timer of the loop's runs: the hook alone ends the wait.
                await made.has(number + 1)
                await loop.sock_sendall(sock, b"lf\r\n")
                await made.has(number + 2)
                made.frames.pop()
            assert loop.time() - begin < 60  # milliseconds that are taken for seconds would make 200 of it
            sock.close()


async def test_half_a_frame_is_held(engine: str) -> None:
    if engine == "none":
        return
    loop = asyncio.get_running_loop()
    async with serving(engine, Singles, frames=LengthPrefixed(2, max_delay=0.001)) as running:
        sock, made = await running.connect()
        sock.setblocking(True)
        message = encoded(LengthPrefixed(2), b"0123456789")

        def client() -> int:
            before = stats_of(loop)["turns"]
            for i in range(len(message) - 1):
                seen = running.hook.stats["held"]  # type: ignore[union-attr]
                sock.sendall(message[i : i + 1])
                while running.hook.stats["held"] == seen:  # type: ignore[union-attr]
                    pass
            return stats_of(loop)["turns"] - before

        assert await loop.run_in_executor(None, client) <= 1
        sock.sendall(message[-1:])
        assert await made.has(1) == [b"0123456789"]
        sock.close()


async def test_more_held_than_there_are_buffers(engine: str, rng: random.Random) -> None:
    """Frames of more pieces than there are buffers: Python wakes to give buffers back, and nothing is lost."""
    async with serving(engine, Singles, frames=LengthPrefixed(4, max_frame=5_000_000, max_delay=60, max_batch=1)) as running:
        sock, made = await running.connect()
        stream = b"".join(encoded(LengthPrefixed(4), rng.randbytes(5_000_000)) for _ in range(2))
        await send(sock, [stream], rng)
        assert b"".join(encoded(LengthPrefixed(4), frame) for frame in await made.has(2)) == stream
        assert await made.lost is None
        sock.close()


async def test_300_connections(engine: str, rng: random.Random) -> None:
    framing = Delimited(b"\n", max_delay=0.01)
    async with serving(engine, Batches, frames=framing) as running:
        ends = [await running.connect() for _ in range(some(engine, 300))]
        streams = [[encoded(framing, b"%d" % rng.randint(0, 10**9)) for _ in range(20)] for _ in ends]
        cuts = []
        for stream in streams:
            whole = b"".join(stream)
            cuts.append([whole[i : i + 7] for i in range(0, len(whole), 7)])
        await asyncio.gather(*(send(sock, pieces, rng) for (sock, _), pieces in zip(ends, cuts, strict=True)))
        for (sock, made), stream in zip(ends, streams, strict=True):
            assert await made.lost is None
            assert [frame + b"\n" for frame in made.frames] == stream
            sock.close()
    assert stats_of(asyncio.get_running_loop())["slots_in_use"] == 1


@pytest.mark.parametrize("engine", ["inline", "none"])
async def test_more_connections_than_watches(engine: str) -> None:
    loop = asyncio.get_running_loop()
    framing = LengthPrefixed(1, max_delay=0.001)
    async with serving(engine, Singles, frames=framing) as running:
        pairs = []
        for _ in range(1100):
            left, right = socket.socketpair()
            left.setblocking(False)
            right.setblocking(False)
            transport, made = await loop.create_connection(Singles, sock=right, frames=framing)  # type: ignore[call-overload]
            running.protocols.append(made)
            pairs.append((left, made))
        for round_number in range(1, 3):
            for left, _ in pairs:
                left.send(b"\x03ab")
            for left, _ in pairs:
                left.send(b"c")
            for _, made in pairs:
                assert await made.has(round_number) == [b"abc"] * round_number
        for left, _ in pairs:
            left.close()
        for _, made in pairs:
            assert await made.lost is None


class Pausing(Singles):
    """Pauses at every third frame."""

    def note(self, frames: list[bytes]) -> None:
        assert self.transport.is_reading()
        super().note(frames)
        if len(self.frames) % 3 == 0:
            self.transport.pause_reading()
            self.loop.call_soon(self.loop.call_soon, self.transport.resume_reading)


async def test_pausing_in_the_middle_of_a_batch(engine: str, rng: random.Random) -> None:
    for framing in (LengthPrefixed(1, max_delay=0.001), Delimited(b"--", max_delay=0, max_frame=100)):
        for end in (b"", b"\xffhalf"):
            async with serving(engine, Pausing, frames=framing) as running:
                sock, made = await running.connect()
                frames = [b"%d" % number for number in range(200)]
                stream = b"".join(encoded(framing, frame) for frame in frames) + end
                pieces = []
                while stream:
                    size = rng.randint(1, 60)
                    pieces.append(stream[:size])
                    stream = stream[size:]
                await send(sock, pieces, rng)
                error = await made.lost
                assert made.frames == frames
                assert made.eof == 1
                assert (error.partial if isinstance(error, IncompleteFrameError) else b"") == end
                sock.close()
        if isinstance(framing, Delimited):
            async with serving(engine, Pausing, frames=framing) as running:
                sock, made = await running.connect()
                await send(sock, [b"1--2--3--4--" + b"x" * 200], rng)
                assert isinstance(await made.lost, ValueError)
                assert made.frames == [b"1", b"2", b"3", b"4"]
                sock.close()


async def test_resets_and_ends_with_held_frames(engine: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine, Singles, frames=LengthPrefixed(1, max_delay=60)) as running:
        sock, made = await running.connect()
        await loop.sock_sendall(sock, b"\x02ab\x05abc")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        assert isinstance(await made.lost, ConnectionResetError)
        sock, made = await running.connect()
        await loop.sock_sendall(sock, b"\x02ab\x05abc")
        sock.close()  # the end wakes, and the frame that was held comes before it
        error = await made.lost
        assert isinstance(error, IncompleteFrameError)
        assert (error.partial, error.expected) == (b"\x05abc", 6)
        assert made.frames == [b"ab"]
        assert made.eof == 1


async def test_closing_and_aborting_with_held_frames(engine: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine, Singles, frames=LengthPrefixed(1, max_delay=60)) as running:
        for end in ("close", "abort"):
            sock, made = await running.connect()
            await loop.sock_sendall(sock, b"\x02ab\x05abc")
            getattr(made.transport, end)()
            assert await made.lost is None
            sock.close()
        buffers = stats_of(loop)
        assert buffers["buffers_free"] == buffers["buffers_total"]
    assert stats_of(loop)["slots_in_use"] == 1


class Closing(Singles):
    """Closes, or fails, at its second frame."""

    how = "close"

    def note(self, frames: list[bytes]) -> None:
        super().note(frames)
        if len(self.frames) == 2:
            if self.how == "close":
                self.transport.close()
            else:
                raise ZeroDivisionError


async def test_a_protocol_that_closes_or_fails_gets_no_more(engine: str) -> None:
    loop = asyncio.get_running_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    for how in ("close", "fail"):
        async with serving(engine, Closing, frames=Delimited(b";")) as running:
            sock, made = await running.connect()
            made.how = how
            await loop.sock_sendall(sock, b"1;2;3;4;5")
            error = await made.lost
            assert made.frames == [b"1", b"2"]
            assert isinstance(error, ZeroDivisionError) if how == "fail" else error is None
            sock.close()
    assert [type(exc) for exc in told] == [ZeroDivisionError]


async def test_detaching_and_attaching_with_frames_under_way(engine: str, rng: random.Random) -> None:
    if engine == "none":
        return
    loop = asyncio.get_running_loop()
    framing = LengthPrefixed(1, max_delay=0.0005, max_batch=5)
    async with serving(engine, Singles, frames=framing) as running:
        ends = [await running.connect() for _ in range(5)]
        sent: list[list[bytes]] = [[] for _ in ends]
        hook: Any = running.hook
        for round_number in range(some(engine, 12)):  # each attaches several times, which takes the verifier a second under emulation
            for (sock, _), frames in zip(ends, sent, strict=True):
                new = [b"%d" % rng.randint(0, 10**12) for _ in range(4)]
                rest = b"".join(encoded(framing, frame) for frame in new)
                frames += new
                while rest:
                    size = rng.randint(1, 9)
                    await loop.sock_sendall(sock, rest[:size])
                    rest = rest[size:]
                    if rng.random() < 0.2:
                        hook.detach()
                        if rng.random() < 0.5:
                            await asyncio.sleep(0)
                        if rng.random() < 0.3:
                            with Hook.load("wake", engine=engine):  # type: ignore[arg-type]
                                await asyncio.sleep(0)
                        hook = Hook.load("standard", engine=engine).attach()  # type: ignore[arg-type]
            for (_, made), frames in zip(ends, sent, strict=True):
                assert await made.has(len(frames)) == frames, round_number
        running.hook = hook
        held = hook.stats["held"]
        # What comes first after a hook was attached wakes, and from then on they are watched again, and held.
        for (sock, made), frames in zip(ends, sent, strict=True):
            await loop.sock_sendall(sock, b"\x01x")
            assert (await made.has(len(frames) + 1))[-1] == b"x"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for sock, _ in ends:
            await loop.sock_sendall(sock, b"\x02a")
        while hook.stats["held"] < held + len(ends):
            await asyncio.sleep(0)
        for (sock, made), frames in zip(ends, sent, strict=True):
            await loop.sock_sendall(sock, b"b")
            assert (await made.has(len(frames) + 2))[-1] == b"ab"
            sock.close()


def test_frames_go_on_in_another_thread(engine: str) -> None:
    loop = aiouring.new_event_loop()
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    framing = LengthPrefixed(1, max_delay=0.001)

    async def begin() -> Any:
        if engine != "none":
            Hook.load("standard", engine=engine).attach()  # type: ignore[arg-type]
        _, made = await loop.create_connection(Singles, sock=right, frames=framing)
        if engine == "none":
            _hook.engine_of(loop).detach()
        left.send(b"\x03abc\x03a")
        await made.has(1)
        return made

    async def go_on() -> None:
        left.send(b"b")
        await asyncio.sleep(0)
        left.send(b"c\x01x")
        assert await made.has(3) == [b"abc", b"abc", b"x"]
        left.close()
        assert await made.lost is None

    made = loop.run_until_complete(begin())
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(go_on())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    loop.close()
    if failures:
        raise failures[0]


def test_a_loop_closes_with_frames_held(engine: str) -> None:
    left, right = socket.socketpair()
    right.setblocking(False)
    loop = aiouring.new_event_loop()

    async def begin() -> Any:
        if engine != "none":
            Hook.load("standard", engine=engine).attach()  # type: ignore[arg-type]
        transport, _ = await loop.create_connection(Singles, sock=right, frames=LengthPrefixed(1, max_delay=60))
        await asyncio.sleep(0)
        left.send(b"\x02ab\x05a")
        return transport

    transport = loop.run_until_complete(begin())
    loop.close()
    left.close()
    right.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport
        gc.collect()


def test_a_fork_in_a_callback() -> None:
    check_fork('frames=Delimited(b"\\r\\n\\r\\n")', more=False)


async def test_a_program_that_knows_no_frames(tmp_path: Path, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    with Hook.load(build_program(tmp_path, "    return AIOURING_WAKE;", engine="inline"), engine="inline"):
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        _, made = await loop.create_connection(Singles, sock=right, frames=LengthPrefixed(4))  # type: ignore[call-overload]
        stream = b"".join(encoded(LengthPrefixed(4), rng.randbytes(size)) for size in (0, 1, 5000, 100_000))
        await send(left, [stream], rng)
        assert [len(frame) for frame in await made.has(4)] == [0, 1, 5000, 100_000]
        assert await made.lost is None
        left.close()


async def test_unix_servers_and_small_regions(engine: str, tmp_path: Path) -> None:
    if engine == "none":
        return
    loop: Any = asyncio.get_running_loop()
    made: list[Singles] = []

    def factory() -> Singles:
        made.append(Singles())
        return made[-1]

    with Hook.load("standard", engine=engine, memory_bytes=2 * 1024 * 1024) as hook:  # type: ignore[arg-type]
        assert len(hook.memory) < 1024 * 1024
        server = await loop.create_unix_server(factory, tmp_path / "socket", frames=Delimited(b"|"))
        _, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        writer.write(b"one|two|thr")
        writer.write_eof()
        while not made:
            await asyncio.sleep(0)
        error = await made[0].lost
        assert isinstance(error, IncompleteFrameError)
        assert error.partial == b"thr"
        assert made[0].frames == [b"one", b"two"]
        writer.close()
        server.close()


async def test_what_cannot_be_framed_says_why() -> None:
    loop: Any = asyncio.get_running_loop()
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        LengthPrefixed(3)
    with pytest.raises(ValueError, match="'big' or 'little'"):
        LengthPrefixed(4, "middle")  # type: ignore[arg-type]
    for delimiter in (b"", b"123456789"):
        with pytest.raises(ValueError, match="1 to 8 bytes"):
            Delimited(delimiter)
    with pytest.raises(TypeError, match="bytes object"):
        Delimited("\n")  # type: ignore[arg-type]
    for wrong in ({"max_frame": 0}, {"max_delay": -1}, {"max_batch": 0}, {"max_delay": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Delimited(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="LengthPrefixed"):
        await loop.create_server(Singles, "127.0.0.1", 0, frames=4)
    with pytest.raises(ValueError, match="without TLS"):
        await loop.create_server(Singles, "127.0.0.1", 0, frames=Delimited(), ssl=True)
    left, right = socket.socketpair()
    with left, right:
        right.setblocking(False)
        with pytest.raises(TypeError, match="frames_received"):
            await loop.create_connection(asyncio.BufferedProtocol, sock=right, frames=Delimited())
    left, right = socket.socketpair()
    with left:
        right.setblocking(False)
        transport, _ = await loop.create_connection(Singles, sock=right, frames=Delimited())
        with pytest.raises(RuntimeError, match="taken over"):
            await aiouring.relay(transport, left)
        transport.abort()
    _hook.engine_of(loop).detach()
