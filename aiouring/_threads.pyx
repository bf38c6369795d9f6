"""Calls in threads: loop.run_in_executor(), whose result no interrupt loses.

Used by `loop.Loop` (ThreadMixin), and by every room that has no request for something and asks the executor. Calls `_loop`, `_operation`.

asyncio's own way is Python code at both ends. What a thread brought is handed to the loop's future by a Python function, and a signal's handler that
raises in there (KeyboardInterrupt) loses it: whoever awaits it waits for ever. And what the main thread calls to hand a call over takes locks that
are Python code too (threading.Condition): where a handler raises behind such a lock's acquire() it is never let go of, and the next call, the
threads, and the process's exit wait for ever. So here the call itself tells the loop that it has ended, in its thread, where no handler runs, and
the loop takes what it brought without Python code; and the pool that a loop makes for itself counts its idle threads natively, and is given new
ones by another thread than the one that the interrupts go to.

run_in_executor() that raises has begun nothing. Where a handler raises in the middle of it and a thread has the call already, the call is in flight
as any other, and the exception comes out of the loop's next turn: so nobody has to ask himself whether a thread still uses his memory.

in_thread() is the same as an awaitable that ends when the thread is through, also if it was cancelled. (asyncio.shield() wakes by Python code.)

Executors that are no ThreadPoolExecutor, or have a submit() of their own, get their calls the way of asyncio. One that the user has set
(set_default_executor()) submits by its own code, in which the locks are what they are.

Who owns what: the pool's queue, and then the thread, holds a ThreadCall, which holds its function until it has run. Both it and the loop's future
hold the Receiver.
A call that is dropped without having been run (the pool was shut down) ends its future in its destructor.
"""

cimport cython
from libc.stdint cimport uintptr_t

from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation

import _thread
import sys
import threading
import weakref
from asyncio import CancelledError, futures
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pool_threads

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    void PyThread_release_lock(PyThread_type_lock lock)
    int WAIT_LOCK


# -- the pool -------------------------------------------------------------------------------------------------------------------------------------

cdef class IdleThreads:
    """How many of a pool's threads have nothing to do, with the interface of the threading.Semaphore that it replaces. The GIL is its lock."""

    cdef Py_ssize_t count

    def acquire(self, blocking=True, timeout=None):
        """Whether there was one, which is taken. It never waits."""
        if self.count == 0:
            return False
        self.count -= 1
        return True

    def release(self, Py_ssize_t n=1):
        """A thread has nothing to do any more."""
        self.count += n


def _wake_threads(work_queue):
    """What the threads of a pool that is gone are told by, as concurrent.futures does it."""
    return lambda reference: work_queue.put(None)


class ThreadPool(ThreadPoolExecutor):
    """What a loop runs calls in for which no other executor was set."""

    def __init__(self):
        ThreadPoolExecutor.__init__(self, thread_name_prefix="asyncio")
        self._idle_semaphore = IdleThreads()

    def _adjust_thread_count(self):
        # submit() calls this, with the pool's locks held.
        cdef PyThread_type_lock done
        if self._idle_semaphore.acquire() or len(self._threads) >= self._max_workers:
            return
        if sys.version_info >= (3, 14):
            ThreadPoolExecutor._adjust_thread_count(self)       # its threads are made of other things
            return
        thread = threading.Thread(
            name=f"{self._thread_name_prefix}_{len(self._threads)}",
            target=pool_threads._worker,
            args=(weakref.ref(self, _wake_threads(self._work_queue)), self._work_queue, self._initializer, self._initargs),
            # What it would inherit from the main thread. It is asked for, because who starts it is no thread that the threading module knows.
            daemon=threading.current_thread().daemon,
        )
        done = PyThread_allocate_lock()
        if done == NULL:
            raise MemoryError()
        PyThread_acquire_lock(done, WAIT_LOCK)
        errors = []
        try:
            _thread.start_new_thread(_start_thread, (self, thread, <uintptr_t>done, errors))
        except BaseException:
            PyThread_free_lock(done)
            raise
        # As Thread.start(), this waits until the thread has begun; other than that, it cannot be interrupted on the way.
        with nogil:
            PyThread_acquire_lock(done, WAIT_LOCK)
        PyThread_free_lock(done)
        if errors:
            raise errors[0]


def _start_thread(pool, thread, uintptr_t done, list errors):
    """In a thread of its own."""
    try:
        thread.start()
        pool._threads.add(thread)
        pool_threads._threads_queues[thread] = pool._work_queue
    except BaseException as exc:
        errors.append(exc)
    finally:
        PyThread_release_lock(<PyThread_type_lock>done)


# -- a call ---------------------------------------------------------------------------------------------------------------------------------------

cdef class Receiver:
    """Who gets what a call brings: the loop's future, which knows this and not the call, so that a call that is dropped goes at once."""

    cdef LoopCore loop
    cdef object future              # None: it was told, or nobody is to be
    cdef object value, error
    cdef bint begun, withdrawn, lost

    cdef int tell(self) except -1:
        cdef LoopCore loop = self.loop
        if loop._closed:
            return 0
        try:
            loop.add_ready(self._deliver, (), None)
        except RuntimeError:
            return 0                    # it was closed meanwhile
        return loop.wake()

    cdef int withdraw(self) except -1:
        """No thread shall begin it."""
        self.withdrawn = True
        self.future = None
        return 0

    def _deliver(self):
        """In the loop."""
        future, self.future = self.future, None
        value, self.value = self.value, None
        error, self.error = self.error, None
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif self.lost:
            future.cancel()
        else:
            future.set_result(value)

    def _received(self, future):
        """The loop's future is done: by us, or it was cancelled."""
        if not self.begun and future.cancelled():
            self.withdraw()
        self.future = None


