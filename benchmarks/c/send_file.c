/* Ways of sending a file to a stream socket, each as a server of that file: docs/performance.md ("Sending files") has the figures.
 *
 *     send_file PORT WAY FILE [PIECE_BYTES [BYTES]]  serves FILE to whoever sends anything (one packet is one request), by this way
 *     load PORT --http / --connections 50 --pid PID  is what loads it
 *
 * The ways: memory (read once, sent from memory), kept (one mapping for all), map (a mapping for each request), read (READ into one piece of memory,
 * SEND from it), two (the same with two pieces, which overlap), link (READ and SEND as one chain), splice (file to pipe, pipe to socket), and
 * sendfile (the system call, tried without waiting, then a poll request). With one request read, two, link and splice move PIECE_BYTES; pieces of
 * memory begin BYTES behind a page's beginning.
 */
#include "ring.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

enum { ACCEPT, RECV, HEAD, SEND, READ, IN, OUT, POLL }; /* the kind of a request, in the low bits of its user_data */
enum { CONNECTIONS_MAX = 20000 };

struct connection {
    int64_t sent, taken; /* of the file: that went out; that was read or went into the pipe */
    char *memory;        /* the pieces, or the mapping */
    int filled[2], offset, read_into, send_from, reading, sending, piped, pipe[2], queued;
};

static struct ring ring;
static struct buffers buffers;
static struct connection connections[CONNECTIONS_MAX];
static char *way, *whole, head[200];
static int file, head_size;
static int64_t size;
static uint32_t piece = 128 * 1024, misaligned;

static struct io_uring_sqe *begin(int kind, int fd, int op, int on, const void *addr, int64_t length) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = (uint8_t)op;
    sqe->fd = on;
    sqe->addr = (uint64_t)(uintptr_t)addr;
    sqe->len = (uint32_t)length;
    sqe->user_data = (uint64_t)fd << 3 | (uint64_t)kind;
    if (op == IORING_OP_SEND)
        sqe->op_flags = MSG_NOSIGNAL;
    return sqe;
}

static int is(const char *name) { return strcmp(way, name) == 0; }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static char *memory_for_pieces(int count) {
    char *memory = aligned_alloc(4096, (size_t)count * piece); /* see aiouring/_sendfile.pyx: 16 bytes further the copy costs eight times as much */
    if (!memory)
        die("memory for pieces");
    return memory + misaligned;
}

static void arm_recv(int fd) {
    struct io_uring_sqe *sqe = begin(RECV, fd, IORING_OP_RECV, fd, NULL, 0);
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->buf_index = buffers.group;
}

static void finished(int fd) {
    struct connection *c = &connections[fd];
    if (is("map"))
        munmap(c->memory, (size_t)size), c->memory = NULL;
    c->sent = c->taken = 0;
    if (c->queued) {
        c->queued--;
        begin(HEAD, fd, IORING_OP_SEND, fd, head, head_size);
    }
}

static void begin_read(int fd, int into) {
    struct connection *c = &connections[fd];
    begin(READ, fd, IORING_OP_READ, file, c->memory + (size_t)into * piece, least(piece, size - c->taken))->off = (uint64_t)c->taken;
    c->reading = 1;
}

/* Goes on with an answer whose head is out, whatever came. */
static void next(int fd) {
    struct connection *c = &connections[fd];
    int pieces = is("two") ? 2 : 1;
    if (c->sent == size && !c->reading && !c->sending)
        return finished(fd);
    if (is("memory") || is("kept") || is("map")) {
        if (!c->memory)
            c->memory = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, file, 0);
        begin(SEND, fd, IORING_OP_SEND, fd, (is("map") ? c->memory : whole) + c->sent, size - c->sent);
    } else if (is("read") || is("two")) {
        if (!c->memory)
            c->memory = memory_for_pieces(pieces + 1);
        if (!c->sending && c->filled[c->send_from]) {
            begin(SEND, fd, IORING_OP_SEND, fd, c->memory + (size_t)c->send_from * piece + c->offset, c->filled[c->send_from] - c->offset);
            c->sending = 1;
        }
        if (!c->reading && c->taken < size && !c->filled[c->read_into] && !(pieces == 1 && c->sending))
            begin_read(fd, c->read_into);
    } else if (is("link")) {
        if (!c->memory)
            c->memory = memory_for_pieces(2);
        if (c->filled[0]) {
            begin(SEND, fd, IORING_OP_SEND, fd, c->memory + c->offset, c->filled[0] - c->offset);
        } else {
            begin_read(fd, 0);
            ring.sqes[(ring.sq_local_tail - 1) & ring.sq_mask].flags = IOSQE_IO_LINK;
            begin(SEND, fd, IORING_OP_SEND, fd, c->memory, least(piece, size - c->taken));
        }
        c->sending = 1;
    } else if (is("splice")) {
        if (!c->pipe[1]) {
            if (pipe2(c->pipe, O_CLOEXEC))
                die("pipe2");
            fcntl(c->pipe[1], F_SETPIPE_SZ, (int)piece);
        }
        if (c->piped) {
            struct io_uring_sqe *sqe = begin(OUT, fd, IORING_OP_SPLICE, fd, NULL, c->piped);
            sqe->splice_fd_in = c->pipe[0];
            sqe->addr = ~0ULL;
            sqe->off = ~0ULL;
        } else {
            struct io_uring_sqe *sqe = begin(IN, fd, IORING_OP_SPLICE, c->pipe[1], NULL, least(piece, size - c->taken));
            sqe->splice_fd_in = file;
            sqe->addr = (uint64_t)c->taken;
            sqe->off = ~0ULL;
        }
    } else {
        off_t offset = c->sent;
        ssize_t n = sendfile(fd, file, &offset, (size_t)(size - c->sent));
        if (n > 0)
            c->sent += n;
        else if (n == 0 || errno != EAGAIN)
            die("sendfile");
        if (c->sent == size)
            return finished(fd);
        begin(POLL, fd, IORING_OP_POLL_ADD, fd, NULL, 0)->op_flags = POLLOUT;
    }
}

