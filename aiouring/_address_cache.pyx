"""Addresses that were converted lately, both ways: a server that answers many clients meets the same ones again and again.

One per loop, used by its datagram transports. Calls `_address`.

Two tables in which a place holds one entry and a newer one takes it: sockaddr → address object, by content; address object → sockaddr, by
identity (who answers passes on the object that it got). Only objects that cannot change get in: a tuple of an exact str and exact ints.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uintptr_t
from libc.string cimport memcmp, memcpy

from aiouring._address cimport AF_UNIX, from_sockaddr, sa_family_t

cdef enum:
    PLACES = 256                # a power of two


cdef inline uint32_t place_of_name(const char *name, socklen_t name_bytes) noexcept nogil:
    cdef uint32_t value = 2166136261, index
    for index in range(name_bytes):
        value = (value ^ <unsigned char>name[index]) * 16777619
    return (value ^ value >> 16) & (PLACES - 1)


cdef inline uint32_t place_of_object(PyObject *address) noexcept nogil:
    cdef uintptr_t value = <uintptr_t>address
    return <uint32_t>(value >> 4 ^ value >> 12) & (PLACES - 1)


cdef class AddressCache:

    def __cinit__(self):
        self.names = [None] * PLACES
        self.addresses = [None] * PLACES
        self.targets = [None] * PLACES
        self.target_names = [None] * PLACES

    cdef object address_of(self, const sockaddr_storage *name, socklen_t name_bytes):
        cdef uint32_t place
        cdef object known, address
        if name_bytes == 0 or name.ss_family == AF_UNIX:
            return from_sockaddr(name, name_bytes)
        place = place_of_name(<const char *>name, name_bytes)
        known = self.names[place]
        if (known is not None and PyBytes_GET_SIZE(known) == name_bytes
                and memcmp(PyBytes_AS_STRING(known), name, name_bytes) == 0):
            return self.addresses[place]
        address = from_sockaddr(name, name_bytes)
        known = PyBytes_FromStringAndSize(<const char *>name, name_bytes)
        self.names[place] = known
        self.addresses[place] = address
        self.note_target(address, known)
        return address

    cdef bytes name_of(self, object address, int family):
        cdef uint32_t place = place_of_object(<PyObject *>address)
        cdef sa_family_t its_family
        cdef object name
        if self.targets[place] is not address or address is None:
            return None
        name = self.target_names[place]
        memcpy(&its_family, PyBytes_AS_STRING(name), sizeof(its_family))
        return name if its_family == family else None

    cdef int note_target(self, object address, bytes name) except -1:
        cdef uint32_t place
        if type(address) is not tuple or len(<tuple>address) < 2 or type((<tuple>address)[0]) is not str:
            return 0
        for item in (<tuple>address)[1:]:
            if type(item) is not int:
                return 0
        place = place_of_object(<PyObject *>address)
        self.targets[place] = address
        self.target_names[place] = name
        return 0
