"""Requests in flight: slots with generations, so that a late CQE can never reach the wrong owner.

Used by `_loop` (deliver, close) and by every room that submits (begin, cancel). Calls `_ring` and, for one flag, `_prep`.

Who owns what: from begin() to the last CQE a slot holds one strong reference to its owner; the owner holds whatever memory the SQE points
to. deliver() frees the slot first and calls the owner then, so an owner can begin its next request from its callback. Nothing else ends a
request: cancel() only asks, and the last CQE answers.

A silent request posts no CQE when it does what it was asked for: a small send to a socket that has room then costs neither a completion nor
the turn that would handle it. Such a send never waits (MSG_DONTWAIT), so when enter has taken its SQE it has ended; and whatever went
otherwise (an error, EAGAIN, a part in spite of MSG_WAITALL) has posted a CQE by then. So once all CQEs are reaped, the silent ones that are
not among their owners and whose SQEs are gone have succeeded. A loop that sleeps is not woken by them: only requests whose success nobody
waits for may be silent.

Linked requests have one slot. Their ids are the slot's with a number in bits 20-31, where no slot's own number reaches, so that they cost nothing
where ordinary completions are found.

user_data: bits 0-31 the slot, bits 32-55 its generation (never 0), bits 56-63 the namespace (0: the loop). user_data 0 is nobody's.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EBUSY, EEXIST, EINTR
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as posix_close

from aiouring._prep cimport make_silent_send
from aiouring.uapi cimport *

import os

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef enum:
    CHUNK_SLOTS = 1024
    CHUNKS_MAX = 1024           # about a million requests in flight
    GENERATION_MASK = 0xFFFFFF
    NAMESPACE_SHIFT = 56
    # The kernel's own numbers, which system calls never return and requests that open or rename do.
    ERESTARTSYS = 512
    ENOIOCTLCMD = 515
    ERESTART_RESTARTBLOCK = 516


cdef uint64_t LINKED_BITS = <uint64_t>0xFFF << LINKED_SHIFT


cdef inline int32_t plain_result(int32_t res) noexcept:
    # What a system call would have been begun again for, as after SIGSTOP and SIGCONT, is EINTR: owners do that.
    return -EINTR if -ERESTART_RESTARTBLOCK <= res <= -ERESTARTSYS and res != -ENOIOCTLCMD else res


cdef void make_nop(io_uring_sqe *sqe) noexcept:
    cdef uint64_t user_data = sqe.user_data
    cdef uint8_t chain = sqe.flags & <uint8_t>(IOSQE_IO_LINK | IOSQE_IO_HARDLINK)
    memset(sqe, 0, sizeof(io_uring_sqe))
    sqe.opcode = IORING_OP_NOP
    sqe.flags = chain
    sqe.fd = -1
    sqe.user_data = user_data


cdef class OpTable:
    """The requests of one loop that are in flight."""

    def __cinit__(self, Ring ring not None):
        self.ring = ring

    cdef int grow(self) except -1:
        cdef op_slot *chunk
        cdef op_slot **chunks
        cdef uint32_t i, first
        if self.chunk_count == CHUNKS_MAX:
            raise OSError(EBUSY, f"{CHUNK_SLOTS * CHUNKS_MAX} requests are in flight on this loop, which is its limit")
        chunks = <op_slot **>PyMem_RawRealloc(self.chunks, (self.chunk_count + 1) * sizeof(op_slot *))
        if chunks == NULL:
            raise MemoryError()
        self.chunks = chunks
        chunk = <op_slot *>PyMem_RawCalloc(CHUNK_SLOTS, sizeof(op_slot))
        if chunk == NULL:
            raise MemoryError()
        chunks[self.chunk_count] = chunk
        first = self.chunk_count * CHUNK_SLOTS
        for i in range(CHUNK_SLOTS):
            chunk[i].generation = 1
            chunk[i].next_free = first + i + 2
        chunk[CHUNK_SLOTS - 1].next_free = self.first_free
        self.first_free = first + 1
        self.chunk_count += 1
        return 0

    cdef int check(self) except -1:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        if self.ring.foreign_process():
            raise RuntimeError("this event loop belongs to the parent process: a forked child must make a loop of its own")
        if self.issuer != 0 and self.issuer != PyThread_get_thread_ident():
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one: "
                               "use loop.call_soon_threadsafe() from other threads")
        return 0

    cdef io_uring_sqe *sqe_or_flush(self) except NULL:
        cdef io_uring_sqe *sqe = self.ring.next_sqe()
        while sqe == NULL:
            self.flush_full_queue()
            sqe = self.ring.next_sqe()
        return sqe

    cdef int flush_full_queue(self) except -1:
        # Between two runs this works in the thread that ran the loop last: closing thousands of transports there must not fail halfway.
        cdef int rc
        with nogil:
            rc = self.ring.enter(0, 0)
        if rc == -EEXIST or rc == -EBADFD:      # another thread's ring, or one that was never enabled
            raise RuntimeError(f"{self.ring.sq_entries} requests are queued on a loop that does not run: run it to submit them")
        if rc < 0 and rc != -EINTR and rc != -EAGAIN and rc != -EBUSY:
            raise OSError(-rc, "io_uring_enter failed while the full submission queue was flushed")
        return 0

    cdef int reserve(self, uint32_t count) except -1:
        self.check()
        while self.ring.sq_entries - self.ring.queued() < count:
            self.flush_full_queue()
        return 0

    cdef io_uring_sqe *begin(self, object owner, completion_fn complete, uint32_t tag) except NULL:
        cdef op_slot *slot
        cdef io_uring_sqe *sqe
        cdef uint32_t index
        self.check()
        if self.first_free == 0:
            self.grow()
        sqe = self.sqe_or_flush()
        index = self.first_free - 1
        slot = &self.chunks[index // CHUNK_SLOTS][index % CHUNK_SLOTS]
        self.first_free = slot.next_free
        slot.complete = complete
        slot.tag = tag
        slot.owner = <void *>owner
        slot.withdrawn = slot.silent = False
        slot.links = 0
        slot.sq_position = self.ring.sq_tail - 1
        Py_INCREF(owner)
        self.in_flight += 1
        sqe.user_data = (<uint64_t>slot.generation << 32) | index
        return sqe

    cdef io_uring_sqe *begin_linked(self, object owner, completion_fn complete, uint32_t count) except NULL:
        cdef io_uring_sqe *sqe
        self.reserve(count)
        sqe = self.begin(owner, complete, LINKED_LOST)
        self.find(sqe.user_data).links = count
        return sqe

    cdef int end_linked(self, uint64_t request) except -1:
        cdef op_slot *slot = self.find(request)
        return 0 if slot == NULL else self.drop(slot, <uint32_t>request)

    cdef bint cancel_linked(self, uint64_t request, uint32_t first) except -1:
        cdef op_slot *slot = self.find(request)
        cdef io_uring_sqe *sqe
        cdef uint32_t number
        cdef uint32_t position
        if slot == NULL or slot.withdrawn:
            return True
        self.check()
        # All of them go out with one enter, so the first says where they are.
        if self.ring.sqe_is_queued(slot.sq_position) and self.ring.sqes[slot.sq_position & self.ring.sq_mask].user_data == linked_data(request, 0):
            slot.withdrawn = True
            for number in range(slot.links):
                position = slot.sq_position + number
                sqe = &self.ring.sqes[position & self.ring.sq_mask]
                make_nop(sqe)
                if number + 1 < slot.links:
                    sqe.flags |= <uint8_t>IOSQE_CQE_SKIP_SUCCESS        # one answer for all
            return True
        for number in range(first, slot.links):
            sqe = self.sqe_or_flush()
            sqe.opcode = IORING_OP_ASYNC_CANCEL
            sqe.fd = -1
            sqe.addr = linked_data(request, number)
            sqe.flags = <uint8_t>IOSQE_CQE_SKIP_SUCCESS
        return False

    cdef op_slot *find_linked(self, uint64_t user_data) noexcept:
        cdef op_slot *slot
        if user_data & LINKED_BITS == 0:
            return NULL
        slot = self.find(user_data & ~LINKED_BITS)
        return slot if slot != NULL and slot.links != 0 else NULL

    cdef int deliver_linked(self, op_slot *slot, io_uring_cqe *cqe) except -1:
        cdef uint32_t number = <uint32_t>((cqe.user_data & LINKED_BITS) >> LINKED_SHIFT) - 1
        self.linked_cqes += 1
        owner = <object>slot.owner          # which may end the slot
        if slot.withdrawn:
            return slot.complete(owner, LINKED_WITHDRAWN, -ECANCELED, cqe.flags)
        return slot.complete(owner, number, plain_result(cqe.res), cqe.flags)

    cdef op_slot *find(self, uint64_t request) noexcept:
        cdef uint32_t index = <uint32_t>request
        cdef op_slot *slot
        if request == 0 or index >= self.chunk_count * <uint32_t>CHUNK_SLOTS:
            return NULL
        slot = &self.chunks[index // CHUNK_SLOTS][index % CHUNK_SLOTS]
        if slot.owner == NULL or slot.generation != <uint32_t>(request >> 32):
            return NULL
        return slot

    cdef bint is_live(self, uint64_t request) noexcept:
        return self.find(request) != NULL

    cdef bint is_queued(self, uint64_t request, op_slot *slot) noexcept:
        # A request that lives for 2^32 others sees its position come round again, with somebody else's SQE in it: compare the ids too.
        return (self.ring.sqe_is_queued(slot.sq_position)
                and self.ring.sqes[slot.sq_position & self.ring.sq_mask].user_data == request)

    cdef bint withdraw(self, uint64_t request) except -1:
        cdef op_slot *slot = self.find(request)
        if slot == NULL or slot.withdrawn:
            return True
        self.check()
        if not self.is_queued(request, slot):
            return False
        # It becomes a NOP where it stands, so that not one byte moves, and deliver() reports ECANCELED.
        make_nop(&self.ring.sqes[slot.sq_position & self.ring.sq_mask])
        slot.withdrawn = True
        slot.silent = False         # a NOP posts its CQE
        return True

    cdef int cancel(self, uint64_t request) except -1:
        cdef io_uring_sqe *sqe
        if self.withdraw(request):
            return 0
        if self.find(request).silent:
            return 0            # the kernel took it, so it has ended
        sqe = self.sqe_or_flush()
        sqe.opcode = IORING_OP_ASYNC_CANCEL
        sqe.fd = -1
        sqe.addr = request
        sqe.flags = <uint8_t>IOSQE_CQE_SKIP_SUCCESS
        return 0

    cdef bint silence(self, io_uring_sqe *sqe, int32_t result) noexcept:
        cdef op_slot *slot = self.find(sqe.user_data)
        cdef uint64_t *ids
        if self.silent_count == self.silent_room:
            ids = <uint64_t *>PyMem_RawRealloc(self.silent, (2 * self.silent_room + 64) * sizeof(uint64_t))
            if ids == NULL:
                return False        # it posts its CQE as any other
            self.silent = ids
            self.silent_room = 2 * self.silent_room + 64
        self.silent[self.silent_count] = sqe.user_data
        self.silent_count += 1
        slot.silent = True
        slot.silent_result = result
        make_silent_send(sqe)
        return True

    cdef void note_spoken(self, io_uring_cqe *cqes, uint32_t count) noexcept:
        cdef uint32_t index
        cdef op_slot *slot
        for index in range(count):
            slot = self.find(cqes[index].user_data)
            if slot != NULL:
                slot.silent = False

    cdef bint next_settled(self, io_uring_cqe *cqe) noexcept:
        cdef op_slot *slot
        if self.ring.overflowed():
            return False        # a CQE may wait in the kernel
        while self.silent_next < self.silent_count:
            cqe.user_data = self.silent[self.silent_next]
            slot = self.find(cqe.user_data)
            if slot != NULL and slot.silent:
                if self.is_queued(cqe.user_data, slot):
                    return False        # and so are those behind it
                self.silent_next += 1
                cqe.res = slot.silent_result
                cqe.flags = 0
                return True
            self.silent_next += 1
        self.silent_next = self.silent_count = 0
        return False

    cdef int cancel_file(self, int file_index) except -1:
        cdef io_uring_sqe *sqe = self.sqe_or_flush()
        sqe.opcode = IORING_OP_ASYNC_CANCEL
        sqe.fd = file_index
        sqe.op_flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_FD_FIXED | IORING_ASYNC_CANCEL_ALL
        sqe.flags = <uint8_t>IOSQE_CQE_SKIP_SUCCESS
        return 0

    cdef int deliver(self, io_uring_cqe *cqe) except -1:
        cdef op_slot *slot
        cdef PyObject *owner
        cdef completion_fn complete
        cdef uint32_t tag
        cdef int32_t res
        if cqe.user_data == 0:
            return 0            # the answer to a cancel that came too late
        slot = self.find(cqe.user_data)
        if slot == NULL:
            slot = self.find_linked(cqe.user_data)
            if slot != NULL:
                return self.deliver_linked(slot, cqe)
            if cqe.user_data >> NAMESPACE_SHIFT == 0:       # else it was for a hook that is gone
                self.stale_cqes += 1
            return 0
        if cqe.flags & IORING_CQE_F_MORE:
            return slot.complete(<object>slot.owner, slot.tag, cqe.res, cqe.flags)
        res = -ECANCELED if slot.withdrawn else plain_result(cqe.res)
        owner = <PyObject *>slot.owner
        complete = slot.complete
        tag = slot.tag
        self.release(slot, <uint32_t>cqe.user_data)
        try:
            return complete(<object>owner, tag, res, cqe.flags)
        finally:
            Py_DECREF(<object>owner)

    cdef void release(self, op_slot *slot, uint32_t index) noexcept:
        slot.owner = NULL
        slot.complete = NULL
        slot.generation = (slot.generation + 1) & GENERATION_MASK
        if slot.generation == 0:
            slot.generation = 1
        slot.next_free = self.first_free
        self.first_free = index + 1
        self.in_flight -= 1

    cdef int discard(self, io_uring_cqe *cqe) except -1:
        """Account for a CQE of a loop that closes: its owner is released at the last one, and not called any more."""
        cdef op_slot *slot = self.find(cqe.user_data)
        if slot == NULL:
            slot = self.find_linked(cqe.user_data)
            return 0 if slot == NULL else self.deliver_linked(slot, cqe)
        if slot.tag & TAG_RETURNS_FD and cqe.res >= 0 and not slot.withdrawn:     # a withdrawn one's 0 is the NOP's, not descriptor 0
            posix_close(cqe.res)
        if not cqe.flags & IORING_CQE_F_MORE:
            self.drop(slot, <uint32_t>cqe.user_data)
        return 0

    cdef int drop(self, op_slot *slot, uint32_t index) except -1:
        owner = <object>slot.owner
        self.release(slot, index)
        Py_DECREF(owner)
        return 0

    cdef object owner_of(self, uint64_t request):
        cdef op_slot *slot = self.find(request)
        return None if slot == NULL else <object>slot.owner

    cdef int abandon(self) except -1:
        """Release the owners of all requests of a ring that is closed."""
        cdef uint32_t index
        cdef op_slot *slot
        for index in range(self.chunk_count * CHUNK_SLOTS):
            slot = &self.chunks[index // CHUNK_SLOTS][index % CHUNK_SLOTS]
            if slot.owner != NULL:
                self.drop(slot, index)
        return 0

    cdef int cancel_all(self) except -1:
        """Ask for the end of everything in flight. One SQE does it, whatever the number."""
        cdef io_uring_sqe *sqe = self.sqe_or_flush()
        sqe.opcode = IORING_OP_ASYNC_CANCEL
        sqe.fd = -1
        sqe.op_flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL
        return 0

    cdef list live_requests(self):
        """The ids of all requests in flight."""
        cdef uint32_t index
        cdef op_slot *slot
        cdef list requests = []
        for index in range(self.chunk_count * CHUNK_SLOTS):
            slot = &self.chunks[index // CHUNK_SLOTS][index % CHUNK_SLOTS]
            if slot.owner != NULL:
                requests.append((<uint64_t>slot.generation << 32) | index)
        return requests

    def __dealloc__(self):
        cdef uint32_t index
        cdef op_slot *slot
        for index in range(self.chunk_count * CHUNK_SLOTS):
            slot = &self.chunks[index // CHUNK_SLOTS][index % CHUNK_SLOTS]
            if slot.owner != NULL:
                Py_DECREF(<object><PyObject *>slot.owner)
        for index in range(self.chunk_count):
            PyMem_RawFree(self.chunks[index])
        PyMem_RawFree(self.chunks)
        PyMem_RawFree(self.silent)


cdef object os_error(int32_t res):
    return OSError(-res, os.strerror(-res))
