"""What Python sees of the datagram transports."""

import asyncio
import socket
from typing import Any

from aiouring._loop import Flushable, LoopCore

class DatagramCore(Flushable): ...

class DatagramTransport(asyncio.Transport, asyncio.DatagramTransport):
    def __init__(
        self,
        loop: LoopCore,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_limits(self) -> tuple[int, int]: ...
    def get_write_buffer_size(self) -> int: ...

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
