/* What one user of BPF operations must not do to another: tests of operations.c, whose table names them. */
#include "operations.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

/* BPF_F_LINK: newer than the headers of the machine that compiles this, perhaps. */
#define FLAG_LINK (1u << 13)
#define PLAIN (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL)

/* A page that nobody brings, and the descriptor that tells of whoever waits for it. */
static void *missing_page(int *told)
{
	struct uffdio_api api = {.api = UFFD_API};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register area = {.range = {(uintptr_t)page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};

	*told = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (*told < 0)
		FAIL("userfaultfd");
	TRUE(page != MAP_FAILED && !ioctl(*told, UFFDIO_API, &api) && !ioctl(*told, UFFDIO_REGISTER, &area));
	return page;
}

/* Has a request wait for its memory in a table of its own, says so, and stays until it is killed. */
static void wait_for_ever(int ready)
{
	static char target[4096];
	struct pollfd fault = {.events = POLLIN};
	void *page = missing_page(&fault.fd);
	struct uring_bpf_request request = {
		.buffers = {{.addr = (uintptr_t)page, .len = 4096}, {.addr = (uintptr_t)target, .len = 4096}}, .buffer_count = 2};
	struct world world;

	TRUE(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	world_open(&world, PLAIN);
	operate(&world.ring, world.device, COPY, &request)->flags = IOSQE_ASYNC;
	ring_submit(&world.ring);
	EQUAL(poll(&fault, 1, -1), 1);
	EQUAL(write(ready, "x", 1), 1);
	for (;;)
		pause();
}

/* Unregistering waits for the requests of its own table. One in another's may wait for its memory as long as its owner likes. */
void table_of_another(void)
{
	struct uring_bpf_request request = {.flags = 7};
	struct world world;
	int ready[2];
	char byte;

	TRUE(!pipe(ready));
	pid_t child = fork();
	if (!child)
		wait_for_ever(ready[1]);
	close(ready[1]);
	EQUAL(read(ready[0], &byte, 1), 1);
	world_open(&world, PLAIN);
	EQUAL(run(&world, ECHO, &request), 7);
	/* Both ways. What the second waits for, everybody who attaches waits for. */
	bpf_link__destroy(world.links[ECHO]);
	EQUAL(bpf_link__detach(world.links[COPY]), 0);
	EQUAL(run(&world, ECHO, &request), -EOPNOTSUPP);
	world.links[ECHO] = attach(&world.loaded, ECHO);
	EQUAL(run(&world, ECHO, &request), 7);
	world_close(&world);
	EQUAL(kill(child, SIGKILL), 0);
	EQUAL(waitpid(child, NULL, 0), child);
	close(ready[0]);
}

static struct world busy;

static void *submit_slow(void *request)
{
	operate(&busy.ring, busy.device, SLOW, request);
	ring_submit(&busy.ring);
	return NULL;
}

/* A ring is locked as long as a request runs where it was submitted. That keeps nobody from unregistering, of this ring or another. */
void ring_of_another(void)
{
	static char memory[16];
	static struct uring_bpf_request endless = {.buffers = {{.len = 16}}, .buffer_count = 1, .flags = INT_MAX};
	struct uring_bpf_request request = {.flags = 7};
	struct world world;
	pthread_t thread;

	endless.buffers[0].addr = (uintptr_t)memory;
	world_open(&busy, 0);
	TRUE(!pthread_create(&thread, NULL, submit_slow, &endless));
	while (!__atomic_load_n(&busy.loaded.counts->steps, __ATOMIC_ACQUIRE))
		sched_yield();
	bpf_link__destroy(busy.links[ECHO]);
	busy.links[ECHO] = attach(&busy.loaded, ECHO);
	bpf_link__destroy(busy.links[SLOW]);
	world_open(&world, PLAIN);
	EQUAL(run(&world, ECHO, &request), 7);
	world_close(&world);
	EQUAL(busy.loaded.counts->cleaned, 0);
	/* The process's end is that of the thread. */
}

/* The link by which an operation was in a ring that is gone says nothing about the ring in which it is by another link. */
void link_of_a_closed_ring(void)
{
	struct uring_bpf_request request = {.flags = 6};
	struct bpf_link *second;
	struct world world;

	world_open(&world, PLAIN);
	int before = world.ring.fd;
	ring_close(&world.ring);
	ring_open(&world.ring, 64, PLAIN);
	EQUAL(world.ring.fd, before);
	/* The ring goes a while after its descriptor. */
	while (!(second = try_attach(&world.loaded, ECHO))) {
		EQUAL(errno, EBUSY);
		sched_yield();
	}
	EQUAL(run(&world, ECHO, &request), 6);
	bpf_link__destroy(world.links[ECHO]);
	EQUAL(run(&world, ECHO, &request), 6);
	world.links[ECHO] = second;
	world_close(&world);
}

/* What is registered without a link would stay when its process is gone. */
void without_a_link(void)
{
	struct bpf_object *object = bpf_object__open_file(getenv("OPERATIONS_OBJECT"), NULL);
	struct bpf_map *map, *echo = bpf_object__find_map_by_name(object, "echo");
	struct ring ring;
	size_t size;

	TRUE(object && echo);
	bpf_object__for_each_map(map, object)
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			bpf_map__set_autocreate(map, map == echo);
	ring_open(&ring, 64, PLAIN);
	int device = engine == MODULE ? device_open() : -1;
	((struct ops *)bpf_map__initial_value(echo, &size))->ring_fd = engine == MODULE ? device : ring.fd;
	bpf_map__set_map_flags(echo, bpf_map__map_flags(echo) & ~FLAG_LINK);
	EQUAL(bpf_object__load(object), 0);
	TRUE(!bpf_map__attach_struct_ops(echo));
	EQUAL(errno, EOPNOTSUPP);
	bpf_object__close(object);
	if (device >= 0)
		close(device);
	ring_close(&ring);
}

/* ECANCELED says that a request was never begun: user space submits that again with FAIL. An operation cannot say it. */
void cancelled_is_never_begun(void)
{
	struct uring_bpf_request request = {.flags = -ECANCELED};
	struct world world;

	world_open(&world, PLAIN);
	EQUAL(run(&world, RETURNS, &request), -EINVAL);
	EQUAL(run(&world, REFUSES, &request), -EINVAL);
	EQUAL(world.loaded.counts->prepared, 2);
	EQUAL(world.loaded.counts->cleaned, 2);
	world_close(&world);
}
