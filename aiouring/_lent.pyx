"""Buffers of the caller's, for requests that have any number of them.

Used by `_fileop` and `_chainlinks`. Calls nothing of ours.

An array of Py_buffers in memory of our own would do, but for the garbage collector, which is not shown what is in there: a buffer that knows its
request (by an attribute, a closure, a task) would then never be collected with it.

Who owns what: a LentBuffer holds its buffer, and gives it back when it goes.
"""

cimport cython
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer


@cython.final
@cython.no_gc_clear                         # its destructor needs the view
@cython.freelist(64)
cdef class LentBuffer:
    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef LentBuffer lend(object buffer, int flags):
    cdef LentBuffer lent = LentBuffer.__new__(LentBuffer)
    lent.subject = buffer
    PyObject_GetBuffer(buffer, &lent.view, flags)
    return lent
