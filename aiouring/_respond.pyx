"""Canned answers: requests that are answered with the same bytes each time, so that no protocol need see them.

Used by `network`, which makes one Answers a server, and by `_stream_receive` and `_stream`. Calls `_hook` (the region). The hook's program
(bpf_progs/include/aiouring/respond.h) follows the same rules; what it leaves to Python is looked at here once more, so the answers are the same
without one.

A request is answered if it came alone and whole: it begins with a prefix, ends with an empty line, and has no other one before.

Who owns what: Answers owns its places in the region, which its server and that server's connections keep.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcmp, memcpy

from aiouring._hook cimport (
    AIOURING_ANSWER_BODY_MAX,
    AIOURING_ANSWER_PREFIX_MAX,
    AIOURING_WATCH_RESPOND,
    Region,
    aiouring_answer,
    aiouring_watch,
)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t haystack_bytes, const void *needle, size_t needle_bytes)

cdef enum:
    ANSWERS_EACH = 16                   # of one server


@cython.no_gc_clear                         # its destructor needs the region
cdef class Answers:
    """The canned answers of one server."""

    def __init__(self, answers):
        self.first = -1
        self.prefixes, self.answers = list(answers), list(answers.values())
        if not 1 <= len(self.prefixes) <= ANSWERS_EACH:
            raise ValueError(f"respond has from 1 to {ANSWERS_EACH} prefixes, not {len(self.prefixes)}")
        self.count = <uint32_t>len(self.prefixes)
        for what, items, longest in (("prefixes", self.prefixes, AIOURING_ANSWER_PREFIX_MAX), ("answers", self.answers, AIOURING_ANSWER_BODY_MAX)):
            for item in items:
                if type(item) is not bytes:
                    raise TypeError(f"the {what} of respond are bytes objects, not {type(item).__name__}")
                if not 1 <= len(item) <= longest:
                    raise ValueError(f"the {what} of respond have from 1 to {longest:,} bytes, not {len(item):,}")

    cdef int find(self, const char *data, Py_ssize_t length) except -2:
        cdef Py_ssize_t index, size
        if length < 4 or memmem(data, length, b"\r\n\r\n", 4) != data + length - 4:
            return -1
        for index in range(len(self.prefixes)):
            size = PyBytes_GET_SIZE(self.prefixes[index])
            if length >= size and memcmp(data, PyBytes_AS_STRING(self.prefixes[index]), size) == 0:
                return <int>index
        return -1

    cdef bint place(self, Region region) noexcept:
        cdef uint32_t i
        cdef int32_t first
        cdef aiouring_answer *answer
        if self.region is region:
            return True
        if self.region is not None:
            return False                # another loop's; a server has one
        first = region.take_answers(self.count)
        if first < 0:
            return False
        self.first = first
        self.region = region
        for i in range(self.count):
            answer = region.answer(self.first + i)
            answer.prefix_bytes = <uint32_t>PyBytes_GET_SIZE(self.prefixes[i])
            answer.body_bytes = <uint32_t>PyBytes_GET_SIZE(self.answers[i])
            memcpy(answer.prefix, PyBytes_AS_STRING(self.prefixes[i]), answer.prefix_bytes)
            memcpy(answer.body, PyBytes_AS_STRING(self.answers[i]), answer.body_bytes)
        return True

    cdef void describe(self, aiouring_watch *watch) noexcept:
        watch.kind = AIOURING_WATCH_RESPOND
        watch.first_answer = <uint32_t>self.first
        watch.answers = self.count

    def __dealloc__(self):
        if self.first >= 0:
            self.region.give_answers_back(<uint32_t>self.first, self.count)
