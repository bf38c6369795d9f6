"""loop.sock_sendfile(): a regular file to a stream socket, by READ and SEND requests.

Used by `_sock.SockMixin._sock_sendfile_native`, which asyncio.BaseEventLoop.sock_sendfile() calls. Calls `_sockop`, `_prep`.

Two pieces of memory take turns: while one is being sent, the other is read. READ is served from the page cache at once, or waits in the
kernel (never in the loop's thread); SPLICE would do both in one request but runs on worker threads, and was measured slower by others.

As asyncio's: the file's own position is not used; when something was sent, it stands behind the last byte that was sent, also after an
error or a cancellation (which waits for the last CQE, so the position is exact). What cannot be sent like this is reported by
SendfileNotAvailableError while nothing was sent, and then BaseEventLoop falls back to read() and sock_sendall().
"""

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EBADF, EINTR, ENOTCONN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from aiouring._loop cimport LoopCore
from aiouring._prep cimport prep_read, prep_send
from aiouring._sockop cimport SocketOperation
from aiouring.uapi cimport ECANCELED, io_uring_sqe

import io
import os
import stat
from asyncio import exceptions

cdef enum:
    PIECE_BYTES = 128 * 1024
    TAG_READ = 1
    TAG_SEND = 2

cdef object FILE_OFFSET_MAX = 2**63 - 1


@cython.final
cdef class Sendfile(SocketOperation):
    cdef object file
    cdef int file_fd                # ours: a duplicate
    cdef int64_t offset             # of the next byte to read
    cdef int64_t left               # bytes still to read; -1: to the end of the file
    cdef int64_t total_sent
    cdef char *memory               # two pieces
    cdef int32_t filled[2]          # bytes to send in the piece; 0: it is free
    cdef int32_t sent               # of them, in the piece that is being sent
    cdef int read_into, send_from   # which piece is next
    cdef uint64_t read_request
    cdef bint file_ended
    cdef object failure

    cdef str name(self):
        return "Loop.sock_sendfile"

    cdef int start(self) except -1:
        self.attach()
        self.memory = <char *>PyMem_RawMalloc(2 * PIECE_BYTES)
        if self.memory == NULL:
            raise MemoryError("no memory for the pieces of a file that is sent")
        return self.submit()

    # Begin whatever can be begun, or end: at the start and after each CQE.
    cdef int submit(self) except -1:
        if self.failure is not None or self.socket_closed or not self.wanted():
            if not self.idle():
                return self.stop()      # the last CQE brings us back
            if self.failure is not None:
                return self.fail(self.failure)
            return self.again()         # knows which of the other reasons it was
        if self.request == 0 and self.filled[self.send_from]:
            self.begin_send()
        if self.read_request == 0 and not self.file_ended and not self.filled[self.read_into]:
            if self.left == 0:
                self.file_ended = True
            elif getattr(self.file, "closed", False):
                self.note_failure(EBADF)        # our duplicate could go on, but asyncio does not
                return self.submit()
            else:
                self.begin_read()
        if self.idle():
            return self.finish(self.total_sent)
        return 0

    cdef int begin_read(self) except -1:
        cdef io_uring_sqe *sqe
        cdef uint32_t size = PIECE_BYTES
        if 0 <= self.left < PIECE_BYTES:
            size = <uint32_t>self.left
        sqe = self.loop.ops.begin(self, Sendfile.piece_complete, TAG_READ)
        prep_read(sqe, self.file_fd, self.memory + self.read_into * PIECE_BYTES, size, <uint64_t>self.offset)
        self.read_request = sqe.user_data
        return 0

    cdef int begin_send(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Sendfile.piece_complete, TAG_SEND)
        prep_send(sqe, self.fd, self.memory + self.send_from * PIECE_BYTES + self.sent,
                  <uint32_t>(self.filled[self.send_from] - self.sent), 0)     # no MSG_WAITALL: see _sock
        self.request = sqe.user_data
        return 0

    @staticmethod
    cdef int piece_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef Sendfile self = <Sendfile>owner
        if tag == TAG_READ:
            self.read_request = 0
        else:
            self.request = 0
        try:
            if res == -ECANCELED or res == -EINTR:
                pass                    # submit() begins it again, unless we asked for its end
            elif res < 0:
                self.note_failure(-res)
            elif tag == TAG_READ:
                self.piece_read(res)
            else:
                self.piece_sent(res)
            self.submit()
        except BaseException as exc:
            if self.failure is None:
                self.failure = exc
            if self.idle():
                self.fail(self.failure)
            else:
                self.stop()
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef int piece_read(self, int32_t count) except -1:
        if count == 0:
            self.file_ended = True
            return 0
        self.filled[self.read_into] = count
        self.read_into ^= 1
        self.offset += count
        if self.left > 0:
            self.left -= count
        return 0

    cdef int piece_sent(self, int32_t count) except -1:
        self.total_sent += count
        self.sent += count
        if self.sent == self.filled[self.send_from]:
            self.filled[self.send_from] = 0
            self.sent = 0
            self.send_from ^= 1
        return 0

    cdef int note_failure(self, int error) except -1:
        if self.failure is not None:
            return 0
        if self.total_sent == 0:
            # The fallback finds the reason by itself, and raises what read() or send() raise.
            self.failure = exceptions.SendfileNotAvailableError(f"sending the file by the ring failed: {os.strerror(error)}")
        elif error == ENOTCONN:
            self.failure = ConnectionError("socket is not connected", ENOTCONN)
        else:
            self.failure = OSError(error, os.strerror(error))
        return 0

    cdef int stop(self) except -1:
        self.loop.ops.cancel(self.request)
        return self.loop.ops.cancel(self.read_request)

    cdef bint idle(self) noexcept:
        return self.request == 0 and self.read_request == 0

    cdef void release(self) noexcept:
        PyMem_RawFree(self.memory)
        self.memory = NULL
        self.failure = None

    def __dealloc__(self):
        PyMem_RawFree(self.memory)


async def sendfile(loop, sock, file, offset, count):
    """Send `count` bytes (None: all to the end) of `file` from `offset` on. Returns the number of bytes sent.

    Raises SendfileNotAvailableError when `file` is no regular file or block device, or when the very first piece fails.
    """
    cdef Sendfile operation
    try:
        file_fd = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        raise exceptions.SendfileNotAvailableError("not a regular file") from None
    try:
        status = os.fstat(file_fd)
    except OSError:
        raise exceptions.SendfileNotAvailableError("not a regular file") from None
    if not (count or status.st_size):
        return 0
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise exceptions.SendfileNotAvailableError("not a regular file")
    if not os.get_blocking(file_fd):
        # READ on an O_NONBLOCK file would answer EAGAIN for what is not in the page cache.
        raise exceptions.SendfileNotAvailableError("the file is open with O_NONBLOCK")
    if offset > FILE_OFFSET_MAX or count is not None and count > FILE_OFFSET_MAX:
        # Before the operation is made: one that is never awaited says so. The same error as os.sendfile()'s.
        raise OverflowError("Python int too large to convert to C long")
    operation = Sendfile.__new__(Sendfile)
    operation.loop = <LoopCore>loop
    operation.sock = sock
    operation.file = file
    operation.offset = offset
    operation.left = -1 if count is None else count
    # A duplicate: when the file is closed between a READ's queueing and its submission, its number may be another file's.
    file_fd = operation.file_fd = os.dup(file_fd)
    try:
        return await operation
    finally:
        try:
            if operation.total_sent:
                os.lseek(file_fd, offset + operation.total_sent, os.SEEK_SET)
        finally:
            os.close(file_fd)
