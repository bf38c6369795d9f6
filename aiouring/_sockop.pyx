"""What all sock_* calls have in common: checking the socket, waiting, cancelling, and the socket's close under a request.

Used by `_sock` and `_sendfile`, whose operations derive from SocketOperation. Calls `_loop` and `_op`.

A SocketOperation is three things in one object, because a busy program makes one for each receive and each send:
- the coroutine that loop.sock_recv() returns (it does nothing before it is awaited, as any coroutine);
- the future that its task waits for. Its cancel() runs at the very moment of task.cancel(), so the request is withdrawn before the
  kernel is entered again. With an asyncio.Future we would hear of it a turn later, and that turn's enter could take data for nobody;
- the owner of the request and of its memory until the last CQE.

Cancelling ends the task's wait only with the last CQE: when CancelledError is raised, no memory of the caller is in the kernel's hands
and the number of bytes that moved is known. As a rule that is in the same turn in which asyncio would raise it.

Nothing that arrived is lost. A request that was not yet complete when it was cancelled has taken nothing. What one brought whose CQE
was already there is kept in the socket's SocketUse, for a call that waits on that socket or for the next one. That happens (a) when a
callback that an earlier CQE of the same batch ran cancels, (b) when a callback that stands in the ready queue before the task's
wake-up cancels, (c) when CQEs were posted by an enter in the middle of a turn and are not reaped yet. asyncio loses data in case (b).

A socket that is closed under a request: close() alone would not end it, for the request keeps the file open, so that the peer sees no
end. socket.socket.close() asks `self._io_refs <= 0`, and a SocketUse that stands there is asked before the descriptor is closed: it
submits what is queued (asyncio would have sent it), cancels the rest, and submits that at once. As in asyncio the call then waits
until it is cancelled. So it is when another thread than the loop's closes, only that the cancel comes with the loop's next turn.
"""

cimport cython
from cpython.exc cimport PyErr_Fetch, PyErr_Restore, PyErr_WarnEx, PyErr_WriteUnraisable
from cpython.object cimport PyObject
from libc.errno cimport EBADF, EINTR, errno
from libc.stdint cimport int32_t, uint32_t

from aiouring._loop cimport LoopCore
from aiouring.uapi cimport ECANCELED

import _socket
import os
import socket
from asyncio import CancelledError, InvalidStateError, base_events

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    int SOL_SOCKET, SO_DOMAIN, SO_TYPE
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)

cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef object socket_socket = socket.socket
cdef object check_ssl_socket = base_events._check_ssl_socket
# The C attributes: those of socket.socket make an enum member at each access.
cdef object get_family = _socket.socket.family.__get__
cdef object get_kind = _socket.socket.type.__get__


@cython.final
cdef class SocketUse:
    """Stands in a socket's `_io_refs` and behaves there as the number that it replaces."""

    def __iadd__(self, Py_ssize_t count):
        self.file_count += count
        return self

    def __isub__(self, Py_ssize_t count):
        self.file_count -= count
        return self

    def __add__(self, other):
        return int(self) + int(other)

    def __radd__(self, other):
        return int(other) + int(self)

    def __sub__(self, other):
        return int(self) - int(other)

    def __int__(self):
        return self.file_count

    def __index__(self):
        return self.file_count

    def __bool__(self):
        return self.file_count != 0

    def __hash__(self):
        return hash(self.file_count)

    def __eq__(self, other):
        return self is other or self.file_count == other

    def __lt__(self, other):
        return self.file_count < other

    def __gt__(self, other):
        return self.file_count > other

    def __ge__(self, other):
        return self.file_count >= other

    def __le__(self, other):
        # socket.socket.close() asks this, and nothing else does: true means that the descriptor is closed next.
        cdef bint closes = self.file_count <= other
        if closes and self.operations:
            self.socket_closes()
        return closes

    def __repr__(self):
        return str(self.file_count)

    cdef int socket_closes(self) except -1:
        cdef SocketOperation operation
        cdef LoopCore loop
        for operation in list(self.operations):
            loop = operation.loop
            if loop.ring.foreign_process():
                continue
            operation.socket_closed = True
            if loop.ops.issuer == PyThread_get_thread_ident():
                loop.submit_now()
                operation.stop_from_anywhere()
                loop.submit_now()
            else:
                operation.stop_from_anywhere()
        return 0


