"""Frames: a stream cut where its lengths or its delimiters say.

Used by `_stream_receive`, one Framer a connection. Calls `_hook` for the watch's structure; otherwise it is bytes in, bytes out. The same rules are
followed by the hook's program (bpf_progs/include/aiouring/frames.h), which only counts.

Who owns what: a Framer owns the bytes after the last whole frame; whole frames are bytes objects.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from aiouring._hook cimport AIOURING_WATCH_DELIMITED, AIOURING_WATCH_PREFIXED, aiouring_watch

from aiouring.framing import Delimited, IncompleteFrameError, LengthPrefixed

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t haystack_bytes, const void *needle, size_t needle_bytes)

cdef enum:
    PARTIAL_BYTES_KEPT = 16384          # a larger buffer is given back after its frame


cdef class Framer:
    """Cuts one stream."""

    def __init__(self, framing):
        self.framing = framing
        self.frames = []
        self.max_frame = framing.max_frame
        self.max_delay_ns = <uint64_t>(framing.max_delay * 1e9)
        self.max_batch = framing.max_batch
        if isinstance(framing, LengthPrefixed):
            self.kind = AIOURING_WATCH_PREFIXED
            self.size = framing.size_bytes
            self.little_endian = framing.byteorder == "little"
        elif isinstance(framing, Delimited):
            self.kind = AIOURING_WATCH_DELIMITED
            self.size = len(framing.delimiter)
            memcpy(self.delimiter, PyBytes_AS_STRING(framing.delimiter), self.size)
        else:
            raise TypeError(f"frames is LengthPrefixed(...) or Delimited(...), not {framing!r}")

    def __dealloc__(self):
        PyMem_RawFree(self.partial)

    cdef bint has_news(self) noexcept:
        return len(self.frames) != 0 or self.error is not None

    cdef int feed(self, const char *data, size_t length) except -1:
        """Cut what came; whole frames are added to `frames`."""
        if self.error is not None:
            return 0            # nobody knows where the next frame would begin
        if self.kind == AIOURING_WATCH_PREFIXED:
            return self.cut_prefixed(data, length)
        return self.cut_delimited(data, length)

    cdef uint64_t prefix_of(self, const char *data) noexcept:
        cdef uint64_t value = 0
        cdef uint32_t i
        for i in range(self.size):
            value = value << 8 | <uint8_t>data[self.size - 1 - i if self.little_endian else i]
        return value

    cdef int cut_prefixed(self, const char *data, size_t length) except -1:
        cdef uint64_t body
        cdef size_t wanted
        while length:
            if self.partial_bytes == 0 and length >= self.size:
                body = self.prefix_of(data)
                if body > self.max_frame:
                    return self.too_long(body, False)
                wanted = self.size + body
                if length >= wanted:
                    self.add_frame(data + self.size, body)
                else:
                    self.keep(data, length)
                    wanted = length
            elif self.partial_bytes < self.size:
                wanted = min(self.size - self.partial_bytes, length)
                self.keep(data, wanted)
                if self.partial_bytes == self.size:
                    body = self.prefix_of(self.partial)
                    if body > self.max_frame:
                        return self.too_long(body, False)
                    if body == 0:
                        self.add_joined_frame(NULL, 0)
            else:
                wanted = self.size + self.prefix_of(self.partial) - self.partial_bytes
                if length >= wanted:
                    self.add_joined_frame(data, wanted)
                else:
                    self.keep(data, length)
                    wanted = length
            data += wanted
            length -= wanted
        return 0

    cdef int cut_delimited(self, const char *data, size_t length) except -1:
        cdef char window[16]
        cdef const char *found
        cdef size_t tail, head, frame, taken
        while length:
            found = NULL
            taken = 0
            # A delimiter that began in what is kept ends within the next bytes.
            if self.partial_bytes and self.size > 1:
                tail = min(self.partial_bytes, <size_t>self.size - 1)
                head = min(length, <size_t>self.size - 1)
                memcpy(window, self.partial + self.partial_bytes - tail, tail)
                memcpy(window + tail, data, head)
                found = <const char *>memmem(window, tail + head, self.delimiter, self.size)
                if found != NULL:
                    taken = (found - window) + self.size - tail
            if found == NULL:
                if self.size == 1:
                    found = <const char *>memchr(data, self.delimiter[0], length)
                else:
                    found = <const char *>memmem(data, length, self.delimiter, self.size)
                if found != NULL:
                    taken = (found - data) + self.size
            if found == NULL:
                # So that a peer decides nothing by how it cuts, only what cannot become a frame any more is too long.
                if self.partial_bytes + length >= self.max_frame + self.size:
                    return self.too_long(self.partial_bytes + length - self.size + 1, True)
                return self.keep(data, length)
            frame = self.partial_bytes + taken - self.size
            if frame > self.max_frame:
                return self.too_long(frame, False)
            if self.partial_bytes == 0:
                self.add_frame(data, frame)
            elif taken >= self.size:
                self.add_joined_frame(data, taken - self.size)
            else:
                self.partial_bytes = frame      # the delimiter began in it
                self.add_joined_frame(NULL, 0)
            data += taken
            length -= taken
        return 0

    cdef int add_frame(self, const char *data, size_t length) except -1:
        self.frames.append(PyBytes_FromStringAndSize(data, length))
        return 0

    cdef int add_joined_frame(self, const char *data, size_t length) except -1:
        """A frame of what is kept, and of these bytes."""
        cdef size_t skipped = self.size if self.kind == AIOURING_WATCH_PREFIXED else 0
        cdef size_t kept = self.partial_bytes - skipped
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, kept + length)
        memcpy(PyBytes_AS_STRING(frame), self.partial + skipped, kept)
        if length:
            memcpy(PyBytes_AS_STRING(frame) + kept, data, length)
        self.frames.append(frame)
        self.partial_bytes = 0
        if self.partial_room > PARTIAL_BYTES_KEPT:
            PyMem_RawFree(self.partial)
            self.partial = NULL
            self.partial_room = 0
        return 0

    cdef int keep(self, const char *data, size_t length) except -1:
        # It grows with what has come and not with what a prefix promises, which costs a peer nothing.
        cdef size_t room = self.partial_room
        cdef char *partial
        if self.partial_bytes + length > room:
            room = max(self.partial_bytes + length, 2 * room, <size_t>64)
            partial = <char *>PyMem_RawRealloc(self.partial, room)
            if partial == NULL:
                raise MemoryError(f"no memory for {room:,} bytes of a frame")
            self.partial = partial
            self.partial_room = room
        memcpy(self.partial + self.partial_bytes, data, length)
        self.partial_bytes += length
        return 0

    cdef int too_long(self, uint64_t length, bint at_least) except -1:
        self.error = ValueError(
            f"the peer sent a frame of {'at least ' if at_least else ''}{length:,} bytes, and max_frame={self.max_frame:,}")
        self.partial_bytes = 0
        return 0

    cdef object incomplete(self):
        cdef object expected = None
        if self.partial_bytes == 0:
            return None
        if self.kind == AIOURING_WATCH_PREFIXED and self.partial_bytes >= self.size:
            expected = self.size + self.prefix_of(self.partial)
        return IncompleteFrameError(self.partial[:self.partial_bytes], expected)

    cdef void describe(self, aiouring_watch *watch) noexcept:
        cdef size_t i, begin
        watch.kind = self.kind
        watch.size = self.size
        watch.max_batch = self.max_batch
        watch.max_delay_ns = self.max_delay_ns
        watch.max_frame = self.max_frame
        watch.little_endian = self.little_endian
        if self.kind == AIOURING_WATCH_PREFIXED:
            if self.partial_bytes >= self.size:
                watch.missing = self.size + self.prefix_of(self.partial) - self.partial_bytes
            else:
                watch.filled = <uint32_t>self.partial_bytes
                for i in range(self.partial_bytes):
                    if self.little_endian:
                        watch.value |= <uint64_t><uint8_t>self.partial[i] << (8 * i)
                    else:
                        watch.value = watch.value << 8 | <uint8_t>self.partial[i]
            return
        for i in range(self.size):
            watch.delimiter = watch.delimiter << 8 | <uint8_t>self.delimiter[i]
        begin = self.partial_bytes - 8 if self.partial_bytes > 8 else 0
        for i in range(begin, self.partial_bytes):
            watch.value = watch.value << 8 | <uint8_t>self.partial[i]
        watch.length = self.partial_bytes


def cut(framing, pieces):
    """What a connection's Framer makes of a stream that comes in these pieces and ends: the frames, and the error that it ends with or None."""
    cdef Framer framer = Framer(framing)
    for piece in pieces:
        framer.feed(PyBytes_AS_STRING(piece), len(<bytes>piece))
    return framer.frames, framer.error if framer.error is not None else framer.incomplete()
