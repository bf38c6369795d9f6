"""add_reader and add_writer: callbacks for descriptors that become readable or writable, by poll requests.

Used by `loop.Loop` (PollMixin), by `process` (a child's pidfd) and by everybody who calls loop.add_reader(). Calls `_op`, `_prep`, `_loop`.

A poll request is one-shot. Its completion runs the callback, and it is queued again at the turn's end, so a descriptor that stays ready calls its
callback in every turn: asyncio's level-triggered behaviour. One request serves both directions of a descriptor.

Who owns what: the loop's `_polls` owns one Poll a descriptor, from the first add_* to the last remove_*. A Poll gives its request up at once
when it is not wanted any more (`request` = 0, the next `serial`), and what the kernel still says of that request is ignored: a poll moves no
data, so nothing can be lost. The request keeps the open file alive in the kernel until it ends, which is why remove_* submits the cancel
before it returns: the caller closes the descriptor next.
"""

from libc.errno cimport EBADF, EPERM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.stat cimport S_ISBLK, S_ISCHR, S_ISDIR, S_ISREG, fstat, struct_stat

from aiouring._handle cimport Handle, new_handle
from aiouring._loop cimport Flushable, LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_poll_add
from aiouring.uapi cimport *

import os
import sys
from asyncio import format_helpers

cdef extern from "<errno.h>" nogil:
    int errno

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT
        POLLERR
        POLLHUP
        POLLNVAL

cdef extern from "<sys/sysmacros.h>" nogil:
    unsigned int major(unsigned long device)
    unsigned int minor(unsigned long device)

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef enum:
    SERIAL_MASK = 0xFFFFFF
    MEMORY_DEVICES_MAJOR = 1
    RANDOM_MINOR = 8
    KMSG_MINOR = 11


cdef class Poll(Flushable):
    """One descriptor with its reader and its writer."""

    cdef LoopCore loop
    cdef int fd
    cdef object fileobj             # what the caller gave: found by identity after it was closed
    cdef Handle reader, writer
    cdef uint64_t request
    cdef uint32_t serial            # the tag of the request that counts
    cdef uint32_t armed_mask
    cdef bint stale                 # the request in flight may be for an earlier file of the same number

    cdef uint32_t wanted_mask(self) noexcept:
        return (<uint32_t>POLLIN if self.reader is not None else 0) | (<uint32_t>POLLOUT if self.writer is not None else 0)

    cdef int flush(self) except -1:
        cdef uint32_t wanted = self.wanted_mask()
        if self.request and (self.stale or wanted == 0 or wanted & ~self.armed_mask):
            self.give_up()
        self.stale = False
        if wanted and not self.request:
            self.arm(wanted, 0)
        return 0

    cdef int arm(self, uint32_t mask, uint32_t poll_flags) except -1:
        cdef io_uring_sqe *sqe
        self.serial = (self.serial + 1) & SERIAL_MASK
        sqe = self.loop.ops.begin(self, Poll.complete, self.serial)
        prep_poll_add(sqe, self.fd, mask)
        sqe.len = poll_flags
        self.request = sqe.user_data
        self.armed_mask = mask
        return 0

    cdef int give_up(self) except -1:
        """End the request in flight; its answers are ignored from now on."""
        self.loop.ops.cancel(self.request)
        self.request = 0
        self.serial = (self.serial + 1) & SERIAL_MASK
        return 0

    cdef int forget(self) except -1:
        """Nobody waits any more. In the loop's thread the kernel knows it when this returns, otherwise with the next turn."""
        if not self.request:
            return 0
        if self.loop.ops.issuer == PyThread_get_thread_ident() or self.loop.idle_here():
            self.give_up()
            self.loop.submit_now()
        else:
            self.loop.schedule_flush(self)
            self.loop.wake()
        return 0

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef Poll self = <Poll>owner
        cdef uint32_t ready
        cdef Handle reader, writer
        if tag != self.serial or not self.request:
            return 0
        if not cqe_flags & IORING_CQE_F_MORE:
            self.request = 0
        if res < 0:
            # ECANCELED: the ring was replaced. EBADF: closed without remove_*, of which epoll says nothing either.
            if res == -ECANCELED:
                self.loop.schedule_flush(self)
            elif res != -EBADF:
                self.loop.call_exception_handler({
                    "message": f"Waiting for descriptor {self.fd} failed",
                    "exception": os_error(res),
                })
            return 0
        ready = <uint32_t>res & (self.wanted_mask() | POLLERR | POLLHUP | POLLNVAL)
        if not ready:
            if self.request:
                return 0
            if self.wanted_mask() & self.armed_mask:
                # The kernel adds POLLRDHUP to every mask, and a peer that shut its side down would end each one-shot request at once.
                # A multishot one speaks up again when something changes.
                self.arm(self.wanted_mask(), IORING_POLL_ADD_MULTI)
            else:
                self.loop.schedule_flush(self)
            return 0
        if self.request:
            self.give_up()
        self.loop.schedule_flush(self)      # comes after the callbacks, also if one of them interrupts the turn
        # As asyncio's selectors see it: an error or a hang-up is news for both sides.
        reader = self.reader if ready & ~<uint32_t>POLLOUT else None
        writer = self.writer if ready & ~<uint32_t>POLLIN else None
        if reader is not None:
            self.loop.run_now(reader)
        if writer is not None:
            self.loop.run_now(writer)
        return 0

    def __repr__(self):
        return f"<Poll fd={self.fd} reader={self.reader!r} writer={self.writer!r}>"


