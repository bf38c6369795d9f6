"""Requests on bare descriptors, for work on whole files: open, write all, fsync, allocate, close.

Used by `descriptors`. Calls `_fsop`, whose PathCall these derive from, and `_prep`. Each function returns an awaitable, or None where the running
loop is not ours or the kernel has no such request. Errors name the path that the caller gives.

Who owns what: an OpenCall whose descriptor nobody takes closes it. A WriteCall holds the bytes until the last CQE.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from libc.errno cimport EIO
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from posix.unistd cimport close as posix_close

from aiouring._fsop cimport PathCall, as_dir_fd, close_soon, encode_path, loop_with, new_call, path_error, plain_path, ready, running_loop
from aiouring._loop cimport LoopCore
from aiouring._op cimport TAG_RETURNS_FD
from aiouring._prep cimport prep_close, prep_fallocate, prep_fsync, prep_openat, prep_write
from aiouring.uapi cimport *

import os

cdef extern from "Python.h":
    int PySys_Audit(const char *event, const char *format, ...) except -1

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_EXCL

cdef enum:
    PIECE_BYTES = 1048576       # what one request writes at most, so that the rest of the loop has its turn


@cython.final
cdef class OpenCall(PathCall):
    cdef bint creates           # a file that nobody else has: O_EXCL

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, PathCall.call_complete, TAG_RETURNS_FD)
        self.request = sqe.user_data
        prep_openat(sqe, self.fd, self.path, <int>self.flags | O_CLOEXEC, self.length)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail(path_error(-res, self.named, None))
        return self.finish(res)

    cdef bint keep(self, object result) except -1:
        """Nobody takes the descriptor."""
        close_soon(self.loop, result)
        if self.creates and not self.cancel_requested:
            # The coroutine was closed, so that nobody can wait for the file's removal. Whoever handles CancelledError can, and does.
            try:
                os.unlink(self.path)
            except OSError:
                pass
        return True


@cython.final
cdef class CloseCall(PathCall):
    cdef int fill(self, io_uring_sqe *sqe) except -1:
        prep_close(sqe, self.fd)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail(path_error(-res, self.named, None))
        return self.finish(None)


@cython.final
cdef class SyncCall(PathCall):
    cdef int fill(self, io_uring_sqe *sqe) except -1:
        if self.opcode == IORING_OP_FSYNC:
            prep_fsync(sqe, self.fd, self.flags)
        else:
            prep_fallocate(sqe, self.fd, <int>self.flags, 0, self.offset)
        return 0


@cython.final
cdef class WriteCall(PathCall):
    """All of the bytes, from the file's start on. A short write is continued, as often as it takes."""

    cdef bytes data
    cdef Py_ssize_t written

    cdef int submit(self) except -1:
        cdef Py_ssize_t left = len(self.data) - self.written
        cdef io_uring_sqe *sqe
        if left == 0:
            return self.finish(self.written)
        sqe = self.loop.ops.begin(self, PathCall.call_complete, 0)
        self.request = sqe.user_data
        prep_write(sqe, self.fd, PyBytes_AS_STRING(self.data) + self.written, <uint32_t>min(left, <Py_ssize_t>PIECE_BYTES),
                   <uint64_t>self.written)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res <= 0:
            # A file that takes nothing of some bytes, and does not say why, takes none the next time either.
            return self.fail(path_error(-res if res else EIO, self.named, None))
        self.written += res
        return self.again()


def open_fd(path, int flags, int mode, dir_fd):
    """os.open() by OPENAT, with O_CLOEXEC."""
    cdef LoopCore loop = loop_with(IORING_OP_OPENAT)
    cdef OpenCall call
    if loop is None:
        return None
    call = <OpenCall>new_call(OpenCall, loop, IORING_OP_OPENAT, b"open")
    call.repeatable = True      # with O_EXCL it fails then
    call.named = plain_path("open", path)
    call.path = encode_path("open", call.named)
    call.fd = as_dir_fd(dir_fd)
    call.flags = <uint32_t>flags
    call.length = <uint32_t>mode
    call.creates = flags & O_EXCL != 0
    PySys_Audit("open", "OOi", <PyObject *>call.named, <PyObject *>None, flags | O_CLOEXEC)
    return ready(call)


def write_all(int fd, bytes data not None, path):
    """Write the bytes at the start of a file. Returns their number."""
    cdef LoopCore loop = running_loop()
    cdef WriteCall call
    if loop is None:
        return None
    call = <WriteCall>new_call(WriteCall, loop, IORING_OP_WRITE, b"write")
    call.repeatable = True
    call.fd = fd
    call.data = data
    call.named = path
    return ready(call)


cdef SyncCall sync_call(int opcode, const char *function, int fd, object path):
    cdef LoopCore loop = loop_with(opcode)
    cdef SyncCall call
    if loop is None:
        return None
    call = <SyncCall>new_call(SyncCall, loop, opcode, function)
    call.repeatable = True
    call.fd = fd
    call.named = path
    return ready(call)


def fsync(int fd, path):
    """os.fsync() by FSYNC."""
    return sync_call(IORING_OP_FSYNC, b"fsync", fd, path)


def allocate(int fd, int64_t length, int mode, path):
    """fallocate(2) from the file's start on by FALLOCATE."""
    cdef SyncCall call = sync_call(IORING_OP_FALLOCATE, b"allocate", fd, path)
    if call is not None:
        call.offset = <uint64_t>length
        call.flags = <uint32_t>mode
    return call


def close(int fd, path):
    """os.close() by CLOSE. It is not cancelled: the descriptor is closed when the call ends, however it ends."""
    cdef LoopCore loop = loop_with(IORING_OP_CLOSE)
    cdef CloseCall call
    if loop is None:
        return None
    call = <CloseCall>new_call(CloseCall, loop, IORING_OP_CLOSE, b"close")
    call.must_end = True
    call.fd = fd
    call.named = path
    return ready(call)


def close_unawaited(int fd):
    """Close where nobody can wait: by the running loop's next enter, or at once."""
    cdef LoopCore loop = running_loop_or_none()
    if loop is None:
        posix_close(fd)
    else:
        close_soon(loop, fd)


cdef LoopCore running_loop_or_none():
    try:
        return running_loop()
    except RuntimeError:
        return None
