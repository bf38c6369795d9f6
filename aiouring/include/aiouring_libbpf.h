/* libbpf for _libbpf.pyx, and what its archives need to be part of a shared object. Included there and by the build's test of linking, once each.
 *
 * Messages. libbpf says why it refuses something through one print function of the process. Here they are collected while one call of ours
 * runs, under a lock, so that an exception can give them. Nothing is ever printed.
 *
 * Archives. Debian builds libbpf.a and libelf.a for programs: two things in them cannot be linked into a shared object, which is therefore
 * given its own. libelf's error number is thread-local by a model that only programs may use: the functions of that member are defined
 * below, and the linker does not look for others. libbpf's default print function names `stderr` directly: the linker's --wrap makes that a
 * variable of ours, which nobody reads since that function is replaced. */
#ifndef AIOURING_LIBBPF_H
#define AIOURING_LIBBPF_H

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

/* The kernel's, which the headers of Debian 12 are too old for. */
#define AIOURING_BPF_MAP_TYPE_ARENA 33 /* Linux 6.9 */
#define AIOURING_BPF_STRUCT_OPS 44     /* the kind of a link, Linux 6.4 */

/* A verifier's log of a large program has megabytes; of more than this the end is kept, where it says what it refuses. */
#define AIOURING_BPF_LOG_MAX (16u << 20)

static pthread_mutex_t aiouring_bpf_lock = PTHREAD_MUTEX_INITIALIZER;
static char *aiouring_bpf_log;
static size_t aiouring_bpf_log_length;

static int aiouring_bpf_collect(enum libbpf_print_level level, const char *format, va_list arguments)
{
    va_list again;
    char *longer;
    int length;
    size_t total, excess;

    if (level == LIBBPF_DEBUG)
        return 0;
    va_copy(again, arguments);
    length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length <= 0)
        return 0;
    total = aiouring_bpf_log_length + (size_t)length;
    longer = realloc(aiouring_bpf_log, total + 1);
    if (longer == NULL)
        return 0;
    aiouring_bpf_log = longer;
    vsnprintf(longer + aiouring_bpf_log_length, (size_t)length + 1, format, arguments);
    excess = total > AIOURING_BPF_LOG_MAX ? total - AIOURING_BPF_LOG_MAX : 0;
    memmove(longer, longer + excess, total - excess + 1);
    aiouring_bpf_log_length = total - excess;
    return length;
}

/* Between these two libbpf's messages are collected; the second gives them, or NULL, and free() is the caller's. */
static void aiouring_bpf_begin(void)
{
    pthread_mutex_lock(&aiouring_bpf_lock);
    libbpf_set_print(aiouring_bpf_collect);
}

static char *aiouring_bpf_end(void)
{
    char *log = aiouring_bpf_log;

    aiouring_bpf_log = NULL;
    aiouring_bpf_log_length = 0;
    pthread_mutex_unlock(&aiouring_bpf_lock);
    return log;
}

static void aiouring_bpf_before_fork(void)
{
    pthread_mutex_lock(&aiouring_bpf_lock);
}

static void aiouring_bpf_after_fork(void)
{
    pthread_mutex_unlock(&aiouring_bpf_lock);
}

static int aiouring_bpf_watch_forks(void)
{
    return pthread_atfork(aiouring_bpf_before_fork, aiouring_bpf_after_fork, aiouring_bpf_after_fork);
}

/* The calls that can fail with a message: a result and the messages. `log` may be left NULL. */
static struct bpf_object *aiouring_bpf_open(const void *image, size_t size, const char *name, char **log)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
    struct bpf_object *object;
    int error;

    aiouring_bpf_begin();
    object = bpf_object__open_mem(image, size, &options);
    error = errno;
    *log = aiouring_bpf_end();
    errno = error;
    return object;
}

static int aiouring_bpf_load(struct bpf_object *object, char **log)
{
    int result;

    aiouring_bpf_begin();
    result = bpf_object__load(object);
    *log = aiouring_bpf_end();
    return result;
}

/* What libelf.a defines together with a thread-local variable. Callers hold the lock above, or the interpreter's. */
static int aiouring_elf_error;

void __libelf_seterrno(int error);
int elf_errno(void);
const char *elf_errmsg(int error);

__attribute__((visibility("hidden"))) void __libelf_seterrno(int error)
{
    aiouring_elf_error = error;
}

__attribute__((visibility("hidden"))) int elf_errno(void)
{
    int error = aiouring_elf_error;

    aiouring_elf_error = 0;
    return error;
}

__attribute__((visibility("hidden"))) const char *elf_errmsg(int error)
{
    static char text[40];

    if (error <= 0)
        error = aiouring_elf_error;
    if (error == 0)
        return NULL;
    snprintf(text, sizeof(text), "libelf's error %d", error);
    return text;
}

extern FILE *__wrap_stderr;
__attribute__((visibility("hidden"))) FILE *__wrap_stderr;

#endif
