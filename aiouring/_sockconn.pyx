"""sock_connect() and sock_accept(), and calls on address families that only Python's socket module knows.

Used by `_sock.SockMixin`. Calls `_sockop`, `_address`, `_prep`, `_loop`.

A connect is submitted at once and not with the turn, because asyncio connects at the call's first step. An accepted descriptor is
non-blocking and close-on-exec from its birth.
"""

cimport cython
from libc.errno cimport ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINPROGRESS, ETIMEDOUT
from libc.stdint cimport int32_t, uint32_t
from posix.unistd cimport close as posix_close

from aiouring._address cimport AF_UNIX, from_sockaddr, knows_family, sockaddr_storage, socklen_t, to_sockaddr
from aiouring._awaitable cimport NEW, OVER, warn_never_awaited
from aiouring._loop cimport LoopCore
from aiouring._op cimport TAG_RETURNS_FD
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_accept, prep_connect, prep_poll_add
from aiouring._sockop cimport SocketOperation
from aiouring.uapi cimport EALREADY, io_uring_sqe

import socket

cdef extern from "<sys/socket.h>" nogil:
    int SOCK_CLOEXEC
    int SOCK_NONBLOCK

cdef extern from "<poll.h>" nogil:
    int POLLOUT


# -- connections ------------------------------------------------------------------------------------------------------------------------

@cython.final
cdef class Connect(SocketOperation):
    """Connects to an address whose host is a literal: sock_connect() has resolved it."""
    cdef object destination
    cdef sockaddr_storage address
    cdef socklen_t address_length
    cdef bint polling

    cdef str name(self):
        return "Loop.sock_connect"

    cdef int start(self) except -1:
        self.attach()
        to_sockaddr(self.destination, self.family(), &self.address, &self.address_length, "connect")
        self.submit()
        # asyncio connects at the call's first step: what the caller does next, in this same turn, may count on it.
        return self.loop.submit_now()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, 0)
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
        return "Loop.sock_accept"

    cdef int start(self) except -1:
        self.attach()
        return 0 if self.finish_kept() else self.submit()

    cdef bint finish_kept(self) except -1:
        cdef list accepted
        if self.use is None or self.use.accepted is None:
            return False
        accepted = self.use.accepted
        connection = accepted.pop(0)
        if not accepted:
            self.use.accepted = None
        self.finish(connection)
        return True

    cdef int again(self) except -1:
        if self.wanted() and self.finish_kept():
            return 0
        return SocketOperation.again(self)

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, TAG_RETURNS_FD)
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

    cdef bint keep(self, object result) except -1:
        cdef SocketOperation other
        if self.use is None or self.socket_closed:
            result[0].close()
            return False
        if self.use.accepted is None:
            self.use.accepted = []
        self.use.accepted.append(result)
        for other in self.use.operations:
            if isinstance(other, Accept) and other is not self:
                other.stop_from_anywhere()      # again() comes next, and finds it
        return True


# -- families that only the socket module knows -------------------------------------------------------------------------------------------

@cython.final
cdef class PollOperation(SocketOperation):
    """Calls `function(*args)`, each time after the socket became ready, until it does not raise BlockingIOError."""
    cdef str caller
    cdef int mask
    cdef bint poll_first
    cdef object function
    cdef tuple args

    def __dealloc__(self):
        if self.state == NEW:
            self.state = OVER           # the base class's would ask for the name, which is gone by then
            warn_never_awaited(self.name())

    cdef str name(self):
        return "Loop." + self.caller

    cdef int start(self) except -1:
        self.attach()
        return self.submit() if self.poll_first else self.attempt()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, 0)
        prep_poll_add(sqe, self.fd, <uint32_t>self.mask)
        self.request = sqe.user_data
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        if self.socket_closed or not self.wanted():
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


cdef object poll_operation(object loop, object sock, str caller, int mask, object function, tuple args, bint poll_first):
    cdef PollOperation operation = PollOperation.__new__(PollOperation)
    operation.loop = <LoopCore>loop
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


cdef object accept_operation(object loop, object sock):
    cdef Accept operation = Accept.__new__(Accept)
    operation.loop = <LoopCore>loop
    operation.sock = sock
    return operation


cdef object connect_operation(object loop, object sock, object address):
    cdef Connect operation = Connect.__new__(Connect)
    operation.loop = <LoopCore>loop
    operation.sock = sock
    operation.destination = address
    return operation
