"""What the tests of sock_* share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

Pair = tuple[socket.socket, socket.socket]


def own_host() -> str:
    """A loopback address of this process alone, for tests that bind a port again: one of 127.0.0.1's is given to anybody as soon as it is free. Nor
    does a connection to a free one meet itself here, since it comes from 127.0.0.1."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"


@contextlib.contextmanager
def deaf_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port on which nobody listens, held meanwhile: a free one may be given to others, or to the very connection that goes there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[1]


async def started(coroutine: Any) -> asyncio.Task[Any]:
    """A task that waits in its call, whose request the kernel has."""
    task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def receive_exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        assert piece
        data += piece
    return bytes(data)
