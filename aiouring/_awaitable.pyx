"""Awaitables without a coroutine's frame: what they have of a coroutine, so that tasks, wait_for() and ensure_future() take them as one.

Used by `_reader`, `_writer` and `_operation`, whose calls return such objects. Calls nothing of ours.

`await x` calls x.__await__() and then the am_send slot of what that returns: one C call where everything is there already. An
AwaitableFuture that has to wait gives itself to its task as the future to wait for: asyncio's tasks take any object with a future's methods.
Its task is woken with a future that was done all along, since asyncio's native task looks into its own class without a call and asks
anything else by looking up names. So the result goes the coroutine's way alone, and result() has none.

Who owns what: the future holds its done callbacks, and with them its task, until it wakes them.
"""

from cpython.exc cimport PyErr_Fetch, PyErr_Restore, PyErr_WarnEx, PyErr_WriteUnraisable
from cpython.ref cimport Py_XDECREF

from asyncio import CancelledError, Future, InvalidStateError

cdef extern from "aiouring_await.h":
    void aiouring_set_send(object type, int (*send)(PyObject *, PyObject *, PyObject **) except -1)
    bint aiouring_is_task_wakeup(object callback)


cdef object done_future():
    """What a native task is woken with."""
    class NoLoop:
        def get_debug(self):
            return False

    future = Future(loop=NoLoop())
    future.set_result(None)
    return future


cdef tuple WOKEN_ARGUMENTS = (done_future(),)


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


cdef class AwaitableFuture(Awaitable):
    """An awaitable that is also the future which its task waits for. Nobody else has that future."""

    @property
    def _asyncio_future_blocking(self):
        # None while it is only a coroutine: asyncio.ensure_future() and wait_for() must make a task of it and not wait for it as it is.
        if self.state == NEW or self.state == OVER:
            return None
        return self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint value):
        self.blocking = value

    @property
    def _loop(self):
        # asyncio asks this when there is no get_loop(), and gets it with one call less.
        return self.event_loop()

    def done(self):
        """Whether the wait has ended."""
        return self.state == FINISHED or self.state == CANCELLED or self.state == OVER

    def cancelled(self):
        """Whether the wait was cancelled."""
        return self.state == CANCELLED

    def result(self):
        """None: what came is the result of the await, not of the wait."""
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        if self.state != FINISHED and self.state != OVER:
            raise InvalidStateError("Result is not set.")

    def exception(self):
        """None, for the same reason."""
        self.result()

    def _make_cancelled_error(self):
        return CancelledError() if self.cancel_message is None else CancelledError(self.cancel_message)

    def add_done_callback(self, callback, *, context=None):
        """Call `callback(self)` by call_soon when the wait ends."""
        if self.state != WAITING:
            self.call_back(callback, context)
        elif self.callback is None:
            self.callback = callback
            self.context = context
        else:
            if self.more_callbacks is None:
                self.more_callbacks = []
            self.more_callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        """Take back add_done_callback(). Returns how many were removed."""
        cdef list kept
        cdef Py_ssize_t count = 0
        if self.callback is not None and self.callback == callback:
            self.callback = self.context = None
            count = 1
        if self.more_callbacks:
            kept = [pair for pair in self.more_callbacks if pair[0] != callback]
            count += len(self.more_callbacks) - len(kept)
            self.more_callbacks = kept
        return count

    cdef bint started(self) noexcept:
        return self.state != NEW

    cdef int call_back(self, object callback, object context) except -1:
        if self.state == FINISHED and aiouring_is_task_wakeup(callback):
            return self.schedule(callback, WOKEN_ARGUMENTS, context)
        return self.schedule(callback, (self,), context)

    cdef int wake(self, awaitable_state state) except -1:
        self.state = state
        callback, context, more = self.callback, self.context, self.more_callbacks
        self.callback = self.context = self.more_callbacks = None
        if callback is not None:
            self.call_back(callback, context)
        if more is not None:
            for callback, context in more:
                self.call_back(callback, context)
        return 0

    cdef object event_loop(self):
        raise NotImplementedError

    cdef int schedule(self, object callback, tuple args, object context) except -1:
        raise NotImplementedError


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


# For every class below it as well: they define nothing that is in the same table, and so have this one's.
aiouring_set_send(Awaitable, send_to)
