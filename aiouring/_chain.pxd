# A chain of requests that run one after another and are awaited as one. See _chain.pyx.

from libc.stdint cimport int32_t, int64_t, uint32_t

from aiouring._chainlinks cimport ChainLinks
from aiouring._hook cimport HookEngine, Region, aiouring_link


cdef class ChainRun(ChainLinks):
    cdef uint32_t first, submitted      # the links that are linked now: from the one to before the other
    cdef bint careful           # operations go out by themselves
    cdef bint severed           # one of them has failed, and those behind it do not run
    cdef bint stopping, timed_out, claimed, awaited
    cdef void *face             # the Chain, while the user has it
    cdef object timeout, timer, stopper
    cdef object operation_task  # of a link that Python runs
    cdef bint waiting           # for a program that is at work for somebody else
    cdef bint submitting        # its files are being taken
    cdef list unheard           # operations that have not heard yet that they will not run
    cdef uint32_t failing       # not 0: they are told, by so many requests
    cdef HookEngine engine
    cdef Region region
    cdef int32_t index          # of its slot there, -1: none
    cdef uint32_t begun         # links that had begun when the ring was replaced
    cdef int32_t ended_by       # -errno of what ended it, where that was no link

    cdef int limit(self, object timeout) except -1
    cdef int begin(self) except -1
    cdef int drop(self) except -1
    cdef int claim(self) except -1
    cdef int check_whole(self) except -1
    cdef bint lost_socket(self) noexcept
    cdef int submit_linked(self, uint32_t first) except -1
    cdef int submit_to_hook(self, HookEngine engine) except -1
    cdef int begin_operation(self, uint32_t at) except -1
    cdef int answer(self, uint32_t at, object value, object error) except -1
    cdef void fill_operation(self, aiouring_link *slot, uint32_t at) noexcept
    cdef bint tell_failed(self) except -1
    cdef bint after_failure(self, uint32_t at) noexcept
    cdef void fill_slot(self, aiouring_link *slot, uint32_t at) noexcept
    cdef int note_outcomes(self) except -1
    cdef bint is_lost(self, uint32_t at) noexcept
    cdef int conclude_or_fail(self) except -1
    cdef int conclude(self) except -1
    cdef int begin_again(self, uint32_t failed) except -1
    cdef object failure(self, uint32_t at)
    cdef bint is_alone(self, uint32_t at, uint32_t first) noexcept
    cdef bint is_opcode(self, uint32_t at) noexcept
    cdef bint may_refuse_all(self) noexcept
    cdef bint is_quiet(self, uint32_t at) noexcept
    cdef bint success_is_known(self, uint32_t at) noexcept
    cdef int64_t known_success(self, uint32_t at) noexcept
    cdef bint note_completion(self, uint32_t number, int32_t res) noexcept
    cdef bint severs_by(self, uint32_t at) noexcept
    cdef void give_slot_back(self) noexcept

    @staticmethod
    cdef int link_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1

    @staticmethod
    cdef int fail_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1

    @staticmethod
    cdef int hook_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
