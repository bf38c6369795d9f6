# The socket under a stream transport. See _stream_socket.pyx.
# cimported by: _stream_receive, whose core inherits from it, and _stream.

from libc.stdint cimport uint8_t, uint16_t

from aiouring._transport cimport TransportCore, flag


cdef struct socket_names:                       # two sockaddrs, one behind the other, without what is padding in them
    uint8_t sockname_bytes, peername_bytes      # 0: there is none


cdef class StreamSocket(TransportCore):
    cdef socket_names *names                    # what the socket was called when the transport was made; NULL: the shell's dict has it
    cdef uint16_t family, proto                 # with `kind`, what a socket object is made of
    cdef uint8_t kind
    cdef flag has_extra                         # the shell has asyncio's dict
    cdef uint8_t closer                         # who closes the descriptor: NOBODY (it is closed), this object, the socket object

    # One of the two comes before attach(). An accepted descriptor is this object's from there on, whatever raises.
    cdef int take_descriptor(self, int fd, int family, int kind, int proto) except -1
    cdef int take_socket(self, object sock) except -1

    cdef int claim(self) except -1
    cdef void lend(self) noexcept
    cdef bint read_names(self) except -1        # False: only the socket module can read this family's
    cdef object sockname(self)
    cdef object peername(self)
    cdef object get_socket(self)                # a socket object, made when somebody asks for the first time
    cdef int shut_down_sending(self) except -1
    cdef bint is_tcp(self) noexcept
    cdef int set_nodelay(self) except -1
