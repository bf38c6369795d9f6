"""Binary files: what open() gives in binary mode, and every call on it.

Used by `files` (open) and the text rooms (`_textstate`, `_textcall`, `_textfile`). Calls `_filesteps`, `_filecore`, `_fileop`.

BinaryFile is the asynchronous BufferedReader, BufferedWriter or BufferedRandom, RawFile the asynchronous FileIO. Both are views: what they show
is in their FileCore, and so is the file's end. A call is one object (BinaryCall), awaited once. If what it needs is in memory it ends in the
step that begins it, without a frame, a future or a turn of the loop.

Who owns what: a call holds its core until its result was taken; the rest is said in `_filesteps`.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EISDIR
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memchr

from aiouring._awaitable cimport ABANDONED, AIOURING_RETURN, NEW, Awaitable
from aiouring._filecore cimport DONE, MUST_WAIT, STREAM, FileCall, FileCore
from aiouring._fileop cimport DescriptorView
from aiouring._filesteps cimport StepCall
from aiouring._loop cimport LoopCore
from aiouring.uapi cimport IORING_FSYNC_DATASYNC

import os
from io import UnsupportedOperation

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *value)
    object PyNumber_Index(object value)

cdef extern from "<unistd.h>" nogil:
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_SET, SEEK_CUR, SEEK_END

cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFREG, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO

cdef enum:
    DEFAULT_BUFFER_BYTES = 8192
    LINE_BYTES = 128                # room for a line that is read byte by byte, at first

cdef tuple NAMES = ("read", "read", "read1", "readinto", "readinto1", "readline", "__anext__", "readlines", "peek", "write", "writelines", "seek",
                    "tell", "truncate", "flush", "fsync", "close")


@cython.final
cdef class BinaryCall(StepCall):
    cdef str name(self):
        return ("RawFile." if self.raw else "BinaryFile.") + NAMES[<int>self.kind]

    cdef bint reads(self) noexcept:
        return self.kind < PEEK

    # -- the way through a call ---------------------------------------------------------------------------------------------------------

    cdef int attempt(self) except -1:
        cdef FileCore core = self.core
        cdef int64_t pos
        cdef int outcome
        if self.kind == CLOSE:
            return self.close_step()
        if not self.has_begun:
            self.has_begun = True
            if self.kind == READINTO or self.kind == READINTO1:
                self.get_view(PyBUF_WRITABLE)
            elif self.kind == WRITE and (self.raw or core.writable):
                self.get_view(PyBUF_SIMPLE)
            self.check()
        if self.raw:
            return self.raw_attempt()
        if self.kind == READ:
            outcome = self.read_step(self.size)
        elif self.kind == LINE or self.kind == NEXT_LINE:
            outcome = self.line_step(self.size)
        elif self.kind == WRITE:
            return MUST_WAIT if self.write_step() == MUST_WAIT else self.finish(self.view.len)
        elif self.kind == READ_ALL:
            outcome = self.read_all_step(False)
        elif self.kind == READ1:
            outcome = self.read1_step(core.buffer_bytes if self.size < 0 else self.size)
        elif self.kind == READINTO or self.kind == READINTO1:
            return MUST_WAIT if self.readinto_step(self.kind == READINTO1) == MUST_WAIT else self.finish(self.moved_bytes)
        elif self.kind == PEEK:
            outcome = self.peek_step()
        elif self.kind == LINES:
            return self.lines_step()
        elif self.kind == WRITE_LINES:
            return self.write_lines_step()
        elif self.kind == SEEK:
            pos = core.seek(self, self.number, self.argument)
            return MUST_WAIT if pos == MUST_WAIT else self.finish(pos)
        elif self.kind == TELL:
            pos = core.raw_tell()
            return self.finish(pos - core.raw_offset())
        elif self.kind == TRUNCATE:
            return MUST_WAIT if self.truncate_step(self.subject) == MUST_WAIT else self.finish(self.new_size)
        else:
            return self.flush_or_sync()
        return MUST_WAIT if outcome == MUST_WAIT else self.finish_piece()

    cdef int check(self) except -1:
        """What the built-in checks before it does anything."""
        cdef FileCore core = self.core
        cdef bint nothing = self.kind == LINE and self.size == 0 and (self.raw or not core.readable)
        cdef bint unreadable = self.kind <= PEEK and not core.readable and not nothing
        cdef bint unwritable = (self.kind == WRITE or self.kind == TRUNCATE) and not core.writable
        if not nothing and (self.raw or self.kind == LINES or not (unreadable or unwritable and self.kind == WRITE)):
            core.check_not_closed()
        if unreadable:
            core.unsupported("File not open for reading" if self.raw else "read")
        if unwritable:
            core.unsupported("File not open for writing" if self.raw else NAMES[<int>self.kind])
        if self.kind == SEEK and core.position == STREAM and not self.raw:
            core.unsupported("File or stream is not seekable.")
        return 0

    cdef void taken(self) noexcept:
        cdef FileCore core = self.core
        self.lines = None
        self.lines_iterator = None
        StepCall.taken(self)
        core.spare = self

    cdef int finish_piece(self) except -1:
        cdef bytes piece = self.piece
        self.piece = None
        if self.kind == NEXT_LINE and not piece:
            return self.fail(StopAsyncIteration())
        return self.finish(piece)

    # -- steps that only these calls have -----------------------------------------------------------------------------------------------

    cdef int peek_step(self) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count
        if self.step_phase == 0:
            if core.writable and core.flush_and_rewind(self) == MUST_WAIT:
                return MUST_WAIT
            count = core.readahead()
            if count > 0:
                self.piece = PyBytes_FromStringAndSize(core.buffer + core.at, count)
                return DONE
            core.forget_read()
            self.step_phase = 1
        count = core.fill(self)
        if count == MUST_WAIT:
            return MUST_WAIT
        core.at = 0
        self.piece = PyBytes_FromStringAndSize(core.buffer, count)
        return DONE

    cdef int line_step(self, Py_ssize_t limit) except -1:
        """`piece` becomes the next line, or as much of it as `limit` (-1: none) allows."""
        cdef FileCore core = self.core
        cdef Py_ssize_t count, left
        cdef const char *begin
        cdef const char *newline
        if self.step_phase == 0:
            count = core.readahead()
            if 0 <= limit < count:
                count = limit
            begin = core.buffer + core.at
            newline = <const char *>memchr(begin, c"\n", count) if count > 0 else NULL
            if newline != NULL:
                count = newline - begin + 1
            if newline != NULL or count == limit:
                self.piece = PyBytes_FromStringAndSize(begin, count)
                core.at += count
                return DONE
            if count > 0:
                self.add(begin, count)
                core.at += count
            self.step_phase = 1
        if self.step_phase == 1:
            if core.writable and core.flush_and_rewind(self) == MUST_WAIT:
                return MUST_WAIT
            core.forget_read()
            self.step_phase = 2
        while True:
            count = core.fill(self)
            if count == MUST_WAIT:
                return MUST_WAIT
            if count <= 0:
                break
            left = limit - self.filled if limit >= 0 else -1
            if 0 <= left < count:
                count = left
            newline = <const char *>memchr(core.buffer, c"\n", count)
            if newline != NULL:
                count = newline - core.buffer + 1
            core.at = count
            if self.filled == 0 and (newline != NULL or count == left):
                self.piece = PyBytes_FromStringAndSize(core.buffer, count)
                self.step_phase = 0
                return DONE
            self.add(core.buffer, count)
            if newline != NULL or count == left:
                break
            core.forget_read()
        return self.step_done()

    cdef int raw_line_step(self, Py_ssize_t limit) except -1:
        """The same without a buffer: byte by byte, so that the descriptor stands right behind the line."""
        cdef Py_ssize_t count
        while limit < 0 or self.filled < limit:
            if self.filled == self.room:
                self.make_room(max(self.room * 2, <Py_ssize_t>LINE_BYTES))
            count = self.core.raw_read(self, self.memory(), 1)
            if count == MUST_WAIT:
                return MUST_WAIT
            if count == 0:
                break
            self.filled += 1
            if self.memory()[-1] == c"\n":
                break
        return self.step_done()

    cdef int lines_step(self) except -1:
        cdef bytes line
        if self.lines is None:
            self.lines = []
            self.lines_bytes = 0
        while True:
            if (self.raw_line_step(-1) if self.raw else self.line_step(-1)) == MUST_WAIT:
                return MUST_WAIT
            line, self.piece = self.piece, None
            if not line:
                break
            self.lines.append(line)
            self.lines_bytes += PyBytes_GET_SIZE(line)
            if 0 < self.size < self.lines_bytes:
                break
        return self.finish(self.lines)

    cdef int write_lines_step(self) except -1:
        if self.lines_iterator is None:
            self.lines_iterator = iter(self.subject)
        while True:
            if not self.has_view:
                try:
                    self.subject = next(self.lines_iterator)
                except StopIteration:
                    break
                if not self.core.writable:
                    self.core.unsupported("write")
                self.get_view(PyBUF_SIMPLE)
            if (self.raw_write() if self.raw else self.write_step()) == MUST_WAIT:
                return MUST_WAIT
            self.drop_view()
        return self.finish(None)

    cdef int flush_or_sync(self) except -1:
        if self.phase == 0:
            if not self.raw and self.flush_step() == MUST_WAIT:
                return MUST_WAIT
            self.phase = 1
        if self.kind == SYNC and self.core.raw_sync(self, <uint32_t>self.argument) == MUST_WAIT:
            return MUST_WAIT
        return self.finish(None)

    # -- without a buffer -----------------------------------------------------------------------------------------------------------------

    cdef int raw_attempt(self) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count
        cdef int64_t pos
        cdef int outcome
        if self.kind == READ:
            self.make_room(self.size)
            count = core.raw_read(self, self.memory(), self.size)
            if count == MUST_WAIT:
                return MUST_WAIT
            self.filled = count
            outcome = self.step_done()
        elif self.kind == READINTO:
            count = core.raw_read(self, <char *>self.view.buf, self.view.len)
            return MUST_WAIT if count == MUST_WAIT else self.finish(count)
        elif self.kind == READ_ALL:
            outcome = self.read_all_step(True)
        elif self.kind == LINE or self.kind == NEXT_LINE:
            outcome = self.raw_line_step(self.size)
        elif self.kind == LINES:
            return self.lines_step()
        elif self.kind == WRITE:
            return MUST_WAIT if self.raw_write() == MUST_WAIT else self.finish(self.moved_bytes)
        elif self.kind == WRITE_LINES:
            return self.write_lines_step()
        elif self.kind == SEEK:
            pos = core.raw_seek(self, self.number, self.argument)
            return MUST_WAIT if pos == MUST_WAIT else self.finish(pos)
        elif self.kind == TELL:
            return self.finish(core.raw_tell())
        elif self.kind == TRUNCATE:
            return MUST_WAIT if self.truncate_step(self.subject) == MUST_WAIT else self.finish(self.new_size)
        else:
            return self.flush_or_sync()
        return MUST_WAIT if outcome == MUST_WAIT else self.finish_piece()

    cdef int raw_write(self) except -1:
        """One write of `view`, which may take less: moved_bytes."""
        cdef Py_ssize_t count
        if self.view.len:
            count = self.core.raw_write(self, <char *>self.view.buf, self.view.len, False)
            if count == MUST_WAIT:
                return MUST_WAIT
            self.moved_bytes = count
        return DONE

    # -- cancelled ----------------------------------------------------------------------------------------------------------------------

    cdef int undo(self) except -1:
        cdef FileCore core = self.core
        if self.kind == WRITE or self.kind == WRITE_LINES:
            return 0 if self.raw else self.undo_write()
        if self.kind > PEEK and self.kind != SEEK or not self.has_begun:
            return 0
        if core.position != STREAM:
            return core.return_to(self.begun_pos)
        self.put_back_piece()
        if self.lines:
            self.put_back_lines(self.lines)
            self.lines = None
        return 0

    cdef int undo_result(self, object result) except -1:
        cdef FileCore core = self.core
        cdef bytes data
        if core.position != STREAM:
            return core.return_to(self.begun_pos)
        if self.kind == LINES:
            return self.put_back_lines(result)
        if self.kind == READINTO or self.kind == READINTO1:
            data = bytes(memoryview(self.subject).cast("B")[:result])
        else:
            data = result
        return core.put_back(data, len(data))

    cdef int put_back_lines(self, list lines) except -1:
        cdef bytes data = b"".join(lines)
        return self.core.put_back(data, len(data))

    cdef FileCall successor(self):
        cdef BinaryCall call
        if not self.closes or self.core.closed:
            return None
        call = new_call(self.core, CLOSE, self.raw)
        call.state = ABANDONED
        return call


# -- what users hold ----------------------------------------------------------------------------------------------------------------------------

cdef BinaryCall new_call(FileCore core, call_kind kind, bint raw):
    cdef BinaryCall call
    if core.spare is not None and Py_REFCNT(<PyObject *>core.spare) == 1:
        call = <BinaryCall>core.spare       # nobody has the one that ended last any more: it serves again
        core.spare = None
        call.renew()
        call.state = NEW
    else:
        call = BinaryCall.__new__(BinaryCall)
    call.core = core
    call.loop = core.loop
    call.kind = kind
    call.raw = raw
    call.closes = kind == CLOSE
    call.size = 0
    call.argument = 0
    return call


cdef int64_t as_offset(object value) except? -1:
    """A place in a file. What is too large for one is a ValueError, as with the built-in."""
    number = PyNumber_Index(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("cannot fit 'int' into an offset-sized integer")
    return number


cdef Py_ssize_t as_size(object value) except? -2:
    """A number of bytes; None and negative ones mean all."""
    if value is None:
        return -1
    cdef Py_ssize_t size = PyNumber_Index(value)
    return size if size >= 0 else -1


@cython.final
cdef class Ready(Awaitable):
    """Awaited, it is there at once."""
    cdef object value
    cdef bint begun

    cdef str name(self):
        return "ready"

    cdef bint started(self) noexcept:
        return self.begun

    cdef int step(self, object value, PyObject **result) except -1:
        if self.begun:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.begun = True
        Py_INCREF(self.value)
        result[0] = <PyObject *>self.value
        self.value = None
        return AIOURING_RETURN

    cdef int give_up(self) except -1:
        self.begun = True
        self.value = None
        return 0


cdef class FileView(DescriptorView):
    """What binary and text files have in common. Made by aiouring.open()."""

    def __repr__(self):
        return f"<aiouring.{type(self).__name__} name={self.core.name!r}>"

    @property
    def closed(self):
        """Whether close() was called and its turn has come."""
        return self.core.closed

    @property
    def name(self):
        """The path or the descriptor that open() was given."""
        return self.core.name

    def fileno(self):
        """The descriptor. Its position is kept where the stream's is from now on, for whoever uses it; nothing is read ahead any more."""
        self.core.check_not_closed()
        self.core.share_position()
        return self.core.fd

    def isatty(self):
        """Whether it is a terminal."""
        self.core.check_not_closed()
        return self.core.kind == S_IFCHR and os.isatty(self.core.fd)

    def readable(self):
        """Whether it was opened for reading."""
        if self.core.readable or not self.core.buffer_bytes:
            self.core.check_not_closed()
        return self.core.readable

    def writable(self):
        """Whether it was opened for writing."""
        if self.core.writable or not self.core.buffer_bytes:
            self.core.check_not_closed()
        return self.core.writable

    def seekable(self):
        """Whether it has a position."""
        self.core.check_not_closed()
        return self.core.position != STREAM

    def _is_fifo(self):
        return self.core.kind == S_IFIFO

    def _detach(self):
        """Take the descriptor out of a file that was not used yet, which is closed from then on."""
        cdef int fd = self.core.fd
        self.core.fd = -1
        self.core.closed = self.core.closing = True
        return fd

    def __aenter__(self):
        cdef Ready ready
        self.core.check_not_closed()
        ready = Ready.__new__(Ready)
        ready.value = self
        return ready

    def __aexit__(self, exc_type, exc, traceback):
        return self.close()

    def __aiter__(self):
        self.core.check_not_closed()
        return self


