"""A relay between the load and a server behind it, one code for every loop but ours: `relay.py LOOP PORT TARGET_PORT`.

On aiouring it accepts and connects as anybody would and hands both sockets to aiouring.relay(); on other loops it is what their users write: two
protocols that write what the other one received, and pause it when their own write buffer is full.
Started by benchmarks/programs.py, which sees by a connection that it listens.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from typing import Any

from loops import be_a_process_under_test, make_loop

BACKLOG = 4096


class Side(asyncio.Protocol):
    """One side of a relayed connection."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other
        self.transport: Any = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.other is None:
            asyncio.ensure_future(self.connect())
        else:
            self.other.other = self

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, side = await loop.create_connection(lambda: Side(self), "127.0.0.1", int(sys.argv[3]))
        for data in self.early:
            side.transport.write(data)
        self.early.clear()

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def relay_in_hook(relay: Any, client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with client, socket.socket() as behind:
        behind.setblocking(False)
        for sock in (client, behind):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(behind, ("127.0.0.1", int(sys.argv[3])))
        try:
            await relay(client, behind)
        except OSError:
            pass  # the load has had enough


async def accept(relay: Any, port: int) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listener.setblocking(False)
    tasks = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        task = loop.create_task(relay_in_hook(relay, client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def main(name: str, port: int) -> None:
    package = importlib.import_module(name.partition("?")[0])
    if hasattr(package, "relay"):
        await accept(package.relay, port)
    server = await asyncio.get_running_loop().create_server(Side, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    be_a_process_under_test()
    loop = make_loop(sys.argv[1])
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main(sys.argv[1], int(sys.argv[2])))
