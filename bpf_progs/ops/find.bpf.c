/* find(source, delimiter, flags=from): the result is the first place, `from` or later, where the delimiter begins; -1 where there is none. The delimiter
 * has 1 to 16 bytes, EINVAL otherwise. */
#include <aiouring/op.h>

#define FIND_MOST 16

static int find_prep(struct aiouring_op *op)
{
    aiouring_u32 length = aiouring_length(op, 1);
    return length < 1 || length > FIND_MOST ? -AIOURING_EINVAL : 0;
}

static int find_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u64 length = aiouring_length(op, 0), size = aiouring_length(op, 1), from = aiouring_flags(op);
    /* The bytes seen last and those of the delimiter, each as a number of 128 bits, in which the last byte is the lowest. */
    aiouring_u64 high = 0, low = 0, wanted_high = 0, wanted_low = 0;
    aiouring_u64 mask_high = size > 8 ? ~0ull >> ((128 - size * 8) & 63) : 0, mask_low = size < 8 ? ~0ull >> ((64 - size * 8) & 63) : ~0ull;
    aiouring_u64 found = ~0ull, skip = from & ~(AIOURING_CHUNK_BYTES - 1ull);
    int error;

    if (!chunk)
        return -AIOURING_ENOMEM;
    error = aiouring_load(op, chunk, 1, 0, size > FIND_MOST ? FIND_MOST : size);
    if (error)
        return error;
    AIOURING_FORGET_NUMBER(chunk, high);
    AIOURING_FORGET_NUMBER(chunk, low);
    AIOURING_FORGET_NUMBER(chunk, wanted_high);
    AIOURING_FORGET_NUMBER(chunk, wanted_low);
    AIOURING_EACH(index, size)
    {
        wanted_high = wanted_high << 8 | wanted_low >> 56;
        wanted_low = wanted_low << 8 | AIOURING_BYTE(chunk, index);
    }
    AIOURING_EACH_END
    /* Whole chunks before `from` are not looked at; the bytes before it in its own chunk count as not seen. */
    AIOURING_CHUNKS(skip < length ? length - skip : 0, AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, skip + offset, bytes);
        if (error)
            break;
        AIOURING_EACH(index, bytes)
        {
            high = high << 8 | low >> 56;
            low = low << 8 | AIOURING_BYTE(chunk, index);
            if ((low & mask_low) == wanted_low && (high & mask_high) == wanted_high && skip + offset + index + 1 >= from + size) {
                found = skip + offset + index + 1 - size;
                break;
            }
        }
        AIOURING_EACH_END
        if (found != ~0ull)
            break;
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, found);
    return error;
}

AIOURING_OP(find, 2, 2, AIOURING_WRITES_NOTHING | AIOURING_SIGNED_RESULT, find_prep, find_issue, AIOURING_NONE, AIOURING_NONE)
