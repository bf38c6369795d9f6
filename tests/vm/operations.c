/* Tries the kernel's side of BPF operations, module or opcode, as root on a kernel that has one of them: `operations module|opcode TEST`, and
 * `operations --list module|opcode`. OPERATIONS_OBJECT names the compiled operations.bpf.c, OPERATIONS_MODULE the module's file. test_operations.py
 * runs each test in a process of its own. A test waits for completions and counts; where it has to wait for another task, it looks at what that
 * one counts. */
#include "operations.h"

#define PLAIN (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL)

static struct uring_bpf_request no_buffers(uint32_t flags)
{
	return (struct uring_bpf_request){.flags = flags, .result = 0x5555};
}

static struct uring_bpf_request one_buffer(void *memory, uint32_t length, uint32_t flags)
{
	return (struct uring_bpf_request){
		.buffers = {{.addr = (uintptr_t)memory, .len = length}}, .buffer_count = 1, .flags = flags, .result = 0x5555};
}

static struct uring_bpf_request two_buffers(void *source, void *target, uint32_t length)
{
	return (struct uring_bpf_request){.buffers = {{.addr = (uintptr_t)source, .len = length}, {.addr = (uintptr_t)target, .len = length}},
					  .buffer_count = 2,
					  .result = 0x5555};
}

static void *pages(size_t count)
{
	void *memory = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	TRUE(memory != MAP_FAILED);
	return memory;
}

static void fill(uint8_t *memory, size_t length, uint32_t seed)
{
	for (size_t i = 0; i < length; i++)
		memory[i] = (seed = seed * 1664525 + 1013904223) >> 24;
}

/* Prepared, issued, failed, cleaned since the last time. */
static void calls(struct world *world, unsigned prepared, unsigned issued, unsigned failed, unsigned cleaned)
{
	struct counts *counts = world->loaded.counts;

	EQUAL(counts->prepared, prepared);
	EQUAL(counts->issued, issued);
	EQUAL(counts->failed, failed);
	EQUAL(counts->cleaned, cleaned);
	EQUAL(counts->bad, 0);
	zero_counts(&world->loaded);
}

/* Waits for another task, which will get there or be stopped by the test's time-out. */
#define UNTIL(condition)     \
	while (!(condition)) \
	sched_yield()

static void results(void)
{
	struct world world;
	struct uring_bpf_request request = no_buffers(0);

	world_open(&world, PLAIN);
	EQUAL(run(&world, ECHO, &request), 0);
	EQUAL(request.result, 0);
	request = no_buffers(12345);
	EQUAL(run(&world, ECHO, &request), 12345);
	EQUAL(request.result, 12345);
	/* What does not fit into the CQE stands in the request. */
	request = no_buffers(0x80000000);
	EQUAL(run(&world, ECHO, &request), INT_MAX);
	EQUAL(request.result, 0x80000000);
	request = no_buffers(0xffffffff);
	EQUAL(run(&world, ECHO, &request), INT_MAX);
	EQUAL(request.result, 0x123456789abcdef0);
	calls(&world, 4, 4, 0, 4);
	world_close(&world);
}

static const unsigned ring_kinds[] = {PLAIN, 0, IORING_SETUP_COOP_TASKRUN, IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_SQPOLL};

static void kinds_of_rings(void)
{
	for (unsigned i = 0; i < sizeof(ring_kinds) / sizeof(*ring_kinds); i++) {
		struct world world;
		struct uring_bpf_request request = no_buffers(7);
		uint8_t *memory = pages(64);

		world_open(&world, ring_kinds[i]);
		EQUAL(run(&world, ECHO, &request), 7);
		fill(memory, 32 * 4096, i);
		/* Long: by a worker. */
		request = two_buffers(memory, memory + 32 * 4096, 32 * 4096);
		EQUAL(run(&world, COPY, &request), 32 * 4096);
		EQUAL(memcmp(memory, memory + 32 * 4096, 32 * 4096), 0);
		world_close(&world);
		munmap(memory, 64 * 4096);
	}
}

/* One that is polled for its completions has none of this to poll for. */
static void polled_ring(void)
{
	struct world world;
	struct uring_bpf_request request = no_buffers(7);
	uint8_t *memory = pages(64);

	world_open(&world, IORING_SETUP_IOPOLL);
	EQUAL(run(&world, ECHO, &request), engine == MODULE ? 7 : -EINVAL);
	request = two_buffers(memory, memory + 32 * 4096, 32 * 4096);
	EQUAL(run(&world, COPY, &request), engine == MODULE ? 32 * 4096 : -EINVAL);
	world_close(&world);
}

/* An operation's return value is the request's result, or it is refused; nothing of it means something to io_uring. */
static void return_values(void)
{
	static const struct {
		int returned, res;
	} cases[] = {
		{-1, -EPERM},	    {-EAGAIN, -EAGAIN}, {-EINTR, -EINTR},   {-511, -511},     {-512, -EINVAL}, {-516, -EINVAL},
		{-517, -EINVAL},    {-529, -EINVAL},	{-530, -EINVAL},    {-531, -EINVAL},  {-532, -532},    {-4095, -4095},
		{-4096, -EINVAL},   {INT_MIN, -EINVAL}, {1, -EINVAL},	    {INT_MAX, -EINVAL}, {0, 77},
	};
	struct world world;

	world_open(&world, PLAIN);
	for (unsigned async = 0; async < 2; async++)
		for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
			struct uring_bpf_request request = no_buffers(cases[i].returned);
			struct io_uring_sqe *sqe = operate(&world.ring, world.device, RETURNS, &request);

			sqe->flags = async ? IOSQE_ASYNC : 0;
			ring_submit(&world.ring);
			EQUAL(ring_wait(&world.ring).res, cases[i].res);
			/* A failed operation has no result. */
			EQUAL(request.result, cases[i].res < 0 ? 0x5555 : 77);
			calls(&world, 1, 1, 0, 1);
		}
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct uring_bpf_request request = no_buffers(cases[i].returned);

		if (cases[i].returned == 0)
			continue;
		EQUAL(run(&world, REFUSES, &request), cases[i].res);
		EQUAL(request.result, 0x5555);
		calls(&world, 1, 0, 0, 1);
	}
	/* The ring is as good as before: nothing waits for a second completion. */
	struct completion cqe;
	ring_enter(&world.ring, 0, 0);
	TRUE(!ring_peek(&world.ring, &cqe));
	world_close(&world);
}

