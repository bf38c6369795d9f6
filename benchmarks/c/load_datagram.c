/* The load of datagram servers: UDP echo.
 *
 * Started by benchmarks/measure.py as
 *     load_datagram PORT [--size BYTES] [--connections N] [--warmup S] [--seconds S] [--pid PID]...
 * A closed loop over N connected sockets, each with one datagram in flight. A datagram that brought no answer for a while is sent again and
 * counted as lost; the answer is known by the number in its first bytes, so that a late one is not taken for the next.
 */
#include "measure.h"
#include "ring.h"

enum { LOST_AFTER_NS = 200000000, SIZE_MAX_BYTES = 65000 };
enum { RECV, SEND };

struct endpoint {
    int fd;
    int64_t sent_ns;
    uint64_t number; /* of the datagram in flight */
    char *out, *in;
};

static struct ring ring;
static struct window window;
static struct endpoint *endpoints;
static size_t size = 1024;
static int count = 1;

static void arm_recv(uint32_t index) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_RECV;
    sqe->fd = endpoints[index].fd;
    sqe->addr = (uint64_t)(uintptr_t)endpoints[index].in;
    sqe->len = (uint32_t)size;
    sqe->user_data = (uint64_t)index << 1 | RECV;
}

static void arm_send(uint32_t index, int64_t now) {
    struct endpoint *e = &endpoints[index];
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    memcpy(e->out, &e->number, sizeof e->number);
    sqe->opcode = IORING_OP_SEND;
    sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    sqe->fd = e->fd;
    sqe->addr = (uint64_t)(uintptr_t)e->out;
    sqe->len = (uint32_t)size;
    sqe->user_data = (uint64_t)index << 1 | SEND;
    e->sent_ns = now;
}

static void received(uint32_t index, int res, int64_t now) {
    struct endpoint *e = &endpoints[index];
    if (res < 0) {
        errno = -res;
        die("recv");
    }
    arm_recv(index);
    if (res != (int)size || memcmp(e->in + sizeof e->number, e->out + sizeof e->number, size - sizeof e->number) != 0)
        fail("an answer is not what the server was sent");
    if (memcmp(e->in, &e->number, sizeof e->number) != 0)
        return; /* the answer to a datagram that was given up */
    window_latency(&window, now - e->sent_ns);
    window.messages++;
    e->number++;
    arm_send(index, now);
}

static void send_lost_again(int64_t now) {
    for (uint32_t i = 0; i < (uint32_t)count; i++)
        if (now - endpoints[i].sent_ns > LOST_AFTER_NS) {
            window.lost++;
            endpoints[i].number++;
            arm_send(i, now);
        }
}

int main(int argc, char **argv) {
    window_arguments(&window, argc, argv, "load_datagram", &size, &count);
    if (size < sizeof(uint64_t) || size > SIZE_MAX_BYTES)
        fail("--size is 8 to 65000");
    union address address;
    socklen_t length = parse_address(argv[1], &address);
    endpoints = calloc((size_t)count, sizeof *endpoints);
    ring_open(&ring, 4096, 16384);
    int64_t now = now_ns(), checked_ns = now, give_up_ns = now + 10000000000;
    for (uint32_t i = 0; i < (uint32_t)count; i++) {
        struct endpoint *e = &endpoints[i];
        e->fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (e->fd < 0 || connect(e->fd, &address.any, length))
            die("a socket that is connected to the server");
        e->out = malloc(size);
        e->in = malloc(size);
        for (size_t k = 0; k < size; k++)
            e->out[k] = (char)('a' + (k * 7 + i) % 26);
        arm_recv(i);
        arm_send(i, now);
    }
    window_start_warmup(&window);
    for (;;) {
        ring_enter(&ring, 1, 100000000);
        now = now_ns();
        if (window_over(&window, now))
            break;
        uint32_t head = *ring.cq_head, tail = aiouring_load_acquire(ring.cq_tail);
        if (head != tail)
            give_up_ns = now + 10000000000;
        else if (now > give_up_ns)
            fail("no answer for 10 s");
        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
            if ((cqe->user_data & 1) == RECV)
                received((uint32_t)(cqe->user_data >> 1), cqe->res, now);
            else if (cqe->res < 0 && (errno = -cqe->res))
                die("send");
        }
        aiouring_store_release(ring.cq_head, head);
        if (now - checked_ns > LOST_AFTER_NS / 2) {
            send_lost_again(now);
            checked_ns = now;
        }
    }
    window_print(&window, 0);
    return 0;
}
