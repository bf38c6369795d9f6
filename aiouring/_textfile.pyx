"""Text files: what open() gives in text mode, and every call on it.

Used by `files` (open). Calls `_file`, `_filesteps`, `_filecore`.

A TextFile is the asynchronous io.TextIOWrapper: it decodes what it reads from its BinaryFile in chunks, and encodes what is written to it. The chunks
are the built-in's, and so is the way in which tell() describes a place in the midst of one, so that both stand at the same place after the same
calls, and a position that one told is good for the other. A line that is decoded already costs a search and a str.

A call that is cancelled while it reads puts the text back as it was (`restore`): the decoder's state, what was decoded, and the binary file's
position. On a stream without a position, what it has read is there for the next call.

Who owns what: the TextFile owns what waits to be written and is not in the buffer yet; if it is dropped unclosed that goes to the FileCore, which
writes it. Otherwise as in `_filesteps`.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport (
    PyUnicode_AsUTF8String,
    PyUnicode_FindChar,
    PyUnicode_FromObject,
    PyUnicode_GET_LENGTH,
    PyUnicode_READ,
    PyUnicode_Substring,
)
from libc.stdint cimport int64_t, uint32_t, uint64_t

from aiouring._awaitable cimport ABANDONED, NEW
from aiouring._file cimport (
    CLOSE,
    FLUSH,
    LINE,
    LINES,
    NEXT_LINE,
    READ,
    READ_ALL,
    SEEK,
    SYNC,
    TELL,
    TRUNCATE,
    WRITE,
    WRITE_LINES,
    BinaryFile,
    FileView,
    as_offset,
    as_size,
    call_kind,
)
from aiouring._filecore cimport DONE, MUST_WAIT, STREAM, FileCall, FileCore
from aiouring._filesteps cimport StepCall
from aiouring.uapi cimport IORING_FSYNC_DATASYNC

import codecs
import io

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *value)
    object PyNumber_Index(object value)
    bint PyUnicode_IS_ASCII(object text)
    int PyUnicode_KIND(object text)
    void *PyUnicode_DATA(object text)

cdef enum:
    CHUNK_BYTES = 8192              # the built-in's

cdef tuple NAMES = ("read", "read", "", "", "", "readline", "__anext__", "readlines", "", "write", "writelines", "seek", "tell", "truncate",
                    "flush", "fsync", "close")
cdef object NewlineDecoder = io.IncrementalNewlineDecoder
# Encodings in which ASCII is itself, and that have no state.
cdef frozenset ASCII_SUPERSETS = frozenset(["ascii", "iso8859-1", "utf-8"])


@cython.final
cdef class TextFile(FileView):
    """A text file. What io.TextIOWrapper is, but awaited. Calls take turns, in the order in which they are awaited."""

    # -- what is decoded ------------------------------------------------------------------------------------------------------------------

    cdef int forget_decoded(self) noexcept:
        self.decoded = None
        self.used = 0
        return 0

    cdef str take_decoded(self, Py_ssize_t count):
        """Up to so many characters of it; all with -1."""
        cdef Py_ssize_t there
        cdef str chars
        if self.decoded is None:
            return ""
        there = PyUnicode_GET_LENGTH(self.decoded) - self.used
        if count < 0 or count > there:
            count = there
        if self.used or count < there:
            chars = PyUnicode_Substring(self.decoded, self.used, self.used + count)
        else:
            chars = self.decoded
        self.used += count
        return chars

    cdef int find_newline(self, str text, Py_ssize_t begin, Py_ssize_t *end, Py_ssize_t *searched) except -1:
        """Whether a line ends in `text`, and behind which character. If not, up to where it was searched: what follows may be part of a newline."""
        cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text), place
        cdef int kind
        cdef void *data
        cdef uint32_t character
        if self.any_newline and not self.translates:
            kind = PyUnicode_KIND(text)
            data = PyUnicode_DATA(text)
            for place in range(begin, length):
                character = PyUnicode_READ(kind, data, place)
                if character == c"\n" or character == c"\r":
                    # The decoder never parts \r from \n.
                    end[0] = place + 1
                    if character == c"\r" and place + 1 < length and PyUnicode_READ(kind, data, place + 1) == c"\n":
                        end[0] += 1
                    return True
            searched[0] = length
            return False
        if self.any_newline or PyUnicode_GET_LENGTH(self.newline) == 1:
            place = PyUnicode_FindChar(text, c"\n" if self.any_newline else self.newline[0], begin, length, 1)
            end[0] = place + 1
            searched[0] = length
            return place >= 0
        place = text.find(self.newline, begin)
        end[0] = place + 2
        searched[0] = length - 1 if length > begin and text[length - 1] == "\r" else length
        return place >= 0

    cdef int set_decoder(self, int64_t start, object flags) except -1:
        """Into the state that it had at a place that tell() told."""
        # At the start some decoders expect a byte order mark, which no flags say.
        if start == 0 and flags == 0:
            self.decoder.reset()
        else:
            self.decoder.setstate((b"", flags))
        return 0

    cdef object cookie(self, int64_t pos):
        """What tell() returns: a place in the file, and how to come from there to the place in the text."""
        cdef bytes source = self.snapshot_input
        cdef Py_ssize_t to_skip = self.used, skip_bytes, back = 1, chars, at, size = PyBytes_GET_SIZE(source)
        cdef Py_ssize_t to_feed = 0
        cdef int64_t start = pos - size
        cdef bint need_end = False
        flags = self.snapshot_flags
        if to_skip == 0:
            return cookie_number(start, flags, 0, 0, False)
        decoder = self.decoder
        state = decoder.getstate()
        try:
            # A first guess, by the chunk's ratio of bytes to characters; then back until nothing is left in the decoder there.
            skip_bytes = min(<Py_ssize_t>(self.bytes_per_char * to_skip), size)
            while skip_bytes > 0:
                self.set_decoder(start, flags)
                chars = len(decoder.decode(source[:skip_bytes]))
                if chars <= to_skip:
                    left, flags_there = decoder.getstate()
                    if not left:
                        flags = flags_there
                        to_skip -= chars
                        break
                    skip_bytes -= len(left)
                    back = 1
                else:
                    skip_bytes -= back
                    back *= 2
            if skip_bytes <= 0:
                skip_bytes = 0
                self.set_decoder(start, flags)
            start += skip_bytes
            if to_skip:
                # The rest byte by byte, with a new start wherever the decoder holds nothing.
                chars = 0
                at = skip_bytes
                while at < size:
                    chars += len(decoder.decode(source[at:at + 1]))
                    to_feed += 1
                    left, flags_there = decoder.getstate()
                    if not left and chars <= to_skip:
                        start += to_feed
                        to_skip -= chars
                        flags = flags_there
                        to_feed = chars = 0
                    if chars >= to_skip:
                        break
                    at += 1
                if at >= size:
                    chars += len(decoder.decode(b"", True))
                    need_end = True
                    if chars < to_skip:
                        raise OSError("can't reconstruct logical file position")
        finally:
            decoder.setstate(state)
        return cookie_number(start, flags, to_feed, to_skip, need_end)

    # -- what is encoded ------------------------------------------------------------------------------------------------------------------

    cdef bytes encode(self, str text):
        if self.ascii_superset and PyUnicode_IS_ASCII(text) or self.plain_utf8:
            return PyUnicode_AsUTF8String(text)
        return self.encoder.encode(text)

    # -- what is shown ----------------------------------------------------------------------------------------------------------------------

    @property
    def newlines(self):
        """The kinds of newline that were read so far: None, one, or a tuple of them."""
        return self.decoder.newlines if isinstance(self.decoder, NewlineDecoder) else None

    @property
    def write_through(self):
        return False

    def __repr__(self):
        return f"<aiouring.TextFile name={self.core.name!r} mode={self.mode!r} encoding={self.encoding!r}>"

    # -- calls ------------------------------------------------------------------------------------------------------------------------------

    def read(self, size=-1):
        """`size` characters, fewer only at the end; all up to the end with -1 or None; "" at the end."""
        cdef Py_ssize_t count = as_size(size)
        cdef TextCall call = new_call(self, READ if count >= 0 else READ_ALL)
        call.size = count
        return call

    def readline(self, size=-1):
        """One line with its newline, or at most `size` characters of it; "" at the end."""
        cdef Py_ssize_t limit = PyNumber_Index(size)
        cdef TextCall call = new_call(self, LINE)
        call.size = limit if limit >= 0 else -1
        return call

    def __anext__(self):
        cdef TextCall call = new_call(self, NEXT_LINE)
        call.size = -1
        return call

    def readlines(self, hint=-1):
        """A list of the lines that follow: all, or, with a positive `hint`, as many as have more than so many characters together."""
        cdef Py_ssize_t size = as_size(hint)
        cdef TextCall call = new_call(self, LINES)
        call.size = size
        return call

    def write(self, text):
        """Write a str. Returns its number of characters. They may wait in the buffer until flush(), close(), or more is written."""
        cdef str chars = as_str(text)
        cdef TextCall call = new_call(self, WRITE)
        call.argument = chars
        return call

    def writelines(self, lines):
        """Write each of `lines`. Newlines are not added."""
        cdef TextCall call = new_call(self, WRITE_LINES)
        call.argument = lines
        return call

    def seek(self, cookie, whence=0):
        """Go to a place that tell() told, to the start (0), to where the stream is (0 with `whence` 1) or to the end (0 with `whence` 2)."""
        cdef int way = PyNumber_Index(whence)
        cdef TextCall call
        if not 0 <= way <= 2:
            raise ValueError(f"invalid whence ({way}, should be 0, 1 or 2)")
        call = new_call(self, SEEK)
        call.argument = cookie
        call.whence = way
        return call

    def tell(self):
        """The place in the text, for seek(). It is the place in the file where the encoding is that simple."""
        return new_call(self, TELL)

    def truncate(self, size=None):
        """Make the file `size` bytes long, or end it where the buffer stands. Returns its size."""
        cdef object number = None if size is None else as_offset(size)
        cdef TextCall call = new_call(self, TRUNCATE)
        call.argument = number
        return call

    def flush(self):
        """Hand what waits to be written to the kernel."""
        return new_call(self, FLUSH)

    def fsync(self):
        """flush(), then wait until the file's bytes and its metadata are on the disk."""
        return new_call(self, SYNC)

    def fdatasync(self):
        """fsync() without the metadata that reading the bytes does not need."""
        cdef TextCall call = new_call(self, SYNC)
        call.whence = IORING_FSYNC_DATASYNC
        return call

    def close(self):
        """Flush and close, after all calls that were begun before. See BinaryFile.close()."""
        return new_call(self, CLOSE)


