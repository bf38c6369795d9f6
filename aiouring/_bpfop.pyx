"""Operations of aiouring.bpf, once per request: the call that is awaited, the request's memory, the engines that run it in this process.

Used by `aiouring.bpf.ops`, whose Op derives from OpCore, and by `_chain`, which makes a BpfRequest a link. Calls `_operation`, `_loop`, `_op`,
`_prep`, `_registered`, `_sharedlib`, and the operations that ship (bpf_progs/ops).

Engines. `opcode` and `module`: the request is an SQE as any other. `inline`: a C function. `prog_run`: BPF_PROG_RUN, one at a time for each
operation, since the program's memory (aiouring_run, the shadow) is one; what else is called meanwhile waits in a queue.

Where it runs. The last two take the processor until they are through. Up to URING_BPF_DIRECT_BYTES_MAX in all buffers that is well below a
millisecond, and they run where they are awaited, which ends without a turn of the loop; longer ones run in a thread of the executor, without the
GIL.

Cancelling. A call in a thread is told to stop, and the next chunk that it reads or writes ends it; CancelledError comes when it has ended, so no
buffer of a cancelled call is in use. A call in the kernel ends with its last CQE, as any request.

Who owns what: a BpfRequest holds its buffers, and the operation, until release(); the thread that runs one holds it by a bound method. An OpCore
frees what was loaded when it is closed and no request has it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINVAL, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from aiouring._awaitable cimport ABANDONED, NEW, OVER, warn_never_awaited
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_bpf, prep_bpf_command
from aiouring._registered cimport RegisteredBuffer
from aiouring._ring cimport Ring
from aiouring._sharedlib cimport SharedLibrary
from aiouring.uapi cimport *

import collections
import os

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_bpf

cdef extern from *:
    """
    #include "aiouring/op_inline.h"
    extern const struct aiouring_inline_op *const aiouring_shipped_operations[];

    /* What the kernel's union bpf_attr has for BPF_PROG_RUN. */
    struct aiouring_bpf_run {
        unsigned int prog_fd, retval, data_size_in, data_size_out;
        unsigned long long data_in, data_out;
        unsigned int repeat, duration, ctx_size_in, ctx_size_out;
        unsigned long long ctx_in, ctx_out;
        unsigned int flags, cpu, batch_size, pad;
    };
    """
    const aiouring_inline_op *const aiouring_shipped_operations[]
    struct aiouring_bpf_run:
        unsigned int prog_fd, retval

cdef enum:
    BPF_PROG_RUN = 10
    # Of prog_run: with more, other threads get the interpreter meanwhile.
    HOLD_GIL_BYTES = 4096

ENGINES = ("inline", "prog_run", "module", "opcode")
WRITES = ("none", "first", "last", "all")
BYTES_MAX = URING_BPF_BYTES_MAX
OPERATIONS_MAX = URING_BPF_OPS_MAX


cdef str name_of(const aiouring_op_info *info):
    cdef char name[33]
    memcpy(name, info.name, 32)
    name[32] = 0
    return name.decode("utf-8", "replace")


def ring_fd(LoopCore loop not None):
    """The descriptor of a loop's ring."""
    return loop.ring.fd


def supports(LoopCore loop not None, int opcode):
    """Whether the kernel says that a loop's ring has this opcode."""
    return loop.ring.supports(opcode)


def shipped():
    """The names of the operations that ship."""
    names = []
    cdef int index = 0
    while aiouring_shipped_operations[index] != NULL:
        names.append(name_of(&aiouring_shipped_operations[index].info))
        index += 1
    return names


@cython.final
cdef class Library(SharedLibrary):
    """One with an operation."""

    cdef const aiouring_inline_op *program

    def __cinit__(self, path, contents):
        self.load(path, contents, "an operation")
        self.program = <const aiouring_inline_op *>self.find(b"aiouring_operation")
        if self.program == NULL:
            raise OSError(EINVAL, "the library has no operation (AIOURING_OP of aiouring/op.h makes it)", path)
        if self.program.info.abi != AIOURING_OP_ABI:
            raise OSError(EINVAL, f"it was built for version {self.program.info.abi} of operations, and this is {AIOURING_OP_ABI}: "
                                  "build it again with `python -m aiouring build-op`", path)

    def close(self):
        """Unload it. No request may be running."""
        self.program = NULL
        SharedLibrary.close(self)


