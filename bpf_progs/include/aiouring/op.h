/* What an operation is written against. One source for three objects and four engines:
 *
 *     clang -target bpf                       -> struct_ops: a request of the kernel's own (opcode), or of aiouring's kernel module
 *     clang -target bpf -DAIOURING_PROG_RUN   -> a program that the process runs by BPF_PROG_RUN
 *     cc -DAIOURING_INLINE                    -> code that the process calls, without the GIL
 *
 * An operation is up to four functions and one macro:
 *
 *     #include <aiouring/op.h>
 *     static int length_issue(struct aiouring_op *op)
 *     {
 *         aiouring_set_result(op, aiouring_length(op, 0));
 *         return 0;
 *     }
 *     AIOURING_OP(length, 1, 1, AIOURING_WRITES_NOTHING, AIOURING_NONE, length_issue, AIOURING_NONE, AIOURING_NONE)
 *
 * prep and issue return 0, or an error as -AIOURING_EINVAL is one; fail and cleanup return nothing. prep checks the request; an error ends it there.
 * issue does the work. fail is called in its place where a request before it in the same chain failed. cleanup is called at the end, exactly once,
 * whatever happened, also where prep was not called because the number of buffers was wrong. Only issue must be there. Any other number than 0 or
 * -1 to -511 and -532 to -4095 is EINVAL, and so is -AIOURING_ECANCELED, which says that a request was never begun.
 *
 * Buffers are read and written by issue alone: prep may run long before, and a failed request's buffers are not there.
 *
 * All of a request's memory is its buffers, its scratch memory, which buffers are read into and written from in chunks, and 64 bytes of state, which are
 * zero at its beginning. Requests of one operation run at the same time, in several threads: globals are shared among them.
 *
 * Rules that the verifier makes: no loop without a bound (AIOURING_CHUNKS, AIOURING_EACH, AIOURING_REPEAT), no place in memory that was not bounded
 * (AIOURING_BYTE, AIOURING_WORD).
 */
#ifndef AIOURING_OP_H
#define AIOURING_OP_H

#include "common.h"
#include "op_inline.h"

struct aiouring_op;

/* -- the engines: what an operation has of its request -------------------------------------------------------------------------------------------- */

#ifdef AIOURING_INLINE

struct aiouring_op {
    struct uring_bpf_request *request;
    const struct aiouring_op_info *info;
    const volatile aiouring_u32 *stop;
    aiouring_u8 *scratch;
    aiouring_u32 issuing;
    aiouring_u64 result;
    aiouring_u8 state[URING_BPF_STATE_BYTES] __attribute__((aligned(8)));
};

#define AIOURING_OP_FIELD(op, field) ((op)->request->field)
#define AIOURING_OP_LENGTH(op, buffer) ((op)->request->buffers[buffer].len)
#define AIOURING_OP_TRAITS(op) ((op)->info->traits)

AIOURING_CODE void aiouring_set_result(struct aiouring_op *op, aiouring_u64 result)
{
    op->result = result;
}

AIOURING_CODE aiouring_u8 *aiouring_scratch(struct aiouring_op *op)
{
    return op->scratch;
}

AIOURING_CODE void *aiouring_state(struct aiouring_op *op)
{
    return op->state;
}

/* Buffers that overlap may also overlap with nothing else: the scratch memory is the operation's own. */
AIOURING_CODE int aiouring_read_buffer(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u8 *memory, aiouring_u32 bytes)
{
    if (!op->issuing)
        return -AIOURING_EFAULT;
    if (op->stop && *op->stop)
        return -AIOURING_EINTR;
    __builtin_memcpy(memory, (const aiouring_u8 *)(unsigned long)op->request->buffers[buffer].addr + offset, bytes);
    return 0;
}

AIOURING_CODE int aiouring_write_buffer(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u8 *memory, aiouring_u32 bytes)
{
    if (!op->issuing)
        return -AIOURING_EFAULT;
    if (op->stop && *op->stop)
        return -AIOURING_EINTR;
    __builtin_memcpy((aiouring_u8 *)(unsigned long)op->request->buffers[buffer].addr + offset, memory, bytes);
    return 0;
}

#else /* the kernel */

extern const volatile struct aiouring_op_info aiouring_operation_info;

#define AIOURING_OP_TRAITS(op) (aiouring_operation_info.traits)