cdef bint is_socket(object sock) except -1:
    # Not isinstance(), which believes the __class__ of a mock.
    return type(sock) is socket_socket or issubclass(type(sock), socket_socket)


cdef int socket_option(object sock, int option) except -1:
    """The kernel's answer for what is no socket.socket: its attributes may be anything (mocks), its descriptor is what we work on."""
    cdef int value = -1
    cdef socklen_t length = sizeof(int)
    if getsockopt(sock.fileno(), SOL_SOCKET, option, &value, &length) != 0:
        raise OSError(errno, os.strerror(errno))
    return value


cdef int socket_family(object sock) except -1:
    return get_family(sock) if is_socket(sock) else socket_option(sock, SO_DOMAIN)


cdef SocketUse use_of(object sock):
    """What stands for this socket object; None for objects that only look like sockets."""
    cdef SocketUse use
    if not is_socket(sock):
        return None
    count = sock._io_refs
    if type(count) is SocketUse:
        return <SocketUse>count
    use = SocketUse.__new__(SocketUse)
    use.file_count = count
    use.family = get_family(sock)
    use.kind = get_kind(sock)
    use.operations = []
    sock._io_refs = use
    return use


cdef int transports_have(object loop, int fd) except -1:
    """Whether one of the loop's transports uses this descriptor, or did and was not forgotten yet."""
    # The dict under the WeakValueDictionary, whose own look-up is Python code: this runs for each receive and each send.
    return (<LoopCore>loop).is_of_transport(fd) or fd in loop._transports.data


