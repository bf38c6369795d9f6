# The native part of the loop: ready queue, timers, one turn, wake-ups. See _loop.pyx.
# cimported by: the transports and every room that submits requests.

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from aiouring._address_cache cimport AddressCache
from aiouring._handle cimport Handle, TimerHandle, TimerHeap
from aiouring._op cimport OpTable
from aiouring._ring cimport BufferRing, Ring
from aiouring._wakepipe cimport WakePipe
from aiouring.uapi cimport io_uring_cqe


cdef enum:
    STREAM_BUFFER_BYTES = 16384


# Something that queues its requests at the end of the turn, so that all that was asked for in the turn goes out together.
cdef class Flushable:
    cdef bint flush_queued

    cdef int flush(self) except -1
    # For queue_bulk(): queue one large request, or none if it is not wanted any more.
    cdef int start_bulk(self) except -1


cdef class LoopCore:
    # Names that asyncio.BaseEventLoop's Python code reads and writes; fields of ours, so that native code sees the same values.
    cdef public bint _closed, _stopping, _debug
    cdef public object _thread_id, _current_handle, slow_callback_duration
    cdef public double _clock_resolution

    cdef Ring ring
    cdef OpTable ops
    cdef TimerHeap timers
    cdef list ready, ready_spare                # Handles, in the order in which they run
    cdef list flush_list, flush_spare           # Flushables
    cdef object bulk_queue                      # deque of Flushables
    cdef io_uring_cqe batch[256]                # reaped and not yet dispatched
    cdef uint32_t batch_next, batch_count
    cdef long ring_thread                       # the kernel's id of the ring's only issuer, 0 before the first run
    cdef bint may_be_silent                     # sends that are queued now go out with this turn's enter, and the CQ is emptied after it
    cdef bint hurry                             # somebody waits for a silent request by now: do not sleep in this turn's enter
    cdef bint sleeping, wake_written, ring_closing
    cdef int64_t busy_poll_ns                   # how long to look for completions before a wait sleeps
    cdef WakePipe wake_pipe
    cdef object at_first_run                    # a call that waits for the loop to run, or None
    cdef int wake_write_fd
    cdef uint64_t turns, busy_poll_hits
    cdef AddressCache addresses
    cdef BufferRing stream_buffers, datagram_buffers
    cdef BufferRing watch_buffers               # of connections that a hook watches, in its region. See _watch.pyx
    cdef object transports_by_fd                # asyncio's WeakValueDictionary, where datagram transports are
    cdef dict transports_by_fd_data             # and the dict under it
    cdef PyObject **transports                  # by descriptor; borrowed: a transport takes itself out before it goes
    cdef int transports_size
    cdef uint32_t bulk_waiters                  # large receives that wait for data and hold memory meanwhile

    cdef int check_open(self) except -1
    cdef int note_transport(self, int fd, object transport) except -1
    cdef void forget_transport(self, int fd, object transport) noexcept
    cdef bint is_of_transport(self, int fd) noexcept
    cdef bint has_transport(self, int fd) except -1     # the same, and of datagram transports
    cdef Handle add_ready(self, object callback, tuple args, object context)    # call_soon for native callers
    cdef int schedule_flush(self, Flushable flushable) except -1
    cdef int queue_bulk(self, Flushable flushable) except -1        # start_bulk() will be called once, when it is its turn
    cdef AddressCache get_addresses(self)
    cdef BufferRing get_stream_buffers(self)        # made at the first use, remade when the ring is replaced: do not keep
    cdef BufferRing get_datagram_buffers(self)      # each holds a whole UDP datagram, its address and its header
    cdef int submit_now(self) except -1             # for what must reach the kernel before this call returns
    cdef bint idle_here(self) noexcept              # the loop does not run, and the calling thread is the one that may submit
    cdef int complete_now(self, uint64_t request) except -1     # for a loop that is idle here: submit, and deliver this one if it is done

    cdef double now(self) noexcept
    cdef int turn(self) except -1
    cdef int flush_all(self) except -1
    cdef int flush_once(self) except -1
    cdef int start_some_bulk(self) except -1
    cdef int64_t time_to_wait_ns(self) except? -2
    cdef int enter(self, int64_t timeout_ns) except -1
    cdef drop_hook(self, int fault)
    cdef int64_t poll_busily(self, int64_t timeout_ns) noexcept nogil
    cdef int dispatch(self) except -1
    cdef int reap(self) except -1
    cdef int settle(self) except -1
    cdef int deliver(self, io_uring_cqe *cqe) except -1
    cdef int deliver_timed(self, io_uring_cqe *cqe) except -1
    cdef list take_due(self)
    cdef int run_ready(self) except -1
    cdef int run_handles(self, list handles) except -1
    cdef int run_now(self, Handle handle) except -1
    cdef int run_timed(self, Handle handle) except -1
    cdef int wake(self) except -1
    cdef int attach(self) except -1
    cdef int detach(self) except -1
    cdef move_ring(self)
    cdef int discard_completed(self) except -1
    cdef bint finish_requests(self) except -1
