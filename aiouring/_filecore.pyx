"""A file as a stream: its position, its buffer, what it reads ahead, and the calls that take turns on it.

Used by `_file` and `_textcall`, whose calls are FileCalls. Calls `_fileop`, `_operation`, `_loop`, `_prep`.

A call does its work in attempt(), which goes on where it is while everything that it needs is in memory. Where it needs the kernel, a step returns
MUST_WAIT: its one request was begun, attempt() returns, and is called again with the result, which the same step then takes. Nothing of the
stream changes between two attempts, because calls take turns: a call that finds another one at work waits in a queue, in the order in which the
calls were awaited. A call that reads keeps its turn until its task has the result: should the task be cancelled before, the result goes
back (`undo`), and no later call has seen the stream without it.

The buffer follows the rules of io.BufferedReader, BufferedWriter and BufferedRandom, so that what a call returns, where the stream stands then,
and which bytes reach the file are the same as with the built-in open(). What is read ahead lies below it, where the built-in's descriptor is: a
step asks for what one read(2) would give, and gets it from there if it is there. A regular file that is read in order is read ahead in growing
pieces. A seek, and any write of ours, forgets them.

Who owns what: a FileCore owns its descriptor, the buffer and what was read ahead; a call in flight holds the core, so all of that lives until the
last CQE. A core that is dropped unclosed has nothing in flight: it writes what waits in the buffer of a regular file, closes, and warns.
"""

from cpython.exc cimport PyErr_WriteUnraisable
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, ESPIPE, errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.unistd cimport close as posix_close
from posix.unistd cimport write as posix_write

from aiouring._awaitable cimport ABANDONED, WAITING
from aiouring._fileop cimport REQUEST_BYTES_MAX, Descriptor, FileOperation
from aiouring._operation cimport Operation
from aiouring._prep cimport prep_fsync, prep_ftruncate, prep_poll_add, prep_read, prep_write
from aiouring.uapi cimport *

import collections
import os
import warnings
from io import UnsupportedOperation

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)
    int PyBUF_READ, PyBUF_WRITE

cdef extern from "<unistd.h>" nogil:
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_SET, SEEK_CUR, SEEK_END, SEEK_HOLE

cdef extern from "<poll.h>" nogil:
    int POLLIN
    int POLLOUT

cdef enum:
    AHEAD_BYTES_MIN = 32 * 1024
    AHEAD_BYTES_MAX = 256 * 1024
    AHEAD_BELOW = 64 * 1024         # calls that want so much get it straight into their own memory
    QUEUE_GONE_MAX = 64

cdef uint64_t NO_POSITION = <uint64_t>-1


