# Operations of aiouring.bpf: one loaded operation, one request of it. See _bpfop.pyx.
# cimported by: _chain, _chainlinks.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from aiouring._loop cimport LoopCore
from aiouring._registered cimport RegisteredBuffer
from aiouring._ring cimport Ring
from aiouring.uapi cimport io_uring_sqe


cdef extern from "aiouring/op_inline.h" nogil:
    enum:
        URING_BPF_OPS_MAX
        URING_BPF_BYTES_MAX
        URING_BPF_DIRECT_BYTES_MAX
        URING_BPF_CMD_FAIL
        IO_BPF_BUF_USER
        IO_BPF_BUF_FIXED
        AIOURING_OP_ABI
        AIOURING_WRITES_FIRST
        AIOURING_WRITES_LAST
        AIOURING_SIGNED_RESULT
        AIOURING_OP_RUN
        AIOURING_OP_FAIL

    struct io_bpf_buf_desc:
        uint8_t type, reserved
        uint16_t buf_index
        uint32_t len
        uint64_t addr

    struct uring_bpf_request:
        io_bpf_buf_desc buffers[2]
        uint32_t buffer_count, flags
        uint64_t result

    struct aiouring_op_info:
        uint32_t abi, buffers_min, buffers_max, traits
        char name[32]

    struct aiouring_inline_op:
        aiouring_op_info info
        int32_t (*run)(uring_bpf_request *request, uint32_t mode, const uint32_t *stop) noexcept nogil

    struct aiouring_op_region:
        uint64_t begin, end, shadow, written_begin, written_end

    struct aiouring_op_run:
        uring_bpf_request request
        aiouring_op_region regions[2]
        uint32_t mode, stop


cdef enum op_engine:
    ENGINE_INLINE
    ENGINE_PROG_RUN
    ENGINE_MODULE
    ENGINE_OPCODE


# One operation that is loaded for one loop. aiouring.bpf.Op is this class with a way to make it.
cdef class OpCore:
    cdef readonly str name
    cdef aiouring_op_info info
    cdef op_engine kind
    cdef LoopCore loop
    cdef object keeper                  # what has to be closed: the object in the kernel, or the library
    cdef const aiouring_inline_op *program
    cdef int prog_fd
    cdef aiouring_op_run *run_memory
    cdef char *shadow
    cdef int opcode, id, device_fd
    cdef Ring ring                      # opcode: to which it is attached
    cdef uint32_t users                 # requests that have it
    cdef readonly bint closed
    cdef bint busy                      # prog_run: a thread runs it
    cdef object queue                   # prog_run: calls that wait for that, a deque

    cdef uint32_t written(self, uint32_t buffer_count) noexcept nogil       # a bit for each buffer that it writes
    cdef object error(self, int32_t res)                                    # the OSError of a negative result, with the operation's name
    cdef object value(self, uint64_t result)
    cdef int check(self) except -1
    cdef int leave(self) except -1
    cdef int free(self) except -1
    cdef int declare(self, LoopCore loop, op_engine kind, const aiouring_op_info *info) except -1
    cdef int declare_loaded(self, LoopCore loop, op_engine kind, object loaded) except -1
    cdef int call_next(self) except -1
    cdef int follow(self) except -1


# One request: it holds its buffers and the memory that the kernel reads and writes, until release().
cdef class BpfRequest:
    cdef OpCore op
    cdef uring_bpf_request request
    cdef Py_buffer first_view, last_view        # of the buffers; no array, which the garbage collector would not be shown
    cdef RegisteredBuffer registered_first, registered_last     # the buffers that are, by their place
    cdef uint32_t held
    cdef bint entered
    cdef uint32_t stop                  # not 0: an inline run shall end
    cdef bint running                   # a thread of the executor runs it
    cdef bint withdrawn                 # no thread may begin it
    cdef bint orphaned                  # nobody waits for the thread

    cdef bint native(self) noexcept                                 # it can be an SQE: engine opcode or module
    cdef void fill(self, io_uring_sqe *sqe) noexcept                # then this fills it, all but user_data and flags
    cdef bint fail_owed(self, int32_t res) noexcept                 # after a linked predecessor's failure the module has to be told, by an SQE
    cdef void fill_fail(self, io_uring_sqe *sqe) noexcept           # that this fills
    cdef int run(self) noexcept nogil                               # inline and prog_run: runs it here, returns what the CQE's res would be
    cdef int run_failed(self) noexcept nogil                        # the same where a linked predecessor failed
    cdef const aiouring_inline_op *inline_program(self) noexcept    # NULL: another engine's
    cdef uring_bpf_request *memory(self) noexcept
    cdef uint64_t first_size(self) noexcept                         # of the first buffer as it was given, in bytes; 0 without one
    cdef int set_length(self, uint32_t length) noexcept             # of the first buffer; -EINVAL beyond it
    cdef uint64_t total_bytes(self) noexcept nogil
    cdef object result(self)                                        # for Python, once it has succeeded
    cdef void release(self) noexcept

    cdef int acquire(self, tuple buffers, object flags, object length) except -1
    cdef int withdraw(self) noexcept
    cdef int end_alone(self) except -1
    cdef int run_program(self, uint32_t mode) noexcept nogil


# What an int is, whatever it says when it is compared; -1 for one of more than 64 bits.
cdef int64_t whole_number(object number) except? -1
# Checks everything that can be checked before. Raises TypeError, ValueError, BufferError, RuntimeError, each with the operation's name.
cdef BpfRequest new_bpf_request(OpCore op, tuple buffers, object flags, object length)
# The call of a request that is somebody else's, who releases it. Its buffers and its operation are as they were when it was made.
cdef object call_request(BpfRequest request)