static void copies(void)
{
	static const unsigned lengths[] = {0, 1, 15, 4095, 4096, 4097, 32768, 32769, 65536, 65537, URING_BPF_BYTES_MAX};
	uint8_t *source = pages(1026), *target = pages(1026);
	struct world world;

	world_open(&world, PLAIN);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		unsigned skew = i * 37 % 4096;
		struct uring_bpf_request request = two_buffers(source + skew, target + 4096 - skew, lengths[i]);

		fill(source, lengths[i] + 8192, i);
		memset(target, 0xee, lengths[i] + 8192);
		EQUAL(run(&world, COPY, &request), lengths[i]);
		EQUAL(request.result, lengths[i]);
		EQUAL(memcmp(source + skew, target + 4096 - skew, lengths[i]), 0);
		EQUAL(target[4096 - skew - 1], 0xee);
		EQUAL(target[4096 - skew + lengths[i]], 0xee);
	}
	struct uring_bpf_request request = two_buffers(source, target, URING_BPF_BYTES_MAX + 1);
	EQUAL(run(&world, COPY, &request), -EINVAL);
	/* A worker is no matter of waiting for a file. */
	TRUE(engine == OPCODE || !fcntl(world.device, F_SETFL, O_NONBLOCK));
	request = two_buffers(source, target, 100000);
	EQUAL(run(&world, COPY, &request), 100000);
	world_close(&world);
}

/* Where an operation's request, a buffer's end and a result may not lie. */
static void addresses(void)
{
	struct world world;
	uint8_t *memory = pages(4);
	struct uring_bpf_request request, *placed;
	uint64_t bad[] = {0, 8, 1ull << 47, 0xffff800000000000ull, 0xffffffff81000000ull, 0xfffffffffffff000ull, ~0ull, ~0ull - 47};

	world_open(&world, PLAIN);
	munmap(memory + 8192, 4096);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		operate_at(&world.ring, world.device, ECHO, bad[i]);
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EFAULT);
		request = two_buffers((void *)bad[i], memory, 100);
		EQUAL(run(&world, COPY, &request), -EFAULT);
		request = two_buffers(memory, (void *)bad[i], 100);
		EQUAL(run(&world, COPY, &request), -EFAULT);
		/* Nothing is reached where there is nothing to reach. */
		request = two_buffers((void *)bad[i], (void *)bad[i], 0);
		EQUAL(run(&world, COPY, &request), 0);
	}
	/* The request itself crosses into a page that is not there, begins unaligned, and lies where no result can be written. */
	operate_at(&world.ring, world.device, ECHO, (uintptr_t)memory + 8192 - 24);
	ring_submit(&world.ring);
	EQUAL(ring_wait(&world.ring).res, -EFAULT);
	placed = (void *)(memory + 4096 - 21);
	*placed = no_buffers(3);
	EQUAL(run(&world, ECHO, placed), 3);
	EQUAL(placed->result, 3);
	mprotect(memory, 8192, PROT_READ);
	EQUAL(run(&world, ECHO, placed), -EFAULT);
	mprotect(memory, 8192, PROT_READ | PROT_WRITE);

	/* A buffer whose second page is not there: an error, and the first part may have been written. */
	fill(memory, 8192, 1);
	request = two_buffers(memory + 4096, memory, 5000);
	EQUAL(run(&world, COPY, &request), -EFAULT);
	EQUAL(request.result, 0x5555);
	request = two_buffers(memory, memory + 8192 - 100, 4096);
	EQUAL(run(&world, COPY, &request), -EFAULT);
	mprotect(memory + 4096, 4096, PROT_READ);
	request = two_buffers(memory, memory + 4096, 64);
	EQUAL(run(&world, COPY, &request), -EFAULT);
	mprotect(memory + 4096, 4096, PROT_NONE);
	request = two_buffers(memory + 4096, memory, 64);
	EQUAL(run(&world, COPY, &request), -EFAULT);
	struct counts *counts = world.loaded.counts;
	EQUAL(counts->prepared, counts->cleaned);
	EQUAL(counts->bad, 0);
	world_close(&world);
}

static void malformed(void)
{
	struct world world;
	uint8_t *memory = pages(1);
	struct uring_bpf_request good = two_buffers(memory, memory, 16), request;
	struct io_uring_sqe *sqe;

	world_open(&world, PLAIN);
#define REFUSED(change)                                                \
	do {                                                           \
		request = good;                                        \
		change;                                                \
		EQUAL(run(&world, COPY, &request), -EINVAL);           \
		EQUAL(request.result, 0x5555);                         \
		calls(&world, 0, 0, 0, 0);                             \
	} while (0)
	REFUSED(request.buffer_count = 3);
	REFUSED(request.buffer_count = 0xffffffff);
	REFUSED(request.buffer_count = 1);
	REFUSED(request.buffers[0].type = 2);
	REFUSED(request.buffers[1].type = 255);
	REFUSED(request.buffers[0].reserved = 1);
	REFUSED(request.buffers[1].buf_index = 1);
	REFUSED(request.buffers[0].len = 0xffffffff);
	REFUSED(request.buffers[1].len = URING_BPF_BYTES_MAX + 1);

	/* The SQE's own fields, and operations that are not there. */
	unsigned unknown[] = {4, 100, 127, 253};
	for (unsigned i = 0; i < 4; i++) {
		request = good;
		sqe = operate(&world.ring, world.device, COPY, &request);
		if (engine == MODULE)
			sqe->cmd_op = unknown[i];
		else
			sqe->rw_flags = unknown[i] << 24;
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EOPNOTSUPP);
	}
	for (unsigned i = 0; i < 8; i++) {
		request = good;
		sqe = operate(&world.ring, world.device, COPY, &request);
		if (engine == MODULE)
			switch (i) {
			case 0: sqe->cmd_op |= 1 << 9; break;
			case 1: sqe->cmd_op |= 1u << 31; break;
			case 2: sqe->cmd[8] = 1; break;
			case 3: ((uint8_t *)sqe)[63] = 1; break;
			case 4: sqe->rw_flags = 1 << 3; break;
			case 5: sqe->rw_flags = 1u << 31; break;
			case 6: sqe->ioprio = 1; break;
			default: sqe->rw_flags = COMMAND_MULTISHOT; break; /* multishot without a buffer group */
			}
		else
			switch (i) {
			case 0: sqe->rw_flags |= 1; break;
			case 1: sqe->rw_flags |= 1 << 23; break;
			case 2: sqe->off = 1; break;
			case 3: sqe->len = 1; break;
			case 4: sqe->fd = 0; break;
			case 5: sqe->buf_index = 1; break;
			case 6: sqe->ioprio = 1; break;
			default: sqe->splice_fd_in = 1; break;
			}
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EINVAL);
		calls(&world, 0, 0, 0, 0);
	}
	if (engine == MODULE) {
		/* Multishot with a group of buffers gets as far as the module. */
		request = good;
		sqe = operate(&world.ring, world.device, COPY, &request);
		sqe->rw_flags = COMMAND_MULTISHOT;
		sqe->flags = IOSQE_BUFFER_SELECT;
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EINVAL);
		/* Neither read nor written nor mapped. */
		char byte;
		TRUE(read(world.device, &byte, 1) < 0 && errno == EINVAL);
		TRUE(write(world.device, &byte, 1) < 0 && errno == EINVAL);
		TRUE(mmap(NULL, 4096, PROT_READ, MAP_SHARED, world.device, 0) == MAP_FAILED && errno == ENODEV);
		struct stat status;
		TRUE(!stat("/dev/aiouring_bpf", &status));
		EQUAL(status.st_mode & 07777, 0600);
	}
	request = good;
	EQUAL(run(&world, COPY, &request), 16);
	world_close(&world);
}

