/* Canned answers to exact requests, and the entry for all watched connections.
 *
 * A program that wants watched connections calls aiouring_watch_cqe() for completions of AIOURING_NS_LOOP and AIOURING_NS_ANSWER. Called by:
 * standard.bpf.c, programs of users.
 *
 * A request is answered here if it came alone and whole, nothing of the connection is in Python's hands, and no answer is on its way. Everything else is
 * Python's, and with a request that has no canned answer the order of the connection's answers is, until Python says otherwise (`of_python`).
 *
 * An answer is sent without waiting: when it was submitted, it has gone out or has not. So its memory is free then, there is nothing to cancel, and a
 * socket without room is Python's to wait for (`rest`). Until its completion came, Python sends nothing (`sending`).
 */
#ifndef AIOURING_RESPOND_H
#define AIOURING_RESPOND_H

#include "frames.h"

#define AIOURING_ANSWERS_EACH 16 /* of one connection */

struct aiouring_buffer_slot { /* the kernel's io_uring_buf */
    aiouring_u64 addr;
    aiouring_u32 len;
    aiouring_u16 bid, resv;
};

AIOURING_CODE aiouring_u64 aiouring_answer_offset(struct aiouring_hook *hook, aiouring_u32 which)
{
    return (aiouring_u64)AIOURING_LAYOUT(hook, region_bytes) - AIOURING_END_BYTES +
           (aiouring_u64)(which & (AIOURING_ANSWERS_MAX - 1)) * AIOURING_ANSWER_BYTES;
}

/* Whether so many bytes end with an empty line and have no other one. */
AIOURING_PART int aiouring_whole_request(struct aiouring_watch *watch, const struct aiouring_buffer *payload, aiouring_u32 length)
{
    aiouring_u64 at = 0;
    aiouring_u32 last = 0;

    if (!watch || !payload)
        return 0;
    AIOURING_REPEAT(AIOURING_BUFFER_BYTES)
    {
        aiouring_u64 byte;
        AIOURING_FORGET(at, watch->scratch);
        if (at >= length || last == 0x0d0a0d0a)
            break;
        byte = at;
        at++;
        AIOURING_OPAQUE(byte);
        last = last << 8 | payload->bytes[byte & (AIOURING_BUFFER_BYTES - 1)];
    }
    AIOURING_REPEAT_END
    return last == 0x0d0a0d0a && at == length;
}

/* Whether they begin with an answer's prefix. */
AIOURING_PART int aiouring_begins_with(struct aiouring_watch *watch, const struct aiouring_buffer *payload, const struct aiouring_answer *answer,
                                       aiouring_u32 length)
{
    aiouring_u64 at = 0;

    if (!watch || !payload || !answer || answer->prefix_bytes > length)
        return 0;
    AIOURING_REPEAT(AIOURING_ANSWER_PREFIX_MAX)
    {
        aiouring_u64 byte;
        AIOURING_FORGET(at, watch->scratch);
        if (at >= answer->prefix_bytes)
            break;
        byte = at;
        AIOURING_OPAQUE(byte);
        byte &= AIOURING_ANSWER_PREFIX_MAX - 1;
        if (payload->bytes[byte] != answer->prefix[byte])
            break;
        at++;
    }
    AIOURING_REPEAT_END
    return at == answer->prefix_bytes;
}

/* Give the buffer of a completion that Python does not see back to the kernel. */
AIOURING_CODE void aiouring_recycle(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    aiouring_u64 slots = (aiouring_u64)AIOURING_LAYOUT(hook, region_bytes) - AIOURING_BUFFERS_END_BYTES;
    struct aiouring_buffer_slot *first = AIOURING_AT(hook, struct aiouring_buffer_slot, slots);
    struct aiouring_buffer_slot *slot;
    aiouring_u16 tail;

    if (!first)
        return;
    tail = first->resv;
    slot = AIOURING_AT(hook, struct aiouring_buffer_slot, slots + (aiouring_u64)(tail & (AIOURING_BUFFERS - 1)) * sizeof(*slot));
    if (!slot)
        return;
    slot->addr = aiouring_address(hook, aiouring_payload(hook, cqe));
    slot->len = AIOURING_BUFFER_BYTES;
    slot->bid = (aiouring_u16)(cqe->flags >> 16);
    AIOURING_STORE_RELEASE16(&first->resv, (aiouring_u16)(tail + 1));
}

