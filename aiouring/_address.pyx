"""Socket addresses: from the form of Python's socket module to the kernel's sockaddr, and back, without a socket object and without blocking.

Used by the datagram transport and by the rooms that connect or send to an address. Calls nothing of ours.

What goes in and comes out is what socket.sendto() and socket.recvfrom() take and give, value by value and exception by exception.
There is one addition: for AF_UNIX an os.PathLike is taken as well.

Hosts must be literals: the empty string (any address), '<broadcast>', or whatever getaddrinfo() reads as a number (also '127.1' and
'fe80::1%eth0'; the interface in the host is dropped, as the socket module does: the scope id is the fourth item). For any other host
to_sockaddr() raises HostNotLiteral, which is deliberately not an OSError, so that no handler of network errors swallows it: the caller
resolves the name (loop.getaddrinfo) or calls to_sockaddr_blocking().
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Check, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset, strcmp, strlen

import os
import socket

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr

    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    struct in6_addr:
        pass

    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

    uint32_t INADDR_BROADCAST
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *source, void *destination)
    const char *inet_ntop(int family, const void *source, char *destination, socklen_t size)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        sa_family_t sun_family
        char sun_path[108]

cdef extern from "<netdb.h>" nogil:
    struct addrinfo:
        int ai_flags
        int ai_family
        int ai_socktype
        int ai_protocol
        socklen_t ai_addrlen
        sockaddr *ai_addr
        addrinfo *ai_next

    int getaddrinfo(const char *node, const char *service, const addrinfo *hints, addrinfo **result)
    void freeaddrinfo(addrinfo *result)
    const char *gai_strerror(int error)
    int AI_NUMERICHOST
    int EAI_NONAME
    int EAI_SYSTEM

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t size)

cdef extern from "Python.h":
    object PyUnicode_EncodeFSDefault(object text)       # keeps NULs
    object PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)
    bint PyUnicode_IS_ASCII(object text)
    # Converts as the socket module's "i" and "I" do: __index__, OverflowError outside an int; modulo 2**32, int only.
    long PyLong_AsLong(object number) except? -1
    unsigned long PyLong_AsUnsignedLongMask(object number) except? -1

cdef enum:
    PATH_OFFSET = 2             # offsetof(struct sockaddr_un, sun_path): the family comes first
    PATH_BYTES = 108
    FLOWINFO_MAX = 0xFFFFF


class HostNotLiteral(Exception):
    """The host of an address is a name that must be looked up. `host` is the name as the resolver would get it, in bytes."""

    def __init__(self, host):
        super().__init__(f"{host!r} is a host name and not a literal address: resolve it first")
        self.host = host


cdef bint knows_family(int family) noexcept:
    return family == AF_INET or family == AF_INET6 or family == AF_UNIX


cdef int to_sockaddr(object address, int family, sockaddr_storage *out, socklen_t *length, str caller="sendto") except -1:
    return encode_address(address, family, out, length, caller, False)


cdef int to_sockaddr_blocking(object address, int family, sockaddr_storage *out, socklen_t *length, str caller="sendto") except -1:
    return encode_address(address, family, out, length, caller, True)


cdef int encode_address(object address, int family, sockaddr_storage *out, socklen_t *length, str caller, bint resolve) except -1:
    memset(out, 0, sizeof(sockaddr_storage))
    if family == AF_UNIX:
        return encode_unix(address, <sockaddr_un *>out, length)
    if family == AF_INET:
        return encode_inet(address, out, length, caller, resolve)
    if family == AF_INET6:
        return encode_inet6(address, out, length, caller, resolve)
    raise OSError(f"{caller}(): bad family")


cdef int encode_unix(object address, sockaddr_un *out, socklen_t *length) except -1:
    cdef Py_ssize_t size
    if PyUnicode_Check(address):
        path = PyUnicode_EncodeFSDefault(address)
    elif hasattr(address, "__fspath__"):
        path = os.fsencode(address)
    else:
        with memoryview_of(address) as buffer:
            path = bytes(buffer)
    size = PyBytes_GET_SIZE(path)
    # An empty path binds to a name that the kernel chooses, and one that starts with NUL is abstract: both are not NUL-terminated.
    if size == 0 or PyBytes_AS_STRING(path)[0] == 0:
        if size > PATH_BYTES:
            raise OSError("AF_UNIX path too long")
        length[0] = <socklen_t>(PATH_OFFSET + size)
    else:
        if size >= PATH_BYTES:
            raise OSError("AF_UNIX path too long")
        length[0] = <socklen_t>(PATH_OFFSET + size + 1)
    out.sun_family = AF_UNIX
    memcpy(out.sun_path, PyBytes_AS_STRING(path), size)
    return 0


cdef object memoryview_of(object address):
    try:
        return memoryview(address)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(address).__name__}'") from None


cdef object host_bytes(object host):
    """The host as the resolver gets it."""
    if PyBytes_Check(host):
        name = host
    elif PyByteArray_Check(host):
        name = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(host), PyByteArray_GET_SIZE(host))
    elif PyUnicode_Check(host):
        if PyUnicode_IS_ASCII(host):
            name = host.encode("ascii")
        else:
            try:
                name = host.encode("idna")
            except Exception:
                raise TypeError("encoding of hostname failed") from None
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if b"\0" in name:
        raise TypeError("host name must not contain null character")
    return name


cdef long to_int(object number) except? -1:
    """An int in the C type int's range: TypeError for what has no __index__, OverflowError beyond."""
    cdef long value = PyLong_AsLong(number)
    if value != <int>value:
        raise OverflowError("signed integer is greater than maximum" if value > 0 else "signed integer is less than minimum")
    return value


