"""One awaited request on the ring: what all calls have in common that begin a request and wait for its result.

Used by `_sockop` and `_fileop`, whose operations derive from Operation. Calls `_awaitable`, `_loop`, `_op`.

An Operation is three things in one object, because a busy program makes one for each receive and each read:
- the coroutine that the call returns (it does nothing before it is awaited, as any coroutine);
- the future that its task waits for. Its cancel() runs at the very moment of task.cancel(), so the request is withdrawn before the
  kernel is entered again. With an asyncio.Future we would hear of it a turn later, and that turn's enter could move data for nobody;
- the owner of the request and of its memory until the last CQE.

Cancelling ends the task's wait only with the last CQE: when CancelledError is raised, no memory of the caller is in the kernel's hands
and the number of bytes that moved is known. As a rule that is in the same turn in which asyncio would raise it. A coroutine that is thrown into
or closed otherwise (ABANDONED) cannot wait: its request is cancelled, and the operation lives until the last CQE without it.

What came in spite of that is offered to keep(). A final -ECANCELED that nobody asked for means that the ring was replaced: the request is begun
again.

Who owns what: the request's slot holds the operation until the last CQE; the operation holds buffers until then, and its result until it is taken.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINTR
from libc.stdint cimport int32_t, uint32_t

from aiouring._awaitable cimport (
    ABANDONED,
    AIOURING_NEXT,
    AIOURING_RETURN,
    CANCELLED,
    FINISHED,
    NEW,
    OVER,
    WAITING,
    AwaitableFuture,
    awaitable_state,
    warn_never_awaited,
)
from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring.uapi cimport ECANCELED

from asyncio import InvalidStateError

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *value)

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef class Operation(AwaitableFuture):
    """One call that waits for a request on the ring. Await it once."""

    def __repr__(self):
        cdef str doing = "not awaited yet" if self.state == NEW else "waiting" if self.state == WAITING else "over"
        return f"<{self.name()}() {doing}>"

    def __dealloc__(self):
        if self.state == NEW:
            warn_never_awaited(self.name())

    # -- the coroutine ----------------------------------------------------------------------------------------------------------------

    cdef int step(self, object value, PyObject **result) except -1:
        cdef awaitable_state state = self.state
        if state == NEW:
            self.state = WAITING
            try:
                self.start()
            except BaseException:
                self.state = OVER
                self.over()
                raise
            state = self.state
            if state == WAITING:
                self.blocking = True
                Py_INCREF(self)
                result[0] = <PyObject *>self
                return AIOURING_NEXT
        if state == FINISHED:
            return self.take(result)
        if state == CANCELLED:
            self.state = OVER
            raise self._make_cancelled_error()
        if state == WAITING:
            raise RuntimeError("await wasn't used with future")
        raise RuntimeError("cannot reuse already awaited coroutine")

    cdef int take(self, PyObject **result) except -1:
        cdef object value
        self.state = OVER
        if self.error is not None:
            error, self.error = self.error, None
            self.error_taken()
            try:
                raise error
            finally:
                error = None
        value, self.value = self.value, None
        self.taken()
        Py_INCREF(value)
        result[0] = <PyObject *>value
        return AIOURING_RETURN

    cdef int give_up(self) except -1:
        """The coroutine is thrown into or closed: what arrives for it is offered to keep()."""
        if self.state == WAITING:
            self.state = ABANDONED
            self.callback = self.context = self.more_callbacks = None
            self.stop_from_anywhere()
            if self.idle():
                self.over()
        elif self.state == FINISHED:
            # The task was cancelled between the result and its wake-up.
            self.state = OVER
            result, self.value = self.value, None
            error, self.error = self.error, None
            if error is None:
                self.keep(result)
            else:
                self.keep_error(error)
        elif self.state != ABANDONED:
            self.state = OVER
        return 0

    # -- the future -------------------------------------------------------------------------------------------------------------------

    cdef object event_loop(self):
        return self.loop

    cdef int schedule(self, object callback, tuple args, object context) except -1:
        if self.loop is None:
            raise InvalidStateError("The call is over.")
        self.loop.add_ready(callback, args, context)
        return 0

    def cancel(self, msg=None):
        """Ask for the end of the call; the waiting task gets CancelledError with the request's last CQE. False: it was over already."""
        if self.state == FINISHED:
            # The result was not taken yet. If it can be kept for the next call it is, and if not, asyncio's rule holds: too late.
            if not (self.keep(self.value) if self.error is None else self.keep_error(self.error)):
                return False
            self.value = self.error = None
            self.cancel_message = msg
            self.state = CANCELLED
            return True
        if self.state != WAITING:
            return False
        self.cancel_message = msg
        if not self.cancel_requested:
            self.stop_from_anywhere()
            self.cancel_requested = True
            if self.idle():
                self.finish_cancelled()
        return True

    # -- the request ------------------------------------------------------------------------------------------------------------------

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef Operation self = <Operation>owner
        self.request = 0
        try:
            if res == -ECANCELED or res == -EINTR:
                self.again()
            else:
                self.arrived(res, cqe_flags)
        except BaseException as exc:
            if self.state == WAITING or self.state == ABANDONED:
                self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef bint wanted(self) noexcept:
        return self.state == WAITING and not self.cancel_requested

    cdef int again(self) except -1:
        """Begin the next request, if the call is still wanted. Also what an unasked -ECANCELED asks for: the ring was replaced."""
        if self.state == ABANDONED:
            return self.over()
        if self.cancel_requested:
            return self.finish_cancelled()
        return self.submit()

    cdef int finish(self, object result) except -1:
        if self.wanted():
            self.value = result
            self.over()
            return self.wake(FINISHED)
        self.keep(result)
        return self.over() if self.state == ABANDONED else self.finish_cancelled()

    cdef int fail(self, object error) except -1:
        if self.wanted():
            self.error = error
            self.over()
            return self.wake(FINISHED)
        self.keep_error(error)
        return self.over() if self.state == ABANDONED else self.finish_cancelled()

    cdef int fail_errno(self, int error) except -1:
        return self.fail(os_error(-error))

    cdef int finish_cancelled(self) except -1:
        self.over()
        return self.wake(CANCELLED)

    cdef int over(self) except -1:
        """The last CQE came: nothing of this call is in the kernel's hands."""
        if self.state == ABANDONED:
            self.state = OVER
        self.release()
        return 0

    cdef int stop_from_anywhere(self) except -1:
        """stop() for cancel() and close(), which the garbage collector and other threads also call."""
        cdef LoopCore loop = self.loop
        if loop._closed or loop.ring.foreign_process() or self.idle():
            return 0                    # a closed loop has ended the request, and told nobody
        if loop.ops.issuer != 0 and loop.ops.issuer != PyThread_get_thread_ident():
            loop.call_soon_threadsafe(self._stop)
            return 0
        return self.stop()

    def _stop(self):
        if not self.idle():             # it may have ended meanwhile, and then have no loop any more
            self.stop()

    # -- what the kinds of operation replace ----------------------------------------------------------------------------------------------

    cdef int start(self) except -1:
        raise NotImplementedError

    cdef int submit(self) except -1:
        raise NotImplementedError

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        raise NotImplementedError

    cdef bint keep(self, object result) except -1:
        return False

    cdef bint keep_error(self, object error) except -1:
        return False

    cdef int stop(self) except -1:
        return self.loop.ops.cancel(self.request)

    cdef bint idle(self) noexcept:
        return self.request == 0

    cdef void release(self) noexcept:
        pass

    cdef void taken(self) noexcept:
        pass

    cdef int error_taken(self) except -1:
        return 0


@cython.final
cdef class Spares:
    """Operations that are over and wait for a call to come. No list: one that becomes empty gives its memory back for the next to take."""

    def __dealloc__(self):
        while self.count:
            self.count -= 1
            Py_DECREF(<object>self.operations[self.count])


cdef Operation spare_operation(Spares spares):
    """One that serves again, or None. Its fields are as they were when it was noted."""
    cdef Operation operation
    while spares.count:
        spares.count -= 1
        operation = <Operation>spares.operations[spares.count]
        Py_DECREF(operation)
        if Py_REFCNT(<PyObject *>operation) == 1:
            operation.state = NEW
            return operation
    return None


cdef void note_spare(Spares spares, Operation operation) noexcept:
    """For taken(). Whether it is free is asked when it is wanted: its caller has it still."""
    if spares.count < SPARES_MAX:
        operation.loop = None
        Py_INCREF(operation)
        spares.operations[spares.count] = <PyObject *>operation
        spares.count += 1
