# The pipe that ends a loop's wait from outside. See _wakepipe.pyx.
# cimported by: _loop.

from libc.stdint cimport int32_t, uint32_t

from aiouring._op cimport OpTable


cdef class WakePipe:
    cdef object loop_ref
    cdef readonly int read_fd, write_fd
    cdef char buffer[256]

    cdef int arm(self, OpTable ops) except -1
    cdef int close(self) except -1

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
