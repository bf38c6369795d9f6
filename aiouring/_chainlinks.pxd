# The links of a chain. See _chainlinks.pyx.
# cimported by: _chain.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from aiouring._fileop cimport Descriptor
from aiouring._operation cimport Operation
from aiouring._ring cimport Ring
from aiouring._sockop cimport SocketOperation
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
    Py_buffer view
    bint has_view
    void *memory                # a statx, or a timespec


# A file, a socket or a folder of a chain: what its links use instead of a number that may be another file's when they come to run.
cdef class ChainFile:
    cdef object named           # as it was given: a number, or an object with fileno()
    cdef Descriptor descriptor  # of an open file of ours
    cdef SocketHold hold        # of a socket
    cdef bint direct            # an open link brings it
    cdef bint by_number         # a request of it cannot go by the ring's table
    cdef bint opened, closed    # the direct descriptor is, as far as completions say
    cdef bint entered, duplicate
    cdef int number             # when it was taken
    cdef int fd                 # what requests say
    cdef int slot               # in the ring's table, -1: none

    cdef int take(self, ChainLinks run) except -1
    cdef bint can_be_taken_again(self) except -1
    cdef void give_back(self, ChainLinks run) noexcept


# Stands in a socket's list of calls that are in flight, so that its close ends the chain.
cdef class SocketHold(SocketOperation):
    cdef object run             # a weak reference: what a closed loop leaves behind goes, whoever has the socket; None: none
    cdef list taken             # of what cancelled receives had left: (link, item)

    cdef ChainLinks chain(self)
    cdef int begin(self, ChainLinks run) except -1
    cdef void end(self) noexcept


cdef class ChainLinks(Operation):
    cdef object __weakref__
    cdef chain_link *links
    cdef uint32_t count, room
    cdef list files             # ChainFiles
    cdef dict known_files       # those of numbers and objects
    cdef list names             # of each link, what errors call its file; holds what requests point to
    cdef list paths
    cdef list operations        # of each link the BpfRequest, if it is one
    cdef dict operands          # and the buffers that it was given
    cdef Py_ssize_t files_before    # that there were when the last link was begun
    cdef bint building          # a link is being made: arguments may run code of the user's
    cdef bint carries           # a link takes the result of another, or is no request: the hook has to run it
    cdef bint in_hook           # the hook runs it
    cdef bint socket_gone       # one of its sockets was closed while it was in flight
    cdef Ring ring              # to which it was submitted

    cdef chain_link *new_link(self, link_kind kind, bint hard, object name) except NULL
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