# -- an operation -------------------------------------------------------------------------------------------------------------------------------

cdef class OpCore:
    """An operation that is loaded for one loop. See aiouring.bpf.Op."""

    def __cinit__(self, *args, **kwargs):
        self.prog_fd = self.device_fd = -1
        self.opcode = -1

    cdef int declare(self, LoopCore loop, op_engine kind, const aiouring_op_info *info) except -1:
        self.loop = loop
        self.kind = kind
        self.info = info[0]
        self.name = name_of(info)
        return 0

    def _use_shipped(self, LoopCore loop not None, str name not None):
        """The engine inline, for an operation that ships."""
        cdef int index = 0
        while aiouring_shipped_operations[index] != NULL and name_of(&aiouring_shipped_operations[index].info) != name:
            index += 1
        if aiouring_shipped_operations[index] == NULL:
            raise KeyError(name)
        self.program = aiouring_shipped_operations[index]
        self.declare(loop, ENGINE_INLINE, &self.program.info)

    def _use_library(self, LoopCore loop not None, Library library not None):
        """The engine inline, for one of the user's."""
        self.program = library.program
        self.keeper = library
        self.declare(loop, ENGINE_INLINE, &self.program.info)

    cdef int declare_loaded(self, LoopCore loop, op_engine kind, object loaded) except -1:
        cdef aiouring_op_info info
        cdef bytes name
        memset(&info, 0, sizeof(info))
        text, info.buffers_min, info.buffers_max, info.traits = loaded.info
        name = text.encode()[:31]
        memcpy(info.name, <char *>name, len(name))
        return self.declare(loop, kind, &info)

    def _use_program(self, LoopCore loop not None, loaded):
        """The engine prog_run: an OperationObject."""
        cdef uintptr_t run, shadow
        self.declare_loaded(loop, ENGINE_PROG_RUN, loaded)
        self.keeper = loaded
        self.prog_fd, run, shadow = loaded.load_to_run()
        self.run_memory = <aiouring_op_run *>run
        self.shadow = <char *>shadow
        self.queue = collections.deque()

    def _use_device(self, LoopCore loop not None, attached, int number, int device_fd):
        """The engine module: an operation that is attached to an open /dev/aiouring_bpf."""
        self.declare_loaded(loop, ENGINE_MODULE, attached)
        self.keeper = attached
        self.id = number
        self.device_fd = device_fd

    def _use_ring(self, LoopCore loop not None, attached, int number, int opcode):
        """The engine opcode: an operation that is attached to the loop's ring. `attached.move(fd)` attaches it to another one."""
        self.declare_loaded(loop, ENGINE_OPCODE, attached)
        self.keeper = attached
        self.id = number
        self.opcode = opcode
        self.ring = loop.ring

    @property
    def engine(self):
        """Which engine runs it: "opcode", "module", "prog_run" or "inline"."""
        return ENGINES[<int>self.kind]

    @property
    def writes(self):
        """Which of its buffers it writes: "none", "first", "last" or "all"."""
        return WRITES[self.info.traits & (AIOURING_WRITES_FIRST | AIOURING_WRITES_LAST)]

    @property
    def buffers(self):
        """How many buffers it takes: at least, at most."""
        return self.info.buffers_min, self.info.buffers_max

    def __call__(self, *buffers, flags=0, length=None):
        if self.loop is None:
            raise TypeError("this operation was never loaded: `await Op.load(...)` makes one")
        cdef OpCall call = OpCall.__new__(OpCall)
        call.loop = self.loop
        call.op = self
        call.buffers = buffers
        call.flags = flags
        call.length = length
        return call

    def close(self):
        """Free what was loaded, as soon as no request has it; those in flight go on. Further calls raise RuntimeError. May be called twice."""
        if not self.closed:
            self.closed = True
            if self.users == 0:
                self.free()

    cdef uint32_t written(self, uint32_t buffer_count) noexcept nogil:
        cdef uint32_t mask = 0
        if buffer_count and self.info.traits & AIOURING_WRITES_FIRST:
            mask |= 1
        if buffer_count and self.info.traits & AIOURING_WRITES_LAST:
            mask |= <uint32_t>1 << (buffer_count - 1)
        return mask

    cdef object error(self, int32_t res):
        return OSError(-res, f"{self.name}: {os.strerror(-res)}")

    cdef object value(self, uint64_t result):
        if self.info.traits & AIOURING_SIGNED_RESULT:
            return <int64_t>result
        return result

    cdef int check(self) except -1:
        if self.loop is None:
            raise TypeError("this operation was never loaded: `await Op.load(...)` makes one")
        self.loop.ops.check()
        if self.loop.ops.issuer != PyThread_get_thread_ident():
            raise RuntimeError(f"{self.name}: this operation was loaded for another event loop than the running one")
        if self.closed:
            raise RuntimeError(f"{self.name}: this operation is closed")
        return self.follow()

    cdef int follow(self) except -1:
        """For the engine opcode: the loop moved to another thread, and has another ring."""
        if self.kind == ENGINE_OPCODE and self.ring is not self.loop.ring:
            self.keeper.move(self.loop.ring.fd)
            self.ring = self.loop.ring
        return 0

    cdef int leave(self) except -1:
        self.users -= 1
        if self.users == 0 and self.closed:
            self.free()
        return 0

    cdef int free(self) except -1:
        keeper, self.keeper = self.keeper, None
        self.program = NULL
        self.run_memory = NULL
        self.shadow = NULL
        if keeper is not None:
            keeper.close()
        return 0

    def _next(self):
        """prog_run: the thread is through; begin the call that waits longest."""
        cdef OpCall call
        if self.busy or not self.queue:
            return
        call = <OpCall>self.queue.popleft()
        call.queued = False
        try:
            call.begin()
        except BaseException as exc:
            call.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        finally:
            self.call_next()

    cdef int call_next(self) except -1:
        # One in each turn: they may be many.
        if not self.busy and self.queue and not self.loop._closed:
            self.loop.add_ready(self._next, (), None)
        return 0


