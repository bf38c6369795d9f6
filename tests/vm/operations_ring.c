/* Rings by bare system calls, and the loading of test operations; see operations.h. */
#include "operations.h"

enum engine engine;
int opcode_number;
int hook_ring = -1;

static const char *const names[OPERATIONS] = {"echo", "returns", "refuses", "copy", "range", "slow", "look_around"};
/* Spread over the whole range: the last is the highest that there is. */
static const int ids[OPERATIONS] = {0, 1, 2, 3, 128, 254, 255};

void ring_open(struct ring *ring, unsigned entries, unsigned flags)
{
	struct io_uring_params params = {.flags = flags};

	memset(ring, 0, sizeof(*ring));
	ring->fd = syscall(SYS_io_uring_setup, entries, &params);
	if (ring->fd < 0)
		FAIL("io_uring_setup with flags %#x", flags);
	ring->flags = params.flags;
	ring->rings_bytes = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	if (ring->rings_bytes < params.sq_off.array + params.sq_entries * 4)
		ring->rings_bytes = params.sq_off.array + params.sq_entries * 4;
	ring->sqes_bytes = params.sq_entries * sizeof(struct io_uring_sqe);
	ring->rings = mmap(NULL, ring->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQES);
	if (ring->rings == MAP_FAILED || ring->sqes == MAP_FAILED)
		FAIL("mmap of a ring");
	ring->sq_head = ring->rings + params.sq_off.head;
	ring->sq_tail = ring->rings + params.sq_off.tail;
	ring->sq_mask = params.sq_entries - 1;
	ring->cq_head = ring->rings + params.cq_off.head;
	ring->cq_tail = ring->rings + params.cq_off.tail;
	ring->cq_mask = params.cq_entries - 1;
	ring->cqes = ring->rings + params.cq_off.cqes;
	for (unsigned i = 0; i < params.sq_entries; i++)
		((unsigned *)(ring->rings + params.sq_off.array))[i] = i;
}

void ring_close(struct ring *ring)
{
	munmap(ring->rings, ring->rings_bytes);
	munmap(ring->sqes, ring->sqes_bytes);
	close(ring->fd);
}

struct io_uring_sqe *ring_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe = &ring->sqes[(*ring->sq_tail + ring->queued++) & ring->sq_mask];

	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

int ring_enter(struct ring *ring, unsigned submit, unsigned wait)
{
	int done;

	do
		done = syscall(SYS_io_uring_enter, ring->fd, submit, wait, IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP, NULL, 0);
	while (done < 0 && errno == EINTR);
	return done;
}

void ring_submit(struct ring *ring)
{
	unsigned count = ring->queued;

	ring->queued = 0;
	__atomic_store_n(ring->sq_tail, *ring->sq_tail + count, __ATOMIC_RELEASE);
	if (ring_enter(ring, count, 0) != (int)count)
		FAIL("io_uring_enter did not take %u requests", count);
}

