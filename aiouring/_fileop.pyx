"""Requests on an open descriptor by position: pread, pwrite and their like, each awaited by itself; and the descriptor's end.

Used by `_file`, whose files are Descriptors. Calls `_operation`, `_loop`, `_op`, `_prep`.

These calls do not know of each other: any number may be in flight on one descriptor, and they end in any order. Each goes on until all was moved
that can be: a short read is asked for the rest, unless the file ends there, and a short write is continued.

Who owns what: an operation holds its Descriptor and its buffer (locked against resizing) until its last CQE. A Descriptor counts what is in
flight; its close waits for that, so a descriptor's number is never another file's while a request of ours still names it. One that is dropped
is closed by who inherits from it.

What the running kernel has no request for, and what it refuses to do without waiting (a file that somebody opened with O_NONBLOCK), the loop's
executor does. A thread cannot be stopped: such a call ends when the thread is through, also when it was cancelled.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINVAL, EIO, ENXIO, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as posix_close

from aiouring._lent cimport LentBuffer, lend
from aiouring._loop cimport LoopCore
from aiouring._op cimport TAG_RETURNS_FD
from aiouring._operation cimport Operation, Spares, note_spare, spare_operation
from aiouring._prep cimport (
    prep_close,
    prep_fadvise,
    prep_fallocate,
    prep_openat,
    prep_read,
    prep_readv,
    prep_write,
    prep_writev,
)
from aiouring.uapi cimport *

import os

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t size) except -1
    char *bytes_memory "PyBytes_AS_STRING"(PyObject *bytes_object)
    void Py_CLEAR(PyObject *)
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)
    int PyBUF_READ, PyBUF_WRITE

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, AT_FDCWD, AT_EMPTY_PATH
    int POSIX_FADV_NORMAL

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFREG
    int AT_STATX_DONT_SYNC
    unsigned int STATX_TYPE, STATX_SIZE, STATX_INO
    struct kernel_statx "statx":
        uint32_t stx_mask, stx_blksize, stx_dev_major, stx_dev_minor
        uint16_t stx_mode
        uint64_t stx_ino, stx_size
    int get_statx "statx"(int dir_fd, const char *path, int flags, unsigned int mask, kernel_statx *found)

cdef enum:
    VECTORS_MAX = 1024              # the kernel's bound for one request

cdef Spares spare_reads = Spares()
cdef Spares spare_reads_into = Spares()
cdef Spares spare_writes = Spares()


cdef int look_at(int fd, kernel_statx *found) noexcept:
    """What the kernel knows of an open file without asking its disk or its server: that never waits."""
    if get_statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE | STATX_INO, found) != 0:
        return -errno
    return 0


cdef class Descriptor:
    """An open descriptor of a loop."""

    def __cinit__(self):
        self.fd = -1

    cdef int attach(self, LoopCore loop, int fd, object path) except -1:
        """Take what is known of the file. The descriptor belongs to this object from now on only if this succeeds."""
        cdef kernel_statx found
        cdef int rc
        memset(&found, 0, sizeof(found))
        rc = look_at(fd, &found)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc)) if path is None else OSError(-rc, os.strerror(-rc), path)
        self.loop = loop
        self.path = path
        self.kind = found.stx_mode & S_IFMT
        self.block_bytes = found.stx_blksize
        self.size_hint = <int64_t>found.stx_size
        self.device_major = found.stx_dev_major
        self.device = (<uint64_t>found.stx_dev_major << 32) | found.stx_dev_minor
        self.inode = found.stx_ino
        self.fd = fd
        return 0

    cdef bint is_regular(self) noexcept:
        return self.kind == S_IFREG

    cdef int64_t size_now(self) noexcept:
        cdef kernel_statx found
        if self.fd < 0 or look_at(self.fd, &found) < 0 or not found.stx_mask & STATX_SIZE:
            return -1
        return <int64_t>found.stx_size

    cdef object error(self, int error):
        return OSError(error, os.strerror(error)) if self.path is None else OSError(error, os.strerror(error), self.path)

    cdef int check_open(self) except -1:
        if self.closing or self.fd < 0:
            raise ValueError("I/O operation on closed file")
        return 0

    cdef int wrote(self) except -1:
        return 0

    cdef int leave(self) except -1:
        cdef Operation closer
        self.users -= 1
        if self.users == 0 and self.closer is not None:
            closer, self.closer = self.closer, None
            try:
                closer.submit()
            except BaseException as exc:
                closer.fail(exc)
        return 0


# -- one request, or several after one another ------------------------------------------------------------------------------------------------

cdef class FileOperation(Operation):
    """A call on a descriptor that others may overtake."""

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef int start(self) except -1:
        self.file.check_open()
        self.entered = True
        self.file.users += 1
        return self.begin()

    cdef io_uring_sqe *request_sqe(self) except NULL:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, 0)
        self.request = sqe.user_data
        return sqe

    cdef int over(self) except -1:
        Operation.over(self)
        if self.entered:
            self.entered = False
            self.file.leave()
        return 0

    cdef int fail_errno(self, int error) except -1:
        return self.fail(self.file.error(error))

    # -- the executor -----------------------------------------------------------------------------------------------------------------

    cdef int in_executor(self, object function, tuple args) except -1:
        # This is Python code, where the handler of a signal may run and cancel the call: the thread would have its memory all the same.
        cdef bint was_working = self.working
        self.working = True
        try:
            self.future = self.loop.run_in_executor(None, function, *args)
        finally:
            self.working = was_working
        self.future.add_done_callback(self._executed)
        return 0

    def _executed(self, future):
        self.future = None
        try:
            self.executed(future)
        except BaseException as exc:
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise

    cdef int executed(self, object future) except -1:
        if future.cancelled():
            return self.fail(RuntimeError("the loop's executor was shut down while it worked on a file"))
        error = future.exception()
        if isinstance(error, OSError) and error.errno:
            return self.arrived(-error.errno, 0)
        if error is not None:
            return self.fail(error)
        return self.arrived(future.result() or 0, 0)

    cdef bint idle(self) noexcept:
        return self.request == 0 and self.future is None and not self.working

    cdef int stop(self) except -1:
        return 0 if self.future is not None else Operation.stop(self)


@cython.no_gc_clear                         # its destructor needs the view
cdef class RegionOperation(FileOperation):
    """Moves bytes between one piece of memory and the file."""
    cdef char *memory
    cdef Py_ssize_t size, done
    cdef int64_t offset             # of the first byte
    cdef object subject             # the caller's buffer, if it is one
    cdef Py_buffer view
    cdef bint has_view

    # What the kinds provide.
    cdef int set_memory(self) except -1:
        raise NotImplementedError

    cdef int ended(self) except -1:
        raise NotImplementedError

    cdef int begin(self) except -1:
        self.done = 0
        if self.offset < 0 or self.size < 0:
            raise self.file.error(EINVAL)
        self.set_memory()
        return self.submit()            # if it is of no bytes too: the kernel says whether the file is open for it

    cdef uint32_t next_bytes(self) noexcept:
        return <uint32_t>min(self.size - self.done, <Py_ssize_t>REQUEST_BYTES_MAX)

    cdef int get_view(self, int flags) except -1:
        PyObject_GetBuffer(self.subject, &self.view, flags)
        self.has_view = True
        self.memory = <char *>self.view.buf
        self.size = self.view.len
        return 0

    cdef void release(self) noexcept:
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        self.subject = None

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)


cdef class RegionRead(RegionOperation):
    cdef int submit(self) except -1:
        prep_read(self.request_sqe(), self.file.fd, self.memory + self.done, self.next_bytes(), <uint64_t>(self.offset + self.done))
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res == -EAGAIN:
            return self.in_executor(os.preadv, (self.file.fd, [PyMemoryView_FromMemory(self.memory + self.done, self.next_bytes(), PyBUF_WRITE)],
                                                self.offset + self.done))
        if res < 0:
            return self.fail_errno(-res)
        self.done += res
        if self.done == self.size or res == 0 or self.file.is_regular() and self.file.size_now() == self.offset + self.done:
            return self.ended()
        return self.again()


@cython.final
cdef class ReadAt(RegionRead):
    cdef PyObject *data

    cdef str name(self):
        return "File.pread"

    cdef int set_memory(self) except -1:
        self.data = new_bytes(NULL, self.size)
        self.memory = bytes_memory(self.data)
        return 0

    cdef int ended(self) except -1:
        cdef bytes data
        if self.done != self.size:
            _PyBytes_Resize(&self.data, self.done)
        data = <bytes>self.data
        Py_CLEAR(self.data)
        return self.finish(data)

    cdef void release(self) noexcept:
        Py_CLEAR(self.data)

    cdef void taken(self) noexcept:
        self.file = None
        note_spare(spare_reads, self)

    def __dealloc__(self):
        Py_CLEAR(self.data)


@cython.final
cdef class ReadIntoAt(RegionRead):
    cdef str name(self):
        return "File.pread_into"

    cdef int set_memory(self) except -1:
        return self.get_view(PyBUF_WRITABLE)

    cdef int ended(self) except -1:
        return self.finish(self.done)

    cdef void taken(self) noexcept:
        self.file = None
        self.size = 0
        note_spare(spare_reads_into, self)


@cython.final
cdef class WriteAt(RegionOperation):
    cdef str name(self):
        return "File.pwrite"

    cdef int set_memory(self) except -1:
        return self.get_view(PyBUF_SIMPLE)

    cdef int submit(self) except -1:
        prep_write(self.request_sqe(), self.file.fd, self.memory + self.done, self.next_bytes(), <uint64_t>(self.offset + self.done))
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res == -EAGAIN:
            return self.in_executor(os.pwrite, (self.file.fd, PyMemoryView_FromMemory(self.memory + self.done, self.next_bytes(), PyBUF_READ),
                                                self.offset + self.done))
        if res < 0 or res == 0 and self.size:
            return self.fail_errno(-res if res else EIO)    # what takes nothing and does not say why takes nothing the next time either
        self.done += res
        self.file.wrote()
        return self.again() if self.done < self.size else self.ended()

    cdef int ended(self) except -1:
        return self.finish(self.done)

    cdef void taken(self) noexcept:
        self.file = None
        self.size = 0
        note_spare(spare_writes, self)


@cython.final
cdef class VectorOperation(FileOperation):
    """Moves bytes between several buffers and the file."""
    cdef object buffers
    cdef list lent                  # LentBuffers
    cdef iovec *vectors
    cdef Py_ssize_t count, next_vector, total
    cdef int64_t offset             # of the next byte
    cdef bint reading

    cdef str name(self):
        return "File.preadv" if self.reading else "File.pwritev"

    cdef int begin(self) except -1:
        cdef list buffers = list(self.buffers)
        cdef LentBuffer lent
        cdef Py_ssize_t index
        if self.offset < 0:
            raise self.file.error(EINVAL)
        self.count = len(buffers)
        self.vectors = <iovec *>PyMem_RawMalloc(max(self.count, 1) * sizeof(iovec))
        if self.vectors == NULL:
            raise MemoryError(f"no memory for a list of {self.count} buffers")
        self.lent = []
        for index in range(self.count):
            lent = lend(buffers[index], PyBUF_WRITABLE if self.reading else PyBUF_SIMPLE)
            self.lent.append(lent)
            self.vectors[index].iov_base = lent.view.buf
            self.vectors[index].iov_len = <size_t>lent.view.len
        self.skip_empty()
        return self.submit()

    cdef bint skip_empty(self) noexcept:
        """Whether there is anything left to move."""
        while self.next_vector < self.count and self.vectors[self.next_vector].iov_len == 0:
            self.next_vector += 1
        return self.next_vector < self.count

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.request_sqe()
        cdef uint32_t count = <uint32_t>min(self.count - self.next_vector, <Py_ssize_t>VECTORS_MAX)
        if self.reading:
            prep_readv(sqe, self.file.fd, &self.vectors[self.next_vector], count, <uint64_t>self.offset)
        else:
            prep_writev(sqe, self.file.fd, &self.vectors[self.next_vector], count, <uint64_t>self.offset)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        cdef size_t moved = <size_t>max(res, 0), step
        cdef iovec *vector
        if res == -EAGAIN:
            vector = &self.vectors[self.next_vector]
            step = min(vector.iov_len, <size_t>REQUEST_BYTES_MAX)
            if self.reading:
                return self.in_executor(os.preadv, (self.file.fd, [PyMemoryView_FromMemory(<char *>vector.iov_base, step, PyBUF_WRITE)], self.offset))
            return self.in_executor(os.pwrite, (self.file.fd, PyMemoryView_FromMemory(<char *>vector.iov_base, step, PyBUF_READ), self.offset))
        if res < 0 or res == 0 and not self.reading and self.skip_empty():
            return self.fail_errno(-res if res else EIO)
        self.offset += res
        self.total += res
        while moved:
            vector = &self.vectors[self.next_vector]
            step = min(moved, vector.iov_len)
            vector.iov_base = <char *>vector.iov_base + step
            vector.iov_len -= step
            moved -= step
            if vector.iov_len == 0:
                self.next_vector += 1
        if not self.reading:
            self.file.wrote()
        if res == 0 or not self.skip_empty() or self.reading and self.file.is_regular() and self.file.size_now() == self.offset:
            return self.finish(self.total)
        return self.again()

    cdef void release(self) noexcept:
        PyMem_RawFree(self.vectors)
        self.vectors = NULL
        self.lent = None
        self.buffers = None

    def __dealloc__(self):
        PyMem_RawFree(self.vectors)


cdef VectorOperation vectored(Descriptor file, object buffers, int64_t offset, bint reading):
    cdef VectorOperation operation = VectorOperation.__new__(VectorOperation)
    operation.loop = file.loop
    operation.file = file
    operation.buffers = buffers
    operation.offset = offset
    operation.reading = reading
    return operation


@cython.final
cdef class RangeOperation(FileOperation):
    """fallocate() and posix_fadvise()."""
    cdef int opcode, argument
    cdef int64_t offset, length

    cdef str name(self):
        return "File.advise" if self.opcode == IORING_OP_FADVISE else "File.allocate"      # also while the object is being freed

    cdef int begin(self) except -1:
        if self.opcode == IORING_OP_FADVISE and self.length > 0xFFFFFFFF:
            # Its SQE has 32 bits for the length, on most kernels.
            return self.in_executor(os.posix_fadvise, (self.file.fd, self.offset, self.length, self.argument))
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.request_sqe()
        if self.opcode == IORING_OP_FADVISE:
            prep_fadvise(sqe, self.file.fd, <uint64_t>self.offset, <uint32_t>self.length, self.argument)
        else:
            prep_fallocate(sqe, self.file.fd, self.argument, <uint64_t>self.offset, <uint64_t>self.length)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail_errno(-res)
        if self.opcode == IORING_OP_FALLOCATE:
            self.file.wrote()
        return self.finish(None)


cdef RangeOperation range_call(Descriptor file, int opcode, int64_t offset, int64_t length, int argument):
    cdef RangeOperation operation
    if offset < 0 or length < 0:
        raise file.error(EINVAL)
    operation = RangeOperation.__new__(RangeOperation)
    operation.loop = file.loop
    operation.file = file
    operation.opcode = opcode
    operation.offset = offset
    operation.length = length
    operation.argument = argument
    return operation


# -- what users call ----------------------------------------------------------------------------------------------------------------------------

cdef class DescriptorView:
    """What stands in a user's hands for an open descriptor: its calls by position."""

    def pread(self, Py_ssize_t size, int64_t offset):
        """Up to `size` bytes from `offset` on; fewer only where the file ends. The stream's position and its buffer are not used."""
        cdef ReadAt operation = <ReadAt>spare_operation(spare_reads)
        if operation is None:
            operation = ReadAt.__new__(ReadAt)
        operation.loop = self.descriptor.loop
        operation.file = self.descriptor
        operation.size = size
        operation.offset = offset
        return operation

    def pread_into(self, buffer, int64_t offset):
        """Fill the writable `buffer` from `offset` on. Returns the number of bytes: fewer than it holds only where the file ends.

        The buffer is locked against resizing until the call has ended.
        """
        cdef ReadIntoAt operation = <ReadIntoAt>spare_operation(spare_reads_into)
        if operation is None:
            operation = ReadIntoAt.__new__(ReadIntoAt)
        operation.loop = self.descriptor.loop
        operation.file = self.descriptor
        operation.subject = buffer
        operation.offset = offset
        return operation

    def pwrite(self, data, int64_t offset):
        """Write all of `data` at `offset`. Returns the number of bytes. With mode "a" the kernel appends, wherever `offset` points.

        `data` is locked against resizing, and must not be changed, until the call has ended. After an error or a cancellation nobody knows
        how much was written.
        """
        cdef WriteAt operation = <WriteAt>spare_operation(spare_writes)
        if operation is None:
            operation = WriteAt.__new__(WriteAt)
        operation.loop = self.descriptor.loop
        operation.file = self.descriptor
        operation.subject = data
        operation.offset = offset
        return operation

    def preadv(self, buffers, int64_t offset):
        """Fill several writable buffers, one after the other. Returns the number of bytes, as pread_into()."""
        return vectored(self.descriptor, buffers, offset, True)

    def pwritev(self, buffers, int64_t offset):
        """Write several buffers, one after the other. Returns the number of bytes, as pwrite()."""
        return vectored(self.descriptor, buffers, offset, False)

    def advise(self, int64_t offset=0, int64_t length=0, int advice=POSIX_FADV_NORMAL):
        """posix_fadvise(): what will be read. `length` 0: to the end of the file. `advice` is one of os.POSIX_FADV_*."""
        return range_call(self.descriptor, IORING_OP_FADVISE, offset, length, advice)

    def allocate(self, int64_t offset, int64_t length, int mode=0):
        """fallocate(): disk space for `length` bytes from `offset` on; the file grows to hold them. `mode` has the bits of fallocate(2).

        OSError with ENOSPC where there is no room, with EOPNOTSUPP where the file system cannot.
        """
        return range_call(self.descriptor, IORING_OP_FALLOCATE, offset, length, mode)


