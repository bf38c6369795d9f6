"""connect_read_pipe and connect_write_pipe: transports for pipes, FIFOs, sockets and character devices, by READ and WRITE requests.

Used by `loop.Loop` (PipeMixin) and, through it, by `process` for a child's stdio. Calls `_transport`, `_op`, `_prep`, `_loop`.

Who owns what: a request in flight holds the core, and the core holds the buffers that the request points to, the pipe object and the shell. So
the descriptor is closed only after the last CQE: close() cancels, the last CQE schedules connection_lost, and that closes the pipe.

Reading: one READ in flight into the core's buffer. Descriptors whose READ the kernel cannot wait for (terminals) answer EAGAIN and get a POLL_ADD
first. Writing: what is written in a turn goes out in one WRITE(V) at its end, one in flight; a POLL_ADD tells when the reader has gone.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EAGAIN, EINTR, EIO
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.uio cimport iovec

from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_poll_add, prep_read, prep_write, prep_writev
from aiouring._transport cimport PyContext_Enter, PyContext_Exit, TransportCore
from aiouring.uapi cimport *

import asyncio
import os
import stat
from asyncio import transports
from asyncio.log import logger
from collections import deque

from aiouring._transport import ReadableShell, TransportShell, WritableShell

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT

cdef enum:
    READ_BYTES_MAX = 256 * 1024
    WRITE_BYTES_MAX = 1 << 30           # below what the kernel moves in one request
    IOVECS_MAX = 64
    TAG_DATA = 0
    TAG_POLL = 1                        # wait, then read or write again
    TAG_HANGUP = 2                      # wait for the reader to go away

cdef uint64_t CURRENT_POSITION = <uint64_t>-1


cdef class PipeCore(TransportCore):
    """What both directions share."""

    cdef uint32_t mode
    cdef uint64_t request               # READ, WRITE or the poll before it

    cdef int open(self, object shell, LoopCore loop, object pipe, object protocol) except -1:
        cdef int fd = pipe.fileno()
        self.mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(self.mode) or stat.S_ISSOCK(self.mode) or stat.S_ISCHR(self.mode)):
            raise ValueError(self.refusal())
        os.set_blocking(fd, False)
        return self.attach(shell, loop, pipe, protocol, None)

    cdef str refusal(self):
        raise NotImplementedError

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        return (<PipeCore>owner).completed(tag, res)

    cdef int completed(self, uint32_t tag, int32_t res) except -1:
        raise NotImplementedError

    cdef uint64_t poll(self, uint32_t tag, uint32_t events) except 0:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, PipeCore.complete, tag)
        prep_poll_add(sqe, self.fd, events)
        return sqe.user_data

    cdef bint in_flight(self, uint64_t request) noexcept:
        # Asked of the table: the last CQEs of a loop that was closed are not delivered.
        return request != 0 and self.loop.ops.is_live(request)

    cdef bint idle(self) noexcept:
        return not self.in_flight(self.request)

    cdef int give_up(self) except -1:
        """Cancel what is in flight; the last CQE calls finish()."""
        return self.loop.ops.cancel(self.request)

    cdef int log_closed_by_peer(self) except -1:
        if self.loop._debug:
            logger.info("%r was closed by peer", self.shell)
        return 0

    def describe(self, str name, str extra):
        if self.file is None:
            return f"<{name} closed fd={self.fd} closed>"
        return f"<{name}{' closing' if self.closing else ''} fd={self.fd} open{extra}>"


cdef class ReadPipeCore(PipeCore):
    """The reading side."""

    cdef bint polled                    # the kernel said that there is something to read, or the end
    cdef char *buffer
    cdef object held                    # what the last read brought, until the protocol gets it: bytes, empty at the end, or an error
    cdef bint delivery_scheduled

    def __dealloc__(self):
        PyMem_RawFree(self.buffer)

    cdef str refusal(self):
        return "Pipe transport is for pipes/sockets only."

    def start(self):
        self.arm()

    cdef int arm(self) except -1:
        cdef io_uring_sqe *sqe
        if self.request or self.paused or self.closing or self.held is not None:
            return 0
        if self.buffer == NULL:
            # Pages that were never read into cost nothing.
            self.buffer = <char *>PyMem_RawMalloc(READ_BYTES_MAX)
            if self.buffer == NULL:
                raise MemoryError()
        sqe = self.loop.ops.begin(self, PipeCore.complete, TAG_DATA)
        prep_read(sqe, self.fd, self.buffer, READ_BYTES_MAX, CURRENT_POSITION)
        self.request = sqe.user_data
        return 0

    cdef int wait_readable(self) except -1:
        if not self.paused:
            self.request = self.poll(TAG_POLL, POLLIN)
        return 0

    cdef int completed(self, uint32_t tag, int32_t res) except -1:
        self.request = 0
        if self.closing:
            return self.finish()
        if res == -ECANCELED or res == -EINTR:
            return self.arm()           # resumed before the cancel came through, or the ring was replaced
        if tag == TAG_DATA and res > 0:
            self.polled = False
            return self.hold(PyBytes_FromStringAndSize(self.buffer, res))
        if tag == TAG_POLL and res >= 0:
            self.polled = True
            return self.arm()
        if res == -EAGAIN:
            self.polled = False
            return self.wait_readable()
        if res < 0:
            return self.hold(os_error(res))
        if stat.S_ISFIFO(self.mode) and not self.polled:
            # A FIFO that no writer has opened yet reads as ended, and only poll can tell the difference.
            return self.wait_readable()
        return self.hold(b"")

    cdef int hold(self, outcome) except -1:
        """Hand over what the read brought, or keep it until a paused transport resumes."""
        self.held = outcome
        if self.paused or self.delivery_scheduled:
            return 0
        PyContext_Enter(self.context)
        try:
            self.deliver()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc, f"Exception in a callback of {self.shell!r}")      # it does not end the transport, as in asyncio
        finally:
            PyContext_Exit(self.context)
        return 0

    def deliver(self):
        outcome = self.held
        self.delivery_scheduled = False
        if outcome is None or self.paused or self.closing:
            return
        self.held = None
        if not isinstance(outcome, bytes):
            self.fatal_error(outcome, "Fatal read error on pipe transport")
        elif not outcome:
            self.ended()
        else:
            try:
                self.protocol.data_received(outcome)
            finally:
                self.arm()

    cdef int ended(self) except -1:
        self.log_closed_by_peer()
        self.closing = True
        self.loop.add_ready(self.protocol.eof_received, (), self.context)
        return self.finish()

    cdef bint is_usual(self, object error):
        # EIO is how a terminal says that its other side has gone.
        return isinstance(error, OSError) and error.errno == EIO

    cpdef close(self):
        if not self.closing:
            self.force_close(None)

    cdef int force_close(self, object error) except -1:
        self.closing = True
        self.error = error
        self.held = None
        self.give_up()
        return self.finish()

    cdef int reading_paused(self) except -1:
        return self.give_up()

    cdef int reading_resumed(self) except -1:
        if self.held is None:
            return self.arm()
        if not self.delivery_scheduled:
            self.delivery_scheduled = True
            self.loop.add_ready(self.deliver, (), self.context)
        return 0


cdef class WritePipeCore(PipeCore):
    """The writing side."""

    cdef object queue                   # deque of bytes; the first ones are those of the request in flight
    cdef size_t head_offset             # how much of the first one is written
    cdef iovec iovecs[IOVECS_MAX]
    cdef uint64_t hangup_request
    cdef bint aborted                   # closing without waiting for the queue

    def __cinit__(self):
        self.queue = deque()

    cdef str refusal(self):
        return "Pipe transport is only for pipes, sockets and character devices"

    cdef bint idle(self) noexcept:
        return not self.in_flight(self.request) and not self.in_flight(self.hangup_request)

    cdef int give_up(self) except -1:
        PipeCore.give_up(self)
        return self.stop_watching()

    cdef int stop_watching(self) except -1:
        return self.loop.ops.cancel(self.hangup_request)

    # -- the reader's end -------------------------------------------------------------------------------------------------------------

    def start(self):
        self.watch_reader()

    cdef int watch_reader(self) except -1:
        # A pipe without readers is in error, which every poll reports. A socket whose peer has gone is readable.
        if not (self.aborted or self.lost_scheduled or self.hangup_request or stat.S_ISCHR(self.mode)):
            self.hangup_request = self.poll(TAG_HANGUP, POLLIN if stat.S_ISSOCK(self.mode) else 0)
        return 0

    cdef int reader_gone(self) except -1:
        self.log_closed_by_peer()
        return self.force_close(BrokenPipeError() if self.unsent_bytes else None)

    # -- writing ----------------------------------------------------------------------------------------------------------------------

    def write(self, data):
        assert isinstance(data, (bytes, bytearray, memoryview)), repr(data)
        if not data:
            return
        if self.closing or self.writes_after_loss:
            self.count_lost_write("pipe closed by peer or os.write(pipe, data) raised exception.")
            return
        if not isinstance(data, bytes):
            data = bytes(data)          # the caller may change it before it is written
        self.queue.append(data)
        self.unsent_bytes += PyBytes_GET_SIZE(data)
        if not self.request:
            self.loop.ops.check()
            if self.loop.idle_here():
                self.flush()
                self.loop.complete_now(self.request)
            else:
                self.loop.schedule_flush(self)
        if self.unsent_bytes > self.high_water_bytes:
            self.pause_protocol()

    cdef int flush(self) except -1:
        cdef io_uring_sqe *sqe
        cdef uint32_t count = 0
        cdef size_t skip = self.head_offset, size
        if self.request or self.aborted or not self.queue:
            return 0
        for data in self.queue:
            size = PyBytes_GET_SIZE(data) - skip
            self.iovecs[count].iov_base = PyBytes_AS_STRING(data) + skip
            self.iovecs[count].iov_len = size if size < WRITE_BYTES_MAX else WRITE_BYTES_MAX
            count += 1
            skip = 0
            if count == IOVECS_MAX or size > WRITE_BYTES_MAX:
                break
        sqe = self.loop.ops.begin(self, PipeCore.complete, TAG_DATA)
        if count == 1:
            prep_write(sqe, self.fd, self.iovecs[0].iov_base, <uint32_t>self.iovecs[0].iov_len, CURRENT_POSITION)
        else:
            prep_writev(sqe, self.fd, self.iovecs, count, CURRENT_POSITION)
        self.request = sqe.user_data
        return 0

    cdef int completed(self, uint32_t tag, int32_t res) except -1:
        if tag == TAG_HANGUP:
            self.hangup_request = 0
            if self.aborted or self.closing and not self.queue:
                return self.finish()
            if res == -ECANCELED:
                return self.watch_reader()
            return self.reader_gone() if res > 0 else 0
        self.request = 0
        if self.aborted:
            self.queue.clear()
            return self.finish()
        if tag == TAG_POLL or res == -ECANCELED or res == -EINTR:
            return self.flush()
        if res == -EAGAIN or res == 0:
            self.request = self.poll(TAG_POLL, POLLOUT)
            return 0
        if res < 0:
            self.writes_after_loss += 1
            return self.fatal_error(os_error(res), "Fatal write error on pipe transport")
        self.written(res)
        return 0

    cdef int written(self, size_t count) except -1:
        cdef size_t head
        self.unsent_bytes -= count
        count += self.head_offset
        while self.queue:
            head = PyBytes_GET_SIZE(self.queue[0])
            if count < head:
                break
            count -= head
            self.queue.popleft()
        self.head_offset = count
        if not self.queue:              # as asyncio, which does not look at the low-water mark here
            self.resume_protocol()      # may write more, or abort
        if self.aborted:
            return 0
        if self.closing and not self.queue:
            return self.end()
        return self.flush()

    cdef int end(self) except -1:
        """All is written after write_eof() or close()."""
        self.stop_watching()
        return self.finish()

    def write_eof(self):
        if self.closing:
            return
        self.closing = True
        if not self.queue:
            self.end()

    cpdef close(self):
        self.write_eof()

    cdef int abort(self) except -1:
        if not self.request and self.queue and not self.aborted:
            # asyncio's write() hands the kernel at once what the pipe takes, and an abort drops only the rest. One request has room for
            # IOVECS_MAX pieces, and there is no second one.
            if len(self.queue) > IOVECS_MAX:
                joined = b"".join(self.queue)
                self.queue.clear()
                self.queue.append(joined)
            self.flush()
            self.loop.submit_now()
        return self.force_close(None)

    cdef int force_close(self, object error) except -1:
        if self.aborted or self.lost_scheduled:
            return 0
        self.closing = True
        self.aborted = True
        self.error = error
        self.unsent_bytes = 0
        self.give_up()
        if not self.in_flight(self.request):
            self.queue.clear()          # else the kernel may still look at it
        return self.finish()


class PipeShell(TransportShell):
    """What both directions share."""

    __slots__ = ()

    def _open(self, PipeCore core, LoopCore loop not None, pipe, protocol, waiter, extra):
        transports.BaseTransport.__init__(self, extra)
        self._extra["pipe"] = pipe
        core.open(self, loop, pipe, protocol)
        self._core = core
        core.announce(waiter)

    @property
    def _pipe(self):
        return (<PipeCore>self._core).file

    @_pipe.setter
    def _pipe(self, pipe):      # programs set it to None when they have closed the pipe themselves
        (<PipeCore>self._core).file = pipe


class ReadPipeTransport(PipeShell, ReadableShell, asyncio.ReadTransport):
    """The reading end of a pipe, FIFO, socket or character device: an asyncio.ReadTransport. Made by loop.connect_read_pipe()."""

    # asyncio's transports take any attribute, and programs use that to wrap a method.
    __slots__ = ("__dict__", "__weakref__", "_core")
    max_size = READ_BYTES_MAX

    def __init__(self, loop, pipe, protocol, waiter=None, extra=None):
        self._open(ReadPipeCore.__new__(ReadPipeCore), loop, pipe, protocol, waiter, extra)

    def __repr__(self):
        return (<PipeCore>self._core).describe(type(self).__name__, "")


class WritePipeTransport(PipeShell, WritableShell, transports._FlowControlMixin, asyncio.WriteTransport):
    """The writing end of a pipe, FIFO, socket or character device: an asyncio.WriteTransport. Made by loop.connect_write_pipe().

    The bases are those of asyncio's: what is only for reading raises NotImplementedError.
    """

    # asyncio's transports take any attribute, and programs use that to wrap a method.
    __slots__ = ("__dict__", "__weakref__", "_core")

    def __init__(self, loop, pipe, protocol, waiter=None, extra=None):
        self._open(WritePipeCore.__new__(WritePipeCore), loop, pipe, protocol, waiter, extra)

    def write(self, data):
        (<WritePipeCore>self._core).write(data)

    def can_write_eof(self):
        return True

    def write_eof(self):
        (<WritePipeCore>self._core).write_eof()

    def __repr__(self):
        cdef WritePipeCore core = self._core
        return core.describe(type(self).__name__, f" bufsize={core.unsent_bytes}")


class PipeMixin:
    """The part of the loop that makes pipe transports."""

    def _make_read_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return WritePipeTransport(self, pipe, protocol, waiter, extra)
