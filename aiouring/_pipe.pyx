"""connect_read_pipe and connect_write_pipe: transports for pipes, FIFOs, sockets and character devices, by READ and WRITE requests.

Used by `loop.Loop` (PipeMixin) and, through it, by `process` for a child's stdio. Calls `_op`, `_prep`, `_loop`.

Each transport is a native core with the state and a thin shell that is an instance of asyncio's transport class, which is what the protocol
sees. Core and shell refer to each other until connection_lost.

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

from aiouring._loop cimport Flushable, LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_poll_add, prep_read, prep_write, prep_writev
from aiouring.uapi cimport *

import asyncio
import os
import stat
import warnings
from asyncio import constants, futures, transports
from asyncio.log import logger
from collections import deque

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef enum:
    READ_BYTES_MAX = 256 * 1024
    WRITE_BYTES_MAX = 1 << 30           # below what the kernel moves in one request
    IOVECS_MAX = 64
    TAG_DATA = 0
    TAG_POLL = 1                        # wait, then read or write again
    TAG_HANGUP = 2                      # wait for the reader to go away

cdef uint64_t CURRENT_POSITION = <uint64_t>-1


cdef class PipeCore(Flushable):
    """What both directions share."""

    cdef LoopCore loop
    cdef object shell, pipe, protocol, context, lost_exc
    cdef readonly int fd
    cdef uint32_t mode
    cdef readonly bint closing
    cdef bint lost                      # connection_lost was scheduled
    cdef uint64_t request               # READ, WRITE or the poll before it

    def __init__(self, shell, LoopCore loop not None, pipe, protocol):
        cdef int fd = pipe.fileno()
        self.fd = fd
        self.mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(self.mode) or stat.S_ISSOCK(self.mode) or stat.S_ISCHR(self.mode)):
            raise ValueError(self.refusal())
        os.set_blocking(fd, False)
        self.loop = loop
        self.shell = shell
        self.pipe = pipe
        self.protocol = protocol
        self.context = PyContext_CopyCurrent()

    cdef str refusal(self):
        raise NotImplementedError

    cdef int announce(self, waiter) except -1:
        """connection_made, then the first requests, then whoever waits for the transport."""
        self.loop.add_ready(self.protocol.connection_made, (self.shell,), self.context)
        self.loop.add_ready(self.start, (), self.context)
        if waiter is not None:
            self.loop.add_ready(futures._set_result_unless_cancelled, (waiter, None), None)
        return 0

    cdef bint in_flight(self, uint64_t request) noexcept:
        # Asked of the table: the last CQEs of a loop that was closed are not delivered.
        return request != 0 and self.loop.ops.is_live(request)

    cdef int give_up(self) except -1:
        """Cancel what is in flight; the last CQE calls finish()."""
        if self.in_flight(self.request):
            self.loop.ops.cancel(self.request)
        return 0

    cdef bint idle(self) noexcept:
        return not self.in_flight(self.request)

    cdef int finish(self) except -1:
        """Schedule connection_lost if nothing is in flight any more."""
        if self.lost or not self.idle():
            return 0
        self.lost = True
        self.loop.add_ready(self.call_connection_lost, (self.lost_exc,), self.context)
        return 0

    def call_connection_lost(self, exc):
        try:
            self.protocol.connection_lost(exc)
        finally:
            self.pipe.close()
            self.pipe = None
            self.protocol = None
            self.lost_exc = None
            self.shell = None           # the cycle ends here

    cdef int call_in_context(self, callback) except -1:
        """Call into the protocol from a completion. Exceptions are reported and do not end the transport, as in asyncio."""
        try:
            PyContext_Enter(self.context)
            try:
                callback()
            finally:
                PyContext_Exit(self.context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc, f"Exception in a callback of {self.shell!r}")
        return 0

    cdef int report(self, exc, message) except -1:
        self.loop.call_exception_handler({
            "message": message,
            "exception": exc,
            "transport": self.shell,
            "protocol": self.protocol,
        })
        return 0

    cdef int log_closed_by_peer(self) except -1:
        if self.loop._debug:
            logger.info("%r was closed by peer", self.shell)
        return 0

    def describe(self, str name, str extra):
        if self.pipe is None:
            return f"<{name} closed fd={self.fd} closed>"
        return f"<{name}{' closing' if self.closing else ''} fd={self.fd} open{extra}>"


cdef class ReadPipeCore(PipeCore):
    """The reading side."""

    cdef bint paused
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
        sqe = self.loop.ops.begin(self, ReadPipeCore.complete, TAG_DATA)
        prep_read(sqe, self.fd, self.buffer, READ_BYTES_MAX, CURRENT_POSITION)
        self.request = sqe.user_data
        return 0

    cdef int arm_poll(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, ReadPipeCore.complete, TAG_POLL)
        prep_poll_add(sqe, self.fd, POLLIN)
        self.request = sqe.user_data
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef ReadPipeCore self = <ReadPipeCore>owner
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
            return 0 if self.paused else self.arm_poll()
        if res < 0:
            return self.hold(os_error(res))
        if stat.S_ISFIFO(self.mode) and not self.polled:
            # A FIFO that no writer has opened yet reads as ended, and only poll can tell the difference.
            return 0 if self.paused else self.arm_poll()
        return self.hold(b"")

    cdef int hold(self, outcome) except -1:
        """Hand over what the read brought, or keep it until a paused transport resumes."""
        self.held = outcome
        if self.paused or self.delivery_scheduled:
            return 0
        return self.call_in_context(self.deliver)

    def deliver(self):
        outcome = self.held
        self.delivery_scheduled = False
        if outcome is None or self.paused or self.closing:
            return
        self.held = None
        if not isinstance(outcome, bytes):
            self.fail(outcome, "Fatal read error on pipe transport")
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

    cdef int fail(self, exc, message) except -1:
        # EIO is how a terminal says that its other side has gone.
        if isinstance(exc, OSError) and exc.errno == EIO:
            if self.loop._debug:
                logger.debug("%r: %s", self.shell, message, exc_info=exc)
        else:
            self.report(exc, message)
        self.shut(exc)
        return 0

    def shut(self, exc):
        self.closing = True
        self.lost_exc = exc
        self.held = None
        self.give_up()
        self.finish()

    def is_reading(self):
        return not self.paused and not self.closing

    def pause(self):
        if self.paused or self.closing:
            return
        self.paused = True
        self.give_up()
        if self.loop._debug:
            logger.debug("%r pauses reading", self.shell)

    def resume(self):
        if not self.paused or self.closing:
            return
        self.paused = False
        if self.held is None:
            self.arm()
        elif not self.delivery_scheduled:
            self.delivery_scheduled = True
            self.loop.add_ready(self.deliver, (), self.context)
        if self.loop._debug:
            logger.debug("%r resumes reading", self.shell)


cdef class WritePipeCore(PipeCore):
    """The writing side."""

    cdef object queue                   # deque of bytes; the first ones are those of the request in flight
    cdef size_t head_offset             # how much of the first one is written
    cdef Py_ssize_t unsent
    cdef iovec iovecs[IOVECS_MAX]
    cdef uint64_t hangup_request
    cdef int writes_after_loss
    cdef bint aborted                   # closing without waiting for the queue
    cdef bint protocol_paused
    cdef Py_ssize_t high_water, low_water

    def __init__(self, shell, LoopCore loop not None, pipe, protocol):
        PipeCore.__init__(self, shell, loop, pipe, protocol)
        self.queue = deque()
        self.set_limits(None, None)

    cdef str refusal(self):
        return "Pipe transport is only for pipes, sockets and character devices"

    cdef bint idle(self) noexcept:
        return not self.in_flight(self.request) and not self.in_flight(self.hangup_request)

    cdef int give_up(self) except -1:
        PipeCore.give_up(self)
        return self.stop_watching()

    cdef int stop_watching(self) except -1:
        if self.in_flight(self.hangup_request):
            self.loop.ops.cancel(self.hangup_request)
        return 0

    # -- the reader's end -------------------------------------------------------------------------------------------------------------

    def start(self):
        self.watch_reader()

    cdef int watch_reader(self) except -1:
        cdef io_uring_sqe *sqe
        # A pipe without readers is in error, which every poll reports. A socket whose peer has gone is readable.
        if self.aborted or self.lost or self.hangup_request or stat.S_ISCHR(self.mode):
            return 0
        sqe = self.loop.ops.begin(self, WritePipeCore.complete, TAG_HANGUP)
        prep_poll_add(sqe, self.fd, POLLIN if stat.S_ISSOCK(self.mode) else 0)
        self.hangup_request = sqe.user_data
        return 0

    cdef int reader_gone(self) except -1:
        self.log_closed_by_peer()
        self.shut(BrokenPipeError() if self.unsent else None)
        return 0

    # -- writing ----------------------------------------------------------------------------------------------------------------------

    def write(self, data):
        assert isinstance(data, (bytes, bytearray, memoryview)), repr(data)
        if not data:
            return
        if self.closing or self.writes_after_loss:
            if self.writes_after_loss >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self.writes_after_loss += 1
            return
        if not isinstance(data, bytes):
            data = bytes(data)          # the caller may change it before it is written
        self.queue.append(data)
        self.unsent += PyBytes_GET_SIZE(data)
        if not self.request:
            self.loop.ops.check()
            if self.loop.idle_here():
                self.flush()
                self.loop.complete_now(self.request)
            else:
                self.loop.schedule_flush(self)
        self.pause_protocol_if_full()

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
        sqe = self.loop.ops.begin(self, WritePipeCore.complete, TAG_DATA)
        if count == 1:
            prep_write(sqe, self.fd, self.iovecs[0].iov_base, <uint32_t>self.iovecs[0].iov_len, CURRENT_POSITION)
        else:
            prep_writev(sqe, self.fd, self.iovecs, count, CURRENT_POSITION)
        self.request = sqe.user_data
        return 0

    cdef int wait_writable(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, WritePipeCore.complete, TAG_POLL)
        prep_poll_add(sqe, self.fd, POLLOUT)
        self.request = sqe.user_data
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef WritePipeCore self = <WritePipeCore>owner
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
            return self.wait_writable()
        if res < 0:
            self.writes_after_loss += 1
            return self.fail(os_error(res), "Fatal write error on pipe transport")
        self.written(res)
        return 0

    cdef int written(self, size_t count) except -1:
        cdef size_t head
        self.unsent -= count
        count += self.head_offset
        while self.queue:
            head = PyBytes_GET_SIZE(self.queue[0])
            if count < head:
                break
            count -= head
            self.queue.popleft()
        self.head_offset = count
        if not self.queue and self.protocol_paused:
            self.call_in_context(self.resume_protocol)      # may write more, or abort
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

    cdef int fail(self, exc, message) except -1:
        if self.loop._debug:
            logger.debug("%r: %s", self.shell, message, exc_info=exc)
        self.shut(exc)
        return 0

    def abort(self):
        if not self.request and self.queue and not self.aborted:
            # asyncio's write() hands the kernel at once what the pipe takes, and an abort drops only the rest. One request has room for
            # IOVECS_MAX pieces, and there is no second one.
            if len(self.queue) > IOVECS_MAX:
                joined = b"".join(self.queue)
                self.queue.clear()
                self.queue.append(joined)
            self.flush()
            self.loop.submit_now()
        self.shut(None)

    def shut(self, exc):
        if self.aborted or self.lost:
            return
        self.closing = True
        self.aborted = True
        self.lost_exc = exc
        self.unsent = 0
        self.give_up()
        if not self.in_flight(self.request):
            self.queue.clear()          # else the kernel may still look at it
        self.finish()

    # -- back-pressure ----------------------------------------------------------------------------------------------------------------

    def buffer_size(self):
        return self.unsent

    def limits(self):
        return (self.low_water, self.high_water)

    def set_limits(self, high, low):
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high_water = high
        self.low_water = low

    cdef int pause_protocol_if_full(self) except -1:
        if self.unsent > self.high_water and not self.protocol_paused:
            self.protocol_paused = True
            self.call_flow_control("pause_writing")
        return 0

    def resume_protocol(self):
        self.protocol_paused = False
        self.call_flow_control("resume_writing")

    cdef int call_flow_control(self, name) except -1:
        try:
            getattr(self.protocol, name)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc, f"protocol.{name}() failed")
        return 0


cdef PipeCore core_of(object shell):
    return getattr(shell, "_core", None)


cdef object warn_unclosed(shell):
    """A transport that was dropped: its constructor may have failed, and then the pipe is its caller's."""
    cdef PipeCore core = core_of(shell)
    if core is not None and core.pipe is not None:
        warnings.warn(f"unclosed transport {shell!r}", ResourceWarning, source=shell)
        core.pipe.close()


