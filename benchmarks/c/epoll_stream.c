/* The other floor of stream echo: the least that an epoll server can do. TCP and unix sockets.
 *
 * Started by benchmarks/contestants.py as `epoll_stream ADDRESS [BUFFER_SIZE]`. Level-triggered; one recv and one send a message; what the
 * socket does not take is kept, and the connection is not read until it is gone.
 */
#include "common.h"

#include <sys/epoll.h>

struct connection {
    int fd;
    size_t pending; /* bytes in `left` that wait for the socket */
    char *left;
};

static int epoll;
static char *buffer;
static size_t buffer_size = 65536;

static void watch(struct connection *c, uint32_t events, int how) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->fd, &e))
        die("epoll_ctl");
}

static void end(struct connection *c) {
    close(c->fd);
    free(c->left);
    free(c);
}

static void echo(struct connection *c) {
    ssize_t n = recv(c->fd, buffer, buffer_size, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN)
            return;
        end(c);
        return;
    }
    ssize_t done = send(c->fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (done < 0) {
        if (errno != EAGAIN) {
            end(c);
            return;
        }
        done = 0;
    }
    if (done < n) {
        if (!c->left)
            c->left = malloc(buffer_size);
        c->pending = (size_t)(n - done);
        memcpy(c->left, buffer + done, c->pending);
        watch(c, EPOLLOUT, EPOLL_CTL_MOD);
    }
}

static void flush(struct connection *c) {
    ssize_t done = send(c->fd, c->left, c->pending, MSG_NOSIGNAL);
    if (done < 0) {
        if (errno != EAGAIN)
            end(c);
        return;
    }
    c->pending -= (size_t)done;
    memmove(c->left, c->left + done, c->pending);
    if (!c->pending)
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

int main(int argc, char **argv) {
    if (argc < 2)
        fail("usage: epoll_stream PORT|unix:PATH [BUFFER_SIZE]");
    if (argc > 2 && atoi(argv[2]) > 65536)
        buffer_size = (size_t)atoi(argv[2]);
    buffer = malloc(buffer_size);
    struct connection listener = {.fd = serve_at(argv[1], SOCK_STREAM)};
    epoll = epoll_create1(0);
    watch(&listener, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        struct epoll_event events[1024];
        int n = epoll_wait(epoll, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c != &listener) {
                if (c->pending)
                    flush(c);
                else
                    echo(c);
                continue;
            }
            int fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0)
                continue;
            no_delay(fd);
            c = calloc(1, sizeof *c);
            c->fd = fd;
            watch(c, EPOLLIN, EPOLL_CTL_ADD);
        }
    }
}
