"""What all sock_* calls have in common: checking the socket, what cancelled receives leave behind, and the socket's close under a request.

Used by `_sock`, `_sockconn`, `_sendfile` and `_hook`, whose operations derive from SocketOperation. Calls `_operation`, `_loop` and `_op`.

Nothing that arrived is lost. A request that was not yet complete when it was cancelled has taken nothing. What one brought whose CQE
was already there is kept in the socket's SocketUse, for a call that waits on that socket or for the next one. That happens (a) when a
callback that an earlier CQE of the same batch ran cancels, (b) when a callback that stands in the ready queue before the task's
wake-up cancels, (c) when CQEs were posted by an enter in the middle of a turn and are not reaped yet. asyncio loses data in case (b).

A socket that is closed under a request: close() alone would not end it, for the request keeps the file open, so that the peer sees no
end. socket.socket.close() asks `self._io_refs <= 0`, and a SocketUse that stands there is asked before the descriptor is closed: it
submits what is queued (asyncio would have sent it), cancels the rest, and submits that at once. As in asyncio the call then waits
until it is cancelled. So it is when another thread than the loop's closes, only that the cancel comes with the loop's next turn.
"""

cimport cython
from libc.errno cimport EBADF, errno

from aiouring._awaitable cimport WAITING
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation

import _socket
import os
import socket
from asyncio import base_events

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    int SOL_SOCKET, SO_DOMAIN, SO_TYPE
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef object socket_socket = socket.socket
cdef object check_ssl_socket = base_events._check_ssl_socket
# The C attributes: those of socket.socket make an enum member at each access.
cdef object get_family = _socket.socket.family.__get__
cdef object get_kind = _socket.socket.type.__get__
cdef object get_fileno = _socket.socket.fileno


@cython.final
cdef class SocketUse:
    """Stands in a socket's `_io_refs` and behaves there as the number that it replaces."""

    def __iadd__(self, Py_ssize_t count):
        self.file_count += count
        return self

    def __isub__(self, Py_ssize_t count):
        self.file_count -= count
        return self

    def __add__(self, other):
        return int(self) + int(other)

    def __radd__(self, other):
        return int(other) + int(self)

    def __sub__(self, other):
        return int(self) - int(other)

    def __int__(self):
        return self.file_count

    def __index__(self):
        return self.file_count

    def __bool__(self):
        return self.file_count != 0

    def __hash__(self):
        return hash(self.file_count)

    def __eq__(self, other):
        return self is other or self.file_count == other

    def __lt__(self, other):
        return self.file_count < other

    def __gt__(self, other):
        return self.file_count > other

    def __ge__(self, other):
        return self.file_count >= other

    def __le__(self, other):
        # socket.socket.close() asks this, and nothing else does: true means that the descriptor is closed next.
        cdef bint closes = self.file_count <= other
        if closes and self.operations:
            self.socket_closes()
        return closes

    def __repr__(self):
        return str(self.file_count)

    cdef int socket_closes(self) except -1:
        cdef SocketOperation operation
        cdef LoopCore loop
        for operation in list(self.operations):
            loop = operation.loop
            if loop.ring.foreign_process():
                continue
            operation.socket_closed = True
            if loop.ops.issuer == PyThread_get_thread_ident():
                loop.submit_now()
                operation.stop_from_anywhere()
                loop.submit_now()
            else:
                operation.stop_from_anywhere()
        return 0


cdef bint is_socket(object sock) except -1:
    # Not isinstance(), which believes the __class__ of a mock.
    return type(sock) is socket_socket or issubclass(type(sock), socket_socket)


cdef int socket_option(object sock, int option) except -1:
    """The kernel's answer for what is no socket.socket: its attributes may be anything (mocks), its descriptor is what we work on."""
    cdef int value = -1
    cdef socklen_t length = sizeof(int)
    if getsockopt(sock.fileno(), SOL_SOCKET, option, &value, &length) != 0:
        raise OSError(errno, os.strerror(errno))
    return value


cdef int socket_family(object sock) except -1:
    return get_family(sock) if is_socket(sock) else socket_option(sock, SO_DOMAIN)


cdef SocketUse use_of(object sock):
    """What stands for this socket object; None for objects that only look like sockets."""
    cdef SocketUse use
    if not is_socket(sock):
        return None
    count = sock._io_refs
    if type(count) is SocketUse:
        return <SocketUse>count
    use = SocketUse.__new__(SocketUse)
    use.file_count = count
    use.family = get_family(sock)
    use.kind = get_kind(sock)
    use.operations = []
    sock._io_refs = use
    return use


cdef class SocketOperation(Operation):
    """One sock_* call. Await it once."""

    def __repr__(self):
        if self.state == WAITING:
            return f"<{self.name()}() waiting on descriptor {self.fd}>"
        return Operation.__repr__(self)

    cdef int attach(self) except -1:
        """The checks that every call makes of its socket, in asyncio's order."""
        cdef LoopCore loop = self.loop
        cdef SocketOperation other
        sock = self.sock
        cdef bint plain = type(sock) is socket_socket
        if not plain:
            check_ssl_socket(sock)
        if loop._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        loop.check_open()
        self.fd = get_fileno(sock) if plain else sock.fileno()
        if self.fd < 0:
            raise OSError(EBADF, os.strerror(EBADF))
        if loop.has_transport(self.fd):
            loop._ensure_fd_no_transport(self.fd)
        self.use = use_of(sock)
        if self.use is not None:
            if self.use.operations and (<SocketOperation>self.use.operations[0]).loop is not loop:
                # A loop that was closed while calls waited never ended them: forget them, and with them that loop.
                self.use.operations = [other for other in self.use.operations if not other.loop._closed]
            self.use.operations.append(self)
        return 0

    cdef int family(self) except -1:
        return self.use.family if self.use is not None else socket_option(self.sock, SO_DOMAIN)

    cdef int kind(self) except -1:
        return self.use.kind if self.use is not None else socket_option(self.sock, SO_TYPE)

    cdef int again(self) except -1:
        if self.socket_closed and self.wanted():
            # As in asyncio: the call waits until it is cancelled, and its task stays alive although nothing will wake it.
            self.loop.__dict__.setdefault("_stranded_sock_calls", set()).add(self)
            return 0
        return Operation.again(self)

    cdef int over(self) except -1:
        cdef list operations
        cdef Py_ssize_t i
        if self.socket_closed:
            self.loop.__dict__.get("_stranded_sock_calls", set()).discard(self)
        if self.use is not None:
            operations = self.use.operations
            for i in range(len(operations)):
                if operations[i] is self:
                    del operations[i]
                    break
        self.sock = None
        return Operation.over(self)
