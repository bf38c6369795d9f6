"""What network.py calls to connect to an IP address."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiouring._loop import LoopCore

def connect_to_literal(
    loop: LoopCore, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
) -> Coroutine[Any, Any, tuple[Any, asyncio.BaseProtocol]] | None: ...
