"""The native half of StreamReader: the buffer, what waits for it, and the protocol that fills it.

Used by `streams`, whose classes give it asyncio's types, and by `_writer`. Calls `_awaitable`, `_loop`, `_stream_receive`.

read() and its relatives return a ReadOperation, which is three things in one object:
- the coroutine that the caller awaits (it does nothing before). If what it wants is in the buffer it ends in the same step, without a frame;
- the future that its task waits for otherwise. asyncio's tasks take any object that has a future's methods;
- the note of what is wanted, so that the task is woken only when its call can end.

A receive that comes while read(n) waits and the buffer is empty becomes the result itself, made once from the kernel's buffer. Until the task
runs, which is in the next turn, these bytes count as part of the buffer: whatever looks at it, a cancellation or a second receive puts them
back first (`put_back`). So nothing is lost and nobody sees the difference.

Who owns what: the protocol refers to its reader weakly, as in asyncio, so that a stream that nobody holds ends. Reader and operation hold
each other while the operation waits.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from libc.string cimport memchr, memcpy, memmove

from aiouring._awaitable cimport (
    AIOURING_NEXT,
    AIOURING_RETURN,
    CANCELLED,
    FINISHED,
    NEW,
    OVER,
    WAITING,
    AwaitableFuture,
    awaitable_state,
    warn_never_awaited,
)
from aiouring._loop cimport LoopCore
from aiouring._stream_receive cimport DirectProtocol

from asyncio import IncompleteReadError, InvalidStateError, LimitOverrunError

cdef extern from "Python.h":
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject *overflow) except? -1
    Py_ssize_t PY_SSIZE_T_MAX
    Py_ssize_t Py_REFCNT(PyObject *value)
    int PyByteArray_Resize(object array, Py_ssize_t length) except -1
    char *PyByteArray_AS_STRING(object array)
    Py_ssize_t PyByteArray_GET_SIZE(object array)
    int PySequence_DelSlice(object sequence, Py_ssize_t start, Py_ssize_t end) except -1

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t haystack_length, const void *needle, size_t needle_length)

cdef enum:
    # What is asked for.
    READ                                # up to so many bytes
    READ_ALL
    EXACTLY
    UNTIL
    LINE
    NEXT                                # a line of `async for`
    MORE                                # that something came: asyncio's _wait_for_data()

cdef tuple NAMES = ("read", "read", "readexactly", "readuntil", "readline", "__anext__", "_wait_for_data")
# asyncio's readline() waits inside its readuntil(), and errors name that.
cdef tuple WAITING_NAMES = ("read", "read", "readexactly", "readuntil", "readuntil", "readuntil", "read")
cdef tuple NEWLINE = (b"\n",)


@cython.final
cdef class ReadOperation(AwaitableFuture):
    """One call of a reader's read methods. Await it once."""

    def __repr__(self):
        cdef str doing = "not awaited yet" if self.state == NEW else "over" if self.state == OVER else "waiting"
        return f"<{self.name()}() {doing}>"

    cdef str name(self):
        return "StreamReader." + NAMES[self.kind]

    def __dealloc__(self):
        if self.state == NEW:
            warn_never_awaited("StreamReader." + NAMES[self.kind])

    # -- the coroutine ----------------------------------------------------------------------------------------------------------------

    cdef int step(self, object value, PyObject **result) except -1:
        cdef bytes answer
        cdef awaitable_state state = self.state
        if state == FINISHED and self.value is not None:
            answer, self.value = self.value, None
            self.reader.direct = None
        elif state == NEW or state == FINISHED:
            self.state = OVER           # also if it raises
            answer = self.first_attempt() if state == NEW else self.next_attempt()
            if answer is None:
                self.wait()
                Py_INCREF(self)
                result[0] = <PyObject *>self
                return AIOURING_NEXT
        elif state == CANCELLED:
            self.state = OVER
            raise self._make_cancelled_error()
        elif state == WAITING:
            raise RuntimeError("await wasn't used with future")
        else:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.state = OVER
        self.reader.spare = self
        self.reader = None
        if self.kind == NEXT and not answer:
            raise StopAsyncIteration
        if self.kind == MORE:
            Py_INCREF(None)
            result[0] = <PyObject *>None
            return AIOURING_RETURN
        Py_INCREF(answer)
        result[0] = <PyObject *>answer
        return AIOURING_RETURN

    cdef int give_up(self) except -1:
        """Its task gives the call up. What it was woken with goes back to the reader."""
        cdef ReaderCore reader = self.reader
        if reader is not None:
            if reader.waiter is self:
                reader.waiter = None
            if reader.direct is self:
                reader.put_back()
                reader.pause_if_high()
        self.state = OVER
        self.reader = self.callback = self.context = self.more_callbacks = self.error = None
        return 0

    # -- the future -------------------------------------------------------------------------------------------------------------------

    cdef object event_loop(self):
        return None if self.reader is None else self.reader.event_loop

    cdef int schedule(self, object callback, tuple args, object context) except -1:
        if self.reader is None:
            raise InvalidStateError("The call is over.")
        if self.reader.loop is not None:
            self.reader.loop.add_ready(callback, args, context)
        else:
            self.reader.event_loop.call_soon(callback, *args, context=context)
        return 0

    def cancel(self, msg=None):
        """End the wait; its task gets CancelledError. False: it has ended already."""
        if self.state != WAITING:
            return False
        self.cancel_message = msg
        if self.reader.waiter is self:
            self.reader.waiter = None
        self.wake(CANCELLED)
        return True

    # -- the reading ------------------------------------------------------------------------------------------------------------------

    cdef bytes first_attempt(self):
        """The result, or None: it has to wait. What the task finds wrong at once, in asyncio's order."""
        cdef ReaderCore reader = self.reader
        if reader.direct is not None:
            reader.put_back()
        if self.kind == MORE:
            return None
        if self.kind == EXACTLY and self.size < 0:
            raise ValueError("readexactly size can not be less than zero")
        if self.kind == UNTIL:
            self.check_separators()
        if reader._exception is not None:
            raise reader._exception
        if self.size == 0:
            return b""
        return self.attempt()

    cdef bytes next_attempt(self):
        cdef bytes answer
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.kind == MORE:
            return b""
        if self.reader.direct is not None:
            self.reader.put_back()
        answer = self.attempt()
        if answer is None and self.reader._exception is not None:
            raise self.reader._exception        # it came after the data that woke this call, and nothing will follow
        return answer

    cdef bytes attempt(self):
        cdef ReaderCore reader = self.reader
        cdef Py_ssize_t filled = PyByteArray_GET_SIZE(reader.buffer)
        cdef bytes answer
        if self.kind == READ:
            if filled == 0 and not reader._eof:
                return None
            answer = reader.take_out(self.size if self.size < filled else filled)
        elif self.kind == EXACTLY:
            if filled < self.size:
                if not reader._eof:
                    return None
                raise IncompleteReadError(reader.take_out(filled), self.argument)
            answer = reader.take_out(self.size)
        elif self.kind == READ_ALL:
            if not reader._eof:
                return None
            answer = reader.take_out(filled)
        else:
            return self.take_until() if self.kind == UNTIL else self.take_line()
        reader.resume_if_low()
        return answer

    cdef bytes take_line(self):
        """readuntil(), with readline's way of ending."""
        cdef ReaderCore reader = self.reader
        cdef Py_ssize_t consumed
        try:
            return self.take_until()
        except IncompleteReadError as exc:
            return exc.partial
        except LimitOverrunError as exc:
            consumed = exc.consumed
            if consumed < PyByteArray_GET_SIZE(reader.buffer) and PyByteArray_AS_STRING(reader.buffer)[consumed] == b"\n":
                PySequence_DelSlice(reader.buffer, 0, consumed + 1)
            else:
                reader.buffer.clear()
            reader.resume_if_low()
            raise ValueError(exc.args[0])

    cdef bytes take_until(self):
        cdef ReaderCore reader = self.reader
        cdef Py_ssize_t start, end
        cdef bytes answer
        if self.find(&start, &end):
            if start > reader.limit_bytes:
                raise LimitOverrunError("Separator is found, but chunk is longer than limit", start)
            answer = reader.take_out(end)
            reader.resume_if_low()
            return answer
        if self.offset > reader.limit_bytes:
            raise LimitOverrunError("Separator is not found, and chunk exceed the limit", self.offset)
        if reader._eof:
            raise IncompleteReadError(reader.take_out(PyByteArray_GET_SIZE(reader.buffer)), None)
        return None

    cdef int find(self, Py_ssize_t *start, Py_ssize_t *end) except -1:
        """Whether a separator is in the buffer, and where the one that ends first is. Else `offset` moves on."""
        cdef object buffer = self.reader.buffer
        cdef char *memory = PyByteArray_AS_STRING(buffer)
        cdef Py_ssize_t filled = PyByteArray_GET_SIZE(buffer), length = 1
        cdef char *place
        cdef bytes separator
        end[0] = -1
        if self.offset > filled:
            self.offset = 0             # someone else read what was searched
        for separator in <tuple>self.argument:
            length = PyBytes_GET_SIZE(separator)
            if filled - self.offset < length:
                continue
            if length == 1:
                place = <char *>memchr(memory + self.offset, PyBytes_AS_STRING(separator)[0], filled - self.offset)
            else:
                place = <char *>memmem(memory + self.offset, filled - self.offset, PyBytes_AS_STRING(separator), length)
            if place != NULL and (end[0] < 0 or place - memory + length < end[0]):
                start[0] = place - memory
                end[0] = start[0] + length
        if end[0] >= 0:
            return True
        # The longest stands last; all but one of its bytes may be there already.
        if filled - self.offset >= PyBytes_GET_SIZE(<bytes>(<tuple>self.argument)[0]) and filled + 1 > length:
            self.offset = max(self.offset, filled + 1 - length)
        return False

    cdef int check_separators(self) except -1:
        separators = self.argument
        if isinstance(separators, tuple):
            separators = sorted(separators, key=len)
        else:
            separators = [separators]
        if not separators:
            raise ValueError("Separator should contain at least one element")
        if len(separators[0]) == 0:
            raise ValueError("Separator should be at least one-byte string")
        for separator in separators:
            if not isinstance(separator, (bytes, bytearray, memoryview)):
                raise TypeError(f"argument should be integer or bytes-like object, not {type(separator).__name__!r}")
        self.argument = tuple([bytes(separator) for separator in separators])
        return 0

    cdef bint enough(self) except -1:
        """Whether the call can end, now that more is in the buffer: its task need not run before."""
        cdef Py_ssize_t start, end
        if self.kind == EXACTLY:
            return PyByteArray_GET_SIZE(self.reader.buffer) >= self.size
        if self.kind == READ_ALL:
            return False
        if self.kind == READ or self.kind == MORE:
            return True
        return self.find(&start, &end) or self.offset > self.reader.limit_bytes

    cdef int wait(self) except -1:
        cdef ReaderCore reader = self.reader
        if reader.waiter is not None:
            raise RuntimeError(f"{WAITING_NAMES[self.kind]}() called while another coroutine is already waiting for incoming data")
        assert not reader._eof, "_wait_for_data after EOF"
        if reader._paused:
            # Waiting while paused would wait for ever.
            reader._paused = False
            reader._transport.resume_reading()
        reader.waiter = self
        self.state = WAITING
        self.blocking = True
        return 0


