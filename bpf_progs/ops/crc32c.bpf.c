/* crc32c(source, flags=crc so far): the result is the CRC-32C (Castagnoli) of what was before and this, so that crc32c(b, flags=crc32c(a)) is that of
 * a + b; 0 for nothing. Eight bytes at a time by eight tables ("slicing by 8", Kounavis and Berry 2005), or, where the process runs it on a processor
 * that has them, by instructions made for it; CRC32C_BY_TABLES leaves those out. */
#include <aiouring/op.h>

#include "crc32c_table.h"

#if defined(AIOURING_INLINE) && defined(__x86_64__) && !defined(CRC32C_BY_TABLES)
#include "crc32c_x86.h"
#else
#define crc32c_has_instruction() 0
#define crc32c_by_instruction(crc, chunk, bytes) (crc)
#endif

static int crc32c_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u32 crc = ~aiouring_flags(op);
    int error = 0;

    if (!chunk)
        return -AIOURING_ENOMEM;
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, offset, bytes);
        if (error)
            break;
        if (crc32c_has_instruction()) {
            crc = crc32c_by_instruction(crc, chunk, bytes);
            continue;
        }
        AIOURING_EACH(index, bytes / 8)
        {
            aiouring_u64 word = AIOURING_WORD(chunk, index) ^ crc;
            crc = crc32c_table[7][word & 255] ^ crc32c_table[6][word >> 8 & 255] ^ crc32c_table[5][word >> 16 & 255] ^
                  crc32c_table[4][word >> 24 & 255] ^ crc32c_table[3][word >> 32 & 255] ^ crc32c_table[2][word >> 40 & 255] ^
                  crc32c_table[1][word >> 48 & 255] ^ crc32c_table[0][word >> 56];
        }
        AIOURING_EACH_END
        AIOURING_EACH(rest, bytes & 7)
        {
            crc = crc32c_table[0][(crc ^ AIOURING_BYTE(chunk, (bytes & ~7ull) + rest)) & 255] ^ crc >> 8;
        }
        AIOURING_EACH_END
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, (aiouring_u32)~crc);
    return error;
}

AIOURING_OP(crc32c, 1, 1, AIOURING_WRITES_NOTHING, AIOURING_NONE, crc32c_issue, AIOURING_NONE, AIOURING_NONE)
