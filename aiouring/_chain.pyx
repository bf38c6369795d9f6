"""The life of a chain: one owner for all its requests, from their submission to the last completion of all.

Used by `_chaincalls`, whose Chain is what the user has. Calls `_chainlinks`, whose links these are, `_hook`, `_bpfop`, `_loop`, `_op`.

There are two ways to run one. Where each request is known beforehand they are linked (IOSQE_IO_LINK): all SQEs stand one behind the other in the
queue and go out with one enter. A link whose success says all posts no completion for it, so that as a rule one completion comes, of the last
link or of the one that failed. Where a length or an offset is an earlier link's result, or a link is no request, the loop's hook runs it: the
links are written into a slot of the hook's region, its program (bpf_progs/include/aiouring/chain.h) submits one after the other, and one
completion tells the end.

Both have the kernel's rules: a link that fails ends the chain, unless it is a hard one; a read or a write that moves less than it was asked for
fails, unless somebody takes its result. An fsync or a statx that fails does not sever linked requests, so that the chain is submitted in parts
there, each after a look at the one before, or the hook runs it where there is one anyhow.

A BPF operation is a request, or is called by the inline hook, or run by Python, for which the hook waits. One that does not run since a link
before it failed is told so before the chain is over.

Who owns what: a ChainRun holds its buffers (exported to it), its paths, its files and its places in the ring's table until the last completion of all
its links, and gives them all back then, before anybody is woken. What a loop that closes leaves of it goes with the object.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EBUSY, EINTR, EIO, EMSGSIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from aiouring._awaitable cimport ABANDONED, AIOURING_NEXT, FINISHED, NEW, OVER, WAITING, warn_never_awaited
from aiouring._bpfop cimport ENGINE_OPCODE, ENGINE_PROG_RUN, URING_BPF_DIRECT_BYTES_MAX, BpfRequest, call_request, uring_bpf_request
from aiouring._chainfile cimport ChainFile
from aiouring._chainlinks cimport *
from aiouring._hook cimport *
from aiouring._loop cimport LoopCore
from aiouring._op cimport LINKED_LOST, LINKED_WITHDRAWN, linked_data
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_close, prep_timeout
from aiouring.uapi cimport *

import asyncio
import functools
import os
import weakref

from aiouring._errors import ChainError

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *value)

cdef object get_running_loop = asyncio.get_running_loop
cdef double CANCEL_AGAIN_S = 0.005
cdef double BUSY_AGAIN_S = 0.001

cdef object known_loop = None       # a weak reference to the one that began a chain last


cdef LoopCore running_loop():
    """asyncio.get_running_loop(), which asks the kernel for the process's id each time (Python 3.11), without that where it is the same loop."""
    global known_loop
    cdef LoopCore known = None if known_loop is None else known_loop()
    # A closed one keeps the thread that closed it; one that does not run has none.
    if known is not None and not known._closed and known.ops.issuer == PyThread_get_thread_ident() and not known.ring.foreign_process():
        return known
    loop = get_running_loop()
    if not isinstance(loop, LoopCore):
        raise TypeError(f"a chain needs aiouring's event loop, not {type(loop).__name__}")
    known_loop = weakref.ref(loop)
    return <LoopCore>loop


