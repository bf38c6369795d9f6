/* The loop hook of two_ways: copies a file with its CRC-32C, or answers messages with their bytes XORed, block after block, without waking Python.
 *
 * Python writes struct job to the beginning of hook.memory with state BEGIN; the next completion of any kind begins it. A block's write and the next
 * block's read are one chain whose first request posts nothing when it succeeds, so a block costs one completion. At the end the state is OVER, and
 * the eventfd is written to. Built by two_ways.py.
 */
#include <aiouring/hook.h>

#include "../bpf_progs/ops/crc32c_table.h"

enum { NONE, BEGIN, RUNNING, OVER };
enum { COPY = 1, ECHO };
enum { FILLED = 1, EMPTIED, TOLD };

#define BLOCK_OFFSET (AIOURING_USER_OFFSET + 4096)
#define BLOCK_BYTES_MAX 65536

/* two_ways_jobs.py has these fields. */
struct job {
    aiouring_u32 state, kind;
    aiouring_s32 fd_in, fd_out, eventfd, error;
    aiouring_u32 block, key;
    aiouring_u64 one, done, total;
    aiouring_u32 crc, scratch;
};

AIOURING_CODE aiouring_u64 data_of(aiouring_u32 op)
{
    return (aiouring_u64)AIOURING_NS_USER << 56 | (aiouring_u64)op << 48;
}

static void end(struct aiouring_hook *hook, struct job *job, aiouring_s32 error)
{
    struct io_uring_sqe *sqe = aiouring_sqe(hook);

    job->state = OVER;
    job->error = error;
    if (!sqe)
        return;
    sqe->opcode = IORING_OP_WRITE;
    sqe->fd = job->eventfd;
    sqe->addr = aiouring_address(hook, AIOURING_USER_OFFSET + __builtin_offsetof(struct job, one));
    sqe->len = 8;
    sqe->user_data = data_of(TOLD);
}

AIOURING_CODE void queue_in(struct aiouring_hook *hook, struct job *job)
{
    struct io_uring_sqe *sqe = aiouring_next_sqe(hook);

    sqe->fd = job->fd_in;
    sqe->addr = aiouring_address(hook, BLOCK_OFFSET);
    sqe->len = job->block;
    if (job->kind == COPY) {
        sqe->opcode = IORING_OP_READ;
        sqe->off = job->done;
    } else {
        sqe->opcode = IORING_OP_RECV;
        sqe->op_flags = AIOURING_MSG_WAITALL;
    }
    sqe->user_data = data_of(FILLED);
}

static void queue_out(struct aiouring_hook *hook, struct job *job)
{
    aiouring_u64 at = job->done;
    int last = at + job->block >= job->total;
    struct io_uring_sqe *sqe;

    if (aiouring_reserve(hook, 2)) {
        end(hook, job, -AIOURING_EAGAIN);
        return;
    }
    sqe = aiouring_next_sqe(hook);
    sqe->fd = job->fd_out;
    sqe->addr = aiouring_address(hook, BLOCK_OFFSET);
    sqe->len = job->block;
    if (job->kind == COPY) {
        sqe->opcode = IORING_OP_WRITE;
        sqe->off = at;
    } else {
        sqe->opcode = IORING_OP_SEND;
        sqe->op_flags = AIOURING_MSG_WAITALL | AIOURING_MSG_NOSIGNAL;
    }
    sqe->user_data = data_of(EMPTIED);
    job->done = at + job->block;
    if (!last) {
        sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
        queue_in(hook, job);
    }
}

/* A word of the block; its number is cut to the block. */
AIOURING_CODE aiouring_u64 *word_at(struct aiouring_hook *hook, aiouring_u64 index)
{
    aiouring_u64 at = index & (BLOCK_BYTES_MAX / 8 - 1);

    AIOURING_OPAQUE(at);
    return (aiouring_u64 *)(hook->memory + BLOCK_OFFSET + at * 8);
}

AIOURING_CODE void sum_block(struct aiouring_hook *hook, struct job *job)
{
    aiouring_u32 crc = job->crc;

    AIOURING_EACH(index, job->block / 8)
    {
        aiouring_u64 word = *word_at(hook, index) ^ crc;

        crc = crc32c_table[7][word & 255] ^ crc32c_table[6][word >> 8 & 255] ^ crc32c_table[5][word >> 16 & 255] ^
              crc32c_table[4][word >> 24 & 255] ^ crc32c_table[3][word >> 32 & 255] ^ crc32c_table[2][word >> 40 & 255] ^
              crc32c_table[1][word >> 48 & 255] ^ crc32c_table[0][word >> 56];
    }
    AIOURING_EACH_END
    job->crc = crc;
}

AIOURING_CODE void mask_block(struct aiouring_hook *hook, struct job *job)
{
    aiouring_u64 key = (aiouring_u64)job->key << 32 | job->key;

    AIOURING_EACH(index, job->block / 8)
    {
        *word_at(hook, index) ^= key;
    }
    AIOURING_EACH_END
}

static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    struct job *job = AIOURING_AT(hook, struct job, AIOURING_USER_OFFSET);
    aiouring_u32 op = (aiouring_u32)(cqe->user_data >> 48) & 255;

    if (!job || job->block > BLOCK_BYTES_MAX)
        return AIOURING_WAKE;
    if (aiouring_namespace(cqe) != AIOURING_NS_USER) {
        if (job->state == BEGIN && !aiouring_reserve(hook, 1)) {
            job->state = RUNNING;
            job->crc = ~0u;
            queue_in(hook, job);
        }
        return AIOURING_WAKE;
    }
    if (op == TOLD || job->state != RUNNING)
        return AIOURING_CONSUME;
    if (cqe->res < 0 || (aiouring_u32)cqe->res != job->block) {
        end(hook, job, cqe->res < 0 ? cqe->res : -AIOURING_EIO);
    } else if (op == EMPTIED) {
        job->crc = ~job->crc;
        end(hook, job, 0);
    } else {
        if (job->kind == COPY)
            sum_block(hook, job);
        else
            mask_block(hook, job);
        queue_out(hook, job);
    }
    return AIOURING_CONSUME;
}

AIOURING_HOOK(on_cqe)
