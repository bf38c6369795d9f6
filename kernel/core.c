// SPDX-License-Identifier: GPL-2.0
/*
 * The core of BPF operations; see core.h. It is included, not compiled by itself: the kernel functions have to belong to the including file's
 * module, and nothing here is anybody else's business.
 */
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

/* Errors from here on are the kernel's own (ERESTARTSYS, EIOCBQUEUED) and mean something to who calls; none may come from a program. */
#define URING_BPF_ERRNO_INTERNAL_FIRST 512
#define URING_BPF_ERRNO_INTERNAL_LAST 531

/*
 * What a program returned, as an error that a request may end with, or 0. -ECANCELED is none of a program's: by it user space knows a request that
 * was never begun, and submits it again for its fail and cleanup (URING_BPF_CMD_FAIL).
 */
static int uring_bpf_error(int returned)
{
	if (returned == 0)
		return 0;
	if (returned > 0 || returned < -MAX_ERRNO || returned == -ECANCELED)
		return -EINVAL;
	if (returned <= -URING_BPF_ERRNO_INTERNAL_FIRST && returned >= -URING_BPF_ERRNO_INTERNAL_LAST)
		return -EINVAL;
	return returned;
}

/*
 * Reads the request from user memory and checks it. Called in the submitting task or a worker that has its memory. `call` is wholly set up before
 * anything can fail, so that uring_bpf_end() may follow always.
 */
static int uring_bpf_import(struct uring_bpf_call *call, const struct uring_bpf_ops *ops, u8 id, u64 address, void *request)
{
	struct uring_bpf_request wanted;
	u32 i;

	memset(call, 0, sizeof(*call));
	call->ops = ops;
	call->request = request;
	call->user = u64_to_user_ptr(address);
	if (copy_from_user(&wanted, call->user, sizeof(wanted)))
		return -EFAULT;
	if (wanted.buffer_count > URING_BPF_BUFFERS_MAX)
		return -EINVAL;
	for (i = 0; i < wanted.buffer_count; i++) {
		const struct io_bpf_buf_desc *buffer = &wanted.buffers[i];

		if (buffer->reserved || buffer->len > URING_BPF_BYTES_MAX)
			return -EINVAL;
		switch (buffer->type) {
		case IO_BPF_BUF_USER:
			if (buffer->buf_index)
				return -EINVAL;
			if (buffer->len && !access_ok(u64_to_user_ptr(buffer->addr), buffer->len))
				return -EFAULT;
			break;
		case IO_BPF_BUF_FIXED:
			break;
		default:
			return -EINVAL;
		}
	}
	for (; i < URING_BPF_BUFFERS_MAX; i++)
		if (memchr_inv(&wanted.buffers[i], 0, sizeof(wanted.buffers[i])))
			return -EINVAL;

	memcpy(call->buffers, wanted.buffers, sizeof(call->buffers));
	call->data.id = id;
	call->data.flags = wanted.flags;
	call->data.buffer_count = wanted.buffer_count;
	for (i = 0; i < wanted.buffer_count; i++)
		call->data.lengths[i] = wanted.buffers[i].len;
	return 0;
}

/* Whether the request moves too much to be done where it is submitted, with the ring locked. */
static bool uring_bpf_is_long(const struct uring_bpf_call *call)
{
	u64 total = 0;
	u32 i;

	for (i = 0; i < call->data.buffer_count; i++)
		total += call->buffers[i].len;
	return total > URING_BPF_DIRECT_BYTES_MAX;
}

/* From here on cleanup is owed. An error ends the request: neither issue nor fail run. */
static int uring_bpf_prep(struct uring_bpf_call *call, const struct io_uring_sqe *sqe)
{
	call->prepared = true;
	return call->ops->prep_fn ? uring_bpf_error(call->ops->prep_fn(&call->data, sqe)) : 0;
}

/* Runs the operation and gives the CQE's res; the whole result is in user memory then. Called once, after a prep without error. */
static s32 uring_bpf_issue(struct uring_bpf_call *call, unsigned int issue_flags)
{
	struct iov_iter iter;
	int ret;
	u32 i;

	call->issue_flags = issue_flags;
	/* Not when the program reaches them: an operation that does nothing with a buffer refuses a bad one like any other. */
	for (i = 0; i < call->data.buffer_count; i++) {
		if (call->buffers[i].type != IO_BPF_BUF_FIXED)
			continue;
		ret = uring_bpf_fixed(call, i, 0, call->buffers[i].len, ITER_SOURCE, &iter);
		/* One that the kernel registered (ublk) may be for writing alone. Which of the two the program wants is looked at when it moves bytes. */
		if (ret == -EFAULT)
			ret = uring_bpf_fixed(call, i, 0, call->buffers[i].len, ITER_DEST, &iter);
		if (ret)
			return uring_bpf_error(ret);
	}
	call->issuing = true;
	ret = uring_bpf_error(call->ops->issue_fn(&call->data));
	call->issuing = false;
	if (ret)
		return ret;
	if (put_user(call->data.result, &call->user->result))
		return -EFAULT;
	return min_t(u64, call->data.result, INT_MAX);
}

