/* The load of TLS servers: echo over TLS 1.3, verified against nothing (the suite makes its own certificate).
 *
 * Started by benchmarks/measure.py as
 *     tls_load PORT [--size BYTES] [--connections N] [--warmup S] [--seconds S] [--pid PID]...
 * A closed loop: every connection has one message in flight. OpenSSL on epoll; the only program of this folder that needs libssl, which is
 * why the Makefile builds it for `make bench` alone. Decrypted bytes are compared in the first message and counted after it.
 */
#include "measure.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>

struct connection {
    SSL *ssl;
    int fd;
    uint32_t events; /* what epoll waits for */
    int64_t sent_ns;
    size_t written, got; /* of the message in flight and of its echo */
};

static struct window window;
static struct connection *connections;
static char *message, *answer;
static size_t size = 1024;
static int count = 1, epoll;

static _Noreturn void die_of_ssl(const char *what) {
    char text[256];
    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    fprintf(stderr, "tls_load: %s: %s\n", what, text);
    exit(1);
}

/* What OpenSSL lacks to go on, as epoll's event; ends the program when it is not that. */
static uint32_t lacking(SSL *ssl, int result, const char *what) {
    switch (SSL_get_error(ssl, result)) {
    case SSL_ERROR_WANT_READ: return EPOLLIN;
    case SSL_ERROR_WANT_WRITE: return EPOLLOUT;
    case SSL_ERROR_ZERO_RETURN: fail("the server closed a connection in the middle");
    default: die_of_ssl(what);
    }
}

static void advance(struct connection *c) {
    uint32_t events = EPOLLIN;
    for (int64_t now = now_ns(); c->written < size;) {
        if (!c->written)
            c->sent_ns = now;
        int n = SSL_write(c->ssl, message + c->written, (int)(size - c->written));
        if (n <= 0) {
            events |= lacking(c->ssl, n, "SSL_write");
            break;
        }
        c->written += (size_t)n;
    }
    for (;;) {
        int n = SSL_read(c->ssl, answer, (int)size);
        if (n <= 0) {
            events |= lacking(c->ssl, n, "SSL_read");
            break;
        }
        c->got += (size_t)n;
        window.bytes += (uint64_t)n;
        if (c->got > size)
            fail("the server sent more than it was sent");
        if (c->got == size) {
            int64_t now = now_ns();
            window_latency(&window, now - c->sent_ns);
            c->sent_ns = now;
            c->got = 0;
            int written = SSL_write(c->ssl, message, (int)size);
            c->written = written > 0 ? (size_t)written : 0;
            if (written <= 0)
                events |= lacking(c->ssl, written, "SSL_write");
            else if (c->written < size)
                events |= EPOLLOUT;
        }
    }
    if (events != c->events) {
        struct epoll_event e = {.events = events, .data.ptr = c};
        if (epoll_ctl(epoll, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e))
            die("epoll_ctl");
        c->events = events;
    }
}

static void check_one_answer(struct connection *c) {
    size_t got = 0, written = 0;
    while (got < size) { /* in pieces that fit into any server's buffers, since this connection blocks */
        size_t piece = size - written < 16384 ? size - written : 16384;
        if (piece && SSL_write(c->ssl, message + written, (int)piece) != (int)piece)
            die_of_ssl("SSL_write of the first message");
        written += piece;
        while (got < written) {
            int n = SSL_read(c->ssl, answer + got, (int)(size - got));
            if (n <= 0)
                die_of_ssl("SSL_read of the first answer");
            got += (size_t)n;
        }
    }
    if (memcmp(answer, message, size) != 0)
        fail("the server's answer to the first message is not what it was sent");
}

static void open_connections(const char *where) {
    union address address;
    socklen_t length = parse_address(where, &address);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (c->fd < 0 || connect(c->fd, &address.any, length))
            die("connect");
        no_delay(c->fd);
        c->ssl = SSL_new(context);
        SSL_set_fd(c->ssl, c->fd);
        if (SSL_connect(c->ssl) != 1)
            die_of_ssl("the handshake");
        if (i == 0)
            check_one_answer(c);
        if (fcntl(c->fd, F_SETFL, O_NONBLOCK))
            die("fcntl");
    }
}

int main(int argc, char **argv) {
    window_arguments(&window, argc, argv, "tls_load", &size, &count);
    signal(SIGPIPE, SIG_IGN);
    connections = calloc((size_t)count, sizeof *connections);
    message = malloc(size);
    answer = malloc(size);
    for (size_t i = 0; i < size; i++)
        message[i] = (char)('a' + (i * 7 + i / 251) % 26);
    epoll = epoll_create1(0);
    open_connections(argv[1]);
    for (int i = 0; i < count; i++)
        advance(&connections[i]);
    window_start_warmup(&window);
    for (int64_t give_up_ns = now_ns() + 10000000000;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, 100);
        int64_t now = now_ns();
        if (window_over(&window, now))
            break;
        if (n > 0)
            give_up_ns = now + 10000000000;
        else if (now > give_up_ns)
            fail("no answer for 10 s");
        for (int i = 0; i < n; i++)
            advance(events[i].data.ptr);
    }
    window_print(&window, (double)size);
    return 0;
}
