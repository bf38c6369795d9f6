"""loop.sock_sendfile(): a regular file to a stream socket, by READ and SEND requests.

Used by `_sock.SockMixin._sock_sendfile_native`, which asyncio.BaseEventLoop.sock_sendfile() calls. Calls `_sockop`, `_prep`.

A piece of the file is read into memory, sent from there, and then comes the next. READ is served from the page cache at once, or waits in the
kernel (never in the loop's thread). docs/performance.md ("Sending files") has the figures of this and the other ways. SPLICE costs less for
large files, and is not taken for what it does to a file that is truncated meanwhile: the socket's queue refers to the file's own pages, the
kernel fills them with zeros from the new end on, and the peer gets those zeros for the file's bytes, with nobody being told.

As asyncio's: the file's own position is not used; when something was sent, it stands behind the last byte that was sent, also after an
error or a cancellation (which waits for the last CQE, so the position is exact). What cannot be sent like this is reported by
SendfileNotAvailableError while nothing was sent, and then BaseEventLoop falls back to read() and sock_sendall().

Who owns what: an operation owns its piece of memory from its first request to its last CQE; then the piece waits in `free_pieces` for the next
operation of any loop, as long as there are few.
"""

cimport cython
from libc.errno cimport EBADF, ENOTCONN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free

from aiouring._loop cimport LoopCore
from aiouring._prep cimport prep_read, prep_send
from aiouring._sockop cimport SocketOperation
from aiouring.uapi cimport ECANCELED, io_uring_sqe

import io
import os
import stat
from asyncio import exceptions

from aiouring._hook import engine_of, send_file_task

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef enum:
    PIECE_BYTES = 128 * 1024
    # Aligned as the page cache's pages are. The copy of a page to an address that is 1 to 31 bytes further in its own page takes eight times
    # as long on AMD's Zen 3 and 4 ("rep movsb"), and that is just where malloc() puts a large block: 16 bytes behind a page's beginning.
    PIECE_ALIGNMENT = 4096
    FREE_PIECES_MAX = 64

cdef object FILE_OFFSET_MAX = 2**63 - 1

# The piece that was used last is taken first: it is still in the processor's cache.
cdef char *free_pieces[FREE_PIECES_MAX]
cdef int free_piece_count = 0


cdef char *take_piece() except NULL:
    global free_piece_count
    cdef void *memory = NULL
    if free_piece_count:
        free_piece_count -= 1
        return free_pieces[free_piece_count]
    if posix_memalign(&memory, PIECE_ALIGNMENT, PIECE_BYTES) != 0:
        raise MemoryError("no memory for a piece of a file that is sent")
    return <char *>memory


cdef void give_piece_back(char *piece) noexcept:
    global free_piece_count
    if piece == NULL:
        return
    if free_piece_count == FREE_PIECES_MAX:
        free(piece)
        return
    free_pieces[free_piece_count] = piece
    free_piece_count += 1


@cython.final
cdef class Sendfile(SocketOperation):
    cdef object file
    cdef int file_fd                # ours: a duplicate
    cdef int64_t offset             # of the next byte to read
    cdef int64_t left               # bytes still to read; -1: to the end of the file
    cdef int64_t total_sent
    cdef char *piece                # NULL: nothing was read yet
    cdef int32_t filled             # bytes of the piece that came from the file, 0: it is free
    cdef int32_t sent               # of them
    cdef bint file_ended
    cdef object failure

    cdef str name(self):
        return "Loop.sock_sendfile"

    cdef int start(self) except -1:
        self.attach()
        self.piece = take_piece()
        return self.submit()

    # Begin what comes next, or end: at the start and after each CQE. One request is in flight: with a filled piece its SEND, else its READ.
    cdef int submit(self) except -1:
        if self.failure is not None:
            return self.fail(self.failure)
        if self.socket_closed or not self.wanted():
            return self.again()         # knows which of them it is
        if self.filled:
            return self.begin_send()
        if self.left == 0 or self.file_ended:
            return self.finish(self.total_sent)
        if getattr(self.file, "closed", False):
            self.note_failure(EBADF)    # our duplicate could go on, but asyncio does not
            return self.submit()
        return self.begin_read()

    cdef int begin_read(self) except -1:
        cdef io_uring_sqe *sqe
        cdef uint32_t size = PIECE_BYTES
        if 0 <= self.left < PIECE_BYTES:
            size = <uint32_t>self.left
        sqe = self.loop.ops.begin(self, Sendfile.complete, 0)
        prep_read(sqe, self.file_fd, self.piece, size, <uint64_t>self.offset)
        self.request = sqe.user_data
        return 0

    cdef int begin_send(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Sendfile.complete, 0)
        # No MSG_WAITALL: see _sock. No MSG_MORE: it was measured to cost more than the small packet that it saves.
        prep_send(sqe, self.fd, self.piece + self.sent, <uint32_t>(self.filled - self.sent), 0)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            self.note_failure(-res)
        elif self.filled:
            self.total_sent += res
            self.sent += res
            if self.sent == self.filled:
                self.filled = self.sent = 0
        elif res == 0:
            self.file_ended = True
        else:
            self.filled = res
            self.offset += res
            if self.left > 0:
                self.left -= res
        return self.submit()

    cdef int note_failure(self, int error) except -1:
        if self.failure is not None:
            return 0
        if self.total_sent == 0:
            # The fallback finds the reason by itself, and raises what read() or send() raise. Who wants none finds it in the cause.
            self.failure = exceptions.SendfileNotAvailableError(f"sending the file by the ring failed: {os.strerror(error)}")
            self.failure.__cause__ = OSError(error, os.strerror(error))
        elif error == ENOTCONN:
            self.failure = ConnectionError("socket is not connected", ENOTCONN)
        else:
            self.failure = OSError(error, os.strerror(error))
        return 0

    cdef void release(self) noexcept:
        give_piece_back(self.piece)
        self.piece = NULL
        self.failure = None

    def __dealloc__(self):
        give_piece_back(self.piece)


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
    engine = engine_of(loop)
    if engine is not None and engine.has_tasks:
        return await sendfile_in_hook(engine, sock.fileno(), file_fd, offset, count)
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


async def sendfile_in_hook(engine, int sock_fd, int file_fd, offset, count):
    """The same as a task of the loop's hook. Both descriptors are duplicated: who closes his meanwhile must not make the task read another file."""
    file_copy = os.dup(file_fd)
    try:
        sock_copy = os.dup(sock_fd)
        try:
            task = send_file_task(engine, file_copy, sock_copy, offset, -1 if count is None else count)
            try:
                return await task
            except OSError as error:
                if task.moved or error.errno == ECANCELED:
                    raise
                # As above: the fallback finds the reason by itself.
                raise exceptions.SendfileNotAvailableError(f"sending the file by the ring failed: {error.strerror}") from error
            finally:
                if task.moved:
                    os.lseek(file_copy, offset + task.moved, os.SEEK_SET)
        finally:
            os.close(sock_copy)
    finally:
        os.close(file_copy)