static void ranges(void)
{
	struct world world;
	uint8_t *memory = pages(1);
	struct uring_bpf_request request;
	static const struct {
		uint64_t offset;
		uint32_t buffer;
		int res;
	} cases[] = {
		{0, 0, 0},	      {84, 0, 0},		 {85, 0, -ERANGE},     {100, 0, -ERANGE},	 {101, 0, -ERANGE},
		{1ull << 32, 0, -ERANGE}, {~0ull, 0, -ERANGE}, {~0ull - 15, 0, -ERANGE}, {0, 1, -ERANGE}, {0, 2, -ERANGE}, {0, 0xffffffff, -ERANGE},
	};

	world_open(&world, PLAIN);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		request = one_buffer(memory, 100, cases[i].buffer);
		world.loaded.counts->offset = cases[i].offset;
		EQUAL(run(&world, RANGE, &request), cases[i].res);
	}
	request = no_buffers(0);
	world.loaded.counts->offset = 0;
	EQUAL(run(&world, RANGE, &request), -ERANGE);
	world_close(&world);
}

static void register_buffers(struct ring *ring, struct iovec *vectors, unsigned count)
{
	if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, vectors, count))
		FAIL("registering buffers");
}

static void registered_buffers(void)
{
	struct world world;
	uint8_t *memory = pages(8), *other = pages(2);
	struct iovec vectors[] = {{memory, 8 * 4096}, {NULL, 0}, {other, 8192}};
	struct uring_bpf_request request;

	world_open(&world, PLAIN);
	register_buffers(&world.ring, vectors, 3);
	fill(memory, 4 * 4096, 3);

	/* From a registered one, into one, and within one, where pages join. */
	for (unsigned kind = 1; kind < 4; kind++) {
		request = two_buffers(memory + 4000, memory + 4 * 4096 + 4001, 9000);
		request.buffers[0].type = kind & 1;
		request.buffers[1].type = kind >> 1;
		memset(memory + 4 * 4096, 0, 4 * 4096);
		EQUAL(run(&world, COPY, &request), 9000);
		EQUAL(memcmp(memory + 4000, memory + 4 * 4096 + 4001, 9000), 0);
		calls(&world, 1, 1, 0, 1);
	}
	/* In a worker. */
	request = two_buffers(memory, memory + 4 * 4096, 4 * 4096);
	request.buffers[0].type = request.buffers[1].type = IO_BPF_BUF_FIXED;
	operate(&world.ring, world.device, COPY, &request)->flags = IOSQE_ASYNC;
	ring_submit(&world.ring);
	EQUAL(ring_wait(&world.ring).res, 4 * 4096);
	EQUAL(memcmp(memory, memory + 4 * 4096, 4 * 4096), 0);
	/* Its pages stay where the process has lost them. */
	munmap(other, 8192);
	request = two_buffers(other, memory + 4 * 4096, 5000);
	request.buffers[0].type = IO_BPF_BUF_FIXED;
	request.buffers[0].buf_index = 2;
	EQUAL(run(&world, COPY, &request), 5000);
	EQUAL(memory[4 * 4096 + 4999], 0);

	/* Two different ones: the request of its own takes them. */
	request = two_buffers(memory, other, 5000);
	request.buffers[0].type = request.buffers[1].type = IO_BPF_BUF_FIXED;
	request.buffers[1].buf_index = 2;
	EQUAL(run(&world, COPY, &request), engine == MODULE ? -EINVAL : 5000);

	zero_counts(&world.loaded);
#define REFUSED_FIXED(change, error)                                                  \
	do {                                                                          \
		request = two_buffers(memory, memory + 4 * 4096, 100);                \
		request.buffers[0].type = IO_BPF_BUF_FIXED;                           \
		change;                                                               \
		EQUAL(run(&world, COPY, &request), error);                            \
		EQUAL(request.result, 0x5555);                                        \
		EQUAL(world.loaded.counts->issued, 0);                                \
		EQUAL(world.loaded.counts->prepared, world.loaded.counts->cleaned);   \
	} while (0)
	/* Nothing in the table, outside of it; before the buffer, over its end, after it, around the end of memory. */
	REFUSED_FIXED(request.buffers[0].buf_index = 1, -EFAULT);
	REFUSED_FIXED(request.buffers[0].buf_index = 3, -EFAULT);
	REFUSED_FIXED(request.buffers[0].buf_index = 65535, -EFAULT);
	REFUSED_FIXED(request.buffers[0].addr -= 1, -EFAULT);
	REFUSED_FIXED(request.buffers[0].addr += 8 * 4096 - 99, -EFAULT);
	REFUSED_FIXED(request.buffers[0].addr += 8 * 4096, -EFAULT);
	REFUSED_FIXED(request.buffers[0].addr = 0, -EFAULT);
	REFUSED_FIXED(request.buffers[0].addr = ~0ull - 50, -EFAULT);
	/* An operation that does not look at it: refused all the same. */
	request = one_buffer(memory, 10, 1);
	request.buffers[0].type = IO_BPF_BUF_FIXED;
	request.buffers[0].buf_index = 9;
	EQUAL(run(&world, ECHO, &request), -EFAULT);
	if (engine == MODULE) {
		/* The SQE and the request have to agree. */
		request = two_buffers(memory, memory, 100);
		request.buffers[0].type = IO_BPF_BUF_FIXED;
		operate(&world.ring, world.device, COPY, &request)->rw_flags = 0;
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EINVAL);
		operate(&world.ring, world.device, COPY, &request)->buf_index = 2;
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EINVAL);
	}
	/* None is held afterwards. */
	TRUE(!syscall(SYS_io_uring_register, world.ring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0));
	REFUSED_FIXED((void)0, -EFAULT);
	world_close(&world);
}

