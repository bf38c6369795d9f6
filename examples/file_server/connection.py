"""One connection: requests in, answers out, in order and one at a time.

Made by `server` for each client. Calls `request`, `folder`, `stats`, `answers`, `access_log`.

The fast way is `data_received` alone: what came is, byte for byte, a head that was answered before from the cache, and the same answer goes
out again, as one write. All else goes through `_proceed`, which takes heads out of the buffer one by one. A head whose answer is in memory is
answered on the spot; one that needs the disk, or a body that is sent from a file, becomes a task, and what the client sends meanwhile waits.

Back-pressure: while the transport has more to send than it likes (or a task runs), no further request is looked at, and when enough of them
wait, nothing more is received.

The end: after an answer that is the last one we close at once if the client has nothing more to say. If it has (a body that nobody reads, a
request that was refused half-way), a close would make the kernel reset the connection and the client lose the answer: then we say that
we are done, throw away what still comes, and close when the client does, or after a while.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
import time
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, cast

from . import request as requests
from .access_log import PIECES_MAX, line_of
from .answers import Answer, Piece, head_of, refusal_page
from .request import END_OF_HEAD, Refusal, Request

if TYPE_CHECKING:
    from .server import Server

#: Of requests that wait for their turn; then nothing more is received.
INPUT_BYTES_MAX = 64 * 1024
#: Answers up to this size go out as one piece of bytes, which costs a copy and saves a vectored send.
JOINED_BYTES_MAX = 64 * 1024
#: A file is sent in parts of this size: between two of them it is seen that the client takes what it gets.
SENDFILE_BYTES = 8 << 20
#: How long we listen to a client after our last answer.
LINGER_S = 2.0

monotonic = time.monotonic


class Truncated(Exception):
    """The file has become shorter than what was announced of it."""


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.clock = server.clock
        self.known = server.folder.cache.known
        self.log = server.log.pieces if server.log is not None else None
        self.transport: asyncio.Transport
        self.peer = b""
        self.task: asyncio.Task[None] | None = None  # that makes or sends the current answer
        self.buffer = b""
        self.at = 0  # where in the buffer the next head begins
        self.searched = 0  # up to where there is no end of it
        self.fast = False  # nothing waits: a request can be answered the moment it comes
        self.new = True  # no request has come yet
        self.in_head = False  # a part of a head has come
        self.paused = False  # the transport has enough to send
        self.reading_paused = False
        self.ending = False  # the last answer was given
        self.ended_by_client = False  # it sends no more
        self.sending_file = False
        self.body_bytes = 0  # of the answer that is sent from a file
        self.parts_sent = 0
        self.since_s = 0.0  # when what `check` waits for began
        self.mark: tuple[int, int, int] | None = None  # how far the sending was at `mark_s`
        self.mark_s = 0.0

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.since_s = monotonic()
        peer = transport.get_extra_info("peername")
        self.peer = (peer[0] if isinstance(peer, tuple) else "unix:").encode() + b" - - ["
        self.fast = True
        if not self.server.opened(self):
            self._refuse(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The server has too many connections.", final=True, retry_after="1"), b"")
        elif self.server.stopping:
            self._end()  # accepted just before the listening ended: nobody would tell it to stop

    def data_received(self, data: bytes) -> None:
        known = self.known.get(data)
        if known is not None and self.fast:
            now_s = monotonic()
            entry = known.entry
            if now_s < entry.until_s:
                entry.hits += 1
                self.since_s = now_s
                log = self.log
                if log is not None:
                    log += (self.peer, self.clock.log_stamp, known.log_line)
                    if len(log) > PIECES_MAX:
                        self.server.flush_log()
                wire = entry.wire
                if wire is not None:
                    self.transport.write(wire)
                else:
                    self.transport.writelines(entry.pieces)
                return
        if self.ending:
            return
        self.buffer = self.buffer[self.at :] + data if self.at < len(self.buffer) else data
        self.searched = max(0, self.searched - self.at)
        self.at = 0
        self._proceed()

    def eof_received(self) -> bool:
        self.ended_by_client = True
        # What has come is still answered; what is queued is sent before a close.
        return not self.ending and (self.task is not None or self.paused)

    def pause_writing(self) -> None:
        self.paused = True
        self.fast = False

    def resume_writing(self) -> None:
        self.paused = False
        self.since_s = monotonic()
        self._proceed()

    def connection_lost(self, error: Exception | None) -> None:
        self.fast = False
        self.ending = True
        if self.task is not None:
            self.task.cancel()
        self.server.closed(self)

    # -- called by the server

    def stop(self) -> None:
        """End as soon as what was asked for is answered."""
        if self.task is None and not self.in_head and not self.ending:
            self._end()

    def abort(self) -> None:
        self.transport.abort()

    def check(self, now_s: float) -> None:
        """Called every now and then: end what takes too long."""
        settings = self.server.settings
        unsent = self.transport.get_write_buffer_size()
        if unsent or self.sending_file:
            # What the socket holds as well: it takes more only when much of that is gone, for which a slow client needs long.
            mark = (unsent, self._unsent_in_kernel(), self.parts_sent)
            if mark != self.mark:
                self.mark, self.mark_s = mark, now_s
            elif now_s - self.mark_s >= settings.write_timeout_s and (mark[0] or mark[1]):
                self.abort()  # (with nothing unsent it is the disk that takes its time)
            self.since_s = now_s
            return
        self.mark = None
        waited_s = now_s - self.since_s
        if self.ending:
            if waited_s >= min(LINGER_S, settings.idle_timeout_s):
                self.transport.close()
        elif self.task is not None:
            pass  # a disk may take its time
        elif self.in_head:
            if waited_s >= settings.header_timeout_s:
                self._refuse(Refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not come in time.", final=True), b"")
        elif waited_s >= (settings.header_timeout_s if self.new else settings.idle_timeout_s):
            self._end()

    def _unsent_in_kernel(self) -> int:
        """What the client has not acknowledged yet. (A unix socket's: what it has not read.)"""
        sock = self.transport.get_extra_info("socket")
        try:
            answer: bytes = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):
            return 0
        return int(struct.unpack("i", answer)[0])

    # -- requests

    def _proceed(self) -> None:
        """Answer what waits in the buffer, as far as the answers before it are on their way."""
        while self.task is None and not self.paused and not self.ending:
            head = self._next_head()
            if head is None:
                break
            self._answer(head)
        waiting = len(self.buffer) - self.at
        if not waiting:
            self.buffer = b""
            self.at = self.searched = 0
        if self.ending:
            return
        if self.task is None and not self.paused and (self.ended_by_client or (self.server.stopping and not self.in_head)):
            self._end()
            return
        self.fast = not waiting and self.task is None and not self.paused
        if waiting > INPUT_BYTES_MAX and not self.reading_paused and (self.task is not None or self.paused):
            self.reading_paused = True
            self.transport.pause_reading()
        elif self.reading_paused and waiting <= INPUT_BYTES_MAX // 2:
            self.reading_paused = False
            self.transport.resume_reading()

    def _next_head(self) -> bytes | None:
        buffer, settings = self.buffer, self.server.settings
        # RFC 9112, 2.2: some clients send an empty line behind a body.
        while buffer.startswith(b"\r\n", self.at):
            self.at += 2
        begin = self.at
        end = buffer.find(END_OF_HEAD, max(begin, self.searched))
        if 0 <= end <= begin + settings.head_bytes_max - len(END_OF_HEAD):
            self.at = self.searched = end + len(END_OF_HEAD)
            self.in_head = False
            return buffer[begin : self.at]
        waiting = len(buffer) - begin
        if waiting:
            if not self.in_head:
                self.in_head = True
                if not self.new:
                    self.since_s = monotonic()
            try:
                requests.check_unfinished(buffer, begin, self.searched, settings)
            except Refusal as refusal:
                self._refuse(refusal, buffer[begin : begin + settings.target_bytes_max])
            self.searched = max(begin, len(buffer) - len(END_OF_HEAD) + 1)
        return None

    def _answer(self, head: bytes) -> None:
        now_s = monotonic()
        self.since_s = now_s
        self.new = False
        if now_s >= self.clock.until_s:
            self.clock.refresh(now_s)
        known = self.known.get(head)
        if known is not None and now_s < known.entry.valid_until_s and not self.server.stopping:
            entry = known.entry
            entry.prepare(self.clock)
            entry.hits += 1
            if self.server.log is not None:
                self.server.log.add(self.peer, self.clock.log_stamp, known.log_line)
            self.transport.writelines(entry.pieces if entry.wire is None else [entry.wire])
            return
        try:
            request = requests.parse(head, self.server.settings)
            answer = self.server.counters.answer(request.path) if self.server.settings.stats else None
            if answer is None:
                answer = self.server.folder.answer_from_memory(request)
        except Refusal as refusal:
            self._refuse(refusal, head)
            return
        if answer is None:
            self.task = asyncio.get_running_loop().create_task(self._answer_later(request, head))
        else:
            self._send(request, head, answer)

    def _refuse(self, refusal: Refusal, head: bytes) -> None:
        """Answer what is no request of ours; `head` is as much of it as there is. Where the answer is final, the connection ends."""
        try:
            request = requests.parse(head, self.server.settings) if not refusal.final else None
        except Refusal:
            request = None
        self._send(request, head, refusal_page(refusal))

    async def _answer_later(self, request: Request, head: bytes) -> None:
        answer: Answer | None = None
        try:
            try:
                answer = await self.server.folder.answer(request)
            except Refusal as refusal:
                answer = refusal_page(refusal)
            if answer.file is not None and request.method != "HEAD":
                await self._send_file(request, head, answer)
            else:
                self._send(request, head, answer)
        except Exception as error:
            # What was announced cannot be sent any more: only the end of the connection tells the client so.
            self.ending = True
            self.transport.close()
            self._report(error)
        finally:
            if answer is not None:
                answer.close()
            self.task = None
        self._proceed()

    def _report(self, error: Exception) -> None:
        if isinstance(error, Truncated):
            self.server.trouble.tell("a file became shorter while it was sent")
        elif isinstance(error, OSError):
            if not isinstance(error, ConnectionError):
                self.server.trouble.tell("sending a file failed", error)
        else:
            asyncio.get_running_loop().call_exception_handler({"message": "a request could not be answered", "exception": error, "protocol": self})

    # -- answers

    def _begin(self, request: Request | None, head: bytes, answer: Answer) -> tuple[bytes, bool]:
        """The head of an answer, and whether the connection goes on after it."""
        now_s = monotonic()
        self.since_s = now_s
        if now_s >= self.clock.until_s:
            self.clock.refresh(now_s)
        keep_alive = request is not None and request.keep_alive and not self.server.stopping
        # Counted before it is sent: a client that has an answer finds it in the counters.
        self.server.counters.answers[int(answer.status)] += 1
        if request is not None and request.method == "GET" and request.minor and keep_alive and request.is_plain and answer.entry is not None:
            entry = answer.entry
            self.server.folder.cache.learn(head, entry, line_of(_first_line(head), 200, answer.length or 0, request.headers))
            if now_s >= entry.until_s:
                entry.prepare(self.clock)
        return head_of(answer, self.clock.date, 1 if request is None else request.minor, keep_alive), keep_alive

    def _finish(self, request: Request | None, head: bytes, answer: Answer, sent_bytes: int, keep_alive: bool) -> None:
        self.server.counters.body_bytes += sent_bytes
        if self.server.log is not None:
            headers = request.headers if request is not None else {}
            self.server.log.add(self.peer, self.clock.log_stamp, line_of(_first_line(head), answer.status, sent_bytes, headers))
        if not keep_alive:
            self._end(linger=request is None or request.has_body)

    def _send(self, request: Request | None, head: bytes, answer: Answer) -> None:
        """An answer that is in memory, or whose body is not wanted."""
        answer_head, keep_alive = self._begin(request, head, answer)
        pieces = [answer_head]
        sent_bytes = 0
        # A refused HEAD is one all the same: whoever reads its answer takes what follows the head for the next answer.
        if not (head.startswith(b"HEAD ") if request is None else request.method == "HEAD"):
            pieces += [piece for piece in answer.body if isinstance(piece, bytes)]
            sent_bytes = answer.length or 0
        if not self.transport.is_closing():
            if sent_bytes <= JOINED_BYTES_MAX:
                self.transport.write(b"".join(pieces))
            else:
                self.transport.writelines(pieces)
        self._finish(request, head, answer, sent_bytes, keep_alive)

    async def _send_file(self, request: Request, head: bytes, answer: Answer) -> None:
        """An answer whose body, or pieces of it, are in a file."""
        answer_head, keep_alive = self._begin(request, head, answer)
        self.body_bytes = 0
        try:
            self.transport.write(answer_head)
            for piece in answer.body:
                if isinstance(piece, Piece):
                    await self._send_piece(answer, piece)
                else:
                    self.transport.write(piece)
                    self.body_bytes += len(piece)
        except BaseException:
            keep_alive = True  # the caller ends the connection, and not in good order
            raise
        finally:
            self._finish(request, head, answer, self.body_bytes, keep_alive)

    async def _send_piece(self, answer: Answer, piece: Piece) -> None:
        file = answer.file
        assert file is not None
        offset, left = piece.offset, piece.length
        while left:
            if self.transport.is_closing():
                raise ConnectionAbortedError
            size = min(left, SENDFILE_BYTES)
            self.sending_file = True
            try:
                # It takes whatever has a descriptor.
                count = await asyncio.get_running_loop().sendfile(self.transport, cast(IO[bytes], file), offset, size, fallback=False)
            except asyncio.SendfileNotAvailableError as error:
                # Not one byte went out. As a rule the client has gone.
                raise error.__cause__ or ConnectionAbortedError from None
            except BaseException:
                self.body_bytes += max(0, min(file.position() - offset, size))
                raise
            finally:
                self.sending_file = False
            self.parts_sent += 1
            self.body_bytes += count
            if count < size:
                raise Truncated
            offset += count
            left -= count

    # -- the end

    def _end(self, *, linger: bool = False) -> None:
        """There are no more answers after what is queued."""
        self.ending = True
        self.fast = False
        self.since_s = monotonic()
        unread = linger or self.at < len(self.buffer)
        self.buffer = b""
        self.at = self.searched = 0
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()
        if unread and not self.ended_by_client and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()


def _first_line(head: bytes) -> str:
    return head.split(b"\r\n", 1)[0].decode("latin-1")
