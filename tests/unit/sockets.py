"""What the tests of sock_* share."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

Pair = tuple[socket.socket, socket.socket]


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
