/* An io_uring of one thread for the programs of this folder: set-up, one submission queue, one completion queue, buffer rings.
 *
 * Included by the floors and the load programs that are io_uring programs. It calls the kernel and nothing else (no liburing), and
 * ends the program with a sentence on every error: a floor that limps measures nothing.
 */
#ifndef BENCH_RING_H
#define BENCH_RING_H

#include "common.h"

#include "../../aiouring/include/aiouring_uapi.h"

#include <sys/mman.h>

struct ring {
    int fd;
    uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
    uint32_t sq_mask, sq_entries, cq_mask;
    uint32_t sq_local_tail, to_submit;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

/* The kernel's buffers to receive into; `bytes` belongs to the program, which may send from it before it gives a buffer back. */
struct buffers {
    struct io_uring_buf *entries;
    char *bytes;
    uint32_t count, size;
    uint16_t tail, group;
};

static void ring_open(struct ring *r, uint32_t sq_entries, uint32_t cq_entries) {
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    p.cq_entries = cq_entries;
    r->fd = (int)syscall(__NR_io_uring_setup, sq_entries, &p);
    if (r->fd < 0)
        die("io_uring_setup (the floors need Linux 6.1 or newer, and a kernel that allows io_uring)");
    size_t ring_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    if (sq_size > ring_size)
        ring_size = sq_size;
    char *base = mmap(NULL, ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, (off_t)IORING_OFF_SQ_RING);
    r->sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
                   (off_t)IORING_OFF_SQES);
    if (base == MAP_FAILED || r->sqes == MAP_FAILED)
        die("mmap of the ring");
    r->sq_head = (uint32_t *)(base + p.sq_off.head);
    r->sq_tail = (uint32_t *)(base + p.sq_off.tail);
    r->cq_head = (uint32_t *)(base + p.cq_off.head);
    r->cq_tail = (uint32_t *)(base + p.cq_off.tail);
    r->cqes = (struct io_uring_cqe *)(base + p.cq_off.cqes);
    r->sq_mask = p.sq_entries - 1;
    r->sq_entries = p.sq_entries;
    r->cq_mask = p.cq_entries - 1;
    r->sq_local_tail = *r->sq_tail;
    r->to_submit = 0;
    uint32_t *array = (uint32_t *)(base + p.sq_off.array);
    for (uint32_t i = 0; i < p.sq_entries; i++)
        array[i] = i;
}

/* Submits all that is queued and waits for `wait_for` completions, at most `timeout_ns` (negative: without bound). */
static void ring_enter(struct ring *r, uint32_t wait_for, int64_t timeout_ns) {
    struct aiouring_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_getevents_arg arg = {.ts = timeout_ns >= 0 ? (uint64_t)(uintptr_t)&ts : 0};
    aiouring_store_release(r->sq_tail, r->sq_local_tail);
    for (;;) {
        long n = syscall(__NR_io_uring_enter, r->fd, r->to_submit, wait_for, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof arg);
        if (n >= 0) {
            r->to_submit -= (uint32_t)n;
            return;
        }
        if (errno == ETIME || errno == EBUSY || errno == EAGAIN) {
            r->to_submit = r->sq_local_tail - aiouring_load_acquire(r->sq_head);
            return;
        }
        if (errno != EINTR)
            die("io_uring_enter");
    }
}

static struct io_uring_sqe *ring_sqe(struct ring *r) {
    while (r->sq_local_tail - aiouring_load_acquire(r->sq_head) == r->sq_entries)
        ring_enter(r, 0, -1);
    struct io_uring_sqe *sqe = &r->sqes[r->sq_local_tail++ & r->sq_mask];
    r->to_submit++;
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

static MAYBE_UNUSED void buffers_give(struct buffers *b, uint32_t id) {
    struct io_uring_buf *entry = &b->entries[b->tail++ & (b->count - 1)];
    entry->addr = (uint64_t)(uintptr_t)(b->bytes + (size_t)id * b->size);
    entry->len = b->size;
    entry->bid = (uint16_t)id;
}

/* What was given since the last call becomes the kernel's to use. */
static MAYBE_UNUSED void buffers_publish(struct buffers *b) { aiouring_store_release16(&b->entries[0].resv, b->tail); }

static MAYBE_UNUSED char *buffers_at(struct buffers *b, uint32_t id) { return b->bytes + (size_t)id * b->size; }

static MAYBE_UNUSED void buffers_open(struct ring *r, struct buffers *b, uint32_t count, uint32_t size, uint16_t group) {
    memset(b, 0, sizeof *b);
    b->count = count;
    b->size = size;
    b->group = group;
    b->entries = mmap(NULL, count * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    b->bytes = mmap(NULL, (size_t)count * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (b->entries == MAP_FAILED || b->bytes == MAP_FAILED)
        die("mmap of the buffers");
    struct io_uring_buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)b->entries, .ring_entries = count, .bgid = group};
    if (syscall(__NR_io_uring_register, r->fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0)
        die("IORING_REGISTER_PBUF_RING (Linux 5.19)");
    for (uint32_t id = 0; id < count; id++)
        buffers_give(b, id);
    buffers_publish(b);
}

#endif
