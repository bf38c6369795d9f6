"""Handles: what call_soon and call_later return, with the interface of asyncio.Handle and asyncio.TimerHandle; and the timers' heap.

Used by `_loop` and by the rooms that keep callbacks. asyncio's own classes are not used because one handle is made for every callback.

Who owns what: a handle owns its callback until it ran or was cancelled; the heap owns a reference to each timer in it. A cancelled timer
stays in the heap until it comes up or until cancelled ones are the majority, so that cancelling costs nothing.
"""

cimport cython
from cpython.object cimport Py_EQ, Py_GE, Py_GT, Py_LE, Py_LT
from cpython.ref cimport PyObject

from asyncio import format_helpers

cdef extern from "Python.h":
    object PyContext_CopyCurrent()

cdef extern from "aiouring_call.h":
    int aiouring_call(object context, object callback, object args) noexcept
    int aiouring_raise_pending() except -1

cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t index) noexcept
    void PyList_SET_ITEM(object items, Py_ssize_t index, PyObject *item) noexcept


@cython.freelist(1024)
cdef class Handle:
    """A callback that was scheduled. Same interface as asyncio.Handle; cancel() may be called at any time."""

    def cancelled(self):
        """Whether cancel() was called."""
        return self._cancelled

    def get_context(self):
        """The contextvars.Context that the callback runs in."""
        return self._context

    cpdef cancel(self):
        """Do not run the callback. Nothing happens if it ran already."""
        if not self._cancelled:
            self._cancelled = True
            if self._loop.get_debug():
                self._repr = repr(self)     # while the callback is still known
            self.clear()

    cdef clear(self):
        self._callback = None
        self._args = None

    cdef int run(self) except -1:
        # The callback may cancel its own handle, which drops all three: they stay alive until it has returned.
        cdef object callback = self._callback
        cdef object args = self._args
        cdef object context = self._context
        if aiouring_call(context, callback, args) == 0:
            return 0
        return self.report_exception()

    cdef int report_exception(self) except -1:
        """The callback raised: tell the loop's exception handler."""
        try:
            aiouring_raise_pending()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            source = format_helpers._format_callback_source(self._callback, self._args)
            report = {"message": f"Exception in callback {source}", "exception": exc, "handle": self}
            if self._source_traceback:
                report["source_traceback"] = self._source_traceback
            self._loop.call_exception_handler(report)
        return 0

    def _run(self):
        self.run()

    def _repr_info(self):
        info = [self.__class__.__name__]
        if self._cancelled:
            info.append("cancelled")
        if self._callback is not None:
            info.append(format_helpers._format_callback_source(self._callback, self._args))
        if self._source_traceback:
            frame = self._source_traceback[-1]
            info.append(f"created at {frame[0]}:{frame[1]}")
        return info

    def __repr__(self):
        if self._repr is not None:
            return self._repr
        return "<" + " ".join(self._repr_info()) + ">"


cdef class TimerHandle(Handle):
    """A callback that was scheduled for a time. Same interface as asyncio.TimerHandle."""

    def when(self):
        """The time on the loop's clock, in seconds, at which the callback is due."""
        return self._when

    cpdef cancel(self):
        if not self._cancelled and self._scheduled:
            self.heap.cancelled += 1
        Handle.cancel(self)

    def _repr_info(self):
        info = Handle._repr_info(self)
        info.insert(2 if self._cancelled else 1, f"when={self._when}")
        return info

    def __hash__(self):
        return hash(self._when)

    def __richcmp__(self, other, int op):
        if not isinstance(other, TimerHandle):
            return NotImplemented
        cdef TimerHandle a = <TimerHandle>self
        cdef TimerHandle b = <TimerHandle>other
        cdef bint same = (a._when == b._when and a._callback == b._callback and a._args == b._args and a._cancelled == b._cancelled)
        if op == Py_LT:
            return a._when < b._when
        if op == Py_LE:
            return a._when < b._when or same
        if op == Py_GT:
            return a._when > b._when
        if op == Py_GE:
            return a._when > b._when or same
        if op == Py_EQ:
            return same
        return not same