# -- a request ------------------------------------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc_clear                         # its destructor needs the operation
cdef class BpfRequest:
    def __dealloc__(self):
        self.release()

    cdef int acquire(self, tuple buffers, object flags, object length) except -1:
        cdef OpCore op = self.op
        cdef uint32_t count = <uint32_t>len(buffers), mask, index
        cdef int64_t number
        cdef io_bpf_buf_desc *described
        cdef Py_buffer *view
        op.check()
        if count < op.info.buffers_min or count > op.info.buffers_max:
            if op.info.buffers_min == op.info.buffers_max:
                takes = f"{op.info.buffers_min} buffer{'' if op.info.buffers_min == 1 else 's'}"
            else:
                takes = f"{op.info.buffers_min} to {op.info.buffers_max} buffers"
            raise TypeError(f"{op.name}: it takes {takes}, not {count}")
        if not isinstance(flags, int):
            raise TypeError(f"{op.name}: flags are an int, not {type(flags).__name__}")
        number = whole_number(flags)
        if number < 0 or number > 0xFFFFFFFF:
            raise ValueError(f"{op.name}: flags have 32 bits, {flags} does not fit")
        self.request.flags = <uint32_t>number
        self.request.buffer_count = count
        self.entered = True
        op.users += 1
        mask = op.written(count)
        for index in range(count):
            buffer = buffers[index]
            view = &self.last_view if index else &self.first_view
            try:
                PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE if mask >> index & 1 else PyBUF_SIMPLE)
            except (TypeError, BufferError, ValueError) as exc:
                raise type(exc)(f"{op.name}: {exc}") from None
            self.held = index + 1
            if view.len > <Py_ssize_t>URING_BPF_BYTES_MAX:
                raise ValueError(f"{op.name}: a buffer has at most {URING_BPF_BYTES_MAX} bytes, not {view.len}")
            described = &self.request.buffers[index]
            described.addr = <uint64_t>view.buf
            described.len = <uint32_t>view.len
            if isinstance(buffer, RegisteredBuffer):
                if index == 0:
                    self.registered_first = <RegisteredBuffer>buffer
                else:
                    self.registered_last = <RegisteredBuffer>buffer
        if length is not None:
            if not count:
                raise ValueError(f"{op.name}: there is no buffer that could have a length")
            if not isinstance(length, int):
                raise TypeError(f"{op.name}: the length is an int, not {type(length).__name__}")
            number = whole_number(length)
            if number < 0 or number > self.first_view.len:
                raise ValueError(f"{op.name}: the length is at most that of the first buffer, {self.first_view.len}, not {length}")
            self.request.buffers[0].len = <uint32_t>number
        return 0

    cdef uint64_t first_size(self) noexcept:
        return <uint64_t>self.first_view.len if self.held else 0

    cdef int set_length(self, uint32_t length) noexcept:
        if self.held == 0 or length > self.first_size():
            return -EINVAL
        self.request.buffers[0].len = length
        return 0

    cdef uint64_t total_bytes(self) noexcept nogil:
        cdef uint64_t total = 0
        cdef uint32_t index
        for index in range(self.request.buffer_count):
            total += self.request.buffers[index].len
        return total

    cdef bint native(self) noexcept:
        return self.op.kind == ENGINE_MODULE or self.op.kind == ENGINE_OPCODE

    cdef void fill(self, io_uring_sqe *sqe) noexcept:
        cdef uint32_t index
        cdef RegisteredBuffer registered
        cdef int fixed = -1, table_index
        for index in range(self.request.buffer_count):
            self.request.buffers[index].type = <uint8_t>IO_BPF_BUF_USER
            registered = self.registered_last if index else self.registered_first
            if registered is None:
                continue
            table_index = registered.index_in(self.op.loop.ring)
            # The module is given one at most, by the SQE.
            if table_index < 0 or self.op.kind == ENGINE_MODULE and fixed >= 0:
                continue
            self.request.buffers[index].type = <uint8_t>IO_BPF_BUF_FIXED
            self.request.buffers[index].buf_index = <uint16_t>table_index
            fixed = table_index
        if self.op.kind == ENGINE_OPCODE:
            prep_bpf(sqe, self.op.opcode, self.op.id, &self.request)
        else:
            prep_bpf_command(sqe, self.op.device_fd, <uint32_t>self.op.id, &self.request, fixed)

    cdef bint fail_owed(self, int32_t res) noexcept:
        return res == -ECANCELED and self.op.kind == ENGINE_MODULE

    cdef void fill_fail(self, io_uring_sqe *sqe) noexcept:
        self.fill(sqe)
        sqe.off |= URING_BPF_CMD_FAIL

    cdef const aiouring_inline_op *inline_program(self) noexcept:
        return self.op.program

    cdef uring_bpf_request *memory(self) noexcept:
        return &self.request

    cdef int run(self) noexcept nogil:
        if self.op.kind == ENGINE_INLINE:
            return self.op.program.run(&self.request, AIOURING_OP_RUN, &self.stop)
        return self.run_program(AIOURING_OP_RUN)

    cdef int run_failed(self) noexcept nogil:
        if self.op.kind == ENGINE_INLINE:
            return self.op.program.run(&self.request, AIOURING_OP_FAIL, NULL)
        return self.run_program(AIOURING_OP_FAIL)

    cdef int run_program(self, uint32_t mode) noexcept nogil:
        """BPF_PROG_RUN. The caller sees to it that there is one at a time."""
        cdef aiouring_op_run *run = self.op.run_memory
        cdef aiouring_op_region *region
        cdef aiouring_bpf_run attributes
        cdef uint32_t mask = self.op.written(self.request.buffer_count), index, used = 0
        cdef uint64_t begin, end
        run.request = self.request
        run.mode = mode
        memset(run.regions, 0, sizeof(run.regions))
        for index in range(self.request.buffer_count):
            if not mask >> index & 1 or self.request.buffers[index].len == 0:
                continue
            begin = self.request.buffers[index].addr
            end = begin + self.request.buffers[index].len
            if used and begin < run.regions[0].end and run.regions[0].begin < end:
                run.regions[0].begin = min(run.regions[0].begin, begin)
                run.regions[0].end = max(run.regions[0].end, end)
            else:
                run.regions[used].begin = begin
                run.regions[used].end = end
                run.regions[used].shadow = used * <uint64_t>URING_BPF_BYTES_MAX
                used += 1
        for index in range(used):
            region = &run.regions[index]
            region.written_begin = region.end
            memcpy(self.op.shadow + region.shadow, <const void *>region.begin, region.end - region.begin)
        memset(&attributes, 0, sizeof(attributes))
        attributes.prog_fd = <unsigned int>self.op.prog_fd
        if syscall(SYS_bpf, BPF_PROG_RUN, &attributes, sizeof(attributes)) < 0:
            return -errno
        # What was written before an error is written, as with the other engines.
        for index in range(used):
            region = &run.regions[index]
            if region.written_begin < region.written_end:
                memcpy(<void *>region.written_begin, self.op.shadow + region.shadow + (region.written_begin - region.begin),
                       region.written_end - region.written_begin)
        if attributes.retval != 0:
            return <int>attributes.retval
        self.request.result = run.request.result
        return INT_MAX if self.request.result > <uint64_t>INT_MAX else <int>self.request.result

    def execute(self):
        """In the executor's thread, which holds this object, and with it the memory, by the bound method. Returns what run() does."""
        cdef int res
        if self.withdrawn:
            return -ECANCELED
        self.running = True
        with nogil:
            res = self.run()
        self.running = False
        if self.orphaned:
            self.end_alone()
        return res

    cdef int withdraw(self) noexcept:
        """Nobody waits any more. No thread will begin it, and what it holds is let go of: at once, or by the thread that runs it, when that is
        through. For prog_run, the operation is busy until then."""
        self.withdrawn = True
        self.stop = 1
        if not self.running:
            self.op.busy = False
            self.release()
            return 0
        self.orphaned = True
        if self.op.kind == ENGINE_PROG_RUN:
            self.op.run_memory.stop = 1
        return 0

    cdef int end_alone(self) except -1:
        cdef OpCore op = self.op
        cdef LoopCore loop = op.loop
        op.busy = False
        self.release()
        if op.queue and loop is not None and not loop._closed:
            loop.call_soon_threadsafe(op._next)
        return 0

    cdef object result(self):
        return self.op.value(self.request.result)

    cdef void release(self) noexcept:
        cdef uint32_t index
        for index in range(self.held):
            PyBuffer_Release(&self.last_view if index else &self.first_view)
        self.held = 0
        self.registered_first = self.registered_last = None
        if self.entered:
            self.entered = False
            self.op.leave()