cdef str as_str(object text):
    if type(text) is str:
        return <str>text
    if not isinstance(text, str):
        raise TypeError(f"write() argument must be str, not {type(text).__name__}")
    return PyUnicode_FromObject(text)


cdef object cookie_number(object start, object flags, object to_feed, object to_skip, object need_end):
    return start | flags << 64 | to_feed << 96 | to_skip << 128 | need_end << 160


cdef TextCall new_call(TextFile text, call_kind kind):
    cdef TextCall call
    if text.spare_call is not None and Py_REFCNT(<PyObject *>text.spare_call) == 1:
        call, text.spare_call = text.spare_call, None       # nobody has the one that ended last any more: it serves again
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
        self.core.check_not_closed()
        if self.kind <= LINES and text.decoder is None:
            self.core.unsupported("not readable")
        if self.kind == WRITE and text.encoder is None:
            self.core.unsupported("not writable")
        if (self.kind == SEEK or self.kind == TELL) and self.core.position == STREAM:
            self.core.unsupported("underlying stream is not seekable")
        return 0

    cdef void taken(self) noexcept:
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        if text.telling:
            text.snapshot_flags = state[1]
            text.snapshot_input = <bytes>state[0] + chunk if state[0] else chunk
        self.came = size > 0 or count > 0
        return DONE

    cdef int read_chars_step(self) except -1:
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
        if self.phase == 0:
            if not text.telling:
                raise OSError("telling position disabled by next() call")
            self.phase = 1
        if self.flush_step() == MUST_WAIT:
            return MUST_WAIT
        return self.finish(self.position_told())

    cdef object position_told(self):
        cdef TextFile text = self.text
        cdef FileCore core = self.core
        cdef int64_t pos = core.raw_tell()
        pos -= core.raw_offset()
        if text.decoder is None or text.snapshot_input is None:
            return pos
        return text.cookie(pos)

    cdef int seek_step(self) except -1:
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
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
        cdef TextFile text = self.text
        if text.encoder is not None:
            self.was_encoder_state = text.encoder.getstate()
            if at_start:
                text.encoder.reset()
            else:
                text.encoder.setstate(0)
        return 0

    cdef int seek_cookie_step(self) except -1:
        cdef TextFile text = self.text
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


def text_file(BinaryFile buffer not None, str mode, str encoding, str errors, newline, bint line_buffering):
    """A text file above a binary one. The arguments were checked by io.TextIOWrapper."""
    cdef TextFile text = TextFile.__new__(TextFile)
    cdef FileCore core = buffer.core
    info = codecs.lookup(encoding)
    text.any_newline = not newline
    text.translates = newline is None
    text.newline = newline
    text.write_newline = newline if newline == "\r" or newline == "\r\n" else None
    text.encoding = encoding
    text.errors = errors
    text.mode = mode
    text.line_buffering = line_buffering
    text.telling = core.position != STREAM
    if core.readable:
        text.decoder = info.incrementaldecoder(errors)
        if text.any_newline:
            text.decoder = NewlineDecoder(text.decoder, text.translates)
    if core.writable:
        text.encoder = info.incrementalencoder(errors)
        text.ascii_superset = info.name in ASCII_SUPERSETS
        text.plain_utf8 = info.name == "utf-8" and errors == "strict"
        if core.position != STREAM and core.raw_pos != 0:
            text.encoder.setstate(0)        # no byte order mark in the midst of a file
    text.buffer = buffer
    text.core = core
    text.descriptor = core
    return text
