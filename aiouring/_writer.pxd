# The native stream writer. See _writer.pyx.

from aiouring._awaitable cimport Awaitable
from aiouring._reader cimport ProtocolCore
from aiouring._stream cimport StreamCore
from cpython.ref cimport PyObject


cdef class WriterCore:
    cdef object transport_object
    cdef StreamCore core                        # the transport's, if it is one of ours, without TLS
    cdef DrainOperation spare                   # one that is over, for the next call
    cdef public object _protocol, _reader, _loop

    cdef bint may_go_on(self) except -1


cdef class DrainOperation(Awaitable):
    cdef WriterCore writer
    cdef object waiting                         # asyncio's own coroutine, where there is something to wait for or to raise
    cdef bint begun
