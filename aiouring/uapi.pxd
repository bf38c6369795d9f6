# The kernel's io_uring interface for Cython: the declarations of include/aiouring_uapi.h, nothing else.
# cimported by every native module; it knows nothing of them.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "aiouring_uapi.h" nogil:
    struct io_uring_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_index
        uint16_t personality
        int32_t splice_fd_in
        uint64_t addr3
        uint64_t __pad2[1]

    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

    struct io_uring_region_desc:
        uint64_t user_addr
        uint64_t size
        uint32_t flags

    struct io_uring_mem_region_reg:
        uint64_t region_uptr

    struct io_sqring_offsets:
        uint32_t head
        uint32_t tail
        uint32_t ring_mask
        uint32_t ring_entries
        uint32_t flags
        uint32_t dropped
        uint32_t array
        uint32_t resv1
        uint64_t user_addr

    struct io_cqring_offsets:
        uint32_t head
        uint32_t tail
        uint32_t ring_mask
        uint32_t ring_entries
        uint32_t overflow
        uint32_t cqes
        uint32_t flags
        uint32_t resv1
        uint64_t user_addr

    struct io_uring_params:
        uint32_t sq_entries
        uint32_t cq_entries
        uint32_t flags
        uint32_t sq_thread_cpu
        uint32_t sq_thread_idle
        uint32_t features
        uint32_t wq_fd
        uint32_t resv[3]
        io_sqring_offsets sq_off
        io_cqring_offsets cq_off

    struct aiouring_timespec:
        int64_t tv_sec
        int64_t tv_nsec

    struct io_uring_getevents_arg:
        uint64_t sigmask
        uint32_t sigmask_sz
        uint32_t min_wait_usec
        uint64_t ts

    struct io_uring_probe_op:
        uint8_t op
        uint8_t resv
        uint16_t flags
        uint32_t resv2

    struct io_uring_probe:
        uint8_t last_op
        uint8_t ops_len
        uint16_t resv
        uint32_t resv2[3]
        io_uring_probe_op ops[256]

    struct io_uring_rsrc_update:
        uint32_t offset
        uint32_t resv
        uint64_t data

    struct io_uring_buf:
        uint64_t addr
        uint32_t len
        uint16_t bid
        uint16_t resv

    struct io_uring_buf_reg:
        uint64_t ring_addr
        uint32_t ring_entries
        uint16_t bgid
        uint16_t flags
        uint64_t resv[3]

    struct io_uring_recvmsg_out:
        uint32_t namelen
        uint32_t controllen
        uint32_t payloadlen
        uint32_t flags

    struct io_uring_sync_cancel_reg:
        uint64_t addr
        int32_t fd
        uint32_t flags
        aiouring_timespec timeout
        uint8_t opcode
        uint8_t pad[7]
        uint64_t pad2[3]

    struct io_uring_rsrc_register:
        uint32_t nr
        uint32_t flags
        uint64_t resv2
        uint64_t data
        uint64_t tags

    struct io_uring_rsrc_update2:
        uint32_t offset
        uint32_t resv
        uint64_t data
        uint64_t tags
        uint32_t nr
        uint32_t resv2

    struct aiouring_statx_timestamp:
        int64_t tv_sec
        uint32_t tv_nsec

    struct aiouring_statx:
        uint32_t stx_mask, stx_blksize
        uint32_t stx_nlink, stx_uid, stx_gid
        uint16_t stx_mode
        uint64_t stx_ino, stx_size, stx_blocks
        aiouring_statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime
        uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor
        uint32_t stx_dio_mem_align, stx_dio_offset_align

    struct aiouring_open_how:
        uint64_t flags, mode, resolve

    enum:
        AIOURING_RESOLVE_NO_MAGICLINKS
        AIOURING_RESOLVE_BENEATH
        IORING_OP_STATX
        IORING_OP_OPENAT2
        IORING_OP_RENAMEAT
        IORING_OP_UNLINKAT
        IORING_OP_MKDIRAT
        IORING_OP_SYMLINKAT
        IORING_OP_LINKAT
        IORING_OP_FSETXATTR
        IORING_OP_SETXATTR
        IORING_OP_FGETXATTR
        IORING_OP_GETXATTR
        IORING_OP_READ_FIXED
        IORING_OP_WRITE_FIXED
        IORING_REGISTER_BUFFERS2
        IORING_REGISTER_BUFFERS_UPDATE

    enum:
        IORING_OP_NOP
        IORING_OP_READV
        IORING_OP_WRITEV
        IORING_OP_FSYNC
        IORING_OP_POLL_ADD
        IORING_OP_POLL_REMOVE
        IORING_OP_SENDMSG
        IORING_OP_RECVMSG
        IORING_OP_TIMEOUT
        IORING_OP_ACCEPT
        IORING_OP_ASYNC_CANCEL
        IORING_OP_CONNECT
        IORING_OP_FALLOCATE
        IORING_OP_OPENAT
        IORING_OP_CLOSE
        IORING_OP_READ
        IORING_OP_WRITE
        IORING_OP_FADVISE
        IORING_OP_SEND
        IORING_OP_RECV
        IORING_OP_SPLICE
        IORING_OP_SHUTDOWN
        IORING_OP_MSG_RING
        IORING_OP_SEND_ZC
        IORING_OP_URING_CMD
        IORING_OP_WAITID
        IORING_OP_FTRUNCATE
        IORING_OP_LAST_KNOWN
        IORING_REGISTER_FILES
        IORING_UNREGISTER_FILES
        IORING_REGISTER_PROBE
        IORING_REGISTER_ENABLE_RINGS
        IORING_REGISTER_FILES2
        IORING_REGISTER_FILES_UPDATE2
        IORING_REGISTER_IOWQ_MAX_WORKERS
        IORING_REGISTER_RING_FDS
        IORING_UNREGISTER_RING_FDS
        IORING_REGISTER_PBUF_RING
        IORING_UNREGISTER_PBUF_RING
        IORING_REGISTER_MEM_REGION
        IORING_MEM_REGION_TYPE_USER
        IORING_REGISTER_SYNC_CANCEL
        IOSQE_FIXED_FILE
        IOSQE_IO_DRAIN
        IOSQE_IO_LINK
        IOSQE_IO_HARDLINK
        IOSQE_ASYNC
        IOSQE_BUFFER_SELECT
        IOSQE_CQE_SKIP_SUCCESS
        IORING_SETUP_CQSIZE
        IORING_SETUP_CLAMP
        IORING_SETUP_R_DISABLED
        IORING_SETUP_SUBMIT_ALL
        IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_TASKRUN_FLAG
        IORING_SETUP_SINGLE_ISSUER
        IORING_SETUP_DEFER_TASKRUN
        IORING_SETUP_NO_SQARRAY
        IORING_FEAT_SINGLE_MMAP
        IORING_FEAT_NODROP
        IORING_FEAT_EXT_ARG
        IORING_FEAT_CQE_SKIP
        IORING_ENTER_GETEVENTS
        IORING_ENTER_EXT_ARG
        IORING_ENTER_REGISTERED_RING
        IORING_SQ_CQ_OVERFLOW
        IORING_SQ_TASKRUN
        IORING_OFF_SQ_RING
        IORING_OFF_SQES
        IORING_CQE_F_BUFFER
        IORING_CQE_F_MORE
        IORING_CQE_F_SOCK_NONEMPTY
        IORING_CQE_F_NOTIF
        IORING_CQE_BUFFER_SHIFT
        IO_URING_OP_SUPPORTED
        IORING_RSRC_REGISTER_SPARSE
        IORING_RECVSEND_POLL_FIRST
        IORING_RECV_MULTISHOT
        IORING_ACCEPT_MULTISHOT
        IORING_POLL_ADD_MULTI
        IORING_FSYNC_DATASYNC
        IORING_URING_CMD_FIXED
        IORING_ASYNC_CANCEL_ALL
        IORING_ASYNC_CANCEL_FD
        IORING_ASYNC_CANCEL_ANY
        IORING_ASYNC_CANCEL_FD_FIXED
        SPLICE_F_FD_IN_FIXED

    long __NR_io_uring_setup
    long __NR_io_uring_enter
    long __NR_io_uring_register
    long __NR_pidfd_open
    long syscall(long number, ...)

    uint32_t aiouring_load_acquire(const uint32_t *p)
    uint32_t aiouring_load_relaxed(const uint32_t *p)
    void aiouring_store_release(uint32_t *p, uint32_t v)
    void aiouring_store_release16(uint16_t *p, uint16_t v)

cdef extern from "<errno.h>" nogil:
    int ECANCELED
    int ENOBUFS
    int ETIME
    int EALREADY
    int EBADR
    int EBADFD