#ifdef AIOURING_PROG_RUN

static void *(*aiouring_map_lookup)(void *map, const void *key) = (void *)1;
static long (*aiouring_copy_from_kernel)(void *to, aiouring_u32 bytes, const void *from) = (void *)113;
static long (*aiouring_copy_from_user)(void *to, aiouring_u32 bytes, const void *from) = (void *)148;

/* BPF_MAP_TYPE_ARRAY with BPF_F_MMAPABLE. The process sets value_size before it loads the object. */
struct {
    int (*type)[2];
    int (*map_flags)[1 << 10];
    int (*max_entries)[1];
    int (*key_size)[4];
    int (*value_size)[8];
} aiouring_shadow AIOURING_SECTION(".maps");

/* The last place of the shadow where a chunk can begin, for the verifier. */
const volatile aiouring_u64 aiouring_shadow_last = 0;

struct aiouring_op_run aiouring_run;

struct aiouring_op {
    aiouring_u32 issuing;
    aiouring_u64 result;
};

#define AIOURING_OP_FIELD(op, field) (aiouring_run.request.field)
#define AIOURING_OP_LENGTH(op, buffer) (aiouring_run.request.buffers[buffer].len)

AIOURING_CODE void aiouring_set_result(struct aiouring_op *op, aiouring_u64 result)
{
    op->result = result;
}

AIOURING_CODE aiouring_u8 *aiouring_scratch(struct aiouring_op *op)
{
    return aiouring_run.scratch;
}

AIOURING_CODE void *aiouring_state(struct aiouring_op *op)
{
    return aiouring_run.state;
}

AIOURING_CODE aiouring_u8 *aiouring_shadow_memory(void)
{
    aiouring_u32 key = 0;
    return aiouring_map_lookup(&aiouring_shadow, &key);
}

/* What of `bytes` at `address` has a shadow. */
AIOURING_CODE int aiouring_read_shadow(struct aiouring_op_region *region, aiouring_u64 address, aiouring_u8 *memory, aiouring_u32 bytes)
{
    aiouring_u64 begin = address > region->begin ? address : region->begin;
    aiouring_u64 end = address + bytes < region->end ? address + bytes : region->end;
    aiouring_u64 to, from, size;
    aiouring_u8 *shadow;

    if (begin >= end)
        return 0;
    shadow = aiouring_shadow_memory();
    if (!shadow)
        return -AIOURING_EFAULT;
    from = begin - region->begin + region->shadow;
    to = begin - address;
    size = end - begin;
    AIOURING_OPAQUE(to);
    AIOURING_OPAQUE(size);
    if (to >= URING_BPF_CHUNK_BYTES || size > URING_BPF_CHUNK_BYTES || from > aiouring_shadow_last)
        return -AIOURING_EFAULT;
    AIOURING_OPAQUE(from);
    if (from > aiouring_shadow_last)
        return -AIOURING_EFAULT;
    return aiouring_copy_from_kernel(memory + to, (aiouring_u32)size, shadow + from) ? -AIOURING_EFAULT : 0;
}

AIOURING_CODE int aiouring_read_buffer(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u8 *memory, aiouring_u32 bytes)
{
    aiouring_u64 address = aiouring_run.request.buffers[buffer].addr + offset;
    int error = 0;

    if (!op->issuing)
        return -AIOURING_EFAULT;
    if (*(volatile aiouring_u32 *)&aiouring_run.stop)
        return -AIOURING_EINTR;
    if (aiouring_copy_from_user(memory, bytes, (const void *)address))
        return -AIOURING_EFAULT;
    if (aiouring_operation_info.traits & AIOURING_WRITES_ALL) {
        error = aiouring_read_shadow(&aiouring_run.regions[0], address, memory, bytes);
        if (!error)
            error = aiouring_read_shadow(&aiouring_run.regions[1], address, memory, bytes);
    }
    return error;
}

AIOURING_CODE int aiouring_write_shadow(struct aiouring_op_region *region, aiouring_u64 address, aiouring_u8 *memory, aiouring_u32 bytes)
{
    aiouring_u8 *shadow = aiouring_shadow_memory();
    aiouring_u64 to = address - region->begin + region->shadow;

    AIOURING_OPAQUE(to);
    if (!shadow || to > aiouring_shadow_last || aiouring_copy_from_kernel(shadow + to, bytes, memory))
        return -AIOURING_EFAULT;
    if (address < region->written_begin)
        region->written_begin = address;
    if (address + bytes > region->written_end)
        region->written_end = address + bytes;
    return 0;
}

