/* Tasks: small state machines in the hook that Python starts and awaits. Echo, discard, relay, copy, send a file.
 *
 * A program that wants them calls aiouring_task_cqe() for completions of AIOURING_NS_TASK. Called by: standard.bpf.c, programs of users.
 *
 * A task is a slot in the region. Python fills it and queues a NOP with AIOURING_START, whose completion begins the first requests; another NOP
 * with AIOURING_CANCEL asks for the end. The task ends when it has no request in flight any more, and tells Python with one completion for its
 * owner: the bytes that moved (31 bits of them; the slot has them all), or -errno. Python gives the slot free.
 *
 * Who owns what: descriptors and memory of a task are Python's, which keeps them until the task has ended.
 */
#ifndef AIOURING_TASKS_H
#define AIOURING_TASKS_H

#include "hook.h"

/* Tells the loop that a program knows tasks. */
__attribute__((visibility("default"), used)) const volatile aiouring_u32 aiouring_has_tasks = AIOURING_HOOK_ABI;

enum aiouring_task_op {
    AIOURING_START = 1,
    AIOURING_CANCEL,
    AIOURING_RECEIVE,
    AIOURING_SEND,
    AIOURING_READ,
    AIOURING_WRITE,
    AIOURING_SHUT,
    AIOURING_TIMER,
    AIOURING_CANCELS, /* the answer to a cancellation; the operation that was meant is in bits 40-47 */
};

AIOURING_CODE aiouring_u64 aiouring_task_data(aiouring_u32 op, aiouring_u32 sub, aiouring_u32 index)
{
    return (aiouring_u64)AIOURING_NS_TASK << 56 | (aiouring_u64)op << 48 | (aiouring_u64)(sub & 0xffff) << 32 | index;
}

AIOURING_CODE struct aiouring_task *aiouring_task_at(struct aiouring_hook *hook, aiouring_u32 index)
{
    aiouring_u64 slot = index & (AIOURING_TASKS_MAX - 1);

    AIOURING_OPAQUE(slot);
    return (struct aiouring_task *)(hook->memory + AIOURING_TASKS_OFFSET + slot * AIOURING_TASK_BYTES);
}

/* Which direction or block a completion is about, with a bound that the verifier sees. */
AIOURING_CODE struct aiouring_block *aiouring_block_at(struct aiouring_task *task, aiouring_u32 sub)
{
    aiouring_u64 which = sub & (AIOURING_BLOCKS_MAX - 1);

    AIOURING_OPAQUE(which);
    return (struct aiouring_block *)((aiouring_u8 *)task->block + which * sizeof(struct aiouring_block));
}

AIOURING_CODE void aiouring_task_fail(struct aiouring_task *task, aiouring_s32 error)
{
    if (!task->error)
        task->error = error;
    task->flags |= AIOURING_TASK_ENDING;
}

/* Whether it may begin another request. */
AIOURING_CODE int aiouring_task_goes_on(struct aiouring_hook *hook, struct aiouring_task *task)
{
    if (aiouring_control(hook)->closing && !(task->flags & AIOURING_TASK_ENDING))
        aiouring_task_fail(task, -AIOURING_ECANCELED);
    return !(task->flags & AIOURING_TASK_ENDING);
}

AIOURING_CODE void aiouring_fill_receive(struct aiouring_hook *hook, struct aiouring_block *block, aiouring_u32 sub, aiouring_u32 index)
{
    struct io_uring_sqe *sqe = aiouring_next_sqe(hook);

    sqe->opcode = IORING_OP_RECV;
    sqe->fd = block->fd_in;
    sqe->addr = block->address;
    sqe->len = block->size;
    sqe->user_data = aiouring_task_data(AIOURING_RECEIVE, sub, index);
}

/* Receive, after what is in the block went out if there is something. Both are one chain: the send posts a completion only when it fails, and the
 * receive none in that case, so one completion comes in any case. */
AIOURING_CODE void aiouring_pass_on(struct aiouring_hook *hook, struct aiouring_task *task, struct aiouring_block *block, aiouring_u32 sub,
                                    aiouring_u32 index, aiouring_u32 length)
{
    if (aiouring_reserve(hook, 2)) {
        aiouring_task_fail(task, -AIOURING_EAGAIN);
        return;
    }
    if (length) {
        struct io_uring_sqe *sqe = aiouring_next_sqe(hook);

        sqe->opcode = IORING_OP_SEND;
        sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
        sqe->fd = block->fd_out;
        sqe->addr = block->address;
        sqe->len = length;
        sqe->op_flags = AIOURING_MSG_WAITALL | AIOURING_MSG_NOSIGNAL;
        sqe->user_data = aiouring_task_data(AIOURING_SEND, sub, index);
    }
    aiouring_fill_receive(hook, block, sub, index);
    block->in_flight = length ? AIOURING_SEND : AIOURING_RECEIVE;
    block->filled = length;
    task->in_flight++;
}

