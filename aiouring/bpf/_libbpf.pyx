"""Loads hook programs into the kernel: a thin layer over libbpf, called once per hook.

Used by `aiouring.bpf`; calls libbpf (linked statically) and nothing of the loop. A build without libbpf lacks this module, and `aiouring.bpf`
says so.

An Object goes through the states open → loaded → closed. Attaching is a state of its own: the kernel's struct_ops map gets its value once
(`register`), with the number of the ring's descriptor in it, and a link on that map is the attachment. Who makes the link needs no privileges;
the number is looked up then, in the table of descriptors of the process that attaches. So a privileged process can load for another one, which
adopts the maps.

Who owns what: a Handle owns libbpf's object, with its maps' and programs' descriptors; Object and Map hold the handle. A Memory owns one mapping of a
map's contents, whose pages stay as long as a memoryview of it does, whatever is closed before. An arena is mapped by libbpf, so its Memory holds
the handle.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EBUSY, EINVAL, ENODATA, ENOENT, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close as posix_close

import collections
import fcntl
import os

from aiouring.bpf import support
from aiouring.bpf.errors import HookError, HookRefused

cdef extern from "aiouring_libbpf.h" nogil:
    struct btf:
        pass
    struct btf_type:
        uint32_t name_off, size, type
    struct btf_member:
        uint32_t name_off, type
    struct btf_array:
        uint32_t type, nelems
    struct btf_var_secinfo:
        uint32_t type, offset, size
    struct bpf_program:
        pass
    struct bpf_map_info:
        uint32_t type, key_size, value_size, max_entries, map_flags
        uint64_t map_extra

    enum:
        BTF_KIND_STRUCT, BTF_KIND_DATASEC, BTF_KIND_INT, BTF_KIND_ENUM, BTF_KIND_ENUM64, BTF_KIND_PTR, BTF_KIND_ARRAY, BTF_KIND_FLOAT
        BTF_INT_SIGNED, BTF_INT_BOOL
        BPF_MAP_TYPE_STRUCT_OPS, BPF_MAP_TYPE_ARRAY
        BPF_MAP_TYPE_ARENA "AIOURING_BPF_MAP_TYPE_ARENA"
        BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE
        BPF_F_MMAPABLE, BPF_F_RDONLY_PROG
        BPF_STRUCT_OPS "AIOURING_BPF_STRUCT_OPS"

    btf *btf__load_vmlinux_btf()
    void btf__free(btf *types)
    int btf__find_by_name_kind(const btf *types, const char *name, uint32_t kind)
    const btf_type *btf__type_by_id(const btf *types, uint32_t id)
    const char *btf__name_by_offset(const btf *types, uint32_t offset)
    uint32_t btf__type_cnt(const btf *types)
    uint16_t btf_kind(const btf_type *type)
    uint16_t btf_vlen(const btf_type *type)
    uint8_t btf_int_encoding(const btf_type *type)
    btf_array *btf_array_of "btf_array"(const btf_type *type)
    btf_member *btf_members(const btf_type *type)
    uint32_t btf_member_bit_offset(const btf_type *type, uint32_t index)
    btf_var_secinfo *btf_var_secinfos(const btf_type *type)
    bint btf_is_mod(const btf_type *type)
    bint btf_is_typedef(const btf_type *type)

    void bpf_object__close(bpf_object *object)
    btf *bpf_object__btf(const bpf_object *object)
    bpf_map *bpf_object__next_map(const bpf_object *object, const bpf_map *previous)
    bpf_map *bpf_object__find_map_by_name(const bpf_object *object, const char *name)
    const char *bpf_map__name(const bpf_map *map)
    int bpf_map__type(const bpf_map *map)
    int bpf_map__fd(const bpf_map *map)
    void *bpf_map__initial_value(const bpf_map *map, size_t *size)
    int bpf_program__fd(const bpf_program *program)

    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_map_get_next_key(int fd, const void *key, void *next)
    int bpf_map_get_info_by_fd(int fd, bpf_map_info *info, uint32_t *size)
    int bpf_link_create(int fd, int target, int kind, void *options)
    int bpf_link_detach(int fd)
    int bpf_obj_pin(int fd, const char *path)
    int bpf_obj_get(const char *path)
    int libbpf_num_possible_cpus()

    bpf_object *aiouring_bpf_open(const void *image, size_t size, const char *name, char **log)
    int aiouring_bpf_load(bpf_object *object, char **log)
    int aiouring_bpf_watch_forks()

LIBBPF_ERRNO_START = 4000
STRUCT_OPS = "io_uring_bpf_ops"
PERCPU_TYPES = frozenset({
    BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
})
# Of an object's own sections, those that the kernel has as maps of one value.
DATA_SECTIONS = (".data", ".bss", ".rodata")

# One variable of a section: its place, and its elements' format as `struct` and memoryview name it ("B" also for what has no such format).
Variable = collections.namedtuple("Variable", "section offset size format")

# A fork must not leave the child with a lock that another thread holds.
if aiouring_bpf_watch_forks() != 0:
    raise MemoryError("pthread_atfork failed")

cdef object page_bytes = os.sysconf("SC_PAGE_SIZE")
# Places of the members of the kernel's struct_ops value, which only the running kernel knows; read once.
cdef dict kernel_layout = None


cdef take_log(char *log):
    if log == NULL:
        return ""
    try:
        return log.decode("utf-8", "replace")
    finally:
        free(log)


cdef str text(const char *name):
    return name.decode("utf-8", "replace") if name != NULL else ""


cdef format_of(const btf *types, uint32_t type_id):
    """The format of a variable's elements, by its type."""
    cdef const btf_type *type
    cdef uint16_t kind
    while True:
        type = btf__type_by_id(types, type_id)
        if type == NULL:
            return "B"
        if btf_is_mod(type) or btf_is_typedef(type):
            type_id = type.type
            continue
        kind = btf_kind(type)
        if kind != BTF_KIND_ARRAY:
            break
        type_id = btf_array_of(type).type
    if kind == BTF_KIND_INT:
        if btf_int_encoding(type) & BTF_INT_BOOL:
            return "?"
        found = {1: "B", 2: "H", 4: "I", 8: "Q"}.get(type.size, "B")
        return found.lower() if btf_int_encoding(type) & BTF_INT_SIGNED else found
    if kind == BTF_KIND_ENUM or kind == BTF_KIND_ENUM64:
        return {1: "B", 2: "H", 4: "I", 8: "Q"}.get(type.size, "B")
    if kind == BTF_KIND_FLOAT:
        return {4: "f", 8: "d"}.get(type.size, "B")
    return "Q" if kind == BTF_KIND_PTR else "B"


