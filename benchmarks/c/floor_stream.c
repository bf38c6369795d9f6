/* The floor of stream echo: the least that an io_uring server can do, without Python. TCP and unix sockets.
 *
 * Started by benchmarks/contestants.py as `floor_stream ADDRESS [BUFFER_SIZE [BUFFER_COUNT]]`. Multishot accept, multishot receive into provided buffers,
 * one enter a batch; what came is sent from the very buffer into which it came, and the buffer goes back when the send is done.
 */
#include "ring.h"

enum { ACCEPT, RECV, SEND }; /* the kind of a request, in the low bits of its user_data; the connection's index is above */
enum { NO_BUFFER = 0xffffffff, PIECES_MAX = 64, CONNECTIONS_MAX = 20000 };

struct connection {
    int open, receiving, sending, starved; /* `sending` counts the buffers of the send in flight */
    uint32_t first, last;                  /* the received buffers that are not sent yet, in order; those in flight come first */
    struct iovec pieces[PIECES_MAX];
    struct msghdr message;
};

static struct ring ring;
static struct buffers buffers;
static struct connection **connections;
static uint32_t *next_of, *length_of; /* by buffer: the next one of its connection, and its bytes */
static int *starved, starved_count; /* connections whose receive found no buffer, in order */
static uint32_t free_buffers;

static void arm_accept(int listener) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_ACCEPT;
    sqe->fd = listener;
    sqe->ioprio = IORING_ACCEPT_MULTISHOT;
    sqe->user_data = ACCEPT;
}

static void arm_recv(int fd) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_RECV;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->fd = fd;
    sqe->buf_index = buffers.group;
    sqe->user_data = (uint64_t)fd << 2 | RECV;
    connections[fd]->receiving = 1;
}

static void arm_send(int fd) {
    struct connection *c = connections[fd];
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    int count = 0;
    for (uint32_t id = c->first; id != NO_BUFFER && count < PIECES_MAX; id = next_of[id], count++) {
        c->pieces[count].iov_base = buffers_at(&buffers, id);
        c->pieces[count].iov_len = length_of[id];
    }
    c->sending = count;
    sqe->fd = fd;
    sqe->op_flags = MSG_WAITALL | MSG_NOSIGNAL; /* the kernel goes on with a short send by itself */
    sqe->user_data = (uint64_t)fd << 2 | SEND;
    if (count == 1) {
        sqe->opcode = IORING_OP_SEND;
        sqe->addr = (uint64_t)(uintptr_t)c->pieces[0].iov_base;
        sqe->len = (uint32_t)c->pieces[0].iov_len;
    } else {
        sqe->opcode = IORING_OP_SENDMSG;
        c->message = (struct msghdr){.msg_iov = c->pieces, .msg_iovlen = (size_t)count};
        sqe->addr = (uint64_t)(uintptr_t)&c->message;
        sqe->len = 1;
    }
}

static void drop_first(struct connection *c) {
    uint32_t id = c->first;
    c->first = next_of[id];
    buffers_give(&buffers, id);
    free_buffers++;
}

static void end_when_idle(int fd) {
    struct connection *c = connections[fd];
    if (c->open || c->receiving || c->sending || c->starved)
        return;
    while (c->first != NO_BUFFER)
        drop_first(c);
    close(fd);
}

static void accepted(int listener, int res, uint32_t flags) {
    if (!(flags & IORING_CQE_F_MORE))
        arm_accept(listener);
    if (res < 0)
        return;
    if (res >= CONNECTIONS_MAX)
        fail("too many connections");
    no_delay(res);
    if (!connections[res])
        connections[res] = malloc(sizeof(struct connection));
    struct connection *c = connections[res];
    c->open = 1;
    c->receiving = c->sending = c->starved = 0;
    c->first = c->last = NO_BUFFER;
    arm_recv(res);
}

static void received(int fd, int res, uint32_t flags) {
    struct connection *c = connections[fd];
    if (!(flags & IORING_CQE_F_MORE))
        c->receiving = 0;
    if (res > 0) {
        uint32_t id = flags >> IORING_CQE_BUFFER_SHIFT;
        free_buffers--;
        length_of[id] = (uint32_t)res;
        next_of[id] = NO_BUFFER;
        if (c->first == NO_BUFFER)
            c->first = id;
        else
            next_of[c->last] = id;
        c->last = id;
        if (!c->sending && c->open)
            arm_send(fd);
        if (!c->receiving && c->open)
            arm_recv(fd);
    } else if (res == -ENOBUFS && c->open) {
        starved[starved_count++] = fd;
        c->starved = 1;
    } else if (c->first != NO_BUFFER && res == 0) {
        c->open = 0; /* the peer is done; what is queued still goes out */
    } else {
        c->open = 0;
        end_when_idle(fd);
    }
}

static void sent(int fd, int res) {
    struct connection *c = connections[fd];
    for (; c->sending; c->sending--)
        drop_first(c);
    if (res < 0)
        c->open = 0;
    else if (c->first != NO_BUFFER) {
        arm_send(fd);
        return;
    }
    if (!c->open && c->receiving)
        shutdown(fd, SHUT_RDWR); /* ends the receive too */
    end_when_idle(fd);
}

/* Those that ran dry try again, in order, as many as there are buffers: a retry that must fail would be a busy loop. */
static void rearm_starved(void) {
    uint32_t count = (uint32_t)starved_count < free_buffers ? (uint32_t)starved_count : free_buffers;
    for (uint32_t i = 0; i < count; i++) {
        struct connection *c = connections[starved[i]];
        c->starved = 0;
        if (c->open)
            arm_recv(starved[i]);
        else
            end_when_idle(starved[i]);
    }
    starved_count -= (int)count;
    memmove(starved, starved + count, (size_t)starved_count * sizeof *starved);
}

int main(int argc, char **argv) {
    if (argc < 2)
        fail("usage: floor_stream PORT|unix:PATH [BUFFER_SIZE [BUFFER_COUNT]]");
    uint32_t size = argc > 2 ? (uint32_t)atoi(argv[2]) : 16384;
    uint32_t count = argc > 3 ? (uint32_t)atoi(argv[3]) : 1024; /* a power of two */
    int listener = serve_at(argv[1], SOCK_STREAM);
    ring_open(&ring, 4096, 65536);
    buffers_open(&ring, &buffers, count, size, 0);
    connections = calloc(CONNECTIONS_MAX, sizeof *connections);
    starved = calloc(CONNECTIONS_MAX, sizeof *starved);
    next_of = calloc(count, sizeof *next_of);
    length_of = calloc(count, sizeof *length_of);
    free_buffers = count;
    arm_accept(listener);
    for (;;) {
        ring_enter(&ring, 1, -1);
        uint32_t head = *ring.cq_head, tail = aiouring_load_acquire(ring.cq_tail);
        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
            int fd = (int)(cqe->user_data >> 2);
            switch (cqe->user_data & 3) {
            case ACCEPT: accepted(listener, cqe->res, cqe->flags); break;
            case RECV: received(fd, cqe->res, cqe->flags); break;
            case SEND: sent(fd, cqe->res); break;
            }
        }
        aiouring_store_release(ring.cq_head, head);
        buffers_publish(&buffers);
        rearm_starved();
    }
}
