"""Connections to an address that needs no resolver: descriptor, CONNECT and transport, with no socket object and one coroutine on the way.

Used by `network`, for create_connection() with a literal host and nothing else asked for; everything else is asyncio.BaseEventLoop's, with the
same result. Calls `_stream`, `_address`, `_loop`, `_op`, `_prep`.

The request goes out with its turn, unlike sock_connect()'s: nobody can look at a socket that nobody has.

Who owns what: a Connect owns its descriptor until take() gives it to a transport. It is the owner of its request, so a connection that was
given up is closed after the request's last CQE and never before.
"""

from libc.errno cimport EALREADY, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINPROGRESS, EINTR, ETIMEDOUT, errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.unistd cimport close as posix_close

from aiouring._address cimport AF_INET, AF_INET6, sockaddr_storage, socklen_t, to_sockaddr
from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_connect, prep_poll_add
from aiouring._stream cimport new_transport
from aiouring.uapi cimport ECANCELED, io_uring_sqe

cdef extern from "<sys/socket.h>" nogil:
    int posix_socket "socket"(int family, int kind, int proto)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    int SO_ERROR

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *source, void *destination)

cdef extern from "<poll.h>" nogil:
    int POLLOUT


cdef class Connect:
    """One connection that is being made."""

    cdef LoopCore loop
    cdef object future, destination
    cdef uint64_t request                       # 0: none in flight
    cdef int fd                                 # -1: none, or a transport's
    cdef bint polling, given_up
    cdef sockaddr_storage address
    cdef socklen_t address_bytes

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            posix_close(self.fd)

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Connect.complete, 0)
        if self.polling:
            prep_poll_add(sqe, self.fd, POLLOUT)
        else:
            prep_connect(sqe, self.fd, &self.address, self.address_bytes)
        self.request = sqe.user_data
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef Connect self = <Connect>owner
        cdef int error = -res
        cdef socklen_t length = sizeof(error)
        self.request = 0
        if self.given_up:
            return self.drop()
        if self.future.done():
            return 0                    # its task is cancelled, and will give up when it runs
        if self.polling and res >= 0 and getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0:
            error = errno
        if error == EALREADY or error == EINPROGRESS:
            self.polling = True         # it was begun on a ring that was replaced
        elif error != ECANCELED and error != EINTR:
            if error <= 0:
                self.future.set_result(None)
            elif error == ECONNREFUSED or error == ETIMEDOUT or error == EHOSTUNREACH or error == ECONNRESET:
                # The network's answer, which asyncio words like this. The others are connect()'s own.
                self.future.set_exception(OSError(error, f"Connect call failed {self.destination}"))
            else:
                self.future.set_exception(os_error(-error))
            return 0
        return self.submit()

    cdef int take(self) noexcept:
        cdef int fd = self.fd
        self.fd = -1
        return fd

    cdef int drop(self) except -1:
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            posix_close(fd)
        return 0

    cdef int give_up(self) except -1:
        self.given_up = True
        if self.request == 0:
            return self.drop()
        return self.loop.ops.cancel(self.request)       # and what is closed is closed after that


async def run(Connect connect not None, protocol_factory):
    cdef LoopCore loop = connect.loop
    cdef int family = connect.address.ss_family
    loop.check_open()
    connect.fd = posix_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP)
    if connect.fd < 0:
        raise os_error(-errno)
    try:
        if loop.is_of_transport(connect.fd):
            loop._ensure_fd_no_transport(connect.fd)
        connect.future = loop.create_future()
        connect.submit()
        await connect.future
        protocol = protocol_factory()
        waiter = loop.create_future()
        transport = new_transport(loop, connect.take(), family, SOCK_STREAM, IPPROTO_TCP, protocol, None, waiter)
    except BaseException:
        connect.give_up()
        raise
    finally:
        connect.future = None           # its exception would hold this frame, and the frame it
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol


def connect_to_literal(LoopCore loop not None, protocol_factory, str host not None, int port):
    """The coroutine of create_connection() to an IP address. None: the host is a name, or there is something else to it."""
    cdef Connect connect
    cdef int family = AF_INET
    cdef char number[16]
    if not 0 <= port <= 0xFFFF or not host.isascii():
        return None
    text = host.encode("ascii")
    if b"\0" in text:
        return None
    if inet_pton(AF_INET, text, number) != 1:
        family = AF_INET6
        if inet_pton(AF_INET6, text, number) != 1:
            return None
    connect = Connect.__new__(Connect)
    connect.loop = loop
    connect.destination = (host, port) if family == AF_INET else (host, port, 0, 0)
    to_sockaddr(connect.destination, family, &connect.address, &connect.address_bytes, "connect")
    return run(connect, protocol_factory)
