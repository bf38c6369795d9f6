"""loop.sock_recv(), sock_sendall() and their like: one request each, on sockets that the user owns.

SockMixin is one of Loop's bases. The kinds of operation derive from `_sockop.SocketOperation`, which also says how cancelling and a
socket's close work. Calls `_sockop`, `_sockconn`, `_sendfile`, `_address`, `_prep`, `_loop`.

Receiving: a small sock_recv() gets a bytes object of the asked size, and the kernel writes straight into it. A large one on a stream
socket takes a provided buffer instead, for most such calls ask for 64 KiB, wait long and get little: memory is then used while there is
data and not while there is none. A socket that fills whole buffers is in bulk transfer and receives into bytes objects of up to
256 KiB, until it delivers little again. sock_recv_into() and its like receive straight into the caller's buffer.

Sending: one SEND after the other until a sock_sendall() is through. Not one with MSG_WAITALL, which would go on after a short send by
itself: what it has sent already is unknown when its ring is replaced, and would be sent twice. Datagrams are only tried (MSG_DONTWAIT), and
a poll request waits for room: a unix datagram that waits inside io_uring has had its bytes read by the first attempt and goes out empty
in the end (seen on 6.18). The caller's buffer is exported (locked against resizing) until the last CQE.

Address families that `_address` does not know are left to the socket module, which is called when POLL_ADD says that it will not block.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, ENOBUFS
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy, memset

from aiouring._address cimport (
    AF_INET,
    AF_INET6,
    from_sockaddr,
    iovec,
    knows_family,
    msghdr,
    sockaddr_storage,
    socklen_t,
    to_sockaddr,
)
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation, Spares, note_spare, spare_operation
from aiouring._prep cimport prep_poll_add, prep_recv, prep_recv_buffer, prep_recvmsg, prep_send, prep_sendmsg
from aiouring._ring cimport BufferRing
from aiouring._sockconn cimport accept_operation, connect_operation, poll_operation
from aiouring._sockop cimport SocketOperation, SocketUse, socket_family
from aiouring.uapi cimport IORING_CQE_F_BUFFER, io_uring_sqe

import asyncio
import inspect
from asyncio import base_events

from aiouring._address import HostNotLiteral, encode
from aiouring._sendfile import sendfile
from aiouring._sockconn import check_connected

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t size) except -1
    char *bytes_memory "PyBytes_AS_STRING"(PyObject *bytes_object)
    void Py_CLEAR(PyObject *)

cdef extern from "<sys/socket.h>" nogil:
    int SOCK_STREAM
    int MSG_DONTWAIT

cdef extern from "<poll.h>" nogil:
    int POLLIN
    int POLLOUT

cdef enum:
    RECV_DIRECT_MAX = 4096          # up to here a bytes object of the asked size waits with the receive
    RECV_BULK_MAX = 256 * 1024
    REQUEST_BYTES_MAX = 0x7FFFF000  # the kernel's own limit for one read or write

cdef double ROOM_RETRY_SECONDS = 0.001

cdef Spares spare_receives = Spares()
cdef Spares spare_sends = Spares()


# -- receiving --------------------------------------------------------------------------------------------------------------------------

cdef class ReceiveOperation(SocketOperation):
    """What all receives share: results that a cancelled receive left behind come first, and what is left behind is kept."""

    # Ends the call with what was kept on this socket, if there is any. Raises what was kept as an error.
    cdef bint finish_kept(self) except -1:
        raise NotImplementedError

    # The oldest kept result, as (data, address), or None. At most `size` bytes of it are taken.
    cdef object take_kept(self, Py_ssize_t size):
        cdef list received
        if self.use is None or self.use.received is None:
            return None
        received = self.use.received
        item = received[0]
        if isinstance(item, BaseException):
            self.forget_kept()
            raise item
        data, address = item
        if len(data) > size and self.use.kind == SOCK_STREAM:
            received[0] = (data[size:], address)
        else:
            self.forget_kept()          # the rest of a datagram is lost, as recv() loses it
        return (data[:size], address)

    cdef int forget_kept(self) except -1:
        del self.use.received[0]
        if not self.use.received:
            self.use.received = None
        return 0

    cdef bint keep_item(self, object item) except -1:
        cdef SocketOperation other
        if self.use is None:
            self.loop.call_exception_handler({
                "message": f"{self.name()}() was cancelled after its result had come, and there is no socket.socket to keep it for",
                "result": item})
            return False
        if self.use.received is None:
            self.use.received = []
        self.use.received.append(item)
        for other in self.use.operations:
            if isinstance(other, ReceiveOperation) and other is not self:
                other.stop_from_anywhere()      # again() comes next, and finds what was kept
        return True

    cdef bint keep_data(self, bytes data, object address) except -1:
        if not data and self.kind() == SOCK_STREAM:
            return True                 # the end of the stream is there for the next receive as well
        return self.keep_item((data, address))

    cdef bint keep_error(self, object error) except -1:
        # The kernel reports a socket's error once, so it is kept like data. What is not from the kernel is not the socket's.
        return isinstance(error, OSError) and self.keep_item(error)

    cdef bint wants_kept(self) noexcept:
        return self.use is not None and self.use.received is not None and self.wanted()

    cdef int again(self) except -1:
        if self.wants_kept():
            self.finish_kept()
            return 0
        return SocketOperation.again(self)

    cdef int finish(self, object result) except -1:
        if self.wants_kept():
            # Older bytes came back from a cancelled receive while ours were on their way.
            self.keep(result)
            self.finish_kept()
            return 0
        return SocketOperation.finish(self, result)

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        return self.received(res, cqe_flags)

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        raise NotImplementedError


@cython.final
cdef class Recv(ReceiveOperation):
    cdef object argument
    cdef Py_ssize_t size
    cdef PyObject *data             # what a direct receive writes to
    cdef Py_ssize_t data_size
    cdef BufferRing buffers         # where a provided buffer comes from
    cdef bint no_buffers

    cdef str name(self):
        return "Loop.sock_recv"

    cdef int start(self) except -1:
        self.attach()
        self.size = self.argument
        if self.size < 0:
            raise ValueError("negative buffersize in recv")
        if self.size == 0:
            return self.finish(b"")
        return 0 if self.finish_kept() else self.submit()

    cdef bint finish_kept(self) except -1:
        kept = self.take_kept(self.size)
        if kept is None:
            return False
        SocketOperation.finish(self, kept[0])
        return True

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe
        cdef BufferRing buffers
        cdef SocketUse use = self.use
        cdef bint stream = use is not None and use.kind == SOCK_STREAM
        if self.size > RECV_DIRECT_MAX and stream and not use.bulk and not self.no_buffers:
            buffers = self.loop.get_stream_buffers()
            sqe = self.loop.ops.begin(self, Operation.complete, 0)
            self.buffers = buffers
            prep_recv_buffer(sqe, self.fd, <uint32_t>min(self.size, <Py_ssize_t>buffers.buffer_size), buffers.group)
        else:
            if self.data == NULL:
                self.data_size = min(self.size, RECV_BULK_MAX if stream else REQUEST_BYTES_MAX)
                self.data = new_bytes(NULL, self.data_size)
            sqe = self.loop.ops.begin(self, Operation.complete, 0)
            prep_recv(sqe, self.fd, bytes_memory(self.data), <uint32_t>self.data_size, 0)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        cdef bytes data
        if cqe_flags & IORING_CQE_F_BUFFER:
            data = PyBytes_FromStringAndSize(self.buffers.take(cqe_flags), max(res, 0))
            self.buffers.give_back(cqe_flags)
            if res == <int32_t>self.buffers.buffer_size:
                self.use.bulk = True
            if res >= 0:
                return self.finish(data)
        if res == -ENOBUFS and self.data == NULL:
            self.no_buffers = True      # all are taken by others: wait with memory of our own
            return self.again()
        if res < 0:
            return self.fail_errno(-res)
        return self.received(res, cqe_flags)

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        cdef bytes data
        if self.data == NULL:
            return self.finish(b"")       # the end of the stream takes no buffer
        if self.use is not None and self.use.bulk and count < RECV_DIRECT_MAX:
            self.use.bulk = False
        if count != self.data_size:
            _PyBytes_Resize(&self.data, count)
        data = <bytes>self.data
        Py_CLEAR(self.data)
        return self.finish(data)

    cdef bint keep(self, object result) except -1:
        return self.keep_data(<bytes>result, None)

    cdef void release(self) noexcept:
        Py_CLEAR(self.data)

    cdef void taken(self) noexcept:
        if not self.socket_closed:
            self.use = None
            self.argument = self.buffers = None
            self.no_buffers = False
            note_spare(spare_receives, self)

    def __dealloc__(self):
        Py_CLEAR(self.data)


@cython.no_gc_clear                         # its destructor needs the view
cdef class BufferReceive(ReceiveOperation):
    """Receives into the caller's buffer."""
    cdef object target
    cdef Py_buffer view
    cdef bint has_view

    cdef int get_view(self, str caller) except -1:
        try:
            PyObject_GetBuffer(self.target, &self.view, PyBUF_WRITABLE)
        except BufferError:
            raise TypeError(f"{caller}() argument 1 must be read-write bytes-like object, not {type(self.target).__name__}") from None
        self.has_view = True
        return 0

    # Put kept data, which is at most as long as the buffer, where a receive would have put it.
    cdef Py_ssize_t put(self, bytes data) except -1:
        memcpy(self.view.buf, <const char *>data, len(data))
        return len(data)

    # The target itself is kept until the result was taken: should nobody take it, the bytes are there.
    cdef bint keep_from_target(self, Py_ssize_t count, object address) except -1:
        return self.keep_data(bytes(memoryview(self.target).cast("B")[:count]), address)

    cdef void release(self) noexcept:
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)


