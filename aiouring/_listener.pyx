"""Listening sockets: one multishot ACCEPT per socket, and a transport for each connection that it brings.

Used by `network`, which makes one for each socket of a server, and gets the connections of those with TLS. Calls `_stream`, `_loop` and `_op`.

Who owns what: the listener owns its request; the listening socket belongs to asyncio.Server, which closes it right after stop(). An
accepted descriptor belongs to its transport; one that arrives after stop(), or whose protocol could not be made, is closed here.
"""

from libc.errno cimport EACCES, EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENFILE, ENOMEM, EPERM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.unistd cimport close as posix_close

from aiouring._loop cimport Flushable, LoopCore
from aiouring._op cimport TAG_RETURNS_FD, os_error
from aiouring._prep cimport prep_accept_multishot
from aiouring._stream cimport new_transport
from aiouring.uapi cimport *

from asyncio import constants, trsock

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef extern from "<sys/socket.h>" nogil:
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC

cdef extern from "<errno.h>" nogil:
    int ECONNABORTED
    int ENOTSOCK
    int EOPNOTSUPP


cdef class Listener(Flushable):
    """Accepts on one listening socket until stop(), in the context of its own creation.

    Each connection becomes a transport with a protocol of `protocol_factory()`; where that is None, `accepted(listener, fd)` is called.
    """

    cdef LoopCore loop
    cdef readonly object sock
    cdef object protocol_factory, server, accepted, context, receiving
    cdef int fd, family, kind, proto
    cdef uint64_t request
    cdef bint stopped

    def __init__(self, LoopCore loop not None, sock, protocol_factory, server=None, accepted=None, receiving=None):
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.family, self.kind, self.proto = sock.family, sock.type, sock.proto
        self.protocol_factory = protocol_factory
        self.server = server
        self.accepted = accepted
        self.receiving = receiving
        self.context = PyContext_CopyCurrent()
        loop.schedule_flush(self)

    def __repr__(self):
        return f"<Listener fd={self.fd}{' stopped' if self.stopped else ''}>"

    cdef int flush(self) except -1:
        cdef io_uring_sqe *sqe
        if not self.stopped and self.request == 0:
            sqe = self.loop.ops.begin(self, Listener.complete, TAG_RETURNS_FD)
            prep_accept_multishot(sqe, self.fd, SOCK_NONBLOCK | SOCK_CLOEXEC)
            self.request = sqe.user_data
        return 0

    def resume(self):
        if not self.stopped:
            self.loop.schedule_flush(self)

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef Listener self = <Listener>owner
        if not cqe_flags & IORING_CQE_F_MORE:
            self.request = 0
        if self.stopped:
            if res >= 0:
                posix_close(res)
            return 0
        if res >= 0:
            if self.request == 0:
                self.loop.schedule_flush(self)      # first: whatever accepted() raises, the server goes on
            PyContext_Enter(self.context)
            try:
                if self.protocol_factory is None:
                    self.accepted(self, res)
                else:
                    self.make_transport(res)
            finally:
                PyContext_Exit(self.context)
        elif res == -EMFILE or res == -ENFILE or res == -ENOBUFS or res == -ENOMEM:
            self.loop.call_exception_handler({
                "message": "socket.accept() out of system resource",
                "exception": os_error(res),
                "socket": trsock.TransportSocket(self.sock),
            })
            # At once it would fail again; asyncio waits as long.
            self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.resume)
            return 0
        elif res == -EBADF or res == -EINVAL or res == -ENOTSOCK or res == -EOPNOTSUPP:
            self.stopped = True         # it listens no more
            raise os_error(res)
        elif res != -ECANCELED and res != -EAGAIN and res != -EINTR and res != -ECONNABORTED:
            # One connection's trouble (accept(2): errors of the network that wait on the new socket), not the listener's.
            self.loop.call_exception_handler({
                "message": "socket.accept() failed",
                "exception": os_error(res),
                "socket": trsock.TransportSocket(self.sock),
            })
            if res == -EPERM or res == -EACCES:
                self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.resume)     # a refusal leaves the connection in the queue
                return 0
        if self.request == 0 and not self.stopped:
            self.loop.schedule_flush(self)
        return 0

    cdef int make_transport(self, int fd) except -1:
        cdef bint taken = False
        protocol = None
        try:
            protocol = self.protocol_factory()
            taken = True
            new_transport(self.loop, fd, self.family, self.kind, self.proto, protocol, self.server, None, self.receiving)
        except BaseException as exc:
            if not taken:
                posix_close(fd)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            self.loop._accept_failed(exc, protocol, None)
        return 0

    def stop(self):
        """Stop accepting. The caller closes the socket next, and its address must be free then, so the kernel hears of it now."""
        self.stopped = True
        if self.request:
            self.loop.ops.cancel(self.request)
            self.loop.submit_now()