static void completed(int kind, int fd, int res, uint32_t flags, int listener) {
    struct connection *c = &connections[fd];
    int nonblock = is("sendfile") ? O_NONBLOCK : 0;
    if (kind == ACCEPT) {
        if (res < 0 || res >= CONNECTIONS_MAX)
            fail("accept failed, or too many connections");
        no_delay(res);
        fcntl(res, F_SETFL, nonblock);
        arm_recv(res);
        if (!(flags & IORING_CQE_F_MORE))
            begin(ACCEPT, 0, IORING_OP_ACCEPT, listener, NULL, 0)->ioprio = IORING_ACCEPT_MULTISHOT;
    } else if (kind == RECV) {
        if (flags & IORING_CQE_F_BUFFER) {
            buffers_give(&buffers, flags >> IORING_CQE_BUFFER_SHIFT);
            if (c->sent || c->taken || c->sending || c->reading)
                c->queued++;
            else
                begin(HEAD, fd, IORING_OP_SEND, fd, head, head_size);
        }
        if (!(flags & IORING_CQE_F_MORE) && (res > 0 || res == -ENOBUFS))
            arm_recv(fd);
    } else if (res < 0 && res != -EAGAIN) {
        exit(0); /* the load has gone */
    } else if (kind == HEAD || kind == POLL) {
        next(fd);
    } else if (kind == SEND) {
        c->sent += res;
        c->offset += res;
        c->sending = 0;
        if (c->offset == c->filled[c->send_from]) {
            c->filled[c->send_from] = c->offset = 0;
            if (is("two"))
                c->send_from ^= 1;
        }
        next(fd);
    } else if (kind == READ) {
        c->filled[c->read_into] = res;
        c->taken += res;
        c->reading = 0;
        if (is("two"))
            c->read_into ^= 1;
        if (!is("link"))
            next(fd);
    } else if (kind == IN) {
        c->piped += res;
        c->taken += res;
        next(fd);
    } else {
        c->piped -= res;
        c->sent += res;
        next(fd);
    }
}

int main(int argc, char **argv) {
    struct stat about;
    if (argc < 4)
        fail("usage: send_file PORT memory|kept|map|read|two|link|splice|sendfile FILE [PIECE_BYTES [BYTES]]");
    way = argv[2];
    file = open(argv[3], O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about))
        die(argv[3]);
    size = about.st_size;
    if (argc > 4)
        piece = (uint32_t)atoi(argv[4]);
    if (argc > 5)
        misaligned = (uint32_t)atoi(argv[5]); /* less than a page */
    whole = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, file, 0);
    if (is("memory")) {
        char *copy = malloc((size_t)size);
        memcpy(copy, whole, (size_t)size);
        whole = copy;
    }
    head_size = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)size);
    int listener = serve_at(argv[1], SOCK_STREAM);
    ring_open(&ring, 4096, 65536);
    buffers_open(&ring, &buffers, 1024, 4096, 0);
    begin(ACCEPT, 0, IORING_OP_ACCEPT, listener, NULL, 0)->ioprio = IORING_ACCEPT_MULTISHOT;
    for (;;) {
        ring_enter(&ring, 1, -1);
        uint32_t at = *ring.cq_head, tail = aiouring_load_acquire(ring.cq_tail);
        for (; at != tail; at++) {
            struct io_uring_cqe cqe = ring.cqes[at & ring.cq_mask];
            completed((int)(cqe.user_data & 7), (int)(cqe.user_data >> 3), cqe.res, cqe.flags, listener);
        }
        aiouring_store_release(ring.cq_head, tail);
        buffers_publish(&buffers);
    }
}
