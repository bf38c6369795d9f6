"""The socket under a stream transport: its descriptor, its two names, and a socket object for those who ask for one.

Used by `_stream_receive`, whose core inherits from StreamSocket, and by `_stream`. Calls `_transport`, `_address`.

Most connections of a server never need a socket object, nor their names as Python objects, nor the dict in which asyncio keeps them. So an
accepted connection is a descriptor and two sockaddrs until somebody asks. The names are read when the transport is made, because the kernel
forgets the peer's when the connection ends, and asyncio tells it also afterwards.

Who owns what: the core owns the descriptor until the end of connection_lost. A socket object that was made for it becomes its owner, and is
closed in its place: whoever detaches or closes that object takes the descriptor away, as from asyncio's transports.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as posix_close

from aiouring._address cimport AF_INET, AF_INET6, from_sockaddr, knows_family, sockaddr, sockaddr_storage, socklen_t
from aiouring._op cimport os_error
from aiouring._transport cimport TransportCore

import socket

cdef extern from "<sys/socket.h>" nogil:
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    int getpeername(int fd, sockaddr *address, socklen_t *length)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
    int posix_shutdown "shutdown"(int fd, int how)
    int SHUT_WR
    int SOCK_STREAM
    int SOCK_NONBLOCK

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef enum:
    INET_BYTES = 8                      # family, port and address of a sockaddr_in; the rest is padding

cdef enum:
    # Who closes the descriptor.
    NOBODY                              # it is closed
    THIS_OBJECT
    SOCKET_OBJECT

cdef object Socket = socket.socket


cdef class StreamSocket(TransportCore):

    cdef int take_descriptor(self, int fd, int family, int kind, int proto) except -1:
        self.fd = fd
        self.closer = THIS_OBJECT
        self.family = family
        self.kind = kind
        self.proto = proto
        return 0

    cdef int take_socket(self, object sock) except -1:
        self.fd = sock.fileno()
        self.file = sock
        self.closer = SOCKET_OBJECT
        self.family = sock.family
        self.kind = sock.type
        self.proto = sock.proto
        return 0

    def __dealloc__(self):
        PyMem_Free(self.names)
        if self.closer == THIS_OBJECT:
            posix_close(self.fd)        # the shell, whose destructor warns and closes, never came to be

    cdef bint is_open(self) noexcept:
        return self.closer != NOBODY

    cdef int close_file(self) except -1:
        cdef uint8_t closer = self.closer
        self.closer = NOBODY
        self.lend()
        if closer == THIS_OBJECT:
            posix_close(self.fd)        # as of a descriptor's end nobody could do anything about an error
        elif closer == SOCKET_OBJECT:
            self.file.close()
        return 0

    cdef int claim(self) except -1:
        """Nobody else may read from the descriptor."""
        return self.loop.note_transport(self.fd, self.shell)

    cdef void lend(self) noexcept:
        """Somebody else may."""
        if self.loop is not None:
            self.loop.forget_transport(self.fd, self.shell)

    cdef bint is_tcp(self) noexcept:
        return ((self.family == AF_INET or self.family == AF_INET6) and self.kind == SOCK_STREAM
                and (self.proto == 0 or self.proto == IPPROTO_TCP))

    cdef int set_nodelay(self) except -1:
        cdef int yes = 1
        if setsockopt(self.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) < 0:
            raise os_error(-errno)
        return 0

    # -- names ------------------------------------------------------------------------------------------------------------------------

    cdef bint read_names(self) except -1:
        cdef sockaddr_storage sockname, peername
        cdef socklen_t sockname_bytes = sizeof(sockaddr_storage), peername_bytes = sizeof(sockaddr_storage)
        if not knows_family(self.family):
            return False
        if getsockname(self.fd, <sockaddr *>&sockname, &sockname_bytes) < 0:
            sockname_bytes = 0
        if getpeername(self.fd, <sockaddr *>&peername, &peername_bytes) < 0:
            peername_bytes = 0          # there is none, or it has gone already: then the receive will say so
        if self.family == AF_INET:
            sockname_bytes = min(sockname_bytes, <socklen_t>INET_BYTES)
            peername_bytes = min(peername_bytes, <socklen_t>INET_BYTES)
        # The longest is a unix socket's, of 111 bytes.
        self.names = <socket_names *>PyMem_Malloc(sizeof(socket_names) + sockname_bytes + peername_bytes)
        if self.names == NULL:
            raise MemoryError()
        self.names.sockname_bytes = <uint8_t>sockname_bytes
        self.names.peername_bytes = <uint8_t>peername_bytes
        memcpy(<char *>(self.names + 1), &sockname, sockname_bytes)
        memcpy(<char *>(self.names + 1) + sockname_bytes, &peername, peername_bytes)
        return True

    cdef object sockname(self):
        return None if self.names == NULL else decode(<const char *>(self.names + 1), self.names.sockname_bytes)

    cdef object peername(self):
        if self.names == NULL:
            return None
        return decode(<const char *>(self.names + 1) + self.names.sockname_bytes, self.names.peername_bytes)

    # -- the socket object --------------------------------------------------------------------------------------------------------------

    cdef object get_socket(self):
        if self.file is not None:
            return self.file
        if self.closer == NOBODY:
            # asyncio's has been closed by now.
            closed = Socket(self.family, self.kind, self.proto)
            closed.close()
            return closed
        # With family, type and protocol given the constructor does not ask the kernel; SOCK_NONBLOCK says what ACCEPT has set already.
        self.file = Socket(self.family, self.kind | SOCK_NONBLOCK, self.proto, fileno=self.fd)
        self.closer = SOCKET_OBJECT
        return self.file

    cdef int shut_down_sending(self) except -1:
        if self.file is not None:
            self.file.shutdown(SHUT_WR)         # it knows whether the descriptor is still its own
        elif posix_shutdown(self.fd, SHUT_WR) < 0:
            raise os_error(-errno)
        return 0


cdef object decode(const char *name, socklen_t length):
    cdef sockaddr_storage address
    memset(&address, 0, sizeof(address))
    memcpy(&address, name, length)
    return from_sockaddr(&address, length)
