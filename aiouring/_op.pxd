# One request in flight: a slot with a generation, a completion callback, and the object that owns the request's memory. See _op.pyx.
# cimported by: _loop and every room that submits requests.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from aiouring._ring cimport Ring
from aiouring.uapi cimport io_uring_cqe, io_uring_sqe

# Called with the GIL, after reaping, once for each CQE of the request. The request is over when not (cqe_flags & IORING_CQE_F_MORE):
# its id is then already void, and the owner may begin the next request at once. A final -ECANCELED that the owner did not ask for
# means that the ring was replaced (the loop moved to another thread): begin the request again.
ctypedef int (*completion_fn)(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1

cdef enum:
    # Set in a tag: the request's result is a descriptor, to be closed when nobody is left to take it.
    TAG_RETURNS_FD = 0x40000000
    # For completions of linked requests: the number is the request's own, not the slot's tag.
    LINKED_SHIFT = 20

cdef struct op_slot:
    completion_fn complete
    void *owner                 # a strong reference while the slot is taken, NULL when it is free
    uint32_t generation
    uint32_t tag                # the owner's own word: which of its requests this is
    uint32_t sq_position        # where its SQE stood, to take it back before the kernel has seen it
    uint32_t next_free          # index + 1
    uint32_t links              # of linked requests: how many stand one behind the other from sq_position on; 0: an ordinary one
    bint withdrawn
    bint silent                 # posts a CQE only if its result is not `silent_result`
    int32_t silent_result


cdef class OpTable:
    cdef readonly Ring ring
    cdef op_slot **chunks
    cdef uint32_t chunk_count
    cdef uint32_t first_free                # index + 1, 0: none
    cdef readonly uint32_t in_flight
    cdef uint64_t linked_cqes               # completions of linked requests so far
    cdef readonly uint64_t stale_cqes       # CQEs whose slot had moved on; stays 0 unless something is wrong
    cdef uint64_t *silent                   # the ids of silent requests, in the order of their SQEs; those before silent_next are done with
    cdef uint32_t silent_next, silent_count, silent_room
    cdef unsigned long issuer               # the thread that may submit, 0: any (the loop does not run)
    cdef readonly bint closed

    # A zeroed SQE with user_data set. The caller fills the rest at once (see _prep.pxd) and keeps sqe.user_data as the request's id.
    # The table holds a reference to `owner` until the last CQE. Raises RuntimeError: closed, wrong thread, forked child.
    cdef io_uring_sqe *begin(self, object owner, completion_fn complete, uint32_t tag) except NULL
    # Ask for a request's end; 0 and ids of requests that are over are ignored. The answer is the request's last CQE.
    cdef int cancel(self, uint64_t request) except -1
    # For a filled SQE of a send on a stream socket: it does not wait, and posts no CQE if the result is `result`, which is its length. The
    # callback is called all the same, by whoever drains next_settled(): what the kernel took and said nothing about has succeeded.
    cdef bint silence(self, io_uring_sqe *sqe, int32_t result) noexcept
    # These CQEs were reaped: the silent requests among their owners have posted one.
    cdef void note_spoken(self, io_uring_cqe *cqes, uint32_t count) noexcept
    # The next silent request that has ended without a CQE, as the CQE that it did not post. To be asked when all CQEs were noted.
    cdef bint next_settled(self, io_uring_cqe *cqe) noexcept
    # The same for a request that the kernel has not seen yet, without another one. False: it has seen it.
    cdef bint withdraw(self, uint64_t request) except -1
    # Ask for the end of everything in flight on a registered file, by one request. By the table's index and not by descriptor, whose
    # number may be another file's when somebody closed it.
    cdef int cancel_file(self, int file_index) except -1
    cdef bint is_live(self, uint64_t request) noexcept
    # Linked requests: room for `count` SQEs that will be taken by one enter.
    cdef int reserve(self, uint32_t count) except -1

    # Linked requests under one id: the first SQE; the others are Ring.next_sqe()'s, which has them. The owner gives each the user_data
    # linked_data(id, n) and the flags that link it; all but the last may be IOSQE_CQE_SKIP_SUCCESS, so that how many completions come is the
    # owner's to know. Its callback gets them with n for a tag, also while the loop closes, and calls end_linked(id) when it has had the last one.
    # A completion with the id itself, and LINKED_LOST for a tag, is that of a ring that was replaced, and the last one in any case. So is the one
    # with LINKED_WITHDRAWN: none of them ran.
    cdef io_uring_sqe *begin_linked(self, object owner, completion_fn complete, uint32_t count) except NULL
    cdef int end_linked(self, uint64_t request) except -1
    # Those from the n-th on. True: they are taken back (LINKED_WITHDRAWN). False: the kernel had them, and was asked for the end of each.
    cdef bint cancel_linked(self, uint64_t request, uint32_t first) except -1

    cdef int check(self) except -1
    cdef io_uring_sqe *sqe_or_flush(self) except NULL
    cdef int flush_full_queue(self) except -1
    cdef int grow(self) except -1
    cdef op_slot *find(self, uint64_t request) noexcept
    cdef op_slot *find_linked(self, uint64_t user_data) noexcept
    cdef int deliver_linked(self, op_slot *slot, io_uring_cqe *cqe) except -1
    cdef bint is_queued(self, uint64_t request, op_slot *slot) noexcept
    cdef void release(self, op_slot *slot, uint32_t index) noexcept
    cdef int deliver(self, io_uring_cqe *cqe) except -1
    cdef int discard(self, io_uring_cqe *cqe) except -1
    cdef int drop(self, op_slot *slot, uint32_t index) except -1
    cdef object owner_of(self, uint64_t request)
    cdef int abandon(self) except -1
    cdef int cancel_all(self) except -1
    cdef list live_requests(self)

cdef enum:
    LINKED_LOST = 0x10000000
    LINKED_WITHDRAWN = 0x10000001


cdef inline uint64_t linked_data(uint64_t request, uint32_t number) noexcept:
    return request | <uint64_t>(number + 1) << LINKED_SHIFT


# The one way from a CQE's negative result to an exception: the OSError subclass that the errno stands for.
cdef object os_error(int32_t res)
