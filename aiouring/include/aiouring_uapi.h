/* The part of the kernel's io_uring interface that aiouring uses, under the kernel's own names.
 *
 * Written out here so that the extension builds where <linux/io_uring.h> is older than the kernel that runs, or absent.
 * Layouts and values are the kernel's ABI and never change; the static assertions at the end pin the sizes.
 * Included by: uapi.pxd only. It must not be included next to <linux/io_uring.h>.
 */
#ifndef AIOURING_UAPI_H
#define AIOURING_UAPI_H

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif

struct io_uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;  /* also addr2 */
    uint64_t addr; /* also splice_off_in */
    uint32_t len;
    uint32_t op_flags; /* the kernel's union of rw_flags, msg_flags, poll32_events, accept_flags, cancel_flags, splice_flags … */
    uint64_t user_data;
    uint16_t buf_index; /* also buf_group */
    uint16_t personality;
    int32_t splice_fd_in; /* also file_index, addr_len */
    uint64_t addr3;
    uint64_t __pad2[1];
};

struct io_uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

enum { IORING_MEM_REGION_TYPE_USER = 1 };

struct io_uring_region_desc {
    uint64_t user_addr, size;
    uint32_t flags, id;
    uint64_t mmap_offset, __resv[4];
};

struct io_uring_mem_region_reg {
    uint64_t region_uptr, flags, __resv[2];
};

struct io_sqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct io_cqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct io_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t resv[3];
    struct io_sqring_offsets sq_off;
    struct io_cqring_offsets cq_off;
};

struct aiouring_timespec { /* struct __kernel_timespec */
    int64_t tv_sec;
    int64_t tv_nsec;
};

struct io_uring_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;
    uint64_t ts;
};

struct io_uring_probe_op {
    uint8_t op, resv;
    uint16_t flags;
    uint32_t resv2;
};

struct io_uring_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct io_uring_probe_op ops[256];
};

struct io_uring_rsrc_update {
    uint32_t offset, resv;
    uint64_t data;
};

struct io_uring_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t resv; /* in entry 0 this is the ring's tail */
};

struct io_uring_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t resv[3];
};

struct io_uring_recvmsg_out {
    uint32_t namelen, controllen, payloadlen, flags;
};

struct io_uring_sync_cancel_reg {
    uint64_t addr;
    int32_t fd;
    uint32_t flags;
    struct aiouring_timespec timeout;
    uint8_t opcode, pad[7];
    uint64_t pad2[3];
};

struct aiouring_statx_timestamp { /* struct statx_timestamp */
    int64_t tv_sec;
    uint32_t tv_nsec;
    int32_t reserved;
};

/* struct statx under a name of ours: <sys/stat.h> may have the kernel's, and may not. */
struct aiouring_statx {
    uint32_t stx_mask, stx_blksize;
    uint64_t stx_attributes;
    uint32_t stx_nlink, stx_uid, stx_gid;
    uint16_t stx_mode, spare0;
    uint64_t stx_ino, stx_size, stx_blocks, stx_attributes_mask;
    struct aiouring_statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime;
    uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor;
    uint64_t stx_mnt_id;
    uint32_t stx_dio_mem_align, stx_dio_offset_align;
    uint64_t spare3[12];
};

struct aiouring_open_how { /* struct open_how */
    uint64_t flags, mode, resolve;
};

/* opcodes */
enum {
    IORING_OP_NOP = 0,
    IORING_OP_READV = 1,
    IORING_OP_WRITEV = 2,
    IORING_OP_FSYNC = 3,
    IORING_OP_POLL_ADD = 6,
    IORING_OP_POLL_REMOVE = 7,
    IORING_OP_SENDMSG = 9,
    IORING_OP_RECVMSG = 10,
    IORING_OP_TIMEOUT = 11,
    IORING_OP_ACCEPT = 13,
    IORING_OP_ASYNC_CANCEL = 14,
    IORING_OP_CONNECT = 16,
    IORING_OP_FALLOCATE = 17,
    IORING_OP_OPENAT = 18,
    IORING_OP_CLOSE = 19,
    IORING_OP_READ = 22,
    IORING_OP_WRITE = 23,
    IORING_OP_FADVISE = 24,
    IORING_OP_SEND = 26,
    IORING_OP_RECV = 27,
    IORING_OP_SPLICE = 30,
    IORING_OP_SHUTDOWN = 34,
    IORING_OP_MSG_RING = 40,
    IORING_OP_SEND_ZC = 47,
    IORING_OP_URING_CMD = 46,
    IORING_OP_WAITID = 50,
    IORING_OP_FTRUNCATE = 55,
    IORING_OP_LAST_KNOWN = 64
};

/* opcodes of file-system calls */
enum {
    IORING_OP_STATX = 21,
    IORING_OP_OPENAT2 = 28,
    IORING_OP_RENAMEAT = 35,
    IORING_OP_UNLINKAT = 36,
    IORING_OP_MKDIRAT = 37,
    IORING_OP_SYMLINKAT = 38,
    IORING_OP_LINKAT = 39,
    IORING_OP_FSETXATTR = 41,
    IORING_OP_SETXATTR = 42,
    IORING_OP_FGETXATTR = 43,
    IORING_OP_GETXATTR = 44
};

/* open_how.resolve */
enum {
    AIOURING_RESOLVE_NO_MAGICLINKS = 0x02,
    AIOURING_RESOLVE_BENEATH = 0x08
};

