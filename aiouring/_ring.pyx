"""The ring: the submission and completion queue of one io_uring, its provided-buffer rings and its registered files.

Used by `_op` (which fills SQEs) and `_loop` (which enters and reaps). Knows no asyncio and no request: what a CQE means is decided
above. Everything between two CQEs runs without the GIL and touches no Python object, but for take_bytes().

Who owns what: a Ring owns the descriptor, the mappings of its queues and its table of registered files (which keeps those files open,
whoever closes their descriptors), a BufferRing its buffers. Both free them in close() (the ring closes
its buffer rings' memory last, when the kernel can no longer write to it). The narrow seam (next_sqe, enter, reap) is made of virtual
methods: a test build can put faults under it, and a hook can sit between reap and dispatch.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EINVAL, ENOMEM, ENOSYS, EPERM, errno
from libc.string cimport memset
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)
from posix.unistd cimport close as posix_close

from aiouring.uapi cimport *

import os

from aiouring._errors import RingUnavailable

cdef extern from "aiouring_fork.h" nogil:
    uint32_t aiouring_fork_generation
    int aiouring_watch_forks()
    struct aiouring_inherited:
        pass
    aiouring_inherited *aiouring_note_ring(int *fd, void *queues, size_t queues_bytes, void *sqes, size_t sqes_bytes)
    void aiouring_forget_ring(aiouring_inherited *ring)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *addr, size_t length, int advice)
    int MADV_DONTFORK

cdef extern from "<sys/resource.h>" nogil:
    struct rlimit:
        unsigned long rlim_cur
    int RLIMIT_NOFILE
    int getrlimit(int resource, rlimit *limits)

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int pipe2(int ends[2], int flags)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef enum:
    FILE_TABLE_ENTRIES = 1024
    BUFFER_TABLE_ENTRIES = 64       # bits of taken_buffers

if aiouring_watch_forks() != 0:
    raise MemoryError("pthread_atfork failed")

# Without these flags the loop's assumptions do not hold: one thread issues and its completions are deferred to its own enters (6.1);
# a bad SQE completes with an error and does not stop the batch; a completion that waits is seen in the SQ's flags without a call.
cdef uint32_t NEEDED_FLAGS = (
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG
    | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED
)
NEEDED_FEATURES = {
    "SINGLE_MMAP": IORING_FEAT_SINGLE_MMAP,
    "NODROP": IORING_FEAT_NODROP,
    "EXT_ARG": IORING_FEAT_EXT_ARG,
    "CQE_SKIP": IORING_FEAT_CQE_SKIP,
}
NEEDED_OPS = {
    "NOP": IORING_OP_NOP,
    "POLL_ADD": IORING_OP_POLL_ADD,
    "SENDMSG": IORING_OP_SENDMSG,
    "RECVMSG": IORING_OP_RECVMSG,
    "ACCEPT": IORING_OP_ACCEPT,
    "ASYNC_CANCEL": IORING_OP_ASYNC_CANCEL,
    "CONNECT": IORING_OP_CONNECT,
    "READ": IORING_OP_READ,
    "WRITE": IORING_OP_WRITE,
    "SEND": IORING_OP_SEND,
    "RECV": IORING_OP_RECV,
}
# Worker threads of this thread's io-wq: requests that can only block (regular files), and those that wait without bound.
IOWQ_MAX_BOUNDED = 8
IOWQ_MAX_UNBOUNDED = 32


cdef uint32_t fork_generation() noexcept nogil:
    return aiouring_fork_generation


cdef io_uring_setup_refused(int error):
    """The exception for a refused io_uring_setup: what the kernel said, its likely cause, and the remedy."""
    if error == EPERM:
        disabled = _sysctl_io_uring_disabled()
        if disabled in ("1", "2"):
            return RingUnavailable(
                error, f"the sysctl kernel.io_uring_disabled is {disabled}",
                "set it to 0 (sysctl kernel.io_uring_disabled=0), or with 1 join the group kernel.io_uring_group")
        return RingUnavailable(
            error, "a seccomp filter denies io_uring (the default profiles of Docker and containerd do)",
            "allow the system calls io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile")
    if error == ENOSYS:
        return RingUnavailable(
            error, "this kernel has no io_uring, or a seccomp filter hides it",
            "use Linux 6.1 or newer with CONFIG_IO_URING, or allow the io_uring system calls in the seccomp profile")
    if error == ENOMEM:
        return RingUnavailable(
            error, "the kernel could not allocate or lock memory for the ring",
            "free memory, or raise RLIMIT_MEMLOCK (ulimit -l) and the cgroup's memory limit")
    if error == EINVAL:
        return RingUnavailable(
            error, "this kernel lacks SINGLE_ISSUER or DEFER_TASKRUN", "use Linux 6.1 or newer")
    return RingUnavailable(error, "io_uring_setup failed", "see the error code; file-descriptor limits (ulimit -n) are a common cause")


def _sysctl_io_uring_disabled():
    try:
        with open("/proc/sys/kernel/io_uring_disabled") as sysctl:
            return sysctl.read().strip()
    except OSError:
        return None


cdef class RingHook:
    cdef int enter(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        return -EINVAL

    cdef uint32_t reap(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil:
        return 0

    cdef bint ready(self) noexcept nogil:
        return False

    cdef void finish_sends(self) noexcept nogil:
        pass

    cdef void begin_close(self) noexcept nogil:
        pass

    cdef uint32_t reaps_max(self) noexcept nogil:
        return 0

    cdef int fault(self) noexcept nogil:
        return 0

    cdef give_up(self):
        pass

    cdef move(self, Ring ring):
        pass

    cdef end(self):
        pass


cdef class Ring:
    """One io_uring instance. Created disabled; the thread that runs the loop enables it and is from then on its only issuer."""

    def __cinit__(self, uint32_t sq_entries=1024, uint32_t cq_entries=8192):
        cdef io_uring_params params
        cdef uint32_t flags = NEEDED_FLAGS | IORING_SETUP_NO_SQARRAY
        self.fd = self.end_fd = -1
        self.fork_generation = aiouring_fork_generation
        while True:
            memset(&params, 0, sizeof(params))
            params.flags = flags
            params.cq_entries = cq_entries
            self.fd = <int>syscall(__NR_io_uring_setup, <unsigned int>sq_entries, &params)
            if self.fd >= 0:
                break
            error = errno
            if error == EINVAL and flags & IORING_SETUP_NO_SQARRAY:
                flags &= ~<uint32_t>IORING_SETUP_NO_SQARRAY     # 6.6; before it the kernel reads an index array
                continue
            raise io_uring_setup_refused(error)
        self.setup_flags = flags
        self.features = params.features
        self.sq_entries = params.sq_entries
        self.cq_entries = params.cq_entries
        self.enter_fd = self.fd
        self.map_queues(&params)
        self.probe()

    cdef map_queues(self, io_uring_params *params):
        cdef char *base
        cdef uint32_t *array
        cdef uint32_t i
        missing = [name for name, bit in NEEDED_FEATURES.items() if not params.features & bit]
        if missing:
            self.close()
            raise RingUnavailable(ENOSYS, "this kernel's io_uring lacks " + ", ".join(missing), "use Linux 6.1 or newer")
        self.rings_bytes = max(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                               params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe))
        self.sqes_bytes = params.sq_entries * sizeof(io_uring_sqe)
        base = <char *>mmap(NULL, self.rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.fd, IORING_OFF_SQ_RING)
        if <void *>base == MAP_FAILED:
            error = errno
            self.close()
            raise io_uring_setup_refused(error)
        self.rings_memory = base
        self.sq_offsets = params.sq_off
        self.cq_offsets = params.cq_off
        self.sqes = <io_uring_sqe *>mmap(NULL, self.sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.fd,
                                         IORING_OFF_SQES)
        if <void *>self.sqes == MAP_FAILED:
            error = errno
            self.sqes = NULL
            self.close()
            raise io_uring_setup_refused(error)
        self.sq_khead = <uint32_t *>(base + params.sq_off.head)
        self.sq_ktail = <uint32_t *>(base + params.sq_off.tail)
        self.sq_kflags = <uint32_t *>(base + params.sq_off.flags)
        self.sq_mask = params.sq_entries - 1
        self.sq_tail = self.sq_ktail[0]
        self.cq_khead = <uint32_t *>(base + params.cq_off.head)
        self.cq_ktail = <uint32_t *>(base + params.cq_off.tail)
        self.cqes = <io_uring_cqe *>(base + params.cq_off.cqes)
        self.cq_mask = params.cq_entries - 1
        if not self.setup_flags & IORING_SETUP_NO_SQARRAY:
            array = <uint32_t *>(base + params.sq_off.array)
            for i in range(params.sq_entries):
                array[i] = i
        self.inherited = aiouring_note_ring(&self.fd, self.rings_memory, self.rings_bytes, self.sqes, self.sqes_bytes)
        if self.inherited == NULL:
            self.close()
            raise MemoryError("no memory for a ring")

    cdef probe(self):
        cdef io_uring_probe probe
        cdef int rc
        memset(&probe, 0, sizeof(probe))
        rc = self.register(IORING_REGISTER_PROBE, &probe, 256)
        if rc < 0:
            self.close()
            raise io_uring_setup_refused(-rc)
        self.op_supported = bytes([bool(probe.ops[i].flags & IO_URING_OP_SUPPORTED) for i in range(probe.ops_len)])
        missing = [name for name, op in NEEDED_OPS.items() if not self.supports(op)]
        if missing:
            self.close()
            raise RingUnavailable(ENOSYS, "this kernel's io_uring lacks the operations " + ", ".join(missing), "use Linux 6.1 or newer")

    cpdef bint supports(self, int opcode):
        """Whether the running kernel has this opcode (REGISTER_PROBE's answer)."""
        return opcode < len(self.op_supported) and self.op_supported[opcode]

    cdef bint foreign_process(self) noexcept nogil:
        return self.fork_generation != aiouring_fork_generation

    # -- the seam -----------------------------------------------------------------------------------------------------------------

    cdef io_uring_sqe *next_sqe(self) noexcept nogil:
        cdef io_uring_sqe *sqe
        if self.sq_tail - aiouring_load_acquire(self.sq_khead) >= self.sq_entries:
            return NULL
        sqe = &self.sqes[self.sq_tail & self.sq_mask]
        memset(sqe, 0, sizeof(io_uring_sqe))
        self.sq_tail += 1
        return sqe

    cdef uint32_t queued(self) noexcept nogil:
        return self.sq_tail - aiouring_load_acquire(self.sq_khead)

    cdef bint sqe_is_queued(self, uint32_t sq_position) noexcept nogil:
        # Positions wrap, so compare distances: [khead, tail) is what the kernel has not taken.
        return sq_position - aiouring_load_acquire(self.sq_khead) < self.sq_tail - aiouring_load_acquire(self.sq_khead)

    cdef bint cq_ready(self) noexcept nogil:
        return aiouring_load_acquire(self.cq_ktail) != self.cq_khead[0] or (self.hook is not None and self.hook.ready())

    cdef bint has_work(self) noexcept nogil:
        return (self.queued() != 0 or self.cq_ready()
                or aiouring_load_relaxed(self.sq_kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW) != 0)

    cdef bint overflowed(self) noexcept nogil:
        return aiouring_load_relaxed(self.sq_kflags) & IORING_SQ_CQ_OVERFLOW != 0

    cdef int enter(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        """Submit what is queued, run deferred work, and wait for `wait_nr` CQEs, `timeout_ns` at most (negative: without bound).

        With a hook attached a wait ends only with a completion that the hook leaves to the loop.
        """
        if self.hook is not None:
            return self.hook.enter(wait_nr, timeout_ns)
        return self.enter_kernel(wait_nr, timeout_ns)

    cdef int enter_kernel(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil:
        # GETEVENTS is always set: with DEFER_TASKRUN completions are produced only by an enter that asks for them.
        cdef io_uring_getevents_arg arg
        cdef aiouring_timespec ts
        cdef uint32_t flags = IORING_ENTER_GETEVENTS | self.enter_flags
        cdef long rc
        self.enters += 1
        aiouring_store_release(self.sq_ktail, self.sq_tail)
        if wait_nr != 0 and timeout_ns >= 0:
            ts.tv_sec = timeout_ns // 1000000000
            ts.tv_nsec = timeout_ns % 1000000000
            memset(&arg, 0, sizeof(arg))
            arg.ts = <uint64_t>&ts
            rc = syscall(__NR_io_uring_enter, self.enter_fd, self.queued(), wait_nr, flags | IORING_ENTER_EXT_ARG, &arg, sizeof(arg))
        else:
            rc = syscall(__NR_io_uring_enter, self.enter_fd, self.queued(), wait_nr, flags, NULL, <size_t>0)
        return -errno if rc < 0 else <int>rc

    cdef uint32_t reap(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil:
        """Copy up to `batch_max` CQEs out and hand their places back to the kernel, before anything acts on them."""
        if self.hook is not None:
            return self.hook.reap(batch, batch_max)
        return self.reap_queue(batch, batch_max)

    cdef uint32_t reap_queue(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil:
        cdef uint32_t head = self.cq_khead[0]
        cdef uint32_t count = aiouring_load_acquire(self.cq_ktail) - head
        cdef uint32_t i
        if count > batch_max:
            count = batch_max
        for i in range(count):
            batch[i] = self.cqes[(head + i) & self.cq_mask]
        if count:
            aiouring_store_release(self.cq_khead, head + count)
        return count

    # -- set-up, threads, end -------------------------------------------------------------------------------------------------------

    cdef int register(self, uint32_t opcode, void *arg, uint32_t nr_args) noexcept nogil:
        cdef long rc
        self.registers += 1
        rc = syscall(__NR_io_uring_register, self.fd, opcode, arg, nr_args)
        return -errno if rc < 0 else <int>rc

    cdef int enable(self) except -1:
        """Make the calling thread the ring's only issuer."""
        cdef uint32_t workers[2]
        cdef int rc = self.register(IORING_REGISTER_ENABLE_RINGS, NULL, 0)
        if rc < 0:
            raise io_uring_setup_refused(-rc)
        workers[0] = IOWQ_MAX_BOUNDED
        workers[1] = IOWQ_MAX_UNBOUNDED
        self.register(IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2)     # an optimisation; refusal costs nothing
        return 0

    cdef int adopt_fd(self) noexcept:
        """Register the ring's descriptor with the calling thread, which saves its look-up in every enter.

        The registration pins the ring until this thread drops it or ends, so it lasts only while the loop runs. Returns -EEXIST when
        the ring's issuer is another thread (which may be one that ended and had the same thread id); other failures cost nothing.
        """
        cdef io_uring_rsrc_update update
        cdef int rc
        memset(&update, 0, sizeof(update))
        update.offset = <uint32_t>-1
        update.data = <uint64_t>self.fd
        rc = self.register(IORING_REGISTER_RING_FDS, &update, 1)
        if rc == 1:
            self.enter_fd = <int>update.offset
            self.enter_flags = IORING_ENTER_REGISTERED_RING
        return rc

    cdef int disown_fd(self) noexcept:
        cdef io_uring_rsrc_update update
        if self.enter_flags & IORING_ENTER_REGISTERED_RING:
            memset(&update, 0, sizeof(update))
            update.offset = <uint32_t>self.enter_fd
            self.enter_fd = self.fd
            self.enter_flags = 0
            self.register(IORING_UNREGISTER_RING_FDS, &update, 1)
        return 0

    cdef BufferRing make_buffer_ring(self, uint32_t entries, uint32_t buffer_size, void *memory=NULL, object keeper=None):
        """Map and register `entries` (a power of two) buffers of `buffer_size` bytes under a group id of their own.

        Memory that is given belongs to `keeper`, which the buffers keep, and begins with the ring.
        """
        cdef BufferRing buffers = BufferRing.__new__(BufferRing)
        cdef io_uring_buf_reg reg
        cdef uint32_t i
        cdef int rc
        cdef void *slots
        buffers.entries = entries
        buffers.buffer_size = buffer_size
        buffers.group = self.next_group
        buffers.slots_bytes = (entries * sizeof(io_uring_buf) + 4095) & ~<size_t>4095
        buffers.memory_bytes = <size_t>entries * buffer_size
        buffers.keeper = keeper
        buffers.owns_memory = keeper is None
        buffers.fork_generation = aiouring_fork_generation
        if keeper is not None:
            slots = memory
            memory = <char *>memory + buffers.slots_bytes
            buffers.slots = <io_uring_buf *>slots
        else:
            slots = mmap(NULL, buffers.slots_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            if slots == MAP_FAILED:
                raise MemoryError("no memory for a provided-buffer ring")
            buffers.slots = <io_uring_buf *>slots
            memory = mmap(NULL, buffers.memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            if memory == MAP_FAILED:
                raise MemoryError("no memory for provided buffers")
        buffers.memory = <char *>memory
        # A child that inherited these pages would make every receive of the parent a copy-on-write fault.
        madvise(slots, buffers.slots_bytes, MADV_DONTFORK)
        madvise(memory, buffers.memory_bytes, MADV_DONTFORK)
        memset(&reg, 0, sizeof(reg))
        reg.ring_addr = <uint64_t>slots
        reg.ring_entries = entries
        reg.bgid = buffers.group
        rc = self.register(IORING_REGISTER_PBUF_RING, &reg, 1)
        if rc < 0:
            raise OSError(-rc, f"registering {entries} provided buffers of {buffer_size} bytes failed: {os.strerror(-rc)}")
        buffers.ring = self
        self.next_group += 1
        for i in range(entries):
            buffers.slots[i].addr = <uint64_t>(buffers.memory + <size_t>i * buffer_size)
            buffers.slots[i].len = buffer_size
            buffers.slots[i].bid = <uint16_t>i
        aiouring_store_release16(&buffers.slots[0].resv, <uint16_t>entries)
        return buffers

    cdef bint make_file_table(self) noexcept:
        cdef io_uring_rsrc_register reg
        cdef rlimit descriptors
        cdef uint32_t entries = FILE_TABLE_ENTRIES, i
        if self.file_table_refused:
            return False
        self.file_table_refused = True
        if getrlimit(RLIMIT_NOFILE, &descriptors) == 0 and descriptors.rlim_cur < entries:
            entries = <uint32_t>descriptors.rlim_cur        # the kernel's bound for the table
        self.free_files = <uint32_t *>PyMem_RawMalloc(entries * sizeof(uint32_t))
        if self.free_files == NULL:
            return False
        memset(&reg, 0, sizeof(reg))
        reg.nr = entries
        reg.flags = IORING_RSRC_REGISTER_SPARSE
        if self.register(IORING_REGISTER_FILES2, &reg, sizeof(reg)) < 0:
            return False
        for i in range(entries):
            self.free_files[i] = entries - 1 - i
        self.file_table_entries = entries
        self.file_table_refused = False
        return True

    cdef int update_file(self, uint32_t index, int32_t fd) noexcept nogil:
        cdef io_uring_rsrc_update2 update
        memset(&update, 0, sizeof(update))
        update.offset = index
        update.data = <uint64_t>&fd
        update.nr = 1
        return self.register(IORING_REGISTER_FILES_UPDATE2, &update, sizeof(update))

    cdef int register_file(self, int fd) noexcept:
        """Put a descriptor's file into the ring's table, which saves its look-up and reference count in each request.

        It costs a system call, and another one to take it out: for descriptors with many requests. The table keeps the file open, so
        unregister_file() comes before the descriptor's close. A full table or a kernel without one is no error: -1.
        """
        # Before 6.4 the kernel let go of a removed file up to a second later, and its port or address stayed in use that long; the
        # first flag that it grants and that came after that is NO_SQARRAY's.
        return self.put_file(fd) if self.setup_flags & IORING_SETUP_NO_SQARRAY else -1

    cdef int reserve_file(self) noexcept:
        if self.file_table_entries == 0 and not self.make_file_table():
            return -1
        if self.registered_files == self.file_table_entries:
            return -1
        self.registered_files += 1
        return <int>self.free_files[self.file_table_entries - self.registered_files]

    cdef void return_file(self, int index) noexcept:
        if self.file_table_entries:
            self.registered_files -= 1
            self.free_files[self.file_table_entries - self.registered_files - 1] = <uint32_t>index

    cdef int put_file(self, int fd) noexcept:
        cdef int index = self.reserve_file()
        if index >= 0 and self.update_file(<uint32_t>index, fd) != 1:
            self.return_file(index)
            return -1
        return index

    cdef int unregister_file(self, int index) noexcept:
        """Take a file out of the table; requests in flight keep theirs. Only the ring's issuer can: the table ends with the ring."""
        if index < 0 or self.fd < 0 or self.foreign_process() or self.update_file(<uint32_t>index, -1) != 1:
            return 0
        self.return_file(index)
        return 0

    cdef int watch_end(self) noexcept:
        """From now on take_end()'s descriptor tells when the kernel is done with this ring.

        A request on a file may run in a worker of the kernel, which goes on with the request's memory after the ring was closed. The ring's files
        are closed after the last of them; a pipe's writing end among them is what can be seen from outside.
        """
        cdef int ends[2]
        cdef int index
        if self.end_fd >= 0 or pipe2(ends, O_CLOEXEC) != 0:
            return 0
        index = self.put_file(ends[1])
        posix_close(ends[1])
        if index < 0:
            posix_close(ends[0])
        else:
            self.end_fd = ends[0]
        return 0

    cdef int take_end(self) noexcept:
        """The descriptor, which is the caller's now, to be read after close(); -1: none."""
        cdef int end_fd = self.end_fd
        if end_fd >= 0:
            self.end_fd = -1
            self.file_table_entries = 0     # close() leaves the files to the ring's end
        return end_fd

    cdef bint make_buffer_table(self) noexcept:
        cdef io_uring_rsrc_register reg
        if self.buffer_table_refused:
            return False
        memset(&reg, 0, sizeof(reg))
        reg.nr = BUFFER_TABLE_ENTRIES
        reg.flags = IORING_RSRC_REGISTER_SPARSE
        self.buffer_table_made = self.register(IORING_REGISTER_BUFFERS2, &reg, sizeof(reg)) >= 0
        self.buffer_table_refused = not self.buffer_table_made
        return self.buffer_table_made

    cdef int update_buffer(self, uint32_t index, void *memory, size_t size) noexcept nogil:
        cdef io_uring_rsrc_update2 update
        cdef iovec piece
        piece.iov_base = memory
        piece.iov_len = size
        memset(&update, 0, sizeof(update))
        update.offset = index
        update.data = <uint64_t>&piece
        update.nr = 1
        return self.register(IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update))

    cdef int register_buffer(self, void *memory, size_t size) noexcept:
        """Pin memory for as long as it is registered, so that O_DIRECT requests need not pin it each time.

        It costs a system call and counts against RLIMIT_MEMLOCK. A full table, a refusal or a kernel without a table is no error: -1.
        """
        cdef uint32_t index = 0
        if not self.buffer_table_made and not self.make_buffer_table():
            return -1
        while index < BUFFER_TABLE_ENTRIES and self.taken_buffers >> index & 1:
            index += 1
        if index == BUFFER_TABLE_ENTRIES or self.update_buffer(index, memory, size) != 1:
            return -1
        self.taken_buffers |= <uint64_t>1 << index
        return <int>index

    cdef int unregister_buffer(self, int index) noexcept:
        """Unpin it; requests in flight keep theirs. Only the ring's issuer can: the table ends with the ring."""
        if index < 0 or self.fd < 0 or self.foreign_process() or self.update_buffer(<uint32_t>index, NULL, 0) != 1:
            return 0
        self.taken_buffers &= ~(<uint64_t>1 << index)
        return 0

    cpdef close(self):
        """Unmap the queues and close the descriptor. Requests still in flight are then cancelled by the kernel, unseen."""
        if not self.foreign_process():
            self.disown_fd()
            if self.file_table_entries:
                # The kernel frees a ring in the background; files that wait for that would keep their addresses in use.
                self.register(IORING_UNREGISTER_FILES, NULL, 0)
                self.file_table_entries = 0
        self.free_queues()
        if self.end_fd >= 0:
            posix_close(self.end_fd)
            self.end_fd = -1

    cdef void free_queues(self) noexcept:
        # In a forked child there is no descriptor any more, and the mappings are memory of its own.
        aiouring_forget_ring(<aiouring_inherited *>self.inherited)
        self.inherited = NULL
        if self.sqes != NULL:
            munmap(self.sqes, self.sqes_bytes)
            self.sqes = NULL
        if self.rings_memory != NULL:
            munmap(self.rings_memory, self.rings_bytes)
            self.rings_memory = NULL
        cdef RingHook hook = self.hook
        self.hook = None
        if hook is not None:
            hook.end()
        if self.fd >= 0:
            posix_close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        PyMem_RawFree(self.free_files)
        if self.end_fd >= 0:
            posix_close(self.end_fd)
        self.free_queues()


@cython.final
cdef class BufferRing:
    """Buffers that the kernel picks from for receives (provided buffers), by group id. Made by Ring.make_buffer_ring."""

    cdef char *take(self, uint32_t cqe_flags) noexcept nogil:
        self.outstanding += 1
        return self.memory + <size_t>(cqe_flags >> IORING_CQE_BUFFER_SHIFT) * self.buffer_size

    cdef void give_back(self, uint32_t cqe_flags) noexcept nogil:
        cdef uint16_t bid = <uint16_t>(cqe_flags >> IORING_CQE_BUFFER_SHIFT)
        cdef io_uring_buf *slot
        cdef uint16_t tail
        if self.ring.foreign_process():
            return              # a callback forked, and its child comes back here: these pages are the parent's alone (DONTFORK)
        tail = self.slots[0].resv       # where a hook's program moves it as well
        slot = &self.slots[tail & (self.entries - 1)]
        slot.addr = <uint64_t>(self.memory + <size_t>bid * self.buffer_size)
        slot.len = self.buffer_size
        slot.bid = bid
        self.outstanding -= 1
        aiouring_store_release16(&self.slots[0].resv, <uint16_t>(tail + 1))

    cdef bytes take_bytes(self, uint32_t cqe_flags, Py_ssize_t length):
        cdef bytes data
        try:
            data = PyBytes_FromStringAndSize(self.take(cqe_flags), length)
        finally:
            self.give_back(cqe_flags)
        return data

    def __dealloc__(self):
        # The reference to the ring is dropped before this runs, yet a ring that still had receives in flight was closed by its loop,
        # which waits for their last CQEs: nothing writes here any more.
        if not self.owns_memory or self.fork_generation != aiouring_fork_generation:
            return              # in a child there may be something else by now
        if self.memory != NULL:
            munmap(self.memory, self.memory_bytes)
        if self.slots != NULL:
            munmap(self.slots, self.slots_bytes)
