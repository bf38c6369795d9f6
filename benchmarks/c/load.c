/* The load of stream servers: echo, HTTP with keep-alive, and one connection in bulk; TCP and unix sockets.
 *
 * Started by benchmarks/measure.py as
 *     load ADDRESS [--size BYTES] [--connections N] [--http PATH] [--bulk] [--spin] [--warmup S] [--seconds S] [--pid PID]...
 * A closed loop: every connection has one message in flight and sends the next one when the whole answer is there. With --bulk the one
 * connection sends without pause and reads what comes back. With --spin it never sleeps, so that the latency is the server's alone.
 * It is an io_uring program like the floor, reads with MSG_TRUNC (TCP then throws the bytes away uncopied) and so needs less CPU a message
 * than any server. Before the window it checks one answer byte by byte; in the window it counts bytes.
 */
#include "measure.h"
#include "ring.h"

#include <fcntl.h>
#include <poll.h>

enum { RECV, SEND };

struct connection {
    int fd;
    int64_t sent_ns;
    int64_t missing; /* bytes of the answer that have not come yet */
};

static struct ring ring;
static struct buffers buffers;
static struct window window;
static struct connection *connections;
static char *request;
static size_t request_size = 1024, answer_size;
static int connection_count = 1, bulk, spin;

static void arm_recv(uint32_t index) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_RECV;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->fd = connections[index].fd;
    sqe->op_flags = MSG_TRUNC;
    sqe->buf_index = buffers.group;
    sqe->user_data = (uint64_t)index << 1 | RECV;
}

static void arm_send(uint32_t index, int64_t now) {
    struct connection *c = &connections[index];
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_SEND;
    sqe->flags = bulk ? 0 : IOSQE_CQE_SKIP_SUCCESS; /* the answer says that it was sent */
    sqe->fd = c->fd;
    sqe->addr = (uint64_t)(uintptr_t)request;
    sqe->len = (uint32_t)request_size;
    sqe->op_flags = MSG_WAITALL | MSG_NOSIGNAL;
    sqe->user_data = (uint64_t)index << 1 | SEND;
    c->sent_ns = now;
}

static void received(uint32_t index, int res, uint32_t flags, int64_t now) {
    struct connection *c = &connections[index];
    if (flags & IORING_CQE_F_BUFFER)
        buffers_give(&buffers, flags >> IORING_CQE_BUFFER_SHIFT);
    if (res == 0)
        fail("the server closed a connection in the middle");
    if (res < 0 && res != -ENOBUFS) {
        errno = -res;
        die("recv");
    }
    if (!(flags & IORING_CQE_F_MORE))
        arm_recv(index);
    if (res < 0)
        return;
    window.bytes += (uint64_t)res;
    if (bulk)
        return;
    c->missing -= res;
    if (c->missing > 0)
        return;
    if (c->missing < 0)
        fail("the server sent more than it was sent (or, with HTTP, answers of different lengths)");
    window_latency(&window, now - c->sent_ns);
    c->missing = (int64_t)answer_size;
    arm_send(index, now);
}

static void sent(uint32_t index, int res, int64_t now) {
    if (res < 0) {
        errno = -res;
        die("send");
    }
    if (!bulk)
        fail("a send came to its end early: the server closed the connection");
    arm_send(index, now);
}

/* Sends the request and reads the answer, both at once, since a server may answer before it has all. With `answer` NULL the answer is
 * an HTTP response, whose length it finds out. */
