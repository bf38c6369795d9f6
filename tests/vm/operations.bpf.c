// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Operations that try the kernel's side of BPF operations; operations.c runs them. Each counts its calls. They are not those that ship: these return
 * what no operation should, look where they may not, and take as long as they are told to. */
/* Declared here, since headers may be older than it: the state of bpf_for(). */
#define bpf_iter_num bpf_iter_num_of_the_header
#include <linux/bpf.h>
#undef bpf_iter_num
#include <linux/types.h>
#include <stddef.h>

struct bpf_iter_num {
	__u64 opaque;
} __attribute__((aligned(8)));

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "op_abi.h"

struct io_uring_sqe;

struct uring_bpf_data {
	__u32 flags, buffer_count, lengths[2];
	__u8 id;
	__u64 result;
	__u8 state[64];
} __attribute__((preserve_access_index));

struct uring_bpf_ops {
	unsigned short id;
	int ring_fd;
	int (*prep_fn)(struct uring_bpf_data *data, const struct io_uring_sqe *sqe);
	int (*issue_fn)(struct uring_bpf_data *data);
	void (*fail_fn)(struct uring_bpf_data *data);
	void (*cleanup_fn)(struct uring_bpf_data *data);
	void *priv;
};

extern void uring_bpf_set_result(struct uring_bpf_data *data, __u64 result) __ksym;
extern int uring_bpf_read(struct uring_bpf_data *data, __u32 buffer, __u64 offset, void *mem, __u32 mem__sz) __ksym;
extern int uring_bpf_write(struct uring_bpf_data *data, __u32 buffer, __u64 offset, void *mem, __u32 mem__sz) __ksym;
extern __u8 *uring_bpf_scratch(struct uring_bpf_data *data, const size_t rdwr_buf_size) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What operations.c reads: calls so far, and what a program saw. */
struct {
	__u64 prepared, issued, failed, cleaned, bad;
	/* How far a slow one has come. */
	__u64 steps;
	__s64 seen[8];
	__u64 offset;
} counts;

#define count(field) __sync_fetch_and_add(&counts.field, 1)

SEC("struct_ops.s/cleanup_fn")
int BPF_PROG(cleanup, struct uring_bpf_data *data)
{
	count(cleaned);
	return 0;
}

SEC("struct_ops.s/fail_fn")
int BPF_PROG(fail, struct uring_bpf_data *data)
{
	count(failed);
	return 0;
}

SEC("struct_ops.s/prep_fn")
int BPF_PROG(prep, struct uring_bpf_data *data, const struct io_uring_sqe *sqe)
{
	count(prepared);
	return 0;
}

/* The result is the flags, or what does not fit into a CQE. */
SEC("struct_ops.s/issue_fn")
int BPF_PROG(echo_issue, struct uring_bpf_data *data)
{
	count(issued);
	uring_bpf_set_result(data, data->flags == 0xffffffff ? 0x123456789abcdef0 : data->flags);
	return 0;
}

SEC("struct_ops.s/issue_fn")
int BPF_PROG(returns_issue, struct uring_bpf_data *data)
{
	count(issued);
	uring_bpf_set_result(data, 77);
	return (int)data->flags;
}

SEC("struct_ops.s/prep_fn")
int BPF_PROG(refuses_prep, struct uring_bpf_data *data, const struct io_uring_sqe *sqe)
{
	count(prepared);
	return (int)data->flags;
}

/* Copies buffer 0 to buffer 1 in chunks. */
SEC("struct_ops.s/issue_fn")
int BPF_PROG(copy_issue, struct uring_bpf_data *data)
{
	__u8 *scratch = uring_bpf_scratch(data, URING_BPF_CHUNK_BYTES);
	int i, ret;

	count(issued);
	if (!scratch)
		return -12;
	bpf_for (i, 0, URING_BPF_BYTES_MAX / URING_BPF_CHUNK_BYTES + 1) {
		/* Made from the loop's number each time, which the verifier does not follow. */
		__u64 offset = (__u64)i * URING_BPF_CHUNK_BYTES;
		__u32 size = URING_BPF_CHUNK_BYTES;

		if (offset >= data->lengths[0])
			break;
		if (size > data->lengths[0] - offset)
			size = data->lengths[0] - offset;
		if (size == 0 || size > URING_BPF_CHUNK_BYTES)
			return -5;
		ret = uring_bpf_read(data, 0, offset, scratch, size);
		if (ret)
			return ret;
		ret = uring_bpf_write(data, 1, offset, scratch, size);
		if (ret)
			return ret;
	}
	uring_bpf_set_result(data, data->lengths[0]);
	return 0;
}

