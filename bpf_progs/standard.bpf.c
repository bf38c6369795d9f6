/* The hook that ships: tasks, chains, watched connections (frames, canned answers), and everything else to Python. Used by aiouring.relay and its
 * relatives, by aiouring.Chain, and by create_server(frames=, respond=); see include/aiouring/tasks.h, chain.h, frames.h and respond.h. */
#include <aiouring/chain.h>
#include <aiouring/respond.h>
#include <aiouring/tasks.h>

static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    if (aiouring_namespace(cqe) == AIOURING_NS_TASK)
        return aiouring_task_cqe(hook, cqe);
    if (aiouring_namespace(cqe) == AIOURING_NS_CHAIN)
        return aiouring_chain_cqe(hook, cqe);
    return aiouring_watch_cqe(hook, cqe);
}

AIOURING_HOOK(on_cqe)
