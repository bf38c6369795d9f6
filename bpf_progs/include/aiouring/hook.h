/* What a loop hook is written against, and the driver around it. One source for two engines:
 *
 *     clang -target bpf    -> an object whose loop_step runs inside io_uring_enter (Linux >= 7.1.5)
 *     cc -DAIOURING_INLINE -> code that the extension runs right after io_uring_enter, without the GIL (any kernel)
 *
 * A program is one function and one macro:
 *
 *     #include <aiouring/hook.h>
 *     static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
 *     {
 *         return AIOURING_WAKE;
 *     }
 *     AIOURING_HOOK(on_cqe)
 *
 * on_cqe is called once for each completion, in order, and returns a verdict. It may queue requests (aiouring_sqe), whose user_data carries a
 * namespace of its own, read and write the MEM region (AIOURING_AT), and send completions of its own making to Python (aiouring_post). Completions
 * with other namespaces than the program's are somebody else's: return AIOURING_WAKE for them.
 *
 * Rules that the verifier makes: no loop without a bound (AIOURING_REPEAT), no pointer that was not checked. Globals work in the kernel and in
 * programs that are loaded from a shared library of their own; what ships with aiouring keeps all state in the region.
 */
#ifndef AIOURING_HOOK_H
#define AIOURING_HOOK_H

#include "common.h"

enum aiouring_verdict {
    AIOURING_CONSUME = 0, /* handled: Python never sees it */
    AIOURING_HOLD = 1,    /* Python will see it, but need not wake for it */
    AIOURING_WAKE = 2,    /* Python will see it, now */
};

/* -- the kernel's structures and constants, under its names --------------------------------------------------------------------------------- */

struct io_uring_cqe {
    aiouring_u64 user_data;
    aiouring_s32 res;
    aiouring_u32 flags;
};

struct io_uring_sqe {
    aiouring_u8 opcode, flags;
    aiouring_u16 ioprio;
    aiouring_s32 fd;
    aiouring_u64 off;  /* also addr2 */
    aiouring_u64 addr;
    aiouring_u32 len;
    aiouring_u32 op_flags; /* rw_flags, msg_flags, timeout_flags, cancel_flags ... */
    aiouring_u64 user_data;
    aiouring_u16 buf_index; /* also buf_group */
    aiouring_u16 personality;
    aiouring_s32 splice_fd_in; /* also file_index */
    aiouring_u64 addr3, pad;
};

enum {
    IORING_OP_NOP = 0,
    IORING_OP_FSYNC = 3,
    IORING_OP_TIMEOUT = 11,
    IORING_OP_TIMEOUT_REMOVE = 12,
    IORING_OP_ASYNC_CANCEL = 14,
    IORING_OP_CLOSE = 19,
    IORING_OP_READ = 22,
    IORING_OP_WRITE = 23,
    IORING_OP_SEND = 26,
    IORING_OP_RECV = 27,
    IORING_OP_SHUTDOWN = 34,

    IOSQE_IO_LINK = 1 << 2,
    IOSQE_BUFFER_SELECT = 1 << 5,
    IOSQE_CQE_SKIP_SUCCESS = 1 << 6,

    IORING_TIMEOUT_ABS = 1 << 0,
    IORING_TIMEOUT_UPDATE = 1 << 1,
    IORING_RECVSEND_POLL_FIRST = 1 << 0,
    IORING_RECV_MULTISHOT = 1 << 1,
    IORING_CQE_F_BUFFER = 1 << 0,
    IORING_CQE_F_MORE = 1 << 1,

    AIOURING_MSG_DONTWAIT = 0x40,
    AIOURING_MSG_WAITALL = 0x100,
    AIOURING_MSG_NOSIGNAL = 0x4000,
    AIOURING_SHUT_WR = 1,
};

/* -- the two engines --------------------------------------------------------------------------------------------------------------------------- */

#ifdef AIOURING_INLINE

#include <time.h>

#include "inline.h"

#define AIOURING_LAYOUT(hook, field) ((hook)->layout->field)
/* For a part of the program that the verifier shall look at by itself, once. Its arguments are numbers, and pointers to structures of at least their
 * type's size, which it must compare with NULL. */
#define AIOURING_PART static
#define AIOURING_LOAD_ACQUIRE(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define AIOURING_STORE_RELEASE(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#define AIOURING_STORE_RELEASE16(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
/* Makes the verifier forget what it knows of a number, by way of some place in the region: a counter that it knows would be a new state in each
 * round of a loop. */
#define AIOURING_FORGET(value, place) (void)0

