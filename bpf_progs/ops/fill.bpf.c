/* fill(target, flags=byte): every byte of the target becomes `byte`; the result is their number. EINVAL where flags are more than 255. */
#include <aiouring/op.h>

static int fill_prep(struct aiouring_op *op)
{
    return aiouring_flags(op) > 255 ? -AIOURING_EINVAL : 0;
}

static int fill_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u64 word = aiouring_flags(op) * 0x0101010101010101ull;
    int error = 0;

    if (!chunk)
        return -AIOURING_ENOMEM;
    AIOURING_EACH(index, AIOURING_CHUNK_BYTES / 8)
    {
        AIOURING_WORD(chunk, index) = word;
    }
    AIOURING_EACH_END
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_store(op, chunk, 0, offset, bytes);
        if (error)
            break;
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, aiouring_length(op, 0));
    return error;
}

AIOURING_OP(fill, 1, 1, AIOURING_WRITES_FIRST, fill_prep, fill_issue, AIOURING_NONE, AIOURING_NONE)
