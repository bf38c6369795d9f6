/* A loop hook that keeps a histogram of what sockets receive, without waking Python for it: how large are the pieces that my peers send?
 *
 * Build: python -m aiouring build-hook examples/receive_sizes/receive_sizes.bpf.c
 * Run:   python -m examples.receive_sizes
 *
 * Counter n counts receives of 2^n to 2^(n+1) - 1 bytes. Everything still goes to Python: the verdict is AIOURING_WAKE.
 */
#include <aiouring/hook.h>

static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    aiouring_u32 size = (aiouring_u32)cqe->res, bits = 0, step;

    /* Only receives have a buffer of the ring's. */
    if (cqe->res > 0 && cqe->flags & IORING_CQE_F_BUFFER) {
        for (step = 16; step; step >>= 1)
            if (size >> step) {
                size >>= step;
                bits += step;
            }
        aiouring_count(hook, bits, 1);
    }
    return AIOURING_WAKE;
}

AIOURING_HOOK(on_cqe)
