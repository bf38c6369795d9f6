# Text files. See _textfile.pyx.

from aiouring._textstate cimport TextState


cdef class TextFile(TextState):
    pass