@cython.final
cdef class RecvInto(BufferReceive):
    cdef str name(self):
        return "Loop.sock_recv_into"

    cdef int start(self) except -1:
        self.attach()
        self.get_view("recv_into")
        if self.view.len == 0:
            return self.finish(0)
        return 0 if self.finish_kept() else self.submit()

    cdef bint finish_kept(self) except -1:
        kept = self.take_kept(self.view.len)
        if kept is None:
            return False
        SocketOperation.finish(self, self.put(kept[0]))
        return True

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, 0)
        prep_recv(sqe, self.fd, self.view.buf, <uint32_t>min(self.view.len, REQUEST_BYTES_MAX), 0)
        self.request = sqe.user_data
        return 0

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        return self.finish(count)

    cdef bint keep(self, object result) except -1:
        return self.keep_from_target(result, None)


cdef class MessageReceive(BufferReceive):
    """Receives with the sender's address."""
    cdef msghdr header
    cdef iovec part
    cdef sockaddr_storage address

    cdef int submit_message(self, void *memory, Py_ssize_t size) except -1:
        cdef io_uring_sqe *sqe
        memset(&self.header, 0, sizeof(msghdr))
        self.part.iov_base = memory
        self.part.iov_len = min(size, REQUEST_BYTES_MAX)
        self.header.msg_iov = &self.part
        self.header.msg_iovlen = 1
        self.header.msg_name = &self.address
        self.header.msg_namelen = sizeof(sockaddr_storage)
        sqe = self.loop.ops.begin(self, Operation.complete, 0)
        prep_recvmsg(sqe, self.fd, &self.header, 0)
        self.request = sqe.user_data
        return 0

    cdef object sender(self):
        return from_sockaddr(&self.address, self.header.msg_namelen)


