/* What user space and the kernel side of BPF operations share: the request as it is submitted. Plain C without other headers.
 *
 * Included by the kernel's core (kernel/), by op.h (which operations are written against), and by the extension that fills the SQEs. The form follows
 * the third version of the kernel proposal (IORING_OP_BPF): an id among up to 256 operations of a ring, a table of buffers, flags, a result; what it
 * has besides is the 64-bit result, and two buffers at most.
 *
 * As a request of its own (IORING_OP_BPF, a ring whose operations were registered with its ring_fd):
 *     opcode   IORING_OP_BPF, by name from the kernel's BTF
 *     op_flags the operation's id in bits 31-24, the rest 0
 *     addr     of struct uring_bpf_request in user memory       off, len, fd  0, 0, -1
 * By the module (IORING_OP_URING_CMD on a descriptor of /dev/aiouring_bpf, operations registered with that descriptor as ring_fd):
 *     cmd_op   the operation's id in bits 7-0, URING_BPF_CMD_* above
 *     cmd[0:8] the address of struct uring_bpf_request          cmd[8:16] 0
 *     A registered buffer (at most one a request): URING_CMD's own IORING_URING_CMD_FIXED and the SQE's buf_index, the same index as in the request.
 *
 * Everything that is not used is zero, here and in the request: what reserved says, the buf_index of user memory, descriptors beyond buffer_count. An
 * operation that is not registered is -EOPNOTSUPP, memory that is not the caller's or not within its registered buffer -EFAULT, the rest -EINVAL; the
 * operation hears of none of them. Buffers are reached in issue alone.
 *
 * The request and its buffers are the caller's, and unchanged, from submission to the CQE. The CQE's res is -errno, or the result if that is between 0
 * and INT_MAX, or INT_MAX; the whole result is in the request. On an error the request's result is not written.
 */
#ifndef AIOURING_OP_ABI_H
#define AIOURING_OP_ABI_H

#define URING_BPF_OPS_MAX 256
#define URING_BPF_BUFFERS_MAX 2
/* Bytes of one buffer: it bounds how long an operation keeps a processor. */
#define URING_BPF_BYTES_MAX (4u * 1024 * 1024)
/* Operations with more bytes than this in all their buffers run in a worker (io-wq, a thread), not where they are submitted. */
#define URING_BPF_DIRECT_BYTES_MAX (64u * 1024)
/* What an operation reads or writes at once, and the memory that it has for it. */
#define URING_BPF_CHUNK_BYTES 4096u
#define URING_BPF_SCRATCH_BYTES (2u * URING_BPF_CHUNK_BYTES)
/* An operation's own, for one request, zero at its prep. */
#define URING_BPF_STATE_BYTES 64

enum io_bpf_buf_type {
    IO_BPF_BUF_USER = 0,  /* addr in user memory */
    IO_BPF_BUF_FIXED = 1, /* the same, within the registered buffer buf_index */
};

struct io_bpf_buf_desc {
    unsigned char type, reserved;
    unsigned short buf_index;
    unsigned int len;
    unsigned long long addr;
};

struct uring_bpf_request {
    struct io_bpf_buf_desc buffers[URING_BPF_BUFFERS_MAX];
    unsigned int buffer_count;
    unsigned int flags;       /* the operation's */
    unsigned long long result; /* written by the kernel when the operation succeeded */
};

/* Bits of cmd_op, module only. The module hears of a request when it is issued, so it never hears of one that the failure of a linked predecessor
 * cancelled: user space submits that again with FAIL, and prep, fail and cleanup run; the CQE is -ECANCELED. */
#define URING_BPF_CMD_FAIL (1u << 8)

_Static_assert(sizeof(struct io_bpf_buf_desc) == 16, "as in the proposal");
_Static_assert(sizeof(struct uring_bpf_request) == 48, "no holes");

#endif
