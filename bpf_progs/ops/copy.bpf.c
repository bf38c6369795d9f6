/* copy(source, target): the source's bytes to the target's beginning; the result is their number. ENOSPC where the target is shorter. */
#include <aiouring/op.h>

static int copy_prep(struct aiouring_op *op)
{
    return aiouring_length(op, 1) < aiouring_length(op, 0) ? -AIOURING_ENOSPC : 0;
}

static int copy_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    int error = 0;

    if (!chunk)
        return -AIOURING_ENOMEM;
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, offset, bytes);
        if (!error)
            error = aiouring_store(op, chunk, 1, offset, bytes);
        if (error)
            break;
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, aiouring_length(op, 0));
    return error;
}

AIOURING_OP(copy, 2, 2, AIOURING_WRITES_LAST, copy_prep, copy_issue, AIOURING_NONE, AIOURING_NONE)
