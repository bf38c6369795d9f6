# From a file-system call to its SQE, beside _prep.pxd: what takes paths. Same rules; paths and results stay valid until the last CQE.
# cimported by: _fsop, _readfile, _beneath.

from libc.stdint cimport uint32_t, uint64_t

from aiouring._prep cimport prep
from aiouring.uapi cimport *


cdef inline void prep_statx(io_uring_sqe *sqe, int dir_fd, const char *path, uint32_t flags, uint32_t mask, aiouring_statx *found) noexcept nogil:
    prep(sqe, IORING_OP_STATX, dir_fd, path, mask, <uint64_t>found)
    sqe.op_flags = flags


cdef inline void prep_mkdirat(io_uring_sqe *sqe, int dir_fd, const char *path, uint32_t mode) noexcept nogil:
    prep(sqe, IORING_OP_MKDIRAT, dir_fd, path, mode, 0)


# flags: AT_REMOVEDIR, or 0.
cdef inline void prep_unlinkat(io_uring_sqe *sqe, int dir_fd, const char *path, uint32_t flags) noexcept nogil:
    prep(sqe, IORING_OP_UNLINKAT, dir_fd, path, 0, 0)
    sqe.op_flags = flags


# `opcode`: RENAMEAT or LINKAT, which lie alike.
cdef inline void prep_two_paths(io_uring_sqe *sqe, int opcode, int src_dir_fd, const char *src, int dst_dir_fd, const char *dst,
                                uint32_t flags) noexcept nogil:
    prep(sqe, opcode, src_dir_fd, src, <uint32_t>dst_dir_fd, <uint64_t>dst)
    sqe.op_flags = flags


cdef inline void prep_symlinkat(io_uring_sqe *sqe, const char *says, int dir_fd, const char *path) noexcept nogil:
    prep(sqe, IORING_OP_SYMLINKAT, dir_fd, says, 0, <uint64_t>path)


# `path` NULL: of the descriptor.
cdef inline void prep_getxattr(io_uring_sqe *sqe, int fd, const char *path, const char *name, void *value, uint32_t size) noexcept nogil:
    prep(sqe, IORING_OP_FGETXATTR if path == NULL else IORING_OP_GETXATTR, fd, name, size, <uint64_t>value)
    sqe.addr3 = <uint64_t>path


cdef inline void prep_setxattr(io_uring_sqe *sqe, int fd, const char *path, const char *name, const void *value, uint32_t size,
                               uint32_t flags) noexcept nogil:
    prep(sqe, IORING_OP_FSETXATTR if path == NULL else IORING_OP_SETXATTR, fd, name, size, <uint64_t>value)
    sqe.addr3 = <uint64_t>path
    sqe.op_flags = flags


# The result is the descriptor. `how` and `path` are read when the request is submitted.
cdef inline void prep_openat2(io_uring_sqe *sqe, int dir_fd, const char *path, const aiouring_open_how *how) noexcept nogil:
    prep(sqe, IORING_OP_OPENAT2, dir_fd, path, sizeof(aiouring_open_how), <uint64_t>how)
