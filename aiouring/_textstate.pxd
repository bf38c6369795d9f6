# What a text file has decoded, and how it decodes and encodes. See _textstate.pyx.
# cimported by: _textcall, _textfile.

from libc.stdint cimport int64_t

from aiouring._file cimport BinaryFile, FileView
from aiouring._filesteps cimport StepCall


cdef class TextState(FileView):
    cdef readonly BinaryFile buffer
    cdef readonly str mode, encoding, errors
    cdef readonly bint line_buffering
    cdef object decoder, encoder        # None where the file is not for that
    # How newlines are read: \n alone is looked for; any; or just this.
    cdef bint any_newline, translates
    cdef str newline
    cdef str write_newline              # what \n becomes; None: \n
    cdef bint plain_utf8, ascii_superset    # how str becomes bytes without the encoder
    # What was decoded and how much of it was read. None: nothing.
    cdef str decoded
    cdef Py_ssize_t used
    # For tell(): the decoder's state and its input when `decoded` was decoded. None: unknown.
    cdef object snapshot_flags
    cdef bytes snapshot_input
    cdef double bytes_per_char
    cdef bint telling
    cdef StepCall spare_call            # a TextCall

    cdef int open_for(self, BinaryFile buffer, str mode, str encoding, str errors, object newline, bint line_buffering) except -1
    cdef int forget_decoded(self) noexcept
    cdef str take_decoded(self, Py_ssize_t count)
    cdef int find_newline(self, str text, Py_ssize_t begin, Py_ssize_t *end, Py_ssize_t *searched) except -1
    cdef bytes encode(self, str text)
    cdef int set_decoder(self, int64_t start, object flags) except -1
    cdef object cookie(self, int64_t pos)