cdef class ThreadCall:
    """What a pool gets to run."""

    cdef Receiver receiver
    cdef object function            # None: it has run
    cdef tuple arguments
    cdef object submitted           # the pool's own future, which says why it has not run the call

    def __call__(self):
        """In the thread."""
        cdef Receiver receiver = self.receiver
        if receiver.withdrawn:
            return
        receiver.begun = True
        function, arguments = self.function, self.arguments
        self.function = self.arguments = None
        try:
            receiver.value = function(*arguments)
        except BaseException as exc:
            receiver.error = as_result(exc)
        function = arguments = None     # before anybody hears of it
        receiver.tell()

    def __del__(self):
        cdef Receiver receiver = self.receiver
        if receiver is None or receiver.begun or receiver.withdrawn or receiver.future is None:
            return
        # The pool was shut down, or its threads cannot begin. Nobody but us holds its future any more, so there is nothing to wait for.
        receiver.begun = receiver.lost = True
        try:
            receiver.error = None if self.submitted is None else self.submitted.exception(timeout=0)
        except BaseException:
            receiver.error = None       # cancelled, as a rule
        receiver.tell()


cdef object as_result(object error):
    """The exception as asyncio's futures take it: what is of concurrent.futures is asyncio's own, and an end of iteration would end another one."""
    if isinstance(error, StopIteration):
        wrong = RuntimeError("the function that was run in a thread raised StopIteration, which no future can hold")
        wrong.__cause__ = error
        return wrong
    return futures._convert_future_exc(error)


def _raise(error):
    raise error


cdef ThreadCall new_call(LoopCore loop, object function, tuple arguments):
    cdef Receiver receiver = Receiver.__new__(Receiver)
    cdef ThreadCall call = ThreadCall.__new__(ThreadCall)
    call.receiver = receiver
    call.function = function
    call.arguments = arguments
    receiver.loop = loop
    receiver.future = loop.create_future()
    receiver.future.add_done_callback(receiver._received)
    return call


cdef object submit(LoopCore loop, object executor, ThreadCall call):
    cdef Receiver receiver = call.receiver
    cdef object future = receiver.future
    try:
        call.submitted = executor.submit(call)
    except BaseException as exc:
        if not receiver.begun:
            receiver.withdraw()
            raise
        loop.add_ready(_raise, (exc,), None)        # a thread has it: it is raised, but not in the middle of this
    return future


# -- a call that is awaited ------------------------------------------------------------------------------------------------------------------------

@cython.final
cdef class ThreadOperation(Operation):
    cdef object function, drop, future
    cdef bint working               # it is being handed over, by Python code that a signal's handler may cancel it from

    cdef str name(self):
        return "in_thread"

    cdef int start(self) except -1:
        function, self.function = self.function, None
        self.working = True
        try:
            self.future = self.loop.run_in_executor(None, function)
        finally:
            self.working = False
        self.future.add_done_callback(self._ran)
        return 0

    def _ran(self, future):
        self.future = None
        if future.cancelled():
            self.fail(CancelledError())         # the executor was shut down
            return
        error = future.exception()
        if error is not None:
            self.fail(error)
            return
        try:
            self.finish(future.result())
        except BaseException as exc:
            self.fail(exc)                      # drop()'s
            raise

    cdef bint keep(self, object result) except -1:
        drop, self.drop = self.drop, None
        if drop is None:
            return False
        drop(result)
        return True

    cdef int stop(self) except -1:
        return 0                                # a thread cannot be stopped

    cdef bint idle(self) noexcept:
        return self.future is None and not self.working


def in_thread(LoopCore loop not None, function, drop):
    """Run `function()` in the loop's default executor. `drop(result)` is called where nobody takes what it returned; None: nothing is to be done."""
    cdef ThreadOperation operation = ThreadOperation.__new__(ThreadOperation)
    operation.loop = loop
    operation.function = function
    operation.drop = drop
    return operation


class ThreadMixin:
    """The part of the loop that runs functions in threads."""

    def run_in_executor(self, executor, func, *args):
        """Run `func(*args)` in a thread of the executor (None: the loop's default one). Returns an asyncio.Future of what it returns or raises.

        If the future is cancelled before a thread has begun the call, it is not run; after that, it runs to its end. RuntimeError: the executor was
        shut down. If this raises, for whatever reason, the function is not run.
        """
        cdef LoopCore loop = <LoopCore?>self
        self._check_closed()
        if loop._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            self._check_default_executor()
            executor = self._default_executor
            if executor is None:
                executor = self._default_executor = ThreadPool()
        if getattr(type(executor), "submit", None) is not ThreadPoolExecutor.submit:
            return futures.wrap_future(executor.submit(func, *args), loop=self)
        return submit(loop, executor, new_call(loop, func, args))
