"""Stream socket transports: TCP and unix, client and server. (TLS runs above them.)

Used by `network` (which makes them) and by user code through asyncio.Transport. Calls `_stream_receive`, `_transport`, `_loop`, `_op`.

A receive: see _stream_receive.

A send: write() queues; at the end of the turn all that was written goes out in one SEND or SENDMSG. One is in flight per socket, a short
one is continued.

Who owns what: StreamCore is the native state, the shell (StreamTransport) is what users hold. While a request is in flight its slot holds
the core, and the core holds socket, protocol and the bytes being sent. connection_lost comes only after the last CQE of both requests; the
socket is closed right after it, and the core drops shell and protocol.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memset
from posix.uio cimport iovec
from posix.unistd cimport close as posix_close

from aiouring._address cimport AF_INET, AF_INET6
from aiouring._handle cimport new_handle
from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_send, prep_sendmsg
from aiouring._stream_receive cimport StreamReceiver
from aiouring.uapi cimport *

import asyncio
import sys
from asyncio import constants, transports, trsock

from aiouring._transport import SocketShell

cdef extern from "Python.h":
    ctypedef struct PyTypeObject
    object PyType_GenericAlloc(PyTypeObject *type, Py_ssize_t items)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    SEND_IOVECS_MAX = 256
    SEND_BYTES_MAX = 1 << 30            # a SEND's length has 32 bits; a short send is continued anyway
    SILENT_BYTES_MAX = 64 * 1024        # what a socket's buffer takes at once as a rule

cdef object EXTRA_SLOT = transports.BaseTransport._extra        # the slot's descriptor
cdef bint SERVER_KNOWS_ITS_TRANSPORTS = sys.version_info >= (3, 13)


cdef class StreamCore(StreamReceiver):

    def __dealloc__(self):
        PyMem_RawFree(self.vector)

    cdef bint sending_now(self) noexcept:
        return self.send_request != 0

    # -- sending ----------------------------------------------------------------------------------------------------------------------

    cdef int enqueue(self, object data) except -1:
        cdef Py_ssize_t length
        if not PyBytes_CheckExact(data):
            data = bytes(data)          # the caller may change it before it is sent
        length = PyBytes_GET_SIZE(data)
        if length == 0:
            return 0
        self.unsent_bytes += length
        if self.queue is None:
            self.queue = data
        elif PyBytes_CheckExact(self.queue):
            self.queue = [self.queue, data]
        else:
            (<list>self.queue).append(data)
        return 0

    cdef int answer(self, int which, Py_ssize_t begin) except -1:
        # The program's own answers wait until this is out.
        self.enqueue(self.answers.answers[which][begin:])
        if self.watch.slot != NULL:
            self.watch.slot.busy = True
        return self.after_enqueue()

    def resume_answers(self):
        if self.answers is None:
            raise RuntimeError("this connection's server has no respond=")
        self.loop.ops.check()
        if self.closing or self.lost:
            return
        self.of_python = False
        if self.watch.slot != NULL:
            self.watch.slot.busy = self.unsent_bytes != 0
            self.watch.slot.of_python = False

    cdef int after_enqueue(self) except -1:
        if self.send_request == 0:
            if self.loop.idle_here():
                self.flush()
                self.loop.complete_now(self.send_request)
            else:
                self.loop.schedule_flush(self)
        else:
            self.want_send_to_end()
        if self.unsent_bytes > self.high_water_bytes:
            self.pause_protocol()
        return 0

    cdef int write(self, object data) except -1:
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.eof_written or self.empty_waiter is not None:
            self.refuse_write()
        if self.lost:
            return self.count_lost_write("socket.send() raised exception.") if data else 0
        self.loop.ops.check()           # refuse before anything has changed
        if self.answers is not None:
            self.give_to_python()
        self.enqueue(data)
        return self.after_enqueue() if self.unsent_bytes else 0

    cdef int writelines(self, object list_of_data) except -1:
        cdef list pieces
        if self.eof_written or self.empty_waiter is not None:
            self.refuse_write()
        pieces = list(list_of_data)
        for data in pieces:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.lost:
            return self.write(b"".join(pieces))
        self.loop.ops.check()
        if self.answers is not None:
            self.give_to_python()
        for data in pieces:
            self.enqueue(data)
        return self.after_enqueue() if self.unsent_bytes else 0

    cdef int refuse_write(self) except -1:
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        raise RuntimeError("unable to write; sendfile is in progress")

    cdef int flush(self) except -1:
        try:
            self.queue_receive()
            if self.answers is not None and not self.lost and not self.may_send():
                return 0
            if self.send_request == 0 and self.unsent_bytes and not self.lost:
                self.arm_send(MSG_NOSIGNAL)
        except (OSError, MemoryError) as exc:
            # Nothing would try again: a connection that ends is better than one that hangs.
            self.fatal_error(exc, "Fatal error: the connection's requests could not be queued")
        return 0

    cdef bint may_send(self) except -1:
        """Of a connection with canned answers: whether none is on its way. What has to wait is looked at again in the next turn, when it is over."""
        if self.watch.answering():
            self.loop.schedule_flush(self)
            return False
        self.take_rest()
        if self.closing and self.unsent_bytes == 0 and self.send_request == 0 and not self.lost:
            self.all_sent()             # close() has waited for this
        return not self.lost

    cdef int armed(self, io_uring_sqe *sqe, Py_ssize_t length) except -1:
        """The send of so many bytes is filled in. It is silent if it will probably go out at once and nobody waits for its end."""
        self.send_request = sqe.user_data
        if (self.loop.may_be_silent and length <= SILENT_BYTES_MAX and <size_t>length == self.unsent_bytes and not self.refused
                and self.paused_protocol is None and not self.closing and not self.eof_written and self.empty_waiter is None):
            self.silent_send = self.loop.ops.silence(sqe, <int32_t>length)
        return 0

    cdef void want_send_to_end(self) noexcept:
        if self.silent_send and self.loop.may_be_silent:        # else the enter that takes it is over, and all will be known in this turn
            self.loop.hurry = True

    cdef int arm_send(self, uint32_t msg_flags) except -1:
        cdef io_uring_sqe *sqe
        cdef Py_ssize_t length
        if self.sending is None:
            self.sending, self.queue = self.queue, None
            self.sending_index = self.sending_offset = 0
        data = self.sending
        if not PyBytes_CheckExact(data):
            if len(<list>data) - self.sending_index > 1:
                return self.arm_sendmsg(msg_flags)
            data = (<list>data)[self.sending_index]
        length = PyBytes_GET_SIZE(data) - self.sending_offset
        sqe = self.loop.ops.begin(self, StreamCore.send_complete, 0)
        prep_send(sqe, self.fd, PyBytes_AS_STRING(data) + self.sending_offset,
                  <uint32_t>(length if length < SEND_BYTES_MAX else SEND_BYTES_MAX), msg_flags)
        return self.armed(sqe, length)

    cdef int arm_sendmsg(self, uint32_t msg_flags) except -1:
        cdef io_uring_sqe *sqe
        cdef list sending = self.sending
        cdef Py_ssize_t count = len(sending) - self.sending_index, index, length = -self.sending_offset
        cdef iovec *iovecs
        if count > SEND_IOVECS_MAX:
            count = SEND_IOVECS_MAX
        self.vector = <send_vector *>PyMem_RawMalloc(sizeof(send_vector) + count * sizeof(iovec))
        if self.vector == NULL:
            raise MemoryError()
        iovecs = <iovec *>(self.vector + 1)
        for index in range(count):
            data = sending[self.sending_index + index]
            iovecs[index].iov_base = PyBytes_AS_STRING(data)
            iovecs[index].iov_len = PyBytes_GET_SIZE(data)
            length += PyBytes_GET_SIZE(data)
        iovecs[0].iov_base = <char *>iovecs[0].iov_base + self.sending_offset
        iovecs[0].iov_len -= self.sending_offset
        memset(self.vector, 0, sizeof(send_vector))
        self.vector.header.msg_iov = iovecs
        self.vector.header.msg_iovlen = count
        try:
            sqe = self.loop.ops.begin(self, StreamCore.send_complete, 0)
        except BaseException:
            self.free_vector()
            raise
        prep_sendmsg(sqe, self.fd, &self.vector.header, msg_flags)
        return self.armed(sqe, length)

    cdef void free_vector(self) noexcept:
        PyMem_RawFree(self.vector)
        self.vector = NULL

    @staticmethod
    cdef int send_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef StreamCore self = <StreamCore>owner
        self.send_request = 0
        self.silent_send = False
        if self.vector != NULL:
            self.free_vector()
        if self.lost:
            self.sending = None
            return self.finish_now()
        if res < 0:
            if res != -ECANCELED and res != -EAGAIN and res != -EINTR:
                self.drop_queue()
                return self.fatal_error(os_error(res), "Fatal write error on socket transport")
            res = 0                     # nothing moved: the same bytes again
        self.unsent_bytes -= res
        if PyBytes_CheckExact(self.sending) and res == PyBytes_GET_SIZE(self.sending) - self.sending_offset:
            self.sending = None
        else:
            self.note_sent(res)
        self.refused = self.sending is not None
        if self.unsent_bytes:
            self.loop.schedule_flush(self)
        if self.paused_protocol is not None:
            self.resume_protocol()      # may write more
        if self.answers is not None and self.unsent_bytes == 0 and self.watch.slot != NULL:
            self.watch.slot.busy = False
        if self.unsent_bytes == 0 and (self.closing or self.eof_written or self.empty_waiter is not None):
            self.all_sent()
        return 0

    cdef int note_sent(self, Py_ssize_t count) except -1:
        """Move on within what is being sent."""
        cdef list sending
        cdef Py_ssize_t left
        if PyBytes_CheckExact(self.sending):
            self.sending_offset += count
            return 0
        sending = self.sending
        while count:
            left = PyBytes_GET_SIZE(sending[self.sending_index]) - self.sending_offset
            if count < left:
                self.sending_offset += count
                return 0
            count -= left
            self.sending_offset = 0
            sending[self.sending_index] = None          # a long list gives its memory back as it goes out
            self.sending_index += 1
        if self.sending_index == len(sending):
            self.sending = None
        return 0

    cdef int all_sent(self) except -1:
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.closing:
            self.lose(None)
            self.finish()
        elif self.eof_written:
            self.shut_down_sending()
        return 0

    def write_eof(self):
        if self.closing or self.eof_written:
            return
        self.eof_written = True
        self.want_send_to_end()
        if self.unsent_bytes == 0:
            self.shut_down_sending()

    # -- the end ----------------------------------------------------------------------------------------------------------------------

    cpdef close(self):
        if self.closing or self.lost:
            return
        self.loop.ops.check()           # refuse before anything has changed
        if self.answers is not None:
            self.give_to_python()
            self.take_rest()
            if self.lost:
                return
        self.closing = True
        self.want_send_to_end()
        self.loop.schedule_flush(self)          # ends the receive
        if self.unsent_bytes == 0 and not (self.answers is not None and self.watch.answering()):
            self.lose(None)
            self.finish()

    cdef int force_close(self, object error) except -1:
        if self.lost:
            return 0
        self.loop.ops.check()
        self.closing = True
        if self.send_request == 0 and self.unsent_bytes and not (self.answers is not None and self.watch.answering()):
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
        self.queue = None
        self.unsent_bytes = 0
        return self.finish()

    cdef int drop_queue(self) except -1:
        self.sending = None
        self.queue = None
        self.unsent_bytes = 0
        return 0

    cdef int lose(self, object error) except -1:
        """No more data in either direction: end both requests; connection_lost follows their last CQEs."""
        if self.lost:
            return 0
        if error is None and self.eof_received and self.framer is not None:
            error = self.framer.incomplete()
        if self.answers is not None:
            self.give_to_python()
        self.lost = True
        self.error = error
        self.backlog = None
        self.want_send_to_end()
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
        self.sending = self.queue = None
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))
        if server is not None:
            if SERVER_KNOWS_ITS_TRANSPORTS:
                server._detach(shell)
            else:
                server._detach()
        return 0

    cdef int begin(self, object extra, object server, object waiter) except -1:
        """The rest of the making, once the core has its socket and its protocol."""
        self.is_internet = self.family == AF_INET or self.family == AF_INET6
        if not self.read_names() or extra is not None:
            make_extra(self.shell, self, {} if extra is None else extra)
        if server is not None:
            if SERVER_KNOWS_ITS_TRANSPORTS:
                server._attach(self.shell)
            else:
                server._attach()
            self.server = server
        self.claim()
        if self.is_tcp():
            # asyncio does so only where the protocol number is given; 0 means TCP as well.
            self.set_nodelay()
        return self.announce(waiter)

    def make_empty_waiter(self):
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.empty_waiter = self.loop.create_future()
        self.want_send_to_end()
        if self.unsent_bytes == 0:
            self.empty_waiter.set_result(None)
        return self.empty_waiter


class StreamTransport(SocketShell, asyncio.Transport):
    """A connected stream socket. Made by the loop's create_connection, create_server and their relatives."""

    __slots__ = ("__dict__", "__weakref__", "_core")
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(self, LoopCore loop not None, sock, protocol, waiter=None, extra=None, server=None, context=None, receiving=None):
        cdef StreamCore core = StreamCore.__new__(StreamCore)
        if receiving is not None:
            core.specialise(receiving, protocol)
        core.take_socket(sock)
        self._core = core
        core.attach(self, loop, None, protocol, context)
        core.begin(extra, server, waiter)

    @property
    def _loop(self):
        return (<StreamCore>self._core).loop

    @property
    def _sock(self):
        return (<StreamCore>self._core).get_socket() if (<StreamCore>self._core).is_open() else None

    @property
    def _extra(self):
        # asyncio's dict of what get_extra_info() tells, made when somebody looks at it, and kept in asyncio's slot.
        if not (<StreamCore>self._core).has_extra:
            make_extra(self, self._core, {})
        return EXTRA_SLOT.__get__(self)

    @_extra.setter
    def _extra(self, extra):
        EXTRA_SLOT.__set__(self, extra)
        (<StreamCore>self._core).has_extra = True

    def get_extra_info(self, name, default=None):
        """What is known of the connection: "peername", "sockname", "socket". Tells it also after the end."""
        cdef StreamCore core = self._core
        if not core.has_extra:
            if name == "peername":
                return core.peername()
            if name == "sockname":
                return core.sockname()
            if name != "socket":
                return default
        return self._extra.get(name, default)

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

    def resume_answers(self):
        """Of a server with respond=: the protocol has answered everything that it got, so requests with canned answers need not come to it any more.

        From the first request that has none, and from the first write, all requests of a connection come to the protocol, which alone knows in
        which order it will answer them. It may call this when it has written the last byte of its answer. Raises RuntimeError without respond=.
        """
        (<StreamCore>self._core).resume_answers()

    # What `tls` and asyncio's own code (sslproto, sendfile) use of a transport beyond the public interface.

    def _force_close(self, exc):
        (<StreamCore>self._core).force_close(exc)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        (<StreamCore>self._core).fatal_error(exc, message)

    def _make_empty_waiter(self):
        return (<StreamCore>self._core).make_empty_waiter()

    def _reset_empty_waiter(self):
        (<StreamCore>self._core).empty_waiter = None

    def _lend_socket(self):
        (<StreamCore>self._core).lend()

    def _take_socket_back(self):
        if (<StreamCore>self._core).is_open():
            (<StreamCore>self._core).claim()

    def _check_take_over(self):
        """Raise RuntimeError where nobody may take the connection over."""
        if (<StreamCore>self._core).watch is not None:
            raise RuntimeError("a connection with frames= or respond= cannot be taken over: bytes of it may be in the loop hook's hands")

    def _take_over(self):
        """For who receives from the socket from now on, for good: the protocol gets nothing more, also if it resumes reading."""
        cdef StreamCore core = self._core
        self._check_take_over()
        core.pause_reading()
        core.taken = True

    def _take_received(self):
        """After _take_over(): what had been received and not handed over, in pieces; None stands for the stream's end, an exception for its
        failure. None instead of a list: the receive has not ended yet, or its end was not told yet."""
        cdef StreamCore core = self._core
        if core.recv_request != 0 or core.end_scheduled:
            return None
        received, core.backlog = core.backlog, None
        return received or []

    @property
    def _context(self):
        return (<StreamCore>self._core).context

    @property
    def _closing(self):
        return (<StreamCore>self._core).closing

    @property
    def _paused(self):
        return (<StreamCore>self._core).paused


