"""Stream socket transports: TCP and unix, client and server. (TLS runs above them.)

Used by `network` (which makes them) and by user code through asyncio.Transport. Calls `_transport`, `_loop`, `_op`, `_ring`.

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
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from aiouring._handle cimport new_handle
from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_recv_multishot, prep_send, prep_sendmsg
from aiouring._ring cimport BufferRing
from aiouring._transport cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, TransportCore
from aiouring.uapi cimport *

import asyncio
import socket
import sys
from asyncio import constants, transports
from asyncio.log import logger

from aiouring._transport import SocketShell

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    SEND_IOVECS_MAX = 256
    SEND_BYTES_MAX = 1 << 30            # a SEND's length has 32 bits; a short send is continued anyway
    TAG_RECV = 1
    TAG_SEND = 2

cdef object INTERNET_FAMILIES = (socket.AF_INET, socket.AF_INET6)
cdef bint SERVER_KNOWS_ITS_TRANSPORTS = sys.version_info >= (3, 13)


cdef class StreamCore(TransportCore):

    def __cinit__(self):
        self.queue = []

    def __dealloc__(self):
        PyMem_RawFree(self.iovecs)

    cdef int set_protocol(self, object protocol) except -1:
        self.protocol = protocol
        # By class as in asyncio; a protocol that has only the buffered interface is taken by it, as uvloop does.
        self.buffered_protocol = (isinstance(protocol, asyncio.BufferedProtocol)
                                  or (hasattr(protocol, "get_buffer") and not hasattr(protocol, "data_received")))
        return 0

    cdef bint receiving(self) noexcept:
        return self.recv_request != 0

    cdef bint sending_now(self) noexcept:
        return self.send_request != 0

    # -- receiving --------------------------------------------------------------------------------------------------------------------

    cdef bint wants_data(self) noexcept:
        # Not while a backlog waits: a reader that pauses again and again would let it grow without bound.
        return (self.reading and not self.paused and self.backlog is None and not self.closing and not self.lost
                and not self.eof_received)

    def start(self):
        if not self.closing and not self.lost:
            self.reading = True
            self.loop.schedule_flush(self)

    cdef int arm_recv(self) except -1:
        self.recv_buffers = self.loop.get_stream_buffers()
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, StreamCore.complete, TAG_RECV)
        prep_recv_multishot(sqe, self.fd, self.recv_buffers.group)
        self.recv_request = sqe.user_data
        self.recv_cancelled = False
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef StreamCore self = <StreamCore>owner
        cdef BufferRing buffers
        cdef bint was_lost = self.lost
        if tag == TAG_SEND:
            self.send_request = 0
            return self.sent(res)
        if not cqe_flags & IORING_CQE_F_MORE:
            self.recv_request = 0
        if cqe_flags & IORING_CQE_F_BUFFER:
            buffers = self.recv_buffers
            try:
                if res > 0:
                    self.received(buffers.take(cqe_flags), res)
                else:
                    buffers.take(cqe_flags)
            finally:
                buffers.give_back(cqe_flags)
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

    cdef int received(self, const char *data, Py_ssize_t length) except -1:
        if self.closing or self.lost:
            return 0                    # as in asyncio: a transport that closes reads no more
        if self.paused or self.backlog is not None:
            if self.backlog is None:
                self.backlog = []
            self.backlog.append(PyBytes_FromStringAndSize(data, length))
            return 0
        return self.hand_over(data, length)

    cdef int hand_over(self, const char *data, Py_ssize_t length) except -1:
        cdef bint buffered = self.buffered_protocol
        PyContext_Enter(self.context)
        try:
            if buffered:
                self.fill_buffers(data, length)
            else:
                self.protocol.data_received(PyBytes_FromStringAndSize(data, length))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            method = "buffer_updated() or get_buffer()" if buffered else "data_received()"
            self.fatal_error(exc, f"Fatal error: protocol.{method} call failed.")
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

    cdef int reading_paused(self) except -1:
        return self.loop.schedule_flush(self)

    cdef int reading_resumed(self) except -1:
        self.schedule_backlog()
        return self.loop.schedule_flush(self)

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
                if isinstance(item, bytes):
                    self.hand_over(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
                else:
                    self.schedule_end(item)
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
        if self.unsent_bytes > self.high_water_bytes:
            self.pause_protocol()
        return 0

    def write(self, data):
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        self.check_write()
        if self.lost:
            if data:
                self.count_lost_write("socket.send() raised exception.")
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
        elif not self.recv_cancelled and not self.wants_data():
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
        if self.paused_protocol is not None:
            self.resume_protocol()      # may write more
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
            self.file.shutdown(socket.SHUT_WR)
        return 0

    def write_eof(self):
        if self.closing or self.eof_written:
            return
        self.eof_written = True
        if self.unsent_bytes == 0:
            self.file.shutdown(socket.SHUT_WR)

    # -- the end ----------------------------------------------------------------------------------------------------------------------

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

    cdef int finish_now(self) except -1:
        # The answer to a cancel comes a turn after abort() or close(): that is when asyncio calls connection_lost(), also in a loop that
        # stops with this turn. What was lost in this very completion waits for the next turn, as there.
        if self.recv_request or self.send_request or self.lost_scheduled:
            return 0
        self.lost_scheduled = True
        return new_handle(self.loop, self.call_connection_lost, (), self.context).run()

    cdef int let_go(self, object shell) except -1:
        server, self.server = self.server, None
        self.sending = None
        self.queue = []
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))
        if server is not None:
            if SERVER_KNOWS_ITS_TRANSPORTS:
                server._detach(shell)
            else:
                server._detach()
        return 0

    def make_empty_waiter(self):
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.empty_waiter = self.loop.create_future()
        if self.unsent_bytes == 0:
            self.empty_waiter.set_result(None)
        return self.empty_waiter


class StreamTransport(SocketShell, transports._FlowControlMixin):
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
        core.attach(self, loop, sock, protocol, context)
        core.server = server
        self._note_addresses(sock)
        if server is not None:
            if SERVER_KNOWS_ITS_TRANSPORTS:
                server._attach(self)
            else:
                server._attach()
        loop._transports[core.fd] = self
        if sock.family in INTERNET_FAMILIES and sock.type == socket.SOCK_STREAM and sock.proto in (0, socket.IPPROTO_TCP):
            # asyncio does so only where the protocol number is given; 0 means TCP as well.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        core.announce(waiter)

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
    def _context(self):
        return (<StreamCore>self._core).context

    @property
    def _closing(self):
        return (<StreamCore>self._core).closing

    @property
    def _paused(self):
        return (<StreamCore>self._core).paused
