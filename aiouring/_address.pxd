# Socket addresses between Python's form and the kernel's, and the C declarations that they need. See _address.pyx.
# cimported by: _datagram and the rooms that connect, bind, send to or receive from an address.

from libc.stdint cimport uint16_t, uint32_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef unsigned int socklen_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned short sa_family_t

    struct sockaddr:
        sa_family_t sa_family
        char sa_data[14]

    struct sockaddr_storage:
        sa_family_t ss_family

    struct iovec:
        void *iov_base
        size_t iov_len

    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    int AF_UNSPEC
    int AF_UNIX
    int AF_INET
    int AF_INET6
    int MSG_TRUNC
    int MSG_NOSIGNAL

# Whether the two functions below can speak this family. Others are left to Python's socket module.
cdef bint knows_family(int family) noexcept

# Fill `out` and `length` from an address in the form of Python's socket module. Raises what the socket's methods raise (TypeError,
# OverflowError, OSError, socket.gaierror), with `caller`() at the head of the message, and HostNotLiteral for a host name.
cdef int to_sockaddr(object address, int family, sockaddr_storage *out, socklen_t *length, str caller=*) except -1

# The same, and host names are looked up here, which blocks (without the GIL), as the socket's own methods do.
cdef int to_sockaddr_blocking(object address, int family, sockaddr_storage *out, socklen_t *length, str caller=*) except -1

# What the socket's recvfrom() or getsockname() would have returned. `length` 0: None.
cdef object from_sockaddr(const sockaddr_storage *address, socklen_t length)
