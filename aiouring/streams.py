"""Streams: asyncio's functions and classes for them, on a native reader and writer.

Used by user code; `aiouring` exports what is public. Calls `_reader` and `_writer`, which do what runs per message; here is what runs once per
connection. The classes inherit from asyncio's, so that isinstance() and annotations hold, and what is not overridden is the running Python's.

The functions work on any asyncio loop. On another one than aiouring's (a fall-back) they are no faster than asyncio's.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from asyncio import coroutines
from asyncio.log import logger
from collections.abc import Awaitable, Callable
from typing import Any

from aiouring._reader import ProtocolCore, ReaderCore
from aiouring._writer import WriterCore

__all__ = ["StreamReader", "StreamWriter", "open_connection", "open_unix_connection", "start_server", "start_unix_server"]

DEFAULT_LIMIT = 2**16
# Since then a writer that nobody holds is closed, with a warning, while its connection is open. Before, the protocol held it.
PROTOCOL_HOLDS_WRITER = hasattr(asyncio.StreamReaderProtocol, "_replace_writer")

ClientConnected = Callable[["StreamReader", "StreamWriter"], Awaitable[None] | None]


class StreamReader(ReaderCore, asyncio.StreamReader):
    """asyncio.StreamReader with a native buffer: same interface, same errors, no coroutine per call.

    What the read methods return is awaited once, as a coroutine. They may be cancelled at any time: nothing is lost.
    """


class StreamWriter(WriterCore, asyncio.StreamWriter):
    """asyncio.StreamWriter that writes to the native transport directly: same interface, same errors."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        reader: asyncio.StreamReader | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # Not asyncio's, which makes a future for each connection that nothing uses.
        assert reader is None or isinstance(reader, asyncio.StreamReader)
        self._transport = transport
        self._protocol = protocol
        self._reader = reader
        self._loop = loop


