# Binary files. See _file.pyx.
# cimported by: the text rooms.

from libc.stdint cimport int64_t

from aiouring._filecore cimport FileCore
from aiouring._fileop cimport DescriptorView
from aiouring._filesteps cimport StepCall


cdef class FileView(DescriptorView):
    cdef FileCore core
    cdef object __weakref__


# Buffered and unbuffered binary files.
cdef class StreamView(FileView):
    cdef bint raw


cdef class BinaryFile(StreamView):
    cdef object raw_view


cdef enum call_kind:
    READ
    READ_ALL
    READ1
    READINTO
    READINTO1
    LINE
    NEXT_LINE
    LINES
    PEEK                                # up to here they read, but this one takes nothing
    WRITE
    WRITE_LINES
    SEEK
    TELL
    TRUNCATE
    FLUSH
    SYNC
    CLOSE


cdef class BinaryCall(StepCall):
    cdef call_kind kind
    cdef bint raw                       # of a RawFile: past the buffer
    cdef Py_ssize_t size                # asked for; -1: all
    cdef int64_t number                 # where to seek to
    cdef int argument                   # whence, or flags of a request
    cdef list lines
    cdef Py_ssize_t lines_bytes
    cdef object lines_iterator

    cdef int check(self) except -1
    cdef int finish_piece(self) except -1
    cdef int peek_step(self) except -1
    cdef int line_step(self, Py_ssize_t limit) except -1
    cdef int raw_line_step(self, Py_ssize_t limit) except -1
    cdef int lines_step(self) except -1
    cdef int write_lines_step(self) except -1
    cdef int flush_or_sync(self) except -1
    cdef int raw_attempt(self) except -1
    cdef int raw_write(self) except -1
    cdef int put_back_lines(self, list lines) except -1


cdef int64_t as_offset(object value) except? -1
cdef Py_ssize_t as_size(object value) except? -2
