"""Every call on a text file: reading by characters and lines, writing, and going to a place.

Used by `_textfile`. Calls `_textstate`, `_filesteps`, `_filecore`.

The chunks that are decoded are the built-in's, so that both stand at the same place after the same calls. A line that is decoded already costs a
search and a str.

A call that is cancelled while it reads puts the text back as it was (`restore`): the decoder's state, what was decoded, and the binary file's
position. On a stream without a position, what it has read is there for the next call.

Who owns what: a call holds how the text stood when it began to take from it. Otherwise as in `_filesteps`.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_FromObject, PyUnicode_GET_LENGTH, PyUnicode_Substring
from libc.stdint cimport int64_t, uint32_t, uint64_t

from aiouring._awaitable cimport ABANDONED, NEW
from aiouring._file cimport CLOSE, LINE, LINES, NEXT_LINE, READ, READ_ALL, SEEK, SYNC, TELL, TRUNCATE, WRITE, WRITE_LINES, call_kind
from aiouring._filecore cimport DONE, MUST_WAIT, STREAM, FileCall, FileCore
from aiouring._filesteps cimport StepCall
from aiouring._textstate cimport TextState

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *value)
    object PyNumber_Index(object value)

cdef enum:
    CHUNK_BYTES = 8192              # the built-in's

cdef tuple NAMES = ("read", "read", "", "", "", "readline", "__anext__", "readlines", "", "write", "writelines", "seek", "tell", "truncate",
                    "flush", "fsync", "close")


cdef str as_str(object text):
    if type(text) is str:
        return <str>text
    if not isinstance(text, str):
        raise TypeError(f"write() argument must be str, not {type(text).__name__}")
    return PyUnicode_FromObject(text)


cdef TextCall new_call(TextState text, call_kind kind):
    cdef TextCall call
    if text.spare_call is not None and Py_REFCNT(<PyObject *>text.spare_call) == 1:
        call, text.spare_call = <TextCall>text.spare_call, None     # nobody has the one that ended last any more: it serves again
        call.renew()
        call.state = NEW
    else:
        call = TextCall.__new__(TextCall)
    call.text = text
    call.core = text.core
    call.loop = text.core.loop
    call.kind = kind
    call.closes = kind == CLOSE
    call.size = 0
    call.whence = 0
    return call


@cython.final
cdef class TextCall(StepCall):
    cdef str name(self):
        return "TextFile." + NAMES[<int>self.kind]

    cdef bint reads(self) noexcept:
        return self.kind <= LINES or self.kind == SEEK

    # -- the way through a call ---------------------------------------------------------------------------------------------------------

    cdef int attempt(self) except -1:
        cdef TextState text = self.text
        cdef str line
        if self.kind == CLOSE:
            return self.close_step()
        if not self.has_begun:
            self.has_begun = True
            self.was_telling = text.telling
            if self.kind == NEXT_LINE or self.kind == LINES:
                text.telling = False
            self.check()
        if self.kind == LINE or self.kind == NEXT_LINE:
            if self.line_step(self.size) == MUST_WAIT:
                return MUST_WAIT
            line, self.line = self.line, None
            if self.kind == NEXT_LINE and not line:
                text.snapshot_input = None
                text.telling = text.core.position != STREAM
                return self.fail(StopAsyncIteration())
            return self.finish(line)
        if self.kind == WRITE:
            if self.write_text_step(<str>self.argument) == MUST_WAIT:
                return MUST_WAIT
            return self.finish(PyUnicode_GET_LENGTH(<str>self.argument))
        if self.kind == READ:
            return self.read_chars_step()
        if self.kind == READ_ALL:
            return self.read_rest_step()
        if self.kind == LINES:
            return self.lines_step()
        if self.kind == WRITE_LINES:
            return self.write_lines_step()
        if self.kind == SEEK:
            return self.seek_step()
        if self.kind == TELL:
            return self.tell_step()
        text.telling = text.core.position != STREAM
        if self.kind == TRUNCATE:
            return MUST_WAIT if self.truncate_step(self.argument) == MUST_WAIT else self.finish(self.new_size)
        if self.phase == 0:
            if self.flush_step() == MUST_WAIT:
                return MUST_WAIT
            self.phase = 1
        if self.kind == SYNC and self.core.raw_sync(self, <uint32_t>self.whence) == MUST_WAIT:
            return MUST_WAIT
        return self.finish(None)

    cdef int check(self) except -1:
        cdef TextState text = self.text
        self.core.check_not_closed()
        if self.kind <= LINES and text.decoder is None:
            self.core.unsupported("not readable")
        if self.kind == WRITE and text.encoder is None:
            self.core.unsupported("not writable")
        if (self.kind == SEEK or self.kind == TELL) and self.core.position == STREAM:
            self.core.unsupported("underlying stream is not seekable")
        return 0

    cdef void taken(self) noexcept:
        cdef TextState text = self.text
        self.argument = self.lines_iterator = None
        self.parts = self.lines = None
        self.rest = self.line = None
        self.encoded = None
        self.line_phase = self.write_phase = 0
        self.parts_chars = 0
        if self.remembers:
            self.remembers = False
            self.was_decoded = None
            self.was_input = None
            self.was_flags = self.was_state = self.was_encoder_state = None
        self.text = None
        StepCall.taken(self)
        text.spare_call = self

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    cdef int resume(self) except -1:
        # Another call was first, so the task takes the result later, and may be cancelled before: whatever it is, it must be able to go back.
        self.remember()
        return StepCall.resume(self)

    cdef int remember(self) except -1:
        cdef TextState text = self.text
        if not self.remembers:
            self.remembers = True
            self.begun_pos = self.core.logical_pos()
            self.was_decoded = text.decoded
            self.was_used = text.used
            self.was_flags = text.snapshot_flags
            self.was_input = text.snapshot_input
            self.was_ratio = text.bytes_per_char
            self.was_state = None
        return 0

    cdef int chunk_step(self, Py_ssize_t chars) except -1:
        """Decode one more chunk, with an eye on how many characters are wanted. MUST_WAIT, or whether anything came (`came`)."""
        cdef TextState text = self.text
        cdef bytes chunk
        cdef str decoded
        cdef Py_ssize_t size = CHUNK_BYTES, count
        if chars > 0:
            size = max(size, <Py_ssize_t>(max(text.bytes_per_char, 1.0) * chars))
        if self.read1_step(size) == MUST_WAIT:
            return MUST_WAIT
        chunk, self.piece = self.piece, None
        state = text.decoder.getstate()
        if self.remembers and self.was_state is None:
            self.was_state = state
        size = PyBytes_GET_SIZE(chunk)
        decoded = text.decoder.decode(chunk, size == 0)
        text.decoded = decoded
        text.used = 0
        count = PyUnicode_GET_LENGTH(decoded)
        text.bytes_per_char = <double>size / count if count else 0.0
        text.snapshot_flags = state[1]
        if text.telling:
            text.snapshot_input = <bytes>state[0] + chunk if state[0] else chunk
        else:
            # A flush() allows tell() again. It then refuses, and does not count these characters from where others began.
            text.snapshot_input = b""
        self.came = size > 0 or count > 0
        return DONE

    cdef int read_chars_step(self) except -1:
        cdef TextState text = self.text
        cdef str chars
        if self.phase == 0:
            if self.flush_above_step() == MUST_WAIT:
                self.remember()
                return MUST_WAIT
            if text.decoded is None or PyUnicode_GET_LENGTH(text.decoded) - text.used < self.size:
                self.remember()
            chars = text.take_decoded(self.size)
            self.parts_chars = PyUnicode_GET_LENGTH(chars)
            if self.parts_chars == self.size:
                return self.finish(chars)
            self.parts = [chars]
            self.phase = 1
        while self.parts_chars < self.size:
            if self.chunk_step(self.size - self.parts_chars) == MUST_WAIT:
                return MUST_WAIT
            if not self.came:
                break
            chars = text.take_decoded(self.size - self.parts_chars)
            self.parts.append(chars)
            self.parts_chars += PyUnicode_GET_LENGTH(chars)
        return self.finish("".join(self.parts))

    cdef int read_rest_step(self) except -1:
        cdef TextState text = self.text
        cdef bytes data
        cdef str decoded
        if self.phase == 0:
            if self.flush_above_step() == MUST_WAIT:
                return MUST_WAIT
            self.remember()
            self.phase = 1
        if self.read_all_step(False) == MUST_WAIT:
            return MUST_WAIT
        data, self.piece = self.piece, None
        if self.was_state is None:
            self.was_state = text.decoder.getstate()
        decoded = text.decoder.decode(data, True)
        decoded = text.take_decoded(-1) + decoded
        if text.snapshot_input is not None:
            text.forget_decoded()
            text.snapshot_input = None
        return self.finish(decoded)

    cdef int line_step(self, Py_ssize_t limit) except -1:
        """`line` becomes the next line, or as much of it as `limit` (-1: none) allows; "" at the end."""
        cdef TextState text = self.text
        cdef str source
        cdef Py_ssize_t begin, end = 0, searched = 0, length, rest_chars
        cdef bint found
        if self.line_phase == 0:
            if self.core.pending is not None and self.flush_above_step() == MUST_WAIT:
                self.remember()
                return MUST_WAIT
            self.line_phase = 1
            self.parts_chars = 0
        while True:
            while text.decoded is None or not PyUnicode_GET_LENGTH(text.decoded):
                self.remember()
                if self.chunk_step(0) == MUST_WAIT:
                    return MUST_WAIT
                if not self.came:
                    # The end, and with it the end of the line.
                    text.forget_decoded()
                    text.snapshot_input = None
                    return self.line_done("")
            if self.rest is None:
                source = text.decoded
                begin = text.used
                rest_chars = 0
            else:
                source = self.rest + text.decoded
                begin = 0
                rest_chars = PyUnicode_GET_LENGTH(self.rest)
            length = PyUnicode_GET_LENGTH(source)
            found = text.find_newline(source, begin, &end, &searched)
            if not found:
                end = searched
            if limit >= 0 and end - begin + self.parts_chars >= limit:
                end = begin + limit - self.parts_chars
                found = True
            if found:
                text.used = end - rest_chars
                self.rest = None
                return self.line_done(source if begin == 0 and end == length else PyUnicode_Substring(source, begin, end))
            self.remember()
            if end > begin:
                if self.parts is None:
                    self.parts = []
                self.parts.append(PyUnicode_Substring(source, begin, end))
                self.parts_chars += end - begin
            self.rest = PyUnicode_Substring(source, end, length) if end < length else None
            text.forget_decoded()

    cdef int line_done(self, str last) except -1:
        if self.rest is not None:
            last = self.rest + last
            self.rest = None
        if self.parts is not None:
            self.parts.append(last)
            last = "".join(self.parts)
            self.parts = None
        self.line = last
        self.line_phase = 0
        return DONE

    cdef int lines_step(self) except -1:
        cdef TextState text = self.text
        cdef str line
        if self.lines is None:
            self.remember()
            self.lines = []
            self.lines_chars = 0
        while True:
            if self.line_step(-1) == MUST_WAIT:
                return MUST_WAIT
            line, self.line = self.line, None
            if not line:
                text.snapshot_input = None
                text.telling = text.core.position != STREAM
                break
            self.lines.append(line)
            self.lines_chars += PyUnicode_GET_LENGTH(line)
            if 0 < self.size < self.lines_chars:
                break
        return self.finish(self.lines)

    # -- cancelled ----------------------------------------------------------------------------------------------------------------------

    cdef int undo(self) except -1:
        if self.has_view:
            self.undo_write()
            self.keep_unwritten()
        if not self.reads() or not self.has_begun:
            return 0
        if self.core.position != STREAM:
            return self.restore()
        self.put_back_piece()
        if self.lines:
            self.parts = self.lines + (self.parts or [])
        if self.rest is not None:
            self.parts = (self.parts or []) + [self.rest]
        if self.parts:
            self.put_back_text("".join(self.parts))
        self.parts = self.lines = None
        self.rest = None
        return 0

    cdef int undo_result(self, object result) except -1:
        if self.core.position != STREAM:
            return self.restore()
        return self.put_back_text("".join(result) if self.kind == LINES else result)

    cdef int put_back_text(self, str chars) except -1:
        cdef TextState text = self.text
        chars += text.take_decoded(-1)
        text.decoded = chars
        text.used = 0
        return 0

    cdef FileCall successor(self):
        cdef TextCall call
        if not self.closes or self.core.closed:
            return None
        call = new_call(self.text, CLOSE)
        call.state = ABANDONED
        return call

    cdef int restore(self) except -1:
        cdef TextState text = self.text
        if not self.remembers:
            return 0
        self.core.return_to(self.begun_pos)
        if self.was_state is not None:
            text.decoder.setstate(self.was_state)
        text.decoded = self.was_decoded
        text.used = self.was_used
        text.snapshot_flags = self.was_flags
        text.snapshot_input = self.was_input
        text.bytes_per_char = self.was_ratio
        text.telling = self.was_telling
        if self.was_encoder_state is not None:
            text.encoder.setstate(self.was_encoder_state)
        return 0

    # -- writing ------------------------------------------------------------------------------------------------------------------------

    cdef int flush_above_step(self) except -1:
        """Into the buffer, or past it if it is much."""
        cdef FileCore core = self.core
        if core.pending is None:
            return DONE
        if not self.has_view:
            self.subject = core.pending[0] if len(core.pending) == 1 else b"".join(core.pending)
            self.get_view(PyBUF_SIMPLE)
        try:
            if self.write_step() == MUST_WAIT:
                return MUST_WAIT
        except BaseException:
            self.keep_unwritten()
            raise
        core.pending = None
        core.pending_bytes = 0
        self.drop_view()
        self.subject = None
        return DONE

    cdef int keep_unwritten(self) noexcept:
        """The buffer's file did not take it all: what earlier calls wrote waits on, and of this call's nothing."""
        cdef FileCore core = self.core
        cdef bytes data = <bytes>self.subject
        cdef Py_ssize_t kept = self.acknowledged if self.kind == WRITE or self.kind == WRITE_LINES else self.view.len
        data = data[self.moved_bytes:kept]
        core.pending = [data] if data else None
        core.pending_bytes = len(data)
        self.drop_view()
        return 0

    cdef int write_text_step(self, str chars) except -1:
        cdef TextState text = self.text
        cdef FileCore core = self.core
        cdef str translated = chars
        cdef Py_ssize_t size
        if self.write_phase == 0:
            if text.write_newline is not None:
                translated = chars.replace("\n", text.write_newline)
            self.encoded = text.encode(translated)
            self.flushes = text.line_buffering and ("\n" in chars or "\r" in translated)
            self.acknowledged = core.pending_bytes
            self.write_phase = 1
        size = PyBytes_GET_SIZE(self.encoded) if self.encoded is not None else 0
        if self.write_phase == 1:
            # Large pieces are not joined with what waits.
            if core.pending is not None and (size >= CHUNK_BYTES or core.pending_bytes + size > CHUNK_BYTES):
                if self.flush_above_step() == MUST_WAIT:
                    return MUST_WAIT
                self.acknowledged = 0
            if core.pending is None:
                core.pending = []
            core.pending.append(self.encoded)
            core.pending_bytes += size
            self.encoded = None
            self.write_phase = 2
        if self.write_phase == 2:
            if (core.pending_bytes >= CHUNK_BYTES or self.flushes) and self.flush_above_step() == MUST_WAIT:
                return MUST_WAIT
            self.write_phase = 3
        if self.flushes and self.core.flush_and_rewind(self) == MUST_WAIT:
            return MUST_WAIT
        if text.snapshot_input is not None:
            text.forget_decoded()
            text.snapshot_input = None
        if text.decoder is not None:
            text.decoder.reset()
        self.write_phase = 0
        return DONE

    cdef int write_lines_step(self) except -1:
        if self.lines_iterator is None:
            self.lines_iterator = iter(self.argument)
            self.line = None
        while True:
            if self.line is None:
                try:
                    line = next(self.lines_iterator)
                except StopIteration:
                    break
                self.line = as_str(line)
                if self.text.encoder is None:
                    self.core.unsupported("not writable")
            if self.write_text_step(self.line) == MUST_WAIT:
                return MUST_WAIT
            self.line = None
        return self.finish(None)

    # -- the position ---------------------------------------------------------------------------------------------------------------------

    cdef int tell_step(self) except -1:
        cdef TextState text = self.text
        if self.phase == 0:
            if not text.telling:
                raise OSError("telling position disabled by next() call")
            self.phase = 1
        if self.flush_step() == MUST_WAIT:
            return MUST_WAIT
        return self.finish(self.position_told())

    cdef object position_told(self):
        cdef TextState text = self.text
        cdef FileCore core = self.core
        cdef int64_t pos = core.raw_tell()
        pos -= core.raw_offset()
        if text.decoder is None or text.snapshot_input is None:
            return pos
        return text.cookie(pos)

    cdef int seek_step(self) except -1:
        cdef TextState text = self.text
        if self.phase == 0:
            if self.whence == 1:
                if self.argument != 0:
                    self.core.unsupported("can't do nonzero cur-relative seeks")
                if not text.telling:
                    raise OSError("telling position disabled by next() call")
            elif self.whence == 2:
                if self.argument != 0:
                    self.core.unsupported("can't do nonzero end-relative seeks")
            elif self.argument < 0:
                raise ValueError(f"negative seek position {self.argument!r}")
            self.phase = 1
        if self.phase == 1:
            if self.flush_step() == MUST_WAIT:
                return MUST_WAIT
            text.telling = True
            if self.whence == 1:
                self.argument = self.position_told()
            self.remember()
            self.phase = 2
        if self.whence == 2:
            return self.seek_end_step()
        return self.seek_cookie_step()

    cdef int seek_end_step(self) except -1:
        cdef TextState text = self.text
        cdef int64_t pos = self.core.seek(self, 0, 2)
        if pos == MUST_WAIT:
            return MUST_WAIT
        text.forget_decoded()
        text.snapshot_input = None
        if text.decoder is not None:
            self.was_state = text.decoder.getstate()
            text.decoder.reset()
        self.set_encoder(pos == 0)
        return self.finish(pos)

    cdef int set_encoder(self, bint at_start) except -1:
        """So that a byte order mark is written at the start, and nowhere else."""
        cdef TextState text = self.text
        if text.encoder is not None:
            self.was_encoder_state = text.encoder.getstate()
            if at_start:
                text.encoder.reset()
            else:
                text.encoder.setstate(0)
        return 0

    cdef int seek_cookie_step(self) except -1:
        cdef TextState text = self.text
        cdef int64_t start
        cdef Py_ssize_t to_feed, to_skip
        number = PyNumber_Index(self.argument)
        if number >> 168:
            raise OverflowError("int too big to convert")
        start = <int64_t><uint64_t>(number & 0xFFFFFFFFFFFFFFFF)
        flags = number >> 64 & 0xFFFFFFFF
        to_feed = number >> 96 & 0xFFFFFFFF
        to_skip = number >> 128 & 0xFFFFFFFF
        if self.phase == 2:
            if self.core.seek(self, start, 0) == MUST_WAIT:
                return MUST_WAIT
            text.forget_decoded()
            text.snapshot_input = None
            if text.decoder is not None:
                self.was_state = text.decoder.getstate()
                text.set_decoder(start, flags)
            self.phase = 3
        if to_skip:
            if text.decoder is None:
                self.core.unsupported("not readable")
            if self.read_step(to_feed) == MUST_WAIT:
                return MUST_WAIT
            text.snapshot_flags = flags
            text.snapshot_input, self.piece = self.piece, None
            text.decoded = text.decoder.decode(text.snapshot_input, bool(number >> 160))
            text.used = 0
            if PyUnicode_GET_LENGTH(text.decoded) < to_skip:
                raise OSError("can't restore logical file position")
            text.used = to_skip
        else:
            text.snapshot_flags = flags
            text.snapshot_input = b""
        self.set_encoder(start == 0 and flags == 0)
        return self.finish(self.argument)