cdef dict members_of(const btf *types, int type_id):
    """Offsets in bytes and types of a structure's members."""
    cdef const btf_type *type = btf__type_by_id(types, type_id)
    cdef btf_member *members = btf_members(type)
    return {
        text(btf__name_by_offset(types, members[i].name_off)): (btf_member_bit_offset(type, i) // 8, members[i].type)
        for i in range(btf_vlen(type))
    }


cdef layout_of_kernel():
    """Offsets of the members of io_uring_bpf_ops in the value that the kernel's struct_ops map takes."""
    global kernel_layout
    cdef btf *types
    cdef int value_id, data_id
    if kernel_layout is None:
        types = btf__load_vmlinux_btf()
        if types == NULL:
            raise HookError(errno, f"the kernel's types cannot be read: {os.strerror(errno)}", "/sys/kernel/btf/vmlinux")
        try:
            value_id = btf__find_by_name_kind(types, b"bpf_struct_ops_io_uring_bpf_ops", BTF_KIND_STRUCT)
            data_id = btf__find_by_name_kind(types, b"io_uring_bpf_ops", BTF_KIND_STRUCT)
            if value_id < 0 or data_id < 0:
                raise HookError(ENOENT, "this kernel has no io_uring_bpf_ops", "/sys/kernel/btf/vmlinux")
            begin = members_of(types, value_id)["data"][0]
            kernel_layout = {name: begin + offset for name, (offset, _) in members_of(types, data_id).items()}
        finally:
            btf__free(types)
    return kernel_layout


cdef class Handle:
    """Owns libbpf's object."""

    def __dealloc__(self):
        if self.object != NULL:
            bpf_object__close(self.object)


cdef class Memory:
    """A map's contents in this process's memory; memoryview(it) gives the bytes."""

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.address, self.size, self.readonly, flags)

    def __len__(self):
        return self.size

    def __dealloc__(self):
        if self.mapped_bytes:
            munmap(self.address, self.mapped_bytes)


