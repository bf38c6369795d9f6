"""The engine of copyfile(): several blocks in flight, each read from one descriptor and written to another at the same place.

Used by `copying`. Calls `_operation`, `_loop`, `_op`, `_prep`, and `_ring` for registered buffers.

Blocks are independent of each other: while some are written, others are read ahead. A block that came short is read on until it is full or
the file ends, and written on until all of it is out. What is copied is what the source has up to the first end that a read tells, so a
file that grows or shrinks meanwhile gives a copy of some moment's length, and `copying` compares and says so.

Who owns what: the operation owns the blocks' memory until the last CQE of each and until the executor's thread is done with it (a thread that
computes a checksum holds the operation). Descriptors are the caller's, and stay open until the operation is over.
"""

cimport cython
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EINTR, EIO
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from aiouring._fsop cimport path_error, running_loop
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_read, prep_write
from aiouring._ring cimport Ring
from aiouring.uapi cimport *

cdef extern from "Python.h":
    int PyBUF_READ

cdef enum block_state:
    FREE
    READING
    WRITING
    WRITTEN                 # and its checksum is still to come

cdef enum:
    BLOCKS_MOST = 64

cdef int64_t NOWHERE = 0x7FFFFFFFFFFFFFFF
cdef bytes ZEROS = bytes(65536)

cdef struct block:
    uint64_t request
    int64_t offset
    uint32_t wanted         # bytes to read
    uint32_t filled         # of them, those that are there
    uint32_t written
    uint64_t number         # in the order of offsets
    block_state state
    bint whole              # read to its end
    bint digested