/* For a request that was prepared and will not be issued. */
static void uring_bpf_fail(struct uring_bpf_call *call)
{
	if (call->ops->fail_fn)
		call->ops->fail_fn(&call->data);
}

/* Ends the request for its operation; a second time does nothing. The caller gives up its reference to the operation after this, not before. */
static void uring_bpf_end(struct uring_bpf_call *call)
{
	if (call->prepared && call->ops->cleanup_fn)
		call->ops->cleanup_fn(&call->data);
	call->prepared = false;
	/* It held the user's bytes, or what an operation made of them. */
	kfree_sensitive(call->scratch);
	call->scratch = NULL;
}

/* --- what programs call */

static int uring_bpf_move(struct uring_bpf_data *data, u32 buffer, u64 offset, void *mem, u32 length, int direction)
{
	struct uring_bpf_call *call = container_of(data, struct uring_bpf_call, data);
	void __user *address;
	struct iov_iter iter;
	size_t moved;
	int ret;

	if (!call->issuing)
		return -EFAULT;
	if (buffer >= data->buffer_count || offset > call->buffers[buffer].len || length > call->buffers[buffer].len - offset)
		return -ERANGE;
	if (uring_bpf_cancelled(call))
		return -EINTR;
	cond_resched();
	if (!length)
		return 0;
	if (call->buffers[buffer].type == IO_BPF_BUF_FIXED) {
		ret = uring_bpf_fixed(call, buffer, offset, length, direction, &iter);
		if (ret)
			return ret;
		moved = direction == ITER_SOURCE ? copy_from_iter(mem, length, &iter) : copy_to_iter(mem, length, &iter);
		return moved == length ? 0 : -EFAULT;
	}
	address = u64_to_user_ptr(call->buffers[buffer].addr + offset);
	if (direction == ITER_SOURCE)
		return copy_from_user(mem, address, length) ? -EFAULT : 0;
	return copy_to_user(address, mem, length) ? -EFAULT : 0;
}

__bpf_kfunc_start_defs();

/* The request's 64-bit result, 0 unless it is set. An operation that fails has none. */
__bpf_kfunc void uring_bpf_set_result(struct uring_bpf_data *data, u64 result)
{
	data->result = result;
}

/* Copies from a buffer, in issue alone. 0, -ERANGE outside the buffer, -EFAULT, or -EINTR when the request was cancelled or its task dies. */
__bpf_kfunc int uring_bpf_read(struct uring_bpf_data *data, u32 buffer, u64 offset, void *mem, u32 mem__sz)
{
	return uring_bpf_move(data, buffer, offset, mem, mem__sz, ITER_SOURCE);
}

/* Copies to a buffer, in issue alone; errors as those of uring_bpf_read. On -EFAULT a part may have been written. */
__bpf_kfunc int uring_bpf_write(struct uring_bpf_data *data, u32 buffer, u64 offset, void *mem, u32 mem__sz)
{
	return uring_bpf_move(data, buffer, offset, mem, mem__sz, ITER_DEST);
}

