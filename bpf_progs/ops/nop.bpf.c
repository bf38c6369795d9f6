/* nop(): nothing; the result is 0. For what an operation costs by itself. */
#include <aiouring/op.h>

static int nop_issue(struct aiouring_op *op)
{
    (void)op;
    return 0;
}

AIOURING_OP(nop, 0, 0, AIOURING_WRITES_NOTHING, AIOURING_NONE, nop_issue, AIOURING_NONE, AIOURING_NONE)