cdef int64_t whole_number(object number) except? -1:
    """Of an int, to compare it with; -1 for what is beyond. A subclass may have comparisons of its own, whose word is not good for memory."""
    try:
        return <int64_t>number
    except OverflowError:
        return -1


cdef BpfRequest new_bpf_request(OpCore op, tuple buffers, object flags, object length):
    cdef BpfRequest request = BpfRequest.__new__(BpfRequest)
    request.op = op
    request.acquire(buffers, flags, length)
    return request


# -- a call -----------------------------------------------------------------------------------------------------------------------------------------

@cython.final
cdef class OpCall(Operation):
    """One call of an operation. Await it once."""

    cdef OpCore op
    cdef tuple buffers
    cdef object flags, length
    cdef BpfRequest bpf
    cdef bint lent                  # the request is somebody else's
    cdef Ring ring                  # that has the request
    cdef object future              # of the thread that runs it
    cdef bint working               # a thread is being found for it
    cdef bint queued                # in the operation's queue

    def __dealloc__(self):
        if self.state == NEW:
            self.state = OVER           # the base class's would ask for the name, which is gone by then
            warn_never_awaited("operation" if self.op is None else self.op.name)

    cdef str name(self):
        return self.op.name

    cdef int start(self) except -1:
        cdef OpCore op = self.op
        if not self.lent:
            self.bpf = new_bpf_request(op, self.buffers, self.flags, self.length)
            self.buffers = None
        if op.kind == ENGINE_PROG_RUN and (op.busy or op.queue):
            self.queued = True
            op.queue.append(self)
            return 0
        return self.begin()

    cdef int begin(self) except -1:
        """Run it, or have it run."""
        cdef uint64_t total = self.bpf.total_bytes()
        cdef int res
        if self.bpf.native():
            return self.submit()
        if total > URING_BPF_DIRECT_BYTES_MAX:
            return self.run_in_executor()
        if self.op.kind == ENGINE_INLINE:
            res = self.bpf.run()
        else:
            self.op.run_memory.stop = 0
            if total <= HOLD_GIL_BYTES:
                res = self.bpf.run()
            else:
                # Signal handlers may call it as well, and so may destructors of what another thread lets go of.
                self.op.busy = True
                with nogil:
                    res = self.bpf.run()
                self.op.busy = False
                self.op.call_next()
        return self.arrived(res, 0)

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail(self.op.error(res))
        return self.finish(self.bpf.result())

    # -- in the kernel --------------------------------------------------------------------------------------------------------------------------

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, OpCall.native_complete, 0)
        self.request = sqe.user_data
        self.ring = self.loop.ring
        self.bpf.fill(sqe)
        return 0

    @staticmethod
    cdef int native_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        # Not Operation.complete: ECANCELED and EINTR may be what the program says.
        cdef OpCall self = <OpCall>owner
        self.request = 0
        try:
            if self.cancel_requested or self.state == ABANDONED:
                self.again()
            elif res == -ECANCELED and self.ring is not self.loop.ring:
                # The loop moved to another thread. What writes may have written, and must not do it twice.
                if self.op.info.traits & (AIOURING_WRITES_FIRST | AIOURING_WRITES_LAST):
                    self.fail(OSError(ECANCELED, f"{self.op.name}: the event loop moved to another thread, and nobody knows whether it was done"))
                else:
                    self.op.follow()
                    self.submit()
            else:
                self.arrived(res, cqe_flags)
        except BaseException as exc:
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    # -- in a thread ------------------------------------------------------------------------------------------------------------------------------

    cdef int run_in_executor(self) except -1:
        # This is Python code, where the handler of a signal may run. It may cancel the call, or raise: then nobody knows whether a thread has the
        # request, but the request does.
        self.working = True
        if self.op.kind == ENGINE_PROG_RUN:
            self.op.busy = True
            self.op.run_memory.stop = 0
        try:
            future = self.loop.run_in_executor(None, self.bpf.execute)
            future.add_done_callback(self._ran)
            self.future = future
        except BaseException:
            self.bpf.withdraw()
            self.bpf = None
            self.op.call_next()
            raise
        finally:
            self.working = False
        return 0

    def _ran(self, future):
        self.future = None
        self.op.busy = False
        try:
            if future.cancelled():
                self.fail(RuntimeError(f"{self.op.name}: the loop's executor was shut down meanwhile"))
            elif self.cancel_requested or self.state == ABANDONED:
                self.again()
            else:
                self.arrived(future.result(), 0)
        except BaseException as exc:
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        finally:
            self.op.call_next()

    # -- the end ------------------------------------------------------------------------------------------------------------------------------------

    cdef bint idle(self) noexcept:
        return self.request == 0 and self.future is None and not self.working and not self.queued

    cdef int stop(self) except -1:
        if self.queued:
            self.queued = False
            self.op.queue.remove(self)
        elif self.future is not None:
            self.bpf.stop = 1
            if self.op.kind == ENGINE_PROG_RUN:
                self.op.run_memory.stop = 1
        elif self.request:
            return Operation.stop(self)
        return 0

    def _stop(self):
        # Asked for by another thread, which has left it to this one to end what is queued, and may not have come so far as to say why.
        if self.queued:
            if not self.cancel_requested and self.state != ABANDONED:
                self.loop.add_ready(self._stop, (), None)
                return
            self.stop()
            self.again()
        else:
            Operation._stop(self)

    cdef void release(self) noexcept:
        self.buffers = None
        self.ring = None
        if self.bpf is not None and not self.lent:
            self.bpf.release()


cdef object call_request(BpfRequest request):
    cdef OpCall call = OpCall.__new__(OpCall)
    call.loop = request.op.loop
    call.op = request.op
    call.bpf = request
    call.lent = True
    return call
