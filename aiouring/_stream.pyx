"""Stream socket transports: TCP and unix, client and server. (TLS runs above them.)

Used by `network` (which makes them) and by user code through asyncio.Transport. Calls `_loop`, `_op`, `_ring`.

A receive: one multishot RECV with provided buffers stays armed; each CQE's bytes are copied once, exactly sized, handed to the protocol,
and the buffer goes back to the kernel in the same turn. pause_reading() cancels it at the end of the turn; what was already on its way
waits in `backlog`. ENOBUFS re-arms at the next flush, in the order in which sockets ran dry.

A send: write() queues; at the end of the turn all that was written goes out in one SEND or SENDMSG. One is in flight per socket, a short
one is continued.

Who owns what: StreamCore is the native state, the shell (StreamTransport) is what users hold. While a request is in flight its slot holds
the core, and the core holds socket, protocol and the bytes being sent. connection_lost comes only after the last CQE of both requests; the
socket is closed right after it, and the core drops shell and protocol.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from aiouring._handle cimport new_handle
from aiouring._loop cimport STREAM_BUFFER_BYTES, Flushable, LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_poll_add, prep_recv, prep_recv_multishot, prep_send, prep_sendmsg
from aiouring._ring cimport BufferRing
from aiouring.uapi cimport *

import asyncio
import socket
import sys
import warnings
from asyncio import constants, transports, trsock
from asyncio.log import logger

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN

cdef extern from "Python.h":
    object PyMemoryView_FromObject(object exporter)
    Py_buffer *PyMemoryView_GET_BUFFER(object view)
    int PyBytes_Resize "_PyBytes_Resize"(PyObject **data, Py_ssize_t length) except -1
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    SEND_IOVECS_MAX = 256
    SEND_BYTES_MAX = 1 << 30            # a SEND's length has 32 bits; a short send is continued anyway
    BULK_BYTES = 120 * 1024             # below malloc's own threshold for mappings, which would cost a page fault for each page
    BULK_ENTER_VOTES = 3                # full buffers in a row, with more behind them
    BULK_LEAVE_VOTES = 32               # small receives in a row
    BULK_LEAVE_BYTES = 8192
    TAG_RECV = 1
    TAG_READABLE = 3
    TAG_BULK = 4
    TAG_SEND = 2

cdef object INTERNET_FAMILIES = (socket.AF_INET, socket.AF_INET6)
cdef bint SERVER_KNOWS_ITS_TRANSPORTS = sys.version_info >= (3, 13)


cdef class StreamCore(Flushable):

    def __cinit__(self):
        self.queue = []
        self.fd = -1

    def __dealloc__(self):
        PyMem_RawFree(self.iovecs)

    def __repr__(self):
        return repr(self.shell) if self.shell is not None else f"<StreamCore fd={self.fd} lost>"

    # -- receiving --------------------------------------------------------------------------------------------------------------------

    cdef bint wants_data(self) noexcept:
        # Not while a backlog waits: a reader that pauses again and again would let it grow without bound.
        return (self.reading and not self.paused and self.backlog is None and not self.closing and not self.lost
                and not self.eof_received)

    def start_reading(self):
        if not self.closing and not self.lost:
            self.reading = True
            self.loop.schedule_flush(self)

    cdef int arm_recv(self) except -1:
        cdef io_uring_sqe *sqe
        self.recv_cancelled = False
        if self.bulk:
            return self.wait_readable()
        self.recv_buffers = self.loop.get_stream_buffers()
        sqe = self.loop.ops.begin(self, StreamCore.complete, TAG_RECV)
        prep_recv_multishot(sqe, self.fd, self.recv_buffers.group)
        self.recv_request = sqe.user_data
        self.recv_tag = TAG_RECV
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef StreamCore self = <StreamCore>owner
        cdef bint was_lost = self.lost
        if tag == TAG_SEND:
            self.send_request = 0
            return self.sent(res)
        if not cqe_flags & IORING_CQE_F_MORE:
            self.recv_request = 0
        if cqe_flags & IORING_CQE_F_BUFFER:
            self.received(cqe_flags, res)
        elif tag == TAG_BULK:
            self.bulk_received(res, cqe_flags)
        elif tag == TAG_READABLE and res >= 0:
            self.readable = True        # or ended: the receive will say so
            res = 1
        if res > 0:
            pass
        elif res == 0:
            self.eof_received = True
            self.schedule_end(None)
        elif res != -ENOBUFS and res != -ECANCELED and res != -EAGAIN and res != -EINTR:
            self.schedule_end(os_error(res))
        if self.recv_request == 0:
            if was_lost:
                self.finish_now()
            elif self.lost:
                self.finish()
            elif self.wants_data():
                # The buffers ran out, the CQ overflowed, or the request was cancelled by a pause that is over: go on.
                self.loop.schedule_flush(self)
        return 0

    cdef int received(self, uint32_t cqe_flags, int32_t length) except -1:
        cdef BufferRing buffers = self.recv_buffers
        if length <= 0 or self.closing or self.lost:
            buffers.take(cqe_flags)     # as in asyncio: a transport that closes reads no more
            buffers.give_back(cqe_flags)
            return 0
        self.note_size(length, cqe_flags)
        if self.paused or self.backlog is not None:
            if self.backlog is None:
                self.backlog = []
            self.backlog.append(buffers.take_bytes(cqe_flags, length))
        elif self.buffered_protocol:
            try:
                self.fill(buffers.take(cqe_flags), length)
            finally:
                buffers.give_back(cqe_flags)
        else:
            self.hand_over(buffers.take_bytes(cqe_flags, length))
        return 0

    cdef int note_size(self, int32_t length, uint32_t cqe_flags) except -1:
        """Choose the way of receiving by what the peer sends."""
        cdef bint vote
        if self.bulk:
            vote = length <= BULK_LEAVE_BYTES
        else:
            # Messages of just this size fill a buffer as well, but leave nothing in the socket. (Unix sockets do not tell.)
            vote = length == STREAM_BUFFER_BYTES and (cqe_flags & IORING_CQE_F_SOCK_NONEMPTY or not self.is_internet)
        if not vote:
            self.size_votes = 0
            return 0
        if not self.bulk:
            PyMem_RawFree(PyMem_RawMalloc(2*1024*1024))
        self.size_votes += 1
        if self.size_votes >= (BULK_LEAVE_VOTES if self.bulk else BULK_ENTER_VOTES):
            self.size_votes = 0
            self.bulk = not self.bulk
            self.loop.schedule_flush(self)
        return 0

    # -- large receives ---------------------------------------------------------------------------------------------------------------

    cdef int wait_readable(self) except -1:
        cdef io_uring_sqe *sqe
        if self.readable:
            if not self.bulk_queued:
                self.bulk_queued = True
                self.loop.queue_bulk(self)
            return 0
        sqe = self.loop.ops.begin(self, StreamCore.complete, TAG_READABLE)
        prep_poll_add(sqe, self.fd, POLLIN)
        self.recv_request = sqe.user_data
        self.recv_tag = TAG_READABLE
        return 0

    cdef int start_bulk(self) except -1:
        cdef io_uring_sqe *sqe
        cdef void *memory
        cdef Py_ssize_t length
        self.bulk_queued = False
        if self.recv_request != 0 or not self.bulk or not self.wants_data():
            return 0
        if self.buffered_protocol:
            self.bulk_target = self.protocol_buffer()
            if self.bulk_target is None:
                return 0                # it raised, or closed the transport
            memory = PyMemoryView_GET_BUFFER(self.bulk_target).buf
            length = PyMemoryView_GET_BUFFER(self.bulk_target).len
        else:
            self.bulk_target = PyBytes_FromStringAndSize(NULL, BULK_BYTES)
            memory = PyBytes_AS_STRING(self.bulk_target)
            length = BULK_BYTES
        sqe = self.loop.ops.begin(self, StreamCore.complete, TAG_BULK)
        prep_recv(sqe, self.fd, memory, <uint32_t>(length if length < SEND_BYTES_MAX else SEND_BYTES_MAX), MSG_DONTWAIT)
        self.recv_request = sqe.user_data
        self.recv_tag = TAG_BULK
        return 0

    cdef object protocol_buffer(self):
        PyContext_Enter(self.context)
        try:
            view = PyMemoryView_FromObject(self.protocol.get_buffer(-1))
            if PyMemoryView_GET_BUFFER(view).readonly or not PyMemoryView_GET_BUFFER(view).len:
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return None
        finally:
            PyContext_Exit(self.context)
        return view if self.wants_data() else None

    cdef int bulk_received(self, int32_t length, uint32_t cqe_flags) except -1:
        cdef PyObject *raw
        cdef object target = self.bulk_target
        cdef bytes data
        self.bulk_target = None
        # What the kernel says of the socket; not all say it of unix sockets, where a full buffer speaks for more.
        self.readable = length > 0 and (cqe_flags & IORING_CQE_F_SOCK_NONEMPTY or not self.is_internet and length >= BULK_BYTES)
        if length <= 0 or self.closing or self.lost:
            return 0
        self.note_size(length, cqe_flags)
        if not PyBytes_CheckExact(target):
            if self.paused or self.backlog is not None or not self.buffered_protocol:
                data = bytes(target[:length])
            else:
                return self.tell_buffer_updated(length)
        else:
            raw = <PyObject *>target
            Py_INCREF(target)
            target = None
            PyBytes_Resize(&raw, length)
            data = <bytes>raw
            Py_DECREF(data)
        if self.paused or self.backlog is not None:
            if self.backlog is None:
                self.backlog = []
            self.backlog.append(data)
            return 0
        if self.buffered_protocol:
            return self.fill(PyBytes_AS_STRING(data), length)
        return self.hand_over(data)

    cdef int tell_buffer_updated(self, Py_ssize_t length) except -1:
        PyContext_Enter(self.context)
        try:
            self.protocol.buffer_updated(length)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int hand_over(self, bytes data) except -1:
        PyContext_Enter(self.context)
        try:
            self.protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int fill(self, const char *data, Py_ssize_t length) except -1:
        PyContext_Enter(self.context)
        try:
            self.fill_buffers(data, length)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.buffer_updated() or get_buffer() call failed.")
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int fill_buffers(self, const char *data, Py_ssize_t length) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t done = 0, part
        while done < length:
            if self.closing or self.lost:
                return 0
            if self.paused or not self.buffered_protocol:
                # The protocol paused, or was replaced, in the middle of what the kernel gave us.
                if self.paused:
                    self.backlog = [PyBytes_FromStringAndSize(data + done, length - done)]
                else:
                    self.protocol.data_received(PyBytes_FromStringAndSize(data + done, length - done))
                return 0
            buffer = self.protocol.get_buffer(length - done)
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
            part = view.len if view.len < length - done else length - done
            if part:
                memcpy(view.buf, data + done, part)
            PyBuffer_Release(&view)
            if part == 0:
                raise RuntimeError("get_buffer() returned an empty buffer")
            self.protocol.buffer_updated(part)
            done += part
        return 0

    cdef int schedule_end(self, object error) except -1:
        """The end of the stream, or the error that ended it, one turn after the data before it.

        A selector's loop never reports data and end of one socket in the same turn, and programs rely on it: what data_received()
        scheduled runs first. asyncio's TLS protocol loses data when the end overtakes its own resumption of reading.
        """
        self.loop.add_ready(self.deliver_end, (error,), self.loop_context())
        return 0

    def deliver_end(self, error):
        if error is None:
            self.end_of_stream()
        else:
            self.recv_failed(error)

    cdef int end_of_stream(self) except -1:
        if self.closing or self.lost:
            return 0
        if self.paused or self.backlog is not None:
            if self.backlog is None:
                self.backlog = []
            self.backlog.append(None)
            return 0
        if self.loop._debug:
            logger.debug("%r received EOF", self.shell)
        PyContext_Enter(self.context)
        try:
            keep_open = self.protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return 0
        finally:
            PyContext_Exit(self.context)
        if not keep_open:
            self.close()
        return 0

    cdef int recv_failed(self, object error) except -1:
        if self.lost:
            return 0
        if self.paused or self.backlog is not None:
            if self.backlog is None:
                self.backlog = []
            self.backlog.append(error)
            return 0
        return self.fatal_error(error, "Fatal read error on socket transport")

    def pause_reading(self):
        if not self.is_reading():
            return
        self.loop.ops.check()
        self.paused = True
        self.loop.schedule_flush(self)
        if self.loop._debug:
            logger.debug("%r pauses reading", self.shell)

    def resume_reading(self):
        if self.closing or not self.paused:
            return
        self.loop.ops.check()
        self.paused = False
        self.schedule_backlog()
        self.loop.schedule_flush(self)
        if self.loop._debug:
            logger.debug("%r resumes reading", self.shell)

    def loop_context(self):
        # replay_backlog enters the transport's context itself, for each item, so it must not run inside it.
        return PyContext_CopyCurrent()

    def replay_backlog(self):
        """Hand over what came between pause_reading() and the end of the receive, in order, as long as nobody pauses again."""
        cdef list backlog = self.backlog
        cdef Py_ssize_t index = 0
        self.backlog_scheduled = False
        self.backlog = None
        if backlog is None:
            return
        try:
            while index < len(backlog) and not self.paused and not self.closing and not self.lost:
                item = backlog[index]
                index += 1
                if not isinstance(item, bytes):
                    self.schedule_end(item)
                elif self.buffered_protocol:
                    self.fill(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
                else:
                    self.hand_over(item)
        finally:
            if index < len(backlog) and not self.closing and not self.lost:
                self.backlog = (self.backlog or []) + backlog[index:]
                if not self.paused:
                    self.schedule_backlog()     # a KeyboardInterrupt came between
            self.loop.schedule_flush(self)      # an empty backlog lets the receive go on

    cdef int schedule_backlog(self) except -1:
        if self.backlog is not None and not self.backlog_scheduled:
            self.backlog_scheduled = True
            self.loop.add_ready(self.replay_backlog, (), self.loop_context())
        return 0

    # -- sending ----------------------------------------------------------------------------------------------------------------------

    cdef int check_write(self) except -1:
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        return 0

    cdef int enqueue(self, object data) except -1:
        cdef Py_ssize_t length
        if PyBytes_CheckExact(data):
            length = PyBytes_GET_SIZE(data)
        else:
            data = bytes(data)          # the caller may change it before it is sent
            length = PyBytes_GET_SIZE(data)
        if length:
            self.queue.append(data)
            self.unsent_bytes += length
        return 0

    cdef int after_enqueue(self) except -1:
        if self.send_request == 0:
            if self.loop.idle_here():
                self.flush()
                self.loop.complete_now(self.send_request)
            else:
                self.loop.schedule_flush(self)
        if self.unsent_bytes > self.high_water_bytes and self.paused_protocol is not self.protocol:
            # A protocol that was replaced while it was paused is let go: the new one writes now.
            former = self.paused_protocol
            self.paused_protocol = self.protocol
            self.tell("resume_writing", former)
            self.tell("pause_writing", self.protocol)
        return 0

    cdef int tell(self, str method, object protocol) except -1:
        """Call pause_writing or resume_writing in the transport's context."""
        cdef bint entered = True
        if protocol is None:
            return 0
        try:
            PyContext_Enter(self.context)
        except RuntimeError:
            entered = False             # write() was called by a protocol callback: this is that context already
        try:
            getattr(protocol, method)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc, f"protocol.{method}() failed")
        finally:
            if entered:
                PyContext_Exit(self.context)
        return 0

    def write(self, data):
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        self.check_write()
        if self.lost:
            if data:
                if self.writes_after_loss >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                    logger.warning("socket.send() raised exception.")
                self.writes_after_loss += 1
            return
        self.loop.ops.check()           # refuse before anything has changed
        self.enqueue(data)
        if self.unsent_bytes:
            self.after_enqueue()

    def writelines(self, list_of_data):
        self.check_write()
        cdef list pieces = list(list_of_data)
        for data in pieces:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.lost:
            return self.write(b"".join(pieces))
        self.loop.ops.check()
        for data in pieces:
            self.enqueue(data)
        if self.unsent_bytes:
            self.after_enqueue()

    cdef int flush(self) except -1:
        try:
            self.queue_requests()
        except (OSError, MemoryError) as exc:
            # Nothing would try again: a connection that ends is better than one that hangs.
            self.fatal_error(exc, "Fatal error: the connection's requests could not be queued")
        return 0

    cdef int queue_requests(self) except -1:
        if self.recv_request == 0:
            if self.wants_data():
                self.arm_recv()
        elif not self.recv_cancelled and (self.bulk != (self.recv_tag != TAG_RECV) or not self.wants_data()):
            self.recv_cancelled = True
            self.loop.ops.cancel(self.recv_request)
        if self.send_request == 0 and not self.lost and (self.sending is not None or self.queue):
            self.arm_send(MSG_NOSIGNAL)
        return 0

    cdef int arm_send(self, uint32_t msg_flags) except -1:
        cdef io_uring_sqe *sqe
        cdef Py_ssize_t count, index, length
        cdef object data
        if self.sending is None:
            self.sending = self.queue
            self.queue = []
            self.sending_index = self.sending_offset = 0
        count = len(self.sending) - self.sending_index
        data = self.sending[self.sending_index]
        if count == 1:
            length = PyBytes_GET_SIZE(data) - self.sending_offset
            sqe = self.loop.ops.begin(self, StreamCore.complete, TAG_SEND)
            prep_send(sqe, self.fd, PyBytes_AS_STRING(data) + self.sending_offset,
                      <uint32_t>(length if length < SEND_BYTES_MAX else SEND_BYTES_MAX), msg_flags)
            self.send_request = sqe.user_data
            return 0
        if count > SEND_IOVECS_MAX:
            count = SEND_IOVECS_MAX
        PyMem_RawFree(self.iovecs)
        self.iovecs = <iovec *>PyMem_RawMalloc(count * sizeof(iovec))
        if self.iovecs == NULL:
            raise MemoryError()
        for index in range(count):
            data = self.sending[self.sending_index + index]
            self.iovecs[index].iov_base = PyBytes_AS_STRING(data)
            self.iovecs[index].iov_len = PyBytes_GET_SIZE(data)
        self.iovecs[0].iov_base = <char *>self.iovecs[0].iov_base + self.sending_offset
        self.iovecs[0].iov_len -= self.sending_offset
        self.header.msg_iov = self.iovecs
        self.header.msg_iovlen = count
        sqe = self.loop.ops.begin(self, StreamCore.complete, TAG_SEND)
        prep_sendmsg(sqe, self.fd, &self.header, msg_flags)
        self.send_request = sqe.user_data
        return 0

    cdef int sent(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t left
        if self.iovecs != NULL:
            PyMem_RawFree(self.iovecs)
            self.iovecs = NULL
        if self.lost:
            self.sending = None
            return self.finish_now()
        if count < 0:
            if count != -ECANCELED and count != -EAGAIN and count != -EINTR:
                self.drop_queue()
                return self.fatal_error(os_error(<int32_t>count), "Fatal write error on socket transport")
            count = 0                   # nothing moved: the same bytes again
        self.unsent_bytes -= count
        while count:
            left = PyBytes_GET_SIZE(self.sending[self.sending_index]) - self.sending_offset
            if count < left:
                self.sending_offset += count
                break
            count -= left
            self.sending_offset = 0
            self.sending[self.sending_index] = None     # a long list gives its memory back as it goes out
            self.sending_index += 1
        if self.sending_index == len(self.sending):
            self.sending = None
        if self.unsent_bytes:
            self.loop.schedule_flush(self)
        self.resume_protocol()          # may write more
        if self.unsent_bytes == 0:
            self.all_sent()
        return 0

    cdef int all_sent(self) except -1:
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.closing:
            self.lose(None)
            self.finish()
        elif self.eof_written:
            self.sock.shutdown(socket.SHUT_WR)
        return 0

    cdef int resume_protocol(self) except -1:
        # The protocol that was paused is told, also if start_tls() put another in its place meanwhile.
        if self.paused_protocol is not None and self.unsent_bytes <= self.low_water_bytes:
            protocol, self.paused_protocol = self.paused_protocol, None
            self.tell("resume_writing", protocol)
        return 0

    def set_write_buffer_limits(self, high, low):
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high_water_bytes = high
        self.low_water_bytes = low

    def write_eof(self):
        if self.closing or self.eof_written:
            return
        self.eof_written = True
        if self.unsent_bytes == 0:
            self.sock.shutdown(socket.SHUT_WR)

    # -- the end ----------------------------------------------------------------------------------------------------------------------

    def report(self, exc, message):
        self.loop.call_exception_handler(
            {"message": message, "exception": exc, "transport": self.shell, "protocol": self.protocol})

    cdef int fatal_error(self, object error, str message) except -1:
        if isinstance(error, OSError):
            if self.loop._debug:
                logger.debug("%r: %s", self.shell, message, exc_info=error)
        else:
            self.report(error, message)
        return self.force_close(error)

    cpdef close(self):
        if self.closing or self.lost:
            return
        self.loop.ops.check()           # refuse before anything has changed
        self.closing = True
        self.loop.schedule_flush(self)          # ends the receive
        if self.unsent_bytes == 0:
            self.lose(None)
            self.finish()

    cdef int force_close(self, object error) except -1:
        if self.lost:
            return 0
        self.loop.ops.check()
        self.closing = True
        if self.send_request == 0 and self.unsent_bytes:
            # asyncio's write() hands the kernel at once what its buffer takes; an abort drops only the rest. TLS alerts rely on it.
            try:
                self.arm_send(MSG_NOSIGNAL | MSG_DONTWAIT)
            except (OSError, MemoryError):
                pass                    # then all of it is dropped
            last_send, self.send_request = self.send_request, 0
            self.lose(error)
            self.send_request = last_send
        else:
            self.lose(error)
        self.queue = []
        self.unsent_bytes = 0
        return self.finish()

    cdef int drop_queue(self) except -1:
        self.sending = None
        self.queue = []
        self.unsent_bytes = 0
        return 0

    cdef int lose(self, object error) except -1:
        """No more data in either direction: end both requests; connection_lost follows their last CQEs."""
        if self.lost:
            return 0
        self.lost = True
        self.error = error
        self.backlog = None
        self.loop.ops.cancel(self.recv_request)
        self.loop.ops.cancel(self.send_request)
        return 0

    cdef int finish(self) except -1:
        if self.recv_request or self.send_request or self.lost_scheduled:
            return 0
        self.lost_scheduled = True
        self.loop.add_ready(self.call_connection_lost, (), self.context)
        return 0

    cdef int finish_now(self) except -1:
        # The answer to a cancel comes a turn after abort() or close(): that is when asyncio calls connection_lost(), also in a loop that
        # stops with this turn. What was lost in this very completion waits for the next turn, as there.
        if self.recv_request or self.send_request or self.lost_scheduled:
            return 0
        self.lost_scheduled = True
        return new_handle(self.loop, self.call_connection_lost, (), self.context).run()

    def call_connection_lost(self):
        protocol, server, sock, shell = self.protocol, self.server, self.sock, self.shell
        try:
            protocol.connection_lost(self.error)
        finally:
            sock.close()
            self.fd = -1
            self.sending = None
            self.queue = []
            # The ways back from the core are cut, so that transport and protocol are freed without the garbage collector.
            self.protocol = self.server = self.shell = self.error = self.paused_protocol = None
            if self.empty_waiter is not None and not self.empty_waiter.done():
                self.empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))
            if server is not None:
                if SERVER_KNOWS_ITS_TRANSPORTS:
                    server._detach(shell)
                else:
                    server._detach()

    def is_reading(self):
        return not self.closing and not self.paused and not self.lost

    def make_empty_waiter(self):
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.empty_waiter = self.loop.create_future()
        if self.unsent_bytes == 0:
            self.empty_waiter.set_result(None)
        return self.empty_waiter


