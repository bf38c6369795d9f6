# Registered memory. See _registered.pyx.
# cimported by: _bpfop.

from libc.stdint cimport uint32_t

from aiouring._loop cimport LoopCore
from aiouring._ring cimport Ring


# Memory that the ring has registered, for as long as it is open and requests use it.
cdef class RegisteredBuffer:
    cdef LoopCore loop
    cdef Py_buffer view
    cdef bint has_view
    cdef Ring ring                      # which has it registered; None: none
    cdef int index
    cdef uint32_t users                 # requests in flight
    cdef readonly bint closed           # close() was called
    cdef list waiters
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    cdef int index_in(self, Ring ring) noexcept     # -1: use the memory as it is
    cdef int leave(self) except -1
    cdef int end(self) except -1