cdef int fd_of(object fileobj) except -1:
    """The descriptor of an int or of an object with fileno(). Errors as those of the selectors module."""
    number = fileobj
    if not isinstance(fileobj, int):
        try:
            number = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


cdef int check_pollable(int fd) except -1:
    """Refuse what epoll refuses: files that are always ready, for which waiting means nothing. Programs count on this exception."""
    cdef struct_stat status
    cdef bint always_ready
    if fstat(fd, &status) < 0:
        raise OSError(errno, os.strerror(errno))
    always_ready = S_ISREG(status.st_mode) or S_ISDIR(status.st_mode) or S_ISBLK(status.st_mode)
    if S_ISCHR(status.st_mode) and major(status.st_rdev) == MEMORY_DEVICES_MAJOR:       # /dev/null and its neighbours
        always_ready = minor(status.st_rdev) != RANDOM_MINOR and minor(status.st_rdev) != KMSG_MINOR
    if always_ready:
        raise OSError(EPERM, os.strerror(EPERM))
    return 0


cdef Poll find_poll(dict polls, object fileobj):
    """The Poll of a descriptor or file object, or None. A closed object is still found if it was what add_* got."""
    cdef Poll poll
    try:
        return polls.get(fd_of(fileobj))
    except ValueError:
        for poll in polls.values():
            if poll.fileobj is fileobj:
                return poll
        raise


cdef Handle watch(object mixin, object fileobj, bint for_writing, object callback, tuple args):
    cdef LoopCore loop = mixin
    cdef dict polls = mixin._polls
    cdef Handle handle, before
    cdef Poll poll
    cdef int fd
    loop.check_open()
    handle = new_handle(loop, callback, args, None)
    if loop._debug:
        handle._source_traceback = format_helpers.extract_stack(sys._getframe())
    fd = fd_of(fileobj)
    check_pollable(fd)
    poll = polls.get(fd)
    if poll is None:
        poll = Poll.__new__(Poll)
        poll.loop = loop
        poll.fd = fd
        polls[fd] = poll
    poll.fileobj = fileobj
    before = poll.writer if for_writing else poll.reader
    if before is not None:
        # The number may mean another file by now, if its former one was closed without remove_*.
        poll.stale = True
        before.cancel()
    if for_writing:
        poll.writer = handle
    else:
        poll.reader = handle
    loop.schedule_flush(poll)
    loop.wake()         # a call from another thread reaches the kernel at once with epoll, and so it does here
    return handle


cdef bint unwatch(object mixin, object fileobj, bint for_writing) except -1:
    cdef dict polls
    cdef Poll poll
    cdef Handle handle
    if (<LoopCore>mixin)._closed:
        return False
    (<LoopCore>mixin).check_open()      # a forked child
    polls = mixin._polls
    poll = find_poll(polls, fileobj)
    if poll is None:
        return False
    if for_writing:
        handle, poll.writer = poll.writer, None
    else:
        handle, poll.reader = poll.reader, None
    if poll.reader is None and poll.writer is None:
        del polls[poll.fd]
        poll.forget()
    if handle is None:
        return False
    handle.cancel()
    return True


class PollMixin:
    """The part of the loop that waits for descriptors. `_ensure_fd_no_transport` is NetworkMixin's."""

    def __init__(self):
        self._polls = {}
        super().__init__()

    def _close_polls(self):
        self._polls.clear()

    def _add_reader(self, fd, callback, *args):
        return watch(self, fd, False, callback, args)

    def _add_writer(self, fd, callback, *args):
        return watch(self, fd, True, callback, args)

    def _remove_reader(self, fd):
        return unwatch(self, fd, False)

    def _remove_writer(self, fd):
        return unwatch(self, fd, True)

    def add_reader(self, fd, callback, *args):
        """Call `callback(*args)` in every turn in which `fd` is readable, at its end, or in error, until remove_reader().

        `fd` is a descriptor or an object with fileno(). A second call replaces the callback. ValueError: not a descriptor; OSError: it is
        not open, or (PermissionError) a regular file; RuntimeError: a transport uses it.
        """
        self._ensure_fd_no_transport(fd)
        watch(self, fd, False, callback, args)

    def remove_reader(self, fd):
        """Stop watching `fd` for reading. Returns whether it was watched. Call it before the descriptor is closed."""
        self._ensure_fd_no_transport(fd)
        return unwatch(self, fd, False)

    def add_writer(self, fd, callback, *args):
        """Call `callback(*args)` in every turn in which `fd` is writable or in error, until remove_writer(). Errors as add_reader()."""
        self._ensure_fd_no_transport(fd)
        watch(self, fd, True, callback, args)

    def remove_writer(self, fd):
        """Stop watching `fd` for writing. Returns whether it was watched. Call it before the descriptor is closed."""
        self._ensure_fd_no_transport(fd)
        return unwatch(self, fd, True)
