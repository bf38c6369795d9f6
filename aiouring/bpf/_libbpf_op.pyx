"""Loads operations into the kernel: a thin layer over libbpf, called once per operation and loop.

Used by `aiouring.bpf.ops`; calls libbpf (linked statically) and nothing of the loop. A build without libbpf lacks this module, and
`aiouring.bpf.ops` says so.

An OperationObject is open → loaded → closed. For the engine prog_run it gives a descriptor to run, the mapped variable `aiouring_run` (op_inline.h)
and the shadow; for the engines that the kernel has itself, it is a struct_ops object that is attached to a ring, or to an open /dev/aiouring_bpf,
under an id.

Who owns what: an OperationObject owns libbpf's object with all its descriptors and mappings, the mapped shadow, and the link. Its addresses are
valid until close().
"""

from libc.errno cimport EINVAL, errno
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, strcmp
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

import os

from aiouring.bpf.errors import OperationError, OperationRefused

cdef extern from "aiouring_libbpf.h" nogil:
    struct bpf_object
    struct bpf_map
    struct bpf_program
    struct bpf_link
    struct btf
    struct btf_type:
        uint32_t name_off, size, type
    struct btf_member:
        uint32_t name_off, type
    struct btf_enum:
        uint32_t name_off
        int32_t val
    struct btf_var_secinfo:
        uint32_t type, offset, size
    enum:
        BTF_KIND_STRUCT, BTF_KIND_DATASEC, BTF_KIND_ENUM
        BPF_MAP_TYPE_STRUCT_OPS

    int btf__find_by_name_kind(const btf *types, const char *name, uint32_t kind)
    const btf_type *btf__type_by_id(const btf *types, uint32_t id)
    const char *btf__name_by_offset(const btf *types, uint32_t offset)
    uint16_t btf_vlen(const btf_type *type)
    btf_member *btf_members(const btf_type *type)
    btf_enum *btf_enum_of "btf_enum"(const btf_type *type)
    btf *btf__load_vmlinux_btf()
    void btf__free(btf *types)
    uint32_t btf_member_bit_offset(const btf_type *type, uint32_t index)
    btf_var_secinfo *btf_var_secinfos(const btf_type *type)

    void bpf_object__close(bpf_object *object)
    btf *bpf_object__btf(const bpf_object *object)
    bpf_map *bpf_object__next_map(const bpf_object *object, const bpf_map *previous)
    bpf_map *bpf_object__find_map_by_name(const bpf_object *object, const char *name)
    bpf_program *bpf_object__find_program_by_name(const bpf_object *object, const char *name)
    int bpf_map__type(const bpf_map *map)
    int bpf_map__fd(const bpf_map *map)
    int bpf_map__set_value_size(bpf_map *map, uint32_t size)
    void *bpf_map__initial_value(const bpf_map *map, size_t *size)
    int bpf_program__fd(const bpf_program *program)
    bpf_link *bpf_map__attach_struct_ops(const bpf_map *map)
    int bpf_link__destroy(bpf_link *link)

    bpf_object *aiouring_bpf_open(const void *image, size_t size, const char *name, char **log)
    int aiouring_bpf_load(bpf_object *object, char **log)
    int aiouring_bpf_watch_forks()

cdef extern from "aiouring/op_inline.h" nogil:
    enum:
        AIOURING_OP_ABI
        AIOURING_WRITES_ALL
        URING_BPF_BYTES_MAX
        URING_BPF_CHUNK_BYTES
    struct aiouring_op_info:
        uint32_t abi, buffers_min, buffers_max, traits
        char name[32]
    struct aiouring_op_run:
        pass

# A fork must not leave the child with a lock that another thread holds.
if aiouring_bpf_watch_forks() != 0:
    raise MemoryError("pthread_atfork failed")


cdef take_log(char *log):
    if log == NULL:
        return ""
    try:
        return log.decode("utf-8", "replace")
    finally:
        free(log)


cdef int known_error(int error):
    # libbpf has numbers of its own beside the kernel's.
    return error if 0 < error < 4000 else EINVAL


