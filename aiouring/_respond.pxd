# Canned answers to exact requests. See _respond.pyx.
# cimported by: _stream_receive, _stream.

from libc.stdint cimport int32_t, uint32_t

from aiouring._hook cimport Region, aiouring_watch


cdef class Answers:
    cdef readonly list answers                  # the bytes, in the order of their prefixes
    cdef list prefixes
    cdef Region region                          # where they lie for the hook's program, None: nowhere
    cdef int32_t first                          # their place there
    cdef uint32_t count

    # The number of the answer that a request has, -1: none.
    cdef int find(self, const char *data, Py_ssize_t length) except -2
    # Tell the hook's program of them. False: it has no room.
    cdef bint place(self, Region region) noexcept
    cdef void describe(self, aiouring_watch *watch) noexcept
