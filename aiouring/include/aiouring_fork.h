/* Knowing that this process is a forked child, and letting go of the parent's rings there. pthread_atfork sees every fork(), also those made
 * by C code that never tells Python.
 *
 * A ring's queues are shared memory, so a child that wrote to them would write to its parent's ring. And a ring lives as long as anybody has its
 * descriptor or its mappings: a child that kept them would keep the parent's ring, its requests and its registered files alive after the
 * parent has closed it, and a loop that moves to another thread would wait for an end that does not come.
 * Included by: _ring.pyx only.
 */
#ifndef AIOURING_FORK_H
#define AIOURING_FORK_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* What a child inherits of one ring. The list is changed under the GIL, and each step leaves it whole. */
struct aiouring_inherited {
    struct aiouring_inherited *next, **link;
    int *fd;
    void *queues, *sqes;
    size_t queues_bytes, sqes_bytes;
};

static uint32_t aiouring_fork_generation = 1;
static struct aiouring_inherited *aiouring_rings;

/* NULL: no memory. */
static struct aiouring_inherited *aiouring_note_ring(int *fd, void *queues, size_t queues_bytes, void *sqes, size_t sqes_bytes)
{
    struct aiouring_inherited *ring = malloc(sizeof(*ring));

    if (!ring)
        return NULL;
    *ring = (struct aiouring_inherited){aiouring_rings, &aiouring_rings, fd, queues, sqes, queues_bytes, sqes_bytes};
    if (ring->next)
        ring->next->link = &ring->next;
    aiouring_rings = ring;
    return ring;
}

static void aiouring_forget_ring(struct aiouring_inherited *ring)
{
    if (ring && ring->link) {
        *ring->link = ring->next;
        if (ring->next)
            ring->next->link = ring->link;
    }
    free(ring);
}

/* In the child, where no other thread runs. Private zeros take the place of the mappings: whoever looks at the queues finds them empty. */
static void aiouring_leave_rings(void)
{
    struct aiouring_inherited *ring;

    aiouring_fork_generation++;
    for (ring = aiouring_rings; ring; ring = ring->next) {
        ring->link = NULL;
        mmap(ring->queues, ring->queues_bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(ring->sqes, ring->sqes_bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        close(*ring->fd);
        *ring->fd = -1;
    }
    aiouring_rings = NULL;
}

static int aiouring_watch_forks(void) { return pthread_atfork(NULL, NULL, aiouring_leave_rings); }

#endif
