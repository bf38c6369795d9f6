"""Jobs that the loop hook does without waking Python: relay two connections, copy a file, send a file. Once per job.

Public as aiouring.relay, aiouring.copy, aiouring.send_file, and aiouring.bpf.echo and discard. Calls `bpf.hooks`, `_hook` and transports. Each
attaches the standard hook to the running loop if it has none; which engine runs it, `aiouring.bpf.Hook` explains.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
from typing import Any, NamedTuple, Protocol

from aiouring import _hook
from aiouring._stream import StreamTransport
from aiouring.bpf import hooks

IDLE_TIMEOUT_MAX = 1e9  # seconds; for ever, and its nanoseconds have room in 64 bits


class HasFileno(Protocol):
    """A file or a socket with a descriptor."""

    def fileno(self) -> int: ...


class RelayedBytes(NamedTuple):
    """What went through a relay, in bytes, each way."""

    a_to_b: int
    b_to_a: int


def _running_loop() -> Any:
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "ring_stats"):
        raise TypeError(f"this needs aiouring's event loop, not {type(loop).__name__}")
    return loop


class _Side:
    """One side of a relay: a descriptor of its own, and what its transport had received already."""

    def __init__(self, loop: Any, end: Any) -> None:
        self.transport: Any = None
        self.empty: asyncio.Future[None] | None = None
        self.received = b""
        self.fd = -1
        if isinstance(end, StreamTransport):
            if end.is_closing():
                raise RuntimeError(f"{end!r} is closing")
            transport: Any = end
            if transport._loop is not loop:
                raise ValueError(f"{end!r} belongs to another event loop")
            self.transport = transport
        elif isinstance(end, socket.socket):
            if end.type != socket.SOCK_STREAM:
                raise ValueError(f"relay() is for stream sockets, not for {end!r}")
            loop._ensure_fd_no_transport(end)
            self.fd = os.dup(end.fileno())
        else:
            raise TypeError(f"relay() takes sockets and the event loop's plain stream transports, not {type(end).__name__}")

    def claim(self) -> None:
        """Refuse further writes: they would come between what is passed on. Raises RuntimeError while a file goes through the transport."""
        if self.transport is not None:
            self.transport._check_take_over()
            self.empty = self.transport._make_empty_waiter()

    def disclaim(self) -> None:
        if self.empty is not None:
            self.empty = None
            self.transport._reset_empty_waiter()

    def stop_receiving(self) -> None:
        """From here on its protocol receives nothing, even if it resumes reading."""
        if self.transport is not None:
            self.transport._take_over()

    async def take_over(self) -> None:
        """Wait for the end of what the transport has in flight: what it wrote goes out, what it received is ours to pass on."""
        transport = self.transport
        if transport is None:
            return
        assert self.empty is not None
        await self.empty
        while (received := transport._take_received()) is None:
            await asyncio.sleep(0)  # the receive was cancelled, and its answer comes with the next completions
        for piece in received:
            if isinstance(piece, BaseException):
                raise piece
        if transport.is_closing():
            raise ConnectionAbortedError(f"{transport!r} was closed before the relay had it")
        self.received = b"".join(piece for piece in received if piece is not None)
        self.fd = os.dup(transport.get_extra_info("socket").fileno())

    def close_transport(self, *, abort: bool) -> None:
        if self.transport is not None:
            self.disclaim()
            if abort:
                self.transport.abort()
            else:
                self.transport.close()

    def close_descriptor(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


async def relay(a: Any, b: Any, *, idle_timeout: float | None = None) -> RelayedBytes:
    """Pass on what comes from each of two connections to the other until both have ended. Returns the bytes each way.

    a, b: stream sockets, or transports of aiouring's loop (not TLS; of a stream give `writer.transport`). What a transport has written goes out
    first, and what it has received and not yet handed over goes to the other side. What its protocol or StreamReader has been handed before is not
    passed on: write it to the other side first, or call pause_reading() in connection_made(); docs/hooks.md shows both. The end of one side's stream
    is passed on (shutdown), and the other direction goes on. Python is woken once, at the end. Transports are closed then; sockets stay the caller's.
    From the call on a transport's protocol receives nothing and must not write (RuntimeError). To end a relay, cancel it: it works on copies of the
    descriptors, and goes on when a side is closed under it.
    idle_timeout: seconds without a byte either way after which it ends with TimeoutError.

    Raises TypeError for what is no such side or no such loop; ValueError for a datagram socket, the same side twice and a bad idle_timeout;
    RuntimeError where a transport is closing, has another relay or a file going through it, or is a server's with frames= or respond=, and where the
    loop's hook has no tasks; OSError (EBUSY) where 1,024 tasks run. Raises the OSError that ended it, as ConnectionResetError. After an error, a
    time-out or a cancellation bytes may have been received that were not sent: transports are aborted then, and sockets should be closed. Kernel
    floor: Linux 6.1.
    """
    loop = _running_loop()
    if idle_timeout is not None and not idle_timeout > 0:
        raise ValueError(f"idle_timeout is a time in seconds, not {idle_timeout!r}")
    if a is b:
        raise ValueError("a relay has two different sides")
    sides: list[_Side] = []
    try:
        for end in (a, b):
            sides.append(_Side(loop, end))
        engine = hooks.standard_engine(loop)
        _hook.check_task(engine, "relay")
        for side in sides:
            side.claim()
    except BaseException:
        for side in sides:
            side.close_descriptor()
            side.disclaim()  # and nothing has happened to the transport
        raise
    try:
        for side in sides:
            side.stop_receiving()
        for side in sides:
            await side.take_over()
        first = [side.received for side in sides]
        idle_ns = 0 if idle_timeout is None else max(int(min(idle_timeout, IDLE_TIMEOUT_MAX) * 1e9), 1)
        task = _hook.socket_task(
            engine, "relay", [side.fd for side in sides], idle_ns=idle_ns, first=first,
            block_bytes=max(_hook.RELAY_BYTES_DEFAULT, *map(len, first)),
        )  # fmt: skip
        for side in sides:
            side.fd = -1  # the task's
        moved = await task
    except BaseException:
        for side in sides:
            side.close_descriptor()
            side.close_transport(abort=True)
        raise
    for side in sides:
        side.close_transport(abort=False)
    return RelayedBytes(*moved)


def _fd_of(file: int | HasFileno) -> int:
    return file if isinstance(file, int) else file.fileno()


async def copy(
    src_fd: int | HasFileno, dst_fd: int | HasFileno, count: int | None = None, *, depth: int = 4, src_offset: int = 0, dst_offset: int = 0
) -> int:
    """Copy bytes of one file to another, and wake once, at the end. Returns their number, which is less than `count` where the source ends before.

    src_fd, dst_fd: descriptors of regular files or block devices, or objects with fileno(); they stay the caller's, and their positions are not used.
    count: bytes; None: to the end of the source. depth: blocks of 256 KiB in flight, from 1 to 8.

    Raises ValueError for a bad count, depth or offset; OSError (ESPIPE) for what is no such file, (EBADF) where it is not open for what it shall do
    or is open for appending, (EAGAIN) with O_NONBLOCK; RuntimeError where the loop's hook has no tasks; OSError (EBUSY) where 1,024 run. Raises
    OSError (ENOSPC ...) for what happens on the way; what was copied before stays. A cancelled copy ends when the blocks in flight are done. For
    whole files, with their metadata, atomically and with progress: aiouring.fs.copyfile. Kernel floor: Linux 6.1.
    """
    loop = _running_loop()
    if not 1 <= depth <= 8:
        raise ValueError(f"depth is from 1 to 8 blocks, not {depth!r}")
    if count is not None and count < 0:
        raise ValueError(f"count is a number of bytes, not {count!r}")
    if src_offset < 0 or dst_offset < 0:
        raise ValueError("offsets begin at 0")
    src, dst = _fd_of(src_fd), _fd_of(dst_fd)
    for fd in (src, dst):
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise OSError(29, f"copy() is for files with positions, and descriptor {fd} is none; between sockets use relay()")
        if not os.get_blocking(fd):
            raise OSError(errno.EAGAIN, f"descriptor {fd} is open with O_NONBLOCK, which copy() cannot wait for: use os.set_blocking()")
    if fcntl.fcntl(dst, fcntl.F_GETFL) & os.O_APPEND:
        raise OSError(errno.EBADF, f"descriptor {dst} is open for appending: the blocks would land in the order in which they end")
    if count == 0:
        return 0
    engine = hooks.standard_engine(loop)
    moved: int = await _hook.copy_task(engine, src, dst, src_offset, dst_offset, -1 if count is None else count, depth)
    return moved


async def send_file(transport: Any, file: Any, offset: int = 0, count: int | None = None) -> int:
    """Send a file through a transport, and wake once, at the end. Returns the bytes that were sent.

    As loop.sendfile() without a fall-back, but in the loop hook. (loop.sendfile() uses it too where a standard hook is attached.) Where a hook
    without tasks is attached it is loop.sendfile() and no more.
    transport: of a stream give `writer.transport`. file: a regular file opened in binary mode; its position is moved behind what was sent.
    count: bytes, from 1 on; None: to the file's end.

    Raises RuntimeError where the transport cannot send files (TLS), is closing or sends one already, asyncio.SendfileNotAvailableError where the file
    cannot be sent so, ValueError for a bad offset or count and a file in text mode, and OSError. Kernel floor: Linux 6.1.
    """
    loop = _running_loop()
    hooks.standard_engine(loop)
    sent: int = await loop.sendfile(transport, file, offset, count, fallback=False)
    return sent


async def echo(sock: socket.socket) -> int:
    """Send back whatever comes until the peer ends its stream, without waking Python. Returns the bytes. The socket stays the caller's."""
    return await _one_socket("echo", sock)


async def discard(sock: socket.socket) -> int:
    """Receive whatever comes until the peer ends its stream, and drop it. Returns the bytes. The socket stays the caller's."""
    return await _one_socket("discard", sock)


async def _one_socket(kind: str, sock: socket.socket) -> int:
    loop = _running_loop()
    loop._ensure_fd_no_transport(sock)
    engine = hooks.standard_engine(loop)
    moved: int = await _hook.socket_task(engine, kind, [os.dup(sock.fileno())])
    return moved