@cython.final
cdef class RecvFrom(MessageReceive):
    cdef object argument
    cdef Py_ssize_t size
    cdef PyObject *data

    cdef str name(self):
        return "Loop.sock_recvfrom"

    cdef int start(self) except -1:
        self.attach()
        self.size = self.argument
        if self.size < 0:
            raise ValueError("negative buffersize in recvfrom")
        return 0 if self.finish_kept() else self.submit()

    cdef bint finish_kept(self) except -1:
        kept = self.take_kept(self.size)
        if kept is None:
            return False
        SocketOperation.finish(self, kept)
        return True

    cdef int submit(self) except -1:
        if self.data == NULL:
            self.data = new_bytes(NULL, self.size)
        return self.submit_message(bytes_memory(self.data), self.size)

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        cdef bytes data
        if count != self.size:
            _PyBytes_Resize(&self.data, count)
        data = <bytes>self.data
        Py_CLEAR(self.data)
        return self.finish((data, self.sender()))

    cdef bint keep(self, object result) except -1:
        return self.keep_data(<bytes>result[0], result[1])

    cdef void release(self) noexcept:
        Py_CLEAR(self.data)

    def __dealloc__(self):
        Py_CLEAR(self.data)


@cython.final
cdef class RecvFromInto(MessageReceive):
    cdef object argument
    cdef Py_ssize_t size

    cdef str name(self):
        return "Loop.sock_recvfrom_into"

    cdef int start(self) except -1:
        self.attach()
        size = self.argument
        self.size = size if size else len(self.target)
        self.get_view("recvfrom_into")
        if self.size < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if self.size > self.view.len:
            raise ValueError("nbytes is greater than the length of the buffer")
        return 0 if self.finish_kept() else self.submit()

    cdef bint finish_kept(self) except -1:
        kept = self.take_kept(self.size)
        if kept is None:
            return False
        SocketOperation.finish(self, (self.put(kept[0]), kept[1]))
        return True

    cdef int submit(self) except -1:
        return self.submit_message(self.view.buf, self.size)

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        return self.finish((count, self.sender()))

    cdef bint keep(self, object result) except -1:
        return self.keep_from_target(result[0], result[1])


