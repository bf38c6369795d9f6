/* count(source, flags=byte): the result is how often `byte` occurs. EINVAL where flags are more than 255. */
#include <aiouring/op.h>

#define COUNT_LOW_BITS 0x7f7f7f7f7f7f7f7full

static int count_prep(struct aiouring_op *op)
{
    return aiouring_flags(op) > 255 ? -AIOURING_EINVAL : 0;
}

static int count_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u64 pattern = aiouring_flags(op) * 0x0101010101010101ull;
    aiouring_u64 found = aiouring_length(op, 0);
    int error = 0;

    if (!chunk)
        return -AIOURING_ENOMEM;
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, offset, bytes);
        if (error)
            break;
        /* The last word's rest becomes something else than the byte. */
        AIOURING_EACH(rest, -bytes & 7)
        {
            AIOURING_BYTE(chunk, bytes + rest) = (aiouring_u8)~pattern;
        }
        AIOURING_EACH_END
        AIOURING_EACH(index, (bytes + 7) / 8)
        {
            aiouring_u64 differs = AIOURING_WORD(chunk, index) ^ pattern;
            /* The highest bit of each byte that is not zero. */
            differs = (((differs & COUNT_LOW_BITS) + COUNT_LOW_BITS) | differs) & ~COUNT_LOW_BITS;
            found -= ((differs >> 7) * 0x0101010101010101ull) >> 56;
        }
        AIOURING_EACH_END
        found += -bytes & 7;
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, found);
    return error;
}

AIOURING_OP(count, 1, 1, AIOURING_WRITES_NOTHING, count_prep, count_issue, AIOURING_NONE, AIOURING_NONE)