cdef class FileCore(Descriptor):
    """What a file's views and calls share."""

    def __cinit__(self):
        self.raw_at = self.read_end = self.write_end = self.expected_pos = -1

    cdef int setup(self, object name, str flags, int64_t pos, bint own_position, Py_ssize_t buffer_bytes) except -1:
        """`flags`: see _file.binary_file(). `pos`: where the descriptor stands, -1 where it has no position."""
        self.name = name
        self.readable = "r" in flags
        self.writable = "w" in flags
        self.appending = "a" in flags
        self.created = "x" in flags
        self.owns = "c" in flags
        self.raw_pos = pos
        self.position = STREAM if pos < 0 else TRACKED if own_position else KERNEL
        if buffer_bytes:
            self.buffer = <char *>PyMem_RawMalloc(buffer_bytes)
            if self.buffer == NULL:
                raise MemoryError(f"no memory for a file's buffer of {buffer_bytes} bytes")
            self.buffer_bytes = buffer_bytes
        return 0

    def __repr__(self):
        return f"<aiouring file name={self.name!r} descriptor={self.fd}>"

    cdef int check_not_closed(self) except -1:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return 0

    cdef int check_open(self) except -1:
        """For calls by position. The kernel would take the next bytes of a pipe, wherever they are asked for."""
        Descriptor.check_open(self)
        if self.position == STREAM:
            raise self.error(ESPIPE)
        return 0

    cdef int unsupported(self, str what) except -1:
        raise UnsupportedOperation(what)

    # -- turns ------------------------------------------------------------------------------------------------------------------------

    cdef int go_on(self) except -1:
        cdef FileCall call
        while self.active is None and self.queue:
            call = <FileCall>self.queue.popleft()
            call.queued = False
            if call.state != WAITING and call.state != ABANDONED:
                self.gone = max(self.gone - 1, 0)
                call = call.successor()
                if call is None:
                    continue
                call.file = self
            self.active = call
            call.resume()
        return 0

    cdef int forget_gone(self) except -1:
        """A call was given up before its turn came. Those in front of it may wait for long: the queue does not grow with what nobody waits for."""
        cdef FileCall call
        cdef object kept
        self.gone += 1
        if self.gone > QUEUE_GONE_MAX and self.gone > len(self.queue) // 2:
            kept = collections.deque()
            for call in self.queue:
                if call.stays_queued():
                    kept.append(call)
            self.queue = kept
            self.gone = 0
        return 0

    def _go_on(self):
        self.go_on()

    cdef int wrote(self) except -1:
        return self.drop_ahead()

    # -- what was read ahead, or put back -----------------------------------------------------------------------------------------------------

    cdef int make_ahead(self, Py_ssize_t size) except -1:
        cdef char *memory
        if size > self.ahead_room:
            memory = <char *>PyMem_RawRealloc(self.ahead, size)
            if memory == NULL:
                raise MemoryError(f"no memory for {size} bytes that a file reads ahead")
            self.ahead = memory
            self.ahead_room = size
        return 0

    cdef int drop_ahead(self) noexcept:
        if self.position != STREAM:
            self.ahead_begin = self.ahead_end = 0
            self.ahead_ended = False
            self.ahead_is_old = True
        return 0

    cdef Py_ssize_t from_ahead(self, char *target, Py_ssize_t size) noexcept:
        cdef Py_ssize_t count = min(size, self.ahead_end - self.ahead_begin)
        if count <= 0:
            return 0
        memcpy(target, self.ahead + self.ahead_begin, count)
        self.ahead_begin += count
        if self.position != STREAM:
            self.raw_pos += count
            self.expected_pos = self.raw_pos
        return count

    cdef int put_back(self, const char *data, Py_ssize_t size) except -1:
        """Of a stream: these bytes come again, then what the buffer holds, then what was put back before."""
        cdef Py_ssize_t in_buffer = self.readahead(), before = self.ahead_end - self.ahead_begin
        self.make_ahead(size + in_buffer + before)
        memmove(self.ahead + size + in_buffer, self.ahead + self.ahead_begin, before)
        memcpy(self.ahead + size, self.buffer + self.at, in_buffer)
        memcpy(self.ahead, data, size)
        self.ahead_begin = 0
        self.ahead_end = size + in_buffer + before
        self.forget_read()
        return 0

    # -- steps on the descriptor ----------------------------------------------------------------------------------------------------------

    cdef Py_ssize_t raw_read(self, FileCall call, char *target, Py_ssize_t size) except -1:
        """What one read(2) gives: up to `size` bytes; 0 is the end."""
        cdef Py_ssize_t count = call.prefix
        cdef bint came_ahead = False
        call.prefix = 0
        if call.has_result:
            if call.asked == READ_DIRECT:
                return count + call.result_of_request()
            call.result_of_request()
            came_ahead = self.position == TRACKED       # if it was shared meanwhile, nothing is kept of what was read ahead
        if size == 0 or call.at_end:
            return count
        if count == 0 and self.ahead_end > self.ahead_begin:
            count = self.from_ahead(target, size)
            call.at_end = came_ahead and self.ahead_ended and self.ahead_begin == self.ahead_end
            if came_ahead and self.ahead_is_old:
                self.drop_ahead()       # this call was begun before the change, but later ones were not
            if count == size or self.ahead_ended or self.position == STREAM:
                return count
        elif came_ahead:
            return 0
        if self.position == TRACKED and self.raw_pos == self.expected_pos and count == 0 and size < AHEAD_BELOW and self.is_regular() \
                and self.buffer_bytes:      # who asks for no buffer wants what is in the file now
            self.ahead_next = min(max(self.ahead_next * 2, <Py_ssize_t>AHEAD_BYTES_MIN), <Py_ssize_t>AHEAD_BYTES_MAX)
            self.make_ahead(self.ahead_next)
            self.ahead_begin = self.ahead_end = 0
            self.ahead_ended = self.ahead_is_old = False
            self.ahead_pos = self.raw_pos
            call.direct_target = self.ahead
            call.direct_size = self.ahead_next
            call.begin_read(READ_AHEAD)
            return MUST_WAIT
        if self.raw_pos != self.expected_pos:
            self.ahead_next = 0
        call.prefix = count
        call.direct_target = target + count
        call.direct_size = min(size - count, <Py_ssize_t>REQUEST_BYTES_MAX)
        call.begin_read(READ_DIRECT)
        return MUST_WAIT

    cdef Py_ssize_t raw_write(self, FileCall call, const char *data, Py_ssize_t size, bint from_buffer) except -1:
        """What one write(2) does: the number of bytes that the file took."""
        cdef io_uring_sqe *sqe
        cdef Py_ssize_t count
        if call.has_result:
            count = call.result_of_request()
            if count == 0:
                raise self.error(EIO)   # what takes nothing and does not say why takes nothing the next time either
            return count
        call.explicit = self.position == TRACKED and not self.appending
        sqe = call.stream_sqe(WRITE_BUFFER if from_buffer else WRITE_DIRECT)
        prep_write(sqe, self.fd, data, <uint32_t>min(size, <Py_ssize_t>REQUEST_BYTES_MAX), <uint64_t>self.raw_pos if call.explicit else NO_POSITION)
        return MUST_WAIT

    cdef int moved(self, FileCall call, Py_ssize_t count) except -1:
        """A request has moved so many bytes: where the descriptor stands now."""
        if self.position == STREAM:
            return 0
        if call.explicit:
            self.raw_pos += count
            if self.position == KERNEL:
                lseek(self.fd, self.raw_pos, SEEK_SET)      # it was shared while the request was in flight
        else:
            self.raw_pos = lseek(self.fd, 0, SEEK_CUR)
        return 0

    cdef int64_t raw_tell(self) except -1:
        cdef int64_t pos = self.raw_pos
        if self.position != TRACKED:
            pos = lseek(self.fd, 0, SEEK_CUR)
            if pos < 0:
                raise self.error(errno)
            self.raw_pos = pos
        return pos

    cdef int64_t raw_seek(self, FileCall call, int64_t offset, int whence) except -1:
        cdef int64_t pos
        if not SEEK_SET <= whence <= SEEK_HOLE:
            raise self.error(EINVAL)
        if self.position == STREAM:
            raise self.error(ESPIPE)
        if call is not None and call.has_result:
            call.has_result = False
            if call.wide_result < 0:
                raise self.error(<int>-call.wide_result)
            pos = call.wide_result
        elif self.position == TRACKED and (whence == SEEK_SET or whence == SEEK_CUR):
            pos = offset if whence == SEEK_SET else self.raw_pos + offset
            if pos < 0:
                raise self.error(EINVAL)
        elif whence == SEEK_SET or whence == SEEK_CUR or self.device_major != 0:
            pos = lseek(self.fd, offset, whence)
            if pos < 0:
                raise self.error(errno)
        else:
            # No disk of this machine, as far as can be seen: a server may have to be asked how long the file is.
            call.asked = OTHER
            call.in_executor(os.lseek, (self.fd, offset, whence))
            return MUST_WAIT
        self.raw_pos = pos
        self.drop_ahead()
        return pos

    cdef int raw_truncate(self, FileCall call, int64_t size) except -1:
        if call.has_result:
            call.result_of_request()
            self.drop_ahead()
            return DONE
        if size < 0:
            raise self.error(EINVAL)
        if self.loop.ring.supports(IORING_OP_FTRUNCATE):
            prep_ftruncate(call.stream_sqe(OTHER), self.fd, <uint64_t>size)
        else:
            call.asked = OTHER
            call.in_executor(os.ftruncate, (self.fd, size))
        return MUST_WAIT

    cdef int raw_sync(self, FileCall call, uint32_t flags) except -1:
        if call.has_result:
            call.result_of_request()
            return DONE
        prep_fsync(call.stream_sqe(OTHER), self.fd, flags)
        return MUST_WAIT

    cdef int share_position(self) except -1:
        """Others may use the descriptor from now on: its own position is where ours was, and moves with every request."""
        if self.position == TRACKED:
            if lseek(self.fd, self.raw_pos, SEEK_SET) < 0:
                raise self.error(errno)
            self.drop_ahead()
            self.position = KERNEL
        return 0

    # -- steps on the buffer ----------------------------------------------------------------------------------------------------------------

    cdef Py_ssize_t readahead(self) noexcept:
        """Bytes in the buffer that are to be read."""
        return self.read_end - self.at if self.read_end >= 0 else 0

    cdef Py_ssize_t raw_offset(self) noexcept:
        """How far the descriptor is ahead of the stream."""
        return self.raw_at - self.at if (self.read_end >= 0 or self.write_end >= 0) and self.raw_at >= 0 else 0

    cdef int64_t logical_pos(self) noexcept:
        return self.raw_pos - self.raw_offset()

    cdef int forget_read(self) noexcept:
        self.read_end = -1
        return 0

    cdef int forget_write(self) noexcept:
        self.write_pos = 0
        self.write_end = -1
        return 0

    cdef int move_to(self, Py_ssize_t at) noexcept:
        self.at = at
        if 0 <= self.read_end < at:
            self.read_end = at
        return 0

    cdef Py_ssize_t fill(self, FileCall call) except -1:
        """One read into the free part of the buffer."""
        cdef Py_ssize_t begin = self.read_end if self.read_end >= 0 else 0
        cdef Py_ssize_t count = self.raw_read(call, self.buffer + begin, self.buffer_bytes - begin)
        if count > 0:
            self.read_end = self.raw_at = begin + count
        return count

    cdef int flush(self, FileCall call) except -1:
        """Write what waits in the buffer. What the file did not take stays there."""
        cdef Py_ssize_t rewind
        if self.write_end >= 0 and self.write_pos != self.write_end:
            if not call.has_result:
                rewind = self.raw_offset() + self.at - self.write_pos
                if rewind:
                    self.raw_seek(None, -rewind, SEEK_CUR)
                    self.raw_at -= rewind
            while self.write_pos < self.write_end:
                if self.raw_write(call, self.buffer + self.write_pos, self.write_end - self.write_pos, True) == MUST_WAIT:
                    return MUST_WAIT
        elif call.has_result and call.asked == WRITE_BUFFER:
            call.result_of_request()            # it was the last of it
        self.forget_write()
        return DONE

    cdef int flush_and_rewind(self, FileCall call) except -1:
        """The same, and the descriptor stands where the stream does."""
        cdef Py_ssize_t offset
        if self.flush(call) == MUST_WAIT:
            return MUST_WAIT
        if self.readable:
            offset = self.raw_offset()
            if offset:
                self.raw_seek(None, -offset, SEEK_CUR)
            self.forget_read()
        return DONE

    cdef int64_t seek(self, FileCall call, int64_t target, int whence) except -1:
        cdef Py_ssize_t there = self.readahead()
        cdef int64_t offset, pos
        if not call.has_result and self.readable and there > 0 and (whence == SEEK_SET or whence == SEEK_CUR):
            # Inside of what is in the buffer nothing but the place in it changes.
            offset = target - self.logical_pos() if whence == SEEK_SET else target
            if -self.at <= offset <= there:
                self.at += offset
                return max(self.raw_pos - there + offset, 0)
        if self.writable and (call.asked == WRITE_BUFFER or not call.has_result):
            if self.flush(call) == MUST_WAIT:
                return MUST_WAIT
        if whence == SEEK_CUR and not call.has_result:
            target -= self.raw_offset()
        pos = self.raw_seek(call, target, whence)
        if pos == MUST_WAIT:
            return MUST_WAIT
        self.raw_at = -1
        if self.readable:
            self.forget_read()
        return pos

    cdef int return_to(self, int64_t pos) except -1:
        """For undo(): the stream stands there again."""
        cdef int64_t back = self.logical_pos() - pos
        if (self.read_end >= 0 or self.write_end >= 0) and 0 <= back <= self.at:
            self.at -= back
            return 0
        self.raw_seek(None, pos, SEEK_SET)
        self.raw_at = -1
        return self.forget_read()

    # -- the end of a file that was not closed ------------------------------------------------------------------------------------------------

    def __del__(self):
        cdef Py_ssize_t unwritten
        cdef bint unsure
        cdef str message
        if self.fd < 0:
            return
        # The loop was closed while it wrote to the end of the file, or to where the descriptor stands, and what came of that nobody was told.
        unsure = self.active is not None and self.active.request != 0 and not self.active.explicit and \
            (self.active.asked == WRITE_BUFFER or self.active.asked == WRITE_DIRECT)
        unwritten = 0 if self.loop.ring.foreign_process() else self.write_the_rest(unsure)
        if self.owns:
            message = f"unclosed file {self!r}"
            if unwritten:
                message += f": {unwritten} bytes that were written to it {'may be' if unsure else 'are'} lost"
            posix_close(self.fd)
            self.fd = -1
            try:
                warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
            except BaseException:
                PyErr_WriteUnraisable(self)

    cdef Py_ssize_t write_the_rest(self, bint unsure) noexcept:
        """Nobody can wait any more: into a regular file with a plain write. Returns the number of bytes that are lost.

        `unsure`: a part of them may be in the file already. They are not written a second time.
        """
        cdef Py_ssize_t left = self.write_end - self.write_pos if self.write_end >= 0 else 0
        cdef bytes above = b"" if self.pending is None else b"".join(self.pending)
        if self.is_regular() and not unsure:
            if not self.appending:
                lseek(self.fd, self.logical_pos() - (self.at - self.write_pos if left else 0), SEEK_SET)
            left = self.write_plainly(self.buffer + self.write_pos, left)
            if left == 0:
                return self.write_plainly(above, len(above))
        return left + len(above)

    cdef Py_ssize_t write_plainly(self, const char *data, Py_ssize_t left) noexcept:
        cdef Py_ssize_t count
        while left > 0:
            count = posix_write(self.fd, data, left)
            if count < 0 and errno == EINTR:
                continue
            if count <= 0:
                break
            data += count
            left -= count
        return left

    def __dealloc__(self):
        PyMem_RawFree(self.buffer)
        PyMem_RawFree(self.ahead)


