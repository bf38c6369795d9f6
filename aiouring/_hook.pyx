"""Loop hooks: a program that sees each completion before the loop does, in the kernel or right after io_uring_enter, and its tasks.

Used by `aiouring.bpf` (attach, detach, counters), `tasks` (relay, copy ...) and `_chain`. `_ring` calls the engines through RingHook. Calls
`_sockop`, `_operation`, `_loop`, `_op`, `_ring`, `_sharedlib`.

Both engines run the same C (bpf_progs): the driver there gives each CQE to the program, puts those for Python into the mailbox, and says whether
Python has to wake. The inline engine calls it after each enter and goes round, without the GIL and without returning, until something wakes. The
kernel engine only writes down what the enter is for (`wait`, `deadline_ns`): the program in the kernel submits, waits and sets the timer.

What the loop reaps comes from the mailbox; nothing else of the loop knows of the hook. A silent send's success is settled when mailbox and CQ are
empty, as without one.

Who owns what: the Region is the ring's and lasts as long as it does, since the kernel keeps its pages; an engine is the ring's while it is attached.
A HookTask owns its descriptors and its memory until the program has told its end, which is when nothing of it is in flight any more.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EAGAIN, EBUSY, EFAULT, EINTR, EINVAL
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close as posix_close

from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring._operation cimport Operation
from aiouring._ring cimport Ring, RingHook, fork_generation
from aiouring._sharedlib cimport SharedLibrary
from aiouring._sockop cimport SocketOperation
from aiouring.uapi cimport *

import asyncio
import os

cdef extern from "<sys/mman.h>" nogil:
    int MADV_WIPEONFORK
    int madvise(void *address, size_t length, int advice)

cdef extern from *:
    """
    #include "aiouring/inline.h"
    extern const struct aiouring_inline_program aiouring_standard, aiouring_wake;
    """
    const aiouring_inline_program aiouring_standard
    const aiouring_inline_program aiouring_wake

cdef enum:
    REGION_BYTES_DEFAULT = AIOURING_BIG_REGION_BYTES
    REGION_BYTES_MAX = 256 * 1024 * 1024        # the verifier's bound for fixed offsets is 2^29
    OP_START = 1                                # aiouring_task_op of tasks.h
    OP_CANCEL = 2
    RELAY_BYTES = 64 * 1024
    COPY_BYTES = 256 * 1024
    SEND_FILE_BYTES = 128 * 1024

RELAY_BYTES_DEFAULT = RELAY_BYTES
SHIPPED = {"standard": "tasks, chains, watched connections, and everything else to Python", "wake": "everything to Python"}


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef class Region:
    """The memory that a program and the loop share: control block, mailbox, tasks, and what is left for the program."""

    def __cinit__(self, size_t size=REGION_BYTES_DEFAULT):
        cdef void *memory
        cdef uint32_t i
        if not AIOURING_USER_OFFSET <= size <= REGION_BYTES_MAX or size % 4096:
            raise ValueError(f"a hook's memory has from {AIOURING_USER_OFFSET:,} to {REGION_BYTES_MAX:,} bytes in whole pages, not {size:,}")
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED:
            raise MemoryError(f"no memory for a hook's region of {size:,} bytes")
        # The kernel has these pages: a fork must not give the parent others. The child has zeros there, an empty mailbox: it may look at them and
        # unmap them, as no page of a range that is left out of it (DONTFORK).
        madvise(memory, size, MADV_WIPEONFORK)
        self.memory = <uint8_t *>memory
        self.size = size
        self.fork_generation = fork_generation()
        self.control = <aiouring_control *>memory
        self.control.abi = AIOURING_HOOK_ABI
        self.control.region_address = <uint64_t>memory
        for i in range(AIOURING_TASKS_MAX):
            self.free_tasks[i] = AIOURING_TASKS_MAX - 1 - i
        self.free_task_count = AIOURING_TASKS_MAX
        for i in range(AIOURING_CHAINS_MAX):
            self.free_chains[i] = <uint16_t>(AIOURING_CHAINS_MAX - 1 - i)
        self.free_chain_count = AIOURING_CHAINS_MAX
        for i in range(AIOURING_WATCHES_MAX):
            self.free_watches[i] = <uint16_t>(AIOURING_WATCHES_MAX - 1 - i)
        self.free_watch_count = AIOURING_WATCHES_MAX

    cdef aiouring_task *task(self, uint32_t index) noexcept nogil:
        return <aiouring_task *>(self.memory + AIOURING_TASKS_OFFSET + <size_t>index * AIOURING_TASK_BYTES)

    cdef aiouring_chain *chain(self, uint32_t index) noexcept nogil:
        return <aiouring_chain *>(self.memory + AIOURING_CHAINS_OFFSET + <size_t>index * AIOURING_CHAIN_BYTES)

    cdef aiouring_watch *take_watch(self) noexcept:
        if self.free_watch_count == 0:
            return NULL
        self.free_watch_count -= 1
        return <aiouring_watch *>(self.memory + AIOURING_WATCHES_OFFSET
                                  + <size_t>self.free_watches[self.free_watch_count] * AIOURING_WATCH_BYTES)

    cdef void give_watch_back(self, aiouring_watch *watch) noexcept:
        self.free_watches[self.free_watch_count] = <uint16_t>self.watch_index(watch)
        self.free_watch_count += 1

    cdef uint32_t watch_index(self, aiouring_watch *watch) noexcept nogil:
        return <uint32_t>((<uint8_t *>watch - self.memory - AIOURING_WATCHES_OFFSET) // AIOURING_WATCH_BYTES)

    cdef int32_t take_answers(self, uint32_t count) noexcept:
        cdef uint64_t wanted = (<uint64_t>1 << count) - 1
        cdef uint32_t first
        for first in range(AIOURING_ANSWERS_MAX - count + 1):
            if not self.taken_answers & wanted << first:
                self.taken_answers |= wanted << first
                return <int32_t>first
        return -1

    cdef void give_answers_back(self, uint32_t first, uint32_t count) noexcept:
        self.taken_answers &= ~(((<uint64_t>1 << count) - 1) << first)

    cdef aiouring_answer *answer(self, uint32_t index) noexcept nogil:
        return <aiouring_answer *>(self.memory + self.size - AIOURING_END_BYTES + <size_t>index * AIOURING_ANSWER_BYTES)

    cdef size_t user_bytes(self) noexcept nogil:
        """What is the program's own, from AIOURING_USER_OFFSET on."""
        return self.size - AIOURING_USER_OFFSET - (AIOURING_END_BYTES if self.size >= AIOURING_BIG_REGION_BYTES else 0)

    def __dealloc__(self):
        if self.memory != NULL and self.fork_generation == fork_generation():      # in a child there may be something else by now
            munmap(self.memory, self.size)