cdef Handle new_handle(object loop, object callback, tuple args, object context):
    cdef Handle handle = Handle.__new__(Handle)
    handle._loop = loop
    handle._callback = callback
    handle._args = args
    handle._context = PyContext_CopyCurrent() if context is None else context
    return handle


cdef TimerHandle new_timer_handle(object loop, object callback, tuple args, object context, double when):
    cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
    handle._loop = loop
    handle._callback = callback
    handle._args = args
    handle._context = PyContext_CopyCurrent() if context is None else context
    handle._when = when
    return handle


@cython.final
cdef class TimerHeap:
    """A binary heap of timers by time, then by order of request. A list holds them, so that the garbage collector sees them."""

    def __cinit__(self):
        self.items = []

    cdef int push(self, TimerHandle handle) except -1:
        cdef Py_ssize_t index = len(self.items), parent
        handle.order = self.next_order
        self.next_order += 1
        handle.heap = self
        handle._scheduled = True
        self.items.append(handle)
        while index > 0:
            parent = (index - 1) >> 1
            if not timer_before(<PyObject *>handle, PyList_GET_ITEM(self.items, parent)):
                break
            # Places change hands without a change of reference counts: each handle is in the list once all the time.
            PyList_SET_ITEM(self.items, index, PyList_GET_ITEM(self.items, parent))
            index = parent
        PyList_SET_ITEM(self.items, index, <PyObject *>handle)
        return 0

    cdef void sift_down(self, Py_ssize_t index) noexcept:
        cdef Py_ssize_t count = len(self.items)
        cdef PyObject *handle = PyList_GET_ITEM(self.items, index)
        cdef Py_ssize_t child
        while True:
            child = 2 * index + 1
            if child >= count:
                break
            if child + 1 < count and timer_before(PyList_GET_ITEM(self.items, child + 1), PyList_GET_ITEM(self.items, child)):
                child += 1
            if not timer_before(PyList_GET_ITEM(self.items, child), handle):
                break
            PyList_SET_ITEM(self.items, index, PyList_GET_ITEM(self.items, child))
            index = child
        PyList_SET_ITEM(self.items, index, handle)

    cdef TimerHandle first(self):
        """The timer that is due next, or None. Cancelled ones at the top are dropped on the way."""
        cdef TimerHandle handle
        while self.items:
            handle = <TimerHandle>self.items[0]
            if not handle._cancelled:
                return handle
            self.pop()
        return None

    cdef TimerHandle pop(self):
        cdef TimerHandle handle = <TimerHandle>self.items[0]
        last = self.items.pop()
        if self.items:
            self.items[0] = last
            self.sift_down(0)
        handle._scheduled = False
        if handle._cancelled:
            self.cancelled -= 1
        return handle

    cdef int drop_cancelled(self) except -1:
        """Keep what is still wanted. Worth it when cancelled timers are many and the majority."""
        cdef list before = self.items
        cdef TimerHandle handle
        cdef Py_ssize_t index
        self.items = []
        self.cancelled = 0
        for handle in before:
            if handle._cancelled:
                handle._scheduled = False
            else:
                self.items.append(handle)
        for index in range(len(self.items) // 2 - 1, -1, -1):
            self.sift_down(index)
        return 0

    cdef clear(self):
        cdef list before = self.items
        cdef TimerHandle handle
        self.items = []
        self.cancelled = 0
        for handle in before:
            handle._scheduled = False


cdef inline bint timer_before(PyObject *a, PyObject *b) noexcept:
    cdef TimerHandle left = <TimerHandle>a
    cdef TimerHandle right = <TimerHandle>b
    return left._when < right._when or (left._when == right._when and left.order < right.order)