bool ring_peek(struct ring *ring, struct completion *completion)
{
	if (*ring->cq_head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	const struct io_uring_cqe *cqe = &ring->cqes[*ring->cq_head & ring->cq_mask];
	*completion = (struct completion){.user_data = cqe->user_data, .res = cqe->res};
	__atomic_store_n(ring->cq_head, *ring->cq_head + 1, __ATOMIC_RELEASE);
	return true;
}

struct completion ring_wait(struct ring *ring)
{
	struct completion completion;

	while (!ring_peek(ring, &completion))
		if (ring_enter(ring, 0, 1) < 0)
			FAIL("io_uring_enter");
	return completion;
}

int device_open(void)
{
	int fd = open("/dev/aiouring_bpf", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		FAIL("/dev/aiouring_bpf");
	return fd;
}

int operation_id(int operation)
{
	return ids[operation];
}

static struct bpf_map *map_of(struct loaded *loaded, int operation)
{
	struct bpf_map *map = bpf_object__find_map_by_name(loaded->object, names[operation]);

	if (!map)
		FAIL("no operation %s", names[operation]);
	return map;
}

bool only_echo;

void load(struct loaded *loaded, int target)
{
	struct bpf_map *map;
	size_t size;

	loaded->object = bpf_object__open_file(getenv("OPERATIONS_OBJECT"), NULL);
	if (!loaded->object)
		FAIL("the object %s", getenv("OPERATIONS_OBJECT"));
	/* All that are to be refused stay away. */
	bpf_object__for_each_map(map, loaded->object)
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			bpf_map__set_autocreate(map, false);
	for (int i = 0; i < (only_echo ? 1 : OPERATIONS); i++) {
		struct ops *ops = bpf_map__initial_value(map_of(loaded, i), &size);

		ops->id = ids[i];
		ops->ring_fd = target;
		bpf_map__set_autocreate(map_of(loaded, i), true);
	}
	struct bpf_map *hook_map = bpf_object__find_map_by_name(loaded->object, "hook");
	((struct hook *)bpf_map__initial_value(hook_map, &size))->ring_fd = hook_ring;
	bpf_map__set_autocreate(hook_map, !only_echo);
	if (bpf_object__load(loaded->object))
		FAIL("loading");
	bpf_object__for_each_map(map, loaded->object)
		if (strstr(bpf_map__name(map), ".bss"))
			loaded->counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
	TRUE(loaded->counts && loaded->counts != MAP_FAILED);
}

struct bpf_link *try_attach(struct loaded *loaded, int operation)
{
	return bpf_map__attach_struct_ops(map_of(loaded, operation));
}

struct bpf_link *attach(struct loaded *loaded, int operation)
{
	struct bpf_link *link = try_attach(loaded, operation);

	if (!link)
		FAIL("attaching %s", names[operation]);
	return link;
}

void unload(struct loaded *loaded)
{
	munmap(loaded->counts, 4096);
	bpf_object__close(loaded->object);
	loaded->object = NULL;
}

void zero_counts(struct loaded *loaded)
{
	memset(loaded->counts, 0, sizeof(*loaded->counts));
}

void world_open(struct world *world, unsigned ring_flags)
{
	ring_open(&world->ring, 64, ring_flags);
	hook_ring = world->ring.fd;
	world->device = engine == MODULE ? device_open() : -1;
	load(&world->loaded, engine == MODULE ? world->device : world->ring.fd);
	for (int i = 0; i < (only_echo ? 1 : OPERATIONS); i++)
		world->links[i] = attach(&world->loaded, i);
}

void world_close(struct world *world)
{
	for (int i = 0; i < (only_echo ? 1 : OPERATIONS); i++)
		bpf_link__destroy(world->links[i]);
	unload(&world->loaded);
	if (world->device >= 0)
		close(world->device);
	ring_close(&world->ring);
}

struct io_uring_sqe *operate_at(struct ring *ring, int device, int operation, uint64_t address)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);

	if (engine == MODULE) {
		sqe->opcode = IORING_OP_URING_CMD;
		sqe->fd = device;
		sqe->cmd_op = ids[operation];
		memcpy(sqe->cmd, &address, sizeof(address));
	} else {
		sqe->opcode = opcode_number;
		sqe->fd = -1;
		sqe->rw_flags = (unsigned)ids[operation] << 24;
		sqe->addr = address;
	}
	return sqe;
}

struct io_uring_sqe *operate(struct ring *ring, int device, int operation, struct uring_bpf_request *request)
{
	struct io_uring_sqe *sqe = operate_at(ring, device, operation, (uintptr_t)request);

	for (unsigned i = 0; engine == MODULE && i < URING_BPF_BUFFERS_MAX && i < request->buffer_count; i++)
		if (request->buffers[i].type == IO_BPF_BUF_FIXED) {
			sqe->rw_flags = COMMAND_FIXED;
			sqe->buf_index = request->buffers[i].buf_index;
		}
	return sqe;
}

int32_t run(struct world *world, int operation, struct uring_bpf_request *request)
{
	operate(&world->ring, world->device, operation, request)->user_data = 0xabc;
	ring_submit(&world->ring);
	struct completion cqe = ring_wait(&world->ring);
	EQUAL(cqe.user_data, 0xabc);
	return cqe.res;
}