cdef class SocketOperation:
    """One sock_* call. Await it once."""

    # -- the coroutine ----------------------------------------------------------------------------------------------------------------

    @property
    def __qualname__(self):
        return "Loop." + self.name()

    @property
    def __name__(self):
        return self.name()

    @property
    def cr_running(self):
        return False

    def __repr__(self):
        cdef str doing
        if self.state == NEW:
            doing = "not awaited yet"
        elif self.state == WAITING:
            doing = f"waiting on descriptor {self.fd}"
        else:
            doing = "over"
        return f"<{self.__qualname__}() {doing}>"

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.state == NEW:
            self.state = WAITING
            try:
                self.start()
            except BaseException:
                self.state = OVER
                self.over()
                raise
            if self.state == WAITING:
                self.blocking = True
                return self
        if self.state == FINISHED:
            self.state = OVER
            if self.error is not None:
                error, self.error = self.error, None
                try:
                    raise error
                finally:
                    error = None
            result, self.value = self.value, None
            raise StopIteration(result)
        if self.state == CANCELLED:
            self.state = OVER
            raise self._make_cancelled_error()
        if self.state == WAITING:
            raise RuntimeError("await wasn't used with future")
        raise RuntimeError("cannot reuse already awaited coroutine")

    def send(self, value):
        """Run until it waits or ends, as a coroutine's send()."""
        if value is not None and self.state == NEW:
            raise TypeError("can't send non-None value to a just-started coroutine")
        return self.__next__()

    def throw(self, type_or_value, value=None, traceback=None):
        """Raise the exception where the coroutine waits: the call is given up, and what arrives for it is kept for the next one."""
        if isinstance(type_or_value, BaseException):
            value = type_or_value
        elif value is None:
            value = type_or_value()
        elif not isinstance(value, BaseException):
            value = type_or_value(value)
        if traceback is not None:
            value = value.with_traceback(traceback)
        self.abandon()
        try:
            raise value
        finally:
            value = type_or_value = None

    def close(self):
        """Give the call up. Nothing is raised."""
        self.abandon()

    cdef int abandon(self) except -1:
        if self.state == WAITING:
            self.state = ABANDONED
            self.callback = self.context = self.more_callbacks = None
            self.stop_from_anywhere()
            if self.idle():
                self.over()
        elif self.state == FINISHED:
            # The task was cancelled between the result and its wake-up.
            self.state = OVER
            result, self.value = self.value, None
            if self.error is None:
                self.keep(result)
            self.error = None
        elif self.state != ABANDONED:
            self.state = OVER
        return 0

    # -- the future -------------------------------------------------------------------------------------------------------------------

    @property
    def _asyncio_future_blocking(self):
        # None while it is only a coroutine: asyncio.ensure_future() and wait_for() must make a task of it and not wait for it as it is.
        if self.state == NEW or self.state == OVER:
            return None
        return self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint value):
        self.blocking = value

    @property
    def _loop(self):
        return self.loop

    def get_loop(self):
        """The loop that the call belongs to."""
        return self.loop

    def done(self):
        """Whether the call has ended."""
        return self.state == FINISHED or self.state == CANCELLED or self.state == OVER

    def cancelled(self):
        """Whether the call was cancelled."""
        return self.state == CANCELLED

    def result(self):
        """The result, or the exception that the call ended with."""
        if self.state == FINISHED:
            if self.error is not None:
                raise self.error
            return self.value
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        raise InvalidStateError("Result is not set.")

    def exception(self):
        """The exception that the call ended with, or None."""
        if self.state == FINISHED:
            return self.error
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        raise InvalidStateError("Exception is not set.")

    def _make_cancelled_error(self):
        return CancelledError() if self.cancel_message is None else CancelledError(self.cancel_message)

    def add_done_callback(self, callback, *, context=None):
        """Call `callback(self)` by call_soon when the call ends."""
        if self.state != WAITING:
            self.loop.add_ready(callback, (self,), context)
        elif self.callback is None:
            self.callback = callback
            self.context = context
        else:
            if self.more_callbacks is None:
                self.more_callbacks = []
            self.more_callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        """Take back add_done_callback(). Returns how many were removed."""
        cdef list kept
        cdef Py_ssize_t count = 0
        if self.callback is not None and self.callback == callback:
            self.callback = self.context = None
            count = 1
        if self.more_callbacks:
            kept = [pair for pair in self.more_callbacks if pair[0] != callback]
            count += len(self.more_callbacks) - len(kept)
            self.more_callbacks = kept
        return count

    def cancel(self, msg=None):
        """Ask for the end of the call; the waiting task gets CancelledError with the request's last CQE. False: it was over already.

        What a receive or an accept has brought and nobody has taken stays with the socket.
        """
        if self.state == FINISHED:
            # The result was not taken yet. If it can be kept for the next call it is, and if not, asyncio's rule holds: too late.
            if not (self.keep(self.value) if self.error is None else self.keep_error(self.error)):
                return False
            self.value = self.error = None
            self.cancel_message = msg
            self.state = CANCELLED
            return True
        if self.state != WAITING:
            return False
        self.cancel_message = msg
        if not self.cancel_requested:
            self.stop_from_anywhere()
            self.cancel_requested = True
            if self.idle():
                self.finish_cancelled()
        return True

    cdef int wake(self) except -1:
        callback, context, more = self.callback, self.context, self.more_callbacks
        self.callback = self.context = self.more_callbacks = None
        if callback is not None:
            self.loop.add_ready(callback, (self,), context)
        if more is not None:
            for callback, context in more:
                self.loop.add_ready(callback, (self,), context)
        return 0

    # -- the request ------------------------------------------------------------------------------------------------------------------

    cdef int attach(self) except -1:
        """The checks that every call makes of its socket, in asyncio's order."""
        cdef LoopCore loop = self.loop
        cdef SocketOperation other
        sock = self.sock
        if type(sock) is not socket_socket:
            check_ssl_socket(sock)
        if loop._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        loop.check_open()
        self.fd = sock.fileno()
        if self.fd < 0:
            raise OSError(EBADF, os.strerror(EBADF))
        if transports_have(loop, self.fd):
            loop._ensure_fd_no_transport(self.fd)
        self.use = use_of(sock)
        if self.use is not None:
            if self.use.operations and (<SocketOperation>self.use.operations[0]).loop is not loop:
                # A loop that was closed while calls waited never ended them: forget them, and with them that loop.
                self.use.operations = [other for other in self.use.operations if not other.loop._closed]
            self.use.operations.append(self)
        return 0

    cdef int family(self) except -1:
        return self.use.family if self.use is not None else socket_option(self.sock, SO_DOMAIN)

    cdef int kind(self) except -1:
        return self.use.kind if self.use is not None else socket_option(self.sock, SO_TYPE)

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef SocketOperation self = <SocketOperation>owner
        self.request = 0
        try:
            if res == -ECANCELED or res == -EINTR:
                self.again()
            else:
                self.arrived(res, cqe_flags)
        except BaseException as exc:
            if self.state == WAITING or self.state == ABANDONED:
                self.fail(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
        return 0

    cdef int again(self) except -1:
        """Begin the next request, if the call is still wanted. Also what an unasked -ECANCELED asks for: the ring was replaced."""
        if self.state == ABANDONED:
            return self.over()
        if self.cancel_requested:
            return self.finish_cancelled()
        if self.socket_closed:
            # As in asyncio: the call waits until it is cancelled, and its task stays alive although nothing will wake it.
            self.loop.__dict__.setdefault("_stranded_sock_calls", set()).add(self)
            return 0
        return self.submit()

    cdef int finish(self, object result) except -1:
        if self.state == ABANDONED:
            self.keep(result)
            return self.over()
        if self.cancel_requested:
            self.keep(result)
            return self.finish_cancelled()
        self.value = result
        self.state = FINISHED
        self.over()
        return self.wake()

    cdef int fail(self, object error) except -1:
        if self.state == ABANDONED:
            self.keep_error(error)
            return self.over()
        if self.cancel_requested:
            self.keep_error(error)
            return self.finish_cancelled()
        self.error = error
        self.state = FINISHED
        self.over()
        return self.wake()

    cdef int fail_errno(self, int error) except -1:
        return self.fail(OSError(error, os.strerror(error)))

    cdef int finish_cancelled(self) except -1:
        self.state = CANCELLED
        self.over()
        return self.wake()

    cdef int over(self) except -1:
        """The last CQE came: nothing of this call is in the kernel's hands."""
        if self.state == ABANDONED:
            self.state = OVER
        cdef list operations
        cdef Py_ssize_t i
        if self.socket_closed:
            self.loop.__dict__.get("_stranded_sock_calls", set()).discard(self)
        if self.use is not None:
            operations = self.use.operations
            for i in range(len(operations)):
                if operations[i] is self:
                    del operations[i]
                    break
        self.sock = None
        self.release()
        return 0

    cdef int stop_from_anywhere(self) except -1:
        """stop() for cancel() and close(), which the garbage collector and other threads also call."""
        cdef LoopCore loop = self.loop
        if loop._closed or loop.ring.foreign_process() or self.idle():
            return 0                    # a closed loop has ended the request, and told nobody
        if loop.ops.issuer != 0 and loop.ops.issuer != PyThread_get_thread_ident():
            loop.call_soon_threadsafe(self._stop)
            return 0
        return self.stop()

    def _stop(self):
        self.stop()

    # -- what the kinds of operation replace ----------------------------------------------------------------------------------------------

    cdef str name(self):
        raise NotImplementedError

    cdef int start(self) except -1:
        raise NotImplementedError

    cdef int submit(self) except -1:
        raise NotImplementedError

    cdef int arrived(self, int32_t res, uint32_t cqe_flags) except -1:
        raise NotImplementedError

    cdef bint keep(self, object result) except -1:
        return False

    cdef bint keep_error(self, object error) except -1:
        return False

    cdef int stop(self) except -1:
        return self.loop.ops.cancel(self.request)

    cdef bint idle(self) noexcept:
        return self.request == 0

    cdef void release(self) noexcept:
        pass

    def __dealloc__(self):
        cdef PyObject *exc_type
        cdef PyObject *exc_value
        cdef PyObject *exc_traceback
        if self.state == NEW:
            PyErr_Fetch(&exc_type, &exc_value, &exc_traceback)
            try:
                PyErr_WarnEx(RuntimeWarning, f"coroutine 'Loop.{self.name()}' was never awaited".encode(), 1)
            except BaseException:
                PyErr_WriteUnraisable(None)
            PyErr_Restore(exc_type, exc_value, exc_traceback)
