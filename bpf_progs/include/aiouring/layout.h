/* What a hook program and the loop share: the MEM region's layout, the meaning of user_data, tasks.
 *
 * Included by hook.h (which hook programs are written against) and by the extension (aiouring/_hook.pxd). Plain C with no other header, so that
 * clang compiles it for BPF without a libc. Sizes and offsets are the same on both sides; the assertions at the end pin them.
 */
#ifndef AIOURING_LAYOUT_H
#define AIOURING_LAYOUT_H

typedef unsigned char aiouring_u8;
typedef unsigned short aiouring_u16;
typedef unsigned int aiouring_u32;
typedef unsigned long long aiouring_u64;
typedef int aiouring_s32;
typedef long long aiouring_s64;

/* Changes with any change of this file. A program built against another one is refused. */
#define AIOURING_HOOK_ABI 3

/* The region, from its beginning. */
#define AIOURING_CONTROL_BYTES 4096
#define AIOURING_MAIL_OFFSET AIOURING_CONTROL_BYTES
#define AIOURING_MAIL_ENTRIES 8192 /* a power of two */
#define AIOURING_TASKS_OFFSET (AIOURING_MAIL_OFFSET + AIOURING_MAIL_ENTRIES * 16)
#define AIOURING_TASKS_MAX 1024 /* a power of two */
#define AIOURING_TASK_BYTES 512
#define AIOURING_WATCH_MAP_OFFSET (AIOURING_TASKS_OFFSET + AIOURING_TASKS_MAX * AIOURING_TASK_BYTES)
#define AIOURING_WATCH_MAP_ENTRIES 4096 /* a power of two */
#define AIOURING_WATCHES_OFFSET (AIOURING_WATCH_MAP_OFFSET + AIOURING_WATCH_MAP_ENTRIES * 2)
#define AIOURING_WATCHES_MAX 1024 /* a power of two */
#define AIOURING_WATCH_BYTES 256
#define AIOURING_CHAINS_OFFSET (AIOURING_WATCHES_OFFSET + AIOURING_WATCHES_MAX * AIOURING_WATCH_BYTES)
#define AIOURING_CHAINS_MAX 256 /* a power of two */
#define AIOURING_CHAIN_BYTES 2816
#define AIOURING_CHAIN_LINKS_MAX 16 /* a power of two */
#define AIOURING_USER_OFFSET (AIOURING_CHAINS_OFFSET + AIOURING_CHAINS_MAX * AIOURING_CHAIN_BYTES)

/* A region of AIOURING_BIG_REGION_BYTES or more ends with canned answers, the ring of provided buffers of watched connections, and those buffers. */
#define AIOURING_BIG_REGION_BYTES (5 * 1024 * 1024)
#define AIOURING_BUFFERS 512 /* a power of two */
#define AIOURING_BUFFER_BYTES 4096
#define AIOURING_ANSWERS_MAX 64 /* a power of two */
#define AIOURING_ANSWER_BYTES 4608
#define AIOURING_BUFFERS_END_BYTES (AIOURING_BUFFERS * (AIOURING_BUFFER_BYTES + 16))
#define AIOURING_END_BYTES (AIOURING_BUFFERS_END_BYTES + AIOURING_ANSWERS_MAX * AIOURING_ANSWER_BYTES)

/* user_data: bits 56-63 the namespace. 0 is the loop's: such a completion goes to Python. The rest of a hook's is its own; what ships here uses
 * bits 48-55 for the operation, 32-47 for which of several, 0-31 for the task. */
#define AIOURING_NS_LOOP 0
#define AIOURING_NS_DRIVER 1
#define AIOURING_NS_TASK 2
#define AIOURING_NS_ANSWER 3
#define AIOURING_NS_CHAIN 4
#define AIOURING_NS_USER 16 /* the first that is left to programs of others */

#define AIOURING_COUNTERS 64

/* What ended a wait: bits of aiouring_control.woken. */
#define AIOURING_WOKEN_VERDICT 1
#define AIOURING_WOKEN_DEADLINE 2
#define AIOURING_WOKEN_MAIL_FULL 4

/* aiouring_control.fault */
#define AIOURING_FAULT_VERDICT 1 /* a program returned something that is no verdict */

