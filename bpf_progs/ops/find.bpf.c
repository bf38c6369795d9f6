/* find(source, delimiter, flags=from): the result is the first place, `from` or later, where the delimiter begins; -1 where there is none. The delimiter
 * has 1 to 16 bytes, EINVAL otherwise. */
#include <aiouring/op.h>

#define FIND_MOST 16

/* The bytes that were seen last, or a delimiter: a number of 128 bits, in which the last byte is the lowest. */
struct find_window {
    aiouring_u64 high, low;
};

AIOURING_CODE void find_push(struct find_window *window, aiouring_u8 byte)
{
    window->high = window->high << 8 | window->low >> 56;
    window->low = window->low << 8 | byte;
}

static int find_prep(struct aiouring_op *op)
{
    aiouring_u32 length = aiouring_length(op, 1);
    return length < 1 || length > FIND_MOST ? -AIOURING_EINVAL : 0;
}

static int find_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u64 length = aiouring_length(op, 0), size = aiouring_length(op, 1), from = aiouring_flags(op);
    struct find_window seen = {0, 0}, wanted = {0, 0};
    struct find_window mask = {size > 8 ? ~0ull >> ((128 - size * 8) & 63) : 0, size < 8 ? ~0ull >> ((64 - size * 8) & 63) : ~0ull};
    aiouring_u64 found = ~0ull, skip = from & ~(AIOURING_CHUNK_BYTES - 1ull), last;
    int error;

    if (!chunk)
        return -AIOURING_ENOMEM;
    error = aiouring_load(op, chunk, 1, 0, size > FIND_MOST ? FIND_MOST : size);
    if (error)
        return error;
    AIOURING_FORGET_NUMBER(chunk, seen.high);
    AIOURING_FORGET_NUMBER(chunk, seen.low);
    AIOURING_FORGET_NUMBER(chunk, wanted.high);
    AIOURING_FORGET_NUMBER(chunk, wanted.low);
    AIOURING_EACH(index, size)
    {
        find_push(&wanted, AIOURING_BYTE(chunk, index));
    }
    AIOURING_EACH_END
    last = (wanted.low & 0xff) * 0x0101010101010101ull;
    /* Whole chunks before `from` are not looked at; what begins before it in its own chunk does not count. */
    AIOURING_CHUNKS(skip < length ? length - skip : 0, AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, skip + offset, bytes);
        if (error)
            break;
        AIOURING_EACH(index, (bytes + 7) / 8)
        {
            aiouring_u64 word = AIOURING_WORD(chunk, index), other = word ^ last;
            /* No byte of it is the delimiter's last. */
            if (!((other - 0x0101010101010101ull) & ~other & 0x8080808080808080ull)) {
                seen.high = seen.low;
                seen.low = __builtin_bswap64(word);
                continue;
            }
            AIOURING_EACH(byte, 8)
            {
                aiouring_u64 end = skip + offset + index * 8 + byte + 1;
                find_push(&seen, AIOURING_BYTE(chunk, index * 8 + byte));
                if ((seen.low & mask.low) == wanted.low && (seen.high & mask.high) == wanted.high && end >= from + size && end <= length) {
                    found = end - size;
                    break;
                }
            }
            AIOURING_EACH_END
            if (found != ~0ull)
                break;
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