cdef Memory map_fd(int fd, size_t size, bint readonly, source):
    cdef Memory memory = Memory.__new__(Memory)
    cdef size_t whole = (size + page_bytes - 1) // page_bytes * page_bytes
    cdef void *address = mmap(NULL, whole, PROT_READ if readonly else PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if address == MAP_FAILED:
        raise HookError(errno, f"the map cannot be mapped into memory: {os.strerror(errno)}", source)
    memory.address = <char *>address
    memory.size = size
    memory.mapped_bytes = whole
    memory.readonly = readonly
    memory.source = source
    return memory


cdef class Map:
    """One map of an object. Keys and values are bytes of exactly `key_size` and `value_size` (of a per-CPU map: one value for each
    possible CPU, each rounded up to 8 bytes). All calls are system calls of their own; errors are OSError with the object's and the map's name."""

    cdef describe(self):
        cdef bpf_map_info info
        cdef uint32_t size = sizeof(info)
        memset(&info, 0, sizeof(info))      # newer kernels take questions in it
        if bpf_map_get_info_by_fd(self.fd, &info, &size) != 0:
            raise HookError(errno, f"the kernel says nothing about the map: {os.strerror(errno)}", self.source)
        self.type, self.key_size, self.value_size = info.type, info.key_size, info.value_size
        self.max_entries, self.flags = info.max_entries, info.map_flags

    cdef size_t value_bytes(self) except 0:
        if self.type in PERCPU_TYPES:
            return (self.value_size + 7) // 8 * 8 * <size_t>libbpf_num_possible_cpus()
        return self.value_size

    cdef bytes check(self, what, data, size_t size):
        if self.fd < 0:
            raise ValueError(f"{self.source} is closed")
        data = bytes(data)
        if len(data) != size:
            raise ValueError(f"{self.source}: a {what} has {size} bytes, not {len(data)}")
        return data

    def lookup(self, key):
        """The value at `key`, or None if the map has none."""
        cdef bytes exact = self.check("key", key, self.key_size)
        cdef bytearray value = bytearray(self.value_bytes())
        if bpf_map_lookup_elem(self.fd, <char *>exact, <char *>value) == 0:
            return bytes(value)
        if errno == ENOENT:
            return None
        raise HookError(errno, f"lookup failed: {os.strerror(errno)}", self.source)

    def update(self, key, value, uint64_t flags=0):
        """Set the value at `key`. `flags`: 1 only if there is none yet (EEXIST otherwise), 2 only if there is one (ENOENT)."""
        cdef bytes exact = self.check("key", key, self.key_size)
        cdef bytes data = self.check("value", value, self.value_bytes())
        if bpf_map_update_elem(self.fd, <char *>exact, <char *>data, flags) != 0:
            raise HookError(errno, f"update failed: {os.strerror(errno)}", self.source)

    def delete(self, key):
        """Remove `key`; whether it was there."""
        cdef bytes exact = self.check("key", key, self.key_size)
        if bpf_map_delete_elem(self.fd, <char *>exact) == 0:
            return True
        if errno == ENOENT:
            return False
        raise HookError(errno, f"delete failed: {os.strerror(errno)}", self.source)

    def items(self):
        """(key, value) of each entry. Entries that others add or remove meanwhile may be missing or there twice."""
        cdef bytearray following = bytearray(self.key_size)
        cdef bytes key = self.check("key", following, self.key_size)
        cdef int rc = bpf_map_get_next_key(self.fd, NULL, <char *>following)
        while rc == 0:
            key = bytes(following)
            value = self.lookup(key)
            if value is not None:
                yield key, value
            self.check("key", key, self.key_size)
            rc = bpf_map_get_next_key(self.fd, <char *>key, <char *>following)
        if errno != ENOENT:
            raise HookError(errno, f"the next key cannot be read: {os.strerror(errno)}", self.source)

    @property
    def memory(self):
        """A memoryview of an arena, or of the values of an array with BPF_F_MMAPABLE (each rounded up to 8 bytes). It stays valid after close()."""
        return memoryview(self.map_memory())

    cdef Memory map_memory(self):
        cdef size_t size = 0
        cdef void *address
        cdef Memory memory
        if self.mapping is None:
            self.check("key", bytes(self.key_size), self.key_size)
            if self.type == BPF_MAP_TYPE_ARENA:
                address = bpf_map__initial_value(self.map, &size) if self.map != NULL else NULL
                if address == NULL:
                    raise HookError(ENODATA, "an arena can be seen only in the process that loaded it", self.source)
                memory = Memory.__new__(Memory)
                memory.address, memory.size, memory.owner = <char *>address, <size_t>self.max_entries * page_bytes, self.handle
                memory.source = self.source
                self.mapping = memory
            elif self.type == BPF_MAP_TYPE_ARRAY and self.flags & BPF_F_MMAPABLE:
                size = (<size_t>self.value_size + 7) // 8 * 8 * self.max_entries
                self.mapping = map_fd(self.fd, size, self.flags & BPF_F_RDONLY_PROG != 0, self.source)
            else:
                raise HookError(ENODATA, "only an arena or an array with BPF_F_MMAPABLE has memory that can be mapped", self.source)
        return self.mapping

    cdef close(self):
        if self.owns_fd and self.fd >= 0:
            posix_close(self.fd)
        self.fd = -1
        self.map = NULL
        self.handle = None
        self.mapping = None

    def __dealloc__(self):
        if self.owns_fd and self.fd >= 0:
            posix_close(self.fd)

    def __repr__(self):
        return f"<Map {self.source} type={self.type} key_size={self.key_size} value_size={self.value_size} max_entries={self.max_entries}>"


class Globals(collections.abc.Mapping):
    """An object's variables in .data, .bss and .rodata by name, each a memoryview of its elements: globals["steps"][0] reads a counter, and
    globals["limit"][0] = 5 sets one. What the program does to them is seen at once. A structure is a memoryview of bytes."""

    def __init__(self, variables, views):
        self._variables = variables
        self._views = views

    def __getitem__(self, name):
        variable = self._variables[name]
        view = memoryview(self._views[variable.section])[variable.offset:variable.offset + variable.size]
        return view if variable.format == "B" else view.cast(variable.format)

    def __iter__(self):
        return iter(self._variables)

    def __len__(self):
        return len(self._variables)


cdef class Object:
    """An object file that holds a hook program, with its maps and variables. Made by open(), from_pinned() or from_descriptors()."""

    def __cinit__(self):
        self.link_fd = self.ring_fd = -1
        self.state = "closed"
        self.sections = {}
        self.found_maps = {}

    @classmethod
    def open(cls, source, name=None):
        """Read an object file, given as its path or its bytes; needs no privileges. `name` is what errors call it (default: the file's name).

        Raises what the built-in open() does, and HookRefused for what is no BPF object.
        """
        cdef Object self = cls.__new__(cls)
        cdef char *log = NULL
        cdef bytes image, short
        if isinstance(source, (bytes, bytearray, memoryview)):
            image = bytes(source)
            self.name = name or "object"
        else:
            # The built-in open() would take a number for a descriptor, and close it.
            path = os.fspath(source)
            with open(path, "rb") as file:
                image = file.read()
            self.name = name or os.path.basename(os.fsdecode(path))
        # The kernel shows 15 characters of it.
        short = self.name.split(".")[0].encode()
        self.handle = Handle.__new__(Handle)
        self.handle.object = aiouring_bpf_open(<char *>image, len(image), short, &log)
        error, said = errno, take_log(log)
        if self.handle.object == NULL:
            raise HookRefused(known_error(error), "this is no object file of BPF programs that libbpf could read", self.name, said)
        self.state = "open"
        self.read_variables()
        return self

    @classmethod
    def from_pinned(cls, folder, source, name=None):
        """An object that another process loaded and pinned (see pin()), whose files in `folder` this one may read and write.

        `source` is the same object file: the kernel tells an unprivileged process no names. It needs no privileges. Raises OSError for a file that
        is missing or may not be opened.
        """
        cdef Object self = cls.open(source, name)
        cdef int fd
        fds = {}
        try:
            for map_name in self.map_names():
                path = os.path.join(os.fspath(folder), pinned_name(map_name))
                encoded = os.fsencode(path)
                fd = bpf_obj_get(encoded)
                if fd < 0:
                    raise HookError(errno, f"the pinned map cannot be opened: {os.strerror(errno)}", path)
                fds[map_name] = fd
            self.adopt(fds)
        except BaseException:
            for fd in fds.values():
                posix_close(fd)
            raise
        return self

    @classmethod
    def from_descriptors(cls, fds, source, name=None):
        """An object that another process loaded, by its maps' descriptors: what its `descriptors` holds, inherited or received over a unix
        socket. They stay the caller's. Otherwise like from_pinned()."""
        cdef Object self = cls.open(source, name)
        missing = set(self.map_names()) - set(fds)
        if missing:
            raise ValueError(f"{self.name}: there is no descriptor for {', '.join(sorted(missing))}")
        own = {}
        try:
            for map_name in self.map_names():
                own[map_name] = fcntl.fcntl(fds[map_name], fcntl.F_DUPFD_CLOEXEC, 0)
            self.adopt(own)
        except BaseException:
            for fd in own.values():
                os.close(fd)
            raise
        return self

    cdef need(self, str state, str what):
        if self.state != state:
            raise RuntimeError(f"{self.name} is {self.state}: {what}")

    cdef read_variables(self):
        cdef btf *types = bpf_object__btf(self.handle.object)
        cdef const btf_type *type
        cdef btf_var_secinfo *variables
        cdef uint32_t i, j
        if types == NULL:
            return
        for i in range(1, btf__type_cnt(types)):
            type = btf__type_by_id(types, i)
            if btf_kind(type) != BTF_KIND_DATASEC:
                continue
            section = text(btf__name_by_offset(types, type.name_off))
            if not section.startswith(DATA_SECTIONS):
                continue
            variables = btf_var_secinfos(type)
            for j in range(btf_vlen(type)):
                variable = btf__type_by_id(types, variables[j].type)
                self.sections.setdefault(section, {})[text(btf__name_by_offset(types, variable.name_off))] = Variable(
                    section, variables[j].offset, variables[j].size, format_of(types, variable.type))

    cdef dict variables(self):
        return {name: variable for section in self.sections.values() for name, variable in section.items()}

    def set_rodata(self, values):
        """Set `const volatile` variables, by name: an int for an integer, bytes of the variable's size for anything. Only before load():
        the verifier takes them for constants.

        Raises KeyError for a name that the object does not have, ValueError for a value that does not fit.
        """
        cdef size_t size = 0
        cdef char *image
        self.need("open", "constants are set before it is loaded")
        for name, value in values.items():
            variable = self.variables().get(name)
            if variable is None or not variable.section.startswith(".rodata"):
                constants = [known for section, found in self.sections.items() if section.startswith(".rodata") for known in found]
                raise KeyError(f"{self.name} has no constant {name!r}; it has {', '.join(sorted(constants)) or 'none'}")
            if isinstance(value, int):
                if variable.size > 8:
                    raise ValueError(f"{self.name}: {name} is no integer: it takes {variable.size} bytes")
                try:
                    value = value.to_bytes(variable.size, "little", signed=variable.format in "bhiq")
                except OverflowError:
                    raise ValueError(f"{self.name}: {value} does not fit into {name}, which has {variable.size} bytes") from None
            value = bytes(value)
            if len(value) != variable.size:
                raise ValueError(f"{self.name}: {name} has {variable.size} bytes, not {len(value)}")
            encoded = variable.section.encode()
            image = <char *>bpf_map__initial_value(bpf_object__find_map_by_name(self.handle.object, encoded), &size)
            if image == NULL or variable.offset + variable.size > size:
                raise HookError(EINVAL, f"the section {variable.section} has no room for {name}", self.name)
            memcpy(image + <size_t>variable.offset, <char *>(<bytes>value), variable.size)

    cdef bpf_map *ops_map(self) except? NULL:
        """The struct_ops map; NULL: the object has none."""
        cdef bpf_map *found = NULL
        cdef bpf_map *map = bpf_object__next_map(self.handle.object, NULL)
        while map != NULL:
            if bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS:
                if found != NULL:
                    raise HookError(EINVAL, "an object can hold one struct_ops map; this one has several", self.name)
                found = map
            map = bpf_object__next_map(self.handle.object, map)
        return found

    def load(self, ring_fd=None):
        """Load the programs and maps into the kernel: needs CAP_BPF and CAP_PERFMON. `ring_fd` is the ring that attach() shall attach to, which
        may also be named there. Other threads go on meanwhile; the verifier takes milliseconds for a small program, and seconds for a large one.

        Raises HookRefused with the verifier's log where the kernel refuses: EACCES or EINVAL for a program, EPERM without privileges, EINVAL or
        ESRCH for a kernel without the loop hook. The object cannot be loaded again then.
        """
        cdef char *log = NULL
        cdef int result
        cdef Handle handle = self.handle
        self.need("open", "it can be loaded once")
        if ring_fd is not None:
            if self.ops_map() == NULL:
                raise ValueError(f"{self.name} holds no loop hook, so it has no use for a ring")
            self.ring_fd = ring_fd
        self.state = "loading"
        with nogil:
            result = aiouring_bpf_load(handle.object, &log)
        said = take_log(log)
        if self.handle is not handle:
            raise RuntimeError(f"{self.name} was closed while it was loaded")
        if result < 0:
            self.state, self.handle = "refused", None
            raise HookRefused(known_error(-result), why_load_failed(), self.name, said)
        self.state = "loaded"
        self.collect_maps()

    cdef collect_maps(self):
        cdef bpf_map *map = bpf_object__next_map(self.handle.object, NULL)
        cdef Map found
        while map != NULL:
            found = Map.__new__(Map)
            found.name = self.section_name(map) or text(bpf_map__name(map))
            found.source = f"{self.name}: {found.name}"
            found.fd, found.handle, found.map = bpf_map__fd(map), self.handle, map
            # A map that libbpf did not create has no descriptor: .kconfig, for one.
            if found.fd >= 0:
                found.describe()
                self.found_maps[found.name] = found
            map = bpf_object__next_map(self.handle.object, map)

    cdef section_name(self, bpf_map *map):
        """The section that a map holds, whose name libbpf cuts off; None for a map of the program's own."""
        for section in self.sections:
            encoded = section.encode()
            if bpf_object__find_map_by_name(self.handle.object, encoded) == map:
                return section
        return None

    def map_names(self):
        """The names of the object's maps, sections among them."""
        cdef bpf_map *map
        names = []
        if self.handle is None:
            raise RuntimeError(f"{self.name} is {self.state}")
        map = bpf_object__next_map(self.handle.object, NULL)
        while map != NULL:
            names.append(self.section_name(map) or text(bpf_map__name(map)))
            map = bpf_object__next_map(self.handle.object, map)
        return names

    cdef adopt(self, fds):
        """Take over the maps of another process. The descriptors are the object's once this returns, and the caller's if it raises."""
        cdef Map found
        adopted = {}
        try:
            for map_name, fd in fds.items():
                found = Map.__new__(Map)
                found.name, found.source, found.fd = map_name, f"{self.name}: {map_name}", fd
                adopted[map_name] = found
                found.describe()
                if found.type == BPF_MAP_TYPE_STRUCT_OPS:
                    value = found.lookup(bytes(4))
                    begin = layout_of_kernel()["ring_fd"]
                    self.ring_fd = int.from_bytes(value[begin:begin + 4], "little")
        except BaseException:
            for found in adopted.values():
                found.fd = -1
            raise
        for found in adopted.values():
            found.owns_fd = True
        self.found_maps = adopted
        self.state = "adopted"

    cdef bint has_ops(self):
        return any((<Map>found).type == BPF_MAP_TYPE_STRUCT_OPS for found in self.found_maps.values())

    cdef Map ops(self):
        cdef Map found
        if self.state not in ("loaded", "adopted"):
            raise RuntimeError(f"{self.name} is {self.state}, not loaded")
        for found in self.found_maps.values():
            if found.type == BPF_MAP_TYPE_STRUCT_OPS:
                return found
        raise HookError(EINVAL, "the object holds no loop hook that could be attached", self.name)

    cdef register(self):
        """Give the struct_ops map its value, which the kernel takes once: the program, and the number of the ring's descriptor."""
        cdef Map ops = self.ops()
        cdef bytearray value
        cdef bytes key = bytes(4)
        cdef size_t size = 0
        cdef char *image
        cdef bpf_program *program
        cdef int type_id
        cdef btf *types
        if self.registered:
            return
        if self.ring_fd < 0:
            raise ValueError(f"{self.name}: no ring was named, neither to load() nor to attach()")
        layout = layout_of_kernel()
        types = bpf_object__btf(self.handle.object)
        type_id = btf__find_by_name_kind(types, b"io_uring_bpf_ops", BTF_KIND_STRUCT)
        image = <char *>bpf_map__initial_value(ops.map, &size)
        if type_id < 0 or image == NULL:
            raise HookError(EINVAL, f"the struct_ops map is no {STRUCT_OPS}", ops.source)
        value = bytearray(ops.value_size)
        # libbpf keeps pointers to its programs where the object's structure has pointers to functions.
        memcpy(&program, image + <size_t>members_of(types, type_id)["loop_step"][0], sizeof(program))
        if program == NULL:
            raise HookError(EINVAL, "its structure names no loop_step", ops.source)
        value[layout["loop_step"]:layout["loop_step"] + 8] = bpf_program__fd(program).to_bytes(8, "little")
        value[layout["ring_fd"]:layout["ring_fd"] + 4] = int(self.ring_fd).to_bytes(4, "little")
        if bpf_map_update_elem(ops.fd, <char *>key, <char *>value, 0) != 0:
            raise HookError(errno, f"the kernel refused the hook: {os.strerror(errno)}", ops.source)
        self.registered = True

    def attach(self, ring_fd=None):
        """Attach the hook to its ring: from now on io_uring_enter runs it. Does nothing if it is attached. Needs no privileges.

        `ring_fd`: the ring's descriptor. What was loaded by another process is bound to a number (the property ring_fd), which has to be free
        here, or the ring's own. Raises OSError: EBUSY if the ring or the object has a hook already, EOPNOTSUPP for a ring without DEFER_TASKRUN or
        for what is no ring.
        """
        cdef Map ops = self.ops()
        cdef int ops_fd = ops.fd, bound = -1, link_fd
        if self.link_fd >= 0:
            return
        if self.state == "loaded" and not self.registered:
            self.ring_fd = self.ring_fd if ring_fd is None else ring_fd
            self.register()
        elif ring_fd is not None and ring_fd != self.ring_fd:
            # The kernel looks the number up while the link is made, and needs it no longer.
            bound = fcntl.fcntl(ring_fd, fcntl.F_DUPFD_CLOEXEC, self.ring_fd)
            if bound != self.ring_fd:
                posix_close(bound)
                raise HookError(EBUSY, f"the hook is bound to descriptor {self.ring_fd}, which is something else in this process", ops.source)
        link_fd = bpf_link_create(ops_fd, 0, BPF_STRUCT_OPS, NULL)
        error = errno
        if bound >= 0:
            posix_close(bound)
        if link_fd < 0:
            raise HookError(error, f"the hook cannot be attached to the ring of descriptor {self.ring_fd}: {os.strerror(error)}", ops.source)
        self.link_fd = link_fd
        self.process = os.getpid()

    def detach(self):
        """Take the hook off its ring; attach() puts it there again. Does nothing if it is not attached. A thread that waits in the hook is not
        woken."""
        if self.link_fd < 0:
            return
        # A forked child shares the link: there the descriptor is closed, and the parent's hook stays.
        if self.process == os.getpid():
            bpf_link_detach(self.link_fd)
        posix_close(self.link_fd)
        self.link_fd = -1

    @property
    def attached(self):
        """Whether attach() put the hook on a ring, and detach() did not take it off."""
        return self.link_fd >= 0

    @property
    def maps(self):
        """The object's maps by name, its sections (.bss and the like) among them. Empty before load()."""
        return dict(self.found_maps)

    @property
    def descriptors(self):
        """The maps' descriptors by name, for a process that shall attach the hook without privileges: to be inherited, or sent over a unix socket,
        and given to from_descriptors() there. They belong to this object. The ring's number must have been given to load()."""
        if self.state == "loaded" and self.has_ops():
            self.register()
        return {map_name: (<Map>found).fd for map_name, found in self.found_maps.items()}

    @property
    def globals(self):
        """The variables of .data, .bss and .rodata, see Globals. They are there once the object is loaded."""
        if self.state not in ("loaded", "adopted"):
            raise RuntimeError(f"{self.name} is {self.state}: its variables are there while it is loaded")
        views = {section: (<Map>self.found_maps[section]).map_memory() for section in self.sections if section in self.found_maps}
        return Globals({name: variable for name, variable in self.variables().items() if variable.section in views}, views)

    def pin(self, folder):
        """Give each map a file in `folder`, which must lie in a BPF file system (usually /sys/fs/bpf) and is made if it is missing. Another process
        can attach the hook by from_pinned(), if it may read and write these files: set their owner by os.chown(). They live until they are removed.
        Needs the ring's number given to load().

        Raises OSError; then nothing stays pinned.
        """
        cdef Map found
        self.need("loaded", "what is pinned was loaded here")
        if self.has_ops():
            self.register()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        made = []
        try:
            for map_name, found in self.found_maps.items():
                path = os.path.join(os.fspath(folder), pinned_name(map_name))
                encoded = os.fsencode(path)
                if bpf_obj_pin(found.fd, encoded) != 0:
                    raise HookError(errno, f"the map {map_name} cannot be pinned: {os.strerror(errno)}", path)
                made.append(path)
        except BaseException:
            for path in made:
                os.unlink(path)
            raise

    def close(self):
        """Detach and free everything; may be called again. Memoryviews that were taken before stay valid."""
        cdef Map found
        self.detach()
        for found in self.found_maps.values():
            found.close()
        self.found_maps = {}
        self.handle = None
        self.state = "closed"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __dealloc__(self):
        # The last descriptor of a link takes the hook off; a forked child's is not the last.
        if self.link_fd >= 0:
            posix_close(self.link_fd)

    def __repr__(self):
        return f"<Object {self.name} {self.state}{' attached' if self.link_fd >= 0 else ''}>"


def pinned_name(map_name):
    """A map's file name: a BPF file system takes no dots."""
    return map_name.replace(".", "_")


def known_error(int error):
    # libbpf has numbers of its own beside the kernel's.
    return error if 0 < error < LIBBPF_ERRNO_START else EINVAL


def why_load_failed():
    # The kernel's error number alone says little: a kernel without the loop hook knows no such function, and says EINVAL.
    reason = support.why_not()
    return f"the kernel refused the object: {reason}" if reason else "the kernel refused the object"
