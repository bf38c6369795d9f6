"""fs.open_beneath(): open what a path names below a folder, and nothing else, by OPENAT2.

Used by `fs`. Calls `_fsop`, whose PathCall it derives from, and `_fsprep`. open_beneath() returns an awaitable, or None where the running loop is
not ours or the kernel has no such request; open_beneath_now() is the same for the executor, and blocks.

The kernel resolves the path with RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS: neither "..", nor a symbolic link, nor a rename that happens meanwhile
leads above the folder, and what is absolute leads nowhere. All of that is EXDEV. EAGAIN says that something was renamed or mounted while a ".." was
followed, so that the kernel could not tell; it is asked again a few times.

Who owns what: as an OpenCall of `_fdop`, a call whose descriptor nobody takes closes it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint32_t, uint64_t

from aiouring._fsop cimport PathCall, as_dir_fd, close_soon, encode_path, loop_with, new_call, path_error, plain_path, ready
from aiouring._fsprep cimport prep_openat2
from aiouring._loop cimport LoopCore
from aiouring._op cimport TAG_RETURNS_FD
from aiouring.uapi cimport *

cdef extern from "Python.h":
    int PySys_Audit(const char *event, const char *format, ...) except -1

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_CREAT
    uint32_t O_TMPFILE

cdef enum:
    TRIES = 8
    NR_OPENAT2 = 437            # the same on every architecture but Alpha


cdef int fill_how(aiouring_open_how *how, int flags, int mode) except -1:
    """openat2() refuses what open() ignores: a mode where nothing is created."""
    how.flags = <uint32_t>flags | O_CLOEXEC
    how.mode = <uint64_t>(mode & 0o7777) if flags & O_CREAT or (<uint32_t>flags & O_TMPFILE) == O_TMPFILE else 0
    how.resolve = AIOURING_RESOLVE_BENEATH | AIOURING_RESOLVE_NO_MAGICLINKS
    return 0


@cython.final
cdef class BeneathCall(PathCall):
    cdef aiouring_open_how how
    cdef int tries

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, PathCall.call_complete, TAG_RETURNS_FD)
        self.request = sqe.user_data
        prep_openat2(sqe, self.fd, self.path, &self.how)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res == -EAGAIN and self.tries < TRIES:
            self.tries += 1
            return self.again()
        if res < 0:
            return self.fail(path_error(-res, self.named, None))
        return self.finish(res)

    cdef bint keep(self, object result) except -1:
        """Nobody takes the descriptor."""
        close_soon(self.loop, result)
        return True


def open_beneath(path, int flags, int mode, dir_fd):
    """A descriptor for what `path` names below `dir_fd`."""
    cdef LoopCore loop = loop_with(IORING_OP_OPENAT2)
    cdef BeneathCall call
    if loop is None:
        return None
    call = <BeneathCall>new_call(BeneathCall, loop, IORING_OP_OPENAT2, b"open_beneath")
    call.repeatable = True      # with O_EXCL it fails then
    call.named = plain_path("open_beneath", path)
    call.path = encode_path("open_beneath", call.named)
    call.fd = as_dir_fd(dir_fd)
    fill_how(&call.how, flags, mode)
    PySys_Audit("open", "OOi", <PyObject *>call.named, <PyObject *>None, flags | O_CLOEXEC)
    return ready(call)


def open_beneath_now(path, int flags, int mode, dir_fd):
    """The same at once, in the calling thread, which may have to wait for the disk."""
    cdef aiouring_open_how how
    cdef object named = plain_path("open_beneath", path)
    cdef bytes encoded = encode_path("open_beneath", named)
    cdef const char *c_path = PyBytes_AS_STRING(encoded)
    cdef int fd = as_dir_fd(dir_fd), error = 0, tries = 0
    cdef long opened
    fill_how(&how, flags, mode)
    PySys_Audit("open", "OOi", <PyObject *>named, <PyObject *>None, flags | O_CLOEXEC)
    with nogil:
        while True:
            opened = syscall(NR_OPENAT2, fd, c_path, &how, sizeof(how))
            if opened >= 0:
                break
            error = errno
            tries += 1
            if (error != EAGAIN and error != EINTR) or tries > TRIES:
                break
    if opened < 0:
        raise path_error(error, named, None)
    return <int>opened