/* What the callbacks may do when, state and scratch memory. */
static void what_callbacks_see(void)
{
	struct world world;
	uint8_t memory[4] = {9, 9, 9, 9};
	struct uring_bpf_request request;

	world_open(&world, PLAIN);
	for (unsigned async = 0; async < 2; async++) {
		struct counts *counts = world.loaded.counts;

		memset(memory, 9, 4);
		request = one_buffer(memory, 4, 0);
		memset(counts->seen, 0x55, sizeof(counts->seen));
		operate(&world.ring, world.device, LOOK, &request)->flags = async ? IOSQE_ASYNC : 0;
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, 0);
		EQUAL(counts->seen[0], -EFAULT);
		EQUAL(counts->seen[4], -EFAULT);
		EQUAL(counts->seen[1], 0);
		EQUAL(counts->seen[5], 0);
		EQUAL(counts->seen[3], -EFAULT);
		EQUAL(counts->seen[7], -EFAULT);
		EQUAL(memory[0], 9);
		calls(&world, 1, 1, 0, 1);
	}
	world_close(&world);
}

static void registration(void)
{
	struct world world;
	struct loaded second;
	struct bpf_link *link;
	struct uring_bpf_request request = no_buffers(5);
	struct ring ring;
	int target, pair[2];

	world_open(&world, PLAIN);
	target = engine == MODULE ? world.device : world.ring.fd;
	/* A second operation of the same id, and the same one once more. */
	load(&second, target);
	link = try_attach(&second, ECHO);
	TRUE(!link && errno == EBUSY);
	link = try_attach(&world.loaded, ECHO);
	TRUE(!link && errno == EBUSY);
	EQUAL(run(&world, ECHO, &request), 5);
	bpf_link__destroy(world.links[ECHO]);
	EQUAL(run(&world, ECHO, &request), -EOPNOTSUPP);
	/* The id is free for another one, and the first may come back after it. */
	link = attach(&second, ECHO);
	EQUAL(run(&world, ECHO, &request), 5);
	EQUAL(second.counts->issued, 1);
	bpf_link__destroy(link);
	world.links[ECHO] = attach(&world.loaded, ECHO);
	EQUAL(run(&world, ECHO, &request), 5);
	EQUAL(second.counts->issued, 1);
	unload(&second);

	/* Descriptors that have no table. */
	TRUE(!pipe(pair));
	ring_open(&ring, 4, PLAIN);
	int others[] = {-1, pair[0], 1000, open("/dev/null", O_RDWR), engine == MODULE ? ring.fd : open("/dev/zero", O_RDWR)};
	for (unsigned i = 0; i < 5; i++) {
		load(&second, others[i]);
		link = try_attach(&second, ECHO);
		TRUE(!link && (errno == EBADF || errno == EOPNOTSUPP));
		unload(&second);
	}
	/* Each table is its own. */
	if (engine == MODULE) {
		int device = device_open();

		operate(&world.ring, device, ECHO, &request);
		ring_submit(&world.ring);
		EQUAL(ring_wait(&world.ring).res, -EOPNOTSUPP);
		load(&second, device);
		close(device);
	} else {
		operate(&ring, -1, ECHO, &request);
		ring_submit(&ring);
		EQUAL(ring_wait(&ring).res, -EOPNOTSUPP);
		load(&second, ring.fd);
		ring_close(&ring);
	}
	/* Closed between loading and attaching. */
	link = try_attach(&second, ECHO);
	TRUE(!link && errno == EBADF);
	unload(&second);

	/* Ids that there cannot be, and an operation that does nothing. */
	for (unsigned kind = 0; kind < 3; kind++) {
		size_t size;
		struct bpf_object *object = bpf_object__open_file(getenv("OPERATIONS_OBJECT"), NULL);
		struct bpf_map *map = bpf_object__find_map_by_name(object, kind == 2 ? "no_issue" : "echo");
		struct ops *ops = bpf_map__initial_value(map, &size);

		ops->ring_fd = target;
		ops->id = kind == 0 ? 256 : kind == 1 ? 65535 : 77;
		struct bpf_map *each;
		bpf_object__for_each_map(each, object)
			if (bpf_map__type(each) == BPF_MAP_TYPE_STRUCT_OPS)
				bpf_map__set_autocreate(each, each == map);
		int failed = bpf_object__load(object);
		TRUE(failed || !bpf_map__attach_struct_ops(map));
		bpf_object__close(object);
	}
	world_close(&world);
}

static void link_next(struct io_uring_sqe *sqe, uint64_t user_data)
{
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = user_data;
}

static struct io_uring_sqe *nop(struct ring *ring, int result)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);

	sqe->opcode = IORING_OP_NOP;
	sqe->rw_flags = NOP_INJECT_RESULT;
	sqe->len = result;
	return sqe;
}

static void expect(struct ring *ring, uint64_t user_data, int res)
{
	struct completion cqe = ring_wait(ring);

	EQUAL(cqe.user_data, user_data);
	EQUAL(cqe.res, res);
}

/* The module does not hear of a cancelled request: it is submitted again to fail. */
static void fail_again(struct world *world, int operation, struct uring_bpf_request *request)
{
	if (engine == OPCODE)
		return;
	calls(world, 0, 0, 0, 0);
	operate(&world->ring, world->device, operation, request)->cmd_op |= URING_BPF_CMD_FAIL;
	ring_submit(&world->ring);
	EQUAL(ring_wait(&world->ring).res, -ECANCELED);
}

