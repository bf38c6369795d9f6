# From an operation to its SQE: the one place where SQEs are filled. The SQE comes zeroed and with user_data from OpTable.begin().
# cimported by every room that submits. Pointers given here must stay valid until the request's last CQE.

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from aiouring.uapi cimport *

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_WAITALL

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC


cdef inline void prep(io_uring_sqe *sqe, int opcode, int fd, const void *addr, uint32_t length, uint64_t off) noexcept nogil:
    sqe.opcode = <uint8_t>opcode
    sqe.fd = fd
    sqe.addr = <uint64_t>addr
    sqe.len = length
    sqe.off = off


# After any other: the request takes its file from the ring's table (Ring.register_file) where it is there.
cdef inline void use_registered_file(io_uring_sqe *sqe, int index) noexcept nogil:
    if index >= 0:
        sqe.fd = index
        sqe.flags |= <uint8_t>IOSQE_FIXED_FILE


cdef inline void prep_recv(io_uring_sqe *sqe, int fd, void *buffer, uint32_t length, uint32_t msg_flags) noexcept nogil:
    prep(sqe, IORING_OP_RECV, fd, buffer, length, 0)
    sqe.op_flags = msg_flags


# One receive into a buffer that the kernel picks from `group` when there is data.
cdef inline void prep_recv_buffer(io_uring_sqe *sqe, int fd, uint32_t length, uint16_t group) noexcept nogil:
    prep(sqe, IORING_OP_RECV, fd, NULL, length, 0)
    sqe.flags = <uint8_t>IOSQE_BUFFER_SELECT
    sqe.buf_index = group


cdef inline void prep_recv_multishot(io_uring_sqe *sqe, int fd, uint16_t group) noexcept nogil:
    prep(sqe, IORING_OP_RECV, fd, NULL, 0, 0)
    sqe.ioprio = <uint16_t>IORING_RECV_MULTISHOT
    sqe.flags = <uint8_t>IOSQE_BUFFER_SELECT
    sqe.buf_index = group


cdef inline void prep_recvmsg(io_uring_sqe *sqe, int fd, void *msghdr, uint32_t msg_flags) noexcept nogil:
    prep(sqe, IORING_OP_RECVMSG, fd, msghdr, 1, 0)
    sqe.op_flags = msg_flags


cdef inline void prep_recvmsg_multishot(io_uring_sqe *sqe, int fd, void *msghdr, uint16_t group) noexcept nogil:
    prep(sqe, IORING_OP_RECVMSG, fd, msghdr, 1, 0)
    sqe.ioprio = <uint16_t>IORING_RECV_MULTISHOT
    sqe.flags = <uint8_t>IOSQE_BUFFER_SELECT
    sqe.buf_index = group


cdef inline void prep_send(io_uring_sqe *sqe, int fd, const void *data, uint32_t length, uint32_t msg_flags) noexcept nogil:
    prep(sqe, IORING_OP_SEND, fd, data, length, 0)
    sqe.op_flags = msg_flags


# `name` NULL: to the peer that the socket is connected to.
cdef inline void prep_sendto(io_uring_sqe *sqe, int fd, const void *data, uint32_t length, uint32_t msg_flags,
                             const void *name, uint16_t name_bytes) noexcept nogil:
    prep(sqe, IORING_OP_SEND, fd, data, length, <uint64_t>name)
    sqe.op_flags = msg_flags
    memcpy(&sqe.splice_fd_in, &name_bytes, sizeof(name_bytes))      # addr_len is the first half of that field


# After prep_send() or prep_sendmsg(), on a stream socket: all of it goes out while it is submitted, and then there is no CQE; or there is one
# with an error, or with how much went out.
cdef inline void make_silent_send(io_uring_sqe *sqe) noexcept nogil:
    sqe.op_flags |= MSG_DONTWAIT | MSG_WAITALL
    sqe.flags |= <uint8_t>IOSQE_CQE_SKIP_SUCCESS


cdef inline void prep_sendmsg(io_uring_sqe *sqe, int fd, const void *msghdr, uint32_t msg_flags) noexcept nogil:
    prep(sqe, IORING_OP_SENDMSG, fd, msghdr, 1, 0)
    sqe.op_flags = msg_flags


cdef inline void prep_accept(io_uring_sqe *sqe, int fd, void *addr, void *addr_len, uint32_t accept_flags) noexcept nogil:
    prep(sqe, IORING_OP_ACCEPT, fd, addr, 0, <uint64_t>addr_len)
    sqe.op_flags = accept_flags


cdef inline void prep_accept_multishot(io_uring_sqe *sqe, int fd, uint32_t accept_flags) noexcept nogil:
    prep(sqe, IORING_OP_ACCEPT, fd, NULL, 0, 0)
    sqe.op_flags = accept_flags
    sqe.ioprio = <uint16_t>IORING_ACCEPT_MULTISHOT


cdef inline void prep_connect(io_uring_sqe *sqe, int fd, const void *addr, uint32_t addr_len) noexcept nogil:
    prep(sqe, IORING_OP_CONNECT, fd, addr, 0, addr_len)


