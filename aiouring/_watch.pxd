# A connection's watch: the slot in a hook's region through which the hook's program follows its receives. See _watch.pyx.
# cimported by: _stream_receive, _frames, _respond.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from aiouring._hook cimport Region, aiouring_watch
from aiouring._loop cimport LoopCore


cdef class Watch:
    cdef LoopCore loop
    cdef Region region
    cdef aiouring_watch *slot                   # NULL: there is none
    cdef uint64_t request                       # the receive that is watched, 0: none
    cdef object ring                            # on which it was prepared last
    cdef readonly uint32_t epoch                # of the hook that was attached when the receive was armed

    # Whether the receive that is about to be armed can be watched. The slot is the caller's to fill then, and the buffers are loop.watch_buffers.
    cdef bint prepare(self, LoopCore loop) except -1
    cdef uint16_t *place(self) noexcept         # of the request in the map
    cdef void begin(self, uint64_t request) noexcept
    # A completion of the receive is being delivered; the last one ends the watch.
    cdef void delivered(self, bint is_last) noexcept
    # More of them are in the mailbox.
    cdef bint more(self) noexcept
    # An answer of the hook's program is on its way: nothing else may be sent. It is over after the next enter.
    cdef bint answering(self) noexcept
    # Another hook was attached since the receive was armed.
    cdef bint outdated(self) noexcept
