"""fs.read_bytes(): open, read to the end, close, as one call without task switches between its requests.

Used by `contents`. Calls `_fsop`, `_operation`, `_prep`.

A small file takes three requests, one after the other: OPENAT, a READ that brings everything, and a READ that brings nothing, which alone
tells the end (files of /proc come in pieces, and their size is 0). CLOSE goes out before the task runs that waits for the bytes; nobody waits
for its answer. Large files are read in pieces of 1 MiB, so that the rest of the loop has its turn between them.

OPENAT does not wait for a FIFO's writer, and without one the end of the file is there at once. Where a file seems empty the call therefore asks
what it is, and of a FIFO it waits by polling until there is data, or a writer has come and gone: open() would have waited for the same.

At most FILES_AT_ONCE files are open at once on a loop; the rest waits in line, so that a program may ask for ten thousand at once without
running out of descriptors.

Who owns what: the call owns its descriptor and the bytes object that is being filled, and lets go of both after the last CQE.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.unistd cimport close as posix_close

from aiouring._awaitable cimport NEW, OVER, WAITING
from aiouring._fsop cimport close_soon, encode_path, path_error, plain_path, running_loop
from aiouring._fsprep cimport prep_statx
from aiouring._loop cimport LoopCore
from aiouring._op cimport TAG_RETURNS_FD
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_openat, prep_poll_add, prep_read
from aiouring.uapi cimport *

import collections

cdef extern from "Python.h":
    int PySys_Audit(const char *event, const char *format, ...) except -1
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t size) except -1
    PyObject *PyBytes_FromStringAndSize_new "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    char *bytes_memory "PyBytes_AS_STRING"(PyObject *bytes_object)

cdef extern from "<fcntl.h>" nogil:
    int AT_FDCWD, O_RDONLY, O_CLOEXEC

cdef extern from "<poll.h>" nogil:
    uint32_t POLLIN

cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFIFO

cdef enum:
    KERNEL_AT_EMPTY_PATH = 0x1000
    KERNEL_STATX_TYPE = 1
    FILES_AT_ONCE = 64
    FIRST_BYTES = 16384         # most files of most folders fit
    GROWTH = 4
    PIECE_BYTES = 1048576
    GROWTH_MOST_BYTES = 67108864


cdef class Line:
    """The whole files that a loop reads at once, and those that wait for their turn."""

    cdef int busy
    cdef object waiting         # deque of ReadFile


cdef Line line_of(LoopCore loop):
    cdef dict attributes = loop.__dict__
    line = attributes.get("_whole_files")
    if line is None:
        line = attributes["_whole_files"] = Line.__new__(Line)
        (<Line>line).waiting = collections.deque()
    return <Line>line


cdef enum read_step:
    OPENING
    READING
    ASKING              # what it is that seems empty
    POLLING             # a FIFO, for its writer


@cython.final
cdef class ReadFile(Operation):
    cdef object named
    cdef bytes path
    cdef Line line
    cdef int fd                 # -1: not open
    cdef read_step doing
    cdef bint polled
    cdef bint in_line           # counts in line.busy
    cdef aiouring_statx found
    cdef PyObject *data         # a bytes object that is ours alone, NULL: none
    cdef Py_ssize_t size, filled

    cdef str name(self):
        return "fs.read_bytes"

    cdef int start(self) except -1:
        self.line = line_of(self.loop)
        if self.line.busy >= FILES_AT_ONCE:
            self.line.waiting.append(self)
            return 0
        return self.begin()

    cdef int begin(self) except -1:
        self.line.busy += 1
        self.in_line = True
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, Operation.complete, TAG_RETURNS_FD if self.doing == OPENING else 0)
        self.request = sqe.user_data
        if self.doing == READING:
            prep_read(sqe, self.fd, bytes_memory(self.data) + self.filled,
                      <uint32_t>min(self.size - self.filled, <Py_ssize_t>PIECE_BYTES), <uint64_t>self.filled)
        elif self.doing == ASKING:
            prep_statx(sqe, self.fd, b"", KERNEL_AT_EMPTY_PATH, KERNEL_STATX_TYPE, &self.found)
        elif self.doing == POLLING:
            prep_poll_add(sqe, self.fd, POLLIN)
        else:
            prep_openat(sqe, AT_FDCWD, self.path, O_RDONLY | O_CLOEXEC, 0)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail(path_error(-res, self.named, None))
        if self.doing == READING:
            if res == 0:
                if self.filled or self.polled:
                    return self.finish_read()
                self.doing = ASKING
            else:
                self.filled += res
                if self.filled == self.size and self.wanted():
                    self.size += min(self.size * (GROWTH - 1), <Py_ssize_t>GROWTH_MOST_BYTES)
                    _PyBytes_Resize(&self.data, self.size)      # large blocks are moved by the kernel's page tables, not copied
        elif self.doing == ASKING:
            if self.found.stx_mode & S_IFMT != S_IFIFO:
                return self.finish_read()
            self.doing = POLLING
        elif self.doing == POLLING:
            self.polled = True
            self.doing = READING
        else:
            self.fd = res
            self.doing = READING
            if self.wanted():
                self.size = FIRST_BYTES
                self.data = PyBytes_FromStringAndSize_new(NULL, FIRST_BYTES)
        return self.again()

    cdef int finish_read(self) except -1:
        return self.finish(self.take_data() if self.wanted() else None)

    cdef object take_data(self):
        cdef object result
        _PyBytes_Resize(&self.data, self.filled)
        result = <object>self.data
        Py_XDECREF(self.data)
        self.data = NULL
        return result

    cdef void release(self) noexcept:
        cdef ReadFile following
        if self.fd >= 0:
            close_soon(self.loop, self.fd)
            self.fd = -1
        Py_XDECREF(self.data)
        self.data = NULL
        if not self.in_line:
            return
        self.in_line = False
        self.line.busy -= 1
        while self.line.waiting and self.line.busy < FILES_AT_ONCE:
            following = <ReadFile>self.line.waiting.popleft()
            if following.state == WAITING and not following.cancel_requested:
                following.begin_late()

    cdef void begin_late(self) noexcept:
        try:
            self.begin()
        except BaseException as exc:
            self.give_up_late(exc)

    cdef void give_up_late(self, object error) noexcept:
        try:
            self.fail(error)
        except BaseException as exc:
            self.loop.call_exception_handler({"message": "A file's turn to be read failed", "exception": exc})

    def __dealloc__(self):
        if self.fd >= 0:
            posix_close(self.fd)        # its loop was closed
        Py_XDECREF(self.data)


def read_bytes(path):
    """All bytes of the file as an awaitable, or None where the running loop is not ours."""
    cdef LoopCore loop = running_loop()
    cdef ReadFile call
    if loop is None or not loop.ring.supports(IORING_OP_OPENAT):
        return None
    call = ReadFile.__new__(ReadFile)
    call.state = OVER           # not a coroutine that nobody awaited, if the path is none
    call.fd = -1
    call.loop = loop
    call.named = plain_path("read_bytes", path)
    call.path = encode_path("read_bytes", call.named)
    PySys_Audit("open", "Osi", <PyObject *>call.named, b"rb", O_RDONLY | O_CLOEXEC)
    call.state = NEW
    return call
