"""Awaitables without a coroutine's frame: what they have of a coroutine, so that tasks, wait_for() and ensure_future() take them as one.

Used by `_reader` and `_writer`, whose read() and drain() return such objects. Calls nothing of ours.

`await x` calls x.__await__() and then the am_send slot of what that returns: one C call where everything is there already.
"""

from cpython.exc cimport PyErr_Fetch, PyErr_Restore, PyErr_WarnEx, PyErr_WriteUnraisable
from cpython.ref cimport Py_XDECREF


cdef class Awaitable:
    """Await it once. Nothing happens before it is awaited."""

    @property
    def __qualname__(self):
        return self.name()

    @property
    def __name__(self):
        return self.name().rpartition(".")[2]

    @property
    def cr_running(self):
        return False

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Run until it waits or ends, as a coroutine's send()."""
        cdef PyObject *raw = NULL
        cdef object result
        if value is not None and not self.started():
            raise TypeError("can't send non-None value to a just-started coroutine")
        cdef int status = self.step(value, &raw)
        result = <object>raw
        Py_XDECREF(raw)
        if status == AIOURING_RETURN:
            raise StopIteration(result)
        return result

    def throw(self, type_or_value, value=None, traceback=None):
        """Raise the exception where the coroutine waits."""
        error = as_exception(type_or_value, value, traceback)
        self.give_up()
        try:
            raise error
        finally:
            error = type_or_value = value = None

    def close(self):
        """Give the call up. Nothing is raised."""
        self.give_up()

    cdef int step(self, object value, PyObject **result) except -1:
        raise NotImplementedError

    cdef int give_up(self) except -1:
        raise NotImplementedError

    cdef bint started(self) noexcept:
        return True

    cdef str name(self):
        return type(self).__name__


cdef int send_to(PyObject *awaitable, PyObject *value, PyObject **result) except -1:
    result[0] = NULL
    return (<Awaitable>awaitable).step(<object>value, result)


cdef object as_exception(object type_or_value, object value, object traceback):
    """The exception that a throw() with these arguments raises."""
    if isinstance(type_or_value, BaseException):
        value = type_or_value
    elif value is None:
        value = type_or_value()
    elif not isinstance(value, BaseException):
        value = type_or_value(value)
    return value if traceback is None else value.with_traceback(traceback)


cdef int warn_never_awaited(str name) except -1:
    """For __dealloc__: as a coroutine that nobody awaited. An exception that is on its way is kept."""
    cdef PyObject *exc_type
    cdef PyObject *exc_value
    cdef PyObject *exc_traceback
    PyErr_Fetch(&exc_type, &exc_value, &exc_traceback)
    try:
        PyErr_WarnEx(RuntimeWarning, f"coroutine '{name}' was never awaited".encode(), 1)
    except BaseException:
        PyErr_WriteUnraisable(None)
    PyErr_Restore(exc_type, exc_value, exc_traceback)
    return 0