/* One request of a copy or of a file that is sent, about the block's memory from `done` on. */
AIOURING_CODE void aiouring_move_block(struct aiouring_hook *hook, struct aiouring_task *task, struct aiouring_block *block, aiouring_u32 sub,
                                       aiouring_u32 index, aiouring_u32 op)
{
    struct io_uring_sqe *sqe = aiouring_sqe(hook);

    if (!sqe) {
        aiouring_task_fail(task, -AIOURING_EAGAIN);
        return;
    }
    if (op == AIOURING_READ) {
        sqe->opcode = IORING_OP_READ;
        sqe->fd = block->fd_in;
        sqe->off = block->offset;
        sqe->addr = block->address;
        sqe->len = block->wanted;
    } else {
        sqe->fd = block->fd_out;
        sqe->addr = block->address + block->done;
        sqe->len = block->filled - block->done;
        if (op == AIOURING_WRITE) {
            sqe->opcode = IORING_OP_WRITE;
            sqe->off = block->offset + (aiouring_u64)task->shift + block->done;
        } else {
            sqe->opcode = IORING_OP_SEND;
            sqe->op_flags = AIOURING_MSG_WAITALL | AIOURING_MSG_NOSIGNAL;
        }
    }
    sqe->user_data = aiouring_task_data(op, sub, index);
    block->in_flight = op;
    task->in_flight++;
}

/* The next part of the file for a block that is free. */
AIOURING_CODE void aiouring_next_block(struct aiouring_hook *hook, struct aiouring_task *task, struct aiouring_block *block, aiouring_u32 sub,
                                       aiouring_u32 index)
{
    aiouring_u64 left = task->end_offset - task->next_offset;

    if (task->finished || !left || !aiouring_task_goes_on(hook, task))
        return;
    block->wanted = left < block->size ? (aiouring_u32)left : block->size;
    block->offset = task->next_offset;
    block->filled = block->done = 0;
    task->next_offset += block->wanted;
    aiouring_move_block(hook, task, block, sub, index, AIOURING_READ);
}

AIOURING_CODE void aiouring_task_timer(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 index)
{
    struct io_uring_sqe *sqe = aiouring_sqe(hook);
    aiouring_u64 end_ns = task->last_ns + task->idle_ns;

    if (!sqe) {
        aiouring_task_fail(task, -AIOURING_EAGAIN);
        return;
    }
    task->timer_s = (aiouring_s64)(end_ns / 1000000000ull);
    task->timer_ns = (aiouring_s64)(end_ns % 1000000000ull);
    sqe->opcode = IORING_OP_TIMEOUT;
    sqe->op_flags = IORING_TIMEOUT_ABS;
    sqe->fd = -1;
    sqe->len = 1;
    sqe->addr = aiouring_address(hook, AIOURING_TASKS_OFFSET + (aiouring_u64)(index & (AIOURING_TASKS_MAX - 1)) * AIOURING_TASK_BYTES +
                                           __builtin_offsetof(struct aiouring_task, timer_s));
    sqe->user_data = aiouring_task_data(AIOURING_TIMER, 0, index);
    task->flags |= AIOURING_TASK_TIMER;
    task->in_flight++;
}

/* Asks for the end of one request. Its answer is counted as in flight too: the slot must not serve again before it came. */
AIOURING_CODE void aiouring_cancel_one(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 op, aiouring_u32 sub, aiouring_u32 index)
{
    struct io_uring_sqe *sqe = aiouring_sqe(hook);

    if (!sqe)
        return;
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = aiouring_task_data(op, sub, index);
    sqe->user_data = aiouring_task_data(AIOURING_CANCELS, (op & 0xff) << 8 | (sub & 0xff), index);
    task->in_flight++;
}

AIOURING_CODE void aiouring_cancel_block(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 sub, aiouring_u32 index)
{
    aiouring_u32 op = aiouring_block_at(task, sub)->in_flight;

    if (op == AIOURING_SEND)
        aiouring_cancel_one(hook, task, AIOURING_SEND, sub, index);
    /* A relay's send may have gone out, and its receive be the one that waits. */
    if (op == AIOURING_RECEIVE || (op == AIOURING_SEND && task->kind != AIOURING_TASK_SEND_FILE))
        aiouring_cancel_one(hook, task, AIOURING_RECEIVE, sub, index);
    if (op == AIOURING_READ || op == AIOURING_WRITE)
        aiouring_cancel_one(hook, task, op, sub, index);
}