struct aiouring_control {
    aiouring_u32 abi;
    /* Written by the loop before each enter. */
    aiouring_u32 phase;          /* 0; the program counts its steps here */
    aiouring_u32 wait;           /* 0: look and return; 1: until something wakes */
    aiouring_u32 closing;        /* the loop closes: begin nothing new */
    aiouring_u64 deadline_ns;    /* on CLOCK_MONOTONIC; 0: none */
    aiouring_u64 region_address; /* where the region is in the process */
    /* The mailbox: completions for Python, in order. Indices run on and wrap. */
    aiouring_u32 mail_head; /* the loop's */
    aiouring_u32 mail_tail; /* the program's */
    /* How it went. */
    aiouring_u32 woken;
    aiouring_u32 fault;
    aiouring_s32 fault_value;
    aiouring_u32 tasks_live; /* and chains */
    /* The kernel engine's timer, at most one in flight. */
    aiouring_u64 timer_deadline_ns; /* 0: none in flight */
    aiouring_s64 timer_s, timer_ns; /* a __kernel_timespec */
    /* What is held wakes at this time at the latest; 0: there is no such time. Each enter begins with 0. */
    aiouring_u64 hold_until_ns;
    aiouring_u32 held_buffers;       /* of watched connections, in the mailbox */
    aiouring_u32 answers_in_flight;
    aiouring_u64 answered, passed_on; /* requests of connections with canned answers */
    /* Counts since the region was made. */
    aiouring_u64 steps, cqes, consumed, held, woke, submitted;
    aiouring_u64 counters[AIOURING_COUNTERS]; /* the program's own, see aiouring_count() */
};

/* Where things are in the ring's memory, from io_uring_params. */
struct aiouring_layout {
    aiouring_u32 abi;
    aiouring_u32 rings_bytes, sqes_bytes, region_bytes;
    aiouring_u32 sq_head, sq_tail, sq_entries;
    aiouring_u32 cq_head, cq_tail, cqes, cq_entries;
    aiouring_u32 reserved;
};

/* A task: a small state machine in the hook that Python starts and awaits. See tasks.h. */
enum aiouring_task_kind {
    AIOURING_TASK_NONE,
    AIOURING_TASK_ECHO,
    AIOURING_TASK_DISCARD,
    AIOURING_TASK_RELAY,
    AIOURING_TASK_COPY,
    AIOURING_TASK_SEND_FILE,
};

#define AIOURING_TASK_CANCELLED 1
#define AIOURING_TASK_ENDING 2
#define AIOURING_TASK_TIMER 4 /* a TIMEOUT is in flight */

/* aiouring_task.finished of a copy or a file that is sent: the error is the source's. */
#define AIOURING_TASK_READ_FAILED 2

#define AIOURING_BLOCKS_MAX 8

/* A receiving side of a socket task, or a block of a copy. */
struct aiouring_block {
    aiouring_u64 address; /* of its memory in the process */
    aiouring_u64 offset;  /* in the file */
    aiouring_u32 size;    /* of its memory, in bytes */
    aiouring_u32 wanted, filled, done;
    aiouring_u32 in_flight; /* the operation, 0: none */
    aiouring_s32 fd_in, fd_out;
};

struct aiouring_task {
    aiouring_u64 owner; /* the user_data of the completion that tells Python */
    aiouring_u32 kind, flags;
    aiouring_u32 in_flight; /* completions that are still owed */
    aiouring_s32 error;     /* -errno, the first one */
    aiouring_u32 blocks;    /* in use */
    aiouring_u32 finished;  /* directions that are over, or the file has no more */
    aiouring_u64 next_offset, end_offset;
    aiouring_s64 shift; /* from an offset in the source to one in the target */
    aiouring_u64 idle_ns, last_ns;
    aiouring_s64 timer_s, timer_ns;
    aiouring_u64 bytes[2], messages[2];
    struct aiouring_block block[AIOURING_BLOCKS_MAX];
};

/* A chain: requests one after another, of which each may take the result of an earlier one as its length or its offset. See chain.h. */
#define AIOURING_CHAIN_ENDING 1    /* begin no other link */
#define AIOURING_CHAIN_CANCELLED 2
#define AIOURING_CHAIN_FLYING 4    /* the request of link `at` is in flight */

#define AIOURING_LINK_HARD 1  /* what comes after it runs also when it fails */
#define AIOURING_LINK_SHORT 2 /* less than all its bytes is a failure */
#define AIOURING_LINK_TIMER 4 /* -ETIME is what it is for */
#define AIOURING_LINK_WHOLE 8 /* it goes on after what `base` says, until it has all */
#define AIOURING_LINK_ENDED 16
#define AIOURING_LINK_FAILED 32   /* `result` is -errno, and no number of an operation */
#define AIOURING_LINK_ANSWERED 64 /* Python has put its result there */

/* aiouring_link.action: who does it */
enum aiouring_link_action {
    AIOURING_LINK_REQUEST,   /* the kernel, as the request says */
    AIOURING_LINK_OPERATION, /* the same: a BPF operation, whose uring_bpf_request is here */
    AIOURING_LINK_INLINE,    /* the inline engine, which calls the function that sqe[0] is the address of */
    AIOURING_LINK_PYTHON,    /* Python, which cancels the request when it is through: one that only waits */
};

