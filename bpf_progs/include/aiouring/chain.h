/* Chains: requests one after another, each of which may take an earlier one's result as its length or its offset. What kernel links cannot do.
 *
 * A program that wants them calls aiouring_chain_cqe() for completions of AIOURING_NS_CHAIN. Called by: standard.bpf.c, programs of users.
 *
 * A chain is a slot in the region. Python fills it, the requests of all its links included, and queues a NOP with AIOURING_CHAIN_START; another one
 * with AIOURING_CHAIN_CANCEL asks for the end. One link is in flight at a time: its completion submits the next one, from its template and the results
 * that it takes. Whatever begins a link is one request with one completion: a link that cannot begin, because the length that it was given is
 * more than its buffer has, is a NOP whose completion brings the error. So nothing here goes round, but where
 * the inline engine runs operations.
 *
 * A link that fails ends the chain, as in the kernel's linked requests, unless it is a hard one. The chain tells Python once, when nothing of it is in
 * flight any more; what each link brought is in the slot.
 *
 * A link that is Python's to do (AIOURING_LINK_PYTHON) is a request that waits for ever, and a completion with F_MORE for the owner. When Python has put
 * the link's result or error into the slot, it cancels that request. So whatever ends a chain ends it there too.
 *
 * Who owns what: descriptors and memory of a chain are Python's, which keeps them until the chain has ended. No number that was carried is taken for a
 * length before it was compared with the buffer's.
 */
#ifndef AIOURING_CHAIN_H
#define AIOURING_CHAIN_H

#include "hook.h"
#ifdef AIOURING_INLINE
#include "op_inline.h"
#endif

/* Tells the loop that a program knows chains. */
__attribute__((visibility("default"), used)) const volatile aiouring_u32 aiouring_has_chains = AIOURING_HOOK_ABI;

enum aiouring_chain_op {
    AIOURING_CHAIN_START = 1,
    AIOURING_CHAIN_CANCEL,
    AIOURING_CHAIN_LINK,
    AIOURING_CHAIN_CANCELS, /* the answer to a cancellation */
};

AIOURING_CODE aiouring_u64 aiouring_chain_data(aiouring_u32 op, aiouring_u32 at, aiouring_u32 index)
{
    return (aiouring_u64)AIOURING_NS_CHAIN << 56 | (aiouring_u64)op << 48 | (aiouring_u64)(at & 0xffff) << 32 | index;
}

AIOURING_CODE aiouring_u64 aiouring_chain_offset(aiouring_u32 index)
{
    return AIOURING_CHAINS_OFFSET + (aiouring_u64)(index & (AIOURING_CHAINS_MAX - 1)) * AIOURING_CHAIN_BYTES;
}

AIOURING_CODE struct aiouring_chain *aiouring_chain_at(struct aiouring_hook *hook, aiouring_u32 index)
{
    aiouring_u64 slot = index & (AIOURING_CHAINS_MAX - 1);

    AIOURING_OPAQUE(slot);
    return (struct aiouring_chain *)(hook->memory + AIOURING_CHAINS_OFFSET + slot * AIOURING_CHAIN_BYTES);
}

AIOURING_CODE struct aiouring_link *aiouring_link_at(struct aiouring_chain *chain, aiouring_u32 at)
{
    aiouring_u64 which = at & (AIOURING_CHAIN_LINKS_MAX - 1);

    AIOURING_OPAQUE(which);
    return (struct aiouring_link *)((aiouring_u8 *)chain->link + which * sizeof(struct aiouring_link));
}

AIOURING_CODE void aiouring_chain_stop(struct aiouring_chain *chain, aiouring_s32 error)
{
    if (!chain->error)
        chain->error = error;
    chain->flags |= AIOURING_CHAIN_ENDING;
}

/* What an earlier link brought, as `from` says, with what is to be added. */
AIOURING_CODE aiouring_s64 aiouring_carried(struct aiouring_chain *chain, aiouring_u32 from, aiouring_s64 add)
{
    aiouring_s64 result = aiouring_link_at(chain, from - 1)->result;

    return result < 0 ? result : result + add;
}

