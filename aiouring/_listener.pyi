"""What Python sees of a listening socket: network.py makes one for each socket of a server."""

import socket
from asyncio import AbstractEventLoop, BaseProtocol
from collections.abc import Callable

from aiouring._respond import Answers
from aiouring.framing import Framing

class Listener:
    @property
    def sock(self) -> socket.socket: ...
    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        protocol_factory: Callable[[], BaseProtocol] | None,
        server: object = None,
        accepted: Callable[[Listener, int], object] | None = None,
        receiving: Framing | Answers | None = None,
    ) -> None: ...
    def resume(self) -> None: ...
    def stop(self) -> None: ...
