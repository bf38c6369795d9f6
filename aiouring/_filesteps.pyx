"""The steps that calls on files are made of: reading, writing and closing through the buffer.

Used by `_file` and `_textcall`, whose calls derive from StepCall. Calls `_filecore`, `_fileop`.

What they do to the buffer is what io.BufferedReader, BufferedWriter and BufferedRandom do, so that both stand at the same place with the same bytes
in their buffers after the same calls. A step that has to wait returns MUST_WAIT, and goes on when it is called again: `step_phase` says where.

Who owns what: a call holds what it collects, and a caller's buffer (locked against resizing), until its last CQE.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from aiouring._filecore cimport DONE, MUST_WAIT, OTHER, FileCall, FileCore
from aiouring._fileop cimport begin_close, close_moved

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t size) except -1
    char *bytes_memory "PyBytes_AS_STRING"(PyObject *bytes_object)
    void Py_CLEAR(PyObject *)

cdef extern from "<unistd.h>" nogil:
    int SEEK_CUR

cdef enum:
    STREAM_BYTES = 8192             # what read() asks a stream for at first


@cython.no_gc_clear                         # its destructor needs the view
cdef class StepCall(FileCall):
    """A call that reads, writes or closes."""

    # -- memory -------------------------------------------------------------------------------------------------------------------------

    cdef int make_room(self, Py_ssize_t size) except -1:
        """Memory for so many bytes. What was collected stays."""
        if self.data == NULL:
            self.data = new_bytes(NULL, size)
            self.room = size
        elif size > self.room:
            _PyBytes_Resize(&self.data, size)
            self.room = size
        return 0

    cdef char *memory(self) noexcept:
        return bytes_memory(self.data) + self.filled

    cdef int add(self, const char *more, Py_ssize_t size) except -1:
        if self.filled + size > self.room:
            self.make_room(max(self.filled + size, self.room * 2))
        memcpy(self.memory(), more, size)
        self.filled += size
        return 0

    cdef bytes take_data(self):
        cdef bytes data
        if self.data == NULL:
            return b""
        if self.filled != self.room:
            _PyBytes_Resize(&self.data, self.filled)
        data = <bytes>self.data
        Py_CLEAR(self.data)
        self.filled = self.room = 0
        return data

    cdef int drop_data(self) noexcept:
        Py_CLEAR(self.data)
        self.filled = self.room = 0
        return 0

    cdef int get_view(self, int flags) except -1:
        try:
            PyObject_GetBuffer(self.subject, &self.view, flags)
        except BufferError:
            if flags == PyBUF_SIMPLE:
                raise
            raise TypeError(f"{self.name()}() argument must be read-write bytes-like object, not {type(self.subject).__name__}") from None
        self.has_view = True
        self.moved_bytes = 0
        return 0

    cdef int drop_view(self) noexcept:
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        return 0

    cdef void release(self) noexcept:
        self.drop_view()
        self.drop_data()

    cdef void taken(self) noexcept:
        self.subject = self.piece = self.close_error = None
        self.step_phase = 0
        self.closes = False
        FileCall.taken(self)

    def __dealloc__(self):
        self.drop_view()
        Py_CLEAR(self.data)

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    cdef int read_step(self, Py_ssize_t size) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count
        if self.step_phase == 0:
            count = core.readahead()
            if size <= count:
                self.piece = PyBytes_FromStringAndSize(core.buffer + core.at, size)
                core.at += size
                return DONE
            self.make_room(size)
            self.add(core.buffer + core.at, count)
            core.at += count
            self.step_phase = 1
        if self.step_phase == 1:
            if core.writable and core.flush_and_rewind(self) == MUST_WAIT:
                return MUST_WAIT
            core.forget_read()
            self.step_phase = 2
        if self.step_phase == 2:
            # Whole blocks go straight into the result.
            while size - self.filled >= core.buffer_bytes:
                count = core.raw_read(self, self.memory(), (size - self.filled) // core.buffer_bytes * core.buffer_bytes)
                if count == MUST_WAIT:
                    return MUST_WAIT
                if count == 0:
                    return self.step_done()
                self.filled += count
            core.at = core.raw_at = core.read_end = 0
            self.step_phase = 3
        while self.filled < size and core.read_end < core.buffer_bytes:
            count = core.fill(self)
            if count == MUST_WAIT:
                return MUST_WAIT
            if count == 0:
                break
            count = min(count, size - self.filled)
            self.add(core.buffer + core.at, count)
            core.at += count
        return self.step_done()

    cdef int step_done(self) except -1:
        self.piece = self.take_data()
        self.step_phase = 0
        return DONE

    cdef int read_all_step(self, bint raw) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count
        cdef int64_t left
        if self.step_phase == 0:
            count = 0 if raw else core.readahead()
            left = max(core.size_now() - core.raw_pos, 0) if core.is_regular() else 0
            self.make_room(count + left if left else count + STREAM_BYTES)
            if count:
                self.add(core.buffer + core.at, count)
                core.at += count
            self.step_phase = 1
        if self.step_phase == 1:
            if not raw:
                if core.writable and core.flush_and_rewind(self) == MUST_WAIT:
                    return MUST_WAIT
                core.forget_read()
            self.step_phase = 2
        while True:
            if self.filled == self.room and not self.has_result:
                if core.is_regular() and 0 < core.raw_pos == core.size_now():
                    break               # no request is needed to learn that nothing follows
                self.make_room(self.room + max(self.room // 2, <Py_ssize_t>STREAM_BYTES))
            count = core.raw_read(self, self.memory(), self.room - self.filled)
            if count == MUST_WAIT:
                return MUST_WAIT
            if count == 0:
                break
            self.filled += count
        return self.step_done()

    cdef int read1_step(self, Py_ssize_t size) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count
        if self.step_phase == 0:
            count = min(core.readahead(), size)
            if count > 0 or size == 0:
                self.piece = PyBytes_FromStringAndSize(core.buffer + core.at, count)
                core.at += count
                return DONE
            # Before Python 3.13 the built-in forgets to, and what was written can end up elsewhere.
            if core.writable and core.flush_and_rewind(self) == MUST_WAIT:
                return MUST_WAIT
            core.forget_read()
            self.make_room(size)
            self.step_phase = 1
        count = core.raw_read(self, self.memory(), size)
        if count == MUST_WAIT:
            return MUST_WAIT
        self.filled = count
        return self.step_done()

    cdef int readinto_step(self, bint once) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count, left
        cdef char *target
        if self.step_phase == 0:
            count = core.readahead()
            if count > 0:
                count = min(count, self.view.len)
                memcpy(self.view.buf, core.buffer + core.at, count)
                core.at += count
                self.moved_bytes = count
                if count == self.view.len:
                    return DONE
            self.step_phase = 1
        if self.step_phase == 1:
            if core.writable and core.flush_and_rewind(self) == MUST_WAIT:
                return MUST_WAIT
            core.forget_read()
            core.at = 0
            self.step_phase = 2
        while self.moved_bytes < self.view.len:
            left = self.view.len - self.moved_bytes
            target = <char *>self.view.buf + self.moved_bytes
            if left > core.buffer_bytes:
                count = core.raw_read(self, target, left)
            elif once and self.moved_bytes:
                break
            else:
                count = core.fill(self)
            if count == MUST_WAIT:
                return MUST_WAIT
            if count == 0:
                break
            if left <= core.buffer_bytes:
                count = min(count, left)
                memcpy(target, core.buffer + core.at, count)
                core.at += count
            elif once:
                self.moved_bytes += count
                break
            self.moved_bytes += count
        return DONE

    # -- writing ------------------------------------------------------------------------------------------------------------------------

    cdef int write_step(self) except -1:
        cdef FileCore core = self.core
        cdef Py_ssize_t count, offset
        if self.step_phase == 0:
            if core.read_end < 0 and core.write_end < 0:
                core.at = core.raw_at = 0
            count = self.view.len
            if count <= core.buffer_bytes - core.at:
                memcpy(core.buffer + core.at, self.view.buf, count)
                if core.write_end < 0 or core.write_pos > core.at:
                    core.write_pos = core.at
                core.move_to(core.at + count)
                if core.at > core.write_end:
                    core.write_end = core.at
                return DONE
            self.step_phase = 1
        if self.step_phase == 1:
            if core.flush(self) == MUST_WAIT:
                return MUST_WAIT
            offset = core.raw_offset()
            if offset:
                core.raw_seek(None, -offset, SEEK_CUR)
            core.forget_read()
            core.at = core.raw_at = 0
            self.step_phase = 2
        while self.view.len - self.moved_bytes > core.buffer_bytes:
            count = core.raw_write(self, <char *>self.view.buf + self.moved_bytes, self.view.len - self.moved_bytes, False)
            if count == MUST_WAIT:
                return MUST_WAIT
            self.moved_bytes += count
        count = self.view.len - self.moved_bytes
        memcpy(core.buffer, <char *>self.view.buf + self.moved_bytes, count)
        core.write_pos = 0
        core.write_end = core.at = count
        self.step_phase = 0
        return DONE

    cdef int flush_above_step(self) except -1:
        return DONE

    cdef int flush_step(self) except -1:
        if self.flush_above_step() == MUST_WAIT:
            return MUST_WAIT
        return self.core.flush_and_rewind(self) if self.core.writable else DONE

    cdef int truncate_step(self, object size) except -1:
        cdef FileCore core = self.core
        if self.phase == 0:
            if self.flush_step() == MUST_WAIT:
                return MUST_WAIT
            if not core.writable:
                core.unsupported("truncate")
            self.new_size = core.raw_tell() if size is None else size
            self.phase = 1
        return core.raw_truncate(self, self.new_size)

    # -- cancelled ----------------------------------------------------------------------------------------------------------------------

    cdef int undo_write(self) noexcept:
        if self.step_phase == 2:
            if self.has_result and self.res > 0:
                self.moved_bytes += self.res
            self.core.at = self.core.raw_at = 0         # the stream stands behind what was written
        return 0

    cdef int put_back_piece(self) except -1:
        """Of a stream without a position: what the step that was waiting has collected, and what came for it."""
        cdef FileCore core = self.core
        if self.has_result and self.res > 0:
            if core.buffer <= self.direct_target < core.buffer + core.buffer_bytes:
                if core.read_end < 0:
                    core.at = self.direct_target - core.buffer
                core.read_end = self.direct_target - core.buffer + self.res
            elif self.has_view:
                self.moved_bytes += self.res
            else:
                self.filled += self.res
        if self.has_view:
            return core.put_back(<char *>self.view.buf, self.moved_bytes)
        return core.put_back(bytes_memory(self.data), self.filled) if self.filled else 0

    # -- the end --------------------------------------------------------------------------------------------------------------------------

    cdef int close_step(self) except -1:
        """Flush, wait for the positional calls, close. The descriptor is closed whatever fails before."""
        cdef FileCore core = self.core
        if self.phase == 0:
            if core.closed:
                return self.finish(None)
            self.phase = 1
        if self.phase == 1:
            try:
                if self.flush_step() == MUST_WAIT:
                    return MUST_WAIT
            except BaseException as exc:
                self.close_error = exc
            core.closed = core.closing = True
            self.phase = 2
        if self.phase == 2:
            if not core.owns:
                core.fd = -1
                return self.close_finish()
            if core.users:
                core.closer = self      # submit() comes when the last has ended
                return MUST_WAIT
            self.phase = 3
            self.fd = core.fd
            try:
                begin_close(core, self)
            except BaseException:
                core.closed = core.closing = False      # another thread's loop, or a closed one: the file is open still
                raise
            self.asked = OTHER
            return MUST_WAIT
        try:
            self.result_of_request()
        except OSError as exc:
            if self.close_error is None:
                self.close_error = exc
        return self.close_finish()

    cdef int close_finish(self) except -1:
        if self.close_error is not None:
            if not self.wanted():
                # Its task gets CancelledError, and nobody else would hear of bytes that could not be written.
                self.loop.call_exception_handler({
                    "message": f"closing {self.core!r} failed after the call was cancelled", "exception": self.close_error})
            return self.fail(self.close_error)
        return self.finish(None)

    cdef int again(self) except -1:
        if not self.closes:
            return FileCall.again(self)
        if self.phase == 3 and not self.has_result:
            # Cancelled by nobody: its ring was replaced, and what that did with the request is not known.
            close_moved(self.core, self.fd)
            return self.close_finish()
        if self.phase == 1 and not self.wanted() and not self.core.is_regular():
            self.phase = 2              # it was cancelled in a flush that may never end: the descriptor is closed all the same
            self.has_result = False
            self.core.closed = self.core.closing = True
        return self.submit()

    cdef int stop(self) except -1:
        # What ends by itself is left to end, so that a file that was closed is closed when CancelledError is raised.
        if self.closes and (self.phase > 1 or self.core.is_regular()):
            return 0
        return FileCall.stop(self)

    cdef bint idle(self) noexcept:
        # A close that waits for its turn on a regular file gets it, and closes, also when it is cancelled meanwhile.
        return FileCall.idle(self) and not (self.closes and (self.core.closer is self or self.queued and self.core.is_regular()))

    cdef bint stays_queued(self) noexcept:
        return self.closes or FileCall.stays_queued(self)