/* Puts carried numbers into the link, and says what it fails with if they cannot be. 0, or -errno. */
AIOURING_CODE aiouring_s32 aiouring_carry(struct aiouring_chain *chain, struct aiouring_link *link)
{
    aiouring_s64 value;

    if (link->length_from) {
        value = aiouring_carried(chain, link->length_from, link->length_add);
        if (value < 0)
            return -AIOURING_EINVAL;
        if (value > (aiouring_s64)link->limit)
            return -AIOURING_EMSGSIZE;
        link->wanted = (aiouring_u32)value;
        if (link->action != AIOURING_LINK_REQUEST) /* the first buffer's length, in its description */
            link->operation[0] = (link->operation[0] & 0xffffffff) | (aiouring_u64)value << 32;
    }
    if (link->offset_from) {
        value = aiouring_carried(chain, link->offset_from, link->offset_add);
        if (value < 0)
            return -AIOURING_EINVAL;
        link->sqe[1] = (aiouring_u64)value;
    }
    return 0;
}

/* The request of a link whose numbers are there. */
AIOURING_CODE void aiouring_fill_link(struct aiouring_link *link, struct io_uring_sqe *sqe)
{
    aiouring_u64 *words = (aiouring_u64 *)sqe;

    words[0] = link->sqe[0];
    words[1] = link->sqe[1];
    words[2] = link->sqe[2];
    words[3] = link->sqe[3];
    words[5] = link->sqe[5];
    words[6] = link->sqe[6];
    words[7] = link->sqe[7];
    if (link->action == AIOURING_LINK_REQUEST && (link->length_from || link->base)) {
        /* What a cancelled receive had left is in the buffer already; with that it is over, or goes on behind it. */
        aiouring_u32 there = link->base < link->wanted ? link->base : link->wanted;

        link->base = there;
        sqe->addr += there;
        sqe->len = link->wanted - there;
        if (there && (!sqe->len || !(link->flags & AIOURING_LINK_WHOLE)))
            words[0] = words[1] = words[2] = words[3] = words[5] = words[6] = words[7] = 0; /* a NOP */
    }
}

/* Begins a link. Not 0: it is over already, with this result + 1 or, below 0, this error; only the inline engine has such. */
AIOURING_CODE aiouring_s64 aiouring_begin_link(struct aiouring_hook *hook, struct aiouring_chain *chain, aiouring_u32 at, aiouring_u32 index)
{
    struct aiouring_link *link = aiouring_link_at(chain, at);
    struct io_uring_sqe *sqe;

    if (aiouring_control(hook)->closing)
        aiouring_chain_stop(chain, -AIOURING_ECANCELED);
    if (chain->flags & AIOURING_CHAIN_ENDING)
        return 0;
    if (!link->error)
        link->error = aiouring_carry(chain, link);
#ifdef AIOURING_INLINE
    if (link->action == AIOURING_LINK_INLINE && !link->error) {
        aiouring_s32 (*run)(struct uring_bpf_request *, aiouring_u32, const volatile aiouring_u32 *) =
            (aiouring_s32(*)(struct uring_bpf_request *, aiouring_u32, const volatile aiouring_u32 *))link->sqe[0];
        aiouring_s64 res = run((struct uring_bpf_request *)link->operation, AIOURING_OP_RUN, 0);

        chain->at = at;
        chain->begun = at + 1;
        return res < 0 ? res : res + 1;
    }
#endif
    sqe = aiouring_sqe(hook);
    if (!sqe) {
        aiouring_chain_stop(chain, -AIOURING_EAGAIN);
        return 0;
    }
    if (!link->error)
        aiouring_fill_link(link, sqe); /* else it stays a NOP */
    if (link->action == AIOURING_LINK_PYTHON && !link->error) {
        aiouring_control(hook)->woken |= AIOURING_WOKEN_VERDICT;
        aiouring_post(hook, chain->owner, (aiouring_s32)at, IORING_CQE_F_MORE);
    }
    sqe->user_data = aiouring_chain_data(AIOURING_CHAIN_LINK, at, index);
    chain->at = at;
    chain->begun = at + 1;
    chain->flags |= AIOURING_CHAIN_FLYING;
    chain->in_flight++;
    return 0;
}

/* Whether a request was interrupted before it had begun: the numbers that the kernel has for that besides EINTR, which only io_uring shows. */
AIOURING_CODE int aiouring_interrupted(aiouring_s32 res)
{
    return res == -AIOURING_EINTR || (res <= -512 && res >= -516 && res != -515);
}