AIOURING_CODE int aiouring_write_buffer(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u8 *memory, aiouring_u32 bytes)
{
    aiouring_u64 address = aiouring_run.request.buffers[buffer].addr + offset;

    if (!op->issuing)
        return -AIOURING_EFAULT;
    if (*(volatile aiouring_u32 *)&aiouring_run.stop)
        return -AIOURING_EINTR;
    if (!(aiouring_operation_info.traits & AIOURING_WRITES_ALL))
        return -AIOURING_EACCES;
    if (address >= aiouring_run.regions[0].begin && address + bytes <= aiouring_run.regions[0].end)
        return aiouring_write_shadow(&aiouring_run.regions[0], address, memory, bytes);
    if (address >= aiouring_run.regions[1].begin && address + bytes <= aiouring_run.regions[1].end)
        return aiouring_write_shadow(&aiouring_run.regions[1], address, memory, bytes);
    return -AIOURING_EACCES;
}

#else /* struct_ops */

/* Not a forward declaration: libbpf compares it with the kernel's, and finds the fields there by their names. */
struct uring_bpf_data {
    aiouring_u32 flags, buffer_count;
    aiouring_u32 lengths[URING_BPF_BUFFERS_MAX];
    aiouring_u64 result;
    aiouring_u8 state[URING_BPF_STATE_BYTES];
} __attribute__((preserve_access_index));

struct io_uring_sqe;
struct uring_bpf_ops {
    unsigned short id;
    int ring_fd;
    int (*prep_fn)(struct uring_bpf_data *, const struct io_uring_sqe *);
    int (*issue_fn)(struct uring_bpf_data *);
    void (*fail_fn)(struct uring_bpf_data *);
    void (*cleanup_fn)(struct uring_bpf_data *);
    void *priv;
};

extern void uring_bpf_set_result(struct uring_bpf_data *data, aiouring_u64 result) AIOURING_KFUNC;
extern int uring_bpf_read(struct uring_bpf_data *data, aiouring_u32 buffer, aiouring_u64 offset, void *mem, aiouring_u32 mem__sz) AIOURING_KFUNC;
extern int uring_bpf_write(struct uring_bpf_data *data, aiouring_u32 buffer, aiouring_u64 offset, void *mem, aiouring_u32 mem__sz) AIOURING_KFUNC;
extern aiouring_u8 *uring_bpf_scratch(struct uring_bpf_data *data, const unsigned long rdwr_buf_size) AIOURING_KFUNC;

struct aiouring_op {
    struct uring_bpf_data *data;
};

#define AIOURING_OP_FIELD(op, field) ((op)->data->field)
#define AIOURING_OP_LENGTH(op, buffer) ((op)->data->lengths[buffer])

AIOURING_CODE void aiouring_set_result(struct aiouring_op *op, aiouring_u64 result)
{
    uring_bpf_set_result(op->data, result);
}

AIOURING_CODE aiouring_u8 *aiouring_scratch(struct aiouring_op *op)
{
    return uring_bpf_scratch(op->data, URING_BPF_SCRATCH_BYTES);
}

AIOURING_CODE void *aiouring_state(struct aiouring_op *op)
{
    return op->data->state;
}

AIOURING_CODE int aiouring_read_buffer(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u8 *memory, aiouring_u32 bytes)
{
    return uring_bpf_read(op->data, buffer, offset, memory, bytes);
}

AIOURING_CODE int aiouring_write_buffer(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u8 *memory, aiouring_u32 bytes)
{
    return uring_bpf_write(op->data, buffer, offset, memory, bytes);
}

#endif
#endif

/* -- what an operation calls ---------------------------------------------------------------------------------------------------------------------- */

/* aiouring_set_result(op, result): 0 if it is not called. It counts only where the operation succeeds.
 * aiouring_scratch(op): two chunks of memory, the second from AIOURING_CHUNK_BYTES on, with anything in it. NULL in the kernel where there is none:
 * return -AIOURING_ENOMEM. The same memory each time for one request.
 * aiouring_state(op): 64 bytes of the request's own. */

