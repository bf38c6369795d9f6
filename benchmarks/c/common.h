/* What every program of this folder needs: errors, clocks, addresses, arguments. Included by all of them; calls libc only. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAYBE_UNUSED __attribute__((unused))

static MAYBE_UNUSED _Noreturn void die(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static MAYBE_UNUSED _Noreturn void fail(const char *sentence) {
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, sentence);
    exit(1);
}

static MAYBE_UNUSED int64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* The CPU time of a process in nanoseconds, user and system, all of its threads, ended ones and the kernel's io-wq workers among them. */
static MAYBE_UNUSED int64_t cpu_ns(pid_t pid) {
    clockid_t clock;
    struct timespec ts;
    int error = clock_getcpuclockid(pid, &clock);
    if (error || clock_gettime(clock, &ts)) {
        if (error)
            errno = error;
        die("the CPU clock of the server's process (did it end?)");
    }
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_un un;
};

/* "unix:PATH" or a port of 127.0.0.1; gives the address's length. */
static MAYBE_UNUSED socklen_t parse_address(const char *text, union address *a) {
    memset(a, 0, sizeof *a);
    if (strncmp(text, "unix:", 5) == 0) {
        if (strlen(text + 5) >= sizeof a->un.sun_path)
            fail("the path of the unix socket is too long");
        a->un.sun_family = AF_UNIX;
        strcpy(a->un.sun_path, text + 5);
        return (socklen_t)sizeof a->un;
    }
    a->in.sin_family = AF_INET;
    a->in.sin_port = htons((uint16_t)atoi(text));
    a->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return (socklen_t)sizeof a->in;
}

static MAYBE_UNUSED void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static MAYBE_UNUSED void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A listening (or, for datagrams, bound) socket; says where on stdout as the harness expects it: "READY PORT" or "READY unix:PATH". */
static MAYBE_UNUSED int serve_at(const char *text, int type) {
    union address a;
    socklen_t length = parse_address(text, &a);
    int one = 1, fd = socket(a.any.sa_family, type, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a.any.sa_family == AF_UNIX)
        unlink(a.un.sun_path);
    if (bind(fd, &a.any, length))
        die("bind");
    if (type == SOCK_STREAM && listen(fd, 4096))
        die("listen");
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a floor must not outlive the run that started it */
    raise_descriptor_limit();
    if (a.any.sa_family == AF_UNIX) {
        printf("READY %s\n", text);
    } else {
        length = sizeof a;
        getsockname(fd, &a.any, &length);
        printf("READY %d\n", ntohs(a.in.sin_port));
    }
    fflush(stdout);
    return fd;
}

#endif
