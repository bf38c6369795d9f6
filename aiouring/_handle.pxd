# What call_soon and call_later return, and the heap that timers wait in. See _handle.pyx.
# cimported by: _loop and the rooms that keep handles (readers, writers, signals).

from libc.stdint cimport uint64_t


cdef class Handle:
    cdef object __weakref__
    cdef readonly object _loop
    cdef public object _callback, _context, _source_traceback, _repr
    cdef public tuple _args
    cdef public bint _cancelled

    cdef int run(self) except -1
    cdef int report_exception(self) except -1
    cdef clear(self)
    cpdef cancel(self)


cdef class TimerHandle(Handle):
    cdef readonly double _when
    cdef public bint _scheduled
    cdef uint64_t order             # equal times run in the order in which they were asked for
    cdef TimerHeap heap


cdef Handle new_handle(object loop, object callback, tuple args, object context)
cdef TimerHandle new_timer_handle(object loop, object callback, tuple args, object context, double when)


cdef class TimerHeap:
    cdef list items
    cdef Py_ssize_t cancelled
    cdef uint64_t next_order

    cdef int push(self, TimerHandle handle) except -1
    cdef TimerHandle first(self)
    cdef TimerHandle pop(self)
    cdef int drop_cancelled(self) except -1
    cdef void sift_down(self, Py_ssize_t index) noexcept
    cdef clear(self)
