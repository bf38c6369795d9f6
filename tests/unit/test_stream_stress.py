"""Random traffic over many connections at once: sizes, pauses, replaced protocols and half-closes, in both ways of receiving.

The seed of the run decides all of it (see tests/conftest.py). What is checked: every byte arrives, in order, once; every connection ends; and
the ring has nothing left of them.
"""

from __future__ import annotations

import asyncio
import functools
import random
import socket
from typing import Any

import pytest

CONNECTIONS = 12  # more than may wait for large data with memory of their own
BYTES_EACH_WAY = 16 << 20
LARGEST_MESSAGE = 1 << 20
PATTERN = bytes(value * 7 & 0xFF for value in range(251))  # a prime length, so that a gap of any power of two shows


class Stream:
    """One direction of a connection, as a sequence of bytes that its receiver can check."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.whole = (PATTERN * (LARGEST_MESSAGE // len(PATTERN) + 2))[: LARGEST_MESSAGE + len(PATTERN)]

    def next_message(self, size: int) -> bytes:
        begin = self.sent % len(PATTERN)
        self.sent += size
        return self.whole[begin : begin + size]

    def check(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            piece, view = view[:LARGEST_MESSAGE], view[LARGEST_MESSAGE:]
            begin = self.received % len(PATTERN)
            right = piece == memoryview(self.whole)[begin : begin + len(piece)]
            assert right, f"wrong bytes between {self.received} and {self.received + len(piece)}"
            self.received += len(piece)


class Side:
    """One end of a connection. The protocols below tell it what they got; it pauses, resumes and replaces them at random."""

    transport: Any

    def __init__(self, rng: random.Random, incoming: Stream, outgoing: Stream) -> None:
        self.rng = rng
        self.incoming, self.outgoing = incoming, outgoing
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self.at_end: asyncio.Future[None] = self.loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.reader: asyncio.StreamReader | None = None
        self.paused = False
        self.switches = 0

    def got(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.paused
        self.incoming.check(data)
        chance = self.rng.random()
        if chance < 0.05:
            self.pause()
        elif chance < 0.10:
            self.replace_protocol()

    def pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()
        choice = self.rng.randrange(3)
        if choice == 0:
            self.resume()
        elif choice == 1:
            self.loop.call_soon(self.resume)
        else:
            self.loop.call_later(self.rng.random() * 0.003, self.resume)

    def resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def replace_protocol(self) -> None:
        self.switches += 1
        self.reader = None
        kind = self.rng.randrange(4)
        if kind == 0:
            self.transport.set_protocol(Plain(self))
        elif kind == 1:
            self.transport.set_protocol(Buffered(self))
        else:
            reader = asyncio.StreamReader(limit=self.rng.choice([100, 5000, 1 << 16, 1 << 20]))
            # Its own class is fed without a call, a class of ours is called.
            protocol = (asyncio.StreamReaderProtocol if kind == 2 else OwnReaderProtocol)(reader)
            protocol.pause_writing = self.writable.clear  # type: ignore[method-assign]
            protocol.resume_writing = self.writable.set  # type: ignore[method-assign]
            protocol.eof_received = self.reader_at_end(reader)  # type: ignore[method-assign]
            protocol.connection_lost = self.reader_lost(reader)  # type: ignore[method-assign]
            reader.set_transport(self.transport)
            self.transport.set_protocol(protocol)
            self.reader = reader
            self.loop.create_task(self.read(reader))

    def reader_at_end(self, reader: asyncio.StreamReader) -> Any:
        def eof_received() -> bool:
            reader.feed_eof()
            return True

        return eof_received

    def reader_lost(self, reader: asyncio.StreamReader) -> Any:
        def connection_lost(exc: BaseException | None) -> None:
            assert exc is None
            self.lost.set_result(None)

        return connection_lost

    async def read(self, reader: asyncio.StreamReader) -> None:
        for _ in range(self.rng.randrange(1, 30)):
            data = await reader.read(self.rng.randrange(1, 1 << 18))
            if not data:
                self.at_end.set_result(None)
                return
            self.incoming.check(data)
            if self.rng.random() < 0.2:
                await asyncio.sleep(self.rng.random() * 0.002)
        # Let go of the reader: stop the transport, take what is in it, go on with another protocol.
        ended = reader.at_eof() or reader._eof  # type: ignore[attr-defined]
        self.incoming.check(bytes(reader._buffer))  # type: ignore[attr-defined]
        reader._buffer.clear()  # type: ignore[attr-defined]
        if ended:
            self.at_end.set_result(None)
            return
        was_paused = reader._paused  # type: ignore[attr-defined]
        self.replace_protocol()
        if was_paused:
            self.transport.resume_reading()

    async def send(self) -> None:
        rng = self.rng
        while self.outgoing.sent < BYTES_EACH_WAY:
            largest = rng.choice([10, 1000, 20_000, 300_000, LARGEST_MESSAGE])
            size = min(rng.randrange(1, largest + 1), BYTES_EACH_WAY - self.outgoing.sent)
            message = self.outgoing.next_message(size)
            if rng.random() < 0.2:
                self.transport.writelines([message[:1], bytearray(message[1 : size // 2 + 1]), message[size // 2 + 1 :]])
            else:
                self.transport.write(message)
            await self.writable.wait()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        self.transport.write_eof()


class Own:
    """What the protocols of this file share."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def connection_made(self, transport: Any) -> None:
        self.side.transport = transport

    def eof_received(self) -> bool:
        self.side.at_end.set_result(None)
        return True

    def pause_writing(self) -> None:
        self.side.writable.clear()

    def resume_writing(self) -> None:
        self.side.writable.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        assert exc is None
        self.side.lost.set_result(None)


class Plain(Own, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.side.got(data)


class Buffered(Own, asyncio.BufferedProtocol):
    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.buffer = bytearray(side.rng.choice([1000, 30_000, 400_000]))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.side.got(memoryview(self.buffer)[:nbytes])


class OwnReaderProtocol(asyncio.StreamReaderProtocol):
    pass


def socket_pair(kind: str, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    if kind == "unix":
        return socket.socketpair()
    left = socket.create_connection(listener.getsockname())
    return left, listener.accept()[0]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_all_bytes_arrive_in_order_whatever_the_programs_do(
    loop: asyncio.AbstractEventLoop, rng: random.Random, kind: str
) -> None:
    async def main() -> None:
        sides = []
        before = loop.ring_stats()  # type: ignore[attr-defined]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(CONNECTIONS):
                there, back = Stream(), Stream()
                socks = socket_pair(kind, listener)
                for sock, streams in zip(socks, ((there, back), (back, there)), strict=True):
                    side = Side(random.Random(rng.random()), *streams)
                    factory: Any = functools.partial(side.rng.choice([Plain, Buffered]), side)
                    await loop.create_connection(factory, sock=sock)
                    sides.append(side)
        async with asyncio.TaskGroup() as senders:
            for side in sides:
                senders.create_task(side.send())
        for side in sides:
            await side.at_end
        assert {side.incoming.received for side in sides} == {BYTES_EACH_WAY}
        assert sum(side.switches for side in sides) > CONNECTIONS
        for side in sides:
            side.transport.close()
        for side in sides:
            await side.lost
        after = loop.ring_stats()  # type: ignore[attr-defined]
        assert after["slots_in_use"] == before["slots_in_use"]
        assert after["buffers_free"] == after["buffers_total"]
        assert after["stale_cqes"] == 0

    loop.run_until_complete(asyncio.wait_for(main(), 110))
