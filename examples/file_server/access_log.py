"""The access log in the combined format: one line for each answer, written to a file or to standard error by a worker thread.

Called by `connection` (lines) and `server` (flush, reopen, close). Calls `writer`, `trouble`.

Lines are collected and written together, so that an answer costs one append. What is not written when WAITING_BYTES_MAX have come together
is dropped and counted: a full disk or a reader that has stopped must not make the server grow or wait.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from .trouble import Trouble
from .writer import Writer

#: So many pieces (three are a line) are collected before they are written, or what comes within a second.
PIECES_MAX = 1500
WAITING_BYTES_MAX = 4 << 20

_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')


def escaped(text: str) -> str:
    """Text (Latin-1) from a client, so that it cannot end the field or the line, nor do something to a terminal."""
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02X}", text)


def line_of(first_line: str, status: int, body_bytes: int, headers: dict[str, str]) -> bytes:
    """A line from the bracket that ends its time stamp on."""
    referer, agent = (escaped(headers.get(name, "")) or "-" for name in ("referer", "user-agent"))
    return f'] "{escaped(first_line)}" {status} {body_bytes or "-"} "{referer}" "{agent}"\n'.encode()


class AccessLog:
    """`path` None: standard error."""

    def __init__(self, path: Path | None, trouble: Trouble) -> None:
        self._path = path
        self._trouble = trouble
        #: What is to be written, by threes: the client and the beginning of its line, the time stamp, the rest.
        self.pieces: list[bytes] = []
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._lost_lines = 0
        self._task: asyncio.Task[None] | None = None
        self._held = False  # the file is being changed
        self._writer = Writer(self._open())

    def _open(self) -> int:
        if self._path is None:
            return os.dup(2)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)

    def add(self, peer: bytes, stamp: bytes, rest: bytes) -> None:
        self.pieces += (peer, stamp, rest)
        if len(self.pieces) > PIECES_MAX:
            self.flush()

    def flush(self) -> None:
        """Have written what has come together."""
        if not self.pieces:
            return
        text = b"".join(self.pieces)
        count = len(self.pieces) // 3
        self.pieces.clear()  # the list itself stays: connections hold it
        if self._waiting_bytes + len(text) > WAITING_BYTES_MAX:
            self._lost_lines += count
            self._trouble.tell("the access log cannot be written as fast as lines come: some are lost")
            return
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        self._write_soon()

    def _write_soon(self) -> None:
        if self._task is None and not self._held and self._waiting:
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                text = b"".join(self._waiting)
                self._waiting.clear()
                if self._lost_lines:
                    text += b'- - - [-] "%d lines are missing here" - - "-" "-"\n' % self._lost_lines
                    self._lost_lines = 0
                try:
                    await self._writer.write(text)
                except OSError as error:
                    self._lost_lines += text.count(b"\n")
                    self._trouble.tell("the access log cannot be written", error)
                self._waiting_bytes = sum(map(len, self._waiting))
        finally:
            self._task = None

    async def reopen(self) -> None:
        """Go on in a new file of the same name, for who has renamed the old one. When the new one is there, the old one is complete."""
        if self._path is None or self._held:
            return
        await self._drain()
        self._held = True
        try:
            fd = await asyncio.get_running_loop().run_in_executor(None, self._open)
        except OSError as error:
            self._trouble.tell("the access log cannot be opened again, and goes on in the old file", error)
        else:
            old, self._writer = self._writer, Writer(fd)
            old.end()
        finally:
            self._held = False
            self._write_soon()

    async def _drain(self) -> None:
        self.flush()
        while self._task is not None:
            await asyncio.wait([self._task])

    async def close(self, patience_s: float) -> None:
        """Write the rest, as far as that is possible in the time, and close the file."""
        self.flush()
        if self._task is not None:
            task = self._task
            await asyncio.wait([task], timeout=patience_s)
            if not task.done():
                task.cancel()
                self._trouble.tell("the end of the access log is lost: nobody takes it")
        self._writer.end()
