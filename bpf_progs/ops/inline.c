/* The operations that ship, for the inline engine: compiled into the extension aiouring._bpfop. Each has its functions' names begin with its own. */
#define AIOURING_INLINE
#define AIOURING_OP_SHIPPED

#include "base64.bpf.c"
#include "copy.bpf.c"
#include "count.bpf.c"
#include "crc32c.bpf.c"
#include "fill.bpf.c"
#include "find.bpf.c"
#include "nop.bpf.c"
#include "xor.bpf.c"

const struct aiouring_inline_op *const aiouring_shipped_operations[] = {
    &aiouring_operation_base64, &aiouring_operation_copy, &aiouring_operation_count, &aiouring_operation_crc32c, &aiouring_operation_fill,
    &aiouring_operation_find,   &aiouring_operation_nop,  &aiouring_operation_xor,   0,
};