static void links(void)
{
	struct world world;
	uint8_t *memory = pages(2);
	struct uring_bpf_request request = two_buffers(memory, memory + 4096, 4096), after = no_buffers(8);
	int pair[2];

	world_open(&world, PLAIN);
	TRUE(!pipe(pair));
	/* A real chain, of which each link sees what the one before it did. */
	TRUE(write(pair[1], "0123456789", 10) == 10);
	struct io_uring_sqe *sqe = ring_sqe(&world.ring);
	sqe->opcode = IORING_OP_READ;
	sqe->fd = pair[0];
	sqe->addr = (uintptr_t)memory;
	sqe->len = 10;
	link_next(sqe, 1);
	request.buffers[0].len = request.buffers[1].len = 10;
	link_next(operate(&world.ring, world.device, COPY, &request), 2);
	sqe = ring_sqe(&world.ring);
	sqe->opcode = IORING_OP_WRITE;
	sqe->fd = pair[1];
	sqe->addr = (uintptr_t)memory + 4096;
	sqe->len = 10;
	sqe->user_data = 3;
	ring_submit(&world.ring);
	expect(&world.ring, 1, 10);
	expect(&world.ring, 2, 10);
	expect(&world.ring, 3, 10);
	char back[11] = "";
	TRUE(read(pair[0], back, 10) == 10 && !strcmp(back, "0123456789"));
	calls(&world, 1, 1, 0, 1);

	/* The same by workers. */
	for (unsigned i = 0; i < 3; i++) {
		sqe = i == 1 ? operate(&world.ring, world.device, ECHO, &after) : nop(&world.ring, 0);
		sqe->user_data = i;
		sqe->flags = IOSQE_ASYNC | (i < 2 ? IOSQE_IO_LINK : 0);
	}
	ring_submit(&world.ring);
	expect(&world.ring, 0, 0);
	expect(&world.ring, 1, 8);
	expect(&world.ring, 2, 0);
	calls(&world, 1, 1, 0, 1);

	/* What comes before it fails: it is never issued, what comes after it is cancelled as well. */
	for (unsigned kind = 0; kind < 2; kind++) {
		link_next(nop(&world.ring, -EIO), 1);
		link_next(operate(&world.ring, world.device, LOOK, &request), 2);
		nop(&world.ring, 0)->user_data = 3;
		if (kind == 1)
			world.ring.sqes[(*world.ring.sq_tail) & world.ring.sq_mask].flags |= IOSQE_ASYNC;
		ring_submit(&world.ring);
		expect(&world.ring, 1, -EIO);
		expect(&world.ring, 2, -ECANCELED);
		expect(&world.ring, 3, -ECANCELED);
		ring_enter(&world.ring, 0, 0);
		fail_again(&world, LOOK, &request);
		calls(&world, 1, 0, 1, 1);
		/* Buffers are not for fail. */
		EQUAL(world.loaded.counts->seen[2], 0);
	}

	/* A later link is malformed: nothing of the chain is issued. */
	link_next(nop(&world.ring, 0), 1);
	link_next(operate(&world.ring, world.device, LOOK, &request), 2);
	sqe = nop(&world.ring, 0);
	sqe->opcode = 250;
	sqe->user_data = 3;
	ring_submit(&world.ring);
	expect(&world.ring, 1, -ECANCELED);
	expect(&world.ring, 2, -ECANCELED);
	expect(&world.ring, 3, -EINVAL);
	ring_enter(&world.ring, 0, 0);
	fail_again(&world, LOOK, &request);
	calls(&world, 1, 0, 1, 1);

	/* It fails itself: what follows is cancelled, and after a hard link goes on. */
	struct uring_bpf_request failing = no_buffers(-EPERM);
	link_next(operate(&world.ring, world.device, RETURNS, &failing), 1);
	nop(&world.ring, 0)->user_data = 2;
	sqe = operate(&world.ring, world.device, RETURNS, &failing);
	sqe->flags = IOSQE_IO_HARDLINK;
	sqe->user_data = 3;
	operate(&world.ring, world.device, ECHO, &after)->user_data = 4;
	ring_submit(&world.ring);
	for (unsigned i = 0; i < 4; i++) {
		static const int wanted[] = {0, -EPERM, -ECANCELED, -EPERM, 8};
		struct completion cqe = ring_wait(&world.ring);

		EQUAL(cqe.res, wanted[cqe.user_data]);
	}
	calls(&world, 3, 3, 0, 3);

	/* A prep that refuses fails its chain. */
	link_next(operate(&world.ring, world.device, REFUSES, &failing), 1);
	nop(&world.ring, 0)->user_data = 2;
	ring_submit(&world.ring);
	expect(&world.ring, 1, -EPERM);
	expect(&world.ring, 2, -ECANCELED);
	calls(&world, 1, 0, 0, 1);

	/* It waits behind a read that never ends, and the read is cancelled. */
	sqe = ring_sqe(&world.ring);
	sqe->opcode = IORING_OP_READ;
	sqe->fd = pair[0];
	sqe->addr = (uintptr_t)memory;
	sqe->len = 1;
	link_next(sqe, 1);
	operate(&world.ring, world.device, LOOK, &request)->user_data = 2;
	sqe = ring_sqe(&world.ring);
	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	sqe->addr = 1;
	sqe->user_data = 3;
	ring_submit(&world.ring);
	for (unsigned i = 0; i < 3; i++) {
		static const int wanted[] = {0, -ECANCELED, -ECANCELED, 0};
		struct completion cqe = ring_wait(&world.ring);

		EQUAL(cqe.res, wanted[cqe.user_data]);
	}
	ring_enter(&world.ring, 0, 0);
	fail_again(&world, LOOK, &request);
	calls(&world, 1, 0, 1, 1);
	world_close(&world);
}

static void cancel(struct ring *ring, uint64_t user_data)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);

	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	sqe->addr = user_data;
	sqe->user_data = 99;
	ring_submit(ring);
}

static void start_slow(struct world *world, struct uring_bpf_request *request, uint64_t user_data)
{
	uint64_t steps = world->loaded.counts->steps;
	struct io_uring_sqe *sqe = operate(&world->ring, world->device, SLOW, request);

	sqe->flags = IOSQE_ASYNC;
	sqe->user_data = user_data;
	ring_submit(&world->ring);
	UNTIL(__atomic_load_n(&world->loaded.counts->steps, __ATOMIC_ACQUIRE) > steps);
}

static void cancellation(void)
{
	struct world world;
	uint8_t memory[16];
	struct uring_bpf_request endless = one_buffer(memory, 16, INT_MAX), second = endless, quick = no_buffers(1);
	unsigned workers[] = {1, 1};
	int seen[100] = {0};

	world_open(&world, PLAIN);
	TRUE(!syscall(SYS_io_uring_register, world.ring.fd, IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2));
	/* One that runs, one that waits for the only worker. */
	start_slow(&world, &endless, 1);
	struct io_uring_sqe *sqe = operate(&world.ring, world.device, SLOW, &second);
	sqe->flags = IOSQE_ASYNC;
	sqe->user_data = 2;
	ring_submit(&world.ring);
	zero_counts(&world.loaded);
	cancel(&world.ring, 2);
	for (unsigned i = 0; i < 2; i++) {
		struct completion cqe = ring_wait(&world.ring);
		seen[cqe.user_data] = cqe.res;
	}
	EQUAL(seen[2], -ECANCELED);
	EQUAL(seen[99], 0);
	ring_enter(&world.ring, 0, 0);
	if (engine == OPCODE)
		/* It was prepared before the counters were set back. */
		calls(&world, 0, 0, 1, 1);
	else
		calls(&world, 0, 0, 0, 0);
	cancel(&world.ring, 1);
	for (unsigned i = 0; i < 2; i++) {
		struct completion cqe = ring_wait(&world.ring);
		seen[cqe.user_data] = cqe.res;
	}
	EQUAL(seen[1], -EINTR);
	EQUAL(seen[99], -EALREADY);
	EQUAL(world.loaded.counts->cleaned, 1);
	zero_counts(&world.loaded);
	/* The worker is as good as before. */
	sqe = operate(&world.ring, world.device, ECHO, &quick);
	sqe->flags = IOSQE_ASYNC;
	ring_submit(&world.ring);
	EQUAL(ring_wait(&world.ring).res, 1);
	world_close(&world);
}

