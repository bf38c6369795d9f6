"""What Python sees of the datagram transports."""

import asyncio
import socket
from typing import Any

from aiouring._loop import LoopCore
from aiouring._transport import SocketShell, TransportCore

class DatagramCore(TransportCore): ...

class DatagramTransport(SocketShell, asyncio.Transport, asyncio.DatagramTransport):
    def __init__(
        self,
        loop: LoopCore,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...

class DatagramMixin:
    # asyncio's arguments, and reuse_address
    async def create_datagram_endpoint(self, *args: Any, **arguments: Any) -> Any: ...
    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport: ...