AIOURING_CODE aiouring_u64 aiouring_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (aiouring_u64)now.tv_sec * 1000000000ull + (aiouring_u64)now.tv_nsec;
}

AIOURING_CODE int aiouring_submit(struct aiouring_hook *hook)
{
    return hook->submit(hook);
}

#else /* the kernel */

/* Not a forward declaration: libbpf compares it with the kernel's. */
struct iou_ctx {
};
struct iou_loop_params {
    aiouring_u32 cq_wait_idx;
};
struct io_uring_bpf_ops {
    int (*loop_step)(struct iou_ctx *, struct iou_loop_params *);
    aiouring_u32 ring_fd;
    void *priv;
};

enum { IOU_LOOP_CONTINUE = 0, IOU_LOOP_STOP = 1 };
enum { IOU_REGION_MEM = 0, IOU_REGION_CQ = 1, IOU_REGION_SQ = 2 };

extern int bpf_io_uring_submit_sqes(struct iou_ctx *ctx, aiouring_u32 nr) AIOURING_KFUNC;
extern aiouring_u8 *bpf_io_uring_get_region(struct iou_ctx *ctx, aiouring_u32 region_id, const unsigned long rdwr_buf_size) AIOURING_KFUNC;
static aiouring_u64 (*aiouring_ktime_get_ns)(void) = (void *)5;

/* Set before the program is loaded, constants for the verifier. */
const volatile struct aiouring_layout aiouring_layout = {AIOURING_HOOK_ABI};

struct aiouring_hook {
    aiouring_u8 *memory;
    aiouring_u8 *rings;
    struct io_uring_sqe *sqes;
    struct iou_ctx *ctx;
    aiouring_u32 sq_tail;
};

#define AIOURING_LAYOUT(hook, field) (aiouring_layout.field)
#define AIOURING_PART __attribute__((noinline))
#define AIOURING_LOAD_ACQUIRE(p) (*(volatile aiouring_u32 *)(p))
#define AIOURING_STORE_RELEASE(p, value) (*(volatile aiouring_u32 *)(p) = (value))
#define AIOURING_STORE_RELEASE16(p, value) (*(volatile aiouring_u16 *)(p) = (value))
#define AIOURING_FORGET(value, place) (*(volatile aiouring_u64 *)&(place) = (value), (value) = *(volatile aiouring_u64 *)&(place))

AIOURING_CODE aiouring_u64 aiouring_now_ns(void)
{
    return aiouring_ktime_get_ns();
}

/* How many the kernel took; what it did not take goes with the next submission. */
AIOURING_CODE int aiouring_submit(struct aiouring_hook *hook)
{
    aiouring_u8 *rings = hook->rings;
    aiouring_u32 queued = hook->sq_tail - *(volatile aiouring_u32 *)(rings + AIOURING_LAYOUT(hook, sq_head));
    int taken = 0;

    *(volatile aiouring_u32 *)(rings + AIOURING_LAYOUT(hook, sq_tail)) = hook->sq_tail;
    if (queued)
        taken = bpf_io_uring_submit_sqes(hook->ctx, queued);
    return taken < 0 ? taken : 0;
}

#endif

/* -- what a program calls ------------------------------------------------------------------------------------------------------------------ */

/* A pointer to a `type` in the MEM region, or NULL where it would reach over the end. */
#define AIOURING_AT(hook, type, offset)                                                                                                       \
    ({                                                                                                                                        \
        aiouring_u64 aiouring_at = (offset);                                                                                                  \
        AIOURING_OPAQUE(aiouring_at);                                                                                                         \
        aiouring_at <= AIOURING_LAYOUT(hook, region_bytes) - sizeof(type) ? (type *)((hook)->memory + aiouring_at) : (type *)0;              \
    })

AIOURING_CODE struct aiouring_control *aiouring_control(struct aiouring_hook *hook)
{
    return (struct aiouring_control *)hook->memory;
}

/* The region's address in the process, for what a request shall read or write there. */
AIOURING_CODE aiouring_u64 aiouring_address(struct aiouring_hook *hook, aiouring_u64 offset)
{
    return aiouring_control(hook)->region_address + offset;
}

/* Adds to one of the AIOURING_COUNTERS counters that Python reads as hook.counters. */
AIOURING_CODE void aiouring_count(struct aiouring_hook *hook, aiouring_u32 counter, aiouring_u64 amount)
{
    aiouring_control(hook)->counters[counter & (AIOURING_COUNTERS - 1)] += amount;
}

/* Makes room for `wanted` requests that go out together, as linked ones must. 0, or -1: there is none, which happens only where the kernel takes
 * no more requests for the moment. */
