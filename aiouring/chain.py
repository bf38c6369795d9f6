"""Chains: requests that run one after another in the kernel and are awaited as one. Once per chain.

Public as aiouring.Chain, with Link and ChainError. Calls `_chain`, which owns the requests, and `_chainlinks`.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from aiouring import _chain, _chainlinks
from aiouring._errors import ChainError
from aiouring._types import StrOrBytesPath

if TYPE_CHECKING:
    from aiouring.bpf import Op

__all__ = ["Chain", "ChainError", "Link", "Result"]

_READ, _WRITE, _SEND, _RECV = _chainlinks.MOVES


class HasFileno(Protocol):
    """A file or a socket with a descriptor."""

    def fileno(self) -> int: ...


class Result:
    """Stands for what a link will bring, as the length or the offset of a later one. `+` and `-` with a number make another such."""

    __slots__ = ("added", "link")

    def __init__(self, link: Link, added: int = 0) -> None:
        self.link = link
        self.added = added

    def __add__(self, number: int) -> Result:
        return Result(self.link, self.added + number) if isinstance(number, int) else NotImplemented

    __radd__ = __add__

    def __sub__(self, number: int) -> Result:
        return Result(self.link, self.added - number) if isinstance(number, int) else NotImplemented

    def __repr__(self) -> str:
        return f"<result of {self.link!r}{f' {self.added:+}' if self.added else ''}>"


class Link:
    """One request of a chain. What open() returns can be the file of later links, and `result` of any other their length or offset."""

    __slots__ = ("chain", "file", "hard", "index", "name")

    def __init__(self, chain: Chain, index: int, name: str, hard: bool, file: Any = None) -> None:
        self.chain = chain
        self.index = index
        self.name = name
        self.hard = hard
        self.file = file

    @property
    def result(self) -> Result:
        """What it will bring."""
        return Result(self)

    def __repr__(self) -> str:
        return f"<Link {self.index} {self.name}()>"


class Chain:
    """Requests that run one after another, each only if the one before it did what it was asked for. Awaited as one.

        async with aiouring.Chain() as chain:
            data = chain.read(source, buffer, offset=0)
            chain.write(target, buffer, offset=0, length=data.result)
        read, written = await chain

    Leaving the block submits it; after an exception in the block nothing is submitted. `await chain` gives the list of the links' results: bytes
    that moved, an os.stat_result, or None. (Without a block, `await chain` submits it.)

    timeout: seconds for the whole chain, after which it is cancelled. TimeoutError is raised when nothing of it is in flight any more.

    A link that fails ends the chain, and ChainError says which it was, and why. It fails if its request does; and if it moved less than it was
    asked for, where that would be missed: a write or a send always, a read (or a recv(whole=True)) unless it is the last link; but not where a
    later link takes its result, nor a hard link. After a hard link (hard=True) the chain goes on whatever came of it.

    Files are descriptors, objects with fileno(), sockets of send() and recv(), and what open() returned. The same file is meant all the time: who
    closes it meanwhile closes it for himself; a socket's close ends the chain. Buffers are the chain's, as exports, until it is over.

    Without carried results all requests are linked in the kernel (IOSQE_IO_LINK), and go out with one io_uring_enter; up to 128. With them the
    loop's hook carries on from link to link, up to 16, and 256 such chains at a time; it is attached where there is none, as by aiouring.relay().
    docs/chains.md has the details. Kernel floor: Linux 6.1.

    Cancelling ends the link that is in flight, and those behind it do not run; CancelledError comes when it has ended. Raises when it is
    submitted: TypeError on another event loop, RuntimeError for a socket that a transport has, OSError (EBADF ...) for a file that is closed,
    (ENFILE) where there is no place for open(), (EBUSY) where 256 chains with carried results run.
    """

    def __init__(self, *, timeout: float | None = None) -> None:
        self._run = _chain.ChainRun(timeout)
        self._links: list[Link] = []

    @property
    def links(self) -> tuple[Link, ...]:
        """Its links, in their order."""
        return tuple(self._links)

    @property
    def outcomes(self) -> list[Any] | None:
        """For each link its result, or an OSError (ECANCELED: it did not run, or was ended); None before the chain is over. For who has to know
        how far a chain came that failed or was cancelled."""
        return self._run.outcomes

    async def __aenter__(self) -> Chain:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self._run.begin()
        else:
            self._run.drop()

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        try:
            return (yield from self._run)
        except ChainError as error:
            error.link = self._links[error.index]
            raise

    def __repr__(self) -> str:
        return f"<Chain {' → '.join(link.name for link in self._links) or 'without links'}>"

    # -- links -----------------------------------------------------------------------------------------------------------------------

    def _add(self, name: str, hard: bool, file: Any = None) -> Link:
        link = Link(self, len(self._links), name, hard, file)
        self._links.append(link)
        return link

    def _file(self, file: Any) -> Any:
        """What `_chain` takes for a file: of an open link what it will have opened."""
        if isinstance(file, Result):
            file = file.link
        if not isinstance(file, Link):
            return file
        self._check_ours(file)
        if file.file is None:
            raise TypeError(f"only what open() returned can be a link's file, not {file!r}")
        return file.file

    def _number(self, value: Any) -> Any:
        if isinstance(value, Link):
            value = value.result
        if not isinstance(value, Result):
            return value
        self._check_ours(value.link)
        return (value.link.index, value.added)

    def _check_ours(self, link: Link) -> None:
        if link.chain is not self:
            raise ValueError(f"{link!r} is a link of another chain")

    def open(
        self, path: StrOrBytesPath, flags: int = os.O_RDONLY, mode: int = 0o777, *, dir_fd: int | None = None, hard: bool = False
    ) -> Link:  # fmt: skip
        """os.open() for the later links of this chain: the file has a place in the ring's table and no descriptor. The chain's close() closes it, or
        its end, whatever comes. Result: None. A FIFO is opened without waiting for its other end."""
        file = self._run.add_open(path, flags, mode, dir_fd, hard)
        return self._add("open", hard, file)

    def read(
        self, file: int | HasFileno | Link, buffer: Any, *, length: int | Result | None = None, offset: int | Result | None = None,
        hard: bool = False,
    ) -> Link:  # fmt: skip
        """Read into a writable buffer, up to its length or the first `length` bytes of it. offset: in the file, in bytes; None: at the file's own
        position, which moves, and what pipes want. Result: bytes, 0 at the end of the file. It waits for a pipe's bytes, also
        where the descriptor is O_NONBLOCK."""
        self._run.add_move(_READ, self._file(file), buffer, self._number(length), self._number(offset), False, hard)
        return self._add("read", hard)

    def write(
        self, file: int | HasFileno | Link, buffer: Any, *, length: int | Result | None = None, offset: int | Result | None = None,
        hard: bool = False,
    ) -> Link:  # fmt: skip
        """Write a buffer, or its first `length` bytes. offset: as of read(). Result: bytes."""
        self._run.add_move(_WRITE, self._file(file), buffer, self._number(length), self._number(offset), False, hard)
        return self._add("write", hard)

    def send(self, sock: int | HasFileno, buffer: Any, *, length: int | Result | None = None, hard: bool = False) -> Link:
        """Send a buffer, or its first `length` bytes, all of it (MSG_WAITALL). Result: bytes."""
        self._run.add_move(_SEND, self._file(sock), buffer, self._number(length), None, False, hard)
        return self._add("send", hard)

    def recv(
        self, sock: int | HasFileno, buffer: Any, *, length: int | Result | None = None, whole: bool = False, hard: bool = False
    ) -> Link:  # fmt: skip
        """Receive into a writable buffer what comes, up to its length or `length`. whole: wait until all of it is there (MSG_WAITALL). Result: bytes,
        0 at the end of the stream. What a cancelled sock_recv() had left comes first."""
        self._run.add_move(_RECV, self._file(sock), buffer, self._number(length), None, whole, hard)
        return self._add("recv", hard)

    def fsync(self, file: int | HasFileno | Link, *, data_only: bool = False, hard: bool = False) -> Link:
        """os.fsync(), or with data_only os.fdatasync(). Result: None."""
        self._run.add_fsync(self._file(file), data_only, hard)
        return self._add("fsync", hard)

    def close(self, file: int | Link, *, hard: bool = False) -> Link:
        """Close what this chain opened, or a descriptor by its number, which must be nobody else's. Result: None."""
        self._run.add_close(self._file(file), hard)
        return self._add("close", hard)

    def statx(
        self, path: StrOrBytesPath | int | HasFileno, *, dir_fd: int | None = None, follow_symlinks: bool = True, hard: bool = False
    ) -> Link:  # fmt: skip
        """os.stat() of a path or a descriptor. Result: os.stat_result."""
        self._run.add_statx(self._file(path), dir_fd, follow_symlinks, hard)
        return self._add("statx", hard)

    def bpf(self, op: Op, *buffers: Any, flags: int = 0, length: int | Result | None = None, hard: bool = False) -> Link:
        """A BPF operation (aiouring.bpf.Op), with the arguments of its call. Result: as of `await op(...)`; a later link can take it as its length or
        offset, where a number below 0 (find() without a match) fails with EINVAL. Engines opcode and module are requests as any other. The loop's
        inline hook runs inline operations itself, of up to 64 KiB in all; Python is woken for any other."""
        self._run.add_bpf(op, buffers, flags, self._number(length), hard)
        return self._add("bpf", hard)

    def timeout(self, seconds: float, *, hard: bool = False) -> Link:
        """A pause before the next link. (A limit for the whole chain is Chain(timeout=).) Result: None."""
        self._run.add_timer(seconds, hard)
        return self._add("timeout", hard)
