# The native stream reader and the protocol that feeds it. See _reader.pyx.
# cimported by: _writer.

from aiouring._awaitable cimport AwaitableFuture
from aiouring._loop cimport LoopCore
from aiouring._stream_receive cimport DirectProtocol
from cpython.ref cimport PyObject


cdef class ReaderCore:
    # Names that asyncio.StreamReader's Python code reads and writes; fields of ours, so that native code sees the same values.
    cdef public object _exception, _transport
    cdef public bint _eof, _paused
    cdef object event_loop, limit_object
    cdef LoopCore loop                          # the same, if it is ours
    cdef Py_ssize_t limit_bytes
    cdef object buffer                          # bytearray: what came and was not read
    cdef ReadOperation waiter                   # who waits for more
    cdef ReadOperation spare                    # one that is over, for the next call
    cdef ReadOperation direct                   # who was woken with what came instead of the buffer, and did not run yet

    cdef int take_in(self, const char *data, Py_ssize_t length, object whole) except -1
    cdef int append(self, const char *data, Py_ssize_t length) except -1
    cdef int put_back(self) except -1
    cdef bytes take_out(self, Py_ssize_t length)
    cdef int resume_if_low(self) except -1
    cdef int pause_if_high(self) except -1
    cdef int wake_waiter(self, object error) except -1


cdef class ReadOperation(AwaitableFuture):
    cdef ReaderCore reader
    cdef object value                           # bytes that came while it waited, and all that it gets
    cdef object error                           # what set_exception() woke it with
    cdef object argument                        # separators, shortest first; readexactly's number
    cdef Py_ssize_t size                        # bytes wanted
    cdef Py_ssize_t offset                      # no separator begins before here
    cdef int kind

    cdef bytes first_attempt(self)
    cdef bytes next_attempt(self)
    cdef bytes attempt(self)
    cdef bytes take_until(self)
    cdef bytes take_line(self)
    cdef int check_separators(self) except -1
    cdef bint enough(self) except -1
    cdef int find(self, Py_ssize_t *start, Py_ssize_t *end) except -1
    cdef int wait(self) except -1


cdef class ProtocolCore(DirectProtocol):
    # As above, of asyncio.StreamReaderProtocol.
    cdef public object _stream_reader_wr
    cdef public bint _paused, _connection_lost

    cdef int feed(self, const char *data, Py_ssize_t length, bytes whole) except -1