AIOURING_CODE int aiouring_reserve(struct aiouring_hook *hook, aiouring_u32 wanted)
{
    volatile aiouring_u32 *head = (volatile aiouring_u32 *)(hook->rings + AIOURING_LAYOUT(hook, sq_head));

    if (AIOURING_LAYOUT(hook, sq_entries) - (hook->sq_tail - AIOURING_LOAD_ACQUIRE(head)) >= wanted)
        return 0;
    aiouring_submit(hook);
    return AIOURING_LAYOUT(hook, sq_entries) - (hook->sq_tail - AIOURING_LOAD_ACQUIRE(head)) >= wanted ? 0 : -1;
}

/* The next request, zeroed, to be filled at once. Only after aiouring_reserve() said that there is room. */
AIOURING_CODE struct io_uring_sqe *aiouring_next_sqe(struct aiouring_hook *hook)
{
    aiouring_u64 index = hook->sq_tail & (AIOURING_LAYOUT(hook, sq_entries) - 1);
    struct io_uring_sqe *sqe;

    AIOURING_OPAQUE(index);
    sqe = (struct io_uring_sqe *)((aiouring_u8 *)hook->sqes + index * sizeof(*sqe));
    hook->sq_tail++;
    __builtin_memset(sqe, 0, sizeof(*sqe));
    return sqe;
}

/* The same with its reservation. NULL: there is no room. */
AIOURING_CODE struct io_uring_sqe *aiouring_sqe(struct aiouring_hook *hook)
{
    return aiouring_reserve(hook, 1) ? (struct io_uring_sqe *)0 : aiouring_next_sqe(hook);
}

/* One completion into the mailbox, which has so many places for this caller. 0, or -1: they are taken. */
AIOURING_CODE int aiouring_mail(struct aiouring_hook *hook, aiouring_u64 user_data, aiouring_s32 res, aiouring_u32 flags, aiouring_u32 places)
{
    struct aiouring_control *control = aiouring_control(hook);
    aiouring_u64 tail = control->mail_tail;
    struct io_uring_cqe *cqe;

    if ((aiouring_u32)tail - AIOURING_LOAD_ACQUIRE(&control->mail_head) >= places)
        return -1;
    AIOURING_OPAQUE(tail);
    cqe = (struct io_uring_cqe *)(hook->memory + AIOURING_MAIL_OFFSET + (tail & (AIOURING_MAIL_ENTRIES - 1)) * sizeof(*cqe));
    cqe->user_data = user_data;
    cqe->res = res;
    cqe->flags = flags;
    control->mail_tail++;
    return 0;
}

/* Sends a completion of the program's own making to Python. 0, or -1: the mailbox is full, which the driver prevents for AIOURING_MAIL_RESERVE - 1
 * of them a completion. The last place is kept for the completion that the program is called for. */
AIOURING_CODE int aiouring_post(struct aiouring_hook *hook, aiouring_u64 user_data, aiouring_s32 res, aiouring_u32 flags)
{
    return aiouring_mail(hook, user_data, res, flags, AIOURING_MAIL_ENTRIES - 1);
}

/* What was held, by AIOURING_HOLD, shall wake Python at this time on CLOCK_MONOTONIC at the latest. For the enter that runs: when it ends, Python
 * gets all that was held. */
AIOURING_CODE void aiouring_hold_until(struct aiouring_hook *hook, aiouring_u64 time_ns)
{
    struct aiouring_control *control = aiouring_control(hook);

    if (!control->hold_until_ns || time_ns < control->hold_until_ns)
        control->hold_until_ns = time_ns;
}

AIOURING_CODE aiouring_u32 aiouring_namespace(const struct io_uring_cqe *cqe)
{
    return (aiouring_u32)(cqe->user_data >> 56);
}

/* -- the driver ---------------------------------------------------------------------------------------------------------------------------- */

/* Room in the mailbox for what one completion may bring: itself, and what the program posts. */
#define AIOURING_MAIL_RESERVE 16
/* Completions in one step; more wait for the next one. */
#define AIOURING_STEP_CQES 4096