static void check_one_answer(int fd, int http) {
    size_t sent_size = 0, got = 0, room = http ? 64 << 20 : answer_size + 1;
    char *answer = malloc(room + 1);
    while (http ? !answer_size || got < answer_size : got < answer_size) {
        struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (sent_size < request_size ? POLLOUT : 0))};
        if (poll(&p, 1, 10000) == 0)
            fail("the server gave no full answer to the first message within 10 s");
        if (p.revents & POLLOUT) {
            ssize_t n = send(fd, request + sent_size, request_size - sent_size, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN)
                die("send of the first message");
            sent_size += n > 0 ? (size_t)n : 0;
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(fd, answer + got, room - got, MSG_DONTWAIT);
            if (n == 0)
                fail("the server closed the connection at the first message");
            if (n < 0 && errno != EAGAIN)
                die("recv of the first answer");
            got += n > 0 ? (size_t)n : 0;
            answer[got] = 0;
        }
        char *end = http && !answer_size ? strstr(answer, "\r\n\r\n") : NULL;
        if (end) {
            char *field = strcasestr(answer, "\r\ncontent-length:");
            if (strncmp(answer, "HTTP/1.1 200", 12) != 0 || !field || field > end)
                fail("the server's answer is no HTTP/1.1 200 with a Content-Length");
            answer_size = (size_t)(end + 4 - answer) + (size_t)atol(field + 17);
        }
    }
    if (got != answer_size || (!http && memcmp(answer, request, got) != 0))
        fail("the server's answer to the first message is not what it was sent");
    free(answer);
}

static void parse(int argc, char **argv, const char **path) {
    for (int i = 2; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(name, "--bulk") == 0)
            bulk = 1;
        else if (strcmp(name, "--spin") == 0)
            spin = 1;
        else if (strcmp(name, "--size") == 0)
            request_size = (size_t)atol(value), i++;
        else if (strcmp(name, "--connections") == 0)
            connection_count = atoi(value), i++;
        else if (strcmp(name, "--http") == 0)
            *path = value, i++;
        else if (window_option(&window, name, value))
            i++;
        else
            fail("an unknown option; the head of load.c lists them");
    }
}

int main(int argc, char **argv) {
    const char *path = NULL;
    window.warmup_ns = 200000000;
    window.length_ns = 1000000000;
    if (argc < 2)
        fail("usage: load PORT|unix:PATH [options]; the head of load.c lists them");
    parse(argc, argv, &path);
    if (path) {
        request = malloc(strlen(path) + 200);
        request_size = (size_t)sprintf(request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: aiouring-bench\r\nAccept: */*\r\n\r\n", path);
    } else {
        request = malloc(request_size);
        for (size_t i = 0; i < request_size; i++)
            request[i] = (char)('a' + (i * 7 + i / 251) % 26);
        answer_size = request_size;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    raise_descriptor_limit();
    union address address;
    socklen_t length = parse_address(argv[1], &address);
    connections = calloc((size_t)connection_count, sizeof *connections);
    for (int i = 0; i < connection_count; i++) {
        int fd = connections[i].fd = socket(address.any.sa_family, SOCK_STREAM, 0);
        if (fd < 0)
            die("socket");
        if (connect(fd, &address.any, length))
            die("connect");
        no_delay(fd);
    }
    check_one_answer(connections[0].fd, path != NULL);

    uint32_t buffer_size = 4096;
    while (buffer_size < answer_size && buffer_size < 262144)
        buffer_size *= 2;
    ring_open(&ring, 4096, 16384);
    buffers_open(&ring, &buffers, buffer_size > 16384 ? 256 : 2048, buffer_size, 0);
    int64_t now = now_ns();
    for (uint32_t i = 0; i < (uint32_t)connection_count; i++) {
        connections[i].missing = (int64_t)answer_size;
        arm_recv(i);
        arm_send(i, now);
    }
    window_start_warmup(&window);
    for (int64_t give_up_ns = now + 10000000000;;) {
        ring_enter(&ring, spin ? 0 : 1, 100000000);
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
            uint32_t index = (uint32_t)(cqe->user_data >> 1);
            if ((cqe->user_data & 1) == RECV)
                received(index, cqe->res, cqe->flags, now);
            else
                sent(index, cqe->res, now);
        }
        aiouring_store_release(ring.cq_head, head);
        buffers_publish(&buffers);
    }
    window_print(&window, (double)answer_size);
    return 0;
}
