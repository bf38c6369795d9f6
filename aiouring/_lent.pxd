# A buffer of the caller's, locked against resizing as long as this object lives. See _lent.pyx.
# cimported by: _fileop, _chainlinks.


cdef class LentBuffer:
    cdef object subject         # without which Cython would not show the view to the garbage collector
    cdef Py_buffer view


cdef LentBuffer lend(object buffer, int flags)
