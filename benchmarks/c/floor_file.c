/* The floor of the file rows: reads of a cached file at random offsets on io_uring, a fixed number at a time; or reads or writes one after another.
 *
 * Started by benchmarks/measure.py as `floor_file PATH [--size BYTES] [--depth N] [--way random|read|write] [--warmup S] [--seconds S]`; prints its
 * window as the load programs do. Writes go over PATH.written. The descriptor is opened once and registered with nothing: what a loop could do at
 * best for a file that a user opened.
 */
#include "measure.h"
#include "ring.h"

#include <fcntl.h>
#include <sys/stat.h>

static struct ring ring;
static int fd;
static uint32_t size = 4096, depth = 1;
static uint64_t pieces, next_piece, state = 88172645463325252ULL;
static enum { RANDOM, READ, WRITE } way;
static char *memory;
static int64_t *begin_ns;

static void arm(uint32_t index, int64_t now) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17; /* xorshift: as random as it need be */
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = way == WRITE ? IORING_OP_WRITE : IORING_OP_READ;
    sqe->fd = fd;
    sqe->off = (way == RANDOM ? state : next_piece++) % pieces * size;
    sqe->addr = (uint64_t)(uintptr_t)(memory + (size_t)index * size);
    sqe->len = size;
    sqe->user_data = index;
    begin_ns[index] = now;
}

int main(int argc, char **argv) {
    struct window window = {.warmup_ns = 200000000, .length_ns = 1000000000};
    struct stat about;
    if (argc < 2)
        fail("usage: floor_file PATH [options]; the head of floor_file.c lists them");
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--size") == 0)
            size = (uint32_t)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--depth") == 0)
            depth = (uint32_t)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--way") == 0)
            way = strcmp(argv[i + 1], "read") == 0 ? READ : strcmp(argv[i + 1], "write") == 0 ? WRITE : RANDOM;
        else if (!window_option(&window, argv[i], argv[i + 1]))
            fail("an unknown option; the head of floor_file.c lists them");
    }
    char written[4096];
    snprintf(written, sizeof written, "%s.written", argv[1]);
    fd = way == WRITE ? open(written, O_WRONLY | O_CLOEXEC) : open(argv[1], O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about))
        die(way == WRITE ? written : argv[1]);
    pieces = (uint64_t)about.st_size / size;
    if (!pieces)
        fail("the file is smaller than one read");
    ring_open(&ring, 256, 1024);
    /* malloc would begin 16 bytes behind a page's beginning, where the kernel's copy costs up to eight times as much: see aiouring/_sendfile.pyx. */
    memory = aligned_alloc(4096, (size_t)depth * size);
    begin_ns = calloc(depth, sizeof *begin_ns);
    int64_t now = now_ns();
    for (uint32_t i = 0; i < depth; i++)
        arm(i, now);
    window_start_warmup(&window);
    for (;;) {
        ring_enter(&ring, 1, -1);
        now = now_ns();
        if (window_over(&window, now))
            break;
        uint32_t head = *ring.cq_head, tail = aiouring_load_acquire(ring.cq_tail);
        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
            if (cqe->res != (int)size)
                fail("a read or write moved less than it should");
            window_latency(&window, now - begin_ns[cqe->user_data]);
            window.messages++;
            arm((uint32_t)cqe->user_data, now);
        }
        aiouring_store_release(ring.cq_head, head);
    }
    window_print(&window, 0);
    return 0;
}