cdef int check_port(long port, str caller) except -1:
    if port < 0 or port > 0xFFFF:
        raise OverflowError(f"{caller}(): port must be 0-65535.")
    return 0


cdef int encode_inet(object address, sockaddr_storage *out, socklen_t *length, str caller, bint resolve) except -1:
    cdef sockaddr_in *inet = <sockaddr_in *>out
    cdef long port
    if not PyTuple_Check(address):
        raise TypeError(f"{caller}(): AF_INET address must be tuple, not {type(address).__name__}")
    if PyTuple_GET_SIZE(address) != 2:
        raise TypeError("AF_INET address must be a pair (host, port)")
    name = host_bytes(address[0])
    try:
        port = to_int(address[1])
    except OverflowError:
        raise OverflowError(f"{caller}(): port must be 0-65535.") from None
    encode_host(name, AF_INET, out, &inet.sin_addr, resolve)
    check_port(port, caller)
    inet.sin_family = AF_INET
    inet.sin_port = htons(<uint16_t>port)
    length[0] = sizeof(sockaddr_in)
    return 0


cdef int encode_inet6(object address, sockaddr_storage *out, socklen_t *length, str caller, bint resolve) except -1:
    cdef sockaddr_in6 *inet6 = <sockaddr_in6 *>out
    cdef long port
    cdef uint32_t flowinfo = 0, scope_id = 0
    cdef Py_ssize_t items
    if not PyTuple_Check(address):
        raise TypeError(f"{caller}(): AF_INET6 address must be tuple, not {type(address).__name__}")
    items = PyTuple_GET_SIZE(address)
    if items < 2 or items > 4:
        raise TypeError("AF_INET6 address must be a tuple (host, port[, flowinfo[, scopeid]])")
    name = host_bytes(address[0])
    try:
        port = to_int(address[1])
        if items > 2:
            flowinfo = <uint32_t>PyLong_AsUnsignedLongMask(address[2])
        if items > 3:
            scope_id = <uint32_t>PyLong_AsUnsignedLongMask(address[3])
    except OverflowError:
        raise OverflowError(f"{caller}(): port must be 0-65535.") from None
    encode_host(name, AF_INET6, out, &inet6.sin6_addr, resolve)
    check_port(port, caller)
    if flowinfo > FLOWINFO_MAX:
        raise OverflowError(f"{caller}(): flowinfo must be 0-1048575.")
    inet6.sin6_family = AF_INET6
    inet6.sin6_port = htons(<uint16_t>port)
    inet6.sin6_flowinfo = htonl(flowinfo)
    inet6.sin6_scope_id = scope_id
    length[0] = sizeof(sockaddr_in6)
    return 0


