# Text files. See _textfile.pyx.

from libc.stdint cimport int64_t

from aiouring._file cimport BinaryFile, FileView, call_kind
from aiouring._filesteps cimport StepCall


cdef class TextFile(FileView):
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
    cdef TextCall spare_call

    cdef int forget_decoded(self) noexcept
    cdef str take_decoded(self, Py_ssize_t count)
    cdef int find_newline(self, str text, Py_ssize_t begin, Py_ssize_t *end, Py_ssize_t *searched) except -1
    cdef bytes encode(self, str text)
    cdef int set_decoder(self, int64_t start, object flags) except -1
    cdef object cookie(self, int64_t pos)


cdef class TextCall(StepCall):
    cdef TextFile text
    cdef call_kind kind
    cdef Py_ssize_t size                # asked for; -1: all
    cdef object argument                # what to write, where to seek to, lines
    cdef int whence
    cdef bint came                      # the last chunk had something
    cdef list parts                     # of what is read
    cdef Py_ssize_t parts_chars
    cdef str rest                       # of a line: the begin of what may be a newline
    cdef str line
    cdef int line_phase
    cdef list lines
    cdef Py_ssize_t lines_chars
    cdef object lines_iterator
    cdef bytes encoded
    cdef int write_phase
    cdef bint flushes
    cdef Py_ssize_t acknowledged        # bytes of what waits that earlier calls wrote
    # How the text stood when the call began to take from it.
    cdef bint remembers
    cdef str was_decoded
    cdef Py_ssize_t was_used
    cdef object was_flags, was_state, was_encoder_state
    cdef bint was_telling
    cdef bytes was_input
    cdef double was_ratio

    cdef int check(self) except -1
    cdef int remember(self) except -1
    cdef int chunk_step(self, Py_ssize_t chars) except -1
    cdef int read_chars_step(self) except -1
    cdef int read_rest_step(self) except -1
    cdef int line_step(self, Py_ssize_t limit) except -1
    cdef int lines_step(self) except -1
    cdef int write_text_step(self, str text) except -1
    cdef int write_lines_step(self) except -1
    cdef int seek_step(self) except -1
    cdef int seek_end_step(self) except -1
    cdef int tell_step(self) except -1
    cdef int seek_cookie_step(self) except -1
    cdef object position_told(self)
    cdef int set_encoder(self, bint at_start) except -1
    cdef int line_done(self, str last) except -1
    cdef int restore(self) except -1
    cdef int put_back_text(self, str chars) except -1
    cdef int keep_unwritten(self) noexcept
