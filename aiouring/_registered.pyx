"""Registered memory of aiouring.bpf: what the kernel keeps pinned for a loop's requests.

Used by `aiouring.bpf.ops`, which makes it, and by `_bpfop`, whose requests name it by its place in the ring's table. Calls `_ring` and `_loop`.

Who owns what: a RegisteredBuffer holds the memory until it is closed and no request has it; then it is unregistered, in the loop's thread. Each
export of its buffer is a request that has it.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer

from aiouring._loop cimport LoopCore
from aiouring._ring cimport Ring

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()


def buffer_ended(Ring ring, int index, list waiters):
    """In the ring's thread, which alone may change its table: a registered buffer is closed, and no request uses it."""
    if index >= 0:
        ring.unregister_buffer(index)
    if waiters is not None:
        for future in waiters:
            if not future.done():
                future.set_result(None)


@cython.no_gc_clear                         # its destructor needs the loop and the ring
cdef class RegisteredBuffer:
    """Memory that the kernel keeps pinned, so that the engines opcode and module need not look it up for each request. Made by
    aiouring.bpf.register_buffer(). Has the buffer protocol, and `with` closes it."""

    def __cinit__(self, LoopCore loop not None, memory):
        self.loop = loop
        self.index = -1
        try:
            PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        except (TypeError, BufferError, ValueError) as exc:
            raise type(exc)(f"register_buffer: {exc}") from None
        self.has_view = True
        if self.view.len == 0:
            raise ValueError("register_buffer: there is no memory in an empty buffer")
        self.index_in(loop.ring)

    cdef int index_in(self, Ring ring) noexcept:
        # A loop that moved to another thread has a new ring, which knows nothing of the old one's table.
        if self.ring is not ring:
            self.index = ring.register_buffer(self.view.buf, <size_t>self.view.len)
            self.ring = ring
        return self.index

    @property
    def registered(self):
        """Whether the kernel has it. Where its table is full, or RLIMIT_MEMLOCK is reached, requests use the memory as any other."""
        return self.index >= 0 and self.has_view

    def close(self):
        """Unregister it once no request uses it: those in flight go on. May be called twice. wait_closed() waits for that."""
        if not self.closed:
            self.closed = True
            if self.users == 0:
                self.end()

    async def wait_closed(self):
        """Wait until it is closed and no request uses it."""
        while self.has_view:
            future = self.loop.create_future()
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(future)
            await future

    cdef int leave(self) except -1:
        self.users -= 1
        if self.users == 0 and self.closed:
            self.end()
        return 0

    cdef int end(self) except -1:
        cdef LoopCore loop = self.loop
        cdef list waiters = self.waiters
        cdef Ring ring = self.ring
        cdef int index = self.index
        self.waiters = None
        self.ring = None
        self.index = -1
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        # A loop that the garbage collector has taken apart has no ring.
        if loop is None or loop.ring is None or loop.ops is None or loop._closed or loop.ring.foreign_process():
            return 0
        if ring is not loop.ring:
            index = -1                  # the ring is gone, and its table with it
        if index < 0 and waiters is None:
            return 0
        if loop.ops.issuer == PyThread_get_thread_ident() or loop.idle_here():
            buffer_ended(ring, index, waiters)
        else:
            # Not with this object: it may be going.
            loop.call_soon_threadsafe(buffer_ended, ring, index, waiters)
        return 0

    def __len__(self):
        return self.view.len

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if not self.has_view or self.closed:
            raise ValueError("this registered buffer is closed")
        PyBuffer_FillInfo(buffer, self, self.view.buf, self.view.len, False, flags)
        self.users += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.leave()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __dealloc__(self):
        if self.has_view:
            self.end()

    def __repr__(self):
        return f"<RegisteredBuffer of {self.view.len} bytes, {'closed' if self.closed else 'registered' if self.index >= 0 else 'not registered'}>"
