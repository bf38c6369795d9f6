# Shared libraries with programs for the inline engines. See _sharedlib.pyx.
# cimported by: _bpfop, _hook.


cdef class SharedLibrary:
    cdef void *handle
    cdef int fd                         # open as long as the library: the loader knows libraries by their names, and this number is in the name

    # `contents` was read from `path`; `purpose` is what it should have, in the words of an error: "an operation". To be called once, by __cinit__.
    cdef int load(self, path, bytes contents, purpose) except -1
    cdef void *find(self, const char *name) noexcept        # NULL: it has no such symbol
