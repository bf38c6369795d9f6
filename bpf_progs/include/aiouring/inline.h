/* The inline engine's side of a hook program: what the extension hands to it, and what it looks for in a shared library.
 * Included by hook.h (with AIOURING_INLINE) and by aiouring/_hook.pxd. */
#ifndef AIOURING_INLINE_H
#define AIOURING_INLINE_H

#include "layout.h"

struct io_uring_sqe;

struct aiouring_hook {
    aiouring_u8 *memory; /* the MEM region */
    aiouring_u8 *rings;
    struct io_uring_sqe *sqes;
    const struct aiouring_layout *layout;
    aiouring_u32 sq_tail; /* filled; the engine publishes it with the next enter */
    void *engine;
    /* Submit what is queued now, to make room. It keeps sq_tail as it is. 0, or -errno. */
    int (*submit)(struct aiouring_hook *hook);
};

struct aiouring_inline_program {
    aiouring_u32 abi;
    void (*step)(struct aiouring_hook *hook);
};

#endif
