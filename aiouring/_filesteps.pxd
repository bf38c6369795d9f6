# The steps that calls on files are made of: reading, writing and closing through the buffer. See _filesteps.pyx.
# cimported by: _file and the text rooms.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from aiouring._filecore cimport FileCall


cdef class StepCall(FileCall):
    # Memory that bytes are collected in: it is the result itself in the end, without a copy.
    cdef PyObject *data
    cdef Py_ssize_t room, filled
    cdef bytes piece                    # what a step has read
    cdef int step_phase                 # how far the step is; 0: it has not begun
    # What is written, or read into.
    cdef object subject
    cdef Py_buffer view
    cdef bint has_view
    cdef Py_ssize_t moved_bytes         # of it
    cdef int64_t new_size
    # The end.
    cdef int fd                         # that is being closed
    cdef bint closes                    # it is a close()
    cdef object close_error

    cdef int make_room(self, Py_ssize_t size) except -1
    cdef char *memory(self) noexcept
    cdef int add(self, const char *more, Py_ssize_t size) except -1
    cdef bytes take_data(self)
    cdef int drop_data(self) noexcept
    cdef int get_view(self, int flags) except -1
    cdef int drop_view(self) noexcept

    # Each returns MUST_WAIT, or DONE with `piece` set.
    cdef int read_step(self, Py_ssize_t size) except -1             # just so many bytes, fewer at the end
    cdef int read_all_step(self, bint raw) except -1
    cdef int read1_step(self, Py_ssize_t size) except -1            # what is in the buffer, or one read
    # The others return MUST_WAIT or DONE.
    cdef int readinto_step(self, bint once) except -1               # into `view`: moved_bytes
    cdef int write_step(self) except -1                             # all of `view`
    cdef int flush_step(self) except -1                             # what waits above the buffer, and the buffer
    cdef int flush_above_step(self) except -1                       # what waits above the buffer
    cdef int truncate_step(self, object size) except -1
    cdef int close_step(self) except -1                             # this one ends the call itself

    cdef int step_done(self) except -1
    cdef int undo_write(self) noexcept
    cdef int put_back_piece(self) except -1
    cdef int close_finish(self) except -1