cdef class StreamView(FileView):
    """The calls that buffered and unbuffered binary files share."""

    @property
    def mode(self):
        """As the built-in's: "rb", "rb+", "wb", "ab", "ab+", "xb" or "xb+"."""
        cdef FileCore core = self.core
        if core.created or core.appending:
            return ("x" if core.created else "a") + ("b+" if core.readable else "b")
        if core.readable:
            return "rb+" if core.writable else "rb"
        return "wb"

    def __anext__(self):
        cdef BinaryCall call = new_call(self.core, NEXT_LINE, self.raw)
        call.size = -1
        return call

    def readline(self, size=-1):
        """One line with its newline, or at most `size` bytes of it; b"" at the end."""
        cdef Py_ssize_t limit = as_size(size)
        cdef BinaryCall call = new_call(self.core, LINE, self.raw)
        call.size = limit
        return call

    def readlines(self, hint=-1):
        """A list of the lines that follow: all, or, with a positive `hint`, as many as have more than so many bytes together."""
        cdef Py_ssize_t size = as_size(hint)
        cdef BinaryCall call = new_call(self.core, LINES, self.raw)
        call.size = size
        return call

    def writelines(self, lines):
        """Write each of `lines`. Newlines are not added."""
        cdef BinaryCall call = new_call(self.core, WRITE_LINES, self.raw)
        call.subject = lines
        return call

    def readinto(self, buffer):
        """Read into the writable `buffer`. Returns the number of bytes; 0 at the end. The buffer is locked against resizing until then."""
        cdef BinaryCall call = new_call(self.core, READINTO, self.raw)
        call.subject = buffer
        return call

    def seek(self, target, whence=SEEK_SET):
        """Go to `target` bytes from the start, from here (`whence` 1) or from the end (2). Returns the new position.

        os.SEEK_DATA and os.SEEK_HOLE work where the file system knows them.
        """
        cdef int64_t number = as_offset(target)
        cdef int way = PyNumber_Index(whence)
        cdef BinaryCall call
        if not 0 <= way <= 4 and not self.raw:
            raise ValueError(f"whence value {way} unsupported")     # of a raw file, an OSError when it is awaited
        call = new_call(self.core, SEEK, self.raw)
        call.number = number
        call.argument = way
        return call

    def tell(self):
        """The position. OSError with ESPIPE where there is none."""
        return new_call(self.core, TELL, self.raw)

    def truncate(self, size=None):
        """Make the file `size` bytes long, or end it at the position. Returns its size. The position stays."""
        cdef BinaryCall call
        cdef int64_t number = 0 if size is None else as_offset(size)
        call = new_call(self.core, TRUNCATE, self.raw)
        call.subject = None if size is None else number
        return call

    def flush(self):
        """Hand what waits in the buffer to the kernel."""
        return new_call(self.core, FLUSH, self.raw)

    def fsync(self):
        """flush(), then wait until the file's bytes and its metadata are on the disk."""
        return new_call(self.core, SYNC, self.raw)

    def fdatasync(self):
        """fsync() without the metadata that reading the bytes does not need."""
        cdef BinaryCall call = new_call(self.core, SYNC, self.raw)
        call.argument = IORING_FSYNC_DATASYNC
        return call

    def close(self):
        """Flush and close, after all calls that were begun before. What is called afterwards raises ValueError.

        The descriptor is closed whatever happens: if the flush fails its error is raised afterwards, and a cancelled call raises CancelledError
        when the file is closed.
        """
        return new_call(self.core, CLOSE, self.raw)


