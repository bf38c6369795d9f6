"""What a text file has decoded, where it stands in that, and how it decodes, encodes and names a place.

Used by `_textcall` and `_textfile`. Calls `_file`.

The state is the built-in's (io.TextIOWrapper): the chunk that was decoded last, how much of it was read, and the decoder's state and its input before
that chunk. The number that tell() gives is made from these (`cookie`) as the built-in makes it, so that one's is good for the other.

Who owns what: a TextState owns its codec and what was decoded. What was written and is not in the buffer yet is the FileCore's.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_FindChar, PyUnicode_GET_LENGTH, PyUnicode_READ, PyUnicode_Substring
from libc.stdint cimport int64_t, uint32_t

from aiouring._file cimport BinaryFile, FileView
from aiouring._filecore cimport STREAM, FileCore

import codecs
import io

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    int PyUnicode_KIND(object text)
    void *PyUnicode_DATA(object text)

cdef object NewlineDecoder = io.IncrementalNewlineDecoder
# Encodings in which ASCII is itself, and that have no state.
cdef frozenset ASCII_SUPERSETS = frozenset(["ascii", "iso8859-1", "utf-8"])


cdef class TextState(FileView):
    """What the calls on a text file work with."""

    cdef int open_for(self, BinaryFile buffer, str mode, str encoding, str errors, object newline, bint line_buffering) except -1:
        """The arguments were checked by io.TextIOWrapper."""
        cdef FileCore core = buffer.core
        info = codecs.lookup(encoding)
        self.any_newline = not newline
        self.translates = newline is None
        self.newline = newline
        self.write_newline = newline if newline == "\r" or newline == "\r\n" else None
        self.encoding = encoding
        self.errors = errors
        self.mode = mode
        self.line_buffering = line_buffering
        self.telling = core.position != STREAM
        if core.readable:
            self.decoder = info.incrementaldecoder(errors)
            if self.any_newline:
                self.decoder = NewlineDecoder(self.decoder, self.translates)
        if core.writable:
            self.encoder = info.incrementalencoder(errors)
            self.ascii_superset = info.name in ASCII_SUPERSETS
            self.plain_utf8 = info.name == "utf-8" and errors == "strict"
            if core.position != STREAM and core.raw_pos != 0:
                self.encoder.setstate(0)        # no byte order mark in the midst of a file
        self.buffer = buffer
        self.core = core
        self.descriptor = core
        return 0

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


cdef object cookie_number(object start, object flags, object to_feed, object to_skip, object need_end):
    return start | flags << 64 | to_feed << 96 | to_skip << 128 | need_end << 160
