/* Connections by the second: each is opened, brings one small message and its echo, and is closed. Load of the accept row, and floor of the
 * connect row (where its own CPU time counts).
 *
 * Started by benchmarks/measure.py as
 *     load_connect PORT [--size BYTES] [--connections N] [--warmup S] [--seconds S] [--pid PID]...
 * N connections are in work at a time; connect, send and receive of one are a chain of linked requests. The client closes first, as browsers
 * do, and so keeps the pair of addresses for a minute (TIME_WAIT): it changes its own address over 127.0.0.2 to 127.0.0.250 to have enough.
 */
#include "measure.h"
#include "ring.h"

enum { CONNECT, SEND, RECV };

struct slot {
    int fd;
    int64_t begin_ns;
    char *in;
};

static struct ring ring;
static struct window window;
static struct slot *slots;
static union address address;
static socklen_t address_length;
static char *out;
static size_t size = 64;
static int count = 50;

static int new_socket(void) {
    static uint32_t number;
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number++ % 249)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT: connect chooses it */, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&own, sizeof own))
        die("bind to an own address of 127.0.0.0/8");
    no_delay(fd);
    return fd;
}

static struct io_uring_sqe *request(uint32_t index, uint8_t opcode, uint32_t kind) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = opcode;
    sqe->fd = slots[index].fd;
    sqe->user_data = (uint64_t)index << 2 | kind;
    return sqe;
}

static void begin(uint32_t index, int64_t now) {
    struct slot *s = &slots[index];
    s->fd = new_socket();
    s->begin_ns = now;
    struct io_uring_sqe *sqe = request(index, IORING_OP_CONNECT, CONNECT);
    sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    sqe->addr = (uint64_t)(uintptr_t)&address;
    sqe->off = address_length;
    sqe = request(index, IORING_OP_SEND, SEND);
    sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    sqe->addr = (uint64_t)(uintptr_t)out;
    sqe->len = (uint32_t)size;
    sqe->op_flags = MSG_WAITALL | MSG_NOSIGNAL;
    sqe = request(index, IORING_OP_RECV, RECV);
    sqe->addr = (uint64_t)(uintptr_t)s->in;
    sqe->len = (uint32_t)size;
    sqe->op_flags = MSG_WAITALL;
}

static void ended(uint32_t index, uint32_t kind, int res, int64_t now) {
    struct slot *s = &slots[index];
    if (res < 0) {
        errno = -res;
        die(kind == CONNECT ? "connect" : kind == SEND ? "send" : "recv");
    }
    if (kind != RECV)
        fail("a request said that it succeeded, against IOSQE_CQE_SKIP_SUCCESS");
    if (res != (int)size || memcmp(s->in, out, size) != 0)
        fail("an answer is not what the server was sent");
    close(s->fd);
    window_latency(&window, now - s->begin_ns);
    window.messages++;
    begin(index, now);
}

int main(int argc, char **argv) {
    window_arguments(&window, argc, argv, "load_connect", &size, &count);
    address_length = parse_address(argv[1], &address);
    if (address.any.sa_family != AF_INET)
        fail("a port is needed");
    out = malloc(size);
    memset(out, 'x', size);
    slots = calloc((size_t)count, sizeof *slots);
    ring_open(&ring, 4096, 16384);
    int64_t now = now_ns(), give_up_ns = now + 10000000000;
    for (uint32_t i = 0; i < (uint32_t)count; i++) {
        slots[i].in = malloc(size);
        begin(i, now);
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
            ended((uint32_t)(cqe->user_data >> 2), cqe->user_data & 3, cqe->res, now);
        }
        aiouring_store_release(ring.cq_head, head);
    }
    window_print(&window, 0);
    return 0;
}