@cython.final
cdef class ChainRun(ChainLinks):
    """One chain: filled by its methods, submitted by begin() or when it is awaited, and awaited once."""

    def __cinit__(self):
        self.index = -1

    cdef int limit(self, object timeout) except -1:
        """In seconds, for the whole chain."""
        timeout = float(timeout)
        if not timeout >= 0:
            raise ValueError(f"timeout is a time in seconds, not {timeout!r}")
        self.timeout = min(timeout, TIMEOUT_MAX_S)
        return 0

    cdef object chain(self):
        # Not one that is just going: callbacks of its weak references run then, and destructors of what a subclass's instance has.
        if self.face != NULL and Py_REFCNT(<PyObject *>self.face) > 0:
            return <object><PyObject *>self.face
        from aiouring import _chaincalls        # which imports this
        return _chaincalls.chain_of(self)

    def __repr__(self):
        return Operation.__repr__(self)

    # -- submission ----------------------------------------------------------------------------------------------------------------------

    cdef int begin(self) except -1:
        """Submit it. Its end is told to who awaits it."""
        if self.state != NEW:
            raise RuntimeError("this chain was submitted already")
        self.check_whole()
        self.state = WAITING
        try:
            self.start()
        except BaseException:
            self.state = OVER
            self.over()
            raise
        return 0

    cdef int drop(self) except -1:
        """It shall never be submitted: give everything back."""
        if self.state == NEW:
            self.check_whole()
            self.state = OVER
            self.over()
        return 0

    cdef int give_up(self) except -1:
        return self.drop() if self.state == NEW else Operation.give_up(self)

    cdef int check_whole(self) except -1:
        """What submits it, or gives it back, must not come out of an argument of a link that is being made."""
        if self.building:
            raise RuntimeError("a link is being added to this chain, by code that one of its arguments runs")
        return 0

    cdef int claim(self) except -1:
        """Somebody is about to await it."""
        if self.state == OVER:
            raise RuntimeError("cannot reuse a chain that is over: it was awaited, or could not be submitted, or an exception left its block")
        if self.claimed:
            raise RuntimeError("this chain is awaited already: its results go to one place. Await it once, and hand them on")
        self.check_whole()
        self.claimed = True
        return 0

    cdef int step(self, object value, PyObject **result) except -1:
        if self.state == WAITING and not self.awaited:
            # It was submitted when its block was left.
            self.awaited = self.blocking = True
            Py_INCREF(self)
            result[0] = <PyObject *>self
            return AIOURING_NEXT
        self.check_whole()
        self.awaited = True
        return Operation.step(self, value, result)

    cdef int start(self) except -1:
        self.loop = running_loop()
        if self.count == 0:
            self.outcome_list = []
            return self.finish([])
        self.loop.check_open()
        self.loop.ops.check()
        if self.operations is not None:
            for request in self.operations.values():
                if (<BpfRequest>request).op.loop is not self.loop:
                    raise RuntimeError(f"{(<BpfRequest>request).op.name}: this operation was loaded for another event loop than the running one")
        if self.carries and self.count > AIOURING_CHAIN_LINKS_MAX:
            raise ValueError(f"a chain that carries results has up to {AIOURING_CHAIN_LINKS_MAX} links, not {self.count}")
        if self.timeout is not None:
            # Before anything is in flight: in debug mode this is Python code, in which a signal's handler may raise.
            self.timer = self.loop.call_later(self.timeout, self._time_is_over)
        self.submit()
        return 0

    cdef int submit(self) except -1:
        cdef HookEngine engine = engine_of(self.loop)
        cdef uint32_t at
        self.in_hook = self.carries
        if (not self.carries and engine is not None and engine.has_chains and self.count <= AIOURING_CHAIN_LINKS_MAX
                and engine.region.free_chain_count != 0):
            for at in range(self.count - 1):
                self.in_hook = self.in_hook or not self.severs(at)
        # A file's fileno() is code of the user's, and an import in there is Python code, where a signal's handler may run. What cancels the chain
        # or gives it up then is heard when nothing is half done.
        self.submitting = True
        try:
            self.take_files()
            if self.in_hook:
                from aiouring.bpf import hooks      # which imports what imports this
                engine = hooks.standard_engine(self.loop)
        finally:
            self.submitting = False
        if not self.wanted():
            return self.over() if self.state == ABANDONED else self.finish_cancelled()
        if self.stopping:
            raise OSError(ECANCELED, "a socket of the chain was closed while it was being submitted")
        return self.submit_to_hook(engine) if self.in_hook else self.submit_linked(0)

    def _time_is_over(self):
        self.timer = None
        if not self.idle() and not self.stopping and not self.failing:
            self.timed_out = True
            self.stop()

    # -- linked ------------------------------------------------------------------------------------------------------------------------------

    cdef int submit_linked(self, uint32_t first) except -1:
        """The links from `first` on, as far as the kernel can be left alone with them."""
        cdef io_uring_sqe *sqe
        cdef uint64_t request
        cdef uint32_t at, end = first + 1
        while end < self.count and self.severs(end - 1) and not self.is_alone(end - 1, first) and not self.is_alone(end, first):
            end += 1
        if end - first > self.loop.ring.sq_entries:
            raise ValueError(f"a chain of {end - first} links does not fit into a submission queue of {self.loop.ring.sq_entries}")
        sqe = self.loop.ops.begin_linked(self, ChainRun.link_complete, end - first)
        self.request = request = sqe.user_data
        self.first = first
        self.submitted = end
        self.severed = False
        for at in range(first, end):
            if at != first:
                sqe = self.loop.ring.next_sqe()
            self.links[at].over = False         # it may have been in flight before
            self.fill(at, sqe)
            if at + 1 < end:
                sqe.flags |= <uint8_t>(IOSQE_IO_HARDLINK if self.links[at].hard else IOSQE_IO_LINK)
                if self.is_quiet(at):
                    sqe.flags |= <uint8_t>IOSQE_CQE_SKIP_SUCCESS
            sqe.user_data = linked_data(request, at - first)
        return 0

    cdef bint is_alone(self, uint32_t at, uint32_t first) noexcept:
        """Whether it cannot be linked to others, from `first` on. The kernel's own BPF operations are prepared when the chain is submitted, and one
        that is refused then takes all others with it, of which none has run. So that is tried, and if need be done again with each by itself; but for
        where the first one's ECANCELED could also be what it says itself."""
        if self.may_be_refused(at):
            return True
        if not self.is_opcode(at):
            return False
        return self.careful or (self.is_opcode(first) and (at != first or self.links[at].hard))

    cdef bint is_opcode(self, uint32_t at) noexcept:
        return self.links[at].kind == LINK_BPF and self.operation(at).op.kind == ENGINE_OPCODE

    cdef bint may_refuse_all(self) noexcept:
        """Whether one of the requests that are linked now could have refused the others."""
        cdef uint32_t at
        for at in range(self.first + 1, self.submitted):
            if self.is_opcode(at):
                return True
        return False

    cdef bint is_quiet(self, uint32_t at) noexcept:
        """Whether its success posts no completion. (Of a first link that is hard, its ECANCELED would not tell whether others follow.)"""
        return self.success_is_known(at) and not (at == self.first and self.links[at].hard and self.may_refuse_all())

    cdef bint success_is_known(self, uint32_t at) noexcept:
        """Whether its completion would say nothing that is not known from its success: it is left out then, and Python not woken by it."""
        cdef chain_link *link = &self.links[at]
        if link.kind == LINK_RECV:
            return link.whole or link.base != 0
        return self.severs(at) and link.kind != LINK_FSYNC and link.kind != LINK_STATX

    cdef int64_t known_success(self, uint32_t at) noexcept:
        cdef chain_link *link = &self.links[at]
        if link.kind == LINK_RECV and not link.whole:
            return link.base
        if link.kind == LINK_TIMER:
            return -ETIME
        return link.wanted          # nothing, where nothing is moved

    @staticmethod
    cdef int link_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef ChainRun self = <ChainRun>owner
        cdef bint over = self.note_completion(tag, res)
        if not over:
            if self.stopping and not self.loop.ops.closed:
                self.loop.ops.cancel_linked(self.request, tag + 1)      # the end of a hard link has begun the next one
            return 0
        if tag == LINKED_LOST:
            self.request = 0            # it is void already
        else:
            request, self.request = self.request, 0
            self.loop.ops.end_linked(request)
        if self.loop.ops.closed:
            return 0
        return self.conclude_or_fail()

    cdef bint note_completion(self, uint32_t number, int32_t res) noexcept:
        """True: that was the last one."""
        cdef uint32_t at = self.first + number, before
        cdef chain_link *link
        if number == LINKED_LOST:
            return True
        if number == LINKED_WITHDRAWN:
            self.submitted = self.first     # the kernel has seen none of them
            return True
        link = &self.links[at]
        for before in range(self.first, at):
            if not self.links[before].over and not self.severed:
                self.links[before].over = True          # it said nothing, so all went well
                self.links[before].result = self.known_success(before)
        link.over = True
        link.result = res + <int64_t>link.base if res >= 0 else res
        if at + 1 == self.submitted:
            return True
        if not self.severed and not link.hard and self.severs_by(at):
            self.severed = True
            return self.is_quiet(at)                # the others are as quiet as it would have been; else each says that it was cancelled
        return False

    cdef bint severs_by(self, uint32_t at) noexcept:
        """Whether the kernel takes this result for a failure: of less than all too, whoever takes the number."""
        cdef chain_link *link = &self.links[at]
        if link.result < 0:
            return not (link.kind == LINK_TIMER and link.result == -ETIME)
        return link.result < <int64_t>link.wanted and (link.kind != LINK_RECV or link.whole)

    cdef int stop(self) except -1:
        if self.stopping or self.failing:
            return 0                    # what hears of a failure ends by itself
        self.stopping = True
        if self.index >= 0:
            prep_chain_nop(self.region, <uint32_t>self.index, CHAIN_CANCEL, self.loop.ops.sqe_or_flush())
        else:
            self._stop_linked()
        return 0

    def _stop_linked(self):
        """Which link runs, nobody knows, and the end of one may begin another: ask until it is over."""
        self.stopper = None
        if self.request and not self.failing and not self.loop.ops.cancel_linked(self.request, 0):
            self.stopper = self.loop.call_later(CANCEL_AGAIN_S, self._stop_linked)

    # -- in the hook --------------------------------------------------------------------------------------------------------------------------

    cdef int submit_to_hook(self, HookEngine engine) except -1:
        cdef Region region = engine.region
        cdef aiouring_chain *chain
        cdef io_uring_sqe *sqe
        cdef uint32_t at
        if not engine.has_chains:
            raise RuntimeError("a chain that carries results, or runs an operation that is no request, needs a hook with chains, and the "
                               "program that is attached to this event loop has none: detach it, or build it with aiouring/chain.h")
        if region.free_chain_count == 0:
            raise OSError(EBUSY, f"{AIOURING_CHAINS_MAX} chains that carry results run in this event loop's hook, which is its limit")
        sqe = self.loop.ops.begin(self, ChainRun.hook_complete, 0)
        region.free_chain_count -= 1
        self.region = region
        self.engine = engine
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
        if link.kind == LINK_BPF:
            self.fill_operation(slot, at)

    cdef void fill_operation(self, aiouring_link *slot, uint32_t at) noexcept:
        """The request's own memory is in the slot, where the program can set its length. Who runs it: the kernel, the hook, or Python."""
        cdef BpfRequest request = self.operation(at)
        cdef io_uring_sqe *sqe = <io_uring_sqe *>slot.sqe
        cdef aiouring_timespec *duration = <aiouring_timespec *>self.links[at].memory
        memcpy(slot.operation, request.memory(), sizeof(uring_bpf_request))
        if request.native():
            slot.action = AIOURING_LINK_OPERATION
            if sqe.opcode == IORING_OP_URING_CMD:
                sqe.addr3 = <uint64_t>slot.operation
            else:
                sqe.addr = <uint64_t>slot.operation
            return
        memset(sqe, 0, sizeof(io_uring_sqe))
        if request.inline_program() != NULL and isinstance(self.engine, InlineEngine) and request.total_bytes() <= URING_BPF_DIRECT_BYTES_MAX:
            slot.action = AIOURING_LINK_INLINE
            slot.sqe[0] = <uint64_t>request.inline_program().run
        else:
            slot.action = AIOURING_LINK_PYTHON
            prep_timeout(sqe, duration)

    cdef int begin_operation(self, uint32_t at) except -1:
        """The program has come to a link that is Python's."""
        cdef aiouring_link *slot = &self.region.chain(<uint32_t>self.index).link[at]
        cdef BpfRequest request = self.operation(at)
        cdef uring_bpf_request *described = <uring_bpf_request *>slot.operation
        # With the link's own request: it has its buffers and its operation, whoever closes them meanwhile.
        if described.buffer_count:
            request.set_length(described.buffers[0].len)
        call = call_request(request)
        coroutine = run_operation(call)
        try:
            # By a callback, which comes also where the task never began, and after this where it is over already.
            self.operation_task = asyncio.ensure_future(coroutine, loop=self.loop)
            self.operation_task.add_done_callback(functools.partial(self._operation_ended, at, call))
        except BaseException as exc:
            # A task factory's, or of a signal's handler. The program waits for an answer, and nobody else would give it.
            self.operation_task = None
            if let_go(call, request):
                coroutine.close()
            self.answer(at, None, exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    def _operation_ended(self, uint32_t at, call, task):
        """Python has run a link's operation."""
        self.operation_task = None
        let_go(call, self.operation(at))        # where the task was cancelled before it began, or a task factory's did not wait for it
        if self.loop._closed or self.loop.ops.closed:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self.answer(at, task.result() if error is None else None, error)

    cdef int answer(self, uint32_t at, object value, object error) except -1:
        """Tell the program how the link ended that it left to Python."""
        cdef BpfRequest request = self.operation(at)
        cdef aiouring_link *slot
        cdef io_uring_sqe *sqe
        if error is None:
            request.request.result = <uint64_t>(value & 0xFFFFFFFFFFFFFFFF)
        elif not isinstance(error, (OSError, asyncio.CancelledError, SystemExit, KeyboardInterrupt)):
            self.loop.call_exception_handler({"message": "a chain's operation failed", "exception": error})
        if self.request == 0:
            return self.conclude_or_fail()      # the chain has ended meanwhile, and waited for this
        slot = &self.region.chain(<uint32_t>self.index).link[at]
        if error is None:
            slot.result = <int64_t>request.request.result
            slot.flags |= AIOURING_LINK_ANSWERED
        else:
            slot.error = -errno_of(error)
        sqe = self.loop.ops.sqe_or_flush()
        sqe.opcode = IORING_OP_ASYNC_CANCEL
        sqe.fd = -1
        sqe.addr = <uint64_t>AIOURING_NS_CHAIN << 56 | <uint64_t>CHAIN_LINK << 48 | <uint64_t>at << 32 | <uint32_t>self.index
        sqe.flags = <uint8_t>IOSQE_CQE_SKIP_SUCCESS
        return 0

    @staticmethod
    cdef int hook_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef ChainRun self = <ChainRun>owner
        cdef aiouring_chain *chain = self.region.chain(<uint32_t>self.index)
        cdef aiouring_link *slot
        cdef uint32_t at
        if cqe_flags & IORING_CQE_F_MORE:
            return self.begin_operation(<uint32_t>res)
        self.request = 0
        if chain.live:
            # Not the program's word: the ring was replaced, with all that was in flight, because another thread runs the loop.
            chain.live = 0
            chain.error = -ECANCELED
            self.region.control.tasks_live -= 1
        self.ended_by = chain.error
        self.begun = chain.begun
        for at in range(self.count):
            slot = &chain.link[at]
            self.links[at].over = slot.flags & AIOURING_LINK_ENDED != 0
            self.links[at].result = slot.result if self.links[at].over else -ECANCELED
            self.links[at].wanted = slot.wanted
            self.links[at].base = slot.base
            if self.links[at].kind == LINK_BPF and self.links[at].over and not slot.flags & AIOURING_LINK_FAILED:
                self.operation(at).request.result = <uint64_t>slot.result
                self.links[at].result = 0           # it may be a number below 0
        if self.operation_task is not None:
            self.operation_task.cancel()            # its buffers are in use until it has ended, which concludes
            return 0
        return self.conclude_or_fail()

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

    cdef int conclude_or_fail(self) except -1:
        """conclude(), whose exception is the chain's: who awaits it hears of it."""
        try:
            self.conclude()
        except BaseException as exc:
            self.note_ends()                # which it may not have come to: what was opened is to be closed, and what was written is news to a file
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef int conclude(self) except -1:
        """Nothing of it is in flight: go on where that is to be done, or say how it went."""
        cdef uint32_t at = 0, failed = 0
        cdef object error
        if self.stopper is not None:
            self.stopper.cancel()           # nothing is left that it could stop
            self.stopper = None
        while failed < self.count and not self.has_failed(failed):
            failed += 1
        if self.failing == 0 and not self.stopping and self.wanted():
            if self.loop.ring is not self.ring:
                while at < self.count and not self.is_lost(at) and (self.links[at].hard or not self.has_failed(at)):
                    at += 1
                if at < self.count and self.is_lost(at):
                    return self.begin_again(at)
            elif not self.in_hook:
                at = 0
                while at < self.submitted and (self.links[at].hard or not self.has_failed(at)):
                    at += 1
                if at < self.submitted and self.links[at].result == -EINTR and self.links[at].kind != LINK_BPF:
                    return self.submit_linked(at)           # nothing behind it has run, nor has itself
                if self.links[self.first].result == -ECANCELED and not self.is_opcode(self.first) and not self.careful and self.may_refuse_all():
                    self.careful = True
                    for at in range(self.first, self.submitted):
                        self.links[at].over = False
                    return self.submit_linked(self.first)   # nothing has run
                if at == self.submitted and at < self.count:
                    return self.submit_linked(at)
        if failed < self.count and self.tell_failed():
            return 0                        # conclude() comes again
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
        cdef uint32_t at
        cdef bint untouched = failed == 0 and (self.begun == 0 if self.in_hook else self.links[0].kind in (LINK_STATX, LINK_TIMER))
        self.submitting = True              # see submit()
        try:
            untouched = untouched and all([file.can_be_taken_again() for file in self.files])
        finally:
            self.submitting = False
        if untouched and self.wanted():
            self.give_files_back()
            self.give_slot_back()
            for at in range(self.count):
                self.links[at].over = False
                self.links[at].base = 0         # what was put back comes again
            return self.submit()
        self.note_outcomes()
        return self.fail(chain_error(self, failed, ECANCELED, "the event loop moved to another thread while the chain was in flight: this link may "
                                     "have run, and those behind it have not"))

    cdef bint tell_failed(self) except -1:
        """Operations that never ran, because of what was before them, hear of it: fail and cleanup. True: some have still to. (What was linked in the
        kernel, IORING_OP_BPF tells by itself.)"""
        cdef BpfRequest request
        cdef io_uring_sqe *sqe
        cdef uint32_t at, count = 0
        if self.failing == 0:
            self.failing = 1
            self.unheard = []
            for at in range(self.count):
                request = self.operation(at)
                if request is None or request.withdrawn:
                    continue
                if self.links[at].over and not (self.links[at].result == -ECANCELED and self.after_failure(at)):
                    continue
                if not request.native() or request.fail_owed(-ECANCELED) or (self.in_hook or at >= self.submitted) and self.loop.ring is self.ring:
                    self.unheard.append(request)
        while self.unheard:
            request = self.unheard[0]
            if request.op.kind == ENGINE_PROG_RUN and request.op.busy:
                self.loop.call_later(BUSY_AGAIN_S, self._tell_again)
                self.waiting = True
                return True
            if request.native():
                break
            request.run_failed()
            del self.unheard[0]
        if not self.unheard:
            return False
        # Behind a request that fails, for the kernel's own operation; the module is asked to.
        request = self.unheard.pop(0)
        count = 1 if request.fail_owed(-ECANCELED) else 2
        sqe = self.loop.ops.begin_linked(self, ChainRun.fail_complete, count)
        self.request = sqe.user_data
        self.failing = count
        if count == 2:
            prep_close(sqe, -1)
            sqe.flags = <uint8_t>IOSQE_IO_LINK
            sqe.user_data = linked_data(self.request, 0)
            sqe = self.loop.ring.next_sqe()
            request.fill(sqe)
        else:
            request.fill_fail(sqe)
        sqe.user_data = linked_data(self.request, count - 1)
        return True

    def _tell_again(self):
        self.waiting = False
        self.conclude_or_fail()

    @staticmethod
    cdef int fail_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef ChainRun self = <ChainRun>owner
        if tag != LINKED_LOST and tag != LINKED_WITHDRAWN and tag + 1 < self.failing:
            return 0
        request, self.request = self.request, 0
        if tag != LINKED_LOST:
            self.loop.ops.end_linked(request)
        return 0 if self.loop.ops.closed else self.conclude_or_fail()

    cdef bint after_failure(self, uint32_t at) noexcept:
        cdef uint32_t before
        for before in range(at):
            if self.has_failed(before) and not self.links[before].hard:
                return True
        return False

    cdef bint idle(self) noexcept:
        return self.request == 0 and self.operation_task is None and not self.waiting and not self.submitting

    cdef object failure(self, uint32_t at):
        cdef chain_link *link = &self.links[at]
        if link.over and link.result >= 0:
            reason = f"it moved {link.result} of {link.wanted} bytes"
        elif self.in_hook and self.ended_by and not self.stopping:
            reason = "the event loop's hook failed, and with it what ran in it"
        elif self.lost_socket():
            reason = "a socket of the chain was closed while it was in flight"
        elif not link.over and self.ended_by:
            reason = f"it did not run: {os.strerror(-self.ended_by)}"
        elif link.result == -EMSGSIZE and link.length_from:
            reason = f"the length that it was given is more than the {link.limit} bytes of its buffer"
        else:
            reason = self.outcome_list[at].strerror
        return chain_error(self, at, self.outcome_list[at].errno, reason)

    cdef bint lost_socket(self) noexcept:
        """Whether one was closed while the chain was in flight."""
        cdef ChainFile file
        for file in self.files:
            if file.hold is not None and file.hold.gone:
                return True
        return False

    cdef void give_slot_back(self) noexcept:
        if self.index >= 0:
            self.region.free_chains[self.region.free_chain_count] = <uint16_t>self.index
            self.region.free_chain_count += 1
            self.index = -1
            self.region = None
            self.engine = None

    cdef void release(self) noexcept:
        timer, self.timer = self.timer, None
        stopper, self.stopper = self.stopper, None
        ChainLinks.release(self)
        self.give_slot_back()
        # Last, because in debug mode this is Python code, where a signal's handler may raise.
        if timer is not None:
            timer.cancel()
        if stopper is not None:
            stopper.cancel()

    def __dealloc__(self):
        if self.state == FINISHED and not self.awaited:
            warn_never_awaited(self.name())


cdef int let_go(Operation call, BpfRequest request) except -1:
    """The chain does not wait for it any more. A thread that runs it still gives the buffers back itself, when it is through. 0: so it is."""
    if not call.cancel():           # whoever awaits it all the same
        call.close()
    if call.idle():
        return 1
    request.withdraw()
    return 0


async def run_operation(call):
    """A link's operation, awaited for the chain."""
    return await call


cdef int errno_of(object error):
    if isinstance(error, asyncio.CancelledError):
        return ECANCELED
    return error.errno if isinstance(error, OSError) and error.errno else EIO


cdef object chain_error(ChainRun run, uint32_t at, int error, str reason):
    cdef str message = f"link {at + 1} of {run.count}, {run.kind_name(at)}(): {reason}"
    name = run.name_of(at)
    failed = ChainError(error, message) if name is None else ChainError(error, message, name)
    failed.link = run.link_of(at)
    failed.index = at
    failed.outcomes = run.outcome_list
    failed.results = run.outcome_list[:at]
    failed.__cause__ = run.outcome_list[at]
    return failed