# -- sending ----------------------------------------------------------------------------------------------------------------------------

@cython.no_gc_clear                         # its destructor needs the view
cdef class SendOperation(SocketOperation):
    cdef object data
    cdef Py_buffer view
    cdef bint has_view
    cdef bint polling               # the request in flight is a poll request that waits for room
    cdef bint polled                # it said that there is room
    cdef object room_timer          # the same where polling does not help

    cdef int stop(self) except -1:
        if self.room_timer is not None:
            self.room_timer.cancel()
            self.room_timer = self.loop.add_ready(self._room_timer_fired, (), None)     # again() knows what happened
            return 0
        # asyncio tries to send at the call's first step, and a cancel can only come later: here, too, what fits is sent.
        self.loop.submit_now()
        return SocketOperation.stop(self)

    cdef bint idle(self) noexcept:
        return self.request == 0 and self.room_timer is None

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe
        if not self.polling:
            return self.submit_send(0 if self.kind() == SOCK_STREAM else MSG_DONTWAIT)
        sqe = self.loop.ops.begin(self, Operation.complete, 0)
        prep_poll_add(sqe, self.fd, POLLOUT)
        self.request = sqe.user_data
        return 0

    cdef int submit_send(self, uint32_t msg_flags) except -1:
        raise NotImplementedError

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if self.polling and res >= 0:
            self.polling = False
            self.polled = True
            return self.again()
        if res == -EAGAIN:
            if not self.polled:
                self.polling = True
                return self.again()
            # A unix socket that is not connected counts as writable even when the peer's queue is full, and nothing tells when it is
            # not. asyncio spins there.
            self.polled = False
            self.room_timer = self.loop.call_later(ROOM_RETRY_SECONDS, self._room_timer_fired)
            return 0
        if res < 0:
            return self.fail_errno(-res)
        self.polled = False
        return self.bytes_sent(res)

    cdef int bytes_sent(self, int32_t count) except -1:
        raise NotImplementedError

    def _room_timer_fired(self):
        self.room_timer = None
        try:
            self.again()
        except RuntimeError as exc:
            self.fail(exc)

    cdef int get_view(self) except -1:
        PyObject_GetBuffer(self.data, &self.view, PyBUF_SIMPLE)
        self.has_view = True
        return 0

    cdef void release(self) noexcept:
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        self.data = None

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)


