"""The life of a chain: one owner for all its requests, from their submission to the last completion of all.

Used by `chain`. Calls `_chainlinks`, whose links these are, `_hook`, `_loop`, `_op`.

There are two ways to run one. Where each request is known beforehand they are linked (IOSQE_IO_LINK): all SQEs stand one behind the other in the queue
and go out with one enter, and each has a slot of `_op` and a completion. Where a length or an offset is an earlier link's result, the loop's hook carries
it: the links are written into a slot of the hook's region, its program (bpf_progs/include/aiouring/chain.h) submits one after the other, and one
completion tells the end. (It also runs chains with an fsync or a statx on their way, where it is attached anyhow: the kernel does not sever linked requests
when these fail, so that without it the chain is submitted in parts, each after a look at the one before.) Both have the kernel's rules: a link that fails ends the chain, unless it is a hard one; a read or a write that
moves less than it was asked for fails, unless somebody takes its result.

Who owns what: a ChainRun holds its buffers (exported to it), its paths, its files and its places in the ring's table until the last completion of all
its links, and gives them all back then, before anybody is woken. What a loop that closes leaves of it goes with the object.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EBUSY, EINTR, EMSGSIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from aiouring._awaitable cimport AIOURING_NEXT, FINISHED, NEW, OVER, WAITING, warn_never_awaited
from aiouring._chainlinks cimport *
from aiouring._hook cimport *
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring.uapi cimport *

import asyncio
import os

from aiouring._errors import ChainError

CARRYING_LINKS = AIOURING_CHAIN_LINKS_MAX
CARRYING_CHAINS = AIOURING_CHAINS_MAX

cdef double TIMEOUT_MAX_S = 1e9


@cython.final
cdef class ChainRun(ChainLinks):
    """One chain: filled by its methods, submitted by begin() or when it is awaited, and awaited once."""

    def __cinit__(self):
        self.index = -1

    def __init__(self, timeout):
        if timeout is not None:
            timeout = float(timeout)
            if not timeout >= 0:
                raise ValueError(f"timeout is a time in seconds, not {timeout!r}")
            timeout = min(timeout, TIMEOUT_MAX_S)
        self.timeout = timeout

    def __repr__(self):
        return Operation.__repr__(self)

    # -- submission ----------------------------------------------------------------------------------------------------------------------

    def begin(self):
        """Submit it. Its end is told to who awaits it."""
        if self.state != NEW or self.building:
            raise RuntimeError("this chain was submitted already")
        self.state = WAITING
        try:
            self.start()
        except BaseException:
            self.state = OVER
            self.over()
            raise

    def drop(self):
        """It shall never be submitted: give everything back."""
        if self.state == NEW:
            self.state = OVER
            self.over()

    @property
    def outcomes(self):
        """Of each link what it brought or an OSError, once the chain is over; None before."""
        return self.outcome_list

    cdef int step(self, object value, PyObject **result) except -1:
        if self.state == WAITING and not self.awaited:
            # It was submitted when its block was left.
            self.awaited = self.blocking = True
            Py_INCREF(self)
            result[0] = <PyObject *>self
            return AIOURING_NEXT
        self.awaited = True
        return Operation.step(self, value, result)

    cdef int start(self) except -1:
        cdef ChainFile file
        loop = asyncio.get_running_loop()
        if not isinstance(loop, LoopCore):
            raise TypeError(f"a chain needs aiouring's event loop, not {type(loop).__name__}")
        self.loop = <LoopCore>loop
        if self.count == 0:
            self.outcome_list = []
            return self.finish([])
        self.loop.check_open()
        self.loop.ops.check()
        if self.carries and self.count > AIOURING_CHAIN_LINKS_MAX:
            raise ValueError(f"a chain that carries results has up to {AIOURING_CHAIN_LINKS_MAX} links, not {self.count}")
        self.submit()
        if self.timeout is not None and self.state == WAITING:
            self.timer = self.loop.call_later(self.timeout, self._time_is_over)
        return 0

    cdef int submit(self) except -1:
        cdef HookEngine engine = engine_of(self.loop)
        cdef uint32_t at
        self.in_hook = self.carries
        for at in range(self.count - 1):
            if not self.severs(at) and engine is not None and engine.has_chains and self.count <= AIOURING_CHAIN_LINKS_MAX:
                self.in_hook = engine.region.free_chain_count != 0
        self.take_files()
        return self.submit_to_hook() if self.in_hook else self.submit_linked(0)

    def _time_is_over(self):
        self.timer = None
        if not self.idle() and not self.stopping:
            self.timed_out = True
            self.stop()
    # -- linked ------------------------------------------------------------------------------------------------------------------------------

    cdef int submit_linked(self, uint32_t first) except -1:
        cdef io_uring_sqe *sqe
        cdef io_uring_sqe *previous = NULL
        cdef uint64_t request
        cdef uint32_t at, end = first
        while end + 1 < self.count and self.severs(end):
            end += 1
        end += 1
        if end - first > self.loop.ring.sq_entries:
            raise ValueError(f"a chain of {end - first} links does not fit into a submission queue of {self.loop.ring.sq_entries}")
        self.loop.ops.reserve(end - first)
        try:
            for at in range(first, end):
                sqe = self.loop.ops.begin(self, ChainRun.link_complete, at)
                # Only now, so that nothing of somebody else hangs on the chain's last request, whatever happens.
                if previous != NULL:
                    previous.flags |= <uint8_t>(IOSQE_IO_HARDLINK if self.links[at - 1].hard else IOSQE_IO_LINK)
                request = sqe.user_data
                self.fill(at, sqe)
                sqe.user_data = request
                self.links[at].request = request
                self.links[at].over = self.links[at].severed = False
                self.live += 1
                previous = sqe
        except BaseException:
            for at in range(first, end):
                self.loop.ops.withdraw(self.links[at].request)
                self.links[at].request = 0
            self.live = 0
            raise
        self.submitted = end
        return 0

    @staticmethod
    cdef int link_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef ChainRun self = <ChainRun>owner
        cdef chain_link *link
        if self.links == NULL or self.links[tag].request == 0:
            return 0                # it was withdrawn, and its chain is over
        link = &self.links[tag]
        link.request = 0
        link.result = res + <int64_t>link.base if res >= 0 else res
        link.over = True
        self.live -= 1
        try:
            if self.live == 0:
                self.conclude()
            elif self.stopping and (link.hard or not self.has_failed(tag)):
                self.stop_first()       # what comes next runs now, and must be stopped as well
        except BaseException as exc:
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef int stop_first(self) except -1:
        """Links run one after the other: what the kernel has not seen is taken back, and of the rest the first is the one that runs."""
        cdef uint32_t at
        for at in range(self.count):
            if self.links[at].request and not self.loop.ops.withdraw(self.links[at].request):
                return self.loop.ops.cancel(self.links[at].request)
        return 0

    cdef bint idle(self) noexcept:
        return self.live == 0 and self.request == 0

    cdef int stop(self) except -1:
        if self.index >= 0:
            if not self.stopping:
                self.stopping = True
                prep_chain_nop(self.region, <uint32_t>self.index, CHAIN_CANCEL, self.loop.ops.sqe_or_flush())
        elif not self.stopping:
            self.stopping = True
            self.stop_first()
        return 0

    # -- in the hook --------------------------------------------------------------------------------------------------------------------------

    cdef int submit_to_hook(self) except -1:
        from aiouring.bpf import hooks          # which imports what imports this
        cdef HookEngine engine = hooks.standard_engine(self.loop)
        cdef Region region = engine.region
        cdef aiouring_chain *chain
        cdef io_uring_sqe *sqe
        cdef uint32_t at
        if not engine.has_chains:
            raise RuntimeError("a chain that carries results needs a hook with chains, and the program that is attached to this event loop has none: "
                               "detach it, or build it with aiouring/chain.h")
        if region.free_chain_count == 0:
            raise OSError(EBUSY, f"{AIOURING_CHAINS_MAX} chains that carry results run in this event loop's hook, which is its limit")
        sqe = self.loop.ops.begin(self, ChainRun.hook_complete, 0)
        region.free_chain_count -= 1
        self.region = region
        self.index = region.free_chains[region.free_chain_count]
        chain = region.chain(<uint32_t>self.index)
        memset(chain, 0, sizeof(aiouring_chain))
        for at in range(self.count):
            self.fill_slot(&chain.link[at], at)
        chain.links = self.count
        chain.owner = self.request = sqe.user_data
        chain.live = 1
        region.control.tasks_live += 1
        prep_chain_nop(region, <uint32_t>self.index, CHAIN_START, sqe)
        return 0

    cdef void fill_slot(self, aiouring_link *slot, uint32_t at) noexcept:
        cdef chain_link *link = &self.links[at]
        self.fill(at, <io_uring_sqe *>slot.sqe)
        slot.length_from = link.length_from
        slot.offset_from = link.offset_from
        slot.length_add = link.length_add
        slot.offset_add = link.offset_add
        slot.base = link.base
        slot.wanted = link.wanted
        slot.limit = link.limit
        slot.action = AIOURING_LINK_REQUEST
        if link.hard:
            slot.flags |= AIOURING_LINK_HARD
        elif self.may_be_short(at) == 0:
            slot.flags |= AIOURING_LINK_SHORT
        if link.kind == LINK_TIMER:
            slot.flags |= AIOURING_LINK_TIMER
        if link.whole:
            slot.flags |= AIOURING_LINK_WHOLE

    @staticmethod
    cdef int hook_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef ChainRun self = <ChainRun>owner
        cdef aiouring_chain *chain = self.region.chain(<uint32_t>self.index)
        cdef uint32_t at
        self.request = 0
        if chain.live:
            # Not the program's word: the ring was replaced, with all that was in flight, because another thread runs the loop.
            chain.live = 0
            chain.error = -ECANCELED
            self.region.control.tasks_live -= 1
        self.ended_by = chain.error
        self.begun = chain.begun
        for at in range(self.count):
            self.links[at].over = chain.link[at].flags & AIOURING_LINK_ENDED != 0
            self.links[at].result = chain.link[at].result if self.links[at].over else -ECANCELED
            self.links[at].wanted = chain.link[at].wanted
            self.links[at].base = chain.link[at].base
        try:
            self.conclude()
        except BaseException as exc:
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    # -- the end --------------------------------------------------------------------------------------------------------------------------------
    cdef int note_outcomes(self) except -1:
        """Of all links, when nothing of it is in flight."""
        cdef uint32_t at
        cdef bint severed = False
        self.note_ends()
        self.outcome_list = []
        for at in range(self.count):
            if severed and self.links[at].result == -ECANCELED:
                self.links[at].over = False         # the kernel's completion for a link that it has not begun
            if self.has_failed(at):
                self.outcome_list.append(self.error_of(at))
                severed = severed or not self.links[at].hard
            else:
                self.outcome_list.append(self.value_of(at))
        return 0

    cdef bint is_lost(self, uint32_t at) noexcept:
        """Whether a ring that was replaced took it along."""
        return not self.links[at].over or self.links[at].result == -ECANCELED

    cdef int conclude(self) except -1:
        """Nothing of it is in flight: go on where that is to be done, or say how it went."""
        cdef uint32_t at = 0, failed = 0
        cdef object error
        while failed < self.count and not self.has_failed(failed):
            failed += 1
        if not self.stopping and self.wanted():
            if self.loop.ring is not self.ring:
                while at < self.count and not self.is_lost(at) and (self.links[at].hard or not self.has_failed(at)):
                    at += 1
                if at < self.count and self.is_lost(at):
                    return self.begin_again(at)
            elif not self.in_hook:
                at = 0
                while at < self.submitted and (self.links[at].hard or not self.has_failed(at)):
                    at += 1
                if at < self.submitted and self.links[at].result == -EINTR:
                    return self.submit_linked(at)           # nothing behind it has run, nor has itself
                if at == self.submitted and at < self.count:
                    return self.submit_linked(at)
        self.note_outcomes()
        if failed == self.count:
            return self.finish(list(self.outcome_list))
        if self.timed_out:
            error = TimeoutError(f"the chain was not over after {self.timeout:g} seconds")
            error.__cause__ = self.outcome_list[failed]
            return self.fail(error)
        return self.fail(self.failure(failed))

    cdef int begin_again(self, uint32_t failed) except -1:
        """The loop runs in another thread, and the ring is another one. A chain of which nothing can have happened begins anew."""
        cdef ChainFile file
        cdef bint untouched = failed == 0 and (self.begun == 0 if self.in_hook else self.links[0].kind in (LINK_STATX, LINK_TIMER))
        if untouched and all([file.can_be_taken_again() for file in self.files]):
            self.give_files_back()
            self.give_slot_back()
            return self.submit()
        self.note_outcomes()
        return self.fail(chain_error(self, failed, ECANCELED, "the event loop moved to another thread while the chain was in flight: this link may have "
                                     "run, and those behind it have not"))

    cdef object failure(self, uint32_t at):
        cdef chain_link *link = &self.links[at]
        if link.over and link.result >= 0:
            reason = f"it moved {link.result} of {link.wanted} bytes"
        elif self.in_hook and self.ended_by and not self.stopping:
            reason = "the event loop's hook failed, and with it what ran in it"
        elif self.socket_gone:
            reason = "a socket of the chain was closed while it was in flight"
        elif not link.over and self.ended_by:
            reason = f"it did not run: {os.strerror(-self.ended_by)}"
        elif link.result == -EMSGSIZE and link.length_from:
            reason = f"the length that it was given is more than the {link.limit} bytes of its buffer"
        else:
            reason = os.strerror(<int>-link.result)
        return chain_error(self, at, self.outcome_list[at].errno, reason)

    cdef void give_slot_back(self) noexcept:
        if self.index >= 0:
            self.region.free_chains[self.region.free_chain_count] = <uint16_t>self.index
            self.region.free_chain_count += 1
            self.index = -1
            self.region = None

    cdef void release(self) noexcept:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        ChainLinks.release(self)
        self.give_slot_back()

    def __dealloc__(self):
        if self.state == FINISHED and not self.awaited:
            warn_never_awaited(self.name())


cdef object chain_error(ChainRun run, uint32_t at, int error, str reason):
    cdef str message = f"link {at + 1} of {run.count}, {run.kind_name(at)}(): {reason}"
    failed = ChainError(error, message) if run.names[at] is None else ChainError(error, message, run.names[at])
    failed.index = at
    failed.outcomes = run.outcome_list
    failed.results = run.outcome_list[:at]
    failed.__cause__ = run.outcome_list[at]
    return failed

