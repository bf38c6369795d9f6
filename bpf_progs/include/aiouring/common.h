/* What every program here is written with, hook or operation: the numbers' types, errno, loops that the verifier takes. Included by hook.h and op.h.
 *
 * With AIOURING_INLINE a program becomes a part of the process, without it one of the kernel. */
#ifndef AIOURING_COMMON_H
#define AIOURING_COMMON_H

#include "layout.h"

/* For what a program calls: the verifier sees it as a part of the program. */
#define AIOURING_CODE static inline __attribute__((always_inline, unused))

#define AIOURING_JOIN_(a, b) a##b
#define AIOURING_JOIN(a, b) AIOURING_JOIN_(a, b)

enum {
    AIOURING_ENOENT = 2,
    AIOURING_EINTR = 4,
    AIOURING_EIO = 5,
    AIOURING_EAGAIN = 11,
    AIOURING_ENOMEM = 12,
    AIOURING_EACCES = 13,
    AIOURING_EFAULT = 14,
    AIOURING_EINVAL = 22,
    AIOURING_ENOSPC = 28,
    AIOURING_EPIPE = 32,
    AIOURING_ERANGE = 34,
    AIOURING_ETIME = 62,
    AIOURING_ETIMEDOUT = 110,
    AIOURING_EALREADY = 114,
    AIOURING_ECANCELED = 125,
};

#ifdef AIOURING_INLINE

/* AIOURING_REPEAT(n) { ... } AIOURING_REPEAT_END: at most n times; `break` and `continue` work in it, `return` and `goto` out of it do not. */
#define AIOURING_REPEAT(n) for (aiouring_u32 aiouring_left = (n); aiouring_left--;)
#define AIOURING_REPEAT_END
/* The same with a number, from 0 to n - 1. In the kernel only this number is news to the verifier in each round: count with nothing else. */
#define AIOURING_EACH(index, n) for (aiouring_u64 index = 0, aiouring_end = (n); index < aiouring_end; index++)
#define AIOURING_EACH_END
/* Hides a value's origin from the optimizer; only the verifier needs it. */
#define AIOURING_OPAQUE(value) (void)0

#else

#define AIOURING_SECTION(name) __attribute__((section(name), used))
#define AIOURING_KFUNC __attribute__((section(".ksyms")))

struct bpf_iter_num {
    aiouring_u64 opaque[1];
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) AIOURING_KFUNC;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) AIOURING_KFUNC;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) AIOURING_KFUNC;

#define AIOURING_REPEAT(n)                                                                                                                    \
    {                                                                                                                                         \
        struct bpf_iter_num aiouring_iter;                                                                                                    \
        bpf_iter_num_new(&aiouring_iter, 0, (n));                                                                                             \
        while (bpf_iter_num_next(&aiouring_iter))
#define AIOURING_REPEAT_END                                                                                                                   \
    bpf_iter_num_destroy(&aiouring_iter);                                                                                                     \
    }
#define AIOURING_EACH(index, n)                                                                                                               \
    {                                                                                                                                         \
        struct bpf_iter_num aiouring_iter;                                                                                                    \
        int *aiouring_at;                                                                                                                     \
        aiouring_u64 index;                                                                                                                   \
        bpf_iter_num_new(&aiouring_iter, 0, (int)(n));                                                                                        \
        while ((aiouring_at = bpf_iter_num_next(&aiouring_iter)) && ((index = (aiouring_u32)*aiouring_at), 1))
#define AIOURING_EACH_END AIOURING_REPEAT_END
#define AIOURING_OPAQUE(value) __asm__ volatile("" : "+r"(value))

#endif
#endif