@cython.final
cdef class RawFile(StreamView):
    """A file without a buffer: each call is one request. What io.FileIO is, but awaited."""

    def read(self, size=-1):
        """Up to `size` bytes by one read, which may be fewer; all up to the end with -1; b"" at the end."""
        cdef Py_ssize_t count = as_size(size)
        cdef BinaryCall call = new_call(self.core, READ if count >= 0 else READ_ALL, True)
        call.size = count
        return call

    def readall(self):
        """All up to the end."""
        return new_call(self.core, READ_ALL, True)

    def write(self, data):
        """Write `data` by one write. Returns the number of bytes that the file took, which may be fewer."""
        cdef BinaryCall call = new_call(self.core, WRITE, True)
        call.subject = data
        return call


cdef class BinaryFile(StreamView):
    """A file with a buffer. What io.BufferedReader, BufferedWriter and BufferedRandom are, but awaited.

    Calls take turns, in the order in which they are awaited.
    """

    @property
    def raw(self):
        """The same file without its buffer."""
        cdef RawFile view
        if self.raw_view is None:
            view = RawFile.__new__(RawFile)
            view.core = self.core
            view.descriptor = self.core
            view.raw = True
            self.raw_view = view
        return self.raw_view

    def read(self, size=-1):
        """`size` bytes, fewer only at the end; all up to the end with -1 or None; b"" at the end."""
        cdef Py_ssize_t count = -1 if size is None else PyNumber_Index(size)
        cdef BinaryCall call
        # What cannot be read says so, whatever the length, when it is awaited.
        if count < -1 and self.core.readable:
            raise ValueError("read length must be non-negative or -1")
        call = new_call(self.core, READ if count >= 0 else READ_ALL, False)
        call.size = count
        return call

    def read1(self, size=-1):
        """Up to `size` bytes: what is in the buffer, or else what one read gives."""
        cdef Py_ssize_t count = PyNumber_Index(size)
        cdef BinaryCall call = new_call(self.core, READ1, False)
        call.size = count
        return call

    def readinto1(self, buffer):
        """readinto() with at most one read."""
        cdef BinaryCall call = new_call(self.core, READINTO1, False)
        call.subject = buffer
        return call

    def write(self, data):
        """Write all of `data`. Returns its number of bytes. They may wait in the buffer until flush(), close(), or more is written.

        Large data go to the kernel straight from `data`, which is locked against resizing and must not be changed until then.
        """
        cdef BinaryCall call = new_call(self.core, WRITE, False)
        call.subject = data
        return call