/* Gives each completion to the program and does what it says. Whether Python has to wake is in control->woken. */
#define AIOURING_DRIVE(hook, on_cqe)                                                                                                          \
    do {                                                                                                                                      \
        struct aiouring_control *aiouring_ctl = aiouring_control(hook);                                                                       \
        aiouring_u32 aiouring_head = *(volatile aiouring_u32 *)((hook)->rings + AIOURING_LAYOUT(hook, cq_head));                              \
        aiouring_ctl->steps++;                                                                                                                \
        AIOURING_REPEAT(AIOURING_STEP_CQES)                                                                                                   \
        {                                                                                                                                     \
            struct io_uring_cqe aiouring_cqe;                                                                                                 \
            if (aiouring_head == AIOURING_LOAD_ACQUIRE((aiouring_u32 *)((hook)->rings + AIOURING_LAYOUT(hook, cq_tail))))                     \
                break;                                                                                                                        \
            if (aiouring_ctl->mail_tail - aiouring_ctl->mail_head >= AIOURING_MAIL_ENTRIES - AIOURING_MAIL_RESERVE) {                         \
                aiouring_ctl->woken |= AIOURING_WOKEN_MAIL_FULL;                                                                              \
                break;                                                                                                                        \
            }                                                                                                                                 \
            aiouring_take(hook, aiouring_head, &aiouring_cqe);                                                                                \
            aiouring_head++;                                                                                                                  \
            AIOURING_STORE_RELEASE((aiouring_u32 *)((hook)->rings + AIOURING_LAYOUT(hook, cq_head)), aiouring_head);                          \
            aiouring_obey(hook, &aiouring_cqe, aiouring_driver_cqe(hook, &aiouring_cqe) ? AIOURING_CONSUME : on_cqe(hook, &aiouring_cqe));    \
        }                                                                                                                                     \
        AIOURING_REPEAT_END                                                                                                                   \
    } while (0)

AIOURING_CODE void aiouring_take(struct aiouring_hook *hook, aiouring_u32 head, struct io_uring_cqe *cqe)
{
    aiouring_u64 index = head & (AIOURING_LAYOUT(hook, cq_entries) - 1);
    const struct io_uring_cqe *from;

    AIOURING_OPAQUE(index);
    from = (const struct io_uring_cqe *)(hook->rings + AIOURING_LAYOUT(hook, cqes) + index * sizeof(*from));
    cqe->user_data = from->user_data;
    cqe->res = from->res;
    cqe->flags = from->flags;
}

/* Completions of the driver's own requests. */
AIOURING_CODE int aiouring_driver_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    if (aiouring_namespace(cqe) != AIOURING_NS_DRIVER)
        return 0;
    /* The timer itself, which has the mark, or an update that came too late for it. */
    if (cqe->user_data & 1 || cqe->res < 0)
        aiouring_control(hook)->timer_deadline_ns = 0;
    return 1;
}

AIOURING_CODE void aiouring_obey(struct aiouring_hook *hook, const struct io_uring_cqe *cqe, int verdict)
{
    struct aiouring_control *control = aiouring_control(hook);

    control->cqes++;
    if (verdict == AIOURING_CONSUME) {
        control->consumed++;
        return;
    }
    if (verdict == AIOURING_HOLD) {
        control->held++;
    } else {
        if (verdict != AIOURING_WAKE) {
            control->fault = AIOURING_FAULT_VERDICT;
            control->fault_value = verdict;
        }
        control->woke++;
        control->woken |= AIOURING_WOKEN_VERDICT;
    }
    aiouring_mail(hook, cqe->user_data, cqe->res, cqe->flags, AIOURING_MAIL_ENTRIES);
}

#ifdef AIOURING_INLINE

#ifndef AIOURING_PROGRAM_NAME
#define AIOURING_PROGRAM_NAME aiouring_program
#endif

#define AIOURING_HOOK(on_cqe)                                                                                                                 \
    static void AIOURING_JOIN(AIOURING_PROGRAM_NAME, _step)(struct aiouring_hook * hook)                                                      \
    {                                                                                                                                         \
        AIOURING_DRIVE(hook, on_cqe);                                                                                                         \
    }                                                                                                                                         \
    __attribute__((visibility("default"))) const struct aiouring_inline_program AIOURING_PROGRAM_NAME = {                                     \
        AIOURING_HOOK_ABI, AIOURING_JOIN(AIOURING_PROGRAM_NAME, _step)};

#else

