/* Canned answers to exact requests, and the entry for all watched connections.
 *
 * A program that wants watched connections calls aiouring_watch_cqe() for completions of AIOURING_NS_LOOP and AIOURING_NS_ANSWER. Called by:
 * standard.bpf.c, programs of users.
 */
#ifndef AIOURING_RESPOND_H
#define AIOURING_RESPOND_H

#include "frames.h"

/* Completions of AIOURING_NS_LOOP and AIOURING_NS_ANSWER. */
AIOURING_CODE int aiouring_watch_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    aiouring_u32 index = aiouring_watch_of(hook, cqe->user_data);
    struct aiouring_watch *watch;

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
    return aiouring_frames_data(hook, watch, cqe);
}

#endif
