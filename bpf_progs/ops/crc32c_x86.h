/* CRC-32C by the processor's own instruction, for the inline engine on x86-64: part of crc32c.bpf.c, whose tables do where this cannot. Compiled for
 * these functions alone, so that the rest runs on any x86-64; the processor is asked when it runs.
 *
 * The instruction gives its result after three cycles but can begin in each, so a chunk is read as three strings at once, and the three checksums are
 * joined: one that stands n bytes before the end is multiplied by x^(8n) modulo the polynomial. The carry-less product with x^(8n - 33) (its bits
 * reversed, as all here) has 64 bits, which the instruction itself reduces and by the way multiplies by x^33. (Gopal and others, "Fast CRC
 * Computation for iSCSI Polynomial Using CRC32 Instruction", Intel 2011.) A test computes the factors again. */
#include <immintrin.h>

/* Words in each of the three strings. */
#define CRC32C_STRING 170
#define CRC32C_FACTOR_1 0x3f70cc6fu /* x^(8 * 1360 - 33): of the string in the middle */
#define CRC32C_FACTOR_2 0x5aa1f3cfu /* x^(16 * 1360 - 33): of the first */

static inline int crc32c_has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

__attribute__((target("sse4.2,pclmul"))) static aiouring_u64 crc32c_moved(aiouring_u64 crc, aiouring_u32 factor)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128(factor), 0);
    return _mm_crc32_u64(0, (aiouring_u64)_mm_cvtsi128_si64(product));
}

__attribute__((target("sse4.2,pclmul"))) static aiouring_u32 crc32c_by_instruction(aiouring_u32 so_far, const aiouring_u8 *chunk, aiouring_u64 bytes)
{
    const aiouring_word *word = (const aiouring_word *)chunk;
    const aiouring_u8 *end = chunk + bytes;
    aiouring_u64 crc = so_far, middle, last;

    while (end - (const aiouring_u8 *)word >= 3 * 8 * CRC32C_STRING) {
        middle = last = 0;
        for (int index = 0; index < CRC32C_STRING; index++) {
            crc = _mm_crc32_u64(crc, word[index]);
            middle = _mm_crc32_u64(middle, word[index + CRC32C_STRING]);
            last = _mm_crc32_u64(last, word[index + 2 * CRC32C_STRING]);
        }
        crc = crc32c_moved(crc, CRC32C_FACTOR_2) ^ crc32c_moved(middle, CRC32C_FACTOR_1) ^ last;
        word += 3 * CRC32C_STRING;
    }
    for (; end - (const aiouring_u8 *)word >= 8; word++)
        crc = _mm_crc32_u64(crc, *word);
    for (chunk = (const aiouring_u8 *)word; chunk < end; chunk++)
        crc = _mm_crc32_u8((aiouring_u32)crc, *chunk);
    return (aiouring_u32)crc;
}
