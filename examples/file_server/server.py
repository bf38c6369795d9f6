"""The server: its sockets, its connections and their time-outs, and its end.

Used by `__main__` and `demo`. Calls `connection`, `folder`, `access_log`.

Who owns what: the server owns the root's descriptor, the log and all connections; `close` ends them in this order: no new connections,
the running answers (for a bounded time), the log, the root.
"""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

from .access_log import AccessLog
from .clock import Clock
from .connection import Connection, monotonic
from .files import Files
from .folder import Folder
from .settings import Settings
from .stats import Counters
from .trouble import Trouble

BACKLOG = 4096
#: Descriptors that are neither a connection's nor its file's: the ring, listening sockets, the log, a folder that is being listed.
SPARE_DESCRIPTORS = 64


def raise_descriptor_limit() -> int:
    """As many descriptors as the system allows us; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


class Server:
    """`log`: a path, or None for standard error; without `logged` there is none."""

    def __init__(self, settings: Settings, *, logged: bool = False, log: Path | None = None) -> None:
        self.settings = settings
        self.trouble = Trouble()
        self.clock = Clock()
        self.log = AccessLog(log, self.trouble) if logged else None
        self.files = Files(settings.root)
        self.folder = Folder(settings, self.files, self.trouble)
        self.counters = Counters(self.folder.cache)
        self.connections: set[Connection] = set()
        self.stopping = False
        self._connections_max = settings.connections_max or max(1, (raise_descriptor_limit() - SPARE_DESCRIPTORS) // 2)
        self._listeners: list[asyncio.Server] = []
        self._check: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._unix_socket: tuple[str, int, int] | None = None  # its path, device and inode

    # -- the sockets

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Serve on a TCP address; returns what it is. Raises OSError."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG)
        self._listeners.append(listener)
        name = listener.sockets[0].getsockname()
        return name[0], name[1]

    async def listen_unix(self, path: str) -> None:
        """Serve on a unix socket. A socket that is left over at the path is replaced."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(lambda: Connection(self), path, backlog=BACKLOG))
        status = os.stat(path)
        self._unix_socket = path, status.st_dev, status.st_ino

    # -- called by connections

    def opened(self, connection: Connection) -> bool:
        """False: it is one too many, and to be sent away."""
        self.connections.add(connection)
        self.counters.connections += 1
        self.counters.connections_open += 1
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(self._check_interval_s(), self._check_all)
        return len(self.connections) <= self._connections_max

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.counters.connections_open -= 1
        if not self.connections:
            self._all_gone.set()

    def flush_log(self) -> None:
        if self.log is not None:
            self.log.flush()

    # -- time

    def _check_interval_s(self) -> float:
        """One timer for all connections: a time-out is met with this much of delay, and a request costs no timer."""
        settings = self.settings
        return min(1.0, settings.header_timeout_s / 4, settings.idle_timeout_s / 4, settings.write_timeout_s / 4)

    def _check_all(self) -> None:
        """Runs as long as there are connections: a server without any sleeps."""
        self._check = None
        self.flush_log()
        now_s = monotonic()
        for connection in list(self.connections):
            connection.check(now_s)
        if self.connections:
            self._check = asyncio.get_running_loop().call_later(self._check_interval_s(), self._check_all)

    # -- the end

    async def reopen_log(self) -> None:
        if self.log is not None:
            await self.log.reopen()

    async def close(self) -> None:
        """No more connections; what is being answered is answered to its end, or to that of the time for it."""
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        self._remove_unix_socket()
        for connection in list(self.connections):
            connection.stop()
        await self._wait_until_all_are_gone(self.settings.grace_s)
        for connection in list(self.connections):
            connection.abort()
        await self._wait_until_all_are_gone(1.0)
        if self._check is not None:
            self._check.cancel()
        if self.log is not None:
            await self.log.close(patience_s=2.0)
        self.files.close()

    def _remove_unix_socket(self) -> None:
        if self._unix_socket is None:
            return
        path, device, inode = self._unix_socket
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == (device, inode):  # else it is another server's by now
                os.unlink(path)
        except OSError:
            pass  # somebody has removed it, or its folder

    async def _wait_until_all_are_gone(self, patience_s: float) -> None:
        self._all_gone.clear()
        if self.connections:
            try:
                async with asyncio.timeout(patience_s):
                    await self._all_gone.wait()
            except TimeoutError:
                pass
