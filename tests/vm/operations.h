/* What operations.c, which tries the kernel's side of BPF operations, has of rings and of the two engines. Every failure ends the program with a line
 * that says where and why. */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "op_abi.h"

/* Newer than the headers of the machine that compiles this, perhaps. */
#define NOP_INJECT_RESULT 1
#define COMMAND_FIXED 1
#define COMMAND_MULTISHOT 2

#define FAIL(...)                                                    \
	do {                                                         \
		fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);      \
		fprintf(stderr, __VA_ARGS__);                        \
		fprintf(stderr, " (errno %d)\n", errno);             \
		exit(1);                                             \
	} while (0)
#define EQUAL(got, want)                                                                                              \
	do {                                                                                                          \
		long long got_ = (long long)(got), want_ = (long long)(want);                                         \
		if (got_ != want_)                                                                                    \
			FAIL("%s is %lld, not %s = %lld", #got, got_, #want, want_);                                  \
	} while (0)
#define TRUE(condition)                                    \
	do {                                               \
		if (!(condition))                          \
			FAIL("not so: %s", #condition);    \
	} while (0)

enum engine { MODULE, OPCODE };
extern enum engine engine;
extern int opcode_number;

/* As in operations.bpf.c. */
struct counts {
	uint64_t prepared, issued, failed, cleaned, bad, steps;
	int64_t seen[8];
	uint64_t offset;
};

struct ops {
	unsigned short id;
	int ring_fd;
	void *functions[4], *priv;
};

struct hook {
	void *loop_step;
	unsigned ring_fd;
	void *priv;
};

/* The ring that the object's loop hook is for. */
extern int hook_ring;

struct ring {
	int fd;
	unsigned *sq_head, *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask, flags, queued;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	void *rings;
	size_t rings_bytes, sqes_bytes;
};

struct completion {
	uint64_t user_data;
	int32_t res;
};

void ring_open(struct ring *ring, unsigned entries, unsigned flags);
void ring_close(struct ring *ring);
struct io_uring_sqe *ring_sqe(struct ring *ring);
int ring_enter(struct ring *ring, unsigned submit, unsigned wait);
/* Submits what is queued. */
void ring_submit(struct ring *ring);
/* The next completion, waited for. */
struct completion ring_wait(struct ring *ring);
/* Whether there is one, without waiting. */
bool ring_peek(struct ring *ring, struct completion *completion);

/* A loaded object of operations; `target` is the device or the ring. */
struct loaded {
	struct bpf_object *object;
	struct counts *counts;
};

/* Leaves out all operations but one, where loading itself is what is tried. */
extern bool only_echo;

int device_open(void);
void load(struct loaded *loaded, int target);
/* The ids of the operations, in the order in which operations.bpf.c has them. */
enum { ECHO = 0, RETURNS, REFUSES, COPY, RANGE, SLOW, LOOK, OPERATIONS };
struct bpf_link *attach(struct loaded *loaded, int operation);
struct bpf_link *try_attach(struct loaded *loaded, int operation);
int operation_id(int operation);
void unload(struct loaded *loaded);
void zero_counts(struct loaded *loaded);

/* A ring, its device where there is one, and all operations attached. */
struct world {
	struct ring ring;
	int device;
	struct loaded loaded;
	struct bpf_link *links[OPERATIONS];
};

void world_open(struct world *world, unsigned ring_flags);
void world_close(struct world *world);
/* An SQE for one operation on the world's ring; the request is the caller's until its completion. */
struct io_uring_sqe *operate(struct ring *ring, int device, int operation, struct uring_bpf_request *request);
/* The same for a request that may lie anywhere. */
struct io_uring_sqe *operate_at(struct ring *ring, int device, int operation, uint64_t address);
int32_t run(struct world *world, int operation, struct uring_bpf_request *request);

/* Tests in operations_others.c. */
void table_of_another(void);
void ring_of_another(void);
void link_of_a_closed_ring(void);
void without_a_link(void);
void cancelled_is_never_begun(void);

#endif
