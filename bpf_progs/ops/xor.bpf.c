/* xor(source, target): each byte of the target becomes target ^ source; EINVAL where their lengths differ.
 * xor(target, flags=key): the same with the four bytes of the key, the lowest first, again and again from the target's beginning, as WebSocket masks
 * its frames. The result is the target's length. */
#include <aiouring/op.h>

static int xor_prep(struct aiouring_op *op)
{
    return aiouring_buffers(op) == 2 && aiouring_length(op, 0) != aiouring_length(op, 1) ? -AIOURING_EINVAL : 0;
}

static int xor_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op), *source;
    aiouring_u32 target = aiouring_buffers(op) == 2;
    aiouring_u64 key = aiouring_flags(op) * 0x0000000100000001ull;
    int error = 0;

    if (!chunk)
        return -AIOURING_ENOMEM;
    source = chunk + AIOURING_CHUNK_BYTES;
    if (!target) {
        AIOURING_EACH(index, AIOURING_CHUNK_BYTES / 8)
        {
            AIOURING_WORD(source, index) = key;
        }
        AIOURING_EACH_END
    }
    AIOURING_CHUNKS(aiouring_length(op, target), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        if (target)
            error = aiouring_load(op, source, 0, offset, bytes);
        if (!error)
            error = aiouring_load(op, chunk, target, offset, bytes);
        if (error)
            break;
        /* The last word's rest is computed and not stored. */
        AIOURING_EACH(index, (bytes + 7) / 8)
        {
            AIOURING_WORD(chunk, index) ^= AIOURING_WORD(source, index);
        }
        AIOURING_EACH_END
        error = aiouring_store(op, chunk, target, offset, bytes);
        if (error)
            break;
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, aiouring_length(op, target));
    return error;
}

AIOURING_OP(xor, 1, 2, AIOURING_WRITES_LAST, xor_prep, xor_issue, AIOURING_NONE, AIOURING_NONE)