cdef int encode_host(bytes name, int family, sockaddr_storage *out, void *host_out, bint resolve) except -1:
    """The number of the host. `host_out` points into `out`, which comes zeroed, so the empty name (any address) is already there."""
    cdef const char *text = PyBytes_AS_STRING(name)
    cdef addrinfo hints
    cdef addrinfo *found = NULL
    cdef int rc
    if text[0] == 0:
        return 0
    if strcmp(text, b"<broadcast>") == 0 or strcmp(text, b"255.255.255.255") == 0:
        if family != AF_INET:
            raise OSError("address family mismatched")
        (<in_addr *>host_out).s_addr = htonl(INADDR_BROADCAST)
        return 0
    if inet_pton(family, text, host_out) > 0:
        return 0
    memset(&hints, 0, sizeof(hints))
    hints.ai_family = family
    hints.ai_flags = AI_NUMERICHOST
    rc = getaddrinfo(text, NULL, &hints, &found)
    if rc == EAI_NONAME:
        if not resolve:
            raise HostNotLiteral(name)
        hints.ai_flags = 0
        with nogil:
            rc = getaddrinfo(text, NULL, &hints, &found)
    if rc == EAI_SYSTEM:
        raise OSError(errno, os.strerror(errno))
    if rc != 0:
        raise socket.gaierror(rc, gai_strerror(rc).decode("utf-8", "surrogateescape"))
    if found.ai_addrlen <= sizeof(sockaddr_storage):
        memcpy(out, found.ai_addr, found.ai_addrlen)
    freeaddrinfo(found)
    return 0


cdef object from_sockaddr(const sockaddr_storage *address, socklen_t length):
    cdef char text[64]
    cdef const sockaddr_in *inet
    cdef const sockaddr_in6 *inet6
    cdef const sockaddr_un *un
    cdef Py_ssize_t path_bytes
    if length == 0:
        return None
    if address.ss_family == AF_INET:
        inet = <const sockaddr_in *>address
        inet_ntop(AF_INET, &inet.sin_addr, text, sizeof(text))
        return (text[:strlen(text)].decode("ascii"), <int>ntohs(inet.sin_port))
    if address.ss_family == AF_INET6:
        inet6 = <const sockaddr_in6 *>address
        inet_ntop(AF_INET6, &inet6.sin6_addr, text, sizeof(text))
        return (text[:strlen(text)].decode("ascii"), <int>ntohs(inet6.sin6_port), ntohl(inet6.sin6_flowinfo), inet6.sin6_scope_id)
    if address.ss_family == AF_UNIX:
        un = <const sockaddr_un *>address
        path_bytes = <Py_ssize_t>length - PATH_OFFSET
        if path_bytes > PATH_BYTES:
            path_bytes = PATH_BYTES         # Linux counts a NUL that may lie one byte beyond the field
        if path_bytes <= 0:
            return ""
        if un.sun_path[0] == 0:
            return PyBytes_FromStringAndSize(un.sun_path, path_bytes)
        return PyUnicode_DecodeFSDefaultAndSize(un.sun_path, strnlen(un.sun_path, path_bytes))
    return (<int>address.ss_family, PyBytes_FromStringAndSize((<const sockaddr *>address).sa_data, sizeof((<const sockaddr *>address).sa_data)))


# -- for Python code: the tests compare these with real sockets ---------------------------------------------------------------------------

def encode(address, int family, str caller="sendto", bint resolve=False):
    """The bytes of the sockaddr for `address`. Raises as to_sockaddr(); with `resolve` host names are looked up, which blocks."""
    cdef sockaddr_storage storage
    cdef socklen_t length = 0
    encode_address(address, family, &storage, &length, caller, resolve)
    return PyBytes_FromStringAndSize(<char *>&storage, length)


def decode(bytes raw not None):
    """The address in a sockaddr's bytes, as socket.getsockname() would give it."""
    cdef sockaddr_storage storage
    if len(raw) > <Py_ssize_t>sizeof(storage):
        raise ValueError("longer than a sockaddr_storage")
    memset(&storage, 0, sizeof(storage))
    memcpy(&storage, PyBytes_AS_STRING(raw), len(raw))
    return from_sockaddr(&storage, <socklen_t>len(raw))