/* Memory for the time of one request, the same at each call, zero at first. NULL if there is none or more is wanted than there may be. */
__bpf_kfunc u8 *uring_bpf_scratch(struct uring_bpf_data *data, const size_t rdwr_buf_size)
{
	struct uring_bpf_call *call = container_of(data, struct uring_bpf_call, data);

	if (rdwr_buf_size > URING_BPF_SCRATCH_BYTES)
		return NULL;
	if (!call->scratch)
		call->scratch = kzalloc(URING_BPF_SCRATCH_BYTES, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	return call->scratch;
}

__bpf_kfunc_end_defs();

/* The request must be the very one that the program was given. A kernel that has no flag for it asks that of every argument. */
#ifndef KF_TRUSTED_ARGS
#define KF_TRUSTED_ARGS 0
#endif

BTF_KFUNCS_START(uring_bpf_kfuncs)
BTF_ID_FLAGS(func, uring_bpf_set_result, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, uring_bpf_read, KF_SLEEPABLE | KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, uring_bpf_write, KF_SLEEPABLE | KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, uring_bpf_scratch, KF_SLEEPABLE | KF_RET_NULL | KF_TRUSTED_ARGS)
BTF_KFUNCS_END(uring_bpf_kfuncs)

static const struct btf_kfunc_id_set uring_bpf_kfunc_set = {
	.owner = THIS_MODULE,
	.set = &uring_bpf_kfuncs,
};

/* --- what the verifier asks */

/* Types of the kernel and of the module that has them, as long as that is there. */
static const struct btf *uring_bpf_btf;
static const struct btf_type *uring_bpf_data_type;

static bool uring_bpf_is_valid_access(int off, int size, enum bpf_access_type type, const struct bpf_prog *prog,
				      struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

static int uring_bpf_struct_access(struct bpf_verifier_log *log, const struct bpf_reg_state *reg, int off, int size)
{
	const int begin = offsetof(struct uring_bpf_data, state);

	if (btf_type_by_id(reg->btf, reg->btf_id) != READ_ONCE(uring_bpf_data_type))
		return -EACCES;
	if (off < begin || size < 0 || off + size > begin + URING_BPF_STATE_BYTES)
		return -EACCES;
	return SCALAR_VALUE;
}

static const struct bpf_verifier_ops uring_bpf_verifier_ops = {
	.get_func_proto = bpf_base_func_proto,
	.is_valid_access = uring_bpf_is_valid_access,
	.btf_struct_access = uring_bpf_struct_access,
};

static int uring_bpf_init_btf(struct btf *btf)
{
	uring_bpf_btf = btf;
	return 0;
}

/*
 * The verifier calls this before it looks at a program. It is where the type of the first argument is at hand: an id of the build's is not the one
 * of the running kernel for a module, and looking a type up by its name takes a reference that a module cannot give back.
 */
static int uring_bpf_check_member(const struct btf_type *ops_type, const struct btf_member *member, const struct bpf_prog *prog)
{
	const struct btf_type *type;

	type = btf_type_by_id(uring_bpf_btf, member->type);
	if (!type || !btf_type_is_ptr(type))
		return -EINVAL;
	type = btf_type_by_id(uring_bpf_btf, type->type);
	if (!type || !btf_type_is_func_proto(type) || !btf_type_vlen(type))
		return -EINVAL;
	type = btf_type_by_id(uring_bpf_btf, btf_params(type)[0].type);
	if (!type || !btf_type_is_ptr(type))
		return -EINVAL;
	WRITE_ONCE(uring_bpf_data_type, btf_type_by_id(uring_bpf_btf, type->type));
	return 0;
}

static int uring_bpf_init_member(const struct btf_type *type, const struct btf_member *member, void *kdata, const void *udata)
{
	const struct uring_bpf_ops *wanted = udata;
	struct uring_bpf_ops *ops = kdata;

	switch (__btf_member_bit_offset(type, member) / 8) {
	case offsetof(struct uring_bpf_ops, id):
		if (wanted->id >= URING_BPF_OPS_MAX)
			return -EINVAL;
		ops->id = wanted->id;
		return 1;
	case offsetof(struct uring_bpf_ops, ring_fd):
		ops->ring_fd = wanted->ring_fd;
		return 1;
	}
	return 0;
}

static int uring_bpf_validate(void *kdata)
{
	const struct uring_bpf_ops *ops = kdata;

	return ops->issue_fn ? 0 : -EINVAL;
}

static int uring_bpf_stub_prep(struct uring_bpf_data *data, const struct io_uring_sqe *sqe)
{
	return 0;
}

static int uring_bpf_stub_issue(struct uring_bpf_data *data)
{
	return 0;
}

static void uring_bpf_stub_fail(struct uring_bpf_data *data)
{
}

static void uring_bpf_stub_cleanup(struct uring_bpf_data *data)
{
}

static struct uring_bpf_ops uring_bpf_stubs = {
	.prep_fn = uring_bpf_stub_prep,
	.issue_fn = uring_bpf_stub_issue,
	.fail_fn = uring_bpf_stub_fail,
	.cleanup_fn = uring_bpf_stub_cleanup,
};

/* From the including file: an operation enters and leaves its table. */
static int uring_bpf_reg(void *kdata, struct bpf_link *link);
static void uring_bpf_unreg(void *kdata, struct bpf_link *link);

static struct bpf_struct_ops bpf_uring_bpf_ops = {
	.verifier_ops = &uring_bpf_verifier_ops,
	.init = uring_bpf_init_btf,
	.check_member = uring_bpf_check_member,
	.init_member = uring_bpf_init_member,
	.validate = uring_bpf_validate,
	.reg = uring_bpf_reg,
	.unreg = uring_bpf_unreg,
	.cfi_stubs = &uring_bpf_stubs,
	.name = "uring_bpf_ops",
	.owner = THIS_MODULE,
};

static int uring_bpf_register(void)
{
	int ret = register_btf_kfunc_id_set(BPF_PROG_TYPE_STRUCT_OPS, &uring_bpf_kfunc_set);

	return ret ?: register_bpf_struct_ops(&bpf_uring_bpf_ops, uring_bpf_ops);
}
