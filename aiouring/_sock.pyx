"""loop.sock_recv(), sock_sendall() and their like: one request each, on sockets that the user owns.

SockMixin is one of Loop's bases. The kinds of operation derive from `_sockop.SocketOperation`, which also says how cancelling and a
socket's close work. Calls `_sockop`, `_address`, `_prep`, `_loop`; `_sendfile` for sock_sendfile.

Receiving: a small sock_recv() gets a bytes object of the asked size, and the kernel writes straight into it. A large one on a stream
socket takes a provided buffer instead, for most such calls ask for 64 KiB, wait long and get little: memory is then used while there is
data and not while there is none. A socket that fills whole buffers is in bulk transfer and receives into bytes objects of up to
256 KiB, until it delivers little again. sock_recv_into() and its like receive straight into the caller's buffer.

Sending: one SEND with MSG_WAITALL for each sock_sendall(): the kernel goes on after a short send by itself. The caller's buffer is
exported (locked against resizing) until the last CQE.

Address families that `_address` does not know are left to the socket module: PollOperation waits with POLL_ADD until its call would
not block.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.errno cimport ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINPROGRESS, ENOBUFS, ETIMEDOUT
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as posix_close

from aiouring._address cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    from_sockaddr,
    iovec,
    knows_family,
    msghdr,
    sockaddr_storage,
    socklen_t,
    to_sockaddr,
)
from aiouring._loop cimport LoopCore
from aiouring._op cimport TAG_RETURNS_FD
from aiouring._prep cimport prep_accept, prep_connect, prep_poll_add, prep_recv, prep_recv_buffer, prep_recvmsg, prep_send, prep_sendmsg
from aiouring._ring cimport BufferRing
from aiouring._sockop cimport ABANDONED, SocketOperation, SocketUse
from aiouring.uapi cimport EALREADY, IORING_CQE_F_BUFFER, io_uring_sqe

import _socket
import asyncio
import inspect
import socket
from asyncio import base_events

from aiouring._address import HostNotLiteral, encode
from aiouring._sendfile import sendfile

cdef object base_socket = _socket.socket
cdef object get_family = _socket.socket.family.__get__

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t size) except -1
    char *bytes_memory "PyBytes_AS_STRING"(PyObject *bytes_object)
    void Py_CLEAR(PyObject *)

cdef extern from "<sys/socket.h>" nogil:
    int SOCK_STREAM
    int SOCK_CLOEXEC
    int SOCK_NONBLOCK
    int MSG_WAITALL

cdef extern from "<poll.h>" nogil:
    int POLLIN
    int POLLOUT

cdef enum:
    RECV_DIRECT_MAX = 4096          # up to here a bytes object of the asked size waits with the receive
    RECV_BULK_MAX = 256 * 1024
    REQUEST_BYTES_MAX = 0x7FFFF000  # the kernel's own limit for one read or write


# -- receiving --------------------------------------------------------------------------------------------------------------------------

cdef class ReceiveOperation(SocketOperation):
    """What all receives share: results that a cancelled receive left behind come first, and what is left behind is kept."""

    # The next result kept on this socket, as (data, address), or None. At most `size` bytes of it are taken.
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

    cdef int keep_item(self, object item) except -1:
        if self.use is None:
            self.loop.call_exception_handler({
                "message": f"{self.name()}() was cancelled after its result had come, and there is no socket.socket to keep it for",
                "result": item})
            return 0
        if self.use.received is None:
            self.use.received = []
        self.use.received.append(item)
        return 0

    cdef int keep_data(self, bytes data, object address) except -1:
        if not data and self.kind() == SOCK_STREAM:
            return 0                    # the end of the stream is there for the next receive as well
        return self.keep_item((data, address))

    cdef int keep_error(self, object error) except -1:
        # The kernel reports a socket's error once, so it is kept like data. What is not from the kernel is not the socket's.
        if isinstance(error, OSError):
            return self.keep_item(error)
        return 0

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
        return "sock_recv"

    cdef int start(self) except -1:
        self.attach()
        self.size = self.argument
        if self.size < 0:
            raise ValueError("negative buffersize in recv")
        if self.size == 0:
            return self.finish(b"")
        kept = self.take_kept(self.size)
        if kept is not None:
            return self.finish(kept[0])
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe
        cdef BufferRing buffers
        cdef SocketUse use = self.use
        cdef bint stream = use is not None and use.kind == SOCK_STREAM
        if self.size > RECV_DIRECT_MAX and stream and not use.bulk and not self.no_buffers:
            buffers = self.loop.get_stream_buffers()
            sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
            self.buffers = buffers
            prep_recv_buffer(sqe, self.fd, <uint32_t>min(self.size, <Py_ssize_t>buffers.buffer_size), buffers.group)
        else:
            if self.data == NULL:
                self.data_size = min(self.size, RECV_BULK_MAX if stream else REQUEST_BYTES_MAX)
                self.data = new_bytes(NULL, self.data_size)
            sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
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

    cdef int keep(self, object result) except -1:
        return self.keep_data(<bytes>result, None)

    cdef void release(self) noexcept:
        Py_CLEAR(self.data)

    def __dealloc__(self):
        Py_CLEAR(self.data)


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
    cdef int keep_from_target(self, Py_ssize_t count, object address) except -1:
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
        return "sock_recv_into"

    cdef int start(self) except -1:
        self.attach()
        self.get_view("recv_into")
        if self.view.len == 0:
            return self.finish(0)
        kept = self.take_kept(self.view.len)
        if kept is not None:
            return self.finish(self.put(kept[0]))
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
        prep_recv(sqe, self.fd, self.view.buf, <uint32_t>min(self.view.len, REQUEST_BYTES_MAX), 0)
        self.request = sqe.user_data
        return 0

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        return self.finish(count)

    cdef int keep(self, object result) except -1:
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
        sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
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
        return "sock_recvfrom"

    cdef int start(self) except -1:
        self.attach()
        self.size = self.argument
        if self.size < 0:
            raise ValueError("negative buffersize in recvfrom")
        kept = self.take_kept(self.size)
        if kept is not None:
            return self.finish(kept)
        return self.submit()

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

    cdef int keep(self, object result) except -1:
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
        return "sock_recvfrom_into"

    cdef int start(self) except -1:
        self.attach()
        size = self.argument
        self.size = size if size else len(self.target)
        self.get_view("recvfrom_into")
        if self.size < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if self.size > self.view.len:
            raise ValueError("nbytes is greater than the length of the buffer")
        kept = self.take_kept(self.size)
        if kept is not None:
            return self.finish((self.put(kept[0]), kept[1]))
        return self.submit()

    cdef int submit(self) except -1:
        return self.submit_message(self.view.buf, self.size)

    cdef int received(self, int32_t count, uint32_t cqe_flags) except -1:
        return self.finish((count, self.sender()))

    cdef int keep(self, object result) except -1:
        return self.keep_from_target(result[0], result[1])


# -- sending ----------------------------------------------------------------------------------------------------------------------------

cdef class SendOperation(SocketOperation):
    cdef object data
    cdef Py_buffer view
    cdef bint has_view

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
        return "sock_sendall"

    cdef int start(self) except -1:
        self.attach()
        self.get_view()
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
        prep_send(sqe, self.fd, <char *>self.view.buf + self.sent, <uint32_t>min(self.view.len - self.sent, REQUEST_BYTES_MAX),
                  MSG_WAITALL)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        self.sent += res
        if self.sent < self.view.len:
            return self.again()
        return self.finish(None)


@cython.final
cdef class SendTo(SendOperation):
    cdef object destination
    cdef msghdr header
    cdef iovec part
    cdef sockaddr_storage address
    cdef socklen_t address_length
    cdef object resolving           # the executor's future while a host name is looked up

    cdef str name(self):
        return "sock_sendto"

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
            self.again()
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

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe
        self.part.iov_base = self.view.buf
        self.part.iov_len = min(self.view.len, REQUEST_BYTES_MAX)
        memset(&self.header, 0, sizeof(msghdr))
        self.header.msg_iov = &self.part
        self.header.msg_iovlen = 1
        self.header.msg_name = &self.address
        self.header.msg_namelen = self.address_length
        sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
        prep_sendmsg(sqe, self.fd, &self.header, 0)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        return self.finish(res)

    cdef int stop(self) except -1:
        if self.resolving is not None:
            self.resolving.cancel()
            return 0
        return SocketOperation.stop(self)

    cdef bint idle(self) noexcept:
        return self.request == 0 and self.resolving is None


# -- connections ------------------------------------------------------------------------------------------------------------------------

@cython.final
cdef class Connect(SocketOperation):
    """Connects to an address whose host is a literal: sock_connect() has resolved it."""
    cdef object destination
    cdef sockaddr_storage address
    cdef socklen_t address_length
    cdef bint polling

    cdef str name(self):
        return "sock_connect"

    cdef int start(self) except -1:
        self.attach()
        to_sockaddr(self.destination, self.family(), &self.address, &self.address_length, "connect")
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
        if self.polling:
            prep_poll_add(sqe, self.fd, POLLOUT)
        else:
            prep_connect(sqe, self.fd, &self.address, self.address_length)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        cdef int error = -res
        if self.polling and res >= 0:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        elif error == EALREADY or error == EINPROGRESS:
            # It was begun earlier: by the user, or by a request of ours on a ring that was replaced.
            self.polling = True
            return self.again()
        if error == 0:
            return self.finish(None)
        if self.family() != AF_UNIX and (error == ECONNREFUSED or error == ETIMEDOUT or error == EHOSTUNREACH or error == ECONNRESET):
            # The network's answer, which asyncio words like this. The others are connect()'s own.
            return self.fail(OSError(error, f"Connect call failed {self.destination}"))
        return self.fail_errno(error)


@cython.final
cdef class Accept(SocketOperation):
    cdef sockaddr_storage address
    cdef socklen_t address_length

    cdef str name(self):
        return "sock_accept"

    cdef int start(self) except -1:
        cdef list accepted
        self.attach()
        if self.use is not None and self.use.accepted is not None:
            accepted = self.use.accepted
            connection = accepted.pop(0)
            if not accepted:
                self.use.accepted = None
            return self.finish(connection)
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, SocketOperation.complete, TAG_RETURNS_FD)
        self.address_length = sizeof(sockaddr_storage)
        prep_accept(sqe, self.fd, &self.address, &self.address_length, SOCK_CLOEXEC | SOCK_NONBLOCK)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        sock = self.sock
        try:
            connection = socket.socket(sock.family, sock.type, sock.proto, fileno=res)
        except BaseException:
            posix_close(res)
            raise
        try:
            connection.setblocking(False)
            if knows_family(self.family()):
                address = from_sockaddr(&self.address, self.address_length)
            else:
                address = connection.getpeername()
        except BaseException:
            connection.close()
            raise
        return self.finish((connection, address))

    cdef int keep(self, object result) except -1:
        if self.use is None or self.socket_closed:
            result[0].close()
            return 0
        if self.use.accepted is None:
            self.use.accepted = []
        self.use.accepted.append(result)
        return 0


# -- families that only the socket module knows -------------------------------------------------------------------------------------------

@cython.final
cdef class PollOperation(SocketOperation):
    """Calls `function(*args)`, each time after the socket became ready, until it does not raise BlockingIOError."""
    cdef str caller
    cdef int mask
    cdef bint poll_first
    cdef object function
    cdef tuple args

    cdef str name(self):
        return self.caller

    cdef int start(self) except -1:
        self.attach()
        return self.submit() if self.poll_first else self.attempt()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, SocketOperation.complete, 0)
        prep_poll_add(sqe, self.fd, <uint32_t>self.mask)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        if self.cancel_requested or self.socket_closed or self.state == ABANDONED:
            return self.again()
        return self.attempt()

    cdef int attempt(self) except -1:
        try:
            result = self.function(*self.args)
        except (BlockingIOError, InterruptedError):
            return self.submit()
        return self.finish(result)

    cdef void release(self) noexcept:
        self.function = None
        self.args = None


cdef PollOperation poll_operation(object loop, object sock, str caller, int mask, object function, tuple args, bint poll_first=False):
    cdef PollOperation operation = PollOperation.__new__(PollOperation)
    operation.loop = loop
    operation.sock = sock
    operation.caller = caller
    operation.mask = mask
    operation.function = function
    operation.args = args
    operation.poll_first = poll_first
    return operation


def check_connected(sock, address):
    """Raise the error that a connection attempt ended with, if it did."""
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, f"Connect call failed {address}")


cdef int family_of(object sock) except -1:
    # The C attribute: that of socket.socket makes an enum member at each access.
    return get_family(sock) if isinstance(sock, base_socket) else <int>sock.family


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
        cdef Recv operation = Recv.__new__(Recv)
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
        if not knows_family(family_of(sock)):
            return poll_operation(self, sock, "sock_recvfrom", POLLIN, sock.recvfrom, (bufsize,))
        operation = RecvFrom.__new__(RecvFrom)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.argument = bufsize
        return operation

    @coroutine_function
    def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram of up to `nbytes` bytes (0: the buffer's size) into `buf`. Returns (bytes received, the sender's address)."""
        cdef RecvFromInto operation
        if not knows_family(family_of(sock)):
            return poll_operation(self, sock, "sock_recvfrom_into", POLLIN, sock.recvfrom_into, (buf, nbytes or len(buf)))
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
        cdef SendAll operation = SendAll.__new__(SendAll)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.data = data
        return operation

    @coroutine_function
    def sock_sendto(self, sock, data, address):
        """Send `data` as one datagram to `address`. Returns the number of bytes sent. Host names are resolved in the executor."""
        cdef SendTo operation
        if not knows_family(family_of(sock)):
            return poll_operation(self, sock, "sock_sendto", POLLOUT, sock.sendto, (data, address))
        operation = SendTo.__new__(SendTo)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.data = data
        operation.destination = address
        return operation

    async def sock_connect(self, sock, address):
        """Connect to `address`; host names are resolved as with getaddrinfo(). Raises OSError, as socket.connect() does."""
        cdef Connect operation
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        cdef int family = family_of(sock)
        if not knows_family(family):
            await self._sock_connect_by_poll(sock, address)
            return
        if family == AF_INET or family == AF_INET6:
            resolved = await self._ensure_resolved(address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            address = resolved[0][4]
        operation = Connect.__new__(Connect)
        operation.loop = <LoopCore>self
        operation.sock = sock
        operation.destination = address
        await operation

    async def _sock_connect_by_poll(self, sock, address):
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            await poll_operation(self, sock, "sock_connect", POLLOUT, check_connected, (sock, address), poll_first=True)

    @coroutine_function
    def sock_accept(self, sock):
        """Accept a connection. Returns (a new non-blocking socket, the peer's address).

        Cancelling loses no connection: it stays in the socket's queue, or comes with the next sock_accept() on this socket object.
        """
        cdef Accept operation = Accept.__new__(Accept)
        operation.loop = <LoopCore>self
        operation.sock = sock
        return operation

    async def _sock_sendfile_native(self, sock, file, offset, count):
        return await sendfile(self, sock, file, offset, count)
