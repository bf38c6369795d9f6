"""What the tests of pipe transports share: protocols that keep what they are told, and ways to open transports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Pipe = tuple[IO[bytes], IO[bytes]]


class Reader(asyncio.Protocol):
    """Keeps what comes, and futures for what a test waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.data = bytearray()
        self.events: list[str] = []
        self.sizes: list[int] = []
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.wanted: list[tuple[int, asyncio.Future[None]]] = []
        self.on_data: Callable[[bytes], None] = lambda data: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.data += data
        self.sizes.append(len(data))
        for size, future in self.wanted:
            if len(self.data) >= size and not future.done():
                future.set_result(None)
        self.on_data(data)

    async def received(self, size: int) -> None:
        if len(self.data) < size:
            future = self.loop.create_future()
            self.wanted.append((size, future))
            await future

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class Writer(asyncio.BaseProtocol):
    transport: asyncio.WriteTransport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.resumed: asyncio.Future[None] = loop.create_future()
        self.paused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        if not self.resumed.done():
            self.resumed.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def end_of(file: int | str | Path, mode: str) -> IO[bytes]:
    """An unbuffered file object that a transport shall close."""
    return open(file, mode, 0)


async def open_reader(pipe: Any) -> tuple[asyncio.ReadTransport, Reader]:
    loop = asyncio.get_running_loop()
    return await loop.connect_read_pipe(lambda: Reader(loop), pipe)


async def open_writer(pipe: Any) -> tuple[asyncio.WriteTransport, Writer]:
    loop = asyncio.get_running_loop()
    return await loop.connect_write_pipe(lambda: Writer(loop), pipe)