struct aiouring_link {
    aiouring_u64 sqe[8];       /* the request; its user_data is the program's to set */
    aiouring_u64 operation[6]; /* struct uring_bpf_request */
    aiouring_s64 result;       /* or -errno, when it has ended */
    aiouring_s64 length_add, offset_add;
    aiouring_u32 base;         /* bytes that are in its buffer already, before the request */
    aiouring_u32 wanted;       /* bytes */
    aiouring_u32 limit;        /* of its buffer, in bytes: no length that is carried may be more */
    aiouring_u8 flags, action;
    aiouring_u8 length_from, offset_from; /* the link whose result they are, + 1; 0: they are in the request */
    aiouring_s32 error;        /* -errno: it fails with this instead of being submitted */
    aiouring_u32 reserved;
};

struct aiouring_chain {
    aiouring_u64 owner; /* the user_data of the completions that tell Python */
    aiouring_u32 live;
    aiouring_u32 flags;
    aiouring_u32 in_flight; /* completions that are still owed */
    aiouring_u32 links;
    aiouring_u32 at;     /* the link that was begun last */
    aiouring_u32 begun;  /* how many were */
    aiouring_u32 failed; /* the link that ended the chain, + 1; 0: none */
    aiouring_s32 error;  /* -errno of what ended it, where that was no link */
    aiouring_u64 reserved[2];
    struct aiouring_link link[AIOURING_CHAIN_LINKS_MAX];
};

/* A connection whose receives the program looks into, so that Python wakes for whole frames, or not at all for what has a canned answer. The receive's
 * user_data is the loop's own; the map has the watch's index + 1 at the place of the lower bits of user_data. See frames.h and respond.h. */
enum aiouring_watch_kind {
    AIOURING_WATCH_NONE,
    AIOURING_WATCH_PREFIXED,  /* frames that begin with their length */
    AIOURING_WATCH_DELIMITED, /* frames that end with a delimiter */
    AIOURING_WATCH_RESPOND,
};

struct aiouring_watch {
    aiouring_u64 owner;   /* user_data of the receive, 0: none */
    aiouring_u32 kind;
    aiouring_u32 waiting; /* completions of it that Python has not handled */
    /* Frames: what was asked for. */
    aiouring_u32 max_batch;
    aiouring_u32 size;    /* of the prefix or the delimiter, in bytes */
    aiouring_u64 max_delay_ns, max_frame;
    aiouring_u64 delimiter; /* as a number, its last byte lowest */
    aiouring_u32 little_endian;
    /* Frames: where the stream is. */
    aiouring_u32 frames;  /* whole ones that Python has not seen */
    aiouring_u64 missing; /* prefixed: bytes of the present frame that are to come */
    aiouring_u64 value;   /* prefixed: the length so far; delimited: the last eight bytes */
    aiouring_u32 filled;  /* prefixed: bytes of the length so far */
    /* Canned answers: those that the connection has. */
    aiouring_u32 answers, first_answer;
    aiouring_u64 length;  /* delimited: bytes since the last frame */
    aiouring_u64 scratch; /* for the verifier, see AIOURING_FORGET */
    aiouring_s32 fd;
    aiouring_u32 of_python; /* something was passed on, or written by Python: the order is Python's */
    aiouring_u32 busy;      /* Python's side has bytes on their way */
    aiouring_u32 sending;   /* an answer is on its way: which one, + 1 */
    aiouring_u32 rest;      /* one that did not go out whole, + 1; 0: none */
    aiouring_s32 rest_from; /* how much of it did, or -errno */
};

struct aiouring_buffer {
    aiouring_u8 bytes[AIOURING_BUFFER_BYTES];
};

#define AIOURING_ANSWER_PREFIX_MAX 256
#define AIOURING_ANSWER_BODY_MAX 4096

struct aiouring_answer {
    aiouring_u32 prefix_bytes, body_bytes;
    aiouring_u8 prefix[AIOURING_ANSWER_PREFIX_MAX];
    aiouring_u8 body[AIOURING_ANSWER_BODY_MAX];
};

_Static_assert(sizeof(struct aiouring_watch) <= AIOURING_WATCH_BYTES, "a watch has its slot");
_Static_assert(sizeof(struct aiouring_answer) <= AIOURING_ANSWER_BYTES, "an answer has its slot");
_Static_assert(AIOURING_BIG_REGION_BYTES >= AIOURING_USER_OFFSET + AIOURING_END_BYTES, "the parts of a region do not overlap");
_Static_assert(sizeof(struct aiouring_control) <= AIOURING_CONTROL_BYTES, "the control block has a page");
_Static_assert(sizeof(struct aiouring_task) <= AIOURING_TASK_BYTES, "a task has its slot");
_Static_assert(sizeof(struct aiouring_chain) <= AIOURING_CHAIN_BYTES, "a chain has its slot");
_Static_assert(AIOURING_USER_OFFSET % 4096 == 0, "a hook's memory is whole pages");
_Static_assert(sizeof(struct aiouring_link) == 160, "no holes");
_Static_assert(sizeof(struct aiouring_block) == 48, "no holes but the last four bytes");

#endif