/* Everything that is in flight, once. */
AIOURING_CODE void aiouring_task_stop(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 index)
{
    aiouring_u32 sub;

    if (task->flags & AIOURING_TASK_CANCELLED)
        return;
    task->flags |= AIOURING_TASK_CANCELLED | AIOURING_TASK_ENDING;
    for (sub = 0; sub < AIOURING_BLOCKS_MAX; sub++)
        if (sub < task->blocks)
            aiouring_cancel_block(hook, task, sub, index);
    if (task->flags & AIOURING_TASK_TIMER)
        aiouring_cancel_one(hook, task, AIOURING_TIMER, 0, index);
}

/* The other side has no more to send: pass that on. */
AIOURING_CODE void aiouring_shut(struct aiouring_hook *hook, struct aiouring_task *task, struct aiouring_block *block, aiouring_u32 sub, aiouring_u32 index)
{
    struct io_uring_sqe *sqe = aiouring_sqe(hook);

    if (!sqe) {
        aiouring_task_fail(task, -AIOURING_EAGAIN);
        return;
    }
    sqe->opcode = IORING_OP_SHUTDOWN;
    sqe->fd = block->fd_out;
    sqe->len = AIOURING_SHUT_WR;
    sqe->user_data = aiouring_task_data(AIOURING_SHUT, sub, index);
    block->in_flight = AIOURING_SHUT;
    task->in_flight++;
}

AIOURING_CODE void aiouring_received(struct aiouring_hook *hook, struct aiouring_task *task, struct aiouring_block *block, aiouring_u32 sub,
                                     aiouring_u32 index, aiouring_s32 res)
{
    if (block->in_flight == AIOURING_SEND && block->filled) {
        task->messages[sub & 1]++;
        task->bytes[sub & 1] += block->filled; /* the send before it went out whole */
        block->filled = 0;
    }
    block->in_flight = 0;
    if (res > 0) {
        if (task->idle_ns)
            task->last_ns = aiouring_now_ns();
        if (task->kind == AIOURING_TASK_DISCARD) {
            task->messages[0]++;
            task->bytes[0] += (aiouring_u32)res;
        }
        if (aiouring_task_goes_on(hook, task))
            aiouring_pass_on(hook, task, block, sub, index, task->kind == AIOURING_TASK_DISCARD ? 0 : (aiouring_u32)res);
        return;
    }
    if (res == -AIOURING_EINTR && aiouring_task_goes_on(hook, task)) {
        aiouring_pass_on(hook, task, block, sub, index, 0);
        return;
    }
    if (res < 0) {
        aiouring_task_fail(task, res);
        return;
    }
    task->finished++;
    if (task->kind == AIOURING_TASK_RELAY && aiouring_task_goes_on(hook, task))
        aiouring_shut(hook, task, block, sub, index);
}

/* A request of a copy or of a sent file has ended. */
AIOURING_CODE void aiouring_block_moved(struct aiouring_hook *hook, struct aiouring_task *task, struct aiouring_block *block, aiouring_u32 sub,
                                        aiouring_u32 index, aiouring_u32 op, aiouring_s32 res)
{
    aiouring_u32 onward = task->kind == AIOURING_TASK_COPY ? AIOURING_WRITE : AIOURING_SEND;

    block->in_flight = 0;
    if (res == -AIOURING_EINTR || res == -AIOURING_EAGAIN) {
        if (aiouring_task_goes_on(hook, task))
            aiouring_move_block(hook, task, block, sub, index, op);
        return;
    }
    if (res < 0 && op == AIOURING_READ)
        task->finished |= AIOURING_TASK_READ_FAILED;
    if (res < 0 || (res == 0 && op != AIOURING_READ)) {
        aiouring_task_fail(task, res < 0 ? res : -AIOURING_EIO);
        return;
    }
    if (op == AIOURING_READ) {
        if (res == 0) {
            task->finished |= 1; /* the file ends here */
            return;
        }
        block->filled = (aiouring_u32)res;
        block->done = 0;
        if (aiouring_task_goes_on(hook, task))
            aiouring_move_block(hook, task, block, sub, index, onward);
        return;
    }
    task->bytes[0] += (aiouring_u32)res;
    block->done += (aiouring_u32)res;
    if (!aiouring_task_goes_on(hook, task))
        return;
    if (block->done < block->filled) {
        aiouring_move_block(hook, task, block, sub, index, onward);
        return;
    }
    task->messages[0]++;
    if (block->filled < block->wanted) { /* a short read: what is left of the block */
        block->offset += block->filled;
        block->wanted -= block->filled;
        block->filled = block->done = 0;
        aiouring_move_block(hook, task, block, sub, index, AIOURING_READ);
        return;
    }
    aiouring_next_block(hook, task, block, sub, index);
}

