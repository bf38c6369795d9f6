"""The native half of StreamWriter: write() and drain() where there is nothing to wait for.

Used by `streams`. Calls `_awaitable`, `_reader`, `_stream`.

write() goes to the transport's core without the shell between. drain() returns an object that ends at once while the transport takes more; only
when it does not, or when there is an error to raise, asyncio's own drain() runs, so that what happens then is the running Python's.
"""

cimport cython
from cpython.ref cimport Py_INCREF, PyObject

from aiouring._awaitable cimport AIOURING_RETURN, Awaitable, warn_never_awaited
from aiouring._reader cimport ProtocolCore, ReaderCore
from aiouring._stream cimport StreamCore

import asyncio

from aiouring._stream import StreamTransport

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *value)
    int PyIter_Send(PyObject *iterator, PyObject *value, PyObject **result) except -1

cdef object asyncio_drain = asyncio.StreamWriter.drain
cdef object transport_class = StreamTransport


@cython.final
cdef class DrainOperation(Awaitable):
    """One call of drain(). Await it once."""

    def __repr__(self):
        return f"<StreamWriter.drain() {'waiting' if self.waiting is not None else 'over' if self.begun else 'not awaited yet'}>"

    cdef str name(self):
        return "StreamWriter.drain"

    cdef bint started(self) noexcept:
        return self.begun

    def __dealloc__(self):
        if not self.begun:
            warn_never_awaited("StreamWriter.drain")

    cdef int step(self, object value, PyObject **result) except -1:
        cdef WriterCore writer
        cdef object waiting = self.waiting
        cdef int status
        if not self.begun:
            self.begun = True
            writer, self.writer = self.writer, None
            if writer.may_go_on():
                writer.spare = self
                Py_INCREF(None)
                result[0] = <PyObject *>None
                return AIOURING_RETURN
            waiting = self.waiting = asyncio_drain(writer)
        elif waiting is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        status = -1
        try:
            status = PyIter_Send(<PyObject *>waiting, <PyObject *>value, result)
        finally:
            if status <= AIOURING_RETURN:
                self.waiting = None
        return status

    def throw(self, type_or_value, value=None, traceback=None):
        """Raise the exception where drain() waits."""
        if self.waiting is None:
            return Awaitable.throw(self, type_or_value, value, traceback)
        if value is None and traceback is None:
            return self.waiting.throw(type_or_value)
        return self.waiting.throw(type_or_value, value, traceback)

    cdef int give_up(self) except -1:
        waiting, self.waiting = self.waiting, None
        self.begun = True
        self.writer = None
        if waiting is not None:
            waiting.close()
        return 0


cdef class WriterCore:
    """The native side of a StreamWriter."""

    @property
    def _transport(self):
        return self.transport_object

    @_transport.setter
    def _transport(self, transport):
        self.transport_object = transport
        self.core = <StreamCore>transport._core if type(transport) is transport_class else None

    @property
    def transport(self):
        """The transport under the writer; another one after start_tls()."""
        return self.transport_object

    def write(self, data):
        """Send bytes, as transport.write(): they go out at the end of the turn. Await drain() before much more is written."""
        if self.core is not None:
            self.core.write(data)
        else:
            self.transport_object.write(data)

    def writelines(self, data):
        """Send several pieces in order."""
        if self.core is not None:
            self.core.writelines(data)
        else:
            self.transport_object.writelines(data)

    def close(self):
        """Send what is queued, then close."""
        return self.transport_object.close()

    def is_closing(self):
        return self.transport_object.is_closing()

    def drain(self):
        """Wait until the transport's write buffer has come down, if it is full. To be awaited.

        Raises what ended the connection, or ConnectionResetError.
        """
        cdef DrainOperation operation
        if self.spare is not None and Py_REFCNT(<PyObject *>self.spare) == 1:
            operation, self.spare = self.spare, None        # nobody has it any more: it serves again
            operation.begun = False
        else:
            operation = DrainOperation.__new__(DrainOperation)
        operation.writer = self
        return operation

    cdef bint may_go_on(self) except -1:
        cdef ProtocolCore protocol
        if self.core is None or self.core.closing or not isinstance(self._protocol, ProtocolCore):
            if self.core is not None or self.transport_object.is_closing() or not isinstance(self._protocol, ProtocolCore):
                return False
        protocol = <ProtocolCore>self._protocol
        if protocol._paused or protocol._connection_lost:
            return False
        return self._reader is None or isinstance(self._reader, ReaderCore) and (<ReaderCore>self._reader)._exception is None
