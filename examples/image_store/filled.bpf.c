/* filled(source): up to where the source has data. The result is the place behind its last word of eight bytes that are not all zero, or behind the
 * last byte that is not, where it is in the rest that is no whole word; 0 where all are.
 *
 * Build: python -m aiouring build-op examples/image_store/filled.bpf.c
 * Use:   filled = await Op.load("examples/image_store/filled.bpf.c")
 *        length = await filled(block)
 */
#include <aiouring/op.h>

static int filled_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u64 result = 0;
    int error = 0;

    if (!chunk)
        return -AIOURING_ENOMEM;
    /* The verifier knows that this is 0, and would look at the loop once for each other number that it may become. */
    AIOURING_FORGET_NUMBER(chunk, result);
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, offset, bytes);
        if (error)
            break;
        AIOURING_EACH(index, bytes / 8)
        {
            if (AIOURING_WORD(chunk, index))
                result = offset + index * 8 + 8;
        }
        AIOURING_EACH_END
        AIOURING_EACH(rest, bytes & 7)
        {
            aiouring_u64 place = (bytes & ~7ull) + rest;
            if (AIOURING_BYTE(chunk, place))
                result = offset + place + 1;
        }
        AIOURING_EACH_END
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, result);
    return error;
}

/* Its name; from 1 to 1 buffer; it writes none; prep, issue, fail and cleanup, of which it has one. */
AIOURING_OP(filled, 1, 1, AIOURING_WRITES_NOTHING, AIOURING_NONE, filled_issue, AIOURING_NONE, AIOURING_NONE)