AIOURING_CODE void aiouring_task_begin(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 index)
{
    aiouring_u32 sub;

    if (!aiouring_task_goes_on(hook, task))
        return;
    if (task->kind == AIOURING_TASK_COPY || task->kind == AIOURING_TASK_SEND_FILE) {
        for (sub = 0; sub < AIOURING_BLOCKS_MAX; sub++)
            if (sub < task->blocks)
                aiouring_next_block(hook, task, aiouring_block_at(task, sub), sub, index);
    } else {
        for (sub = 0; sub < 2; sub++)
            if (sub < task->blocks)
                aiouring_pass_on(hook, task, aiouring_block_at(task, sub), sub, index, aiouring_block_at(task, sub)->filled);
    }
    if (task->idle_ns) {
        task->last_ns = aiouring_now_ns();
        aiouring_task_timer(hook, task, index);
    }
}

AIOURING_CODE void aiouring_task_timer_ended(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 index)
{
    task->flags &= ~(aiouring_u32)AIOURING_TASK_TIMER;
    if (!aiouring_task_goes_on(hook, task))
        return;
    if (aiouring_now_ns() >= task->last_ns + task->idle_ns)
        aiouring_task_fail(task, -AIOURING_ETIMEDOUT);
    else
        aiouring_task_timer(hook, task, index);
}

/* An answer to a cancellation. One that found nothing may have come between two requests of a chain, and must be repeated. */
AIOURING_CODE void aiouring_cancel_answered(struct aiouring_hook *hook, struct aiouring_task *task, aiouring_u32 sub, aiouring_u32 index, aiouring_s32 res)
{
    aiouring_u32 op = sub >> 8 & 0xff;

    if (op == AIOURING_RECEIVE && res == -AIOURING_ENOENT && aiouring_block_at(task, sub)->in_flight)
        aiouring_cancel_block(hook, task, sub & 0xff, index);
}

/* Completions of AIOURING_NS_TASK. Always AIOURING_CONSUME, or AIOURING_WAKE with what it posted. */
AIOURING_CODE int aiouring_task_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    aiouring_u32 index = (aiouring_u32)cqe->user_data & (AIOURING_TASKS_MAX - 1);
    aiouring_u32 sub = (aiouring_u32)(cqe->user_data >> 32) & 0xffff;
    aiouring_u32 op = (aiouring_u32)(cqe->user_data >> 48) & 0xff;
    struct aiouring_task *task = aiouring_task_at(hook, index);
    struct aiouring_block *block = aiouring_block_at(task, sub);
    aiouring_s32 res = cqe->res;

    if (task->kind == AIOURING_TASK_NONE)
        return AIOURING_CONSUME; /* a cancellation that crossed the end */
    if (op == AIOURING_CANCEL) {
        if (!task->error)
            task->error = -AIOURING_ECANCELED;
        aiouring_task_stop(hook, task, index);
    } else if (op == AIOURING_START) {
        task->in_flight--;
        aiouring_task_begin(hook, task, index);
    } else {
        task->in_flight--;
        if (op == AIOURING_RECEIVE)
            aiouring_received(hook, task, block, sub, index, res);
        else if (op == AIOURING_READ || op == AIOURING_WRITE || (op == AIOURING_SEND && task->kind == AIOURING_TASK_SEND_FILE))
            aiouring_block_moved(hook, task, block, sub, index, op, res);
        else if (op == AIOURING_SEND) { /* only a failed one tells */
            block->in_flight = 0;
            if (res > 0)
                task->bytes[sub & 1] += (aiouring_u32)res;
            aiouring_task_fail(task, res < 0 ? res : -AIOURING_EPIPE);
        } else if (op == AIOURING_SHUT)
            block->in_flight = 0; /* a peer that is gone already has no need of it */
        else if (op == AIOURING_TIMER)
            aiouring_task_timer_ended(hook, task, index);
        else if (op == AIOURING_CANCELS)
            aiouring_cancel_answered(hook, task, sub, index, res);
    }
    /* An error of one direction ends the other; so does the end of both the timer. */
    if (task->flags & AIOURING_TASK_ENDING ||
        (task->finished >= task->blocks && task->kind != AIOURING_TASK_COPY && task->kind != AIOURING_TASK_SEND_FILE && task->flags & AIOURING_TASK_TIMER))
        aiouring_task_stop(hook, task, index);
    if (task->in_flight)
        return AIOURING_CONSUME;
    task->kind = AIOURING_TASK_NONE;
    aiouring_control(hook)->tasks_live--;
    aiouring_control(hook)->woken |= AIOURING_WOKEN_VERDICT;
    aiouring_post(hook, task->owner, task->error ? task->error : (aiouring_s32)((task->bytes[0] + task->bytes[1]) & 0x7fffffff), 0);
    return AIOURING_CONSUME;
}

#endif
