# The two queues of one io_uring, its provided-buffer rings, and nothing above them.
# cimported by: _op, _loop and the transports (for BufferRing). See _ring.pyx.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from aiouring.uapi cimport io_cqring_offsets, io_sqring_offsets, io_uring_buf, io_uring_cqe, io_uring_params, io_uring_sqe


# Counts forks: memory that a child does not inherit is this process's if the number is still the one at its making.
cdef uint32_t fork_generation() noexcept nogil


cdef class BufferRing:
    cdef Ring ring
    cdef readonly uint16_t group            # the kernel's buf_group / bgid
    cdef readonly uint32_t entries          # a power of two
    cdef readonly uint32_t buffer_size      # bytes a buffer
    cdef readonly uint32_t outstanding      # buffers that the kernel has handed to us and that were not given back
    cdef io_uring_buf *slots                # shared with the kernel; slot 0's resv is the tail
    cdef char *memory                       # entries * buffer_size bytes
    cdef object keeper                      # whose memory it is, where it is not its own
    cdef bint owns_memory
    cdef uint32_t fork_generation
    cdef size_t slots_bytes, memory_bytes

    # The bytes of the buffer that a CQE names; it stays ours until give_back().
    cdef char *take(self, uint32_t cqe_flags) noexcept nogil
    cdef void give_back(self, uint32_t cqe_flags) noexcept nogil
    # Both at once, for who wants the bytes as an object (and holds the GIL).
    cdef bytes take_bytes(self, uint32_t cqe_flags, Py_ssize_t length)


# What sits between the ring and the loop when a loop hook is attached: it decides which completions the loop sees. See _hook.pyx.
cdef class RingHook:
    cdef int enter(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil
    cdef uint32_t reap(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil
    cdef bint ready(self) noexcept nogil                                        # reap() would bring something
    cdef void finish_sends(self) noexcept nogil                                 # what its program sends itself, without waiting, is over then
    cdef void begin_close(self) noexcept nogil                                  # the loop closes: begin nothing new
    cdef uint32_t reaps_max(self) noexcept nogil                                # what reap() could bring besides the queue
    cdef int fault(self) noexcept nogil                                         # not 0: what its program did wrong
    cdef give_up(self)                                                          # after that: completions go straight to the loop
    cdef move(self, Ring ring)                                                  # the loop goes on with another ring
    cdef end(self)                                                              # the ring is about to be closed


cdef class Ring:
    cdef readonly int fd
    cdef readonly uint32_t setup_flags, features, sq_entries, cq_entries
    cdef readonly uint64_t enters           # io_uring_enter calls so far
    cdef readonly uint64_t registers        # io_uring_register calls so far
    cdef uint32_t fork_generation
    cdef void *inherited                    # of aiouring_fork.h: what a forked child lets go of
    cdef int enter_fd                       # the registered index, or the fd itself
    cdef uint32_t enter_flags
    cdef uint32_t sq_mask, cq_mask
    cdef uint32_t sq_tail                   # next SQE to fill; published by enter()
    cdef uint32_t *sq_khead
    cdef uint32_t *sq_ktail
    cdef uint32_t *sq_kflags
    cdef uint32_t *cq_khead
    cdef uint32_t *cq_ktail
    cdef io_uring_sqe *sqes
    cdef io_uring_cqe *cqes
    cdef void *rings_memory
    cdef size_t rings_bytes, sqes_bytes
    cdef bytes op_supported                 # one byte an opcode, from REGISTER_PROBE
    cdef uint16_t next_group
    cdef io_sqring_offsets sq_offsets       # where things are in rings_memory
    cdef io_cqring_offsets cq_offsets
    cdef RingHook hook                      # None: completions go straight to the loop
    cdef uint32_t hook_epoch                # how many hooks were attached so far
    cdef object region                      # the ring's MEM region, which lasts as long as the ring. See _hook.pyx
    cdef readonly uint32_t registered_files  # taken entries of the file table
    cdef uint32_t file_table_entries        # 0: no table yet
    cdef bint file_table_refused
    cdef uint32_t *free_files               # a stack of file_table_entries - registered_files indices
    cdef int end_fd                         # reads as closed when the kernel is done with the last request of a closed ring; -1: none
    cdef uint64_t taken_buffers             # a bit for each entry of the table of registered buffers
    cdef bint buffer_table_made, buffer_table_refused

    # The seam: take a slot, queue, enter, next CQE.
    cdef bint foreign_process(self) noexcept nogil
    cdef io_uring_sqe *next_sqe(self) noexcept nogil                            # NULL: the SQ is full
    cdef uint32_t queued(self) noexcept nogil                                   # SQEs not yet taken by the kernel
    cdef bint sqe_is_queued(self, uint32_t sq_position) noexcept nogil
    cdef bint has_work(self) noexcept nogil                                     # an enter would bring something
    cdef bint cq_ready(self) noexcept nogil
    cdef bint overflowed(self) noexcept nogil                                   # CQEs wait in the kernel for room in the CQ
    cdef int enter(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil   # >= 0, or -errno
    cdef uint32_t reap(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil
    # The same without the hook.
    cdef int enter_kernel(self, uint32_t wait_nr, int64_t timeout_ns) noexcept nogil
    cdef uint32_t reap_queue(self, io_uring_cqe *batch, uint32_t batch_max) noexcept nogil

    cdef map_queues(self, io_uring_params *params)
    cdef probe(self)
    cdef int register(self, uint32_t opcode, void *arg, uint32_t nr_args) noexcept nogil
    cdef int enable(self) except -1
    cdef int adopt_fd(self) noexcept
    cdef int disown_fd(self) noexcept
    # In memory of `keeper`, if there is one: whole pages for the ring, and the buffers after them.
    cdef BufferRing make_buffer_ring(self, uint32_t entries, uint32_t buffer_size, void *memory=*, object keeper=*)
    # A descriptor's index in the table of registered files; -1: there is none, use the descriptor itself. See _prep.use_registered_file.
    cdef int register_file(self, int fd) noexcept
    cdef int unregister_file(self, int index) noexcept
    # An entry of the table for a file that a request will open (a direct descriptor); -1: there is none. The second gives an empty one back; one that
    # may have a file, unregister_file() does.
    cdef int reserve_file(self) noexcept
    cdef void return_file(self, int index) noexcept
    cdef int update_file(self, uint32_t index, int32_t fd) noexcept nogil
    cdef bint make_file_table(self) noexcept
    cdef int put_file(self, int fd) noexcept
    # For a ring that its thread lets go of while requests are in flight, see _loop.move_ring().
    cdef int watch_end(self) noexcept
    cdef int take_end(self) noexcept
    # Memory's index in the table of registered buffers, for READ_FIXED and WRITE_FIXED; -1: use the plain requests.
    cdef int register_buffer(self, void *memory, size_t size) noexcept
    cdef int unregister_buffer(self, int index) noexcept
    cdef int update_buffer(self, uint32_t index, void *memory, size_t size) noexcept nogil
    cdef bint make_buffer_table(self) noexcept
    cdef void free_queues(self) noexcept
    cpdef bint supports(self, int opcode)
    cpdef close(self)
