# One sock_* call: a coroutine, the future that it waits for, and the owner of its request, in one object. See _sockop.pyx.
# cimported by: _sock and _sendfile.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from aiouring._loop cimport LoopCore

cdef enum operation_state:
    NEW             # not awaited yet: nothing was checked, nothing was begun
    WAITING         # begun; its task waits
    FINISHED        # `value` or `error` is there, and nobody has taken it yet
    CANCELLED       # ended by cancel(); CancelledError was not raised yet
    ABANDONED       # its coroutine was thrown into or closed; the last CQE is still to come
    OVER


cdef int socket_family(object sock) except -1       # without making an enum member, and for whatever has a fileno()


# What the loop knows of one socket object. It stands in the socket's _io_refs, so it lives and dies with the socket.
cdef class SocketUse:
    cdef Py_ssize_t file_count      # what the socket module counts in _io_refs: open files of makefile()
    cdef int family, kind           # AF_*, SOCK_*
    cdef bint bulk                  # its last receive filled a whole provided buffer
    cdef list operations            # those in flight
    cdef list received              # results that came for cancelled receives: (data, address) or an exception; None: none
    cdef list accepted              # the same for cancelled accepts: (socket, address)

    cdef int socket_closes(self) except -1


cdef class SocketOperation:
    cdef LoopCore loop
    cdef object sock
    cdef SocketUse use              # None for objects that are no socket.socket
    cdef int fd
    cdef uint64_t request           # 0: none in flight
    cdef operation_state state
    cdef bint blocking              # the future protocol's _asyncio_future_blocking
    cdef bint cancel_requested, socket_closed
    cdef object value, error, cancel_message
    cdef object callback, context   # the first done callback, which is the only one as a rule
    cdef list more_callbacks

    # What each kind of operation provides.
    cdef str name(self)
    cdef int start(self) except -1                                      # check the arguments; submit(), or finish() at once
    cdef int submit(self) except -1                                     # begin the request, also again after a short result
    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1   # take a result: finish(), fail() or again()
    cdef bint keep(self, object result) except -1                       # a result that nobody waits for; False: it cannot be kept
    cdef bint keep_error(self, object error) except -1
    cdef int stop(self) except -1                                       # ask for the end of what is in flight
    cdef bint idle(self) noexcept                                       # nothing is in flight
    cdef void release(self) noexcept                                    # drop the buffers

    # What the kinds use.
    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef int attach(self) except -1
    cdef int family(self) except -1
    cdef int kind(self) except -1
    cdef int finish(self, object result) except -1
    cdef int fail(self, object error) except -1
    cdef int fail_errno(self, int error) except -1
    cdef int again(self) except -1

    cdef int finish_cancelled(self) except -1
    cdef int stop_from_anywhere(self) except -1
    cdef int abandon(self) except -1
    cdef int wake(self) except -1
    cdef int over(self) except -1
