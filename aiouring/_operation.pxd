# One awaited request: a coroutine, the future that its task waits for, and the owner of the request's memory. See _operation.pyx.
# cimported by: _sockop, _fileop.

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, uint32_t, uint64_t

from aiouring._awaitable cimport AwaitableFuture
from aiouring._loop cimport LoopCore


cdef class Operation(AwaitableFuture):
    cdef LoopCore loop
    cdef uint64_t request           # 0: none in flight
    cdef bint cancel_requested
    cdef object value, error        # how it ended, until the task has taken it

    # What each kind of operation provides.
    cdef int start(self) except -1                                      # check the arguments; submit(), or finish() at once
    cdef int submit(self) except -1                                     # begin the request, also again after a short result
    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1   # take a result: finish(), fail() or again()
    cdef bint keep(self, object result) except -1                       # a result that nobody waits for; False: it cannot be kept
    cdef bint keep_error(self, object error) except -1
    cdef int stop(self) except -1                                       # ask for the end of what is in flight
    cdef bint idle(self) noexcept                                       # nothing is in flight
    cdef void release(self) noexcept                                    # drop the buffers
    cdef void taken(self) noexcept                                      # the task has its result
    cdef int error_taken(self) except -1                                # it gets the exception next

    # What the kinds use. complete() is the completion_fn of their requests.
    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef int finish(self, object result) except -1
    cdef int fail(self, object error) except -1
    cdef int fail_errno(self, int error) except -1
    cdef int again(self) except -1
    cdef bint wanted(self) noexcept                                     # somebody still waits for the result
    cdef int stop_from_anywhere(self) except -1

    cdef int finish_cancelled(self) except -1
    cdef int over(self) except -1
    cdef int take(self, PyObject **result) except -1


cdef enum:
    SPARES_MAX = 64


# For a kind that many calls use: the operations that are over and that nobody has any more serve again.
cdef class Spares:
    cdef PyObject *operations[SPARES_MAX]   # each holds a reference
    cdef int count


cdef Operation spare_operation(Spares spares)
cdef void note_spare(Spares spares, Operation operation) noexcept
