"""The files of a chain: what keeps each the file that was meant, from the chain's submission to its end.

Used by `_chainlinks`, whose links name them. Calls `_sockop`, `_fileop`, `_fsop`, `_loop`, `_ring`.

A link's file is looked up when the link runs, which may be long after the chain was submitted: a number could be another file's by then. So a
chain never uses the caller's numbers. Files of `aiouring.open` count it as one of their calls, and wait for it before they close; any other is
put into the ring's table for the chain's time, or duplicated where there is no room. The table leaves POSIX locks and dirty pages alone, which
the close of a duplicate does not.

All files of a chain go into the table by one call, at its submission, and leave it by another one before anybody is woken, so that who closes a file
or a socket then closes the last that there is of it. Both by io_uring_register and not by requests (IORING_OP_FILES_UPDATE): such a request
costs what the call costs, and could be carried out only with the loop's next enter, when the number may be another file's.

Who owns what: a ChainFile has its place, its duplicate and its count until give_back() and take_files_out().
"""

cimport cython
from libc.errno cimport EBADF, ENFILE
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as posix_close

from aiouring._awaitable cimport OVER
from aiouring._fileop cimport Descriptor
from aiouring._fsop cimport close_soon
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring._ring cimport Ring
from aiouring._sockop cimport SocketOperation
from aiouring.uapi cimport *

import os
import weakref

cdef enum:
    CALL_FILES_MAX = 64         # files of one call; two calls for more cost nothing

cdef object make_weakref = weakref.ref


@cython.final
@cython.freelist(16)
cdef class ChainFile:
    def __cinit__(self):
        self.fd = self.slot = self.number = -1

    cdef int take(self, LoopCore loop, Operation chain) except -1:
        """At the submission: make sure that the file stays what it is. put_files() does the rest."""
        cdef int fd
        if self.direct:
            self.slot = loop.ring.reserve_file()
            if self.slot < 0:
                raise OSError(ENFILE, "the ring's table of registered files is full, or this kernel has none: open() in a chain needs a place there")
            return 0
        if self.descriptor is not None:
            if self.descriptor.loop is not loop:
                raise RuntimeError(f"{self.named!r} belongs to another event loop")
            self.descriptor.check_open()
            self.descriptor.users += 1
            self.entered = True
            self.fd = self.descriptor.fd
            return 0
        if self.hold is not None:
            self.hold.begin(loop, chain)
            fd = self.hold.fd
        else:
            fd = self.named if isinstance(self.named, int) else self.named.fileno()
            if fd < 0:
                raise OSError(EBADF, os.strerror(EBADF))
            if loop.has_transport(fd):
                loop._ensure_fd_no_transport(fd)
        self.number = fd
        self.fd = fd
        if self.by_number:
            self.fd = path_duplicate(fd)
            self.duplicate = True
            return 0
        self.to_place = True
        return 0

    cdef int make_duplicate(self) except -1:
        self.fd = os.dup(self.fd)               # or EBADF
        self.duplicate = True
        return 0

    cdef bint can_be_taken_again(self) except -1:
        """After the ring was replaced: whether the same file is still to be had."""
        if self.direct or self.descriptor is not None or self.duplicate:
            return True
        return not isinstance(self.named, int) and self.named.fileno() == self.number

    cdef void give_back(self, LoopCore loop) noexcept:
        self.to_place = False
        if self.duplicate:
            self.duplicate = False
            if self.hold is not None:
                posix_close(self.fd)
            else:
                close_soon(loop, self.fd)
        if self.entered:
            self.entered = False
            leave_file(self.descriptor, loop)
        if self.hold is not None:
            self.hold.end()

    def __dealloc__(self):
        # Its loop was closed, and with the ring went the place in its table.
        if self.duplicate:
            posix_close(self.fd)


