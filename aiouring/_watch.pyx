"""Watches: what a hook's program knows of a connection whose receives it follows, so that Python wakes only when something is complete.

Used by `_stream_receive`, for connections with frames or canned answers. Calls `_hook` (the region), `_loop`, `_ring`.

The receive is the loop's own, with the loop's user_data; the program finds the watch by it (a map from its lower bits) and answers HOLD or WAKE. So
nothing here is needed for a connection to work: where no hook is attached, the region is small or all slots are taken, receives use the
loop's usual buffers and each wakes Python.

A watch is written when a receive is armed and holds until that receive ends; the program moves it on in between. Attaching a hook empties the map,
since completions may have passed unseen: such receives are cancelled and armed again.

Who owns what: a Watch owns its slot until it goes, and the region lasts as long as any of them. The buffers are the loop's, in the region's memory.
"""

cimport cython
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from aiouring._hook cimport (
    AIOURING_BIG_REGION_BYTES,
    AIOURING_BUFFER_BYTES,
    AIOURING_BUFFERS,
    AIOURING_BUFFERS_END_BYTES,
    AIOURING_WATCH_MAP_ENTRIES,
    AIOURING_WATCH_MAP_OFFSET,
    HookEngine,
    aiouring_watch,
)
from aiouring._loop cimport LoopCore
from aiouring.uapi cimport ECANCELED


@cython.no_gc_clear                         # its destructor needs the region
cdef class Watch:
    """The watch of one connection."""

    def __dealloc__(self):
        # Not a word in the region itself, whose pages a forked child does not have.
        if self.slot != NULL:
            self.region.give_watch_back(self.slot)

    cdef bint prepare(self, LoopCore loop) except -1:
        cdef HookEngine engine = loop.ring.hook
        cdef uint32_t sending, rest
        cdef int32_t rest_from
        self.loop = loop
        self.epoch = loop.ring.hook_epoch
        self.request = 0
        if engine is None or engine.through or engine.region.size < AIOURING_BIG_REGION_BYTES:
            return False
        if self.slot == NULL:
            self.slot = engine.region.take_watch()
            if self.slot == NULL:
                return False
            self.region = engine.region
        if loop.watch_buffers is None:
            try:
                loop.watch_buffers = loop.ring.make_buffer_ring(
                    AIOURING_BUFFERS, AIOURING_BUFFER_BYTES,
                    self.region.memory + self.region.size - AIOURING_BUFFERS_END_BYTES, self.region)
            except OSError:
                return False            # the kernel has no room for another group; the usual buffers are there
        if self.slot.sending and self.ring is not loop.ring:
            self.slot.sending = 0
            raise OSError(ECANCELED, "the event loop moved to another thread while a canned answer was on its way")
        self.ring = loop.ring
        sending, rest, rest_from = self.slot.sending, self.slot.rest, self.slot.rest_from
        memset(self.slot, 0, sizeof(aiouring_watch))
        self.slot.sending, self.slot.rest, self.slot.rest_from = sending, rest, rest_from
        return True

    cdef uint16_t *place(self) noexcept:
        return <uint16_t *>(self.region.memory + AIOURING_WATCH_MAP_OFFSET) + (self.request & (AIOURING_WATCH_MAP_ENTRIES - 1))

    cdef void begin(self, uint64_t request) noexcept:
        # Another watch that has the same place wakes for everything from now on: its map entry is gone.
        self.request = self.slot.owner = request
        self.place()[0] = <uint16_t>(self.region.watch_index(self.slot) + 1)

    cdef void delivered(self, bint is_last) noexcept:
        if self.request == 0:
            return
        if self.slot.waiting:
            self.slot.waiting -= 1
        if is_last:
            if self.place()[0] == self.region.watch_index(self.slot) + 1:
                self.place()[0] = 0
            self.slot.owner = self.slot.waiting = 0
            self.request = 0

    cdef bint more(self) noexcept:
        if self.request == 0 or self.loop.ring.foreign_process():
            return False
        if self.slot.waiting:
            return True
        self.slot.frames = 0            # what comes from here on is the next batch
        return False

    cdef bint answering(self) noexcept:
        return self.slot != NULL and not self.loop.ring.foreign_process() and self.slot.sending != 0

    cdef bint outdated(self) noexcept:
        return self.epoch != self.loop.ring.hook_epoch
