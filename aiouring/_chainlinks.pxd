# The links of a chain. See _chainlinks.pyx.
# cimported by: _chain, _chaincalls.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from aiouring._bpfop cimport BpfRequest, OpCore
from aiouring._chainfile cimport SocketHold
from aiouring._operation cimport Operation
from aiouring._ring cimport Ring
from aiouring.uapi cimport io_uring_sqe


cdef enum link_kind:
    LINK_OPEN
    LINK_READ
    LINK_WRITE
    LINK_SEND
    LINK_RECV
    LINK_FSYNC
    LINK_CLOSE
    LINK_STATX
    LINK_TIMER
    LINK_BPF


cdef struct chain_link:
    link_kind kind
    bint hard, whole
    bint taken                  # a later link takes its result: less than all is no failure
    bint over                   # it has run, well or not
    int file, folder            # of the chain's files, -1: none
    int64_t result              # or -errno
    uint32_t wanted, limit      # bytes
    uint32_t base               # bytes that a cancelled receive had left
    uint8_t length_from, offset_from        # the link whose result it is, + 1
    int64_t length_add, offset_add
    int64_t offset
    int flags
    uint32_t mode
    char *buffer                # of the user's, NULL: none
    void *memory                # a statx, or a timespec
    void *face                  # the Link, while the user has it


cdef double TIMEOUT_MAX_S


# What the user has of a link.
cdef class Link:
    cdef ChainLinks run             # None: none any more
    cdef readonly uint32_t index
    cdef readonly str name
    cdef readonly bint hard


# What stands for its result.
cdef class Result:
    cdef readonly Link link
    cdef readonly object added


cdef class ChainLinks(Operation):
    cdef object __weakref__
    cdef chain_link *links
    cdef uint32_t count, room
    cdef list files             # ChainFiles
    cdef list buffers           # LentBuffers, in the order of the links that have one
    # By the link's number; None: no link has any.
    cdef dict names             # what errors call its file
    cdef dict paths             # what its request points to
    cdef dict operations        # its BpfRequest
    cdef list outcome_list      # of each link, once the chain is over
    cdef Py_ssize_t files_before    # that there were when the last link was begun
    cdef bint building          # a link is being made: arguments may run code of the user's
    cdef bint carries           # a link takes the result of another, or is no request: the hook has to run it
    cdef bint in_hook           # the hook runs it
    cdef Ring ring              # to which it was submitted

    cdef object chain(self)     # the user's

    cdef Link add_open(self, object path, int flags, uint32_t mode, object dir_fd, bint hard)
    cdef Link add_move(self, link_kind kind, object file, object buffer, object length, object offset, bint whole, bint hard)
    cdef Link add_fsync(self, object file, bint data_only, bint hard)
    cdef Link add_close(self, object file, bint hard)
    cdef Link add_statx(self, object path, object dir_fd, bint follow_symlinks, bint hard)
    cdef Link add_timer(self, object seconds, bint hard)
    cdef Link add_bpf(self, OpCore op, tuple buffers, object flags, object length, bint hard)

    cdef int note(self, uint32_t at, object name, object path) except -1
    cdef object name_of(self, uint32_t at)
    cdef bytes path_of(self, uint32_t at)
    cdef BpfRequest operation(self, uint32_t at)
    cdef Link link_of(self, uint32_t at)
    cdef Link made(self)
    cdef int check_ours(self, Link link) except -1
    cdef chain_link *new_link(self, link_kind kind, bint hard) except NULL
    cdef int drop_link(self) except -1
    cdef int set_buffer(self, chain_link *link, object buffer, object length, int flags) except -1
    cdef int set_number(self, object value, str name, int64_t *plain, uint8_t *source, int64_t *add, int64_t most) except -1
    cdef int set_position(self, chain_link *link, object offset) except -1
    cdef int add_file(self, object file, bint by_number) except -1
    cdef int take_files(self) except -1
    cdef int use_kept(self) except -1
    cdef int take_kept(self, uint32_t at, SocketHold hold) except -1
    cdef void put_back(self) noexcept
    cdef void fill(self, uint32_t at, io_uring_sqe *sqe) noexcept
    cdef bint severs(self, uint32_t at) noexcept
    cdef bint by_descriptor(self, uint32_t at) noexcept
    cdef bint may_be_refused(self, uint32_t at) noexcept
    cdef bint may_be_short(self, uint32_t at) noexcept
    cdef bint is_short(self, uint32_t at) noexcept
    cdef bint has_failed(self, uint32_t at) noexcept
    cdef int note_ends(self) except -1
    cdef void give_files_back(self) noexcept
    cdef object value_of(self, uint32_t at)
    cdef object error_of(self, uint32_t at)
    cdef str kind_name(self, uint32_t at)
