# Loop hooks: the region that a program and the loop share, the two engines, tasks. See _hook.pyx.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from aiouring._ring cimport Ring, RingHook
from aiouring._sockop cimport SocketOperation
from aiouring.uapi cimport io_uring_cqe, io_uring_sqe


cdef extern from "aiouring/inline.h" nogil:
    enum:
        AIOURING_HOOK_ABI
        AIOURING_MAIL_OFFSET
        AIOURING_MAIL_ENTRIES
        AIOURING_TASKS_OFFSET
        AIOURING_TASKS_MAX
        AIOURING_TASK_BYTES
        AIOURING_USER_OFFSET
        AIOURING_CHAINS_OFFSET
        AIOURING_CHAINS_MAX
        AIOURING_CHAIN_BYTES
        AIOURING_CHAIN_LINKS_MAX
        AIOURING_WATCH_MAP_OFFSET
        AIOURING_WATCH_MAP_ENTRIES
        AIOURING_WATCHES_OFFSET
        AIOURING_WATCHES_MAX
        AIOURING_WATCH_BYTES
        AIOURING_BIG_REGION_BYTES
        AIOURING_BUFFERS
        AIOURING_BUFFER_BYTES
        AIOURING_ANSWERS_MAX
        AIOURING_ANSWER_BYTES
        AIOURING_ANSWER_PREFIX_MAX
        AIOURING_ANSWER_BODY_MAX
        AIOURING_BUFFERS_END_BYTES
        AIOURING_END_BYTES
        AIOURING_WATCH_PREFIXED
        AIOURING_WATCH_DELIMITED
        AIOURING_WATCH_RESPOND
        AIOURING_NS_TASK
        AIOURING_NS_CHAIN
        AIOURING_COUNTERS
        AIOURING_BLOCKS_MAX
        AIOURING_TASK_NONE
        AIOURING_TASK_ECHO
        AIOURING_TASK_DISCARD
        AIOURING_TASK_RELAY
        AIOURING_TASK_COPY
        AIOURING_TASK_SEND_FILE
        AIOURING_WOKEN_MAIL_FULL
        AIOURING_TASK_READ_FAILED
        AIOURING_LINK_HARD
        AIOURING_LINK_SHORT
        AIOURING_LINK_TIMER
        AIOURING_LINK_WHOLE
        AIOURING_LINK_ENDED
        AIOURING_LINK_FAILED
        AIOURING_LINK_ANSWERED
        AIOURING_LINK_REQUEST
        AIOURING_LINK_OPERATION
        AIOURING_LINK_INLINE
        AIOURING_LINK_PYTHON

    struct aiouring_control:
        uint32_t abi, phase, wait, closing
        uint64_t deadline_ns, region_address
        uint32_t mail_head, mail_tail, woken, fault
        int32_t fault_value
        uint32_t tasks_live
        uint64_t timer_deadline_ns, hold_until_ns
        uint32_t held_buffers, answers_in_flight
        uint64_t answered, passed_on
        uint64_t steps, cqes, consumed, held, woke, submitted
        uint64_t counters[64]

    struct aiouring_layout:
        uint32_t abi, rings_bytes, sqes_bytes, region_bytes
        uint32_t sq_head, sq_tail, sq_entries
        uint32_t cq_head, cq_tail, cqes, cq_entries

    struct aiouring_block:
        uint64_t address, offset
        uint32_t size, wanted, filled, done, in_flight
        int32_t fd_in, fd_out

    struct aiouring_task:
        uint64_t owner
        uint32_t kind, flags, in_flight
        int32_t error
        uint32_t blocks, finished
        uint64_t next_offset, end_offset
        int64_t shift
        uint64_t idle_ns, last_ns
        uint64_t bytes[2]
        uint64_t messages[2]
        aiouring_block block[8]

    struct aiouring_link:
        uint64_t sqe[8]
        uint64_t operation[6]
        int64_t result, length_add, offset_add
        uint32_t base, wanted, limit
        uint8_t flags, action, length_from, offset_from
        int32_t error

    struct aiouring_chain:
        uint64_t owner
        uint32_t live, flags, in_flight, links, at, begun, failed
        int32_t error
        aiouring_link link[16]

    struct aiouring_watch:
        uint64_t owner
        uint32_t kind, waiting
        uint32_t max_batch, size
        uint64_t max_delay_ns, max_frame, delimiter
        uint32_t little_endian, frames
        uint64_t missing, value
        uint32_t filled, answers, first_answer
        uint64_t length, scratch
        int32_t fd
        uint32_t of_python, busy, sending, rest
        int32_t rest_from

    struct aiouring_answer:
        uint32_t prefix_bytes, body_bytes
        uint8_t prefix[256]
        uint8_t body[4096]

    struct aiouring_hook:
        uint8_t *memory
        uint8_t *rings
        io_uring_sqe *sqes
        const aiouring_layout *layout
        uint32_t sq_tail
        void *engine
        int (*submit)(aiouring_hook *hook) noexcept nogil

    struct aiouring_inline_program:
        uint32_t abi
        void (*step)(aiouring_hook *hook) noexcept nogil