/* Which answer a request has, + 1; 0: none. */
AIOURING_CODE aiouring_u32 aiouring_find_answer(struct aiouring_hook *hook, struct aiouring_watch *watch, const struct aiouring_buffer *payload,
                                                aiouring_u32 length)
{
    aiouring_u64 round = 0;
    aiouring_u32 found = 0;

    AIOURING_REPEAT(AIOURING_ANSWERS_EACH)
    {
        const struct aiouring_answer *answer;
        AIOURING_FORGET(round, watch->missing);
        if (round >= watch->answers)
            break;
        answer = AIOURING_AT(hook, struct aiouring_answer, aiouring_answer_offset(hook, watch->first_answer + (aiouring_u32)round));
        round++;
        if (answer && aiouring_begins_with(watch, payload, answer, length)) {
            found = watch->first_answer + (aiouring_u32)round;
            break;
        }
    }
    AIOURING_REPEAT_END
    return found;
}

/* Data of a connection with canned answers. */
AIOURING_CODE int aiouring_respond_data(struct aiouring_hook *hook, struct aiouring_watch *watch, const struct io_uring_cqe *cqe, aiouring_u32 index)
{
    struct aiouring_control *control = aiouring_control(hook);
    const struct aiouring_buffer *payload = AIOURING_AT(hook, struct aiouring_buffer, aiouring_payload(hook, cqe));
    const struct aiouring_answer *answer;
    struct io_uring_sqe *sqe;
    aiouring_u32 which;

    control->passed_on++;
    if (!payload || watch->of_python || watch->busy || watch->sending || watch->rest || watch->waiting > 1)
        return AIOURING_WAKE;
    which = aiouring_whole_request(watch, payload, (aiouring_u32)cqe->res) ? aiouring_find_answer(hook, watch, payload, (aiouring_u32)cqe->res) : 0;
    if (!which) {
        watch->of_python = 1;
        return AIOURING_WAKE;
    }
    answer = AIOURING_AT(hook, struct aiouring_answer, aiouring_answer_offset(hook, which - 1));
    sqe = aiouring_sqe(hook);
    if (!answer || !sqe)
        return AIOURING_WAKE;
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = watch->fd;
    sqe->addr = aiouring_address(hook, aiouring_answer_offset(hook, which - 1) + __builtin_offsetof(struct aiouring_answer, body));
    sqe->len = answer->body_bytes;
    sqe->op_flags = AIOURING_MSG_DONTWAIT | AIOURING_MSG_WAITALL | AIOURING_MSG_NOSIGNAL;
    sqe->user_data = (aiouring_u64)AIOURING_NS_ANSWER << 56 | (aiouring_u64)which << 32 | index;
    watch->sending = which;
    watch->waiting--;
    control->answers_in_flight++;
    control->passed_on--;
    aiouring_recycle(hook, cqe);
    return AIOURING_CONSUME;
}

/* An answer has gone out, or has not. */
AIOURING_CODE int aiouring_answer_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    struct aiouring_control *control = aiouring_control(hook);
    struct aiouring_watch *watch = aiouring_watch_at(hook, (aiouring_u32)cqe->user_data);
    const struct aiouring_answer *answer = AIOURING_AT(hook, struct aiouring_answer, aiouring_answer_offset(hook, watch->sending - 1));

    if (!watch->sending || !answer)
        return AIOURING_CONSUME;
    control->answers_in_flight--;
    control->answered++;
    if (cqe->res != (aiouring_s32)answer->body_bytes) {
        /* The socket had no room, or has failed: Python sends the rest, or hears of the error. */
        watch->rest = watch->sending;
        watch->rest_from = cqe->res;
        control->woken |= AIOURING_WOKEN_VERDICT;
        if (watch->owner && !aiouring_post(hook, watch->owner, -AIOURING_EAGAIN, IORING_CQE_F_MORE))
            watch->waiting++;
    }
    watch->sending = 0;
    return AIOURING_CONSUME;
}

/* Completions of AIOURING_NS_LOOP and AIOURING_NS_ANSWER. */
AIOURING_CODE int aiouring_watch_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    struct aiouring_watch *watch;
    aiouring_u32 index;

    if (aiouring_namespace(cqe) == AIOURING_NS_ANSWER)
        return aiouring_answer_cqe(hook, cqe);
    index = aiouring_watch_of(hook, cqe->user_data);
    if (!index)
        return AIOURING_WAKE;
    watch = aiouring_watch_at(hook, index - 1);
    if (watch->owner != cqe->user_data)
        return AIOURING_WAKE;
    watch->waiting++;
    if (!(cqe->flags & IORING_CQE_F_MORE)) {
        aiouring_unwatch(watch); /* it has ended */
        return AIOURING_WAKE;
    }
    if (cqe->res <= 0 || cqe->res > AIOURING_BUFFER_BYTES || !(cqe->flags & IORING_CQE_F_BUFFER) || aiouring_control(hook)->closing)
        return AIOURING_WAKE;
    if (watch->kind == AIOURING_WATCH_RESPOND)
        return aiouring_respond_data(hook, watch, cqe, index - 1);
    return aiouring_frames_data(hook, watch, cqe);
}

#endif