cdef ReadOperation new_operation(ReaderCore reader, int kind, Py_ssize_t size, object argument):
    cdef ReadOperation operation
    if reader.spare is not None and Py_REFCNT(<PyObject *>reader.spare) == 1:
        # Nobody has the one that ended last any more: it serves again, without allocator and garbage collector.
        operation, reader.spare = reader.spare, None
        operation.state = NEW
    else:
        operation = ReadOperation.__new__(ReadOperation)
    operation.reader = reader
    operation.kind = kind
    operation.size = size
    operation.offset = 0
    operation.argument = argument
    return operation


cdef class ReaderCore:
    """The native side of a StreamReader."""

    def __cinit__(self):
        self.buffer = bytearray()
        self.limit_bytes = 65536

    # -- what asyncio.StreamReader's own code reads and writes ------------------------------------------------------------------------------

    @property
    def _loop(self):
        return self.event_loop

    @_loop.setter
    def _loop(self, loop):
        self.event_loop = loop
        self.loop = <LoopCore>loop if isinstance(loop, LoopCore) else None

    @property
    def _limit(self):
        return self.limit_object

    @_limit.setter
    def _limit(self, limit):
        # Programs switch the limit off with float("inf").
        self.limit_bytes = PY_SSIZE_T_MAX if limit >= PY_SSIZE_T_MAX else <Py_ssize_t>int(limit)
        self.limit_object = limit

    @property
    def _buffer(self):
        if self.direct is not None:
            self.put_back()
        return self.buffer

    @_buffer.setter
    def _buffer(self, bytearray value not None):
        if self.direct is not None:
            self.put_back()
        self.buffer = value

    @property
    def _waiter(self):
        return self.waiter

    @_waiter.setter
    def _waiter(self, ReadOperation value):
        self.waiter = value

    def _wakeup_waiter(self):
        self.wake_waiter(None)

    def _maybe_resume_transport(self):
        self.resume_if_low()

    def _wait_for_data(self, func_name):
        return new_operation(self, MORE, 1, None)

    # -- reading ----------------------------------------------------------------------------------------------------------------------

    def read(self, n=-1):
        """Up to `n` bytes, as soon as there are any; all up to the end of the stream with -1; b"" at the end.

        To be awaited, like every read method here. One call at a time may wait: another gets RuntimeError. A call that is cancelled leaves
        what it has not returned for the next one.
        """
        cdef Py_ssize_t size = PyNumber_AsSsize_t(n, NULL)
        return new_operation(self, READ if size >= 0 else READ_ALL, size, None)

    def readexactly(self, n):
        """Just `n` bytes. IncompleteReadError, with what there was, if the stream ends before; ValueError if n < 0."""
        return new_operation(self, EXACTLY, PyNumber_AsSsize_t(n, NULL), n)

    def readuntil(self, separator=b"\n"):
        """Everything up to and with `separator`, or the first to end of a tuple of separators.

        IncompleteReadError if the stream ends before. LimitOverrunError if there are more bytes than the limit before the separator: they
        stay in the buffer.
        """
        return new_operation(self, UNTIL, -1, separator)

    def readline(self):
        """One line with its newline; what there is at the end of the stream. ValueError for a line longer than the limit."""
        return new_operation(self, LINE, -1, NEWLINE)

    def __aiter__(self):
        return self

    def __anext__(self):
        return new_operation(self, NEXT, -1, NEWLINE)

    def at_eof(self):
        """Whether the stream has ended and all of it was read."""
        return self._eof and self.direct is None and not self.buffer

    def exception(self):
        """What set_exception() was called with, or None."""
        return self._exception

    # -- feeding ----------------------------------------------------------------------------------------------------------------------

    def set_exception(self, exc):
        """Every read fails with it from now on, the one that waits too."""
        self._exception = exc
        self.wake_waiter(exc)

    def feed_eof(self):
        """No more data will come."""
        self._eof = True
        self.wake_waiter(None)

    def feed_data(self, data):
        """Add bytes to what can be read; pauses the transport above twice the limit."""
        assert not self._eof, "feed_data after feed_eof"
        if not data:
            return
        if PyBytes_CheckExact(data):
            self.take_in(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
            return
        chunk = bytearray()
        chunk.extend(data)
        self.take_in(PyByteArray_AS_STRING(chunk), PyByteArray_GET_SIZE(chunk), None)

    cdef int take_in(self, const char *data, Py_ssize_t length, object whole) except -1:
        """`whole` is the bytes object that `data` is all of, or None."""
        cdef ReadOperation waiter = self.waiter
        if waiter is None:
            if self.direct is not None:
                self.put_back()
            self.append(data, length)
            return self.pause_if_high()
        if waiter.kind == READ and length <= waiter.size and not PyByteArray_GET_SIZE(self.buffer):
            waiter.value = PyBytes_FromStringAndSize(data, length) if whole is None else whole
            self.waiter = None
            self.direct = waiter
            return waiter.wake(FINISHED)
        self.append(data, length)
        if not waiter.enough():
            return 0                    # a task that would run now would only wait again, and resume what we had paused
        self.waiter = None
        waiter.wake(FINISHED)
        return self.pause_if_high()

    cdef int append(self, const char *data, Py_ssize_t length) except -1:
        cdef Py_ssize_t filled = PyByteArray_GET_SIZE(self.buffer)
        PyByteArray_Resize(self.buffer, filled + length)
        memcpy(PyByteArray_AS_STRING(self.buffer) + filled, data, length)
        return 0

    cdef int put_back(self) except -1:
        """What was meant for an operation that has not run yet is part of the buffer again; that operation will look there."""
        cdef ReadOperation operation = self.direct
        cdef bytes data = operation.value
        cdef Py_ssize_t filled = PyByteArray_GET_SIZE(self.buffer), length = PyBytes_GET_SIZE(data)
        PyByteArray_Resize(self.buffer, filled + length)
        memmove(PyByteArray_AS_STRING(self.buffer) + length, PyByteArray_AS_STRING(self.buffer), filled)
        memcpy(PyByteArray_AS_STRING(self.buffer), PyBytes_AS_STRING(data), length)
        self.direct = None
        operation.value = None
        return 0

    cdef bytes take_out(self, Py_ssize_t length):
        """So many bytes from the front of the buffer."""
        cdef bytes data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.buffer), length)
        if length == PyByteArray_GET_SIZE(self.buffer):
            PyByteArray_Resize(self.buffer, 0)
        elif length:
            PySequence_DelSlice(self.buffer, 0, length)
        return data

    cdef int wake_waiter(self, object error) except -1:
        cdef ReadOperation waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            waiter.error = error
            waiter.wake(FINISHED)
        return 0

    cdef int pause_if_high(self) except -1:
        cdef Py_ssize_t filled = PyByteArray_GET_SIZE(self.buffer)
        # Not 2 * limit, which may be more than fits.
        if self._paused or filled <= self.limit_bytes or filled - self.limit_bytes <= self.limit_bytes or self._transport is None:
            return 0
        try:
            self._transport.pause_reading()
        except NotImplementedError:
            self._transport = None      # it cannot pause: then all is buffered, and it is not asked again
        else:
            self._paused = True
        return 0

    cdef int resume_if_low(self) except -1:
        if self._paused and PyByteArray_GET_SIZE(self.buffer) <= self.limit_bytes:
            self._paused = False
            self._transport.resume_reading()
        return 0


cdef class ProtocolCore(DirectProtocol):
    """The native side of the protocol between transport and reader."""

    cdef int receive(self, const char *data, Py_ssize_t length) except -1:
        return self.feed(data, length, None)

    cdef int receive_bytes(self, bytes data) except -1:
        return self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)

    cdef int feed(self, const char *data, Py_ssize_t length, bytes whole) except -1:
        cdef ReaderCore reader
        if self._stream_reader_wr is None:
            return 0
        reader = self._stream_reader_wr()
        if reader is None:
            return 0                    # nobody will ask for it
        assert not reader._eof, "feed_data after feed_eof"
        return reader.take_in(data, length, whole)

    def data_received(self, data):
        reader = self._stream_reader
        if reader is not None:
            reader.feed_data(data)
