"""File-system calls that are one request each: stat, mkdir, unlink, rmdir, rename, link, symlink, xattrs, truncate.

Used by `fs` and the rooms beside it. Calls `_operation`, `_loop`, `_op`, `_fsprep`. Each function returns an awaitable, or None where the
running loop is not ours or the kernel has no such request; the caller goes to the executor then. Arguments are checked when the function is
called, and errors are those of the `os` function of that name: type, errno, filename, filename2. Audit events are raised as there.

Who owns what: a call holds its encoded paths, its buffers and its results until the request's last CQE.

Cancelling asks the kernel for the request's end. One that already runs ends by itself, and so does one that `must_end`: CancelledError comes with
its last CQE in each case. A loop that moves to another thread loses the answers of the requests that were in flight: what can be asked again
is, and of the rest (rename, unlink, mkdir …) nobody knows whether it has happened, which is what the OSError with ECANCELED says.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EBADF, ERANGE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as posix_close

from aiouring._awaitable cimport NEW, OVER
from aiouring._fsprep cimport *
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_close, prep_ftruncate
from aiouring.uapi cimport *

import os
from asyncio import get_running_loop

cdef extern from "Python.h":
    ctypedef struct PyTypeObject
    object PyUnicode_EncodeFSDefault(object text)
    object PyStructSequence_New(PyTypeObject *of_type)
    void PyStructSequence_SetItem(object sequence, Py_ssize_t position, PyObject *item)     # steals
    int PySys_Audit(const char *event, const char *format, ...) except -1
    bint PyIndex_Check(object value)
    object PyNumber_Index(object value)
    int INT_MAX, INT_MIN

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "<fcntl.h>" nogil:
    int AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW

cdef extern from "<sys/sysmacros.h>" nogil:
    uint64_t makedev(unsigned int major, unsigned int minor)

cdef enum:
    KERNEL_AT_NO_AUTOMOUNT = 0x800          # stat(2) sets it: looking at a folder mounts nothing
    KERNEL_AT_EMPTY_PATH = 0x1000
    KERNEL_STATX_BASIC_STATS = 0x7FF
    XATTR_FIRST_BYTES = 256
    XATTR_MOST_BYTES = 65536                # the kernel's bound


# -- arguments -------------------------------------------------------------------------------------------------------------------

cdef LoopCore running_loop():
    loop = get_running_loop()
    return <LoopCore>loop if isinstance(loop, LoopCore) else None


cdef LoopCore loop_with(int opcode):
    cdef LoopCore loop = running_loop()
    return loop if loop is not None and loop.ring.supports(opcode) else None


cdef object plain_path(str function, object path):
    """The path without its PathLike, which is how errors name it."""
    if isinstance(path, (str, bytes)):
        return path
    if not hasattr(type(path), "__fspath__"):
        raise TypeError(f"{function}: path should be string, bytes or os.PathLike, not {type(path).__name__}")
    return os.fspath(path)


cdef bytes encode_path(str function, object path):
    """A plain path as the kernel reads it."""
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path) if isinstance(path, str) else path
    if b"\0" in encoded:
        raise ValueError(f"{function}: embedded null byte in the path")
    return encoded


cdef int as_descriptor(object value) except? -1:
    number = PyNumber_Index(value)
    if number > INT_MAX:
        raise OverflowError("fd is greater than maximum")
    if number < INT_MIN:
        raise OverflowError("fd is less than minimum")
    return number


cdef int as_dir_fd(object value) except? -1:
    if value is None:
        return AT_FDCWD
    if not PyIndex_Check(value):
        raise TypeError(f"argument should be integer or None, not {type(value).__name__}")
    return as_descriptor(value)


cdef int audited(int dir_fd) noexcept:
    return -1 if dir_fd == AT_FDCWD else dir_fd


cdef bint is_descriptor(str function, object path) except -1:
    if isinstance(path, (str, bytes)):
        return False
    if PyIndex_Check(path):
        return True
    if hasattr(type(path), "__fspath__"):
        return False
    raise TypeError(f"{function}: path should be string, bytes, os.PathLike or integer, not {type(path).__name__}")


cdef object path_error(int error, object named, object named2):
    """As PyErr_SetFromErrnoWithFilenameObjects()."""
    message = os.strerror(error)
    if named2 is not None:
        return OSError(error, message, named, None, named2)
    return OSError(error, message) if named is None else OSError(error, message, named)


# -- one request -----------------------------------------------------------------------------------------------------------------

cdef class PathCall(Operation):
    """A call that answers with nothing but success or an error."""

    cdef str name(self):
        return "fs." + self.function.decode()

    cdef int start(self) except -1:
        return self.submit()

    cdef int submit(self) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, PathCall.call_complete, 0)
        self.request = sqe.user_data
        self.begun = True
        return self.fill(sqe)

    cdef int fill(self, io_uring_sqe *sqe) except -1:
        if self.opcode == IORING_OP_MKDIRAT:
            prep_mkdirat(sqe, self.fd, self.path, self.length)
        elif self.opcode == IORING_OP_UNLINKAT:
            prep_unlinkat(sqe, self.fd, self.path, self.flags)
        elif self.opcode == IORING_OP_RENAMEAT or self.opcode == IORING_OP_LINKAT:
            prep_two_paths(sqe, self.opcode, self.fd, self.path, self.fd2, self.path2, self.flags)
        elif self.opcode == IORING_OP_SYMLINKAT:
            prep_symlinkat(sqe, self.path, self.fd, self.path2)
        else:
            prep_ftruncate(sqe, self.fd, self.offset)
        return 0

    @staticmethod
    cdef int call_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef PathCall self = <PathCall>owner
        if res == -ECANCELED and self.wanted() and not self.repeatable:
            self.request = 0
            return self.fail(OSError(ECANCELED, "the event loop moved to another thread while the call was in flight, "
                                     "so it is not known whether it has taken effect", self.named, None, self.named2))
        return Operation.complete(owner, tag, res, cqe_flags)

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail(path_error(-res, self.named, self.named2))
        return self.finish(None)

    cdef int stop(self) except -1:
        return 0 if self.must_end else self.loop.ops.cancel(self.request)

    def to_its_end(self):
        """The same call, which is no longer cancelled: for what cleans up. CancelledError still comes, at its end."""
        self.must_end = True
        return self


cdef inline const char *c_path(PathCall call) noexcept:
    return NULL if call.path is None else PyBytes_AS_STRING(call.path)


@cython.final
cdef class StatCall(PathCall):
    cdef aiouring_statx found

    cdef int fill(self, io_uring_sqe *sqe) except -1:
        memset(&self.found, 0, sizeof(self.found))
        prep_statx(sqe, self.fd, self.path, self.flags, KERNEL_STATX_BASIC_STATS, &self.found)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if res < 0:
            return self.fail(path_error(-res, self.named, None))
        return self.finish(stat_result(&self.found))


@cython.final
cdef class GetXattrCall(PathCall):
    cdef bytes attribute
    cdef char *value

    cdef int fill(self, io_uring_sqe *sqe) except -1:
        PyMem_RawFree(self.value)
        self.value = <char *>PyMem_RawMalloc(self.length)
        if self.value == NULL:
            self.length = 0         # the request, which is begun, brings ERANGE or the size
        prep_getxattr(sqe, self.fd, c_path(self), self.attribute,
                      self.value, self.length)
        return 0

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if self.value == NULL:
            raise MemoryError("no memory for the value of an extended attribute")
        if res == -ERANGE and self.length < XATTR_MOST_BYTES:
            self.length = XATTR_MOST_BYTES
            return self.again()
        if res < 0:
            return self.fail(path_error(-res, self.named, None))
        return self.finish(PyBytes_FromStringAndSize(self.value, res))

    def __dealloc__(self):
        PyMem_RawFree(self.value)


@cython.final
cdef class SetXattrCall(PathCall):
    cdef bytes attribute, value

    cdef int fill(self, io_uring_sqe *sqe) except -1:
        prep_setxattr(sqe, self.fd, c_path(self), self.attribute,
                      PyBytes_AS_STRING(self.value), <uint32_t>len(self.value), self.flags)
        return 0


cdef PathCall new_call(object kind, LoopCore loop, int opcode, const char *function):
    """A call whose arguments are still to be checked: while it is OVER, dropping it is no coroutine that nobody awaited."""
    cdef PathCall call = <PathCall>kind.__new__(kind)
    call.state = OVER
    call.loop = loop
    call.opcode = opcode
    call.function = function
    call.fd = call.fd2 = AT_FDCWD
    return call


cdef PathCall ready(PathCall call):
    call.state = NEW
    return call


# -- stat ------------------------------------------------------------------------------------------------------------------------

cdef object stat_type = os.stat_result
cdef int STAT_FIELDS = stat_type.n_fields
cdef dict stat_places = {
    name: getattr(stat_type(range(STAT_FIELDS)), name)
    for name in ("st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_blocks", "st_rdev")
}
# Behind the ten numbers that each Python has: where this Python has the others.
cdef int AT_ATIME = stat_places["st_atime"], AT_MTIME = stat_places["st_mtime"], AT_CTIME = stat_places["st_ctime"]
cdef int AT_ATIME_NS = stat_places["st_atime_ns"], AT_MTIME_NS = stat_places["st_mtime_ns"], AT_CTIME_NS = stat_places["st_ctime_ns"]
cdef int AT_BLKSIZE = stat_places["st_blksize"], AT_BLOCKS = stat_places["st_blocks"], AT_RDEV = stat_places["st_rdev"]

# What this Python has besides: attributes of other systems.
cdef tuple OTHER_PLACES = tuple(sorted(set(range(10, STAT_FIELDS)) - set(stat_places.values())))


cdef inline void put(object result, int place, object value):
    Py_INCREF(value)
    PyStructSequence_SetItem(result, place, <PyObject *>value)


cdef inline void put_time(object result, int place, int place_float, int place_ns, aiouring_statx_timestamp *time):
    put(result, place, time.tv_sec)
    put(result, place_float, <double>time.tv_sec + 1e-9 * time.tv_nsec)         # as CPython computes it
    # Times from 1678 to 2262 fit into 64 bits.
    if -9000000000 < time.tv_sec < 9000000000:
        put(result, place_ns, time.tv_sec * 1000000000 + <int64_t>time.tv_nsec)
    else:
        put(result, place_ns, <object>time.tv_sec * 1000000000 + time.tv_nsec)


cdef object stat_result(aiouring_statx *found):
    cdef object result = PyStructSequence_New(<PyTypeObject *>stat_type)
    cdef int place
    put(result, 0, found.stx_mode)
    put(result, 1, found.stx_ino)
    put(result, 2, makedev(found.stx_dev_major, found.stx_dev_minor))
    put(result, 3, found.stx_nlink)
    put(result, 4, found.stx_uid)
    put(result, 5, found.stx_gid)
    put(result, 6, found.stx_size)
    for place in OTHER_PLACES:
        put(result, place, None)
    put_time(result, 7, AT_ATIME, AT_ATIME_NS, &found.stx_atime)
    put_time(result, 8, AT_MTIME, AT_MTIME_NS, &found.stx_mtime)
    put_time(result, 9, AT_CTIME, AT_CTIME_NS, &found.stx_ctime)
    put(result, AT_BLKSIZE, found.stx_blksize)
    put(result, AT_BLOCKS, found.stx_blocks)
    put(result, AT_RDEV, makedev(found.stx_rdev_major, found.stx_rdev_minor))
    return result


def stat(path, dir_fd, bint follow_symlinks):
    """os.stat() by STATX."""
    cdef LoopCore loop = loop_with(IORING_OP_STATX)
    cdef StatCall call
    if loop is None:
        return None
    call = <StatCall>new_call(StatCall, loop, IORING_OP_STATX, b"stat")
    call.repeatable = True
    call.flags = KERNEL_AT_NO_AUTOMOUNT
    if is_descriptor("stat", path):
        if dir_fd is not None:
            raise ValueError("stat: can't specify dir_fd without matching path")
        if not follow_symlinks:
            raise ValueError("stat: cannot use fd and follow_symlinks together")
        call.fd = as_descriptor(path)
        call.named = path
        if call.fd < 0:
            raise path_error(EBADF, path, None)         # AT_FDCWD is negative too
        call.path = b""
        call.flags |= KERNEL_AT_EMPTY_PATH
    else:
        call.named = plain_path("stat", path)
        call.path = encode_path("stat", call.named)
        call.fd = as_dir_fd(dir_fd)
        if not follow_symlinks:
            call.flags |= AT_SYMLINK_NOFOLLOW
    return ready(call)


def lstat(path, dir_fd):
    """os.lstat() by STATX."""
    cdef LoopCore loop = loop_with(IORING_OP_STATX)
    cdef StatCall call
    if loop is None:
        return None
    call = <StatCall>new_call(StatCall, loop, IORING_OP_STATX, b"lstat")
    call.repeatable = True
    call.named = plain_path("lstat", path)
    call.path = encode_path("lstat", call.named)
    call.fd = as_dir_fd(dir_fd)
    call.flags = KERNEL_AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW
    return ready(call)


# -- names -----------------------------------------------------------------------------------------------------------------------

def mkdir(path, int mode, dir_fd):
    """os.mkdir() by MKDIRAT."""
    cdef LoopCore loop = loop_with(IORING_OP_MKDIRAT)
    cdef PathCall call
    if loop is None:
        return None
    call = new_call(PathCall, loop, IORING_OP_MKDIRAT, b"mkdir")
    call.named = plain_path("mkdir", path)
    call.path = encode_path("mkdir", call.named)
    call.fd = as_dir_fd(dir_fd)
    call.length = <uint32_t>mode
    PySys_Audit("os.mkdir", "Oii", <PyObject *>call.named, mode, audited(call.fd))
    return ready(call)


cdef PathCall removal(const char *function, object path, object dir_fd, uint32_t flags):
    cdef LoopCore loop = loop_with(IORING_OP_UNLINKAT)
    cdef PathCall call
    if loop is None:
        return None
    call = new_call(PathCall, loop, IORING_OP_UNLINKAT, function)
    call.named = plain_path(function.decode(), path)
    call.path = encode_path(function.decode(), call.named)
    call.fd = as_dir_fd(dir_fd)
    call.flags = flags
    PySys_Audit("os.rmdir" if flags else "os.remove", "Oi", <PyObject *>call.named, audited(call.fd))
    return ready(call)


def unlink(path, dir_fd):
    """os.unlink() by UNLINKAT."""
    return removal(b"unlink", path, dir_fd, 0)


def rmdir(path, dir_fd):
    """os.rmdir() by UNLINKAT."""
    return removal(b"rmdir", path, dir_fd, AT_REMOVEDIR)


def rename(src, dst, src_dir_fd, dst_dir_fd):
    """os.rename() and os.replace() by RENAMEAT."""
    cdef LoopCore loop = loop_with(IORING_OP_RENAMEAT)
    cdef PathCall call
    if loop is None:
        return None
    call = new_call(PathCall, loop, IORING_OP_RENAMEAT, b"rename")
    call.named = plain_path("rename", src)
    call.path = encode_path("rename", call.named)
    call.named2 = plain_path("rename", dst)
    call.path2 = encode_path("rename", call.named2)
    call.fd = as_dir_fd(src_dir_fd)
    call.fd2 = as_dir_fd(dst_dir_fd)
    PySys_Audit("os.rename", "OOii", <PyObject *>call.named, <PyObject *>call.named2, audited(call.fd), audited(call.fd2))
    return ready(call)


def link(src, dst, src_dir_fd, dst_dir_fd, bint follow_symlinks):
    """os.link() by LINKAT."""
    cdef LoopCore loop = loop_with(IORING_OP_LINKAT)
    cdef PathCall call
    if loop is None:
        return None
    call = new_call(PathCall, loop, IORING_OP_LINKAT, b"link")
    call.named = plain_path("link", src)
    call.path = encode_path("link", call.named)
    call.named2 = plain_path("link", dst)
    call.path2 = encode_path("link", call.named2)
    call.fd = as_dir_fd(src_dir_fd)
    call.fd2 = as_dir_fd(dst_dir_fd)
    # Without a dir_fd CPython calls link(), which on Linux does not follow symbolic links, whatever its argument says.
    if follow_symlinks and (src_dir_fd is not None or dst_dir_fd is not None):
        call.flags = AT_SYMLINK_FOLLOW
    PySys_Audit("os.link", "OOii", <PyObject *>call.named, <PyObject *>call.named2, audited(call.fd), audited(call.fd2))
    return ready(call)


def symlink(src, dst, dir_fd):
    """os.symlink() by SYMLINKAT."""
    cdef LoopCore loop = loop_with(IORING_OP_SYMLINKAT)
    cdef PathCall call
    if loop is None:
        return None
    call = new_call(PathCall, loop, IORING_OP_SYMLINKAT, b"symlink")
    call.named = plain_path("symlink", src)
    call.path = encode_path("symlink", call.named)
    call.named2 = plain_path("symlink", dst)
    call.path2 = encode_path("symlink", call.named2)
    call.fd = as_dir_fd(dir_fd)
    PySys_Audit("os.symlink", "OOi", <PyObject *>call.named, <PyObject *>call.named2, audited(call.fd))
    return ready(call)


# -- attributes ------------------------------------------------------------------------------------------------------------------

def truncate(fd, int64_t length):
    """os.ftruncate() by FTRUNCATE."""
    cdef LoopCore loop = loop_with(IORING_OP_FTRUNCATE)
    cdef PathCall call
    if loop is None:
        return None
    call = new_call(PathCall, loop, IORING_OP_FTRUNCATE, b"truncate")
    call.repeatable = True
    call.fd = as_descriptor(fd)
    call.offset = <uint64_t>length
    PySys_Audit("os.truncate", "On", <PyObject *>fd, <Py_ssize_t>length)
    return ready(call)


def getxattr(path, attribute):
    """os.getxattr() by GETXATTR or FGETXATTR."""
    cdef LoopCore loop = loop_with(IORING_OP_GETXATTR)
    cdef GetXattrCall call
    cdef object named
    if loop is None:
        return None
    call = <GetXattrCall>new_call(GetXattrCall, loop, IORING_OP_GETXATTR, b"getxattr")
    call.repeatable = True
    call.length = XATTR_FIRST_BYTES
    take_file(call, path)
    named = plain_path("getxattr", attribute)
    call.attribute = encode_path("getxattr", named)
    PySys_Audit("os.getxattr", "OO", <PyObject *>call.named, <PyObject *>named)
    return ready(call)


def setxattr(path, attribute, value, int flags):
    """os.setxattr() by SETXATTR or FSETXATTR."""
    cdef LoopCore loop = loop_with(IORING_OP_SETXATTR)
    cdef SetXattrCall call
    cdef object named
    if loop is None:
        return None
    call = <SetXattrCall>new_call(SetXattrCall, loop, IORING_OP_SETXATTR, b"setxattr")
    call.repeatable = flags == 0
    call.flags = <uint32_t>flags
    take_file(call, path)
    named = plain_path("setxattr", attribute)
    call.attribute = encode_path("setxattr", named)
    with memoryview(value) as view:
        call.value = view.tobytes()
    PySys_Audit("os.setxattr", "OOy#i", <PyObject *>call.named, <PyObject *>named, PyBytes_AS_STRING(call.value),
                <Py_ssize_t>len(call.value), flags)
    return ready(call)


cdef int take_file(PathCall call, object path) except -1:
    if is_descriptor(call.function.decode(), path):
        call.fd = as_descriptor(path)
        call.named = path
    else:
        call.named = plain_path(call.function.decode(), path)
        call.path = encode_path(call.function.decode(), call.named)
    return 0


# -- descriptors that nobody waits for -------------------------------------------------------------------------------------------

cdef int close_soon(LoopCore loop, int fd) noexcept:
    """Close by a request, without an answer, as part of the loop's next enter. Where no request can be made it is closed at once."""
    cdef io_uring_sqe *sqe
    if loop.ops.closed or loop.ring.foreign_process() or loop.ops.issuer != PyThread_get_thread_ident():
        posix_close(fd)
        return 0
    try:
        sqe = loop.ops.sqe_or_flush()
    except BaseException:
        posix_close(fd)
        return 0
    prep_close(sqe, fd)
    sqe.flags = <uint8_t>IOSQE_CQE_SKIP_SUCCESS
    return 0
