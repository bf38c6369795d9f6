/* The floor of UDP echo: the least that an io_uring server can do, without Python.
 *
 * Started by benchmarks/measure.py as `floor_datagram PORT [BUFFER_SIZE [BUFFER_COUNT]]`. One multishot receive into provided buffers, one
 * enter a batch; each datagram is sent back from the buffer into which it came, to the address that the kernel put before it.
 */
#include "ring.h"

enum { RECV = 1ULL << 32 }; /* the receive's user_data; a send's is its buffer's number */

static struct ring ring;
static struct buffers buffers;
static struct msghdr receive = {.msg_namelen = sizeof(struct sockaddr_in)};
static struct reply {
    struct msghdr message;
    struct iovec piece;
} *replies; /* by buffer */
static int fd, starved;
static uint32_t free_buffers;

static void arm_recv(void) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_RECVMSG;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->fd = fd;
    sqe->addr = (uint64_t)(uintptr_t)&receive;
    sqe->len = 1;
    sqe->buf_index = buffers.group;
    sqe->user_data = RECV;
}

static void received(int res, uint32_t flags) {
    if (flags & IORING_CQE_F_BUFFER) {
        uint32_t id = flags >> IORING_CQE_BUFFER_SHIFT;
        struct io_uring_recvmsg_out *out = (struct io_uring_recvmsg_out *)(void *)buffers_at(&buffers, id);
        struct reply *reply = &replies[id];
        if (out->flags & MSG_TRUNC)
            fail("a datagram is larger than the buffers");
        reply->piece = (struct iovec){(char *)(out + 1) + receive.msg_namelen, out->payloadlen};
        reply->message = (struct msghdr){.msg_name = out + 1, .msg_namelen = out->namelen, .msg_iov = &reply->piece, .msg_iovlen = 1};
        struct io_uring_sqe *sqe = ring_sqe(&ring);
        sqe->opcode = IORING_OP_SENDMSG;
        sqe->fd = fd;
        sqe->addr = (uint64_t)(uintptr_t)&reply->message;
        sqe->len = 1;
        sqe->user_data = id;
        free_buffers--;
    } else if (res < 0 && res != -ENOBUFS) {
        errno = -res;
        die("recvmsg");
    }
    if (!(flags & IORING_CQE_F_MORE))
        starved = 1;
}

int main(int argc, char **argv) {
    if (argc < 2)
        fail("usage: floor_datagram PORT [BUFFER_SIZE [BUFFER_COUNT]]");
    uint32_t size = argc > 2 ? (uint32_t)atoi(argv[2]) : 2048;
    uint32_t count = argc > 3 ? (uint32_t)atoi(argv[3]) : 1024; /* a power of two */
    fd = serve_at(argv[1], SOCK_DGRAM);
    ring_open(&ring, 4096, 16384);
    buffers_open(&ring, &buffers, count, size, 0);
    replies = calloc(count, sizeof *replies);
    free_buffers = count;
    arm_recv();
    for (;;) {
        ring_enter(&ring, 1, -1);
        uint32_t head = *ring.cq_head, tail = aiouring_load_acquire(ring.cq_tail);
        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
            if (cqe->user_data == RECV) {
                received(cqe->res, cqe->flags);
            } else {
                buffers_give(&buffers, (uint32_t)cqe->user_data);
                free_buffers++;
            }
        }
        aiouring_store_release(ring.cq_head, head);
        buffers_publish(&buffers);
        if (starved && free_buffers) {
            starved = 0;
            arm_recv();
        }
    }
}