class ReadPipeTransport(asyncio.ReadTransport):
    """The reading end of a pipe, FIFO, socket or character device: an asyncio.ReadTransport. Made by loop.connect_read_pipe()."""

    # asyncio's transports take any attribute, and programs use that to wrap a method.
    __slots__ = ("__dict__", "__weakref__", "_core")
    max_size = READ_BYTES_MAX

    def __init__(self, loop, pipe, protocol, waiter=None, extra=None):
        super().__init__(extra)
        self._extra["pipe"] = pipe
        core = ReadPipeCore(self, loop, pipe, protocol)
        self._core = core
        (<ReadPipeCore>core).announce(waiter)

    @property
    def _pipe(self):
        return (<PipeCore>self._core).pipe

    @_pipe.setter
    def _pipe(self, pipe):      # programs set it to None when they have closed the pipe themselves
        (<PipeCore>self._core).pipe = pipe

    def is_reading(self):
        return (<ReadPipeCore>self._core).is_reading()

    def pause_reading(self):
        (<ReadPipeCore>self._core).pause()

    def resume_reading(self):
        (<ReadPipeCore>self._core).resume()

    def set_protocol(self, protocol):
        (<ReadPipeCore>self._core).protocol = protocol

    def get_protocol(self):
        return (<ReadPipeCore>self._core).protocol

    def is_closing(self):
        return (<ReadPipeCore>self._core).closing

    def close(self):
        if not (<ReadPipeCore>self._core).closing:
            (<ReadPipeCore>self._core).shut(None)

    def __del__(self):
        warn_unclosed(self)

    def __repr__(self):
        return (<ReadPipeCore>self._core).describe(type(self).__name__, "")


