"""What the tests of datagram endpoints share: protocols that keep what they are told, and ways to make and to end endpoints."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LOCAL = ("127.0.0.1", 0)
SENDS_EMPTY = sys.version_info >= (3, 13)
HEADER_BYTES = 8 if sys.version_info >= (3, 13) else 0


class Recorder(asyncio.DatagramProtocol):
    """Keeps what it is told, and lets a test wait until enough has come."""

    transport: Any

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.calls: list[str] = []
        self.lost: list[Exception | None] = []
        self.changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((data, addr))
        self.note("received")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.note("error")

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self.note("lost")

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self.changed.clear()
            await self.changed.wait()

    async def received(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.datagrams) >= count)
        return [data for data, _ in self.datagrams]


class Echo(Recorder):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def endpoint(factory: Callable[[], Any] = Recorder, **options: Any) -> tuple[Any, Any]:
    return await asyncio.get_running_loop().create_datagram_endpoint(factory, **options)


async def connected(address: Any, factory: Callable[[], Any] = Recorder, family: int = socket.AF_INET) -> tuple[Any, Any]:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect(address)
    return await endpoint(factory, sock=sock)


async def ended(protocol: Any) -> None:
    """Wait for connection_lost."""
    await protocol.until(lambda: bool(protocol.lost))


async def closed(*protocols: Any) -> None:
    """Close the transports and wait for connection_lost."""
    for protocol in protocols:
        protocol.transport.close()
    for protocol in protocols:
        await ended(protocol)


def name_of(transport: Any) -> Any:
    return transport.get_extra_info("sockname")


def stats() -> dict[str, int]:
    return asyncio.get_running_loop().ring_stats()  # type: ignore[attr-defined]


@contextmanager
def reports() -> Iterator[list[dict[str, Any]]]:
    """What goes to the running loop's exception handler."""
    loop, collected = asyncio.get_running_loop(), []  # type: ignore[var-annotated]
    loop.set_exception_handler(lambda loop, context: collected.append(context))
    try:
        yield collected
    finally:
        loop.set_exception_handler(None)
