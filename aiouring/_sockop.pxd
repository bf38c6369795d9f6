# What all sock_* calls have in common. See _sockop.pyx.
# cimported by: _sock, _sockconn, _sendfile and _hook.

from aiouring._operation cimport Operation


cdef int socket_family(object sock) except -1       # without making an enum member, and for whatever has a fileno()


# What the loop knows of one socket object. It stands in the socket's _io_refs, so it lives and dies with the socket.
cdef class SocketUse:
    cdef Py_ssize_t file_count      # what the socket module counts in _io_refs: open files of makefile()
    cdef int family, kind           # AF_*, SOCK_*
    cdef bint bulk                  # its last receive filled a whole provided buffer
    cdef list operations            # those in flight
    cdef list received              # results that came for cancelled receives: (data, address) or an exception; None: none
    cdef list accepted              # the same for cancelled accepts: (socket, address)

    cdef int socket_closes(self) except -1


cdef class SocketOperation(Operation):
    cdef object sock
    cdef SocketUse use              # None for objects that are no socket.socket
    cdef int fd
    cdef bint socket_closed

    # What the kinds use.
    cdef int attach(self) except -1
    cdef int family(self) except -1
    cdef int kind(self) except -1