# -- the beginning and the end ------------------------------------------------------------------------------------------------------------------

@cython.final
cdef class OpenDescriptor(Operation):
    """OPENAT. A descriptor that nobody takes is closed."""
    cdef object named               # the path as errors show it
    cdef bytes path                 # as the kernel reads it
    cdef int flags
    cdef uint32_t mode
    cdef bint waits                 # in a worker of the kernel, from the start

    cdef str name(self):
        return "open"

    cdef int start(self) except -1:
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, TAG_RETURNS_FD)
        self.request = sqe.user_data
        prep_openat(sqe, AT_FDCWD, PyBytes_AS_STRING(self.path), self.flags | O_CLOEXEC, self.mode)
        if self.waits:
            sqe.flags |= <uint8_t>IOSQE_ASYNC
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res == -ENXIO and not self.waits:
            # The kernel's first attempt does not wait: a FIFO without a reader says this. In a worker it waits for one.
            self.waits = True
            return self.again()
        if res < 0:
            return self.fail(OSError(-res, os.strerror(-res), self.named))
        return self.finish(res)

    cdef bint keep(self, object result) except -1:
        close_unseen(self.loop, result)
        return True


def open_descriptor(LoopCore loop not None, bytes path not None, object named, int flags, uint32_t mode, bint waits=False):
    """os.open() on the loop's ring. `named` is the path as an error shows it."""
    cdef OpenDescriptor operation = OpenDescriptor.__new__(OpenDescriptor)
    operation.loop = loop
    operation.path = path
    operation.named = named
    operation.flags = flags
    operation.mode = mode
    operation.waits = waits
    return operation


