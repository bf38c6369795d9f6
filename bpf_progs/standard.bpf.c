/* The hook that ships: tasks, and everything else to Python. Used by aiouring.relay and its relatives; see include/aiouring/tasks.h. */
#include <aiouring/tasks.h>

static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    if (aiouring_namespace(cqe) == AIOURING_NS_TASK)
        return aiouring_task_cqe(hook, cqe);
    return AIOURING_WAKE;
}

AIOURING_HOOK(on_cqe)
