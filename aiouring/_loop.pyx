"""The native part of the event loop: what runs once a turn or once a callback.

One turn: flush (transports queue their sends, readers re-arm) → one io_uring_enter (submit, wait, GIL released) → callbacks that were
ready before → reap and dispatch CQEs → due timers. A turn that has callbacks to run and nothing for the kernel makes no system call at all.

Used by `loop.Loop`, which joins it with asyncio.BaseEventLoop, and by the transports. Calls `_op`, `_ring`, `_handle`, `_wakepipe`.

Who owns what: the loop owns its ring, its request table, its buffer rings and its wake-up pipe, and frees them in _close_ring(), after the
last CQE of every request. Ready and flush lists are Python lists, so that the garbage collector sees through an abandoned loop.

Threads: only the thread that runs the loop submits. Others append to the ready list (under the GIL) and write to the wake-up pipe if the
loop sleeps; `sleeping` is set and read under the GIL, so no wake-up is lost and none is written twice.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.ref cimport Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EBUSY, EEXIST, EINTR, errno
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close as posix_close
from posix.unistd cimport write as posix_write

from aiouring._address_cache cimport AddressCache
from aiouring._handle cimport Handle, TimerHandle, TimerHeap, new_handle, new_timer_handle
from aiouring._op cimport OpTable
from aiouring._ring cimport BufferRing, Ring, RingHook
from aiouring._wakepipe cimport WakePipe
from aiouring.uapi cimport *

import asyncio
import collections
import os
import sys
import time
from asyncio import base_events, format_helpers
from asyncio.log import logger

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
    short POLLIN
    int poll(pollfd *watched, unsigned long count, int timeout_ms)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_gettid

cdef enum:
    BATCH_CQES = 256
    FLUSH_PASSES_MAX = 4                # one for each transport above another
    STREAM_BUFFERS = 128                # 2 MiB: fewer stay in the processor's cache, more would save a busy loop some re-arming
    # Large receives that one enter may make. Few: their memory is then still in the processor's cache when the protocol reads it and when
    # it goes out again, and the next ones get the same memory.
    BULK_PER_TURN = 4
    DATAGRAM_BUFFERS = 16
    # 64 KiB of payload, io_uring_recvmsg_out, and the largest socket address.
    DATAGRAM_BUFFER_BYTES = 65536 + 512

cdef int64_t LONGEST_WAIT_NS = 24 * 3600 * 1000000000
cdef int64_t CLOSE_WAIT_NS = 100000000
cdef double CLOSE_WAIT_LONGEST_S = 5.0

cdef object asyncio_Future = asyncio.Future


cdef bint wait_for_end(int end_fd) except -1:
    """Wait until the kernel is done with a closed ring, and close the descriptor that tells. False: it is not within CLOSE_WAIT_LONGEST_S."""
    cdef pollfd watched
    cdef int rc
    if end_fd < 0:
        return True             # nothing was in flight that could go on
    watched.fd = end_fd
    watched.events = POLLIN
    with nogil:
        while True:
            rc = poll(&watched, 1, <int>(CLOSE_WAIT_LONGEST_S * 1000))
            if rc >= 0 or errno != EINTR:
                break
    posix_close(end_fd)
    return rc > 0


cdef class Flushable:
    cdef int flush(self) except -1:
        raise NotImplementedError

    cdef int start_bulk(self) except -1:
        raise NotImplementedError


cdef class LoopCore:
    """Scheduling and completions. Not for use by itself: see aiouring.Loop."""

    def __cinit__(self, *args, **kwargs):
        # Until BaseEventLoop.__init__ says otherwise: a loop whose ring was refused must not be closed by its __del__.
        self._closed = True
        self.ring = Ring()
        self.ops = OpTable(self.ring)
        self.timers = TimerHeap()
        self.ready, self.ready_spare = [], []
        self.flush_list, self.flush_spare = [], []
        self.bulk_queue = collections.deque()
        self.slow_callback_duration = 0.1
        self._clock_resolution = time.get_clock_info("monotonic").resolution
        self.wake_pipe = WakePipe(self)
        self.wake_write_fd = self.wake_pipe.write_fd
        self.wake_pipe.arm(self.ops)

    # -- scheduling -------------------------------------------------------------------------------------------------------------------

    cdef double now(self) noexcept:
        cdef timespec ts
        clock_gettime(CLOCK_MONOTONIC, &ts)
        return <double>ts.tv_sec + <double>ts.tv_nsec * 1e-9

    def time(self):
        """The loop's clock in seconds: CLOCK_MONOTONIC, as time.monotonic()."""
        return self.now()

    def get_debug(self):
        """Whether debug mode is on."""
        return self._debug

    def create_future(self):
        """A new asyncio.Future of this loop."""
        return asyncio_Future(loop=self)

    cdef int check_open(self) except -1:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self.ring.foreign_process():
            raise RuntimeError("this event loop belongs to the parent process: a forked child must make a loop of its own")
        return 0

    cdef Handle add_ready(self, object callback, tuple args, object context):
        cdef Handle handle
        self.check_open()
        handle = new_handle(self, callback, args, context)
        if self._debug:
            handle._source_traceback = format_helpers.extract_stack(sys._getframe())
            self.check_open()           # again: that is Python code, during which another thread may have closed the loop
        self.ready.append(handle)
        return handle

    def call_soon(self, callback, *args, context=None):
        """Run `callback(*args)` in the next turn, in order of the calls. Returns a handle with cancel()."""
        if self._debug:
            self.check_open()
            self._check_thread()
            self._check_callback(callback, "call_soon")
        return self.add_ready(callback, args, context)

    def call_soon_threadsafe(self, callback, *args, context=None):
        """call_soon() for other threads and for signal handlers: wakes the loop."""
        cdef Handle handle
        if self._debug:
            self.check_open()
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self.add_ready(callback, args, context)
        self.wake()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """Run `callback(*args)` after `delay` seconds. Returns a timer handle with cancel() and when()."""
        if delay is None:
            raise TypeError("delay must not be None")
        return self.add_timer(self.now() + delay, callback, args, context, "call_later")

    def call_at(self, when, callback, *args, context=None):
        """Run `callback(*args)` at `when` on the clock of time(), in seconds. Returns a timer handle."""
        if when is None:
            raise TypeError("when cannot be None")
        return self.add_timer(when, callback, args, context, "call_at")

    def add_timer(self, double when, callback, tuple args, context, method):
        cdef TimerHandle handle
        self.check_open()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, method)
        handle = new_timer_handle(self, callback, args, context, when)
        if self._debug:
            handle._source_traceback = format_helpers.extract_stack(sys._getframe())
        self.timers.push(handle)
        return handle

    def _timer_handle_cancelled(self, handle):
        """asyncio.TimerHandle calls this; ours count in their heap."""

    cdef int schedule_flush(self, Flushable flushable) except -1:
        if not flushable.flush_queued:
            flushable.flush_queued = True
            self.flush_list.append(flushable)
        return 0

    cdef int queue_bulk(self, Flushable flushable) except -1:
        self.bulk_queue.append(flushable)
        return 0

    cdef int start_some_bulk(self) except -1:
        cdef Flushable flushable
        for _ in range(min(BULK_PER_TURN, len(self.bulk_queue))):
            flushable = <Flushable>self.bulk_queue.popleft()
            try:
                flushable.start_bulk()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self.call_exception_handler({"message": f"Queueing requests of {flushable!r} failed", "exception": exc})
        return 0

    # -- transports -------------------------------------------------------------------------------------------------------------------

    cdef int note_transport(self, int fd, object transport) except -1:
        """The descriptor is a transport's: add_reader() and sock_recv() on it would steal its bytes."""
        cdef int size = self.transports_size
        cdef PyObject **transports
        if fd >= size:
            size = max(fd + 1, size + size // 2, 64)
            transports = <PyObject **>PyMem_RawRealloc(self.transports, size * sizeof(PyObject *))
            if transports == NULL:
                raise MemoryError()
            memset(transports + self.transports_size, 0, (size - self.transports_size) * sizeof(PyObject *))
            self.transports = transports
            self.transports_size = size
        self.transports[fd] = <PyObject *>transport
        return 0

    cdef void forget_transport(self, int fd, object transport) noexcept:
        # The place may be another's by now, when somebody closed the descriptor under its transport.
        if 0 <= fd < self.transports_size and self.transports[fd] == <PyObject *>transport:
            self.transports[fd] = NULL

    cdef bint is_of_transport(self, int fd) noexcept:
        return 0 <= fd < self.transports_size and self.transports[fd] != NULL

    @property
    def _transports(self):
        return self.transports_by_fd

    @_transports.setter
    def _transports(self, transports):
        self.transports_by_fd = transports
        self.transports_by_fd_data = transports.data

    cdef bint has_transport(self, int fd) except -1:
        # Not by the WeakValueDictionary's own look-up, which is Python code: this runs for each sock_recv() and each sock_sendall().
        return self.is_of_transport(fd) or len(self.transports_by_fd_data) and fd in self.transports_by_fd_data

    def _transport_of(self, int fd):
        """The stream transport that uses this descriptor, or None."""
        return <object>self.transports[fd] if self.is_of_transport(fd) else None

    def __dealloc__(self):
        PyMem_RawFree(self.transports)

    # -- wake-ups ---------------------------------------------------------------------------------------------------------------------

    cdef int wake(self) except -1:
        cdef char byte = 0
        if self.sleeping and not self.wake_written:
            self.wake_written = True
            posix_write(self.wake_write_fd, &byte, 1)       # fails only when the pipe is full, and then it wakes all the same
        return 0

    def _write_to_self(self):
        self.wake()

    def _wake_fd(self):
        """Where signal.set_wakeup_fd() shall write."""
        return self.wake_write_fd

    # -- one turn ---------------------------------------------------------------------------------------------------------------------

    def _run_once(self):
        """Turn until stop() is called. asyncio.BaseEventLoop.run_forever() calls this between its set-up and its clean-up.

        The ring is taken and let go in here, where the loop counts as running: no other thread can run or close it halfway through, and
        a completion that is delivered on the way finds its running loop.
        """
        self.attach()
        try:
            while True:
                self.turn()
                if self._stopping:
                    return
        finally:
            self.detach()

    cdef int turn(self) except -1:
        cdef int64_t timeout_ns
        cdef list due
        self.turns += 1
        if self.ring.foreign_process():
            self.check_open()       # a callback forked, and the child came back here: the queues are the parent's
        # After an interrupt between an enter and what it brought nobody would wake us for a silent request that has ended.
        self.hurry = self.ops.silent_count != 0
        self.may_be_silent = True
        self.flush_all()
        timeout_ns = self.time_to_wait_ns()     # may run destructors, who write or close
        self.may_be_silent = False
        if timeout_ns != 0 or self.ring.has_work():
            self.enter(timeout_ns)
        # asyncio's order: what was ready before the wait, then completions, then timers. A task that was woken before its peer's
        # data came must run before that data is delivered: programs set up their state there. Which timers are due is settled before
        # any of them runs: call_later(0) comes after a call_soon() that was made before it.
        due = self.take_due()
        try:
            if self.ops.silent_count and self.batch_next == self.batch_count:
                self.reap()
            self.run_ready()
            self.dispatch()
        except BaseException:
            if due is not None:
                self.ready.extend(due)
            raise
        if due is not None:
            self.run_handles(due)
        return 0

    cdef int flush_all(self) except -1:
        # A flush may write into a transport below (TLS does, and TLS over TLS once more): that goes out in the same turn.
        cdef int passes = FLUSH_PASSES_MAX
        while self.flush_list and passes:
            self.flush_once()
            passes -= 1
        return self.start_some_bulk() if self.bulk_queue else 0

    cdef int flush_once(self) except -1:
        cdef list flushables = self.flush_list
        cdef Flushable flushable
        cdef Py_ssize_t count = len(flushables), index = 0
        self.flush_list = self.flush_spare
        try:
            while index < count:
                flushable = <Flushable>flushables[index]
                index += 1
                flushable.flush_queued = False
                try:
                    flushable.flush()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    self.call_exception_handler({"message": f"Queueing requests of {flushable!r} failed", "exception": exc})
        finally:
            if index < count:
                self.flush_list[0:0] = flushables[index:]       # an interrupt of one must not make the others wait for ever
            flushables.clear()
            self.flush_spare = flushables
        return 0

    cdef int64_t time_to_wait_ns(self) except? -2:
        cdef TimerHandle first
        cdef double wait_ns
        # First of all: it drops cancelled timers, and with them whatever they held, whose destructors may call us.
        first = self.timers.first()
        if self.ready or self.flush_list or self.bulk_queue or self._stopping or self.batch_next != self.batch_count or self.hurry:
            return 0
        if self.ring.cq_ready():
            return 0
        if first is None:
            return -1
        wait_ns = ceil((first._when - self.now()) * 1e9)
        if not wait_ns > 0:
            return 0
        return LONGEST_WAIT_NS if wait_ns > LONGEST_WAIT_NS else <int64_t>wait_ns

    cdef int enter(self, int64_t timeout_ns) except -1:
        cdef uint32_t wait_nr = 0 if timeout_ns == 0 else 1
        cdef int rc
        self.hurry = False
        self.sleeping = wait_nr != 0
        with nogil:
            if self.busy_poll_ns and wait_nr:
                timeout_ns = self.poll_busily(timeout_ns)
                if timeout_ns == 0:
                    wait_nr = 0
            rc = self.ring.enter(wait_nr, timeout_ns)
        self.sleeping = False
        if self.ring.hook is not None and self.ring.hook.fault():
            self.drop_hook(self.ring.hook.fault())
            rc = 0
        # EAGAIN and EBUSY: the kernel wants completions reaped first, which is what comes next. EINTR and ETIME: the wait ended.
        if rc < 0 and rc != -EINTR and rc != -ETIME and rc != -EAGAIN and rc != -EBUSY:
            if rc == -EBADR:
                logger.error("io_uring lost completions: the kernel had no memory for its overflow list")
            else:
                raise OSError(-rc, f"io_uring_enter failed: {os.strerror(-rc)}")
        PyErr_CheckSignals()
        return 0

    cdef drop_hook(self, int fault):
        """The hook's program did what it must not: go on without it."""
        self.ring.hook.give_up()
        what = f"the kernel stopped it: {os.strerror(-fault)}" if fault < 0 else f"it returned {fault}, which is no verdict"
        self.call_exception_handler({"message": f"The event loop's hook was detached: {what}"})

    def _set_busy_poll(self, double seconds):
        self.busy_poll_ns = <int64_t>(seconds * 1e9)

    cdef int64_t poll_busily(self, int64_t timeout_ns) noexcept nogil:
        """Submit, and look at the shared flags until something came or the time is over. Returns what is left to wait, 0: do not."""
        cdef timespec now
        cdef int64_t begin_ns, spent_ns = 0
        self.ring.enter(0, 0)           # an error comes again from the enter that follows
        clock_gettime(CLOCK_MONOTONIC, &now)
        begin_ns = <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
        while True:
            if self.ring.has_work():
                if self.ring.hook is None or self.ring.cq_ready() or self.ring.enter(0, 0) < 0 or self.ring.cq_ready():
                    break               # else it was the hook's alone
            clock_gettime(CLOCK_MONOTONIC, &now)
            spent_ns = <int64_t>now.tv_sec * 1000000000 + now.tv_nsec - begin_ns
            if 0 <= timeout_ns <= spent_ns:
                return 0
            if spent_ns >= self.busy_poll_ns:
                return timeout_ns if timeout_ns < 0 else timeout_ns - spent_ns
        self.busy_poll_hits += 1
        return 0

    cdef int dispatch(self) except -1:
        cdef uint32_t reaped = 0
        cdef io_uring_cqe *cqe
        while True:
            # What an exception (KeyboardInterrupt) left in the batch comes first: nothing reaped is ever lost.
            while self.batch_next < self.batch_count:
                if self.ring.foreign_process():
                    self.check_open()       # a callback forked: the rest of the batch is for the parent
                cqe = &self.batch[self.batch_next]
                self.batch_next += 1
                self.deliver(cqe)
            if reaped >= self.ring.cq_entries:
                return 0            # timers and callbacks get their turn even under a flood
            self.reap()
            if self.batch_count == 0:
                return 0
            reaped += self.batch_count

    cdef int reap(self) except -1:
        """The next batch, and what the kernel did without a word."""
        if self.ring.foreign_process():
            self.check_open()           # a callback forked, and this is the child: what has completed is for the parent
        self.batch_next = 0
        self.batch_count = self.ring.reap(self.batch, BATCH_CQES)
        if self.ops.silent_count:
            self.ops.note_spoken(self.batch, self.batch_count)
            if not self.ring.cq_ready():
                self.settle()
        return 0

    cdef int settle(self) except -1:
        """All CQEs are known: tell the owners of silent requests that posted none that they succeeded. Before anything else is delivered, so
        that who writes in his turn finds his last write gone."""
        cdef io_uring_cqe cqe
        while self.ops.next_settled(&cqe):
            if self.ring.foreign_process():
                self.check_open()       # a callback forked: the rest is for the parent
            self.deliver(&cqe)
        return 0

    cdef int deliver(self, io_uring_cqe *cqe) except -1:
        try:
            if self._debug:
                self.deliver_timed(cqe)
            else:
                self.ops.deliver(cqe)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.call_exception_handler({"message": "Exception while a completion was handled", "exception": exc})
        return 0

    cdef int deliver_timed(self, io_uring_cqe *cqe) except -1:
        owner = self.ops.owner_of(cqe.user_data)
        cdef double start = self.now()
        self.ops.deliver(cqe)
        cdef double spent = self.now() - start
        if spent >= self.slow_callback_duration:
            logger.warning("Executing %r took %.3f seconds", owner, spent)
        return 0

    cdef list take_due(self):
        """The timers that are due, out of the heap, or None."""
        cdef double limit
        cdef TimerHandle handle
        cdef TimerHeap timers = self.timers
        cdef list due = None
        if not timers.items:
            return None
        if timers.cancelled > 100 and timers.cancelled * 2 > len(timers.items):
            timers.drop_cancelled()
        limit = self.now() + self._clock_resolution
        while True:
            handle = timers.first()
            if handle is None or handle._when >= limit:
                break
            timers.pop()
            if due is None:
                due = []
            due.append(handle)
        return due

    cdef int run_ready(self) except -1:
        # Only what is ready now: callbacks that these add wait for the next turn, so that completions are not starved.
        cdef list handles = self.ready
        if handles:
            self.ready = self.ready_spare
            self.ready_spare = []
            self.run_handles(handles)
            self.ready_spare = handles
        return 0

    cdef int run_handles(self, list handles) except -1:
        """Run them in order and empty the list. After KeyboardInterrupt or SystemExit the rest is ready first in the next turn."""
        cdef Py_ssize_t count = len(handles), index = 0
        cdef Handle handle
        try:
            while index < count:
                handle = <Handle>handles[index]
                handles[index] = None       # what a callback held is released right after it ran, as in asyncio
                index += 1
                if handle._cancelled:
                    continue
                if self._debug:
                    self.run_timed(handle)
                else:
                    handle.run()
            handle = None
        finally:
            if index < count:
                self.ready[0:0] = handles[index:]       # in place: another thread may be about to append
            handles.clear()
        return 0

    cdef int run_now(self, Handle handle) except -1:
        """Run an I/O callback during dispatch, which is its place in asyncio's order."""
        if handle._cancelled:
            return 0
        return self.run_timed(handle) if self._debug else handle.run()

    cdef int run_timed(self, Handle handle) except -1:
        cdef double start, spent
        try:
            self._current_handle = handle
            start = self.now()
            handle.run()
            spent = self.now() - start
            if spent >= self.slow_callback_duration:
                logger.warning("Executing %s took %.3f seconds", base_events._format_handle(handle), spent)
        finally:
            self._current_handle = None
        return 0

    cdef int submit_now(self) except -1:
        if self.ops.closed or not self.ring.queued() or self.ring_thread != syscall(SYS_gettid):
            return 0            # another thread's ring: its next turn submits
        with nogil:
            self.ring.enter(0, 0)
        return 0

    cdef bint idle_here(self) noexcept:
        return self.ops.issuer == 0 and not self.ops.closed and self.ring_thread == syscall(SYS_gettid)

    cdef int complete_now(self, uint64_t request) except -1:
        """Between two runs asyncio's transports write at once, and so do ours; all other completions wait for the next run."""
        cdef io_uring_cqe cqe
        cdef uint32_t index
        with nogil:
            self.ring.enter(0, 0)
        if self.batch_next == self.batch_count:
            self.batch_next = self.batch_count = 0
        self.batch_count += self.ring.reap(&self.batch[self.batch_count], BATCH_CQES - self.batch_count)
        for index in range(self.batch_next, self.batch_count):
            if self.batch[index].user_data == request:
                cqe = self.batch[index]
                self.batch[index].user_data = 0         # nobody's
                while self.batch_count > self.batch_next and self.batch[self.batch_count - 1].user_data == 0:
                    self.batch_count -= 1
                return self.ops.deliver(&cqe)
        return 0

    # -- buffers and caches -----------------------------------------------------------------------------------------------------------

    cdef AddressCache get_addresses(self):
        if self.addresses is None:
            self.addresses = AddressCache()
        return self.addresses

    cdef BufferRing get_stream_buffers(self):
        if self.stream_buffers is None:
            self.stream_buffers = self.ring.make_buffer_ring(STREAM_BUFFERS, STREAM_BUFFER_BYTES)
        return self.stream_buffers

    cdef BufferRing get_datagram_buffers(self):
        if self.datagram_buffers is None:
            self.datagram_buffers = self.ring.make_buffer_ring(DATAGRAM_BUFFERS, DATAGRAM_BUFFER_BYTES)
        return self.datagram_buffers

    # -- threads, processes, end --------------------------------------------------------------------------------------------------------

    def _check_usable(self):
        """Raise RuntimeError where this loop is closed or belongs to the parent process."""
        self.check_open()

    cdef int attach(self) except -1:
        """Make the calling thread the one that submits."""
        cdef long thread = syscall(SYS_gettid)
        self.check_open()
        self.ops.issuer = PyThread_get_thread_ident()
        try:
            if self.ring_thread == 0:
                self.ring.enable()
                self.ring_thread = thread
                self.ring.adopt_fd()
            elif self.ring_thread != thread or self.ring.adopt_fd() == -EEXIST:
                self.move_ring()
            if self.at_first_run is not None:
                first, self.at_first_run = self.at_first_run, None
                first(self)
        except BaseException:
            self.ring.disown_fd()
            self.ops.issuer = 0
            raise
        return 0

    def _at_first_run(self, call):
        """call(loop) when the loop runs the next time, before its first turn; None: not any more."""
        if call is not None and self.at_first_run is not None:
            raise RuntimeError("this event loop gets another hook when it runs: detach that one first")
        self.at_first_run = call

    cdef int detach(self) except -1:
        """The loop stops running: submit what its last callbacks asked for, and let go of the thread."""
        if self.ring.foreign_process():
            return 0
        self.may_be_silent = False          # an exception may have left it so
        try:
            self.flush_all()
            self.submit_now()
            if self.ring.hook is not None:
                self.ring.hook.finish_sends()
            if self.ops.in_flight > 1:          # more than the wake-up pipe's
                self.ring.watch_end()           # another thread may run the loop next
        finally:
            self.ring.disown_fd()
            self.ops.issuer = 0
        return 0

    cdef move_ring(self):
        """The loop runs in another thread than before, which the kernel does not let submit to the old ring: go on with a new one.

        What had completed is delivered. Closing the old ring ends its other requests, so their owners begin them again on the new one. Receives and
        sends happen only inside the old thread's own enters, and have not moved a byte. Requests on files may be running in workers of the kernel,
        which read and write their owners' memory until they end: that is waited for first. What they have done by then, they do again.
        """
        cdef Ring old = self.ring
        cdef Ring new = Ring()
        cdef uint32_t count = self.batch_count - self.batch_next, index, room, reaped
        cdef io_uring_cqe cancelled
        cdef io_uring_cqe *completed
        cdef io_uring_cqe *completion
        cdef list requests
        cdef int end_fd
        cdef RingHook old_hook
        interrupt = None
        new.enable()
        requests = self.ops.live_requests()
        old_hook = old.hook
        if old_hook is not None:
            old_hook.end()          # what its mailbox has comes first, then what it did not look at
        room = count + old.cq_entries + (old_hook.reaps_max() if old_hook is not None else 0)
        completed = <io_uring_cqe *>PyMem_RawMalloc((room + self.ops.silent_count) * sizeof(io_uring_cqe))
        if completed == NULL:
            raise MemoryError("no memory for the completions of a loop that moves to another thread")
        memcpy(completed, &self.batch[self.batch_next], count * sizeof(io_uring_cqe))
        while True:
            reaped = old.reap(completed + count, room - count)
            if reaped == 0:
                break
            count += reaped
        self.ops.note_spoken(completed, count)
        while self.ops.next_settled(&completed[count]):
            count += 1
        self.batch_next = self.batch_count = 0
        end_fd = old.take_end()
        old.close()
        if not wait_for_end(end_fd):
            # Their memory is in the kernel's hands, and nothing will tell when it is not: they keep their slots, and whoever waits for them waits on.
            logger.error("%d requests of the thread that ran this event loop before did not end within %.0f s; what waits for them will not end",
                         len(requests), CLOSE_WAIT_LONGEST_S)
            # But for the wake-up pipe's, which no worker carries out, so that threads and signals are still heard.
            requests = [request for request in requests if type(self.ops.owner_of(request)) is WakePipe]
        # From here on requests begin on the new ring, also those that the owners of what had completed begin now.
        if old_hook is not None:
            try:
                old_hook.move(new)
            except Exception as exc:
                self.call_exception_handler({"message": "The event loop's hook was detached: it could not follow the loop to another thread",
                                             "exception": exc})
        self.ring = self.ops.ring = new
        self.ring_thread = syscall(SYS_gettid)
        self.stream_buffers = None
        self.datagram_buffers = None
        self.watch_buffers = None
        new.adopt_fd()
        for index in range(count + len(requests)):
            if index >= count:
                cancelled.user_data = requests[index - count]
                cancelled.res = -ECANCELED
                cancelled.flags = 0
            completion = &completed[index] if index < count else &cancelled
            if index >= count and not self.ops.is_live(completion.user_data):
                continue                # what had completed was its last
            try:
                self.deliver(completion)
            except (SystemExit, KeyboardInterrupt) as exc:
                interrupt = exc         # not before every owner has heard that the old ring is gone
        PyMem_RawFree(completed)
        if interrupt is not None:
            raise interrupt

    def _close_ring(self):
        """End every request, wait for the last CQEs, free the ring. The loop is closed afterwards."""
        cdef bint forked = self.ring.foreign_process()
        cdef bint ended = False
        cdef int end_fd = -1
        if self.ring_closing:
            return              # by another thread that waits in here, or by us: a destructor called close() again
        self.ring_closing = True
        try:
            self._drop_calls()
            if forked:
                ended = True    # the queues are the parent's
            elif self.ring_thread == 0 or self.ring_thread == syscall(SYS_gettid):
                ended = self.finish_requests()
            else:
                self.discard_completed()
                end_fd = self.ring.take_end()
                ended = True
        finally:
            self.ops.closed = True
            self.flush_list.clear()
            self.bulk_queue.clear()
            self.ring.close()
            if ended and wait_for_end(end_fd):
                self.ops.abandon()
            else:
                Py_INCREF(self.ops)     # and with it the owners of what did not end: the kernel may still write there
            self.wake_pipe.close()
            self.wake_write_fd = -1

    def _drop_calls(self):
        """Forget what was to be called. Once more when the loop is marked as closed: until then other threads and destructors may ask for calls."""
        self.ready.clear()
        self.timers.clear()

    cdef int discard_completed(self) except -1:
        while True:
            while self.batch_next < self.batch_count:
                self.batch_next += 1
                self.ops.discard(&self.batch[self.batch_next - 1])
            self.batch_next = 0
            self.batch_count = self.ring.reap(self.batch, BATCH_CQES)
            if self.batch_count == 0:
                break
            self.ops.note_spoken(self.batch, self.batch_count)
        while self.ops.next_settled(&self.batch[0]):
            self.ops.discard(&self.batch[0])
        return 0

    cdef bint finish_requests(self) except -1:
        """Cancel everything and wait for the last CQEs. False: some did not come in time."""
        cdef double deadline, cancel_again
        cdef uint64_t linked_cqes = self.ops.linked_cqes
        cdef uint32_t left = self.ops.in_flight
        cdef int rc
        if self.ring_thread == 0:
            self.ring.enable()
            self.ring_thread = syscall(SYS_gettid)
        self.ops.issuer = PyThread_get_thread_ident()
        if self.ring.hook is not None:
            self.ring.hook.begin_close()
        self.ops.cancel_all()
        self.ops.closed = True
        deadline = self.now() + CLOSE_WAIT_LONGEST_S
        cancel_again = self.now() + 1e-9 * CLOSE_WAIT_NS
        while True:
            self.discard_completed()
            if self.ops.in_flight == 0:
                return True
            if self.now() >= deadline:
                break
            if self.ops.in_flight != left:
                left = self.ops.in_flight
                cancel_again = self.now() + 1e-9 * CLOSE_WAIT_NS
            if self.ops.linked_cqes != linked_cqes or self.now() >= cancel_again:
                linked_cqes = self.ops.linked_cqes
                cancel_again = self.now() + 1e-9 * CLOSE_WAIT_NS
                self.ops.cancel_all()       # a linked request may have begun meanwhile
            with nogil:
                rc = self.ring.enter(1, CLOSE_WAIT_NS)
            if self.ring.hook is not None and self.ring.hook.fault():
                self.ring.hook.give_up()
                continue
            if rc < 0 and rc != -EINTR and rc != -ETIME and rc != -EAGAIN and rc != -EBUSY:
                break
        logger.warning("%d requests did not end within %.1f s of the loop's close; their memory is kept", self.ops.in_flight,
                       CLOSE_WAIT_LONGEST_S)
        return False

    def ring_stats(self):
        """Counters of this loop: turns, enters and registers (io_uring_enter, io_uring_register), waits that busy polling saved, requests in
        flight (slots_in_use), registered files, free and total receive buffers, stale CQEs; and what the present ring had since it was made,
        modulo 2^32: requests (queued) and cqes (reaped)."""
        cdef uint32_t total = 0, out = 0
        for buffers in (self.stream_buffers, self.datagram_buffers, self.watch_buffers):
            if buffers is not None:
                total += (<BufferRing>buffers).entries
                out += (<BufferRing>buffers).outstanding
        return {
            "turns": self.turns,
            "enters": self.ring.enters,
            "registers": self.ring.registers,
            "requests": self.ring.sq_tail,
            "cqes": self.ring.cq_khead[0] if self.ring.rings_memory != NULL else 0,
            "busy_poll_hits": self.busy_poll_hits,
            "slots_in_use": self.ops.in_flight,
            "registered_files": self.ring.registered_files,
            "buffers_total": total,
            "buffers_free": total - out,
            "stale_cqes": self.ops.stale_cqes,
            "setup_flags": self.ring.setup_flags,
            "features": self.ring.features,
        }
