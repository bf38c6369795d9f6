"""Text files: what open() gives in text mode.

Used by `files` (open). Calls `_textcall`, `_textstate`, `_file`.

A TextFile is the asynchronous io.TextIOWrapper: it decodes what it reads from its BinaryFile in chunks, and encodes what is written to it. It is the
state (`_textstate`) with the methods that users call; each gives a call (`_textcall`), awaited once.

Who owns what: what waits to be written and is not in the buffer yet is the FileCore's, which writes it if the file is dropped unclosed.
"""

cimport cython

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
    as_offset,
    as_size,
)
from aiouring._textcall cimport TextCall, as_str, new_call
from aiouring._textstate cimport TextState
from aiouring.uapi cimport IORING_FSYNC_DATASYNC

cdef extern from "Python.h":
    object PyNumber_Index(object value)


@cython.final
cdef class TextFile(TextState):
    """A text file. What io.TextIOWrapper is, but awaited. Calls take turns, in the order in which they are awaited."""

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


def text_file(BinaryFile buffer not None, str mode, str encoding, str errors, newline, bint line_buffering):
    """A text file above a binary one. The arguments were checked by io.TextIOWrapper."""
    cdef TextFile text = TextFile.__new__(TextFile)
    text.open_for(buffer, mode, encoding, errors, newline, line_buffering)
    return text
