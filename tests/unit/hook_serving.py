"""A server under an engine or without a hook, and its protocols in the order of their connections: for the tests of frames and of canned answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiouring import _hook
from aiouring.bpf import Hook


def stats_of(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    found: dict[str, int] = loop.ring_stats()  # type: ignore[attr-defined]
    return found


class Serving:
    def __init__(self, server: asyncio.Server, hook: Hook | None) -> None:
        self.server = server
        self.hook = hook
        self.protocols: list[Any] = []
        self.made = asyncio.Event()
        self.address = server.sockets[0].getsockname()

    async def connect(self, *, receive_buffer: int = 0) -> tuple[socket.socket, Any]:
        """A connection and the server's protocol of it."""
        count = len(self.protocols)
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(self.protocols) == count:
            self.made.clear()
            await self.made.wait()
        return sock, self.protocols[count]


@asynccontextmanager
async def serving(engine: str, protocol: type[Any], **options: Any) -> AsyncIterator[Serving]:
    """`engine` "none" stands for a loop without a hook; `options` are those of create_server(). A protocol has `transport` and the future `lost`."""
    loop: Any = asyncio.get_running_loop()
    hook = None if engine == "none" else Hook.load("standard", engine=engine).attach()  # type: ignore[arg-type]

    def factory() -> Any:
        made = protocol()
        found.protocols.append(made)
        found.made.set()
        return made

    server = await loop.create_server(factory, "127.0.0.1", 0, **options)
    if engine == "none":
        _hook.engine_of(loop).detach()
    found = Serving(server, hook)
    try:
        yield found
    finally:
        server.close()
        for made in found.protocols:
            made.transport.abort()
            await made.lost
        await asyncio.sleep(0)  # the server's accept ends
        if hook is not None and hook.attached:
            hook.detach()
        assert stats_of(loop)["stale_cqes"] == 0
