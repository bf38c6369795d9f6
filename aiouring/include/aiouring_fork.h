/* Knowing that this process is a forked child. A ring's queues are shared memory, so a child that wrote to them would write to its
 * parent's ring. pthread_atfork sees every fork(), also those made by C code that never tells Python.
 * Included by: _ring.pyx only.
 */
#ifndef AIOURING_FORK_H
#define AIOURING_FORK_H

#include <pthread.h>
#include <stdint.h>

static uint32_t aiouring_fork_generation = 1;

static void aiouring_count_fork(void) { aiouring_fork_generation++; }

static int aiouring_watch_forks(void) { return pthread_atfork(NULL, NULL, aiouring_count_fork); }

#endif
