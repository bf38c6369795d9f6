"""What Python sees of a stream connection: the transport, with asyncio's interface. Its native core is made and held by the transport."""

import asyncio
import socket
from contextvars import Context
from typing import Any, final

from aiouring._respond import Answers
from aiouring._transport import SocketShell, TransportCore
from aiouring.framing import Framing

@final
class StreamCore(TransportCore): ...

class StreamTransport(SocketShell, asyncio.Transport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: object = None,
        context: Context | None = None,
        receiving: Framing | Answers | None = None,
    ) -> None: ...
    def resume_answers(self) -> None: ...
    def _force_close(self, exc: BaseException | None) -> None: ...
    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None: ...
    def _make_empty_waiter(self) -> asyncio.Future[None]: ...
    def _reset_empty_waiter(self) -> None: ...
    def _lend_socket(self) -> None: ...
    def _take_socket_back(self) -> None: ...