@cython.final
cdef class SendAll(SendOperation):
    cdef Py_ssize_t sent

    cdef str name(self):
        return "Loop.sock_sendall"

    cdef int start(self) except -1:
        self.attach()
        self.get_view()
        return self.submit()

    cdef int submit_send(self, uint32_t msg_flags) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, 0)
        prep_send(sqe, self.fd, <char *>self.view.buf + self.sent, <uint32_t>min(self.view.len - self.sent, REQUEST_BYTES_MAX), msg_flags)
        self.request = sqe.user_data
        return 0

    cdef int bytes_sent(self, int32_t count) except -1:
        self.sent += count
        if self.sent < self.view.len:
            return self.again()
        return self.finish(None)

    cdef void taken(self) noexcept:
        if not self.socket_closed:
            self.use = None
            self.sent = 0
            note_spare(spare_sends, self)


@cython.final
cdef class SendTo(SendOperation):
    cdef object destination
    cdef msghdr header
    cdef iovec part
    cdef sockaddr_storage address
    cdef socklen_t address_length
    cdef object resolving           # the executor's future while a host name is looked up

    cdef str name(self):
        return "Loop.sock_sendto"

    cdef int start(self) except -1:
        self.attach()
        self.get_view()
        try:
            to_sockaddr(self.destination, self.family(), &self.address, &self.address_length, "sendto")
        except HostNotLiteral:
            # socket.sendto() looks the name up while the loop stands still; here the executor does.
            self.resolving = self.loop.run_in_executor(None, encode, self.destination, self.family(), "sendto", True)
            self.resolving.add_done_callback(self._resolved)
            return 0
        return self.submit()

    def _resolved(self, future):
        cdef bytes raw
        self.resolving = None
        if future.cancelled():
            # Nothing is sent, least of all without the address: a connected socket has another peer.
            self.fail(RuntimeError(f"the loop's executor was shut down while it looked up {self.destination[0]!r}"))
            return
        if future.exception() is not None:
            self.fail(future.exception())
            return
        raw = future.result()
        memcpy(&self.address, <const char *>raw, len(raw))
        self.address_length = <socklen_t>len(raw)
        try:
            self.again()
        except RuntimeError as exc:
            self.fail(exc)

    cdef int submit_send(self, uint32_t msg_flags) except -1:
        cdef io_uring_sqe *sqe
        self.part.iov_base = self.view.buf
        self.part.iov_len = min(self.view.len, REQUEST_BYTES_MAX)
        memset(&self.header, 0, sizeof(msghdr))
        self.header.msg_iov = &self.part
        self.header.msg_iovlen = 1
        self.header.msg_name = &self.address
        self.header.msg_namelen = self.address_length
        sqe = self.loop.ops.begin(self, Operation.complete, 0)
        prep_sendmsg(sqe, self.fd, &self.header, msg_flags)
        self.request = sqe.user_data
        return 0

    cdef int bytes_sent(self, int32_t count) except -1:
        return self.finish(count)

    cdef int stop(self) except -1:
        if self.resolving is not None:
            self.resolving.cancel()
            return 0
        return SendOperation.stop(self)

    cdef bint idle(self) noexcept:
        return self.resolving is None and SendOperation.idle(self)


# -- the loop's methods -----------------------------------------------------------------------------------------------------------------