cdef inline void prep_poll_add(io_uring_sqe *sqe, int fd, uint32_t poll_mask) noexcept nogil:
    # poll32_events is in host order on little-endian machines; big-endian ones want its halves swapped.
    prep(sqe, IORING_OP_POLL_ADD, fd, NULL, 0, 0)
    sqe.op_flags = poll_mask


# `offset` -1: the file's own position, and what pipes and character devices want.
cdef inline void prep_read(io_uring_sqe *sqe, int fd, void *buffer, uint32_t length, uint64_t offset) noexcept nogil:
    prep(sqe, IORING_OP_READ, fd, buffer, length, offset)


cdef inline void prep_write(io_uring_sqe *sqe, int fd, const void *data, uint32_t length, uint64_t offset) noexcept nogil:
    prep(sqe, IORING_OP_WRITE, fd, data, length, offset)


cdef inline void prep_writev(io_uring_sqe *sqe, int fd, const void *iovecs, uint32_t count, uint64_t offset) noexcept nogil:
    prep(sqe, IORING_OP_WRITEV, fd, iovecs, count, offset)


cdef inline void prep_readv(io_uring_sqe *sqe, int fd, const void *iovecs, uint32_t count, uint64_t offset) noexcept nogil:
    prep(sqe, IORING_OP_READV, fd, iovecs, count, offset)


# The result is the descriptor. The kernel's first attempt does not wait (O_NONBLOCK), so a FIFO is opened without waiting for its other end
# unless IOSQE_ASYNC is set.
cdef inline void prep_openat(io_uring_sqe *sqe, int dir_fd, const char *path, int flags, uint32_t mode) noexcept nogil:
    prep(sqe, IORING_OP_OPENAT, dir_fd, path, mode, 0)
    sqe.op_flags = <uint32_t>flags


cdef inline void prep_close(io_uring_sqe *sqe, int fd) noexcept nogil:
    prep(sqe, IORING_OP_CLOSE, fd, NULL, 0, 0)


# A direct descriptor: the file goes into the ring's table (Ring.reserve_file), and the result is 0. There is nothing that O_CLOEXEC could mean for
# it, and the kernel refuses it.
cdef inline void prep_openat_direct(io_uring_sqe *sqe, int dir_fd, const char *path, int flags, uint32_t mode, int index) noexcept nogil:
    prep_openat(sqe, dir_fd, path, flags & ~O_CLOEXEC, mode)
    sqe.splice_fd_in = index + 1        # file_index


cdef inline void prep_close_direct(io_uring_sqe *sqe, int index) noexcept nogil:
    prep(sqe, IORING_OP_CLOSE, 0, NULL, 0, 0)
    sqe.splice_fd_in = index + 1


# The result is -ETIME, which is no failure that would sever a chain. 5.16.
cdef inline void prep_timeout(io_uring_sqe *sqe, const aiouring_timespec *duration) noexcept nogil:
    prep(sqe, IORING_OP_TIMEOUT, -1, duration, 1, 0)
    sqe.op_flags = IORING_TIMEOUT_ETIME_SUCCESS


# flags: IORING_FSYNC_DATASYNC, or 0.
cdef inline void prep_fsync(io_uring_sqe *sqe, int fd, uint32_t flags) noexcept nogil:
    prep(sqe, IORING_OP_FSYNC, fd, NULL, 0, 0)
    sqe.op_flags = flags


cdef inline void prep_fallocate(io_uring_sqe *sqe, int fd, int mode, uint64_t offset, uint64_t length) noexcept nogil:
    prep(sqe, IORING_OP_FALLOCATE, fd, <const void *>length, <uint32_t>mode, offset)


cdef inline void prep_fadvise(io_uring_sqe *sqe, int fd, uint64_t offset, uint32_t length, int advice) noexcept nogil:
    prep(sqe, IORING_OP_FADVISE, fd, NULL, length, offset)
    sqe.op_flags = <uint32_t>advice


# 6.9; ask Ring.supports().
cdef inline void prep_ftruncate(io_uring_sqe *sqe, int fd, uint64_t length) noexcept nogil:
    prep(sqe, IORING_OP_FTRUNCATE, fd, NULL, 0, length)


# A BPF operation of the kernel's own. Its opcode is known by the kernel's types alone. `request`: of op_abi.h.
cdef inline void prep_bpf(io_uring_sqe *sqe, int opcode, int id, const void *request) noexcept nogil:
    prep(sqe, opcode, -1, request, 0, 0)
    sqe.op_flags = <uint32_t>id << 24


# The same by aiouring's module: `command` is the operation's id and URING_BPF_CMD_*, `buf_index` the registered buffer that it uses, or -1.
cdef inline void prep_bpf_command(io_uring_sqe *sqe, int device_fd, uint32_t command, const void *request, int buf_index) noexcept nogil:
    prep(sqe, IORING_OP_URING_CMD, device_fd, NULL, 0, command)
    sqe.addr3 = <uint64_t>request
    if buf_index >= 0:
        sqe.op_flags = IORING_URING_CMD_FIXED
        sqe.buf_index = <uint16_t>buf_index
