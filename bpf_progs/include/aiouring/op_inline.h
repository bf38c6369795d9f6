/* What user space has of an operation besides the request (op_abi.h): its declaration, the function of the inline engine, the memory of the engine
 * prog_run. Included by op.h and by the extension (aiouring/_bpfop.pxd). */
#ifndef AIOURING_OP_INLINE_H
#define AIOURING_OP_INLINE_H

#include "layout.h"
#include "op_abi.h"

/* Changes with any change of this file, of the declaration above all. A program built against another one is refused. */
#define AIOURING_OP_ABI 1
#define AIOURING_OP_NAME_BYTES 32

/* Traits. With one buffer the first is the last. */
#define AIOURING_WRITES_NOTHING 0u
#define AIOURING_WRITES_FIRST 1u
#define AIOURING_WRITES_LAST 2u
#define AIOURING_WRITES_ALL 3u
#define AIOURING_SIGNED_RESULT 4u /* Python gets the result as a number from -2^63, not from 0 on */

/* What an operation says of itself. In an object for the kernel it is the constant `aiouring_operation_info`. */
struct aiouring_op_info {
    aiouring_u32 abi, buffers_min, buffers_max, traits;
    char name[AIOURING_OP_NAME_BYTES];
};

/* How a request is run. */
#define AIOURING_OP_RUN 0u  /* prep, issue, cleanup */
#define AIOURING_OP_FAIL 1u /* prep, fail, cleanup: a linked predecessor failed */

/* The inline engine's. A shared library of an operation exports one as `aiouring_operation`. */
struct aiouring_inline_op {
    struct aiouring_op_info info;
    /* Runs a request where it is called, in any thread, and returns what its CQE's res would be. Where *stop becomes true, what the operation reads or
     * writes next fails with EINTR; `stop` may be NULL. */
    aiouring_s32 (*run)(struct uring_bpf_request *request, aiouring_u32 mode, const volatile aiouring_u32 *stop);
};

/* The engine prog_run. A program cannot write to user memory, so what an operation writes goes to a map, the shadow, which the process fills with the
 * bytes that are there and copies back. Reads of addresses that have a shadow get what is in it, so buffers that overlap see each other's bytes as
 * with the other engines. A region is the addresses of one written buffer, or of two that overlap. */
struct aiouring_op_region {
    aiouring_u64 begin, end;                 /* addresses in the process; equal: there is none */
    aiouring_u64 shadow;                     /* where in the map */
    aiouring_u64 written_begin, written_end; /* addresses; begin >= end: nothing was written */
};

/* The variable `aiouring_run` of such an object, mapped into the process: the request of the one run that there can be at a time. */
struct aiouring_op_run {
    struct uring_bpf_request request;
    struct aiouring_op_region regions[URING_BPF_BUFFERS_MAX];
    aiouring_u32 mode, stop;
    aiouring_u8 state[URING_BPF_STATE_BYTES] __attribute__((aligned(8)));
    /* More than an operation has: the verifier adds what a place and a length are at most. */
    aiouring_u8 scratch[URING_BPF_SCRATCH_BYTES + URING_BPF_CHUNK_BYTES] __attribute__((aligned(8)));
};

_Static_assert(sizeof(struct aiouring_op_info) == 48, "no holes");
_Static_assert(sizeof(struct aiouring_op_region) == 40, "no holes");
_Static_assert(__builtin_offsetof(struct aiouring_op_run, state) == 136, "no holes");

#endif