cdef io_uring_sqe *begin_close(Descriptor file, Operation owner) except NULL:
    cdef io_uring_sqe *sqe = owner.loop.ops.begin(owner, Operation.complete, 0)
    owner.request = sqe.user_data
    prep_close(sqe, file.fd)
    file.closing = True
    file.fd = -1                    # from here on its number may be another file's
    return sqe


cdef void close_moved(Descriptor file, int fd) noexcept:
    """After a CLOSE whose answer was lost with its ring: closes the descriptor if it is still that file's."""
    cdef kernel_statx found
    if look_at(fd, &found) == 0 and found.stx_ino == file.inode and \
            (<uint64_t>found.stx_dev_major << 32 | found.stx_dev_minor) == file.device:
        posix_close(fd)


cdef class Unseen:
    """Owns a request whose end nobody waits for."""

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        return 0


cdef Unseen unseen = Unseen()


cdef int close_unseen(LoopCore loop, int fd) noexcept:
    cdef io_uring_sqe *sqe
    if not loop._closed and not loop.ring.foreign_process() and loop.ops.issuer == PyThread_get_thread_ident():
        try:
            sqe = loop.ops.begin(unseen, Unseen.complete, 0)
        except BaseException:
            pass
        else:
            prep_close(sqe, fd)
            return 0
    return posix_close(fd)
