// SPDX-License-Identifier: GPL-2.0
/*
 * aiouring_bpf: operations in BPF as requests of io_uring, on an unpatched kernel.
 *
 * The device /dev/aiouring_bpf takes IORING_OP_URING_CMD. A descriptor of it has a table of operations: struct_ops of the type uring_bpf_ops that
 * were registered with that descriptor in ring_fd. A request names one of them (op_abi.h says how) and runs it: prep, issue, cleanup, one after the
 * other, in the task that submits or in a worker of io_uring's.
 *
 * Who owns what: a table belongs to its open file and to each operation in it, and goes with the last of them. An operation is registered as long
 * as its link is there, whatever happens to the file; a request holds its file. An operation in the table is used inside the table's SRCU sections
 * alone, so that unregistering waits for the requests that run it, and for those of no other table: a request may wait for its memory as long as
 * somebody likes. No lock is held meanwhile. The module stays as long as there is an open file or a map of such operations.
 */
#include <linux/bpf.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_uring/cmd.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nospec.h>
#include <linux/srcu.h>
#include <linux/version.h>

#include "core.h"
#include "core.c"

/* See WORK_CANCELLED; a kernel that is newer may also have types and functions of the names that this module gives to its own. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 3, 0) || LINUX_VERSION_CODE >= KERNEL_VERSION(7, 4, 0)
#error "aiouring_bpf knows the insides of Linux 7.3's io_uring; it is not for this kernel"
#endif

/* From io_uring's own io-wq.h: the work is to end. Cancelling a request that runs in a worker sets it. */
#define WORK_CANCELLED 1

#define COMMAND_ID 0xffu
#define COMMAND_KNOWN (COMMAND_ID | URING_BPF_CMD_FAIL)

/* The SQE's own part of the request. */
struct command {
	__u64 address;
	__u64 reserved;
};

struct table {
	struct kref references;
	struct srcu_struct running;
	struct uring_bpf_ops __rcu *operations[URING_BPF_OPS_MAX];
};

static const struct file_operations device_operations;
/* Guards who is in which table: operations[] for writers, and the operations' priv, which is their table or NULL. */
static DEFINE_MUTEX(tables_lock);

/*
 * Where the last of file and operations goes: a task that closes a file or a link, or a worker of the kernel; it may sleep. Nobody runs or waits in
 * `running` then: a request holds the file, and uring_bpf_unreg() its reference until it has waited.
 */
static void table_free(struct kref *references)
{
	struct table *table = container_of(references, struct table, references);

	cleanup_srcu_struct(&table->running);
	kfree(table);
}

static void table_put(struct table *table)
{
	kref_put(&table->references, table_free);
}

/* --- what the core asks */

static int uring_bpf_fixed(struct uring_bpf_call *call, u32 buffer, u64 offset, u32 length, int direction, struct iov_iter *iter)
{
	const struct io_bpf_buf_desc *desc = &call->buffers[buffer];
	struct io_uring_cmd *cmd = call->request;

	/* io_uring takes one registered buffer for a request, by the index in the SQE. */
	if (!(cmd->flags & IORING_URING_CMD_FIXED) || desc->buf_index != cmd_to_io_kiocb(cmd)->buf_index)
		return -EINVAL;
	return io_uring_cmd_import_fixed(desc->addr + offset, length, direction, iter, cmd, call->issue_flags);
}

static bool uring_bpf_cancelled(struct uring_bpf_call *call)
{
	struct io_uring_cmd *cmd = call->request;

	/* Not signal_pending(): in the submitting task a signal means another completion, in a worker perhaps a stopped process. */
	if (fatal_signal_pending(current))
		return true;
	return call->issue_flags & IO_URING_F_IOWQ && atomic_read(&cmd_to_io_kiocb(cmd)->work.flags) & WORK_CANCELLED;
}

/* --- registration */

static int uring_bpf_reg(void *kdata, struct bpf_link *link)
{
	struct uring_bpf_ops *ops = kdata;
	struct table *table;
	CLASS(fd, file)(ops->ring_fd);

	/* Without a link the map would hold itself, and with it the module, when its process is gone. */
	if (!link)
		return -EOPNOTSUPP;
	if (fd_empty(file) || fd_file(file)->f_op != &device_operations)
		return -EBADF;
	table = fd_file(file)->private_data;
	guard(mutex)(&tables_lock);
	/* A map of operations can have several links; it is in one table. */
	if (ops->priv || rcu_access_pointer(table->operations[ops->id]))
		return -EBUSY;
	kref_get(&table->references);
	ops->priv = table;
	rcu_assign_pointer(table->operations[ops->id], ops);
	return 0;
}

