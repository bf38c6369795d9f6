/* SPDX-License-Identifier: GPL-2.0 */
/*
 * BPF operations: what the module (aiouring_bpf.c) and the patched io_uring (bpf-op.c) have in common. Each of them includes core.c once.
 *
 * The core imports a request, runs the four programs of an operation in their order, and gives them the kernel functions by which they see the
 * request. It knows nothing of rings and files: what is particular to the one or the other, the including file defines (uring_bpf_fixed,
 * uring_bpf_cancelled). Tables of operations and references to them are the including file's too.
 */
#ifndef URING_BPF_CORE_H
#define URING_BPF_CORE_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <linux/uio.h>

#include "op_abi.h"

struct io_uring_sqe;

/* The request as programs see it. They may read all of it, and write `state`. It holds no pointer of the kernel's. */
struct uring_bpf_data {
	u32 flags;
	u32 buffer_count;
	u32 lengths[URING_BPF_BUFFERS_MAX];
	u8 id;
	u8 reserved[7];
	u64 result;
	u8 state[URING_BPF_STATE_BYTES] __aligned(8);
};

struct uring_bpf_ops {
	unsigned short id;
	int ring_fd;
	int (*prep_fn)(struct uring_bpf_data *data, const struct io_uring_sqe *sqe);
	int (*issue_fn)(struct uring_bpf_data *data);
	void (*fail_fn)(struct uring_bpf_data *data);
	void (*cleanup_fn)(struct uring_bpf_data *data);
	/* The kernel's own: where it is registered. */
	void *priv;
};

/*
 * One request between its prep and its cleanup. The buffers' memory is the submitting task's, so that it can be reached while the request is issued
 * and at no other time: prep may run long before, cleanup in a worker of the kernel that has another task's memory or none.
 */
struct uring_bpf_call {
	struct uring_bpf_data data;
	struct io_bpf_buf_desc buffers[URING_BPF_BUFFERS_MAX];
	struct uring_bpf_request __user *user;
	const struct uring_bpf_ops *ops;
	void *scratch;
	bool issuing;
	bool prepared;
	unsigned int issue_flags;
	/* The including file's: the request of io_uring. */
	void *request;
};

/* From the including file. An iterator over a part, within the buffer, of a registered one; it is asked for with the buffer's whole length first. */
static int uring_bpf_fixed(struct uring_bpf_call *call, u32 buffer, u64 offset, u32 length, int direction, struct iov_iter *iter);
/* From the including file. Whether somebody wants the request to end. */
static bool uring_bpf_cancelled(struct uring_bpf_call *call);

#endif
