# What the native cores of all transports share. See _transport.pyx.
# cimported by: _stream, _datagram and _pipe.

from libc.stdint cimport uint32_t

from aiouring._loop cimport Flushable, LoopCore

cdef extern from "<stdbool.h>":
    ctypedef bint flag "bool"                       # a bint of one byte: there may be many thousands of transports

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1


cdef class TransportCore(Flushable):
    cdef LoopCore loop
    cdef object shell, protocol, context, error     # error: what connection_lost() gets
    cdef object file                                # the socket or pipe; None once it is closed, or where there is only a descriptor
    cdef object paused_protocol                     # whom pause_writing() was called on, None: nobody
    cdef int fd
    cdef uint32_t writes_after_loss
    cdef flag paused                                # pause_reading() was called
    cdef flag closing, lost_scheduled
    cdef flag silent_send                           # the send in flight posts no CQE if it sends all: see _op.OpTable.silence
    cdef flag refused                               # the last send left something over: the socket had no room
    cdef flag eof_written                           # write_eof() was called, where there is one
    cdef size_t unsent_bytes, high_water_bytes, low_water_bytes

    # Made by the shell: attach() first, announce() once the transport is complete.
    # Without a file, `fd` is set already.
    cdef int attach(self, object shell, LoopCore loop, object file, object protocol, object context) except -1
    cdef int announce(self, object waiter) except -1
    cdef int set_protocol(self, object protocol) except -1

    # Each kind's own: what pausing and resuming mean for its requests, whether anything is in flight, and what else it holds.
    cdef int reading_paused(self) except -1
    cdef int reading_resumed(self) except -1
    cdef bint receiving(self) noexcept
    cdef bint sending_now(self) noexcept
    cdef bint idle(self) noexcept
    cdef bint is_open(self) noexcept
    cdef int close_file(self) except -1
    cdef bint is_usual(self, object error)
    cdef int let_go(self, object shell) except -1

    cdef int set_limits(self, object high, object low) except -1
    cdef int pause_protocol(self) except -1
    cdef void want_send_to_end(self) noexcept       # a kind whose sends may be silent replaces it
    cdef int resume_protocol(self) except -1
    cdef int tell(self, str method, object protocol) except -1
    cdef int report(self, object error, str message) except -1
    cdef int count_lost_write(self, str warning) except -1

    cpdef close(self)
    cdef int abort(self) except -1
    cdef int force_close(self, object error) except -1
    cdef int fatal_error(self, object error, str message) except -1
    cdef int finish(self) except -1