class StreamProtocol(ProtocolCore, asyncio.Protocol):
    """What asyncio.StreamReaderProtocol is: between a transport and a reader.

    Not derived from it, for its waiters' queue and future take half a kilobyte of each idle connection; here they are made when they are
    needed.
    """

    def __init__(
        self, stream_reader: StreamReader, client_connected_cb: ClientConnected | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._loop = loop
        self._stream_reader_wr = weakref.ref(stream_reader)
        # Until the connection is made nobody else holds a server's reader.
        self._strong_reader = stream_reader if client_connected_cb is not None else None
        self._client_connected_cb = client_connected_cb
        self._stream_writer: StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._over_ssl = False
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._close_waiter: asyncio.Future[None] | None = None
        self._lost_with: BaseException | None = None

    @property
    def _stream_reader(self) -> StreamReader | None:
        return None if self._stream_reader_wr is None else self._stream_reader_wr()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        reader = self._stream_reader
        if reader is not None:
            reader.set_transport(transport)
        self._over_ssl = transport.get_extra_info("sslcontext") is not None
        if self._client_connected_cb is None:
            return
        assert reader is not None
        writer = StreamWriter(transport, self, reader, self._loop)
        if PROTOCOL_HOLDS_WRITER:
            self._stream_writer = writer
        answer: Any = self._client_connected_cb(reader, writer)
        if coroutines.iscoroutine(answer):
            self._task = self._loop.create_task(answer)
            self._task.add_done_callback(HandlerDone(self._loop, transport))
        self._strong_reader = None

    def connection_lost(self, exc: BaseException | None) -> None:
        reader = self._stream_reader
        if reader is not None:
            if exc is None:
                reader.feed_eof()
            else:
                reader.set_exception(exc)
        self._connection_lost = True
        self._lost_with = exc
        if self._close_waiter is not None and not self._close_waiter.done():
            settle(self._close_waiter, exc)
        if self._paused:
            for waiter in self._drain_waiters:
                if not waiter.done():
                    settle(waiter, exc)
        self._stream_reader_wr = None
        self._stream_writer = self._task = self._transport = None

    def eof_received(self) -> bool:
        reader = self._stream_reader
        if reader is not None:
            reader.feed_eof()
        # True, which keeps the writing half open, has no meaning under TLS, and asyncio's transport warns of it.
        return not self._over_ssl

    def pause_writing(self) -> None:
        assert not self._paused
        self._paused = True
        if self._loop.get_debug():
            logger.debug("%r pauses writing", self)

    def resume_writing(self) -> None:
        assert self._paused
        self._paused = False
        if self._loop.get_debug():
            logger.debug("%r resumes writing", self)
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)

    # What asyncio.StreamWriter's code calls.

    async def _drain_helper(self) -> None:
        if self._connection_lost:
            raise ConnectionResetError("Connection lost")
        if not self._paused:
            return
        waiter = self._loop.create_future()
        self._drain_waiters.append(waiter)
        try:
            await waiter
        finally:
            self._drain_waiters.remove(waiter)

    def _get_close_waiter(self, stream: asyncio.StreamWriter) -> asyncio.Future[None]:
        if self._close_waiter is None:
            self._close_waiter = self._loop.create_future()
            if self._connection_lost:
                settle(self._close_waiter, self._lost_with)
        return self._close_waiter

    def _replace_transport(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._over_ssl = transport.get_extra_info("sslcontext") is not None
        reader = self._stream_reader
        if reader is not None:
            # asyncio's reader keeps the transport under TLS. start_tls() has resumed that one.
            reader._transport = transport
            reader._paused = False

    def _replace_writer(self, writer: asyncio.StreamWriter) -> None:
        """_replace_transport() as Python up to 3.12 calls it."""
        self._replace_transport(writer.transport)  # type: ignore[arg-type]  # a stream's is one for both directions


def settle(waiter: asyncio.Future[None], exc: BaseException | None) -> None:
    if exc is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(exc)
        waiter.exception()  # whoever waits gets it; that nobody does is no news


class HandlerDone:
    """After a server's handler: what it raised is reported and ends the connection, and so does its cancellation."""

    __slots__ = ("loop", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self.loop = loop
        self.transport = transport

    def __call__(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.transport.close()
            return
        exc = task.exception()
        if exc is not None:
            self.loop.call_exception_handler(
                {"message": "Unhandled exception in client_connected_cb", "exception": exc, "transport": self.transport}
            )
            self.transport.close()


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = DEFAULT_LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect with TCP; asyncio.open_connection() with the native reader and writer.

    `limit` in bytes is the longest line, and half of what is buffered before the transport pauses. Everything else goes to
    loop.create_connection(). Raises what that raises; cancelling it closes the connection.
    """
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    protocol = StreamProtocol(reader, None, loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)  # type: ignore[arg-type]  # either may be None, and the port a name
    return reader, StreamWriter(transport, protocol, reader, loop)


async def open_unix_connection(
    path: str | os.PathLike[str] | None = None, *, limit: int = DEFAULT_LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """open_connection() for unix sockets."""
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    protocol = StreamProtocol(reader, None, loop)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)  # type: ignore[arg-type]  # a PathLike as well
    return reader, StreamWriter(transport, protocol, reader, loop)


def _refuse_frames(kwds: dict[str, Any]) -> None:
    if kwds.get("frames") is not None:
        raise TypeError("frames= is for protocols, by loop.create_server(): a stream reader's data is not cut")


async def start_server(
    client_connected_cb: ClientConnected, host: Any = None, port: int | str | None = None, *, limit: int = DEFAULT_LIMIT, **kwds: Any
) -> asyncio.Server:
    """Serve TCP; asyncio.start_server() with the native reader and writer.

    `client_connected_cb(reader, writer)` is called for each connection. A coroutine that it returns becomes a task, which the connection
    holds; what it raises goes to the loop's exception handler, and the connection is closed. `limit` as in open_connection(). Everything
    else goes to loop.create_server(), whose Server is returned.
    """
    loop = asyncio.get_running_loop()
    _refuse_frames(kwds)

    def factory() -> StreamProtocol:
        return StreamProtocol(StreamReader(limit=limit, loop=loop), client_connected_cb, loop)

    return await loop.create_server(factory, host, port, **kwds)  # type: ignore[arg-type]  # a port's name as well


async def start_unix_server(
    client_connected_cb: ClientConnected, path: str | os.PathLike[str] | None = None, *, limit: int = DEFAULT_LIMIT, **kwds: Any
) -> asyncio.Server:
    """start_server() for unix sockets."""
    loop = asyncio.get_running_loop()
    _refuse_frames(kwds)

    def factory() -> StreamProtocol:
        return StreamProtocol(StreamReader(limit=limit, loop=loop), client_connected_cb, loop)

    return await loop.create_unix_server(factory, path, **kwds)
