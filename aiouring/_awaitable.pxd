# What our awaitables have of a coroutine. See _awaitable.pyx.
# cimported by: _reader, _writer.

from cpython.ref cimport PyObject

cdef extern from "aiouring_await.h":
    enum: AIOURING_RETURN, AIOURING_NEXT
    void aiouring_set_send(object type, int (*send)(PyObject *, PyObject *, PyObject **) except -1)


cdef class Awaitable:
    # One step: AIOURING_RETURN with the result, AIOURING_NEXT with what the task is to wait for.
    cdef int step(self, object value, PyObject **result) except -1
    cdef int give_up(self) except -1            # the task is not interested any more
    cdef bint started(self) noexcept
    cdef str name(self)


cdef int send_to(PyObject *awaitable, PyObject *value, PyObject **result) except -1
cdef int warn_never_awaited(str name) except -1
cdef object as_exception(object type_or_value, object value, object traceback)
