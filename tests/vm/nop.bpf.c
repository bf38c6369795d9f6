// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* For the loader's tests: does `target` NOPs in batches of `batch`, counting its own steps, and then gives control back.
 *
 * The few types of the kernel that it needs are declared here; libbpf finds their places in the running kernel's BTF, or takes the
 * layout as it stands where that is part of the kernel's interface (SQEs and CQEs). With -DREFUSED the verifier must refuse it. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define SQ_ENTRIES 64
#define CQ_ENTRIES 128
#define BATCH_MAX 16

enum { REGION_CQ = 1, REGION_SQ = 2 };
enum { LOOP_CONTINUE = 0, LOOP_STOP = 1 };

/* Complete but empty: a kernel function's argument must be of the kernel's kind of type, and its contents are not ours. */
struct iou_ctx {
};

struct iou_loop_params {
	__u32 cq_wait_idx;
} __attribute__((preserve_access_index));

struct io_uring_bpf_ops {
	int (*loop_step)(struct iou_ctx *ring, struct iou_loop_params *params);
	__u32 ring_fd;
	void *priv;
};

struct sqe {
	__u8 opcode, flags;
	__u16 ioprio;
	__s32 fd;
	__u64 offset, addr;
	__u32 len, op_flags;
	__u64 user_data, rest[3];
};

struct cqe {
	__u64 user_data;
	__s32 res;
	__u32 flags;
};

extern __u8 *bpf_io_uring_get_region(struct iou_ctx *ctx, __u32 region_id, const size_t rdwr_buf_size) __ksym;
extern int bpf_io_uring_submit_sqes(struct iou_ctx *ctx, __u32 nr) __ksym;

/* Where the kernel put the queues: io_uring_setup says so to whoever makes the ring. */
const volatile __u32 sq_tail_offset, cq_head_offset, cq_tail_offset, cqes_offset;
const volatile __u32 target = 1;
/* What tests read, write and compare the types of. */
__u32 batch = 8;
__u32 steps, seen, submitted, bad;
__u64 wide;
__s16 table[4];
struct {
	__u32 a, b;
} pair_of_numbers;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} seen_by_batch SEC(".maps");

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define now(x) (*(volatile typeof(x) *)&(x))
#define RINGS_BYTES 4096

SEC("struct_ops.s/loop_step")
int BPF_PROG(loop_step, struct iou_ctx *ring, struct iou_loop_params *params)
{
	__u8 *rings = bpf_io_uring_get_region(ring, REGION_CQ, RINGS_BYTES);
	struct sqe *sqes = (void *)bpf_io_uring_get_region(ring, REGION_SQ, SQ_ENTRIES * sizeof(struct sqe));
	__u32 head, tail, sq_tail, count = 0, key = 0, i;
	__u64 *slot;

#ifndef REFUSED
	if (!rings || !sqes)
		return -1;
#endif
	/* The verifier wants to see the bounds of what it cannot know. */
	if (cq_head_offset > 1024 || cq_tail_offset > 1024 || sq_tail_offset > 1024 || cqes_offset > 1024)
		return -2;
	steps++;
	head = now(*(__u32 *)(rings + cq_head_offset));
	tail = now(*(__u32 *)(rings + cq_tail_offset));
	for (i = 0; i < CQ_ENTRIES && head != tail; i++, head++) {
		struct cqe *cqe = (struct cqe *)(rings + cqes_offset) + (head & (CQ_ENTRIES - 1));

		if (cqe->res != 0 || cqe->user_data != 0x77)
			bad++;
		seen++;
	}
	now(*(__u32 *)(rings + cq_head_offset)) = head;
	slot = bpf_map_lookup_elem(&counts, &key);
	if (slot)
		*slot += 1;
	if (seen >= target)
		return LOOP_STOP;

	sq_tail = now(*(__u32 *)(rings + sq_tail_offset));
	for (i = 0; i < BATCH_MAX && i < batch && submitted < target; i++) {
		struct sqe *sqe = &sqes[sq_tail & (SQ_ENTRIES - 1)];

		__builtin_memset(sqe, 0, sizeof(*sqe));
		sqe->user_data = 0x77;
		sq_tail++;
		count++;
		submitted++;
	}
	now(*(__u32 *)(rings + sq_tail_offset)) = sq_tail;
	if (count && bpf_io_uring_submit_sqes(ring, count) != (int)count)
		return -3;
	wide = seen;
	bpf_map_update_elem(&seen_by_batch, &key, &wide, BPF_ANY);
	params->cq_wait_idx = head + 1;
	return LOOP_CONTINUE;
}

SEC(".struct_ops.link")
struct io_uring_bpf_ops ops = {
	.loop_step = (void *)loop_step,
};