cdef int make_extra(object shell, StreamCore core, dict extra) except -1:
    """Fill asyncio's dict. Names that the socket module alone can read are in it from the beginning."""
    sock = core.get_socket()
    extra["socket"] = trsock.TransportSocket(sock)
    extra["sockname"] = core.sockname() if core.names != NULL else name_of(sock.getsockname)
    if "peername" not in extra:
        extra["peername"] = core.peername() if core.names != NULL else name_of(sock.getpeername)
    shell._extra = extra
    return 0


cdef object name_of(object ask):
    try:
        return ask()
    except OSError:
        return None


cdef object new_transport(LoopCore loop, int fd, int family, int kind, int proto, object protocol, object server, object waiter,
                          object receiving=None):
    cdef StreamCore core
    try:
        core = StreamCore.__new__(StreamCore)
    except BaseException:
        posix_close(fd)
        raise
    core.take_descriptor(fd, family, kind, proto)
    try:
        # object.__new__() would add room for attributes, which few users set.
        shell = PyType_GenericAlloc(<PyTypeObject *>StreamTransport, 0)
        shell._core = core
        if receiving is not None:
            core.specialise(receiving, protocol)
        if loop.is_of_transport(fd):
            loop._ensure_fd_no_transport(fd)        # somebody closed it under its transport
        core.attach(shell, loop, None, protocol, None)
        core.begin(None, server, waiter)
    except BaseException:
        core.close_file()
        raise
    return shell