/* Called for the link that registered it: until this is through, another one is refused. */
static void uring_bpf_unreg(void *kdata, struct bpf_link *link)
{
	struct uring_bpf_ops *ops = kdata;
	struct table *table;

	scoped_guard(mutex, &tables_lock) {
		table = ops->priv;
		RCU_INIT_POINTER(table->operations[ops->id], NULL);
	}
	/* After this no request runs it, and its programs may go. */
	synchronize_srcu(&table->running);
	scoped_guard(mutex, &tables_lock)
		ops->priv = NULL;
	table_put(table);
}

/* --- the device */

/* Runs one request and gives its res; -EAGAIN in *retry instead if it has to be run in a worker. */
static s32 run(struct io_uring_cmd *cmd, const struct uring_bpf_ops *ops, u64 address, unsigned int issue_flags, bool *retry)
{
	struct uring_bpf_call call;
	s32 ret;

	ret = uring_bpf_import(&call, ops, ops->id, address, cmd);
	if (ret)
		return ret;
	if (issue_flags & IO_URING_F_NONBLOCK && uring_bpf_is_long(&call) && !(cmd->cmd_op & URING_BPF_CMD_FAIL)) {
		*retry = true;
		return 0;
	}
	ret = uring_bpf_prep(&call, cmd->sqe);
	if (!ret && cmd->cmd_op & URING_BPF_CMD_FAIL) {
		uring_bpf_fail(&call);
		ret = -ECANCELED;
	} else if (!ret) {
		ret = uring_bpf_issue(&call, issue_flags);
	}
	uring_bpf_end(&call);
	return ret;
}

static int device_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	const struct command *command = io_uring_sqe_cmd(cmd->sqe, struct command);
	struct table *table = cmd->file->private_data;
	const u64 address = READ_ONCE(command->address);
	const struct uring_bpf_ops *ops;
	bool retry = false;
	s32 ret;

	/* Nothing here asks to be told of cancellation. */
	if (issue_flags & IO_URING_F_CANCEL)
		return 0;
	if (cmd->cmd_op & ~COMMAND_KNOWN || READ_ONCE(command->reserved) || cmd->flags & IORING_URING_CMD_MULTISHOT) {
		ret = -EINVAL;
	} else {
		guard(srcu)(&table->running);
		ops = srcu_dereference(table->operations[array_index_nospec(cmd->cmd_op & COMMAND_ID, URING_BPF_OPS_MAX)], &table->running);
		ret = ops ? run(cmd, ops, address, issue_flags, &retry) : -EOPNOTSUPP;
	}
	if (retry)
		return -EAGAIN;
	/* Completed here, so that no result is taken for a word to io_uring: -EAGAIN would be tried again, -EIOCBQUEUED waited for. */
	io_uring_cmd_done(cmd, ret, issue_flags);
	return -EIOCBQUEUED;
}

static int device_open(struct inode *inode, struct file *file)
{
	struct table *table = kzalloc(sizeof(*table), GFP_KERNEL_ACCOUNT);

	if (!table)
		return -ENOMEM;
	if (init_srcu_struct(&table->running)) {
		kfree(table);
		return -ENOMEM;
	}
	kref_init(&table->references);
	file->private_data = table;
	return nonseekable_open(inode, file);
}

static int device_release(struct inode *inode, struct file *file)
{
	table_put(file->private_data);
	return 0;
}

static const struct file_operations device_operations = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.uring_cmd = device_uring_cmd,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "aiouring_bpf",
	.fops = &device_operations,
	.mode = 0600,
};

static int __init aiouring_bpf_init(void)
{
	int ret = uring_bpf_register();

	return ret ?: misc_register(&device);
}

static void __exit aiouring_bpf_exit(void)
{
	misc_deregister(&device);
}

module_init(aiouring_bpf_init);
module_exit(aiouring_bpf_exit);
MODULE_DESCRIPTION("BPF operations as requests of io_uring");
MODULE_AUTHOR("the aiouring project");
MODULE_VERSION("0.1");
MODULE_LICENSE("GPL");