cdef class FileCall(FileOperation):
    """A call on a file's stream, which takes its turn."""

    cdef int start(self) except -1:
        cdef FileCore core = self.core
        self.loop.ops.check()           # another thread's call, a forked child's: refused before it has taken anything
        self.file = core
        if core.active is None and not core.queue:
            core.active = self
            return self.submit()
        if core.queue is None:
            core.queue = collections.deque()
        core.queue.append(self)
        self.queued = True
        return 0

    cdef int resume(self) except -1:
        try:
            self.submit()
        except BaseException as exc:
            self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef int submit(self) except -1:
        if not self.has_begun:
            self.begun_pos = self.core.logical_pos()
        # What it works with may be Python code: lines, a codec. There the handler of a signal may run and cancel the call (Ctrl-C does), which
        # then goes on to where it would wait.
        self.working = True
        try:
            self.attempt()
        finally:
            self.working = False
        if not self.wanted() and not self.idle():
            self.stop()
        return 0

    cdef int renew(self) noexcept:
        self.phase = 0
        self.asked = NO_REQUEST
        self.has_result = self.at_end = self.has_begun = False
        self.prefix = 0
        return 0

    # -- the request --------------------------------------------------------------------------------------------------------------------

    cdef io_uring_sqe *stream_sqe(self, request_kind kind) except NULL:
        cdef io_uring_sqe *sqe
        try:
            sqe = self.loop.ops.begin(self, FileCall.stream_complete, 0)
        except BaseException:
            self.undo()                 # too many requests are in flight, or there is no memory: nothing was done
            raise
        self.request = sqe.user_data
        self.asked = kind
        self.polling = False
        return sqe

    @staticmethod
    cdef int stream_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef FileCall self = <FileCall>owner
        cdef FileCore core = self.core
        if res == -ECANCELED and not self.explicit and core.is_regular() and self.wanted() and not self.polling:
            # Asked for by nobody: the ring was replaced, and what the old one did is not known. A read can be done again.
            if self.asked == WRITE_BUFFER or self.asked == WRITE_DIRECT:
                self.request = 0
                return self.fail(OSError(ECANCELED, "the event loop moved to another thread while the file was written to, and whether that has "
                                         "happened is not known", core.path))
            lseek(core.fd, core.raw_pos, SEEK_SET)
        return Operation.complete(owner, tag, res, cqe_flags)

    cdef int begin_read(self, request_kind kind) except -1:
        cdef FileCore core = self.core
        cdef int64_t pos
        self.explicit = core.position == TRACKED
        if core.position == KERNEL:
            # Others may have moved it: should the call be cancelled, it goes back to where it stands now.
            pos = lseek(core.fd, 0, SEEK_CUR)
            if pos >= 0:
                self.begun_pos += pos - core.raw_pos
                core.raw_pos = pos
        prep_read(self.stream_sqe(kind), core.fd, self.direct_target, <uint32_t>self.direct_size,
                  <uint64_t>core.raw_pos if self.explicit else NO_POSITION)
        return 0

    cdef int result_of_request(self) except? -1:
        self.has_result = False
        if self.res < 0:
            raise self.core.error(-self.res)
        return self.res

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        if self.polling:
            self.polling = False
            return self.again()         # or the error comes once more
        if res == -EAGAIN and self.wanted():
            return self.wait_for_room()
        self.res = res
        self.has_result = True
        if res > 0:
            self.account()
        elif self.asked == READ_AHEAD:
            self.core.ahead_ended = res == 0
        return self.again()

    cdef int account(self) except -1:
        """What the request has moved is part of the file's state, whether the call is still wanted or not."""
        cdef FileCore core = self.core
        if self.asked == READ_AHEAD:
            if core.position != TRACKED:
                return 0                # the descriptor was shared meanwhile: nothing is read ahead then
            core.ahead_end = self.res
            core.ahead_ended = self.res < self.direct_size and core.size_now() == core.ahead_pos + self.res
        elif self.asked == READ_DIRECT:
            core.moved(self, self.res)
            core.expected_pos = core.raw_pos
            # A read that came short, of a file that is just so long: no request is needed to learn that it ended.
            self.at_end = self.res < self.direct_size and core.is_regular() and core.size_now() == core.raw_pos
        elif self.asked == WRITE_BUFFER:
            core.drop_ahead()
            core.moved(self, self.res)
            core.write_pos += self.res
            core.raw_at = core.write_pos
        elif self.asked == WRITE_DIRECT:
            core.drop_ahead()
            core.moved(self, self.res)
        return 0

    cdef int wait_for_room(self) except -1:
        """The file does not do this without waiting: somebody has opened it with O_NONBLOCK."""
        cdef FileCore core = self.core
        cdef bint reading = self.asked == READ_DIRECT or self.asked == READ_AHEAD
        if core.is_regular():
            if not reading:
                return self.fail(core.error(EAGAIN))    # a lock or a quota: not the page cache
            view = PyMemoryView_FromMemory(self.direct_target, self.direct_size, PyBUF_WRITE)
            if self.explicit:
                return self.in_executor(os.preadv, (core.fd, [view], core.raw_pos))
            return self.in_executor(os.readv, (core.fd, [view]))
        prep_poll_add(self.stream_sqe(self.asked), core.fd, POLLIN if reading else POLLOUT)
        self.polling = True
        return 0

    cdef int executed(self, object future) except -1:
        if self.asked != OTHER or future.cancelled():
            return FileOperation.executed(self, future)
        error = future.exception()
        if error is not None and not (isinstance(error, OSError) and error.errno):
            return self.fail(error)
        self.wide_result = -error.errno if error is not None else future.result() or 0
        self.res = <int32_t>self.wide_result if self.wide_result < 0 else 0
        self.has_result = True
        return self.again()

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    cdef int again(self) except -1:
        if not self.wanted():
            try:
                self.undo()
            except BaseException:
                PyErr_WriteUnraisable(self)     # somebody closed the descriptor, or a codec failed: nothing can go back
        return FileOperation.again(self)

    cdef bint may_go_back(self) noexcept:
        # Where nobody waits (it is over in the step that begins it, or it is stepped by hand) the turn must not wait for anybody either.
        return self.reads() and (self.callback is not None or not self.wanted())

    cdef int finish(self, object result) except -1:
        self.keeps_turn = self.may_go_back()
        return FileOperation.finish(self, result)

    cdef int fail(self, object error) except -1:
        self.keeps_turn = self.may_go_back()
        return FileOperation.fail(self, error)

    cdef int over(self) except -1:
        FileOperation.over(self)
        if self.queued and self.core is not None:
            self.core.forget_gone()
        return 0 if self.keeps_turn else self.end_turn()

    cdef bint stays_queued(self) noexcept:
        return self.wanted() or self.state == ABANDONED

    cdef int end_turn(self) except -1:
        cdef FileCore core = self.core
        self.keeps_turn = False
        if core is not None and core.active is self:
            core.active = None
            if core.queue and not self.loop._closed:
                self.loop.add_ready(core._go_on, (), None)
        return 0

    cdef bint keep(self, object result) except -1:
        """The task was cancelled before it took the result."""
        if not self.keeps_turn:
            return False
        try:
            self.undo_result(result)
        except BaseException:
            PyErr_WriteUnraisable(self)
        self.end_turn()
        return True

    cdef bint keep_error(self, object error) except -1:
        if not self.keeps_turn:
            return False
        try:
            self.undo()
        except BaseException:
            PyErr_WriteUnraisable(self)
        self.end_turn()
        return True

    cdef int error_taken(self) except -1:
        return self.end_turn()

    cdef void taken(self) noexcept:
        try:
            self.end_turn()
        except BaseException:
            PyErr_WriteUnraisable(self)
        self.core = None
        self.file = None
        self.loop = None

    cdef int attempt(self) except -1:
        raise NotImplementedError

    cdef bint reads(self) noexcept:
        return False

    cdef int undo(self) except -1:
        return 0

    cdef int undo_result(self, object result) except -1:
        return 0

    cdef FileCall successor(self):
        return None