@cython.final
cdef class CopyBlocks(Operation):
    """One copy. Its result is (end, written): where the source ended, and the end of the last byte that was written."""

    cdef int src_fd, dst_fd
    cdef object src_named, dst_named, progress, digest, failure
    cdef Ring fixed_ring            # the ring that has the memory registered, None: none
    cdef int fixed_index
    cdef char *memory
    cdef block *blocks
    cdef uint32_t depth, block_bytes, alignment
    cdef bint digest_busy, stopped
    cdef int reading, in_flight
    cdef list extents               # (start, end) in order, those still to come, the next one last
    cdef int64_t next_offset, extent_end
    cdef int64_t total, done        # bytes, of holes too: for the progress
    cdef int64_t end, written
    cdef uint64_t blocks_begun, blocks_digested
    cdef int64_t digest_offset

    cdef str name(self):
        return "fs.copyfile"

    # -- set-up ---------------------------------------------------------------------------------------------------------------------------------

    cdef int start(self) except -1:
        cdef void *memory = mmap(NULL, <size_t>self.depth * self.block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED:
            raise MemoryError("no memory for the blocks of a copy")
        self.memory = <char *>memory
        self.blocks = <block *>PyMem_RawCalloc(self.depth, sizeof(block))
        if self.blocks == NULL:
            raise MemoryError("no memory for the blocks of a copy")
        if self.alignment > 1:
            self.fixed_index = self.loop.ring.register_buffer(self.memory, <size_t>self.depth * self.block_bytes)
            if self.fixed_index >= 0:
                self.fixed_ring = self.loop.ring
        self.next_extent()
        return self.submit()

    cdef int next_extent(self) except -1:
        cdef int64_t start
        if self.extents:
            start, self.extent_end = self.extents.pop()
            self.done += max(start - self.next_offset, <int64_t>0)      # a hole is copied by leaving it out
            self.next_offset = start
        else:
            self.next_offset = self.extent_end = NOWHERE
        return 0

    # -- what comes next ------------------------------------------------------------------------------------------------------------------------

    cdef int submit(self) except -1:
        """Begin whatever can be begun, or end: at the start and after each completion."""
        cdef uint32_t index
        if self.failure is not None or not self.wanted():
            if not self.idle():
                return self.stop()      # the last completion brings us back
            return self.again() if self.failure is None else self.fail(self.failure)
        for index in range(self.depth):
            if self.blocks[index].state == FREE and self.may_read():
                self.begin_block(index)
        if self.idle():
            return self.finish((self.end, self.written))
        return 0

    cdef bint may_read(self) except -1:
        if self.next_offset >= self.extent_end:
            self.next_extent()
        if self.next_offset >= self.end:
            return False
        # Behind what the source had at first there is as a rule nothing: one read at a time asks.
        return self.next_offset < self.total or self.reading == 0

    cdef int begin_block(self, uint32_t index) except -1:
        cdef block *one = &self.blocks[index]
        memset(one, 0, sizeof(block))
        one.offset = self.next_offset
        one.wanted = <uint32_t>min(<int64_t>self.block_bytes, self.extent_end - self.next_offset)
        one.number = self.blocks_begun
        self.read_block(index)
        self.blocks_begun += 1
        self.next_offset += one.wanted
        return 0

    cdef int read_block(self, uint32_t index) except -1:
        cdef block *one = &self.blocks[index]
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, CopyBlocks.block_complete, index)
        prep_read(sqe, self.src_fd, self.memory + <size_t>index * self.block_bytes + one.filled, one.wanted - one.filled,
                  <uint64_t>(one.offset + one.filled))
        self.use_fixed(sqe, IORING_OP_READ_FIXED)
        one.request = sqe.user_data
        one.state = READING
        self.reading += 1
        self.in_flight += 1
        return 0

    cdef int write_block(self, uint32_t index) except -1:
        cdef block *one = &self.blocks[index]
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, CopyBlocks.block_complete, index)
        # With O_DIRECT the end of the file is written in whole sectors, the rest of them zeros; the caller cuts the file then.
        prep_write(sqe, self.dst_fd, self.memory + <size_t>index * self.block_bytes + one.written, self.padded(one.filled) - one.written,
                   <uint64_t>(one.offset + one.written))
        self.use_fixed(sqe, IORING_OP_WRITE_FIXED)
        one.request = sqe.user_data
        one.state = WRITING
        self.in_flight += 1
        return 0

    cdef uint32_t padded(self, uint32_t length) noexcept:
        return (length + self.alignment - 1) // self.alignment * self.alignment

    cdef int use_fixed(self, io_uring_sqe *sqe, int opcode) noexcept:
        # A loop that moved to another thread has another ring, which knows nothing of our memory.
        if self.fixed_ring is not None and self.fixed_ring is self.loop.ring:
            sqe.opcode = <uint8_t>opcode
            sqe.buf_index = <uint16_t>self.fixed_index
        return 0

    # -- what came --------------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    cdef int block_complete(object owner, uint32_t index, int32_t res, uint32_t cqe_flags) except -1:
        cdef CopyBlocks self = <CopyBlocks>owner
        cdef block *one = &self.blocks[index]
        one.request = 0
        self.in_flight -= 1
        try:
            if one.state == READING:
                self.reading -= 1
                self.block_read(index, res)
            else:
                self.block_written(index, res)
            self.submit()
        except BaseException as exc:
            self.note_failure(exc)
            self.submit()
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef int block_read(self, uint32_t index, int32_t res) except -1:
        cdef block *one = &self.blocks[index]
        if not self.going_on():
            return 0
        if res == -ECANCELED or res == -EINTR:
            return self.read_block(index)
        if res < 0:
            return self.note_failure(path_error(-res, self.src_named, None))
        one.filled += res
        if res > 0 and one.filled < one.wanted and one.filled % self.alignment == 0:
            return self.read_block(index)
        one.whole = True
        if one.filled < one.wanted:
            self.end = min(self.end, one.offset + one.filled)
            if self.alignment > 1:
                memset(self.memory + <size_t>index * self.block_bytes + one.filled, 0, self.padded(one.filled) - one.filled)
        if self.digest is not None:
            self.digest_next()
            if not self.going_on():
                return 0
        if one.filled:
            return self.write_block(index)
        one.state = WRITTEN
        return self.free_block(index)

    cdef int block_written(self, uint32_t index, int32_t res) except -1:
        cdef block *one = &self.blocks[index]
        if not self.going_on():
            return 0
        if res == -ECANCELED or res == -EINTR:
            return self.write_block(index)
        if res <= 0:
            return self.note_failure(path_error(-res if res else EIO, self.dst_named, None))
        one.written += res
        if one.written < self.padded(one.filled):
            return self.write_block(index)
        self.written = max(self.written, one.offset + one.written)
        one.state = WRITTEN
        self.done += one.filled
        self.free_block(index)
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))
        return 0

    cdef int free_block(self, uint32_t index) except -1:
        if self.blocks[index].state == WRITTEN and (self.digest is None or self.blocks[index].digested):
            self.blocks[index].state = FREE
        return 0

    cdef bint going_on(self) noexcept:
        return self.failure is None and self.wanted()

    cdef int note_failure(self, object error) except -1:
        if self.failure is None:
            self.failure = error
        return 0

    # -- checksum -----------------------------------------------------------------------------------------------------------------------------------

    cdef int digest_next(self) except -1:
        """Give the next block in order, if it is there, to a thread."""
        cdef uint32_t index
        cdef block *one
        if self.digest_busy:
            return 0
        for index in range(self.depth):
            one = &self.blocks[index]
            if one.state != FREE and one.number == self.blocks_digested and one.whole:
                # From here on: what is called is Python code, where a signal's handler may cancel the copy, and a thread has its memory then.
                self.digest_busy = True
                try:
                    future = self.loop.run_in_executor(None, self._digest_block, index)
                except BaseException:
                    self.digest_busy = False
                    raise
                future.add_done_callback(self._block_digested)
                return 0
        return 0

    def _digest_block(self, uint32_t index):
        """In the executor's thread, which holds this object, and with it the memory, by the bound method."""
        cdef block *one = &self.blocks[index]
        cdef int64_t hole = one.offset - self.digest_offset
        while hole > 0:
            self.digest(ZEROS[:hole])
            hole -= len(ZEROS)
        if one.filled:
            self.digest(PyMemoryView_FromMemory(self.memory + <size_t>index * self.block_bytes, one.filled, PyBUF_READ))
        self.digest_offset = one.offset + one.filled
        return index

    def _block_digested(self, future):
        cdef uint32_t index
        self.digest_busy = False
        try:
            index = future.result()
            self.blocks[index].digested = True
            self.blocks_digested += 1
            if self.going_on():
                self.free_block(index)
                self.digest_next()
        except BaseException as exc:
            self.note_failure(exc)
        self.submit()

    # -- the end ------------------------------------------------------------------------------------------------------------------------------------

    cdef int stop(self) except -1:
        cdef uint32_t index
        if not self.stopped:
            self.stopped = True
            for index in range(self.depth):
                self.loop.ops.cancel(self.blocks[index].request)
        return 0

    cdef bint idle(self) noexcept:
        return self.in_flight == 0 and not self.digest_busy

    cdef void release(self) noexcept:
        if self.fixed_ring is not None and self.fixed_ring is self.loop.ring:
            self.fixed_ring.unregister_buffer(self.fixed_index)
        self.fixed_ring = None
        self.failure = None
        self.free_memory()

    cdef void free_memory(self) noexcept:
        if self.memory != NULL:
            munmap(self.memory, <size_t>self.depth * self.block_bytes)
            self.memory = NULL
        PyMem_RawFree(self.blocks)
        self.blocks = NULL

    def __dealloc__(self):
        self.free_memory()


