"""What Python sees of sending files: one coroutine function, which the loop's sock_sendfile() calls."""

import socket
from typing import IO, final

from aiouring._loop import LoopCore
from aiouring._sockop import SocketOperation

@final
class Sendfile(SocketOperation): ...

async def sendfile(loop: LoopCore, sock: socket.socket, file: IO[bytes], offset: int, count: int | None) -> int: ...