cdef class Region:
    cdef uint8_t *memory
    cdef readonly size_t size
    cdef aiouring_control *control
    cdef uint32_t fork_generation               # see _ring.fork_generation
    cdef bint registered                        # with the ring, which it is once and for all
    cdef uint32_t free_tasks[1024]              # a stack
    cdef uint32_t free_task_count
    cdef uint16_t free_chains[256]              # a stack
    cdef readonly uint32_t free_chain_count
    cdef uint16_t free_watches[1024]            # a stack
    cdef uint32_t free_watch_count
    cdef uint64_t taken_answers                 # a bit for each

    cdef aiouring_task *task(self, uint32_t index) noexcept nogil
    cdef aiouring_chain *chain(self, uint32_t index) noexcept nogil
    cdef aiouring_watch *take_watch(self) noexcept          # NULL: all are taken
    cdef void give_watch_back(self, aiouring_watch *watch) noexcept
    cdef uint32_t watch_index(self, aiouring_watch *watch) noexcept nogil
    cdef size_t user_bytes(self) noexcept nogil
    cdef int32_t take_answers(self, uint32_t count) noexcept        # the first of so many in a row, -1: there are none
    cdef void give_answers_back(self, uint32_t first, uint32_t count) noexcept
    cdef aiouring_answer *answer(self, uint32_t index) noexcept nogil


cdef class HookEngine(RingHook):
    cdef Ring ring
    cdef readonly Region region
    cdef aiouring_control *control
    cdef aiouring_layout layout
    cdef readonly object name                   # "inline", "kernel"
    cdef readonly bint has_tasks                # its program includes tasks.h
    cdef readonly bint has_chains               # and chain.h
    cdef bint through                           # it is detached: what the mailbox still has comes first, then completions go straight to the loop
    cdef bint given_up                          # detached, by its user or because it failed: it does not follow the loop to another ring
    cdef bint caretaker                         # it only ends the tasks of a hook that failed
    cdef HookEngine successor                   # this hook's engine on the ring that the loop has gone on with
    cdef int broken                             # -errno of an enter that the kernel's program broke

    cdef int enter_program(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil
    cdef int describe_ring(self) except -1
    cdef HookEngine for_ring(self, Ring ring)
    cdef detach_program(self)


cdef class InlineEngine(HookEngine):
    cdef aiouring_hook hook
    cdef const aiouring_inline_program *program
    cdef object library                         # keeps a shared library loaded

    cdef void step(self) noexcept nogil
    cdef int make_room(self) noexcept nogil


cdef class KernelEngine(HookEngine):
    cdef object load                            # see attach_kernel()
    cdef object loaded                          # the object in the kernel; its detach() and close() are called here


# The engine that is attached to a loop's ring, or None.
cpdef object engine_of(object loop)


cdef class HookTask(SocketOperation):
    cdef HookEngine engine
    cdef int32_t index                          # of its slot, -1: none
    cdef uint32_t kind
    cdef void *memory
    cdef size_t block_bytes
    cdef uint32_t blocks
    cdef int owned[2]                           # descriptors that are closed at its end; -1: none
    cdef bint duplicates                        # `fds` are the caller's: start() takes copies, which are then `owned`
    cdef object first                           # bytes that a relay's sides send before anything else
    cdef int fds[2]
    cdef readonly uint64_t moved                # bytes, when it is over
    cdef readonly bint source_failed            # its error is the file's that was read
    cdef int64_t offset, target_offset, length
    cdef uint64_t idle_ns

    @staticmethod
    cdef int task_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef int fill(self, aiouring_task *task) except -1
    cdef object result_of(self, aiouring_task *task)
    cdef void close_owned(self) noexcept


cdef enum:
    CHAIN_START = 1                             # aiouring_chain_op of chain.h
    CHAIN_CANCEL = 2
    CHAIN_LINK = 3


# A NOP that tells the program something of a chain, which counts it as in flight.
cdef void prep_chain_nop(Region region, uint32_t index, uint32_t op, io_uring_sqe *sqe) noexcept
