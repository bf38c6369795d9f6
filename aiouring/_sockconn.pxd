# Calls that make connections, and calls that wait with POLL_ADD. See _sockconn.pyx.
# cimported by: _sock.

cdef object accept_operation(object loop, object sock)
# The address's host must be a literal.
cdef object connect_operation(object loop, object sock, object address)
# `function(*args)` each time that `mask` (POLLIN, POLLOUT) is ready, until it does not raise BlockingIOError.
cdef object poll_operation(object loop, object sock, str caller, int mask, object function, tuple args, bint poll_first)
