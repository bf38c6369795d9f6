# What our awaitables have of a coroutine and of a future. See _awaitable.pyx.
# cimported by: _reader, _writer, _operation.

from cpython.ref cimport PyObject

cdef extern from "aiouring_await.h":
    enum: AIOURING_RETURN, AIOURING_NEXT


cdef class Awaitable:
    # One step: AIOURING_RETURN with the result, AIOURING_NEXT with what the task is to wait for.
    cdef int step(self, object value, PyObject **result) except -1
    cdef int give_up(self) except -1            # the task is not interested any more
    cdef bint started(self) noexcept
    cdef str name(self)


cdef enum awaitable_state:
    NEW             # not awaited yet: nothing was checked, nothing was begun
    WAITING         # begun; its task waits
    FINISHED        # its task will run, and takes what there is
    CANCELLED       # ended by cancel(); CancelledError was not raised yet
    ABANDONED       # its coroutine was thrown into or closed; what was begun has not ended yet
    OVER


cdef class AwaitableFuture(Awaitable):
    cdef object callback, context               # the first done callback, which is the only one as a rule
    cdef list more_callbacks
    cdef object cancel_message
    cdef awaitable_state state
    cdef bint blocking                          # the future protocol's _asyncio_future_blocking

    # What each kind provides: its loop, or None; and call_soon.
    cdef object event_loop(self)
    cdef int schedule(self, object callback, tuple args, object context) except -1

    cdef int call_back(self, object callback, object context) except -1
    cdef int wake(self, awaitable_state state) except -1        # FINISHED or CANCELLED: the done callbacks are scheduled


cdef int warn_never_awaited(str name) except -1
cdef object as_exception(object type_or_value, object value, object traceback)
