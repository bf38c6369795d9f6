# File-system calls that are one request each. See _fsop.pyx.
# cimported by: _fdop, _readfile, _copy, _chainlinks.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring.uapi cimport aiouring_statx, io_uring_sqe


cdef LoopCore running_loop()                            # the running loop, or None if it is not one of ours
cdef LoopCore loop_with(int opcode)                     # the same, and None if its kernel has no such request
# A call, and the same after its arguments were checked.
cdef PathCall new_call(object kind, LoopCore loop, int opcode, const char *function)
cdef PathCall ready(PathCall call)
cdef object plain_path(str function, object path)       # without its PathLike: as errors name it
cdef bytes encode_path(str function, object path)       # as the kernel reads it
cdef int as_dir_fd(object value) except? -1
cdef object path_error(int error, object named, object named2)
cdef object stat_result(aiouring_statx *found)          # an os.stat_result
# For who has nothing left to wait for; the request goes out before the next callback runs.
cdef int close_soon(LoopCore loop, int fd) noexcept


cdef class PathCall(Operation):
    cdef int opcode, fd, fd2
    cdef uint32_t length, flags         # the SQE's len and op_flags, where they are used
    cdef uint64_t offset
    cdef object named, named2           # the paths as errors name them
    cdef bytes path, path2              # as the kernel reads them: until the last CQE
    cdef const char *function           # the name, also while the object is being freed
    cdef bint repeatable                # a second run gives what the first gave
    cdef bint begun, must_end

    @staticmethod
    cdef int call_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef int fill(self, io_uring_sqe *sqe) except -1