def copy_blocks(int src_fd, int dst_fd, *, src, dst, int64_t start, list extents not None, int64_t total, uint32_t block_bytes,
                uint32_t depth, uint32_t alignment=1, progress=None, digest=None):
    """Copy the extents, a list of (start, end), from one descriptor to the other; None where the running loop is not ours.

    src, dst: the paths that errors name. start: what lies before it is there already.
    total: the source's size as far as known, in bytes. alignment: 1, or O_DIRECT's, for both descriptors (then `block_bytes` is a multiple of it, and
    the memory is registered with the ring). progress: called with (bytes done, total). digest: called in the executor's threads with all bytes
    from `start` on, in order, holes as zeros.
    """
    cdef LoopCore loop = running_loop()
    cdef CopyBlocks operation
    if loop is None:
        return None
    if not 0 < depth <= BLOCKS_MOST or block_bytes == 0 or alignment == 0 or block_bytes % alignment:
        raise ValueError(f"{depth} blocks of {block_bytes} bytes, aligned to {alignment}, cannot be copied")
    operation = CopyBlocks.__new__(CopyBlocks)
    operation.loop = loop
    operation.src_fd = src_fd
    operation.dst_fd = dst_fd
    operation.src_named = src
    operation.dst_named = dst
    operation.extents = extents[::-1]
    operation.total = total
    operation.block_bytes = block_bytes
    operation.depth = depth
    operation.alignment = alignment
    operation.progress = progress
    operation.digest = digest
    operation.next_offset = operation.done = operation.digest_offset = start
    operation.end = NOWHERE
    operation.fixed_index = -1
    return operation