/* Reads 16 bytes of the buffer `flags` at counts.offset. */
SEC("struct_ops.s/issue_fn")
int BPF_PROG(range_issue, struct uring_bpf_data *data)
{
	__u8 bytes[16] = {};

	count(issued);
	return uring_bpf_read(data, data->flags, counts.offset, bytes, sizeof(bytes));
}

/* Reads its buffer `flags` times, or until it is told to end. */
SEC("struct_ops.s/issue_fn")
int BPF_PROG(slow_issue, struct uring_bpf_data *data)
{
	__u8 bytes[16] = {};
	int i, j, ret;

	count(issued);
	/* One loop has 2^23 steps at most. */
	bpf_for (i, 0, 1024) {
		bpf_for (j, 0, 1 << 21) {
			if ((__u64)i * (1 << 21) + j >= data->flags)
				goto done;
			ret = uring_bpf_read(data, 0, 0, bytes, sizeof(bytes));
			if (ret)
				return ret;
			counts.steps++;
		}
	}
done:
	uring_bpf_set_result(data, 1);
	return 0;
}

/* Looks at what may be done when: where buffers can be reached, what the state and the scratch memory hold. */
static int look(struct uring_bpf_data *data, int place)
{
	__u8 bytes[4] = {1, 2, 3, 4};

	if (place < 0 || place > 3)
		return 0;
	counts.seen[place] = uring_bpf_read(data, 0, 0, bytes, sizeof(bytes));
	counts.seen[place + 4] = uring_bpf_write(data, 0, 0, bytes, sizeof(bytes));
	return 0;
}

SEC("struct_ops.s/prep_fn")
int BPF_PROG(look_prep, struct uring_bpf_data *data, const struct io_uring_sqe *sqe)
{
	__u8 *scratch = uring_bpf_scratch(data, URING_BPF_SCRATCH_BYTES);
	int i;

	count(prepared);
	look(data, 0);
	/* Only constant places can be reached in what is the kernel's. */
#pragma unroll
	for (i = 0; i < 64; i++)
		if (data->state[i])
			count(bad);
	if (!scratch)
		return -12;
	bpf_for (i, 0, URING_BPF_SCRATCH_BYTES)
		if (i >= 0 && i < URING_BPF_SCRATCH_BYTES && scratch[i])
			count(bad);
	data->state[0] = 1;
	data->state[63] = 64;
	scratch[URING_BPF_SCRATCH_BYTES - 1] = 0xa5;
	return 0;
}

SEC("struct_ops.s/issue_fn")
int BPF_PROG(look_issue, struct uring_bpf_data *data)
{
	__u8 *scratch = uring_bpf_scratch(data, URING_BPF_SCRATCH_BYTES);
	__u8 *more = uring_bpf_scratch(data, URING_BPF_SCRATCH_BYTES + 1);

	count(issued);
	look(data, 1);
	if (data->state[0] != 1 || data->state[63] != 64 || more)
		count(bad);
	if (!scratch || scratch[URING_BPF_SCRATCH_BYTES - 1] != 0xa5)
		count(bad);
	data->state[1] = 2;
	return 0;
}

SEC("struct_ops.s/fail_fn")
int BPF_PROG(look_fail, struct uring_bpf_data *data)
{
	count(failed);
	look(data, 2);
	if (data->state[0] != 1 || data->state[1] != 0)
		count(bad);
	data->state[1] = 3;
	return 0;
}

SEC("struct_ops.s/cleanup_fn")
int BPF_PROG(look_cleanup, struct uring_bpf_data *data)
{
	count(cleaned);
	look(data, 3);
	if (data->state[0] != 1 || data->state[1] < 2)
		count(bad);
	return 0;
}

