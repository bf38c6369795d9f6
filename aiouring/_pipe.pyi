"""What Python sees of pipe transports: asyncio's transport classes."""

import asyncio
from typing import Any

class ReadPipeTransport(asyncio.ReadTransport):
    max_size: int
    def __init__(self, loop: Any, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None) -> None: ...
    def get_protocol(self) -> asyncio.BaseProtocol: ...

class WritePipeTransport(asyncio.WriteTransport):
    def __init__(self, loop: Any, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None) -> None: ...
    def get_protocol(self) -> asyncio.BaseProtocol: ...

class PipeMixin:
    def _make_read_pipe_transport(
        self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> ReadPipeTransport: ...
    def _make_write_pipe_transport(
        self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> WritePipeTransport: ...