#define AIOURING_CHUNK_BYTES URING_BPF_CHUNK_BYTES

AIOURING_CODE aiouring_u32 aiouring_flags(struct aiouring_op *op)
{
    return AIOURING_OP_FIELD(op, flags);
}

AIOURING_CODE aiouring_u32 aiouring_buffers(struct aiouring_op *op)
{
    return AIOURING_OP_FIELD(op, buffer_count);
}

/* Bytes of a buffer; 0 where there is none. `buffer` is 0 or 1. */
AIOURING_CODE aiouring_u32 aiouring_length(struct aiouring_op *op, aiouring_u32 buffer)
{
    if (buffer >= URING_BPF_BUFFERS_MAX || buffer >= aiouring_buffers(op))
        return 0;
    return buffer ? AIOURING_OP_LENGTH(op, 1) : AIOURING_OP_LENGTH(op, 0);
}

AIOURING_CODE int aiouring_outside(struct aiouring_op *op, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u32 bytes)
{
    aiouring_u64 length = aiouring_length(op, buffer);
    return bytes > AIOURING_CHUNK_BYTES || offset > length || bytes > length - offset;
}

/* The first `bytes` of a chunk of the scratch memory from a buffer, at most AIOURING_CHUNK_BYTES. 0, or an error to return: ERANGE outside the buffer,
 * EFAULT for memory that is not there and outside issue, EINTR where the request was cancelled. */
AIOURING_CODE int aiouring_load(struct aiouring_op *op, aiouring_u8 *chunk, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u32 bytes)
{
    AIOURING_OPAQUE(bytes);
    if (aiouring_outside(op, buffer, offset, bytes))
        return -AIOURING_ERANGE;
    return buffer ? aiouring_read_buffer(op, 1, offset, chunk, bytes) : aiouring_read_buffer(op, 0, offset, chunk, bytes);
}

/* The other way. EACCES: the operation does not declare that it writes to this buffer. */
AIOURING_CODE int aiouring_store(struct aiouring_op *op, aiouring_u8 *chunk, aiouring_u32 buffer, aiouring_u64 offset, aiouring_u32 bytes)
{
    aiouring_u32 traits = AIOURING_OP_TRAITS(op);

    AIOURING_OPAQUE(bytes);
    if (aiouring_outside(op, buffer, offset, bytes))
        return -AIOURING_ERANGE;
    if (!((traits & AIOURING_WRITES_FIRST && buffer == 0) || (traits & AIOURING_WRITES_LAST && buffer == aiouring_buffers(op) - 1)))
        return -AIOURING_EACCES;
    return buffer ? aiouring_write_buffer(op, 1, offset, chunk, bytes) : aiouring_write_buffer(op, 0, offset, chunk, bytes);
}

/* A byte of a chunk, and eight of them, by a number that the verifier need not know anything of: it is cut to the chunk. */
#define AIOURING_BYTE(chunk, position)                                                                                                        \
    (*({                                                                                                                                      \
        aiouring_u64 aiouring_place = (position);                                                                                             \
        AIOURING_OPAQUE(aiouring_place);                                                                                                      \
        (chunk) + (aiouring_place & (AIOURING_CHUNK_BYTES - 1));                                                                              \
    }))
#define AIOURING_WORD(chunk, index)                                                                                                           \
    (*({                                                                                                                                      \
        aiouring_u64 aiouring_place = (index);                                                                                                \
        AIOURING_OPAQUE(aiouring_place);                                                                                                      \
        (aiouring_word *)((chunk) + (aiouring_place & (AIOURING_CHUNK_BYTES / 8 - 1)) * 8);                                                   \
    }))
typedef aiouring_u64 __attribute__((may_alias)) aiouring_word;

/* Makes the verifier forget what it knows of a number, by way of the scratch memory's last word: one that it knows, and that the loop changes, would be
 * a new state in each round. For before a loop. */
#ifdef AIOURING_INLINE
#define AIOURING_FORGET_NUMBER(scratch, number) (void)0
#else
#define AIOURING_FORGET_NUMBER(scratch, number)                                                                                               \
    (*(volatile aiouring_u64 *)((scratch) + URING_BPF_SCRATCH_BYTES - 8) = (number),                                                          \
     (number) = *(volatile aiouring_u64 *)((scratch) + URING_BPF_SCRATCH_BYTES - 8))