cdef int path_duplicate(int fd) except -1:
    """A descriptor for looking only, whose close is nothing to locks. Without /proc it is an ordinary one."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.dup(fd)                   # or EBADF


cdef void leave_file(Descriptor descriptor, LoopCore loop) noexcept:
    try:
        descriptor.leave()
    except BaseException as exc:
        loop.call_exception_handler({"message": "A file's close, which had waited for a chain, failed", "exception": exc})


@cython.final
cdef class SocketHold(SocketOperation):
    def __cinit__(self):
        self.state = OVER           # nobody awaits it

    cdef str name(self):
        return "Chain"

    cdef int begin(self, LoopCore loop, Operation chain) except -1:
        self.loop = loop
        self.chain = make_weakref(chain)
        self.attach()
        return 0

    cdef void end(self) noexcept:
        cdef object kept = self.sock
        try:
            self.over()
        except BaseException as exc:
            self.loop.call_exception_handler({"message": "A chain's socket could not be let go of", "exception": exc})
        self.sock = kept            # a chain that begins again begins with it
        self.chain = None
        self.use = None

    cdef bint idle(self) noexcept:
        cdef Operation chain = self.user()
        return chain is None or chain.idle()

    cdef Operation user(self):
        return None if self.chain is None else <Operation>self.chain()

    cdef int stop(self) except -1:
        self.gone = True
        return self.user().stop()


# -- places in the ring's table -------------------------------------------------------------------------------------------------------------------

cdef int update_places(Ring ring, list files, Py_ssize_t first, Py_ssize_t count, bint leave) except -1:
    """One call for files with places next to each other. How many of them it did; what ends it is the first that is not open."""
    cdef io_uring_rsrc_update2 update
    cdef int32_t fds[CALL_FILES_MAX]
    cdef Py_ssize_t at
    cdef int done
    if ring.fd < 0 or ring.foreign_process():
        return 0
    for at in range(count):
        fds[at] = -1 if leave else (<ChainFile>files[first + at]).fd
    memset(&update, 0, sizeof(update))
    update.offset = <uint32_t>(<ChainFile>files[first]).slot
    update.data = <uint64_t>fds
    update.nr = <uint32_t>count
    done = ring.register(IORING_REGISTER_FILES_UPDATE2, &update, sizeof(update))
    return max(done, 0)


cdef Py_ssize_t neighbours(list files, Py_ssize_t first) noexcept:
    """How many from this one on have places next to each other: all of them as a rule."""
    cdef Py_ssize_t count = 1
    while (first + count < len(files) and count < CALL_FILES_MAX
            and (<ChainFile>files[first + count]).slot == (<ChainFile>files[first + count - 1]).slot + 1):
        count += 1
    return count


cdef int put_files(list files, Ring ring) except -1:
    cdef ChainFile file
    cdef list placed = []
    cdef Py_ssize_t first = 0, count, at
    for file in files:
        if file.to_place:
            file.to_place = False
            if ring.setup_flags & IORING_SETUP_NO_SQARRAY:      # see Ring.register_file()
                file.slot = ring.reserve_file()
            if file.slot < 0:
                file.make_duplicate()
            else:
                placed.append(file)
    while first < len(placed):
        count = neighbours(placed, first)
        for at in range(update_places(ring, placed, first, count, False), count):
            file = placed[first + at]
            ring.return_file(file.slot)
            file.slot = -1
            file.make_duplicate()               # or EBADF; the places of those behind it are empty, which take_files_out() does not mind
        first += count
    return 0


cdef void take_files_out(list files, LoopCore loop, Ring ring) noexcept:
    cdef ChainFile file
    cdef list placed = []
    cdef Py_ssize_t first = 0, count, at
    for file in files:
        if file.slot < 0:
            continue
        if loop.ring is not ring:               # that ring has closed it
            file.slot = -1
        elif file.direct and (file.closed or not file.opened):
            ring.return_file(file.slot)
            file.slot = -1
        else:
            placed.append(file)
    while first < len(placed):
        count = neighbours(placed, first)
        for at in range(update_places(ring, placed, first, count, True), count):
            (<ChainFile>placed[first + at]).slot = -1           # the ring is closed, and its table with it
        first += count
    # The last one first, so that the next chain finds them next to each other again.
    for first in range(len(placed) - 1, -1, -1):
        file = placed[first]
        if file.slot >= 0:
            ring.return_file(file.slot)
            file.slot = -1