cdef inline void prep_task_nop(io_uring_sqe *sqe, uint32_t op, uint32_t index) noexcept:
    sqe.opcode = IORING_OP_NOP
    sqe.user_data = <uint64_t>AIOURING_NS_TASK << 56 | <uint64_t>op << 48 | index


cdef void cancel_task(Region region, uint32_t index, io_uring_sqe *sqe) noexcept:
    """Ask for its end by this SQE, which is counted: the slot must not be another task's when the program sees it."""
    cdef aiouring_task *task = region.task(index)
    if task.kind == AIOURING_TASK_NONE:
        return                  # it has ended, as Python will hear. The SQE is a NOP of nobody's
    task.in_flight += 1
    prep_task_nop(sqe, OP_CANCEL, index)


cdef void prep_chain_nop(Region region, uint32_t index, uint32_t op, io_uring_sqe *sqe) noexcept:
    cdef aiouring_chain *chain = region.chain(index)
    sqe.opcode = IORING_OP_NOP
    if not chain.live:
        return                  # as above
    chain.in_flight += 1
    sqe.user_data = <uint64_t>AIOURING_NS_CHAIN << 56 | <uint64_t>op << 48 | index


cdef class HookEngine(RingHook):
    """What both engines have in common. Made by attach()."""

    cdef int enter_program(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        return -EINVAL

    cdef int enter(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        if self.caretaker and self.control.tasks_live == 0:
            self.through = True
        if self.through:
            return self.ring.enter_kernel(wait_nr, timeout_ns)
        self.control.woken = 0
        self.control.hold_until_ns = 0
        if self.control.mail_head == self.control.mail_tail:
            self.control.held_buffers = 0           # the loop has given them back
        return self.enter_program(wait_nr, timeout_ns)

    cdef bint ready(self) noexcept nogil:
        return self.control.mail_head != aiouring_load_acquire(&self.control.mail_tail)

    cdef uint32_t reap(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil:
        cdef io_uring_cqe *mail = <io_uring_cqe *>(self.region.memory + AIOURING_MAIL_OFFSET)
        cdef uint32_t head = self.control.mail_head
        cdef uint32_t count = aiouring_load_acquire(&self.control.mail_tail) - head
        cdef uint32_t i
        if count > batch_max:
            count = batch_max
        for i in range(count):
            batch[i] = mail[(head + i) & (AIOURING_MAIL_ENTRIES - 1)]
        aiouring_store_release(&self.control.mail_head, head + count)
        if count == 0 and self.through:
            return self.ring.reap_queue(batch, batch_max)
        return count

    cdef uint32_t reaps_max(self) noexcept nogil:
        return AIOURING_MAIL_ENTRIES

    cdef void finish_sends(self) noexcept nogil:
        # An answer goes out, or does not, while it is submitted, so this goes round once or twice; the bound is for a peer that never stops asking.
        cdef int tries = 100
        while self.control.answers_in_flight and tries and not self.through:
            self.enter(0, 0)
            tries -= 1

    cdef void begin_close(self) noexcept nogil:
        self.control.closing = 1

    cdef int fault(self) noexcept nogil:
        if self.through:
            return 0
        if self.broken:
            return self.broken
        return self.control.fault_value if self.control.fault else 0

    cdef int describe_ring(self) except -1:
        cdef Ring ring = self.ring
        self.layout.abi = AIOURING_HOOK_ABI
        self.layout.rings_bytes = ring.cq_offsets.cqes + ring.cq_entries * sizeof(io_uring_cqe)
        self.layout.sqes_bytes = ring.sq_entries * sizeof(io_uring_sqe)
        self.layout.region_bytes = <uint32_t>self.region.size
        self.layout.sq_head = ring.sq_offsets.head
        self.layout.sq_tail = ring.sq_offsets.tail
        self.layout.sq_entries = ring.sq_entries
        self.layout.cq_head = ring.cq_offsets.head
        self.layout.cq_tail = ring.cq_offsets.tail
        self.layout.cqes = ring.cq_offsets.cqes
        self.layout.cq_entries = ring.cq_entries
        return 0

    cdef detach_program(self):
        pass

    cdef move(self, Ring ring):
        """On the same region. Completions that the mailbox still had were reaped before."""
        ring.region = self.region
        self.region.registered = False
        if not self.given_up and not self.caretaker:
            ring.hook = self.successor = self.for_ring(ring)

    cdef HookEngine for_ring(self, Ring ring):
        """The same program for another ring."""

    cdef end(self):
        self.through = True
        self.detach_program()

    cdef give_up(self):
        """Tasks that run are ended by the program that knows them, in the process."""
        cdef InlineEngine engine
        cdef uint32_t index
        cdef io_uring_sqe *sqe
        cdef int rc = 0
        self.through = self.given_up = True
        self.detach_program()
        if self.control.tasks_live or self.control.answers_in_flight:
            engine = make_inline(self.ring, self.region, &aiouring_standard, None)
            engine.caretaker = True
            engine.control.closing = 1
            self.ring.hook = engine
            for index in range(AIOURING_TASKS_MAX + AIOURING_CHAINS_MAX):
                if index < AIOURING_TASKS_MAX and self.region.task(index).kind == AIOURING_TASK_NONE:
                    continue
                if index >= AIOURING_TASKS_MAX and not self.region.chain(index - AIOURING_TASKS_MAX).live:
                    continue
                sqe = self.ring.next_sqe()
                while sqe == NULL and (rc >= 0 or rc == -EINTR or rc == -EAGAIN or rc == -EBUSY):
                    with nogil:
                        rc = engine.enter(0, 0)
                    sqe = self.ring.next_sqe()
                if sqe == NULL:
                    continue
                if index < AIOURING_TASKS_MAX:
                    cancel_task(self.region, index, sqe)
                else:
                    prep_chain_nop(self.region, index - AIOURING_TASKS_MAX, CHAIN_CANCEL, sqe)

    # -- for aiouring.bpf -----------------------------------------------------------------------------------------------------------

    def detach(self):
        """Let completions go straight to the loop from now on. What the mailbox has is delivered first."""
        if self.successor is not None:
            self.successor.detach()
        elif not self.through:
            if self.control.tasks_live:
                raise RuntimeError(f"{self.control.tasks_live} tasks and chains run in this hook: await or cancel them before it is detached")
            self.finish_sends()
            self.through = self.given_up = True
            self.detach_program()

    @property
    def attached(self):
        """Whether it sees completions."""
        return self.successor.attached if self.successor is not None else not self.through

    def counters(self):
        """The program's own counters, by number."""
        return [self.control.counters[i] for i in range(AIOURING_COUNTERS)]

    def stats(self):
        """Steps of the program, completions by verdict, tasks that run, and requests that were answered and passed on, since the region was made."""
        return {
            "steps": self.control.steps,
            "cqes": self.control.cqes,
            "consumed": self.control.consumed,
            "held": self.control.held,
            "woke": self.control.woke,
            "tasks": self.control.tasks_live,
            "answered": self.control.answered,
            "passed_on": self.control.passed_on,
        }

    def memory(self):
        """The part of the region that is the program's own, as a writable memoryview."""
        return memoryview(_RegionBuffer.__new__(_RegionBuffer, self.region))


@cython.final
cdef class _RegionBuffer:
    """Exports the program's part of a region and keeps the region."""

    cdef Region region
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __cinit__(self, Region region not None):
        self.region = region
        self.shape[0] = region.user_bytes()
        self.strides[0] = 1

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        buffer.buf = self.region.memory + AIOURING_USER_OFFSET
        buffer.obj = self
        buffer.len = self.shape[0]
        buffer.itemsize = 1
        buffer.readonly = 0
        buffer.format = "B"
        buffer.ndim = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL

    def __releasebuffer__(self, Py_buffer *buffer):
        pass


cdef int inline_submit(aiouring_hook *hook) noexcept nogil:
    return (<InlineEngine>hook.engine).make_room()


@cython.final
cdef class _Library(SharedLibrary):
    """One with a program."""

    cdef const aiouring_inline_program *program
    cdef bint has_tasks, has_chains

    def __cinit__(self, path):
        with open(path, "rb") as file:
            contents = file.read()
        self.load(path, contents, "a hook program")
        self.has_tasks = self.find(b"aiouring_has_tasks") != NULL
        self.has_chains = self.find(b"aiouring_has_chains") != NULL
        self.program = <const aiouring_inline_program *>self.find(b"aiouring_program")
        if self.program == NULL:
            raise OSError(EINVAL, "the library has no hook program (AIOURING_HOOK of aiouring/hook.h makes it)", path)
        if self.program.abi != AIOURING_HOOK_ABI:
            raise OSError(EINVAL, f"the program was built for version {self.program.abi} of aiouring/hook.h, and this is {AIOURING_HOOK_ABI}: "
                                  "build it again with `python -m aiouring build-hook`", path)


@cython.final
cdef class InlineEngine(HookEngine):
    """The program runs in the process, right after each enter."""

    def __cinit__(self):
        self.name = "inline"

    cdef void step(self) noexcept nogil:
        self.hook.sq_tail = self.ring.sq_tail
        self.program.step(&self.hook)
        self.ring.sq_tail = self.hook.sq_tail

    cdef int make_room(self) noexcept nogil:
        cdef int rc
        self.ring.sq_tail = self.hook.sq_tail
        rc = self.ring.enter_kernel(0, 0)
        return rc if rc < 0 else 0

    cdef int enter_program(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        cdef uint64_t deadline_ns = 0, now, until
        cdef int rc
        if wait_nr and timeout_ns > 0:
            deadline_ns = now_ns() + <uint64_t>timeout_ns
        while True:
            rc = self.ring.enter_kernel(wait_nr, timeout_ns)
            self.step()
            if self.control.woken or wait_nr == 0:
                return rc
            if rc < 0 and rc != -EAGAIN and rc != -EBUSY:
                return rc
            until = deadline_ns
            if self.control.hold_until_ns and (until == 0 or self.control.hold_until_ns < until):
                until = self.control.hold_until_ns
            if until:
                now = now_ns()
                if now >= until:
                    return -ETIME
                timeout_ns = <int64_t>(until - now)

    cdef HookEngine for_ring(self, Ring ring):
        return make_inline(ring, self.region, self.program, self.library)

    cdef detach_program(self):
        if self.given_up:           # for good; a loop that moves takes it to the next ring
            self.program = NULL
            self.library = None


@cython.final
cdef class KernelEngine(HookEngine):
    """The program runs in the kernel's completion loop, inside enter."""

    def __cinit__(self):
        self.name = "kernel"

    cdef int enter_program(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        cdef uint64_t steps = self.control.steps
        cdef int rc
        self.control.phase = 0
        self.control.wait = wait_nr != 0
        self.control.deadline_ns = now_ns() + <uint64_t>timeout_ns if wait_nr and timeout_ns > 0 else 0
        # The program waits, and the kernel looks at no time-out then. Where somebody has detached it, the kernel waits, and must not for ever.
        rc = self.ring.enter_kernel(wait_nr, timeout_ns)
        self.ring.sq_tail = aiouring_load_acquire(self.ring.sq_ktail)
        if rc == -EINVAL or rc == -EFAULT:
            self.broken = rc        # it returned something else than continue or stop, or it is gone
        elif self.control.steps == steps and (rc >= 0 or rc == -ETIME or rc == -EINTR):
            self.broken = -EFAULT   # it is gone since before this enter
        return rc

    cdef HookEngine for_ring(self, Ring ring):
        return make_kernel(ring, self.region, self.load)        # a program is loaded for one ring

    cdef detach_program(self):
        loaded, self.loaded = self.loaded, None
        if loaded is not None:
            loaded.detach()
            loaded.close()


cdef InlineEngine make_inline(Ring ring, Region region, const aiouring_inline_program *program, library):
    cdef InlineEngine engine = InlineEngine.__new__(InlineEngine)
    begin_engine(engine, ring, region)
    engine.program = program
    engine.library = library
    engine.has_tasks = program == &aiouring_standard or library is not None and (<_Library>library).has_tasks
    engine.has_chains = program == &aiouring_standard or library is not None and (<_Library>library).has_chains
    engine.hook.memory = region.memory
    engine.hook.rings = <uint8_t *>ring.rings_memory
    engine.hook.sqes = ring.sqes
    engine.hook.layout = &engine.layout
    engine.hook.engine = <void *>engine
    engine.hook.submit = inline_submit
    return engine


cdef begin_engine(HookEngine engine, Ring ring, Region region):
    engine.ring = ring
    engine.region = region
    engine.control = region.control
    engine.control.fault = 0
    engine.control.closing = 0
    engine.describe_ring()
    ring.hook_epoch += 1
    memset(region.memory + AIOURING_WATCH_MAP_OFFSET, 0, AIOURING_WATCH_MAP_ENTRIES * sizeof(uint16_t))


cdef LoopCore free_loop(object loop, object memory_bytes):
    """The loop, which has no hook, with a region."""
    cdef LoopCore core = loop
    cdef HookEngine engine
    core.check_open()
    if core.ring_thread == 0 or core.ops.issuer == 0:
        raise RuntimeError("a hook is attached while its loop runs")
    if core.ring.hook is not None:
        engine = core.ring.hook
        if engine.caretaker and engine.control.tasks_live:
            raise RuntimeError("tasks of this event loop's hook, which failed, have not ended yet: await them before another one is attached")
        if not engine.through and not engine.caretaker:
            raise RuntimeError("this event loop has a hook already, Hook.current(): detach it first")
    if core.ring.region is None:
        core.ring.region = Region(REGION_BYTES_DEFAULT if memory_bytes is None else memory_bytes)
    elif memory_bytes is not None and (<Region>core.ring.region).size != memory_bytes:
        raise ValueError(f"this event loop's hooks have {(<Region>core.ring.region).size:,} bytes of memory, as the first one asked: "
                         "the kernel takes such memory once a ring")
    return core


def attach_inline(loop, program, memory_bytes=None):
    """Attach a program that ships (by name) or one of a shared library (by path) for the inline engine. Returns the engine."""
    cdef LoopCore core = free_loop(loop, memory_bytes)
    cdef _Library library = None
    cdef const aiouring_inline_program *found
    if program == "standard":
        found = &aiouring_standard
    elif program == "wake":
        found = &aiouring_wake
    else:
        library = _Library(program)
        found = library.program
    engine = make_inline(core.ring, core.ring.region, found, library)
    core.ring.hook = engine
    return engine


def attach_kernel(loop, load, memory_bytes=None):
    """Attach a program in the kernel. load(ring_fd, layout) loads it with these constants and attaches it. Returns the engine."""
    cdef LoopCore core = free_loop(loop, memory_bytes)
    engine = make_kernel(core.ring, core.ring.region, load)
    core.ring.hook = engine
    return engine


cdef KernelEngine make_kernel(Ring ring, Region region, load):
    cdef KernelEngine engine = KernelEngine.__new__(KernelEngine)
    cdef io_uring_region_desc description
    cdef io_uring_mem_region_reg registration
    cdef int rc
    if not region.registered:
        memset(&description, 0, sizeof(description))
        memset(&registration, 0, sizeof(registration))
        description.user_addr = <uint64_t>region.memory
        description.size = region.size
        description.flags = IORING_MEM_REGION_TYPE_USER
        registration.region_uptr = <uint64_t>&description
        rc = ring.register(IORING_REGISTER_MEM_REGION, &registration, 1)
        if rc < 0:
            raise OSError(-rc, f"the kernel did not take {region.size:,} bytes of memory for hooks: {os.strerror(-rc)} "
                               "(ulimit -l bounds it where CAP_IPC_LOCK is missing)")
        region.registered = True
    begin_engine(engine, ring, region)
    region.control.timer_deadline_ns = 0
    engine.load = load
    engine.loaded = load(ring.fd, (<char *>&engine.layout)[:sizeof(aiouring_layout)])
    engine.has_tasks = "aiouring_has_tasks" in engine.loaded.globals
    engine.has_chains = "aiouring_has_chains" in engine.loaded.globals
    return engine


cpdef object engine_of(object loop):
    """The engine that is attached to a loop's ring, or None."""
    cdef LoopCore core = loop
    cdef HookEngine engine = core.ring.hook
    return None if engine is None or engine.through or engine.caretaker else engine


def check_task(HookEngine engine not None, str name not None):
    """Raise what a task that begins now would raise, for who has something to do before it begins."""
    if not engine.has_tasks:
        raise RuntimeError(f"{name}() needs a hook with tasks, and the program that is attached to this event loop has none: "
                           "detach it, or build it with aiouring/tasks.h")
    if engine.region.free_task_count == 0:
        raise OSError(EBUSY, f"{AIOURING_TASKS_MAX} tasks run in this event loop's hook, which is its limit")


def takes_task(HookEngine engine not None):
    """Whether a task could begin in it."""
    return engine.has_tasks and engine.region.free_task_count != 0


# -- tasks -----------------------------------------------------------------------------------------------------------------------------------


@cython.final
cdef class HookTask(SocketOperation):
    """One task of the standard program: started, awaited, and told its end by one completion."""

    cdef str name(self):
        return {AIOURING_TASK_ECHO: "echo", AIOURING_TASK_DISCARD: "discard", AIOURING_TASK_RELAY: "relay",
                AIOURING_TASK_COPY: "copy", AIOURING_TASK_SEND_FILE: "send_file"}.get(self.kind, "task")

    def __cinit__(self):
        self.index = self.owned[0] = self.owned[1] = -1

    def __repr__(self):
        return Operation.__repr__(self)

    cdef int start(self) except -1:
        cdef int i
        self.loop = <LoopCore>asyncio.get_running_loop()
        if self.sock is not None:
            self.attach()
            self.fds[1] = self.fd
        if self.engine.through or self.loop.ring.hook is not self.engine:
            raise RuntimeError(f"{self.name()}() was made for a hook that is detached by now, or for another event loop")
        check_task(self.engine, self.name())
        if self.duplicates:
            for i in range(2):
                self.fds[i] = self.owned[i] = os.dup(self.fds[i])
        return self.submit()

    cdef int submit(self) except -1:
        cdef Region region = self.engine.region
        cdef aiouring_task *task
        cdef io_uring_sqe *sqe
        self.memory = PyMem_RawMalloc(self.block_bytes * self.blocks)
        if self.memory == NULL:
            raise MemoryError(f"no memory for {self.name()}()")
        sqe = self.loop.ops.begin(self, HookTask.task_complete, 0)
        region.free_task_count -= 1
        self.index = <int32_t>region.free_tasks[region.free_task_count]
        task = region.task(self.index)
        memset(task, 0, sizeof(aiouring_task))
        self.fill(task)
        task.owner = self.request = sqe.user_data
        task.in_flight = 1
        region.control.tasks_live += 1
        prep_task_nop(sqe, OP_START, self.index)
        return 0

    cdef int fill(self, aiouring_task *task) except -1:
        cdef uint32_t i
        task.kind = self.kind
        task.blocks = self.blocks
        task.idle_ns = self.idle_ns
        task.next_offset = <uint64_t>self.offset
        task.end_offset = <uint64_t>-1 if self.length < 0 else <uint64_t>(self.offset + self.length)
        task.shift = self.target_offset - self.offset
        for i in range(self.blocks):
            task.block[i].address = <uint64_t>self.memory + i * self.block_bytes
            task.block[i].size = <uint32_t>self.block_bytes
            if self.kind == AIOURING_TASK_RELAY and i == 1:
                task.block[i].fd_in, task.block[i].fd_out = self.fds[1], self.fds[0]
            else:
                task.block[i].fd_in, task.block[i].fd_out = self.fds[0], self.fds[1]
            if self.first is not None and self.first[i]:
                task.block[i].filled = <uint32_t>len(<bytes>self.first[i])
                memcpy(<char *>self.memory + i * self.block_bytes, PyBytes_AS_STRING(self.first[i]), task.block[i].filled)
        self.first = None
        return 0

    @staticmethod
    cdef int task_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef HookTask self = <HookTask>owner
        cdef aiouring_task *task = self.engine.region.task(self.index)
        self.request = 0
        self.moved = task.bytes[0]
        self.source_failed = task.finished & AIOURING_TASK_READ_FAILED != 0 and self.kind != AIOURING_TASK_RELAY
        if task.kind != AIOURING_TASK_NONE:
            # Not the program's word: the ring was replaced, with all that was in flight, because another thread runs the loop.
            task.kind = AIOURING_TASK_NONE
            task.error = -ECANCELED
            self.engine.control.tasks_live -= 1
        try:
            if task.error == -ECANCELED and self.socket_closed and self.wanted():
                self.release()          # the descriptors first, so that the peer sees the end
                self.again()            # as without a hook: it waits until it is cancelled
            elif task.error == 0 or (task.error == -ECANCELED and self.cancel_requested):
                self.finish(self.result_of(task))
            elif task.error == -ECANCELED:
                self.fail(OSError(ECANCELED, f"{self.name()}() ended with its ring: the event loop moved to another thread, or its hook failed"))
            else:
                self.fail(os_error(task.error))
        except BaseException as exc:
            self.fail(exc)
            raise
        return 0

    cdef object result_of(self, aiouring_task *task):
        if self.kind == AIOURING_TASK_RELAY:
            return (task.bytes[0], task.bytes[1])
        return task.bytes[0]

    def progress(self):
        """Bytes and messages so far, for each direction: (bytes, bytes, messages, messages). Read from shared memory."""
        cdef aiouring_task *task
        if self.index < 0:
            return (0, 0, 0, 0)
        task = self.engine.region.task(self.index)
        return (task.bytes[0], task.bytes[1], task.messages[0], task.messages[1])

    cdef int stop(self) except -1:
        cancel_task(self.engine.region, <uint32_t>self.index, self.loop.ops.sqe_or_flush())
        return 0

    cdef void release(self) noexcept:
        cdef Region region
        if self.index >= 0:
            region = self.engine.region
            region.free_tasks[region.free_task_count] = self.index
            region.free_task_count += 1
            self.index = -1
        PyMem_RawFree(self.memory)
        self.memory = NULL
        self.close_owned()

    cdef void close_owned(self) noexcept:
        cdef int i
        for i in range(2):
            if self.owned[i] >= 0:
                posix_close(self.owned[i])
                self.owned[i] = -1

    def __dealloc__(self):
        PyMem_RawFree(self.memory)
        self.close_owned()


cdef HookTask new_task(HookEngine engine, uint32_t kind, uint32_t blocks, size_t block_bytes):
    cdef HookTask task = HookTask.__new__(HookTask)
    task.engine = engine
    task.kind = kind
    task.blocks = blocks
    task.block_bytes = block_bytes
    task.length = -1
    return task


def socket_task(HookEngine engine not None, str kind not None, list descriptors not None, *, block_bytes=RELAY_BYTES, idle_ns=0, first=None):
    """echo or discard on one descriptor, relay between two. The descriptors belong to the task from now on: it closes them at its end.
    `first`: for each direction of a relay, bytes that go before anything else."""
    cdef HookTask task
    if kind == "relay":
        task = new_task(engine, AIOURING_TASK_RELAY, 2, block_bytes)
        task.fds[0], task.fds[1] = descriptors
    else:
        task = new_task(engine, AIOURING_TASK_ECHO if kind == "echo" else AIOURING_TASK_DISCARD, 1, block_bytes)
        task.fds[0] = task.fds[1] = descriptors[0]
    task.idle_ns = idle_ns
    task.first = first
    for i, fd in enumerate(descriptors):        # when nothing can fail any more
        task.owned[i] = fd
    return task


def copy_task(HookEngine engine not None, int src_fd, int dst_fd, int64_t offset, int64_t target_offset, int64_t count, uint32_t depth,
              size_t block_bytes=COPY_BYTES):
    """Copy `count` bytes (-1: to the end), `depth` blocks at a time. The descriptors stay the caller's: the task works on copies, since it begins
    requests by number as it goes on, and a number may be another file's when the caller closed it meanwhile."""
    cdef HookTask task = new_task(engine, AIOURING_TASK_COPY, depth, block_bytes)
    task.fds[0], task.fds[1] = src_fd, dst_fd
    task.offset, task.target_offset, task.length = offset, target_offset, count
    task.duplicates = True
    return task


def send_file_task(HookEngine engine not None, sock, int file_fd, int64_t offset, int64_t count, size_t block_bytes=SEND_FILE_BYTES):
    """Send `count` bytes of a file (-1: to its end) to a stream socket. Both stay the caller's, as with copy_task(). Who closes the socket meanwhile
    ends the sending, as that of every sock_* call."""
    cdef HookTask task = new_task(engine, AIOURING_TASK_SEND_FILE, 1, block_bytes)
    task.sock = sock
    task.fds[0] = file_fd
    task.offset, task.length = offset, count
    task.duplicates = True
    return task