#endif

/* AIOURING_CHUNKS(length, most, offset, bytes) { ... } AIOURING_CHUNKS_END: `length` bytes in pieces of `most`, a constant up to AIOURING_CHUNK_BYTES;
 * `offset` and `bytes` of each are variables of the loop. `break` and `continue` work in it, `return` and `goto` out of it do not. */
#define AIOURING_CHUNKS(length, most, offset, bytes)                                                                                          \
    {                                                                                                                                         \
        aiouring_u64 aiouring_total = (length);                                                                                               \
        AIOURING_EACH(aiouring_piece, (aiouring_total + (most) - 1) / (most))                                                                 \
        {                                                                                                                                     \
            aiouring_u64 offset = aiouring_piece * (most);                                                                                    \
            aiouring_u64 bytes = aiouring_total - offset;                                                                                     \
            AIOURING_OPAQUE(bytes);                                                                                                           \
            if (bytes > (most))                                                                                                               \
                bytes = (most);
#define AIOURING_CHUNKS_END                                                                                                                   \
        }                                                                                                                                     \
        AIOURING_EACH_END                                                                                                                     \
    }

/* -- the request's course --------------------------------------------------------------------------------------------------------------------------- */

/* In the place of a function that the operation does not have. */
AIOURING_CODE int AIOURING_NONE(struct aiouring_op *op)
{
    return 0;
}

AIOURING_CODE int aiouring_checked(int result)
{
    if (result > 0 || result < -4095 || (result <= -512 && result >= -531) || result == -AIOURING_ECANCELED)
        return -AIOURING_EINVAL;
    return result;
}

AIOURING_CODE int aiouring_wrong_buffers(struct aiouring_op *op, aiouring_u32 least, aiouring_u32 most)
{
    return aiouring_buffers(op) < least || aiouring_buffers(op) > most;
}

#define AIOURING_COURSE(op, mode, least, most, prep, issue, fail, cleanup)                                                                    \
    ({                                                                                                                                        \
        int aiouring_res = aiouring_wrong_buffers(op, least, most) ? -AIOURING_EINVAL : aiouring_checked(prep(op));                           \
        if (!aiouring_res) {                                                                                                                  \
            if ((mode) == AIOURING_OP_FAIL) {                                                                                                 \
                (void)fail(op);                                                                                                               \
                aiouring_res = -AIOURING_ECANCELED;                                                                                           \
            } else {                                                                                                                          \
                (op)->issuing = 1;                                                                                                            \
                aiouring_res = aiouring_checked(issue(op));                                                                                   \
                (op)->issuing = 0;                                                                                                            \
            }                                                                                                                                 \
        }                                                                                                                                     \
        (void)cleanup(op);                                                                                                                    \
        aiouring_res;                                                                                                                         \
    })

#define AIOURING_INFO(name, least, most, traits) {AIOURING_OP_ABI, least, most, traits, #name}

#ifdef AIOURING_INLINE

/* The operations that ship are all in one extension, each under its own name. */
#ifdef AIOURING_OP_SHIPPED
#define AIOURING_OP_SYMBOL(name) aiouring_operation_##name
#else
#define AIOURING_OP_SYMBOL(name) aiouring_operation
#endif

