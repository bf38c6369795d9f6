# What libbpf gives of an object that holds a hook program. See _libbpf.pyx. cimported by nobody: a hook's engine uses the Python side.

cdef extern from "aiouring_libbpf.h":
    struct bpf_object
    struct bpf_map


cdef class Handle:
    cdef bpf_object *object


cdef class Memory:
    cdef object owner               # keeps the mapping alive where it is not ours to unmap
    cdef char *address
    cdef readonly size_t size
    cdef size_t mapped_bytes        # what dealloc unmaps; 0: the owner does
    cdef readonly bint readonly
    cdef object source              # the object's and the map's name, for errors


cdef class Map:
    cdef readonly str name
    cdef readonly int fd, type, key_size, value_size, max_entries, flags
    cdef object source
    cdef Handle handle
    cdef bpf_map *map               # NULL: the map is another process's, and only its descriptor is here
    cdef bint owns_fd
    cdef Memory mapping
    cdef describe(self)
    cdef size_t value_bytes(self) except 0
    cdef bytes check(self, what, data, size_t size)
    cdef Memory map_memory(self)
    cdef close(self)


cdef class Object:
    cdef readonly str name
    cdef Handle handle
    cdef dict sections              # name of a section -> {variable: Variable}
    cdef dict found_maps
    cdef readonly str state         # "open", "loaded", "adopted", "closed"
    cdef readonly int ring_fd       # -1: none yet
    cdef bint registered            # the kernel has the struct_ops map's value
    cdef int link_fd
    cdef object process             # the one that attached: a forked child must not detach for its parent
    cdef need(self, str state, str what)
    cdef read_variables(self)
    cdef dict variables(self)
    cdef bpf_map *ops_map(self) except? NULL
    cdef collect_maps(self)
    cdef section_name(self, bpf_map *map)
    cdef adopt(self, fds)
    cdef bint has_ops(self)
    cdef Map ops(self)
    cdef register(self)
