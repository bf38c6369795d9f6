# Cutting a stream into frames. See _frames.pyx.
# cimported by: _stream_receive.

from libc.stdint cimport uint32_t, uint64_t

from aiouring._hook cimport aiouring_watch


cdef class Framer:
    cdef readonly object framing                # what was asked for
    cdef list frames                            # whole, and not yet handed over
    cdef readonly object error                  # a frame is too long: comes after `frames`
    cdef bint whole_batches                     # the protocol takes them by frames_received()
    cdef char delimiter[8]
    cdef uint32_t kind, size, max_batch
    cdef bint little_endian
    cdef uint64_t max_frame, max_delay_ns
    cdef char *partial                          # what came after the last whole frame, with its prefix
    cdef size_t partial_bytes, partial_room

    cdef int feed(self, const char *data, size_t length) except -1
    cdef bint has_news(self) noexcept
    # For a stream that ended here: the error, or None where it ended between two frames.
    cdef object incomplete(self)
    # Tell the hook's program where the stream is.
    cdef void describe(self, aiouring_watch *watch) noexcept

    cdef int cut_prefixed(self, const char *data, size_t length) except -1
    cdef int cut_delimited(self, const char *data, size_t length) except -1
    cdef int add_frame(self, const char *data, size_t length) except -1
    cdef int add_joined_frame(self, const char *data, size_t length) except -1
    cdef int keep(self, const char *data, size_t length) except -1
    cdef int too_long(self, uint64_t length, bint at_least) except -1
    cdef uint64_t prefix_of(self, const char *data) noexcept