#define AIOURING_OP(name, least, most, traits, prep, issue, fail, cleanup)                                                                    \
    static aiouring_s32 aiouring_run_##name(struct uring_bpf_request *request, aiouring_u32 mode, const volatile aiouring_u32 *stop);         \
    __attribute__((visibility("default"))) const struct aiouring_inline_op AIOURING_OP_SYMBOL(name) = {                                       \
        AIOURING_INFO(name, least, most, traits), aiouring_run_##name};                                                                       \
    static aiouring_s32 aiouring_run_##name(struct uring_bpf_request *request, aiouring_u32 mode, const volatile aiouring_u32 *stop)          \
    {                                                                                                                                         \
        aiouring_u8 scratch[URING_BPF_SCRATCH_BYTES] __attribute__((aligned(64)));                                                            \
        struct aiouring_op op = {request, &AIOURING_OP_SYMBOL(name).info, stop, scratch, 0, 0, {0}};                                          \
        int res = AIOURING_COURSE(&op, mode, least, most, prep, issue, fail, cleanup);                                                        \
        if (res)                                                                                                                              \
            return res;                                                                                                                       \
        request->result = op.result;                                                                                                          \
        return op.result > 0x7fffffff ? 0x7fffffff : (aiouring_s32)op.result;                                                                 \
    }

#elif defined(AIOURING_PROG_RUN)

#define AIOURING_OP(name, least, most, traits, prep, issue, fail, cleanup)                                                                    \
    const volatile struct aiouring_op_info aiouring_operation_info = AIOURING_INFO(name, least, most, traits);                                \
    AIOURING_SECTION("syscall") int aiouring_operation(void *context)                                                                         \
    {                                                                                                                                         \
        struct aiouring_op op = {0};                                                                                                          \
        int res;                                                                                                                              \
        __builtin_memset(aiouring_run.state, 0, sizeof(aiouring_run.state));                                                                  \
        res = AIOURING_COURSE(&op, aiouring_run.mode, least, most, prep, issue, fail, cleanup);                                               \
        if (res)                                                                                                                              \
            return res;                                                                                                                       \
        aiouring_run.request.result = op.result;                                                                                              \
        return 0;                                                                                                                             \
    }                                                                                                                                         \
    AIOURING_SECTION("license") char aiouring_license[] = "Dual MIT/GPL";

#else

/* A callback is left out of the structure where its function is AIOURING_NONE. */
#define AIOURING_IS_AIOURING_NONE ~, 1
#define AIOURING_SECOND_(first, second, ...) second
#define AIOURING_SECOND(...) AIOURING_SECOND_(__VA_ARGS__)
#define AIOURING_IS_NONE(function) AIOURING_SECOND(AIOURING_IS_##function, 0)

#define AIOURING_CALLBACK_1(which, function)
#define AIOURING_CALLBACK_0(which, function)                                                                                                  \
    AIOURING_SECTION("struct_ops.s/" #which) int aiouring_##which(aiouring_u64 *arguments)                                                    \
    {                                                                                                                                         \
        struct aiouring_op op = {(struct uring_bpf_data *)arguments[0]};                                                                      \
        return function(&op), 0;                                                                                                              \
    }
#define AIOURING_CALLBACK(which, function) AIOURING_JOIN(AIOURING_CALLBACK_, AIOURING_IS_NONE(function))(which, function)
#define AIOURING_MEMBER_1(which)
#define AIOURING_MEMBER_0(which) .which = (void *)aiouring_##which,
#define AIOURING_MEMBER(which, function) AIOURING_JOIN(AIOURING_MEMBER_, AIOURING_IS_NONE(function))(which)

#define AIOURING_OP(name, least, most, traits, prep, issue, fail, cleanup)                                                                    \
    const volatile struct aiouring_op_info aiouring_operation_info = AIOURING_INFO(name, least, most, traits);                                \
    AIOURING_SECTION("struct_ops.s/prep_fn") int aiouring_prep_fn(aiouring_u64 *arguments)                                                    \
    {                                                                                                                                         \
        struct aiouring_op op = {(struct uring_bpf_data *)arguments[0]};                                                                      \
        return aiouring_wrong_buffers(&op, least, most) ? -AIOURING_EINVAL : aiouring_checked(prep(&op));                                     \
    }                                                                                                                                         \
    AIOURING_SECTION("struct_ops.s/issue_fn") int aiouring_issue_fn(aiouring_u64 *arguments)                                                  \
    {                                                                                                                                         \
        struct aiouring_op op = {(struct uring_bpf_data *)arguments[0]};                                                                      \
        return aiouring_checked(issue(&op));                                                                                                  \
    }                                                                                                                                         \
    AIOURING_CALLBACK(fail_fn, fail)                                                                                                          \
    AIOURING_CALLBACK(cleanup_fn, cleanup)                                                                                                    \
    AIOURING_SECTION(".struct_ops.link") struct uring_bpf_ops aiouring_operation = {                                                          \
        .id = 0, .ring_fd = -1, .prep_fn = (void *)aiouring_prep_fn, .issue_fn = (void *)aiouring_issue_fn,                                   \
        AIOURING_MEMBER(fail_fn, fail) AIOURING_MEMBER(cleanup_fn, cleanup)};                                                                 \
    AIOURING_SECTION("license") char aiouring_license[] = "Dual MIT/GPL";

#endif
#endif