def coroutine_function(function):
    """Marks a plain function that returns a coroutine, for inspect.iscoroutinefunction() and asyncio.iscoroutinefunction()."""
    if hasattr(inspect, "markcoroutinefunction"):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine
    return function


class SockMixin:
    """The sock_* methods of asyncio.AbstractEventLoop. Sockets are the caller's: nothing here closes one."""

    @coroutine_function
    def sock_recv(self, sock, n):
        """Receive up to `n` bytes. Returns them as bytes; b"" at the end of the stream.

        Cancelling loses nothing: what has not been returned comes with the next sock_* receive on this socket object.
        """
        cdef Recv operation = <Recv>spare_operation(spare_receives)
        if operation is None:
            operation = Recv.__new__(Recv)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.argument = n
        return operation

    @coroutine_function
    def sock_recv_into(self, sock, buf):
        """Receive into the writable buffer `buf`. Returns the number of bytes. The buffer is locked against resizing until then.

        Cancelling loses nothing: what was received comes with the next sock_* receive on this socket object.
        """
        cdef RecvInto operation = RecvInto.__new__(RecvInto)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.target = buf
        return operation

    @coroutine_function
    def sock_recvfrom(self, sock, bufsize):
        """Receive a datagram of up to `bufsize` bytes. Returns (bytes, the sender's address). Cancelling loses no datagram."""
        cdef RecvFrom operation
        if not knows_family(socket_family(sock)):
            return poll_operation(self, sock, "sock_recvfrom", POLLIN, sock.recvfrom, (bufsize,), False)
        operation = RecvFrom.__new__(RecvFrom)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.argument = bufsize
        return operation

    @coroutine_function
    def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram of up to `nbytes` bytes (0: the buffer's size) into `buf`. Returns (bytes received, the sender's address)."""
        cdef RecvFromInto operation
        if not knows_family(socket_family(sock)):
            return poll_operation(self, sock, "sock_recvfrom_into", POLLIN, sock.recvfrom_into, (buf, nbytes or len(buf)), False)
        operation = RecvFromInto.__new__(RecvFromInto)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.target = buf
        operation.argument = nbytes
        return operation

    @coroutine_function
    def sock_sendall(self, sock, data):
        """Send all of `data`. After an error or a cancellation nobody knows how much of it went out.

        `data` is locked against resizing, and must not be changed, until then.
        """
        cdef SendAll operation = <SendAll>spare_operation(spare_sends)
        if operation is None:
            operation = SendAll.__new__(SendAll)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.data = data
        return operation

    @coroutine_function
    def sock_sendto(self, sock, data, address):
        """Send `data` as one datagram to `address`. Returns the number of bytes sent. Host names are resolved in the executor."""
        cdef SendTo operation
        if not knows_family(socket_family(sock)):
            return poll_operation(self, sock, "sock_sendto", POLLOUT, sock.sendto, (data, address), False)
        operation = SendTo.__new__(SendTo)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.data = data
        operation.destination = address
        return operation

    async def sock_connect(self, sock, address):
        """Connect to `address`; host names are resolved as with getaddrinfo(). Raises OSError, as socket.connect() does."""
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        cdef int family = socket_family(sock)
        if not knows_family(family):
            await self._sock_connect_by_poll(sock, address)
            return
        if family == AF_INET or family == AF_INET6:
            resolved = await self._ensure_resolved(address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            address = resolved[0][4]
        await connect_operation(self, sock, address)

    async def _sock_connect_by_poll(self, sock, address):
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            await poll_operation(self, sock, "sock_connect", POLLOUT, check_connected, (sock, address), True)

    @coroutine_function
    def sock_accept(self, sock):
        """Accept a connection. Returns (a new non-blocking socket, the peer's address).

        Cancelling loses no connection: it stays in the socket's queue, or comes with the next sock_accept() on this socket object.
        """
        return accept_operation(self, sock)

    async def _sock_sendfile_native(self, sock, file, offset, count):
        return await sendfile(self, sock, file, offset, count)
