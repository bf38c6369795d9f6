"""loop.sendfile(): a file through a transport. Once per file; what runs per block is native (`_sendfile`) or asyncio's transports'.

SendfileMixin is one of Loop's bases. BaseEventLoop.sendfile() checks its arguments and calls the two methods here: the native way first,
which reads and sends on the ring, and the fall-back where that is not to be had: through TLS, and for files that are no regular file with a
descriptor. Calls `_sock` and the transports.

asyncio's own fall-back insists on transports of a class whose slots would cost every connection 32 bytes; hence this one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiouring._stream import StreamTransport

FALLBACK_BLOCK_BYTES = 16384  # asyncio's


class SendingProtocol(asyncio.Protocol):
    """Stands in for a transport's protocol while a file goes through it, and waits where the write buffer is full."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self.loop = loop
        self.transport = transport
        self.replaced = transport.get_protocol()
        self.was_reading = transport.is_reading()
        self.was_paused = transport._protocol_paused
        self.lost = False
        self.room: asyncio.Future[None] | None = loop.create_future() if self.was_paused else None
        transport.pause_reading()
        transport.set_protocol(self)

    async def wait_for_room(self) -> None:
        if self.transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self.room is not None:
            await self.room

    def restore(self) -> None:
        if self.room is not None and not self.room.cancel() and not self.room.cancelled():
            self.room.exception()  # nobody waits for it any more, and nobody shall miss it
        if self.lost:
            return  # the transport has let its protocol go
        self.transport.set_protocol(self.replaced)
        if self.was_reading:
            self.transport.resume_reading()
        if self.was_paused:
            self.replaced.resume_writing()

    def pause_writing(self) -> None:
        if self.room is None:
            self.room = self.loop.create_future()

    def resume_writing(self) -> None:
        room, self.room = self.room, None
        if room is not None and not room.done():
            room.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.room is not None and not self.room.done():
            self.room.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self.replaced.connection_lost(exc)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("Invalid state: reading should be paused")


class SendfileMixin:
    """What BaseEventLoop.sendfile() calls."""

    async def _sendfile_native(self: Any, transp: Any, file: Any, offset: int, count: int | None) -> int:
        """Send a file through a transport's socket. What was written before goes out first."""
        empty = transp._make_empty_waiter()  # raises while another file goes through, and then nothing may have changed
        resume_reading = transp.is_reading()
        try:
            transp._lend_socket()  # to sock_sendfile()
            transp.pause_reading()
            await empty
            sent: int = await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
            return sent
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()
            transp._take_socket_back()

    async def _sendfile_fallback(self: Any, transp: Any, file: Any, offset: int, count: int | None) -> int:
        """Read the file block by block in the executor, write what was read, and wait while the write buffer is full."""
        if offset:
            file.seek(offset)
        if isinstance(transp, StreamTransport) and transp._protocol_paused:
            # It tells the protocol that it paused, and no other, when there is room again: let it, before another takes its place.
            empty = transp._make_empty_waiter()
            try:
                await empty
            finally:
                transp._reset_empty_waiter()
        buffer = bytearray(min(count, FALLBACK_BLOCK_BYTES) if count else FALLBACK_BLOCK_BYTES)
        total = 0
        protocol = SendingProtocol(self, transp)
        try:
            while True:
                wanted = min(count - total, len(buffer)) if count else len(buffer)
                if wanted <= 0:
                    return total
                block = memoryview(buffer)[:wanted]
                length = await self.run_in_executor(None, file.readinto, block)
                if not length:
                    return total
                await protocol.wait_for_room()
                transp.write(block[:length])
                total += length
        finally:
            try:
                if total > 0 and hasattr(file, "seek"):
                    file.seek(offset + total)
            finally:
                protocol.restore()
