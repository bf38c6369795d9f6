# Addresses that were converted lately. See _address_cache.pyx.
# cimported by: _loop, which has one, and _datagram.

from aiouring._address cimport sockaddr_storage, socklen_t

cdef class AddressCache:
    cdef list names, addresses              # by the name's bytes: a bytes object, and its address
    cdef list targets, target_names         # by the address object's identity

    # As _address.from_sockaddr(): the address object of the same sender is the same object, as long as it is in the cache.
    cdef object address_of(self, const sockaddr_storage *name, socklen_t name_bytes)
    # The sockaddr of an address object that address_of() or note_target() saw; None: not known, convert it.
    cdef bytes name_of(self, object address, int family)
    cdef int note_target(self, object address, bytes name) except -1
