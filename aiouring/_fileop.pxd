# An open descriptor, and the requests that a program makes on it by position. See _fileop.pyx.
# cimported by: _file and the rooms above it.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring.uapi cimport io_uring_sqe


cdef enum:
    REQUEST_BYTES_MAX = 0x7FFFF000      # the kernel's own limit for one read or write


cdef class Descriptor:
    cdef LoopCore loop
    cdef int fd                         # -1: closed
    cdef object path                    # as errors name it; None: they name no file
    cdef uint32_t kind                  # S_IFREG …
    cdef int64_t size_hint              # when it was opened
    cdef uint32_t block_bytes, device_major
    cdef uint64_t device, inode
    cdef uint32_t users                 # positional requests that were begun and have not ended
    cdef bint closing                   # no new ones
    cdef Operation closer               # waits for the last of them

    cdef int attach(self, LoopCore loop, int fd, object path) except -1
    cdef bint is_regular(self) noexcept
    cdef int64_t size_now(self) noexcept        # as far as the kernel knows it without asking anybody; -1: it does not say
    cdef object error(self, int error)
    cdef int check_open(self) except -1
    cdef int wrote(self) except -1              # a positional write has changed the file
    cdef int leave(self) except -1


cdef class FileOperation(Operation):
    cdef Descriptor file
    cdef object future                  # the executor's, where the kernel has no such request
    cdef bint entered
    cdef bint working                   # code of ours that may call Python code is at work for it: it is not idle

    cdef int begin(self) except -1                                              # check the arguments and submit()
    cdef io_uring_sqe *request_sqe(self) except NULL
    cdef int in_executor(self, object function, tuple args) except -1           # its result comes to arrived() as a CQE's does
    cdef int executed(self, object future) except -1


cdef class DescriptorView:
    cdef Descriptor descriptor


# The file's own way to its end, for who has checked that nothing else is in flight on it.
cdef io_uring_sqe *begin_close(Descriptor file, Operation owner) except NULL
# For a descriptor that nobody takes: closed by a request that nobody waits for.
cdef int close_unseen(LoopCore loop, int fd) noexcept
cdef void close_moved(Descriptor file, int fd) noexcept
