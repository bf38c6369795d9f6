"""The receiving half of stream socket transports: TCP and unix.

Used by `_stream`, whose core inherits from StreamReceiver. Calls `_stream_socket`, `_transport`, `_loop`, `_op`, `_prep`, `_ring`,
`_frames`, `_respond`, `_watch`.

Small data: one multishot RECV with provided buffers stays armed; each CQE's bytes are copied once, exactly sized, handed to the protocol,
and the buffer goes back to the kernel in the same turn. pause_reading() cancels it at the end of the turn; what was already on its way
waits in `backlog`. ENOBUFS re-arms at the next flush, in the order in which sockets ran dry.

Large data: a peer that fills the small buffers several times in a row is received from by single RECVs, straight into the bytes object that
the protocol gets. (A BufferedProtocol gets a copy: other callbacks run while a request is in flight, and between get_buffer() and
buffer_updated() the program may move what it has in its buffer.) A few connections may wait in such a RECV; the others wait with a poll
request, and the loop starts only some RECVs in a turn: what a turn moves then stays in the processor's cache until it is sent again, and
idle connections hold no memory. Many small receives in a row lead back to the multishot.

Frames: `framer` cuts what comes, and the protocol gets whole frames once all that the kernel gave of this connection is cut. Where a loop hook runs
its program looks into the receives too (`watch`), in buffers of their own, so that Python need not wake for less than a batch.

Canned answers: requests that have one are answered by that program, or here where it leaves them to Python. From the first request on that has none,
or the first write, the connection is the protocol's, until it says that it has answered everything (resume_answers).

Who owns what: while a request is in flight its slot holds the core, and the core holds `bulk_target`, where a large receive goes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy

from aiouring._frames cimport Framer
from aiouring._loop cimport STREAM_BUFFER_BYTES
from aiouring._op cimport os_error
from aiouring._prep cimport prep_poll_add, prep_recv, prep_recv_multishot
from aiouring._respond cimport Answers
from aiouring._ring cimport BufferRing
from aiouring._stream_socket cimport StreamSocket
from aiouring._transport cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from aiouring._watch cimport Watch
from aiouring.uapi cimport *

import asyncio
import sys
from asyncio.log import logger

cdef extern from "aiouring_call.h":
    int aiouring_call_method(object context, object callee, object name, object argument) noexcept
    int aiouring_raise_pending() except -1

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLERR
        POLLHUP
        POLLRDHUP

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT

cdef extern from "Python.h":
    bint PyMethod_Check(object method) noexcept
    PyObject *PyMethod_GET_FUNCTION(object method) noexcept
    int PyBytes_Resize "_PyBytes_Resize"(PyObject **data, Py_ssize_t length) except -1
    int PyByteArray_Resize(object array, Py_ssize_t length) except -1
    char *PyByteArray_AS_STRING(object array)
    Py_ssize_t PyByteArray_GET_SIZE(object array)

cdef enum:
    BULK_BYTES = 256 * 1024             # what asyncio and uvloop read at once
    BULK_WAITERS = 8                    # connections that may hold memory while they wait for large data
    BULK_ENTER_VOTES = 3                # full buffers in a row, with more behind them
    BULK_LEAVE_VOTES = 32               # small receives in a row
    BULK_LEAVE_BYTES = 8192
    MALLOC_HINT_FROM_BYTES = 4096
    MALLOC_HINT_BYTES = 2 * 1024 * 1024
    TAG_RECV = 1
    TAG_READABLE = 2
    TAG_BULK = 3

cdef enum:
    # How a protocol takes its data.
    PLAIN                               # data_received()
    BUFFERED                            # get_buffer(), buffer_updated()
    ASYNCIO_READER                      # asyncio's own StreamReaderProtocol: straight into its StreamReader
    DIRECT                              # one of ours
    FRAMED                              # frames_received() for each batch, or data_received() for each frame

cdef str DATA_RECEIVED = "data_received"
cdef str FRAMES_RECEIVED = "frames_received"
cdef object StreamReader = asyncio.StreamReader
cdef object StreamReaderProtocol = asyncio.StreamReaderProtocol
# What feed_reader() does in place of. Whoever replaced one of them (or a Python that this was not read in) gets the call.
cdef object ASYNCIO_DATA_RECEIVED = StreamReaderProtocol.data_received
cdef object ASYNCIO_FEED_DATA = StreamReader.feed_data
cdef bint ASYNCIO_IS_KNOWN = sys.version_info < (3, 14)
cdef bint malloc_knows = False


cdef int tell_malloc() except -1:
    """Once a process: say that large blocks come and go here.

    By default glibc gives the top of its heap back to the kernel when 128 KiB of it are free, which with many connections is in every turn,
    and each page of what is received next costs a fault. The free() of a block that was mapped raises that limit to twice the block's
    size (M_MMAP_THRESHOLD in mallopt(3) describes the rule); other allocators take no notice.
    """
    global malloc_knows
    malloc_knows = True
    PyMem_RawFree(PyMem_RawMalloc(MALLOC_HINT_BYTES))
    return 0


cdef inline bint is_method(object method, object function) noexcept:
    return PyMethod_Check(method) and PyMethod_GET_FUNCTION(method) == <PyObject *>function


cdef class DirectProtocol:
    cdef int receive(self, const char *data, Py_ssize_t length) except -1:
        raise NotImplementedError

    cdef int receive_bytes(self, bytes data) except -1:
        return self.receive(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class StreamReceiver(StreamSocket):

    cdef int specialise(self, object receiving, object protocol) except -1:
        """To be called first of all: the protocol gets frames (for a framing), or only requests without a canned answer (for Answers)."""
        if isinstance(receiving, Answers):
            self.answers = receiving
        else:
            self.framer = Framer(receiving)
            self.check_frame_protocol(protocol)
        self.watch = Watch()
        return 0

    cdef int check_frame_protocol(self, object protocol) except -1:
        if isinstance(protocol, DirectProtocol) or not (hasattr(protocol, FRAMES_RECEIVED) or hasattr(protocol, DATA_RECEIVED)):
            raise TypeError("a connection with frames= needs a protocol with frames_received() or data_received(), which TLS and "
                            f"aiouring's streams are not; got {protocol!r}")
        return 0

    cdef int set_protocol(self, object protocol) except -1:
        if self.framer is not None:
            self.check_frame_protocol(protocol)
            self.framer.whole_batches = hasattr(protocol, FRAMES_RECEIVED)
            self.protocol = protocol
            self.taker = FRAMED
            return 0
        self.protocol = protocol
        # By class as in asyncio; a protocol that has only the buffered interface is taken by it, as uvloop does.
        if isinstance(protocol, DirectProtocol):
            self.taker = DIRECT
        elif isinstance(protocol, asyncio.BufferedProtocol) or (
                hasattr(protocol, "get_buffer") and not hasattr(protocol, "data_received")):
            self.taker = BUFFERED
        elif ASYNCIO_IS_KNOWN and type(protocol) is StreamReaderProtocol:
            self.taker = ASYNCIO_READER
        else:
            self.taker = PLAIN
        return 0

    cdef bint receiving(self) noexcept:
        return self.recv_request != 0

    cdef int finish_now(self) except -1:
        raise NotImplementedError

    # -- requests ---------------------------------------------------------------------------------------------------------------------

    cdef bint wants_data(self) noexcept:
        # Not while a backlog waits: a reader that pauses again and again would let it grow without bound.
        return (self.reading and not self.paused and self.backlog is None and not self.closing and not self.lost
                and not self.eof_received)

    def start(self):
        if not self.closing and not self.lost:
            self.reading = True
            self.loop.schedule_flush(self)

    cdef int queue_receive(self) except -1:
        """Part of the flush: have the receive in flight that is wanted, and no other."""
        if self.recv_request == 0:
            if self.wants_data():
                self.arm_recv()
        elif not self.recv_cancelled and (self.bulk == self.multishot or not self.wants_data()
                                          or self.watch is not None and self.watch.outdated()):
            self.recv_cancelled = True
            self.loop.ops.cancel(self.recv_request)
        return 0

    cdef int arm_recv(self) except -1:
        cdef io_uring_sqe *sqe
        cdef bint watched = False
        self.recv_cancelled = False
        if self.watch is not None:
            watched = self.watch_next()
            self.bulk = self.bulk and not watched
        if self.bulk:
            return self.wait_readable()
        self.recv_buffers = self.loop.watch_buffers if watched else self.loop.get_stream_buffers()
        sqe = self.loop.ops.begin(self, StreamReceiver.recv_complete, TAG_RECV)
        prep_recv_multishot(sqe, self.fd, self.recv_buffers.group)
        self.recv_request = sqe.user_data
        self.multishot = True
        if watched:
            self.watch.begin(self.recv_request)
        return 0

    cdef bint watch_next(self) except -1:
        """Whether the hook's program will look into the receive that is about to be armed; it knows all about it then."""
        if not self.watch.prepare(self.loop) or self.answers is not None and not self.answers.place(self.watch.region):
            return False
        if self.framer is not None:
            self.framer.describe(self.watch.slot)
        else:
            self.answers.describe(self.watch.slot)
            self.watch.slot.fd = self.fd
            self.watch.slot.of_python = self.of_python
            self.watch.slot.busy = self.unsent_bytes != 0
        return True

    @staticmethod
    cdef int recv_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef StreamReceiver self = <StreamReceiver>owner
        cdef bint was_lost = self.lost
        if not cqe_flags & IORING_CQE_F_MORE:
            self.recv_request = 0
        if self.watch is not None:
            self.watch.delivered(self.recv_request == 0)
            if self.answers is not None and not self.lost:
                self.take_rest()
        try:
            if cqe_flags & IORING_CQE_F_BUFFER:
                self.received(cqe_flags, res)
            elif tag == TAG_BULK:
                self.bulk_received(res, cqe_flags)
            elif tag == TAG_READABLE and res >= 0:
                self.became_readable(res)
                res = 1
            if self.watch is not None:
                if self.recv_request != 0 and self.watch.outdated() or self.recv_request == 0 and self.watch.answering():
                    self.loop.schedule_flush(self)      # which arms the receive again, or waits for the answer's end
                if self.framer is not None:
                    self.settle_frames()
            if res <= 0:
                self.received_nothing(res)
        except MemoryError as exc:
            self.fatal_error(exc, "Fatal read error on socket transport")       # a stream must not go on with a gap
        finally:
            # Also when a callback raised KeyboardInterrupt: the loop may run again, and nobody else would go on.
            if self.recv_request == 0:
                if was_lost:
                    self.finish_now()
                elif self.lost:
                    self.finish()
                elif self.wants_data():
                    # It was a large one, the buffers ran out, the CQ overflowed, or a pause that is over cancelled it: go on.
                    self.loop.schedule_flush(self)
        return 0

    cdef int received_nothing(self, int32_t res) except -1:
        if res == -ENOBUFS or res == -ECANCELED or res == -EAGAIN or res == -EINTR:
            return 0
        self.eof_received = True
        return self.schedule_end(None if res == 0 else os_error(res))

    cdef int received(self, uint32_t cqe_flags, int32_t length) except -1:
        cdef BufferRing buffers = self.recv_buffers
        if length <= 0 or self.closing or self.lost:
            buffers.take(cqe_flags)     # as in asyncio: a transport that closes reads no more
            buffers.give_back(cqe_flags)
            return 0
        if length >= MALLOC_HINT_FROM_BYTES and not malloc_knows:
            tell_malloc()
        if length == STREAM_BUFFER_BYTES or self.size_votes:
            self.note_size(length, cqe_flags)
        if self.paused or self.backlog is not None:
            return self.keep(buffers.take_bytes(cqe_flags, length))
        if self.taker == PLAIN:
            return self.hand_over(buffers.take_bytes(cqe_flags, length))
        try:
            self.give(buffers.take(cqe_flags), length)
        finally:
            buffers.give_back(cqe_flags)
        return 0

    cdef int note_size(self, int32_t length, uint32_t cqe_flags) except -1:
        """Choose the way of receiving by what the peer sends."""
        cdef bint vote
        if self.bulk:
            vote = length <= BULK_LEAVE_BYTES
        else:
            # Messages of just this size fill a buffer as well, but leave nothing in the socket. (Unix sockets do not tell.)
            vote = length == STREAM_BUFFER_BYTES and (cqe_flags & IORING_CQE_F_SOCK_NONEMPTY or not self.is_internet)
        if not vote:
            self.size_votes = 0
            return 0
        self.size_votes += 1
        if self.size_votes < (BULK_LEAVE_VOTES if self.bulk else BULK_ENTER_VOTES):
            return 0
        self.size_votes = 0
        self.bulk = not self.bulk
        return self.loop.schedule_flush(self)

    # -- large receives ---------------------------------------------------------------------------------------------------------------

    cdef int wait_readable(self) except -1:
        cdef io_uring_sqe *sqe
        self.multishot = False
        if self.readable:
            if not self.bulk_queued:
                self.bulk_queued = True
                self.loop.queue_bulk(self)
            return 0
        if self.loop.bulk_waiters < BULK_WAITERS:
            data = PyBytes_FromStringAndSize(NULL, BULK_BYTES)
            self.arm_bulk(data, 0)
            self.bulk_waits = True
            self.loop.bulk_waiters += 1
            return 0
        sqe = self.loop.ops.begin(self, StreamReceiver.recv_complete, TAG_READABLE)
        prep_poll_add(sqe, self.fd, POLLIN | POLLRDHUP)
        self.recv_request = sqe.user_data
        return 0

    cdef int became_readable(self, int32_t events) except -1:
        self.readable = True
        if events & (POLLRDHUP | POLLHUP | POLLERR) and not self.bulk_queued:
            self.start_bulk()           # what comes is probably the end, which need not wait for its turn among the large ones
        return 0

    cdef int start_bulk(self) except -1:
        self.bulk_queued = False
        if self.recv_request != 0 or not self.bulk or not self.wants_data():
            return 0
        try:
            data = PyBytes_FromStringAndSize(NULL, BULK_BYTES)
            self.arm_bulk(data, MSG_DONTWAIT)
        except (OSError, MemoryError) as exc:
            self.fatal_error(exc, "Fatal error: the connection's requests could not be queued")     # as in flush()
        return 0

    cdef int arm_bulk(self, bytes target, uint32_t msg_flags) except -1:
        cdef io_uring_sqe *sqe = self.loop.ops.begin(self, StreamReceiver.recv_complete, TAG_BULK)
        prep_recv(sqe, self.fd, PyBytes_AS_STRING(target), BULK_BYTES, msg_flags)
        self.recv_request = sqe.user_data
        self.bulk_target = target
        return 0

    cdef int bulk_received(self, int32_t length, uint32_t cqe_flags) except -1:
        cdef PyObject *raw
        cdef object target = self.bulk_target
        cdef bytes data
        self.bulk_target = None
        if self.bulk_waits:
            self.bulk_waits = False
            self.loop.bulk_waiters -= 1
        # The kernel's word; it does not give it for all unix sockets, where a full buffer speaks for more.
        self.readable = length > 0 and (cqe_flags & IORING_CQE_F_SOCK_NONEMPTY or not self.is_internet and length >= BULK_BYTES)
        if length <= 0 or self.closing or self.lost:
            return 0
        if length <= BULK_LEAVE_BYTES or self.size_votes:
            self.note_size(length, cqe_flags)
        if self.taker != PLAIN and self.taker != DIRECT and not self.paused and self.backlog is None:
            return self.give(PyBytes_AS_STRING(target), length)         # who has a buffer of its own gets a copy
        if length <= BULK_LEAVE_BYTES:
            data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(target), length)
        else:
            # The object is ours alone, so it may be cut to what came: this function's reference is the only one.
            raw = <PyObject *>target
            Py_INCREF(target)
            target = None
            PyBytes_Resize(&raw, length)
            data = <bytes>raw
            Py_DECREF(data)
        if self.paused or self.backlog is not None:
            return self.keep(data)
        return self.hand_over(data)

    # -- to the protocol --------------------------------------------------------------------------------------------------------------

    cdef int keep(self, object item) except -1:
        if self.backlog is None:
            self.backlog = []
        self.backlog.append(item)
        return 0

    cdef int hand_over(self, bytes data) except -1:
        if self.answers is not None and self.answered(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            return 0
        if self.taker == DIRECT:
            try:
                (<DirectProtocol>self.protocol).receive_bytes(data)
            except BaseException as exc:
                self.protocol_raised(exc, "receive_bytes()")
            return 0
        if self.taker != PLAIN:
            return self.give(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if aiouring_call_method(self.context, self.protocol, DATA_RECEIVED, data) < 0:
            try:
                aiouring_raise_pending()
            except BaseException as exc:
                self.protocol_raised(exc, "data_received()")
        return 0

    cdef int give(self, const char *data, Py_ssize_t length) except -1:
        """Hand over bytes that are the caller's."""
        cdef int taker = self.taker
        if self.answers is not None and self.answered(data, length):
            return 0
        if taker == FRAMED:
            return self.framer.feed(data, length)       # settle_frames() follows
        if taker == DIRECT:
            try:
                (<DirectProtocol>self.protocol).receive(data, length)
            except BaseException as exc:
                self.protocol_raised(exc, "receive()")
            return 0
        PyContext_Enter(self.context)
        try:
            if taker == BUFFERED:
                self.fill_buffers(data, length)
            elif taker == ASYNCIO_READER:
                self.feed_reader(data, length)
            else:
                self.protocol.data_received(PyBytes_FromStringAndSize(data, length))
        except BaseException as exc:
            self.protocol_raised(exc, "buffer_updated() or get_buffer()" if taker == BUFFERED else "data_received()")
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int protocol_raised(self, object exc, str method) except -1:
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            raise exc
        return self.fatal_error(exc, f"Fatal error: protocol.{method} call failed.")

    # -- canned answers -----------------------------------------------------------------------------------------------------------------

    cdef int answer(self, int which, Py_ssize_t begin) except -1:
        raise NotImplementedError

    cdef bint answered(self, const char *data, Py_ssize_t length) except -1:
        """Answer a request that has a canned answer, if the protocol has nothing to do with this connection."""
        cdef int which
        if self.of_python:
            return False
        if self.loop.ring.foreign_process():
            self.loop.check_open()      # a callback forked: what comes is the parent's
        which = self.answers.find(data, length)
        if which < 0:
            self.give_to_python()
            return False
        self.answer(which, 0)
        return True

    cdef void give_to_python(self) noexcept:
        """From here on the order of answers is the protocol's."""
        self.of_python = True
        if self.watch.slot != NULL and not self.loop.ring.foreign_process():
            self.watch.slot.of_python = True

    cdef int take_rest(self) except -1:
        """What is left of an answer that the hook's program could not send whole."""
        cdef uint32_t rest
        cdef int32_t rest_from
        if self.watch.slot == NULL or self.loop.ring.foreign_process() or self.watch.slot.rest == 0:
            return 0
        rest, rest_from = self.watch.slot.rest - 1 - self.watch.slot.first_answer, self.watch.slot.rest_from
        self.watch.slot.rest = 0
        if rest_from < 0 and rest_from != -EAGAIN and rest_from != -EINTR and rest_from != -ECANCELED:
            return self.fatal_error(os_error(rest_from), "Fatal write error on socket transport")
        return self.answer(<int>rest, max(rest_from, 0))

    cdef int settle_frames(self) except -1:
        """Hand the frames over if all is cut that the kernel gave of this connection."""
        if not self.framer.has_news() or self.closing or self.lost or self.watch.more():
            return 0
        if self.paused:
            return self.keep(b"") if self.backlog is None else 0        # whose turn is theirs
        return self.hand_over_frames() if self.backlog is None else 0

    cdef int hand_over_frames(self) except -1:
        cdef list frames = self.framer.frames
        cdef Py_ssize_t index = 0, count = len(frames)
        self.framer.frames = []
        try:
            while index < count and not self.closing and not self.lost and not self.paused:
                if self.loop.ring.foreign_process():
                    self.loop.check_open()      # the protocol forked: what comes is the parent's
                if self.framer.whole_batches:
                    argument = frames[index:] if index else frames
                    index = count
                    self.call_with(FRAMES_RECEIVED, argument)
                else:
                    index += 1
                    self.call_with(DATA_RECEIVED, frames[index - 1])
        finally:
            if index < count and not self.closing and not self.lost:
                # It paused in the middle, or a KeyboardInterrupt came between.
                self.framer.frames = frames[index:] + self.framer.frames
                self.keep(b"")
                if not self.paused:
                    self.schedule_backlog()
        if self.framer.error is not None and not self.framer.frames and not self.closing and not self.lost:
            if self.paused:
                return self.keep(b"")
            return self.force_close(self.framer.error)
        return 0

    cdef int call_with(self, str method, object argument) except -1:
        if aiouring_call_method(self.context, self.protocol, method, argument) < 0:
            try:
                aiouring_raise_pending()
            except BaseException as exc:
                self.protocol_raised(exc, f"{method}()")
        return 0

    cdef int feed_reader(self, const char *data, Py_ssize_t length) except -1:
        """What asyncio's StreamReaderProtocol.data_received() and StreamReader.feed_data() do, without their two frames and the bytes object."""
        cdef object reader = self.protocol._stream_reader_wr
        cdef object buffer, waiter
        cdef Py_ssize_t filled
        if reader is not None:
            reader = reader()
        if reader is None:
            return 0
        buffer = reader._buffer if type(reader) is StreamReader else None
        # A program may have put something of its own in place of one of the methods since the protocol was set.
        if (type(buffer) is not bytearray or reader._eof or not is_method(self.protocol.data_received, ASYNCIO_DATA_RECEIVED)
                or not is_method(reader.feed_data, ASYNCIO_FEED_DATA)):
            self.protocol.data_received(PyBytes_FromStringAndSize(data, length))
            return 0
        filled = PyByteArray_GET_SIZE(buffer)
        PyByteArray_Resize(buffer, filled + length)
        memcpy(PyByteArray_AS_STRING(buffer) + filled, data, length)
        waiter = reader._waiter
        if waiter is not None:
            reader._waiter = None
            if not waiter.cancelled():
                waiter.set_result(None)
        # The limit is any number: sys.maxsize, a float.
        if not reader._paused and filled + length > 2 * reader._limit and reader._transport is not None:
            try:
                reader._transport.pause_reading()
            except NotImplementedError:
                reader._transport = None
            else:
                reader._paused = True
        return 0

    cdef int fill_buffers(self, const char *data, Py_ssize_t length) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t done = 0, part
        try:
            while done < length and not self.closing and not self.lost:
                if self.loop.ring.foreign_process():
                    self.loop.check_open()      # the protocol forked: the kernel's buffers are the parent's alone
                if self.paused or self.taker != BUFFERED:
                    # The protocol paused, or was replaced, in the middle of what the kernel gave us.
                    rest = PyBytes_FromStringAndSize(data + done, length - done)
                    done = length
                    if self.paused:
                        return self.keep(rest)
                    self.protocol.data_received(rest)
                    return 0
                protocol = self.protocol
                buffer = protocol.get_buffer(length - done)
                if self.protocol is not protocol:
                    continue            # it has made way for another one, which takes what comes
                PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
                part = view.len if view.len < length - done else length - done
                if part:
                    memcpy(view.buf, data + done, part)
                PyBuffer_Release(&view)
                if part == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                done += part
                protocol.buffer_updated(part)
        except (SystemExit, KeyboardInterrupt):
            # The loop may run again, and then it goes on where it was.
            if done < length:
                self.keep(PyBytes_FromStringAndSize(data + done, length - done))
                if not self.paused:
                    self.schedule_backlog()
            raise
        return 0

    # -- the end of the stream, and what waits for a paused protocol -----------------------------------------------------------------------

    cdef int schedule_end(self, object error) except -1:
        """The end of the stream, or the error that ended it, one turn after the data before it.

        A selector's loop never reports data and end of one socket in the same turn, and programs rely on it: what data_received()
        scheduled runs first. asyncio's TLS protocol loses data when the end overtakes its own resumption of reading.
        """
        self.loop.add_ready(self.deliver_end, (error,), self.loop_context())
        self.end_scheduled = True
        return 0

    def deliver_end(self, error):
        self.end_scheduled = False
        if error is None:
            self.end_of_stream()
        else:
            self.recv_failed(error)

    cdef int end_of_stream(self) except -1:
        if self.closing or self.lost:
            return 0
        if self.paused or self.backlog is not None:
            return self.keep(None)
        if self.loop._debug:
            logger.debug("%r received EOF", self.shell)
        PyContext_Enter(self.context)
        try:
            keep_open = self.protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            self.schedule_end(None)     # the loop may run again, and a selector would then report the end again
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return 0
        finally:
            PyContext_Exit(self.context)
        if not keep_open:
            self.close()
        return 0

    cdef int recv_failed(self, object error) except -1:
        if self.lost:
            return 0
        if self.paused or self.backlog is not None:
            return self.keep(error)
        return self.fatal_error(error, "Fatal read error on socket transport")

    cdef int reading_paused(self) except -1:
        return self.loop.schedule_flush(self)

    cdef int reading_resumed(self) except -1:
        if self.taken:
            self.paused = True          # what arrives is not the protocol's any more
            return 0
        self.schedule_backlog()
        return self.loop.schedule_flush(self)

    def loop_context(self):
        # replay_backlog enters the transport's context itself, for each item, so it must not run inside it.
        return PyContext_CopyCurrent()

    def replay_backlog(self):
        """Hand over what came between pause_reading() and the end of the receive, in order, as long as nobody pauses again."""
        cdef list backlog = self.backlog
        cdef Py_ssize_t index = 0
        self.backlog_scheduled = False
        self.backlog = None
        if backlog is None:
            return
        try:
            while index < len(backlog) and not self.paused and not self.closing and not self.lost:
                item = backlog[index]
                index += 1
                if isinstance(item, bytes):
                    self.hand_over(item)
                    if self.framer is not None:
                        self.settle_frames()
                else:
                    self.schedule_end(item)
        finally:
            if index < len(backlog) and not self.closing and not self.lost:
                self.backlog = (self.backlog or []) + backlog[index:]
                if not self.paused:
                    self.schedule_backlog()     # a KeyboardInterrupt came between
            self.loop.schedule_flush(self)      # an empty backlog lets the receive go on

    cdef int schedule_backlog(self) except -1:
        if self.backlog is not None and not self.backlog_scheduled:
            self.backlog_scheduled = True
            self.loop.add_ready(self.replay_backlog, (), self.loop_context())
        return 0