@cython.final
cdef class BinaryReader(BinaryFile):
    """A BinaryFile that was opened for reading, or for both."""

    def peek(self, size=0):
        """What is in the buffer, without moving; one read fills it if it is empty. `size` is not used, as with the built-in."""
        PyNumber_Index(size)
        return new_call(self.core, PEEK, False)


def binary_file(LoopCore loop not None, int fd, name, str flags, Py_ssize_t buffer_bytes):
    """A file for an open descriptor, which is its own from now on if this succeeds.

    `flags` has r where it can be read, w where it can be written, a for appending, x if it was created, c if it is closed with the file, and p if
    `name` is a path that was opened for it, so that nobody else has its position. `buffer_bytes`: 0 for no buffer, -1 for one that suits the file.
    """
    cdef FileCore core = FileCore.__new__(FileCore)
    cdef StreamView view
    cdef int64_t pos
    cdef bint own = "p" in flags
    try:
        core.attach(loop, fd, name if own else None)
        if core.kind == S_IFDIR:
            raise OSError(EISDIR, os.strerror(EISDIR), name)
        own = own and (core.kind == S_IFREG or core.kind == S_IFBLK)
        if own and core.kind == S_IFREG:
            pos = core.size_hint if "a" in flags else 0
        else:
            pos = lseek(fd, 0, SEEK_END if "a" in flags else SEEK_CUR)
        if buffer_bytes < 0:
            buffer_bytes = core.block_bytes if core.block_bytes > 1 else DEFAULT_BUFFER_BYTES
        if buffer_bytes and pos < 0 and "r" in flags and "w" in flags:
            raise UnsupportedOperation("File or stream is not seekable.")
        core.setup(name, flags, pos, own, buffer_bytes)
    except BaseException:
        core.fd = -1                # it stays the caller's
        raise
    if not buffer_bytes:
        view = RawFile.__new__(RawFile)
        view.raw = True
    elif core.readable:
        view = BinaryReader.__new__(BinaryReader)
    else:
        view = BinaryFile.__new__(BinaryFile)
    view.core = core
    view.descriptor = core
    return view