static char state_of(pid_t process)
{
	char path[64], line[512], *end;
	FILE *stream;

	snprintf(path, sizeof(path), "/proc/%d/stat", process);
	stream = fopen(path, "r");
	TRUE(stream && fgets(line, sizeof(line), stream));
	fclose(stream);
	end = strrchr(line, ')');
	TRUE(end);
	return end[2];
}

/* A process that is stopped and goes on is not one whose requests are cancelled. */
static void stopped_process(void)
{
	struct world world;
	uint8_t memory[16];
	struct uring_bpf_request request = one_buffer(memory, 16, INT_MAX);
	pid_t self = getpid(), child;
	int status;

	world_open(&world, PLAIN);
	start_slow(&world, &request, 1);
	child = fork();
	if (child == 0) {
		for (int i = 0; i < 3; i++) {
			kill(self, SIGSTOP);
			UNTIL(state_of(self) == 'T');
			kill(self, SIGCONT);
			UNTIL(state_of(self) != 'T');
		}
		_exit(0);
	}
	TRUE(waitpid(child, &status, 0) == child && status == 0);
	/* It goes on. */
	uint64_t steps = __atomic_load_n(&world.loaded.counts->steps, __ATOMIC_ACQUIRE);
	UNTIL(__atomic_load_n(&world.loaded.counts->steps, __ATOMIC_ACQUIRE) > steps + 1000);
	EQUAL(world.loaded.counts->cleaned, 0);
	cancel(&world.ring, 1);
	for (unsigned i = 0; i < 2; i++) {
		struct completion cqe = ring_wait(&world.ring);

		if (cqe.user_data == 1)
			EQUAL(cqe.res, -EINTR);
	}
	world_close(&world);
}

static void *destroy_link(void *link)
{
	bpf_link__destroy(link);
	return NULL;
}

/* The link goes while a worker runs its program. */
static void unregister_while_running(void)
{
	struct world world;
	uint8_t memory[16];
	struct uring_bpf_request request = one_buffer(memory, 16, 20000), late = one_buffer(memory, 16, 1);
	pthread_t thread;

	world_open(&world, PLAIN);
	start_slow(&world, &request, 1);
	pthread_create(&thread, NULL, destroy_link, world.links[SLOW]);
	world.links[SLOW] = NULL;
	pthread_join(thread, NULL);
	if (engine == MODULE) {
		/* It waited for the request. */
		EQUAL(world.loaded.counts->steps, 20000);
		EQUAL(world.loaded.counts->cleaned, 1);
	}
	/* The first may still be running where a request holds its operation; new ones do not find it. */
	operate(&world.ring, world.device, SLOW, &late)->user_data = 2;
	ring_submit(&world.ring);
	for (unsigned i = 0; i < 2; i++) {
		struct completion cqe = ring_wait(&world.ring);

		EQUAL(cqe.res, cqe.user_data == 1 ? 1 : -EOPNOTSUPP);
	}
	EQUAL(world.loaded.counts->steps, 20000);
	EQUAL(world.loaded.counts->cleaned, 1);
	world_close(&world);
}

/* Descriptors are closed while requests run, and in any order. */
static void closed_descriptors(void)
{
	for (unsigned order = 0; order < 4; order++) {
		struct world world;
		uint8_t memory[16];
		struct uring_bpf_request request = one_buffer(memory, 16, 5000);

		world_open(&world, PLAIN);
		start_slow(&world, &request, 1);
		if (order & 1) {
			/* The operations and their maps outlive the table's file. */
			if (engine == MODULE)
				close(world.device);
			EQUAL(ring_wait(&world.ring).res, 1);
			ring_close(&world.ring);
			for (int i = 0; i < OPERATIONS; i++)
				bpf_link__destroy(world.links[i]);
			unload(&world.loaded);
		} else if (order == 0) {
			/* The links go first, then all else, with the request still running perhaps. */
			for (int i = 0; i < OPERATIONS; i++)
				bpf_link__destroy(world.links[i]);
			unload(&world.loaded);
			if (engine == MODULE)
				close(world.device);
			EQUAL(ring_wait(&world.ring).res, 1);
			ring_close(&world.ring);
		} else {
			/* The ring is closed over the running request, which ends by itself or is cancelled. */
			ring_close(&world.ring);
			if (engine == MODULE)
				close(world.device);
			UNTIL(__atomic_load_n(&world.loaded.counts->cleaned, __ATOMIC_ACQUIRE) == 1);
			for (int i = 0; i < OPERATIONS; i++)
				bpf_link__destroy(world.links[i]);
			unload(&world.loaded);
		}
	}
}

/* A task dies in the middle of its requests. */
static void killed_process(void)
{
	for (unsigned kind = 0; kind < 2; kind++) {
		struct world world;
		pid_t child;
		int status;
		struct counts *counts;

		counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		child = fork();
		if (child == 0) {
			uint8_t memory[16];
			struct uring_bpf_request request = one_buffer(memory, 16, INT_MAX), others[4];

			world_open(&world, kind ? PLAIN : 0);
			start_slow(&world, &request, 1);
			for (unsigned i = 0; i < 4; i++) {
				others[i] = one_buffer(memory, 16, INT_MAX);
				operate(&world.ring, world.device, SLOW, &others[i])->flags = IOSQE_ASYNC;
			}
			ring_submit(&world.ring);
			counts->bad = 1;
			if (kind == 0)
				_exit(0);
			for (;;)
				pause();
		}
		UNTIL(__atomic_load_n(&counts->bad, __ATOMIC_ACQUIRE));
		if (kind == 1)
			kill(child, SIGKILL);
		TRUE(waitpid(child, &status, 0) == child);
	}
}