class StreamTransport(transports._FlowControlMixin):
    """A connected stream socket. Made by the loop's create_connection, create_server and their relatives."""

    # asyncio's sendfile insists on its own flow-control class, an asyncio.Transport with slots of which only `_loop` is used here.
    __slots__ = ("__dict__", "__weakref__", "_core")
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(self, LoopCore loop not None, sock, protocol, waiter=None, extra=None, server=None, context=None):
        cdef StreamCore core = StreamCore.__new__(StreamCore)
        transports.BaseTransport.__init__(self, extra)
        self._core = core
        self._loop = loop
        core.loop = loop
        core.shell = self
        core.sock = sock
        core.fd = sock.fileno()
        core.is_internet = sock.family in INTERNET_FAMILIES
        core.server = server
        core.context = PyContext_CopyCurrent() if context is None else context
        core.set_write_buffer_limits(None, None)
        self._extra["socket"] = trsock.TransportSocket(sock)
        try:
            self._extra["sockname"] = sock.getsockname()
        except OSError:
            self._extra["sockname"] = None
        if "peername" not in self._extra:
            try:
                self._extra["peername"] = sock.getpeername()
            except OSError:
                self._extra["peername"] = None      # the peer has gone already: the receive will say so
        self.set_protocol(protocol)
        if server is not None:
            if SERVER_KNOWS_ITS_TRANSPORTS:
                server._attach(self)
            else:
                server._attach()
        loop._transports[core.fd] = self
        if sock.family in INTERNET_FAMILIES and sock.type == socket.SOCK_STREAM and sock.proto in (0, socket.IPPROTO_TCP):
            # asyncio does so only where the protocol number is given; 0 means TCP as well.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.add_ready(protocol.connection_made, (self,), core.context)
        loop.add_ready(core.start_reading, (), core.context)
        if waiter is not None:
            loop.add_ready(asyncio.futures._set_result_unless_cancelled, (waiter, None), None)

    def __repr__(self):
        cdef StreamCore core = self._core
        info = [type(self).__name__]
        if core.fd < 0:
            info.append("closed")
        elif core.closing:
            info.append("closing")
        if core.fd >= 0:
            info.append(f"fd={core.fd}")
            info.append("read=idle" if not core.recv_request else "read=polling")
            info.append(f"write=<{'polling' if core.send_request else 'idle'}, bufsize={core.unsent_bytes}>")
        return "<" + " ".join(info) + ">"

    def write(self, data):
        """Send bytes; they go out together with all that is written in this turn. Exact bytes objects are not copied."""
        (<StreamCore>self._core).write(data)

    def writelines(self, list_of_data):
        """Send several pieces in order, as one vectored send."""
        (<StreamCore>self._core).writelines(list_of_data)

    def write_eof(self):
        """Shut down the sending direction once all is sent; receiving goes on."""
        (<StreamCore>self._core).write_eof()

    def can_write_eof(self):
        return True

    def close(self):
        """Send what is queued, then close. connection_lost(None) follows."""
        (<StreamCore>self._core).close()

    def abort(self):
        """Close at once; what the socket does not take without waiting is dropped. connection_lost(None) follows."""
        (<StreamCore>self._core).force_close(None)

    def is_closing(self):
        return (<StreamCore>self._core).closing

    def pause_reading(self):
        """Call data_received no more until resume_reading(). What arrives meanwhile waits."""
        (<StreamCore>self._core).pause_reading()

    def resume_reading(self):
        (<StreamCore>self._core).resume_reading()

    def is_reading(self):
        return (<StreamCore>self._core).is_reading()

    def set_protocol(self, protocol):
        cdef StreamCore core = self._core
        core.protocol = protocol
        # By class as in asyncio; a protocol that has only the buffered interface is taken by it, as uvloop does.
        core.buffered_protocol = (isinstance(protocol, asyncio.BufferedProtocol)
                                  or (hasattr(protocol, "get_buffer") and not hasattr(protocol, "data_received")))

    def get_protocol(self):
        return (<StreamCore>self._core).protocol

    def set_write_buffer_limits(self, high=None, low=None):
        """Water marks, in bytes, of the write buffer: pause_writing above `high`, resume_writing at `low`."""
        cdef StreamCore core = self._core
        core.set_write_buffer_limits(high, low)
        if core.unsent_bytes > core.high_water_bytes:
            core.after_enqueue()

    def get_write_buffer_limits(self):
        return ((<StreamCore>self._core).low_water_bytes, (<StreamCore>self._core).high_water_bytes)

    def get_write_buffer_size(self):
        """Bytes that were written and are not yet sent."""
        return (<StreamCore>self._core).unsent_bytes

    # What `tls` and asyncio's own code (sslproto, sendfile) use of a transport beyond the public interface.

    def _force_close(self, exc):
        (<StreamCore>self._core).force_close(exc)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        (<StreamCore>self._core).fatal_error(exc, message)

    def _make_empty_waiter(self):
        return (<StreamCore>self._core).make_empty_waiter()

    def _reset_empty_waiter(self):
        (<StreamCore>self._core).empty_waiter = None

    @property
    def _protocol_paused(self):
        return (<StreamCore>self._core).paused_protocol is not None

    @property
    def _context(self):
        return (<StreamCore>self._core).context

    @property
    def _closing(self):
        return (<StreamCore>self._core).closing

    @property
    def _paused(self):
        return (<StreamCore>self._core).paused

    @property
    def _sock(self):
        return (<StreamCore>self._core).sock

    @property
    def _sock_fd(self):
        return (<StreamCore>self._core).fd

    @property
    def _protocol(self):
        return (<StreamCore>self._core).protocol

    def __del__(self):
        cdef StreamCore core = self._core
        if core is not None and core.fd >= 0 and core.sock is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            core.sock.close()
