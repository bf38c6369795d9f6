/* What a load program measures: one window with the CPU time of the server's processes and of itself, messages, latencies; as JSON.
 *
 * Included by the load programs. Latencies go into a histogram with 64 steps for each power of two, so a figure is at most 1.6 % off.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "common.h"

enum { PIDS_MAX = 16, STEPS_LOG2 = 6, STEPS = 1 << STEPS_LOG2, BINS = (64 - STEPS_LOG2 + 1) * STEPS };

struct window {
    pid_t pids[PIDS_MAX]; /* the server's processes */
    int pid_count;
    int64_t warmup_ns, length_ns;
    int64_t begin_ns, end_ns, deadline_ns; /* of the window; begin_ns is 0 during the warm-up */
    int64_t server_cpu_ns, load_cpu_ns;
    uint64_t bytes, messages; /* of the responses, inside the window */
    uint64_t lost;            /* datagrams that had to be sent again */
    uint64_t histogram[BINS], latencies;
    int64_t latency_max_ns;
};

static MAYBE_UNUSED int64_t servers_cpu_ns(const struct window *w) {
    int64_t sum = 0;
    for (int i = 0; i < w->pid_count; i++)
        sum += cpu_ns(w->pids[i]);
    return sum;
}

static MAYBE_UNUSED void window_start_warmup(struct window *w) {
    w->begin_ns = w->end_ns = 0;
    w->deadline_ns = now_ns() + w->warmup_ns;
}

/* Call it once a batch, before what the batch brought is counted. True when the window is over. */
static MAYBE_UNUSED int window_over(struct window *w, int64_t now) {
    if (now < w->deadline_ns)
        return 0;
    if (w->begin_ns) {
        w->server_cpu_ns = servers_cpu_ns(w) - w->server_cpu_ns;
        w->load_cpu_ns = cpu_ns(getpid()) - w->load_cpu_ns;
        w->end_ns = now;
        return 1;
    }
    w->bytes = w->messages = w->lost = w->latencies = 0;
    w->latency_max_ns = 0;
    memset(w->histogram, 0, sizeof w->histogram);
    w->server_cpu_ns = servers_cpu_ns(w);
    w->load_cpu_ns = cpu_ns(getpid());
    w->begin_ns = now;
    w->deadline_ns = now + w->length_ns;
    return 0;
}

static MAYBE_UNUSED void window_latency(struct window *w, int64_t latency_ns) {
    uint64_t v = latency_ns > 0 ? (uint64_t)latency_ns : 0;
    unsigned log2 = v < STEPS ? 0 : 63 - (unsigned)__builtin_clzll(v) - STEPS_LOG2 + 1;
    unsigned bin = v < STEPS ? (unsigned)v : (log2 << STEPS_LOG2) + (unsigned)((v >> (log2 - 1)) & (STEPS - 1));
    w->histogram[bin]++;
    w->latencies++;
    if (latency_ns > w->latency_max_ns)
        w->latency_max_ns = latency_ns;
}

/* The latency below which `share` of all are, the middle of its bin; 0 when none was measured. */
static MAYBE_UNUSED double window_percentile_ns(const struct window *w, double share) {
    uint64_t wanted = (uint64_t)((double)w->latencies * share), seen = 0;
    for (unsigned bin = 0; bin < BINS && w->latencies; bin++) {
        seen += w->histogram[bin];
        if (seen > wanted) {
            unsigned log2 = bin >> STEPS_LOG2;
            if (log2 == 0)
                return bin;
            uint64_t low = (uint64_t)(STEPS + (bin & (STEPS - 1))) << (log2 - 1);
            return (double)low + (double)(1ULL << (log2 - 1)) / 2;
        }
    }
    return w->latencies ? (double)w->latency_max_ns : 0;
}

/* `message_size`: the bytes that count as one message; 0 when messages were counted one by one. */
static MAYBE_UNUSED void window_print(const struct window *w, double message_size) {
    double messages = message_size > 0 ? (double)w->bytes / message_size : (double)w->messages;
    printf("{\"messages\": %.3f, \"bytes\": %llu, \"window_ns\": %lld, \"server_cpu_ns\": %lld, \"load_cpu_ns\": %lld, "
           "\"lost\": %llu, \"latencies\": %llu, \"p50_ns\": %.0f, \"p90_ns\": %.0f, \"p99_ns\": %.0f, \"max_ns\": %lld}\n",
           messages, (unsigned long long)w->bytes, (long long)(w->end_ns - w->begin_ns), (long long)w->server_cpu_ns,
           (long long)w->load_cpu_ns, (unsigned long long)w->lost, (unsigned long long)w->latencies, window_percentile_ns(w, 0.5),
           window_percentile_ns(w, 0.9), window_percentile_ns(w, 0.99), (long long)w->latency_max_ns);
}

/* The options that all load programs share: --pid N (again for each process of the server), --warmup S, --seconds S. */
static MAYBE_UNUSED int window_option(struct window *w, const char *name, const char *value) {
    if (strcmp(name, "--pid") == 0) {
        if (w->pid_count == PIDS_MAX)
            fail("too many --pid");
        w->pids[w->pid_count++] = atoi(value);
    } else if (strcmp(name, "--warmup") == 0) {
        w->warmup_ns = (int64_t)(atof(value) * 1e9);
    } else if (strcmp(name, "--seconds") == 0) {
        w->length_ns = (int64_t)(atof(value) * 1e9);
    } else {
        return 0;
    }
    return 1;
}

/* The arguments of a load program with one size and one count: PORT, then options. `program` is its source's name, for errors. */
static MAYBE_UNUSED void window_arguments(struct window *w, int argc, char **argv, const char *program, size_t *size, int *count) {
    char sentence[200];
    w->warmup_ns = 200000000;
    w->length_ns = 1000000000;
    if (argc < 2) {
        snprintf(sentence, sizeof sentence, "usage: %s PORT [options]; the head of %s.c lists them", program, program);
        fail(sentence);
    }
    for (int i = 2; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--size") == 0) {
            *size = (size_t)atol(value);
        } else if (strcmp(argv[i], "--connections") == 0) {
            *count = atoi(value);
        } else if (!window_option(w, argv[i], value)) {
            snprintf(sentence, sizeof sentence, "an unknown option, %s; the head of %s.c lists them", argv[i], program);
            fail(sentence);
        }
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    raise_descriptor_limit();
}

#endif