static void forked(void)
{
	struct world world;
	struct uring_bpf_request request = no_buffers(6);
	int status;
	pid_t child;

	world_open(&world, PLAIN);
	child = fork();
	if (child == 0) {
		if (engine == MODULE) {
			/* The table is the file's: the child uses it with a ring of its own. */
			struct ring ring;

			ring_open(&ring, 8, PLAIN);
			operate(&ring, world.device, ECHO, &request);
			ring_submit(&ring);
			EQUAL(ring_wait(&ring).res, 6);
			close(world.device);
		}
		_exit(0);
	}
	TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	EQUAL(run(&world, ECHO, &request), 6);
	/* The child outlives what its parent closes. */
	int start[2];
	TRUE(!pipe(start));
	child = fork();
	if (child == 0) {
		char byte;

		close(start[1]);
		TRUE(read(start[0], &byte, 1) == 0);
		if (engine == MODULE) {
			struct ring ring;

			ring_open(&ring, 8, PLAIN);
			operate(&ring, world.device, ECHO, &request);
			ring_submit(&ring);
			/* Its links are inherited descriptors as well, so that the operations are there. */
			EQUAL(ring_wait(&ring).res, 6);
		}
		_exit(0);
	}
	world_close(&world);
	close(start[1]);
	TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Operations in a chain that a loop hook submits: the ring has both, and it takes one enter. */
static void under_a_hook(void)
{
	struct world world;
	struct uring_bpf_request request = no_buffers(9), refused = no_buffers(-EPERM);
	struct counts *counts;
	struct bpf_link *hook;

	world_open(&world, PLAIN);
	counts = world.loaded.counts;
	hook = bpf_map__attach_struct_ops(bpf_object__find_map_by_name(world.loaded.object, "hook"));
	TRUE(hook);
	link_next(nop(&world.ring, 0), 1);
	link_next(operate(&world.ring, world.device, ECHO, &request), 2);
	link_next(operate(&world.ring, world.device, RETURNS, &refused), 3);
	operate(&world.ring, world.device, ECHO, &request)->user_data = 4;
	__atomic_store_n(world.ring.sq_tail, *world.ring.sq_tail + 4, __ATOMIC_RELEASE);
	world.ring.queued = 0;
	counts->offset = 4;
	counts->seen[1] = *world.ring.cq_tail + 4;
	EQUAL(ring_enter(&world.ring, 0, 0), 0);
	EQUAL(counts->seen[0], 4);
	EQUAL(counts->steps, 2);
	struct completion cqe;
	for (unsigned i = 1; i < 5; i++) {
		static const int wanted[] = {0, 0, 9, -EPERM, -ECANCELED};

		TRUE(ring_peek(&world.ring, &cqe));
		EQUAL(cqe.user_data, i);
		EQUAL(cqe.res, wanted[i]);
	}
	EQUAL(counts->issued, 2);
	EQUAL(counts->prepared, counts->cleaned);
	EQUAL(counts->failed, engine == OPCODE);
	/* Either goes without the other. */
	bpf_link__destroy(hook);
	EQUAL(run(&world, ECHO, &request), 9);
	world_close(&world);
}

/* --- the module's own */

static int insert_module(void)
{
	int fd = open(getenv("OPERATIONS_MODULE"), O_RDONLY | O_CLOEXEC), failed;

	TRUE(fd >= 0);
	failed = syscall(SYS_finit_module, fd, "", 0);
	close(fd);
	return failed;
}

static int remove_module(void)
{
	return syscall(SYS_delete_module, "aiouring_bpf", O_NONBLOCK);
}

/* Links and maps go in the background. */
static void remove_module_soon(void)
{
	while (remove_module())
		if (errno != EAGAIN && errno != EBUSY)
			FAIL("removing the module");
}

static void removal(void)
{
	struct world world;
	struct uring_bpf_request request = no_buffers(5);
	int device;

	world_open(&world, PLAIN);
	TRUE(remove_module() && (errno == EBUSY || errno == EAGAIN));
	/* An open file alone, links alone, a loaded map alone. */
	device = world.device;
	for (int i = 0; i < OPERATIONS; i++)
		if (i != ECHO)
			bpf_link__destroy(world.links[i]);
	EQUAL(run(&world, ECHO, &request), 5);
	close(device);
	TRUE(remove_module() && (errno == EBUSY || errno == EAGAIN));
	bpf_link__destroy(world.links[ECHO]);
	TRUE(remove_module() && (errno == EBUSY || errno == EAGAIN));
	unload(&world.loaded);
	ring_close(&world.ring);
	remove_module_soon();
	TRUE(open("/dev/aiouring_bpf", O_RDWR) < 0 && errno == ENOENT);
	TRUE(!insert_module());
	world_open(&world, PLAIN);
	EQUAL(run(&world, ECHO, &request), 5);
	/* A request that runs in a worker holds its file. */
	uint8_t memory[16];
	struct uring_bpf_request slow = one_buffer(memory, 16, 5000);
	start_slow(&world, &slow, 1);
	TRUE(remove_module() && (errno == EBUSY || errno == EAGAIN));
	EQUAL(ring_wait(&world.ring).res, 1);
	world_close(&world);
}

/* OPERATIONS_TIMES says another number, for trying it by hand. */
static unsigned times_or(unsigned usual)
{
	const char *wanted = getenv("OPERATIONS_TIMES");

	return wanted && *wanted ? (unsigned)atoi(wanted) : usual;
}

static unsigned programs(void)
{
	unsigned count = 0;
	uint32_t id = 0;

	while (!bpf_prog_get_next_id(id, &id))
		count++;
	return count;
}

/* Module and programs come and go; with nothing left of them. */
static void loading(void)
{
	/* The patched kernel checks every lock and looks for leaks itself, and takes several times as long for it. */
	unsigned before = programs(), times = times_or(engine == MODULE ? 200 : 50);

	only_echo = true;
	for (unsigned i = 0; i < times; i++) {
		struct world world;
		struct uring_bpf_request request = no_buffers(i);

		world_open(&world, PLAIN);
		EQUAL(run(&world, ECHO, &request), i);
		world_close(&world);
		if (engine == MODULE) {
			remove_module_soon();
			TRUE(!insert_module());
		}
	}
	UNTIL(programs() == before);
	printf("%u times loaded and unloaded; %u programs before and after\n", times, before);
}

static long kilobytes(const char *file, const char *key)
{
	char line[256];
	long value = -1;
	FILE *stream = fopen(file, "r");

	TRUE(stream);
	while (fgets(line, sizeof(line), stream))
		if (!strncmp(line, key, strlen(key)))
			value = atol(line + strlen(key) + 1);
	fclose(stream);
	TRUE(value >= 0);
	return value;
}

/* Many operations leave nothing. */
static void million(void)
{
	unsigned total = times_or(engine == MODULE ? 1000000 : 50000), warm = total / 10;
	struct world world;
	uint8_t *memory = pages(2);
	struct uring_bpf_request requests[32];
	long slab = 0, resident = 0;

	world_open(&world, PLAIN);
	for (unsigned i = 0; i < 32; i++)
		requests[i] = two_buffers(memory, memory + 4096, 64);
	for (unsigned done = 0; done < total; done += 32) {
		for (unsigned i = 0; i < 32; i++)
			/* One in 32 by way of a worker, one that fails, one that is refused. */
			operate(&world.ring, world.device, i == 1 ? RETURNS : i == 2 ? REFUSES : COPY, &requests[i])->flags =
				i == 0 && done % 1024 == 0 ? IOSQE_ASYNC : 0;
		requests[1].flags = requests[2].flags = -EPERM;
		ring_submit(&world.ring);
		for (unsigned i = 0; i < 32; i++)
			ring_wait(&world.ring);
		if (done / 32 == warm / 32) {
			slab = kilobytes("/proc/meminfo", "Slab:");
			resident = kilobytes("/proc/self/status", "VmRSS:");
		}
	}
	struct counts *counts = world.loaded.counts;
	EQUAL(counts->prepared, (total + 31) / 32 * 32);
	EQUAL(counts->prepared, counts->cleaned);
	/* A leak of one byte each would be a megabyte. */
	long slab_after = kilobytes("/proc/meminfo", "Slab:"), resident_after = kilobytes("/proc/self/status", "VmRSS:");
	printf("%u operations: slab %ld kB after a tenth, %ld kB at the end; RSS %ld kB, %ld kB\n", total, slab, slab_after, resident, resident_after);
	TRUE(slab_after - slab < 900 * (long)total / 1000000 + 1000);
	TRUE(resident_after - resident < 100);
	world_close(&world);
}

struct churn {
	struct loaded *loaded;
	bool stop;
	unsigned times;
};

static void *come_and_go(void *argument)
{
	struct churn *churn = argument;

	while (!__atomic_load_n(&churn->stop, __ATOMIC_ACQUIRE)) {
		struct bpf_link *link = attach(churn->loaded, ECHO);

		sched_yield();
		bpf_link__destroy(link);
		churn->times++;
	}
	return NULL;
}

/* An operation comes and goes under those who use it. */
static void churn(void)
{
	struct world world;
	struct uring_bpf_request requests[16];
	struct churn churn = {.loaded = &world.loaded};
	pthread_t thread;
	unsigned absent = 0, present = 0;

	world_open(&world, PLAIN);
	bpf_link__destroy(world.links[ECHO]);
	pthread_create(&thread, NULL, come_and_go, &churn);
	while (churn.times < 20 || !absent || !present) {
		for (unsigned i = 0; i < 16; i++) {
			requests[i] = no_buffers(1);
			operate(&world.ring, world.device, ECHO, &requests[i])->flags = i & 1 ? IOSQE_ASYNC : 0;
		}
		ring_submit(&world.ring);
		for (unsigned i = 0; i < 16; i++) {
			int res = ring_wait(&world.ring).res;

			TRUE(res == 1 || res == -EOPNOTSUPP);
			res == 1 ? present++ : absent++;
		}
	}
	__atomic_store_n(&churn.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	world.links[ECHO] = NULL;
	EQUAL(world.loaded.counts->prepared, world.loaded.counts->cleaned);
	EQUAL(world.loaded.counts->issued, present);
	printf("%u times registered; %u requests found it, %u did not\n", churn.times, present, absent);
	world_close(&world);
}

/* Programs that would reach what is not theirs are not loaded. */
static void refused_programs(void)
{
	static const char *const names[] = {
		"writes_flags",	 "writes_result",      "writes_lengths", "writes_beyond",     "writes_across",  "reads_beyond",
		"other_address", "number_for_address", "reads_too_much", "unchecked_scratch", "beyond_scratch",
	};

	libbpf_set_print(NULL);
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		struct bpf_object *object = bpf_object__open_file(getenv("OPERATIONS_OBJECT"), NULL);
		struct bpf_map *map, *wanted = bpf_object__find_map_by_name(object, names[i]);

		TRUE(wanted);
		bpf_object__for_each_map(map, object)
			if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
				bpf_map__set_autocreate(map, map == wanted);
		int failed = bpf_object__load(object);
		if (failed != -EACCES && failed != -EINVAL)
			FAIL("%s was loaded, or refused with %d", names[i], failed);
		bpf_object__close(object);
	}
}

static const struct test {
	const char *name;
	void (*run)(void);
	int engines; /* bits */
} tests[] = {
	{"results", results, 3},
	{"kinds_of_rings", kinds_of_rings, 3},
	{"polled_ring", polled_ring, 3},
	{"return_values", return_values, 3},
	{"copies", copies, 3},
	{"addresses", addresses, 3},
	{"malformed", malformed, 3},
	{"ranges", ranges, 3},
	{"registered_buffers", registered_buffers, 3},
	{"what_callbacks_see", what_callbacks_see, 3},
	{"registration", registration, 3},
	{"links", links, 3},
	{"cancellation", cancellation, 3},
	{"stopped_process", stopped_process, 3},
	{"unregister_while_running", unregister_while_running, 3},
	{"closed_descriptors", closed_descriptors, 3},
	{"killed_process", killed_process, 3},
	{"forked", forked, 3},
	{"refused_programs", refused_programs, 3},
	{"table_of_another", table_of_another, 1},
	{"ring_of_another", ring_of_another, 2},
	{"link_of_a_closed_ring", link_of_a_closed_ring, 2},
	{"without_a_link", without_a_link, 3},
	{"cancelled_is_never_begun", cancelled_is_never_begun, 3},
	{"churn", churn, 3},
	{"under_a_hook", under_a_hook, 3},
	{"removal", removal, 1},
	{"loading", loading, 3},
	{"million", million, 3},
};

static void find_opcode(void)
{
	struct btf *btf = btf__load_vmlinux_btf();

	TRUE(btf);
	for (unsigned id = 1; id < btf__type_cnt(btf); id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);

		if (!btf_is_enum(type) || strcmp(btf__name_by_offset(btf, type->name_off), "io_uring_op"))
			continue;
		for (unsigned i = 0; i < btf_vlen(type); i++)
			if (!strcmp(btf__name_by_offset(btf, btf_enum(type)[i].name_off), "IORING_OP_BPF"))
				opcode_number = btf_enum(type)[i].val;
	}
	btf__free(btf);
	if (!opcode_number)
		FAIL("this kernel has no IORING_OP_BPF");
}

int main(int count, char **arguments)
{
	bool list = count == 3 && !strcmp(arguments[1], "--list");

	if (count != 3) {
		fprintf(stderr, "usage: %s module|opcode TEST | --list module|opcode\n", arguments[0]);
		return 2;
	}
	engine = !strcmp(arguments[list ? 2 : 1], "opcode") ? OPCODE : MODULE;
	if (!list && engine == OPCODE)
		find_opcode();
	for (unsigned i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		if (!(tests[i].engines & 1 << engine))
			continue;
		if (list) {
			puts(tests[i].name);
		} else if (!strcmp(arguments[2], tests[i].name)) {
			tests[i].run();
			printf("ok %s\n", tests[i].name);
			return 0;
		}
	}
	if (list)
		return 0;
	fprintf(stderr, "no test %s\n", arguments[2]);
	return 2;
}