/* registered buffers */
enum {
    IORING_OP_READ_FIXED = 4,
    IORING_OP_WRITE_FIXED = 5,
    IORING_REGISTER_BUFFERS2 = 15,
    IORING_REGISTER_BUFFERS_UPDATE = 16
};

/* io_uring_sqe.flags */
#define IOSQE_FIXED_FILE (1U << 0)
#define IOSQE_IO_DRAIN (1U << 1)
#define IOSQE_IO_LINK (1U << 2)
#define IOSQE_IO_HARDLINK (1U << 3)
#define IOSQE_ASYNC (1U << 4)
#define IOSQE_BUFFER_SELECT (1U << 5)
#define IOSQE_CQE_SKIP_SUCCESS (1U << 6)

/* io_uring_params.flags */
#define IORING_SETUP_CQSIZE (1U << 3)
#define IORING_SETUP_CLAMP (1U << 4)
#define IORING_SETUP_R_DISABLED (1U << 6)
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#define IORING_SETUP_NO_SQARRAY (1U << 16)

/* io_uring_params.features */
#define IORING_FEAT_SINGLE_MMAP (1U << 0)
#define IORING_FEAT_NODROP (1U << 1)
#define IORING_FEAT_EXT_ARG (1U << 8)
#define IORING_FEAT_CQE_SKIP (1U << 11)

/* io_uring_enter flags */
#define IORING_ENTER_GETEVENTS (1U << 0)
#define IORING_ENTER_EXT_ARG (1U << 3)
#define IORING_ENTER_REGISTERED_RING (1U << 4)

/* the flags word of the submission queue */
#define IORING_SQ_CQ_OVERFLOW (1U << 1)
#define IORING_SQ_TASKRUN (1U << 2)

/* mmap offsets */
#define IORING_OFF_SQ_RING 0ULL
#define IORING_OFF_SQES 0x10000000ULL

/* io_uring_cqe.flags */
#define IORING_CQE_F_BUFFER (1U << 0)
#define IORING_CQE_F_MORE (1U << 1)
#define IORING_CQE_F_SOCK_NONEMPTY (1U << 2)
#define IORING_CQE_F_NOTIF (1U << 3)
#define IORING_CQE_BUFFER_SHIFT 16

/* io_uring_register opcodes */
enum {
    IORING_REGISTER_FILES = 2,
    IORING_UNREGISTER_FILES = 3,
    IORING_REGISTER_PROBE = 8,
    IORING_REGISTER_ENABLE_RINGS = 12,
    IORING_REGISTER_FILES2 = 13,
    IORING_REGISTER_FILES_UPDATE2 = 14,
    IORING_REGISTER_IOWQ_MAX_WORKERS = 19,
    IORING_REGISTER_RING_FDS = 20,
    IORING_UNREGISTER_RING_FDS = 21,
    IORING_REGISTER_PBUF_RING = 22,
    IORING_UNREGISTER_PBUF_RING = 23,
    IORING_REGISTER_MEM_REGION = 34,
    IORING_REGISTER_SYNC_CANCEL = 24
};
#define IO_URING_OP_SUPPORTED (1U << 0)
#define IORING_RSRC_REGISTER_SPARSE (1U << 0)

struct io_uring_rsrc_register {
    uint32_t nr, flags;
    uint64_t resv2, data, tags;
};

struct io_uring_rsrc_update2 {
    uint32_t offset, resv;
    uint64_t data, tags;
    uint32_t nr, resv2;
};

/* per-operation flags */
#define IORING_RECVSEND_POLL_FIRST (1U << 0)
#define IORING_RECV_MULTISHOT (1U << 1)
#define IORING_ACCEPT_MULTISHOT (1U << 0)
#define IORING_POLL_ADD_MULTI (1U << 0)
#define IORING_URING_CMD_FIXED (1U << 0)
#define IORING_FSYNC_DATASYNC (1U << 0)
#define IORING_ASYNC_CANCEL_ALL (1U << 0)
#define IORING_ASYNC_CANCEL_FD (1U << 1)
#define IORING_ASYNC_CANCEL_ANY (1U << 2)
#define IORING_ASYNC_CANCEL_FD_FIXED (1U << 3)
#define SPLICE_F_FD_IN_FIXED (1U << 31)

_Static_assert(sizeof(struct io_uring_sqe) == 64, "io_uring_sqe");
_Static_assert(sizeof(struct io_uring_cqe) == 16, "io_uring_cqe");
_Static_assert(sizeof(struct io_uring_params) == 120, "io_uring_params");
_Static_assert(sizeof(struct io_uring_getevents_arg) == 24, "io_uring_getevents_arg");
_Static_assert(sizeof(struct io_uring_region_desc) == 64, "io_uring_region_desc");
_Static_assert(sizeof(struct io_uring_mem_region_reg) == 32, "io_uring_mem_region_reg");
_Static_assert(sizeof(struct io_uring_buf) == 16, "io_uring_buf");
_Static_assert(sizeof(struct io_uring_buf_reg) == 40, "io_uring_buf_reg");
_Static_assert(sizeof(struct io_uring_sync_cancel_reg) == 64, "io_uring_sync_cancel_reg");
_Static_assert(sizeof(struct io_uring_recvmsg_out) == 16, "io_uring_recvmsg_out");
_Static_assert(sizeof(struct aiouring_statx) == 256, "statx");

/* Shared memory is read and written on the other side by the kernel: acquire what it published, release what we publish. */
static inline uint32_t aiouring_load_acquire(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t aiouring_load_relaxed(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void aiouring_store_release(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void aiouring_store_release16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

#endif
