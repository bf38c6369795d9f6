"""What Python sees of pipe transports: asyncio's transport classes."""

import asyncio
from typing import Any

from aiouring._transport import ReadableShell, TransportCore, TransportShell, WritableShell

class PipeCore(TransportCore): ...
class ReadPipeCore(PipeCore): ...
class WritePipeCore(PipeCore): ...

class PipeShell(TransportShell):
    @property
    def _pipe(self) -> Any: ...
    @_pipe.setter
    def _pipe(self, pipe: Any) -> None: ...

class ReadPipeTransport(PipeShell, ReadableShell, asyncio.ReadTransport):
    max_size: int
    def __init__(self, loop: Any, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None) -> None: ...

class WritePipeTransport(PipeShell, WritableShell, asyncio.WriteTransport):
    def __init__(self, loop: Any, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None) -> None: ...

class PipeMixin:
    def _make_read_pipe_transport(
        self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> ReadPipeTransport: ...
    def _make_write_pipe_transport(
        self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> WritePipeTransport: ...
