/* base64(source, target): the source in base64, with the standard alphabet and padding, to the target's beginning; the result is the number of bytes
 * written. ENOSPC where the target is shorter. */
#include <aiouring/op.h>

/* Of the source at a time: three bytes become four. */
#define BASE64_PIECE_BYTES (AIOURING_CHUNK_BYTES / 4 * 3)

static const aiouring_u8 base64_alphabet[64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

AIOURING_CODE aiouring_u64 base64_length(aiouring_u64 bytes)
{
    return (bytes + 2) / 3 * 4;
}

static int base64_prep(struct aiouring_op *op)
{
    return aiouring_length(op, 1) < base64_length(aiouring_length(op, 0)) ? -AIOURING_ENOSPC : 0;
}

static int base64_issue(struct aiouring_op *op)
{
    aiouring_u8 *from = aiouring_scratch(op), *to;
    int error = 0;

    if (!from)
        return -AIOURING_ENOMEM;
    to = from + AIOURING_CHUNK_BYTES;
    AIOURING_CHUNKS(aiouring_length(op, 0), BASE64_PIECE_BYTES, offset, bytes)
    {
        error = aiouring_load(op, from, 0, offset, bytes);
        if (error)
            break;
        AIOURING_BYTE(from, bytes) = 0;
        AIOURING_BYTE(from, bytes + 1) = 0;
        AIOURING_EACH(group, (bytes + 2) / 3)
        {
            aiouring_u32 bits = AIOURING_BYTE(from, group * 3) << 16 | AIOURING_BYTE(from, group * 3 + 1) << 8 | AIOURING_BYTE(from, group * 3 + 2);
            AIOURING_BYTE(to, group * 4) = base64_alphabet[bits >> 18 & 63];
            AIOURING_BYTE(to, group * 4 + 1) = base64_alphabet[bits >> 12 & 63];
            AIOURING_BYTE(to, group * 4 + 2) = group * 3 + 1 < bytes ? base64_alphabet[bits >> 6 & 63] : '=';
            AIOURING_BYTE(to, group * 4 + 3) = group * 3 + 2 < bytes ? base64_alphabet[bits & 63] : '=';
        }
        AIOURING_EACH_END
        error = aiouring_store(op, to, 1, offset / 3 * 4, base64_length(bytes));
        if (error)
            break;
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, base64_length(aiouring_length(op, 0)));
    return error;
}

AIOURING_OP(base64, 2, 2, AIOURING_WRITES_LAST, base64_prep, base64_issue, AIOURING_NONE, AIOURING_NONE)
