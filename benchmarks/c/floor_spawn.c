/* The floor of the spawn row: posix_spawn (which is vfork underneath) and a wait, one child after the other.
 *
 * Started by benchmarks/measure.py as `floor_spawn [--warmup S] [--seconds S]`; prints its window as the load programs do. Calls libc.
 */
#include "measure.h"

#include <spawn.h>
#include <sys/wait.h>

static void run_one(void) {
    char *arguments[] = {"/bin/true", NULL}, *environment[] = {NULL};
    pid_t pid;
    int status, error = posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environment);
    if (error) {
        errno = error;
        die("posix_spawn of /bin/true");
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        fail("/bin/true did not end with status 0");
}

int main(int argc, char **argv) {
    struct window window = {.warmup_ns = 200000000, .length_ns = 1000000000};
    for (int i = 1; i + 1 < argc; i += 2)
        if (!window_option(&window, argv[i], argv[i + 1]))
            fail("usage: floor_spawn [--warmup S] [--seconds S]");
    window_start_warmup(&window);
    for (int64_t begin = now_ns();;) {
        run_one();
        int64_t now = now_ns();
        if (window_over(&window, now))
            break;
        window.messages++;
        window_latency(&window, now - begin);
        begin = now;
    }
    window_print(&window, 0);
    return 0;
}