/* Notes how a link ended. What is to be begun next, + 1; 0: nothing. */
AIOURING_CODE aiouring_u32 aiouring_link_ended(struct aiouring_chain *chain, aiouring_u32 at, aiouring_s32 res)
{
    struct aiouring_link *link = aiouring_link_at(chain, at);
    aiouring_s64 result = res;
    int failed;

    chain->flags &= ~(aiouring_u32)AIOURING_CHAIN_FLYING;
    if (aiouring_interrupted(res) && link->action == AIOURING_LINK_REQUEST && !(chain->flags & AIOURING_CHAIN_ENDING))
        return at + 1;
    failed = res < 0 && !(link->flags & AIOURING_LINK_TIMER && res == -AIOURING_ETIME);
    if (link->error) {
        result = link->error;
        failed = 1;
    } else if (link->action == AIOURING_LINK_PYTHON && link->flags & AIOURING_LINK_ANSWERED) {
        result = link->result;
        failed = 0;
    } else if (!failed && res >= 0) {
        result = link->action == AIOURING_LINK_REQUEST ? result + link->base : (aiouring_s64)link->operation[5];
    }
    link->result = result;
    link->flags |= AIOURING_LINK_ENDED;
    if (failed)
        link->flags |= AIOURING_LINK_FAILED;
    if (link->flags & AIOURING_LINK_SHORT && result < (aiouring_s64)link->wanted)
        failed = 1;
    if (failed && !(link->flags & AIOURING_LINK_HARD)) {
        chain->failed = at + 1;
        chain->flags |= AIOURING_CHAIN_ENDING;
        return 0;
    }
    return at + 1 < chain->links ? at + 2 : 0;
}

/* `next`: + 1. */
AIOURING_CODE void aiouring_go_on(struct aiouring_hook *hook, struct aiouring_chain *chain, aiouring_u32 next, aiouring_u32 index)
{
#ifdef AIOURING_INLINE
    while (next) {
        aiouring_s64 over = aiouring_begin_link(hook, chain, next - 1, index);

        next = over ? aiouring_link_ended(chain, next - 1, (aiouring_s32)(over < 0 ? over : over - 1)) : 0;
    }
#else
    if (next)
        aiouring_begin_link(hook, chain, next - 1, index);
#endif
}

/* Asks for the end of the link that is in flight. The answer is counted: the slot must not serve again before it came. */
AIOURING_CODE void aiouring_cancel_link(struct aiouring_hook *hook, struct aiouring_chain *chain, aiouring_u32 index)
{
    struct io_uring_sqe *sqe;

    aiouring_chain_stop(chain, -AIOURING_ECANCELED);
    if (chain->flags & AIOURING_CHAIN_CANCELLED)
        return;
    chain->flags |= AIOURING_CHAIN_CANCELLED;
    if (!(chain->flags & AIOURING_CHAIN_FLYING))
        return;
    sqe = aiouring_sqe(hook);
    if (!sqe)
        return;
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = aiouring_chain_data(AIOURING_CHAIN_LINK, chain->at, index);
    sqe->user_data = aiouring_chain_data(AIOURING_CHAIN_CANCELS, 0, index);
    chain->in_flight++;
}

/* Completions of AIOURING_NS_CHAIN. Always AIOURING_CONSUME, or with what it posted. */
AIOURING_CODE int aiouring_chain_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    aiouring_u32 index = (aiouring_u32)cqe->user_data & (AIOURING_CHAINS_MAX - 1);
    aiouring_u32 at = (aiouring_u32)(cqe->user_data >> 32) & (AIOURING_CHAIN_LINKS_MAX - 1);
    aiouring_u32 op = (aiouring_u32)(cqe->user_data >> 48) & 0xff;
    struct aiouring_chain *chain = aiouring_chain_at(hook, index);

    if (!chain->live)
        return AIOURING_CONSUME;
    chain->in_flight--;
    if (op == AIOURING_CHAIN_CANCEL) {
        aiouring_cancel_link(hook, chain, index);
    } else if (op != AIOURING_CHAIN_CANCELS) {
        aiouring_go_on(hook, chain, op == AIOURING_CHAIN_START ? 1 : aiouring_link_ended(chain, at, cqe->res), index);
    }
    if (chain->in_flight)
        return AIOURING_CONSUME;
    chain->live = 0;
    aiouring_control(hook)->tasks_live--;
    aiouring_control(hook)->woken |= AIOURING_WOKEN_VERDICT;
    aiouring_post(hook, chain->owner, chain->error, 0);
    return AIOURING_CONSUME;
}

#endif