class WritePipeTransport(transports._FlowControlMixin, asyncio.WriteTransport):
    """The writing end of a pipe, FIFO, socket or character device: an asyncio.WriteTransport. Made by loop.connect_write_pipe().

    The bases are those of asyncio's: what is only for reading raises NotImplementedError.
    """

    # asyncio's transports take any attribute, and programs use that to wrap a method.
    __slots__ = ("__dict__", "__weakref__", "_core")

    def __init__(self, loop, pipe, protocol, waiter=None, extra=None):
        transports.BaseTransport.__init__(self, extra)
        self._extra["pipe"] = pipe
        core = WritePipeCore(self, loop, pipe, protocol)
        self._core = core
        (<WritePipeCore>core).announce(waiter)

    @property
    def _pipe(self):
        return (<PipeCore>self._core).pipe

    @_pipe.setter
    def _pipe(self, pipe):      # programs set it to None when they have closed the pipe themselves
        (<PipeCore>self._core).pipe = pipe

    def write(self, data):
        (<WritePipeCore>self._core).write(data)

    def can_write_eof(self):
        return True

    def write_eof(self):
        (<WritePipeCore>self._core).write_eof()

    def get_write_buffer_size(self):
        return (<WritePipeCore>self._core).buffer_size()

    def get_write_buffer_limits(self):
        return (<WritePipeCore>self._core).limits()

    def set_write_buffer_limits(self, high=None, low=None):
        (<WritePipeCore>self._core).set_limits(high, low)
        (<WritePipeCore>self._core).pause_protocol_if_full()

    def set_protocol(self, protocol):
        (<WritePipeCore>self._core).protocol = protocol

    def get_protocol(self):
        return (<WritePipeCore>self._core).protocol

    def is_closing(self):
        return (<WritePipeCore>self._core).closing

    def close(self):
        (<WritePipeCore>self._core).write_eof()

    def abort(self):
        (<WritePipeCore>self._core).abort()

    def __del__(self):
        warn_unclosed(self)

    def __repr__(self):
        core = <WritePipeCore>self._core
        return (<WritePipeCore>core).describe(type(self).__name__, f" bufsize={(<WritePipeCore>core).unsent}")


class PipeMixin:
    """The part of the loop that makes pipe transports."""

    def _make_read_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return WritePipeTransport(self, pipe, protocol, waiter, extra)