def kernel_opcode():
    """The number of IORING_OP_BPF in the running kernel, -1 where it has none. Reads all of the kernel's types, which takes some milliseconds."""
    cdef btf *types
    cdef const btf_type *type
    cdef btf_enum *values
    cdef int type_id, i, found = -1
    with nogil:
        types = btf__load_vmlinux_btf()
    if types == NULL:
        return -1
    type_id = btf__find_by_name_kind(types, b"io_uring_op", BTF_KIND_ENUM)
    if type_id >= 0:
        type = btf__type_by_id(types, <uint32_t>type_id)
        values = btf_enum_of(type)
        for i in range(btf_vlen(type)):
            if strcmp(btf__name_by_offset(types, values[i].name_off), b"IORING_OP_BPF") == 0:
                found = values[i].val
    btf__free(types)
    return found


cdef class OperationObject:
    """An operation's object file, opened and then loaded. `info` is its declaration: (name, buffers at least, at most, traits)."""

    cdef bpf_object *object
    cdef bpf_link *link
    cdef readonly str path
    cdef readonly tuple info
    cdef char *shadow
    cdef char *globals
    cdef size_t shadow_bytes, globals_bytes
    cdef object process             # the one that attached: a forked child must not detach for its parent

    def __cinit__(self, path, image):
        """Opens an object file, given as its path for errors and its bytes. Raises OperationRefused for what is no object of an operation."""
        cdef char *log = NULL
        cdef bytes contents = image, short = os.path.basename(path).split(".")[0].encode()
        cdef const char *bytes_of_image = contents
        cdef const char *bytes_of_name = short
        cdef size_t size = len(contents)
        cdef aiouring_op_info *declared
        self.path = path
        with nogil:
            self.object = aiouring_bpf_open(bytes_of_image, size, bytes_of_name, &log)
        error, said = errno, take_log(log)
        if self.object == NULL:
            raise OperationRefused(known_error(error), "this is no object file of BPF programs that libbpf could read", path, said)
        declared = <aiouring_op_info *>self.variable(b".rodata", b"aiouring_operation_info", sizeof(aiouring_op_info))
        if declared == NULL:
            raise OperationRefused(EINVAL, "this object holds no operation that AIOURING_OP declares", path)
        if declared.abi != AIOURING_OP_ABI:
            raise OperationRefused(EINVAL, f"it was built for version {declared.abi} of operations, and this is {AIOURING_OP_ABI}: "
                                           "build it again with `python -m aiouring build-op`", path)
        declared.name[31] = 0
        self.info = (declared.name.decode("utf-8", "replace"), declared.buffers_min, declared.buffers_max, declared.traits)

    cdef void *variable(self, const char *section, const char *name, size_t size) noexcept:
        """Where a variable of a section is in memory; NULL: there is none of this size."""
        cdef btf *types = bpf_object__btf(self.object)
        cdef bpf_map *map = bpf_object__find_map_by_name(self.object, section)
        cdef const btf_type *type
        cdef btf_var_secinfo *variables
        cdef char *image
        cdef size_t image_bytes = 0
        cdef int id, i
        if types == NULL or map == NULL:
            return NULL
        id = btf__find_by_name_kind(types, section, BTF_KIND_DATASEC)
        image = <char *>bpf_map__initial_value(map, &image_bytes)
        if id < 0 or image == NULL:
            return NULL
        type = btf__type_by_id(types, <uint32_t>id)
        variables = btf_var_secinfos(type)
        for i in range(btf_vlen(type)):
            if strcmp(btf__name_by_offset(types, btf__type_by_id(types, variables[i].type).name_off), name) == 0:
                if variables[i].size == size and variables[i].offset + size <= image_bytes:
                    return image + <size_t>variables[i].offset
        return NULL

    cdef load(self):
        cdef char *log = NULL
        cdef bpf_object *object = self.object
        cdef int result
        if object == NULL:
            raise RuntimeError(f"{self.path} is closed")
        with nogil:
            result = aiouring_bpf_load(object, &log)
        said = take_log(log)
        if result < 0:
            raise OperationRefused(known_error(-result), f"{self.info[0]}: the kernel refused the operation", self.path, said)

    def load_to_run(self):
        """Load it for the engine prog_run. Returns the program's descriptor, the address of its `aiouring_run`, and those of the shadow for each
        buffer that it may write (0 where it writes none). Needs CAP_BPF and CAP_PERFMON; the verifier takes milliseconds. Raises
        OperationRefused."""
        cdef bpf_map *map = bpf_object__find_map_by_name(self.object, b"aiouring_shadow")
        cdef bpf_program *program = bpf_object__find_program_by_name(self.object, b"aiouring_operation")
        cdef uint64_t *last = <uint64_t *>self.variable(b".rodata", b"aiouring_shadow_last", sizeof(uint64_t))
        cdef bpf_map *globals = bpf_object__find_map_by_name(self.object, b".bss")
        cdef void *run = self.variable(b".bss", b"aiouring_run", sizeof(aiouring_op_run))
        cdef size_t buffers = 0, bytes_of_globals = 0, place
        if map == NULL or program == NULL or last == NULL or run == NULL:
            raise OperationRefused(EINVAL, f"{self.info[0]}: this object was not built for BPF_PROG_RUN", self.path)
        if self.info[3] & AIOURING_WRITES_ALL:
            buffers = 2 if self.info[3] & AIOURING_WRITES_ALL == AIOURING_WRITES_ALL else 1
            last[0] = buffers * URING_BPF_BYTES_MAX
            self.shadow_bytes = buffers * URING_BPF_BYTES_MAX + URING_BPF_CHUNK_BYTES
            if bpf_map__set_value_size(map, <uint32_t>self.shadow_bytes) != 0:
                raise OperationRefused(errno, f"{self.info[0]}: its shadow cannot be sized", self.path)
        place = <char *>run - <char *>bpf_map__initial_value(globals, &bytes_of_globals)
        self.load()
        if buffers:
            self.shadow = self.map_memory(bpf_map__fd(map), self.shadow_bytes)
        self.globals_bytes = bytes_of_globals
        self.globals = self.map_memory(bpf_map__fd(globals), bytes_of_globals)
        return bpf_program__fd(program), <uintptr_t>(self.globals + place), <uintptr_t>self.shadow

    cdef char *map_memory(self, int fd, size_t size) except NULL:
        cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if memory == MAP_FAILED:
            raise OperationError(errno, f"{self.info[0]}: its memory cannot be mapped: {os.strerror(errno)}", self.path)
        return <char *>memory

    def load_and_attach(self, int number, int ring_fd):
        """Load it as the operation `number` of a ring, or of an open /dev/aiouring_bpf. Raises OperationRefused, also where the kernel has no such
        operations."""
        cdef bpf_map *map = bpf_object__next_map(self.object, NULL)
        cdef btf *types = bpf_object__btf(self.object)
        cdef const btf_type *type
        cdef btf_member *members
        cdef const char *name
        cdef char *image
        cdef size_t size = 0
        cdef uint16_t short_id = <uint16_t>number
        cdef int32_t fd = ring_fd
        cdef int type_id, i
        while map != NULL and bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS:
            map = bpf_object__next_map(self.object, map)
        type_id = btf__find_by_name_kind(types, b"uring_bpf_ops", BTF_KIND_STRUCT)
        image = <char *>bpf_map__initial_value(map, &size) if map != NULL else NULL
        if type_id < 0 or image == NULL:
            raise OperationRefused(EINVAL, f"{self.info[0]}: this object was not built for the kernel's requests", self.path)
        type = btf__type_by_id(types, <uint32_t>type_id)
        members = btf_members(type)
        for i in range(btf_vlen(type)):
            name = btf__name_by_offset(types, members[i].name_off)
            if strcmp(name, b"id") == 0:
                memcpy(image + btf_member_bit_offset(type, i) // 8, &short_id, sizeof(short_id))
            elif strcmp(name, b"ring_fd") == 0:
                memcpy(image + btf_member_bit_offset(type, i) // 8, &fd, sizeof(fd))
        self.load()
        with nogil:
            self.link = bpf_map__attach_struct_ops(map)
        if self.link == NULL:
            error = errno
            raise OperationRefused(known_error(error), f"{self.info[0]}: the kernel did not take it as operation {number}", self.path)
        self.process = os.getpid()

    def close(self):
        """Free everything; may be called again. No request may be in flight."""
        if self.link != NULL and self.process == os.getpid():
            with nogil:
                bpf_link__destroy(self.link)
            self.link = NULL
        if self.object != NULL:
            bpf_object__close(self.object)
            self.object = NULL
        if self.shadow != NULL:
            munmap(self.shadow, self.shadow_bytes)
            self.shadow = NULL
        if self.globals != NULL:
            munmap(self.globals, self.globals_bytes)
            self.globals = NULL

    def __dealloc__(self):
        self.close()
