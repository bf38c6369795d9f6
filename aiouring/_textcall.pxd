# The calls on a text file. See _textcall.pyx.
# cimported by: _textfile.

from libc.stdint cimport int64_t

from aiouring._file cimport call_kind
from aiouring._filesteps cimport StepCall
from aiouring._textstate cimport TextState


cdef class TextCall(StepCall):
    cdef TextState text
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


cdef TextCall new_call(TextState text, call_kind kind)
cdef str as_str(object text)
