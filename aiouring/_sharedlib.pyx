"""Shared libraries with programs for the inline engines: loaded from a copy of their own, so that what is built anew is loaded anew, and so that
two that came from one file do not share its globals.

Used by `_hook` and `_bpfop`, whose libraries derive from SharedLibrary and look for their symbols. Calls nothing of ours.

Who owns what: a SharedLibrary is unloaded by close() or with its last reference. Whoever keeps an address of find() keeps the library too.
"""

from libc.errno cimport EINVAL
from libc.stdint cimport uint64_t
from posix.unistd cimport close as posix_close

import os
import struct

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW, RTLD_LOCAL
    void *dlopen(const char *path, int mode)
    void *dlsym(void *library, const char *name)
    int dlclose(void *library)
    char *dlerror()


cdef bint is_whole(bytes image) noexcept:
    """Whether all that a 64-bit ELF file maps is in it: the loader of a file that was cut would get a SIGBUS."""
    cdef uint64_t header, count, size, index, offset, length
    try:
        header, = struct.unpack_from("<Q", image, 32)
        size, count = struct.unpack_from("<HH", image, 54)
        for index in range(count):
            offset, = struct.unpack_from("<Q", image, header + index * size + 8)
            length, = struct.unpack_from("<Q", image, header + index * size + 32)
            if offset + length > <uint64_t>len(image):
                return False
    except (struct.error, OverflowError):
        return False
    return image[:5] == b"\x7fELF\2"


cdef class SharedLibrary:
    """The base of what looks for its symbols. It refers to no Python object, so the garbage collector never unloads one that a cycle still uses."""

    def __cinit__(self, *args):
        self.fd = -1

    cdef int load(self, path, bytes contents, purpose) except -1:
        cdef bytes encoded
        if not is_whole(contents):
            raise OSError(EINVAL, f"this is no shared library with {purpose}, or a part of one", path)
        self.fd = os.memfd_create("aiouring-library", os.MFD_CLOEXEC)
        with open(self.fd, "wb", closefd=False) as copy:
            copy.write(contents)
        encoded = b"/proc/self/fd/%d" % self.fd
        self.handle = dlopen(encoded, RTLD_NOW | RTLD_LOCAL)
        if self.handle == NULL:
            raise OSError(EINVAL, f"this is no shared library with {purpose}: {dlerror().decode(errors='replace')}", path)
        return 0

    cdef void *find(self, const char *name) noexcept:
        return dlsym(self.handle, name)

    def close(self):
        """Unload it. Nothing of it may be running."""
        if self.handle != NULL:
            dlclose(self.handle)
            self.handle = NULL
        if self.fd >= 0:
            posix_close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        SharedLibrary.close(self)