/* One timer for the wait's end. An earlier one that is in flight is left alone: when it ends, this is called again. */
AIOURING_CODE void aiouring_arm_timer(struct aiouring_hook *hook, aiouring_u64 deadline_ns)
{
    struct aiouring_control *control = aiouring_control(hook);
    struct io_uring_sqe *sqe;

    if (control->timer_deadline_ns && control->timer_deadline_ns <= deadline_ns)
        return;
    sqe = aiouring_sqe(hook);
    if (!sqe) {
        control->woken |= AIOURING_WOKEN_DEADLINE; /* no wait without its timer: Python comes again */
        return;
    }
    control->timer_s = (aiouring_s64)(deadline_ns / 1000000000ull);
    control->timer_ns = (aiouring_s64)(deadline_ns % 1000000000ull);
    sqe->fd = -1;
    if (control->timer_deadline_ns) {
        sqe->opcode = IORING_OP_TIMEOUT_REMOVE;
        sqe->op_flags = IORING_TIMEOUT_UPDATE | IORING_TIMEOUT_ABS;
        sqe->addr = ((aiouring_u64)AIOURING_NS_DRIVER << 56) | 1;
        sqe->off = aiouring_address(hook, __builtin_offsetof(struct aiouring_control, timer_s));
        sqe->user_data = (aiouring_u64)AIOURING_NS_DRIVER << 56;
    } else {
        sqe->opcode = IORING_OP_TIMEOUT;
        sqe->op_flags = IORING_TIMEOUT_ABS;
        sqe->addr = aiouring_address(hook, __builtin_offsetof(struct aiouring_control, timer_s));
        sqe->len = 1;
        sqe->user_data = ((aiouring_u64)AIOURING_NS_DRIVER << 56) | 1;
    }
    control->timer_deadline_ns = deadline_ns;
}

#define AIOURING_HOOK(on_cqe)                                                                                                                 \
    AIOURING_SECTION("struct_ops.s/loop_step")                                                                                                \
    int aiouring_loop_step(aiouring_u64 *args)                                                                                                \
    {                                                                                                                                         \
        struct iou_ctx *ctx = (struct iou_ctx *)args[0];                                                                                      \
        struct iou_loop_params *params = (struct iou_loop_params *)args[1];                                                                   \
        struct aiouring_hook hook;                                                                                                            \
        hook.ctx = ctx;                                                                                                                       \
        hook.rings = bpf_io_uring_get_region(ctx, IOU_REGION_CQ, AIOURING_LAYOUT(&hook, rings_bytes));                                        \
        hook.sqes = (struct io_uring_sqe *)bpf_io_uring_get_region(ctx, IOU_REGION_SQ, AIOURING_LAYOUT(&hook, sqes_bytes));                   \
        hook.memory = bpf_io_uring_get_region(ctx, IOU_REGION_MEM, AIOURING_LAYOUT(&hook, region_bytes));                                     \
        if (!hook.rings || !hook.sqes || !hook.memory)                                                                                        \
            return -AIOURING_EINVAL;                                                                                                          \
        hook.sq_tail = *(volatile aiouring_u32 *)(hook.rings + AIOURING_LAYOUT(&hook, sq_tail));                                              \
        if (aiouring_control(&hook)->phase == 0)                                                                                              \
            aiouring_submit(&hook); /* what Python queued goes before what comes of it */                                                     \
        AIOURING_DRIVE(&hook, on_cqe);                                                                                                        \
        return aiouring_decide(&hook, params);                                                                                                \
    }                                                                                                                                         \
    AIOURING_SECTION(".struct_ops.link") struct io_uring_bpf_ops aiouring_ops = {.loop_step = (void *)aiouring_loop_step};                    \
    AIOURING_SECTION("license") char aiouring_license[] = "Dual MIT/GPL";

/* Back to Python, or wait for what comes next. */
AIOURING_CODE int aiouring_decide(struct aiouring_hook *hook, struct iou_loop_params *params)
{
    struct aiouring_control *control = aiouring_control(hook);
    aiouring_u32 phase = control->phase;
    aiouring_u64 deadline_ns = control->deadline_ns;
    aiouring_u32 head;

    control->phase = 1;
    if (control->hold_until_ns && (!deadline_ns || control->hold_until_ns < deadline_ns))
        deadline_ns = control->hold_until_ns;
    if (control->wait && deadline_ns) {
        if (aiouring_now_ns() >= deadline_ns)
            control->woken |= AIOURING_WOKEN_DEADLINE;
        else if (!control->woken)
            aiouring_arm_timer(hook, deadline_ns);
    }
    aiouring_submit(hook);
    head = *(volatile aiouring_u32 *)(hook->rings + AIOURING_LAYOUT(hook, cq_head));
    if (control->woken || (!control->wait && phase != 0))
        return IOU_LOOP_STOP;
    /* A look without waiting goes round once, so that the kernel does its deferred work: an index that is reached already does not wait. */
    params->cq_wait_idx = control->wait ? head + 1 : head;
    return IOU_LOOP_CONTINUE;
}

#endif
#endif
