"""The pipe that ends a loop's wait from outside.

Used by `_loop`, which makes one for each loop; others write to its descriptor. Calls `_op`, `_prep`, and the loop for signals.

Who owns what: it owns both descriptors until close(), and its request's memory is in it: the request table keeps it until the read has ended.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.unistd cimport close as posix_close

from aiouring._loop cimport LoopCore
from aiouring._op cimport OpTable
from aiouring._prep cimport prep_read

import os
import weakref


cdef class WakePipe:
    """The pipe that ends a wait from outside: other threads write a zero byte, the signal module a signal's number.

    Its read refers to the loop weakly: a loop that was dropped unclosed must be found by the garbage collector.
    """

    def __cinit__(self, LoopCore loop not None):
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.write_fd, False)   # a writer never waits: a full pipe wakes the loop as well
        self.loop_ref = weakref.ref(loop)

    cdef int arm(self, OpTable ops) except -1:
        prep_read(ops.begin(self, WakePipe.complete, 0), self.read_fd, self.buffer, sizeof(self.buffer), <uint64_t>-1)
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef WakePipe self = <WakePipe>owner
        cdef LoopCore loop = self.loop_ref()
        if loop is None:
            return 0
        loop.wake_written = False
        signals = self.buffer[:res].replace(b"\0", b"") if res > 0 else b""
        self.arm(loop.ops)
        if signals:
            loop._process_signals(signals)
        return 0

    cdef int close(self) except -1:
        if self.read_fd >= 0:
            posix_close(self.read_fd)
            posix_close(self.write_fd)
            self.read_fd = self.write_fd = -1
        return 0

    def __dealloc__(self):
        if self.read_fd > 0:
            posix_close(self.read_fd)
            posix_close(self.write_fd)