/* A loop hook: submits what is queued, waits for as many completions, and gives control back. */
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

extern int bpf_io_uring_submit_sqes(struct iou_ctx *ctx, __u32 nr) __ksym;

SEC("struct_ops.s/loop_step")
int BPF_PROG(loop_step, struct iou_ctx *ring, struct iou_loop_params *params)
{
	/* IOU_LOOP_STOP */
	if (counts.steps++)
		return 1;
	counts.seen[0] = bpf_io_uring_submit_sqes(ring, counts.offset);
	params->cq_wait_idx = counts.seen[1];
	return 0;
}

SEC(".struct_ops.link")
struct io_uring_bpf_ops hook = {
	.loop_step = (void *)loop_step,
};

#define ops(name, ...) SEC(".struct_ops.link") struct uring_bpf_ops name = {__VA_ARGS__}

ops(echo, .prep_fn = (void *)prep, .issue_fn = (void *)echo_issue, .fail_fn = (void *)fail, .cleanup_fn = (void *)cleanup);
ops(returns, .prep_fn = (void *)prep, .issue_fn = (void *)returns_issue, .fail_fn = (void *)fail, .cleanup_fn = (void *)cleanup);
ops(refuses, .prep_fn = (void *)refuses_prep, .issue_fn = (void *)returns_issue, .fail_fn = (void *)fail, .cleanup_fn = (void *)cleanup);
ops(copy, .prep_fn = (void *)prep, .issue_fn = (void *)copy_issue, .fail_fn = (void *)fail, .cleanup_fn = (void *)cleanup);
ops(range, .issue_fn = (void *)range_issue);
ops(slow, .prep_fn = (void *)prep, .issue_fn = (void *)slow_issue, .fail_fn = (void *)fail, .cleanup_fn = (void *)cleanup);
ops(look_around, .prep_fn = (void *)look_prep, .issue_fn = (void *)look_issue, .fail_fn = (void *)look_fail, .cleanup_fn = (void *)look_cleanup);

/* An operation has to have an issue. */
ops(no_issue, .cleanup_fn = (void *)cleanup);

/* What the verifier must refuse; operations.c leaves them out, and asks for one after the other. Writing the request, beyond the state, and the SQE; reading beyond the
 * request; kernel functions that get another address than the request's, more memory than there is, or no check of what may be absent. */
#define refused(name, member, body)                                                       \
	SEC("struct_ops.s/" #member) int BPF_PROG(name##_program, struct uring_bpf_data *data) body \
	SEC(".struct_ops.link") struct uring_bpf_ops name = {.issue_fn = (void *)name##_program}

refused(writes_flags, issue_fn, {
	data->flags = 1;
	return 0;
});
refused(writes_result, issue_fn, {
	data->result = 1;
	return 0;
});
refused(writes_lengths, issue_fn, {
	data->lengths[1] = 1 << 30;
	return 0;
});
refused(writes_beyond, issue_fn, {
	*(volatile __u8 *)(data->state + 64) = 1;
	return 0;
});
refused(writes_across, issue_fn, {
	*(volatile __u64 *)(data->state + 60) = 1;
	return 0;
});
refused(reads_beyond, issue_fn, {
	return *(volatile __u8 *)(data->state + 64);
});
refused(other_address, issue_fn, {
	__u8 bytes[8];

	return uring_bpf_read((void *)data + 8, 0, 0, bytes, sizeof(bytes));
});
refused(number_for_address, issue_fn, {
	__u8 bytes[8];

	return uring_bpf_read((void *)(unsigned long)data->result, 0, 0, bytes, sizeof(bytes));
});
refused(reads_too_much, issue_fn, {
	__u8 bytes[8];

	return uring_bpf_read(data, 0, 0, bytes, 600);
});
refused(unchecked_scratch, issue_fn, {
	uring_bpf_scratch(data, 16)[0] = 1;
	return 0;
});
refused(beyond_scratch, issue_fn, {
	__u8 *scratch = uring_bpf_scratch(data, 16);

	if (scratch)
		scratch[16] = 1;
	return 0;
});
