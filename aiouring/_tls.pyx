"""TLS connections, what runs per record: decrypting into the application's protocol, encrypting into the transport below, flow control.

`tls.SSLProtocol` inherits from SSLCore and adds what runs once per connection. Calls the standard `ssl` module (its MemoryBIO and SSLObject,
so that TLS is the Python's own OpenSSL, with its settings), `_loop`, and `_stream` where that is the transport below.

Receiving: bytes go into the memory BIO straight from the transport's buffer. The headers of records are followed on the way, so that
OpenSSL is asked for data only when a whole record is there: to ask in vain costs an exception, which is dearer than a small record.

Sending: what is written in one turn is encrypted together at the end of the turn, so that small writes share a record and its cost.

Memory: OpenSSL's memory BIOs never shrink. Both ways go through them in pieces of one full record, so that a connection that once moved
much does not keep much.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

from aiouring._loop cimport Flushable, LoopCore
from aiouring._stream_receive cimport DirectProtocol
from aiouring._transport cimport PyContext_Enter, PyContext_Exit

import asyncio
import ssl
import warnings
from asyncio import constants
from asyncio.log import logger

from aiouring._stream import StreamTransport

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t length, int flags)

cdef enum:
    RECORD_BYTES_MAX = 16384                # plaintext
    RECORD_OVERHEAD_BYTES_MAX = 2048        # TLS 1.2's bound; in practice it is below 100
    RECORD_HEADER_BYTES = 5
    FEED_BYTES = 17 * 1024                  # in the BIO at once: one full record and a bit
    FEED_BYTES_MIN = 1024                   # the rest of an oversized record goes in in steps of this
    GATHER_BYTES_MAX = 64 * 1024            # more is not kept until the end of the turn

cdef enum:
    # The values of tls.State.
    HANDSHAKE = 1
    OPEN = 2
    ENDED = 3
    FLUSHING = 4

cdef enum:
    # What reading came to.
    EXHAUSTED = 1                           # nothing is left
    NOTIFIED = 2                            # the peer's close_notify came

# What SSLObject raises when it needs more from the peer; the second stands for an empty BIO in some OpenSSL versions.
cdef tuple AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)
cdef object SSLObject = ssl.SSLObject
cdef object MemoryBIO = ssl.MemoryBIO


cdef tuple water_marks(object high, object low, Py_ssize_t default_kib):
    if high is None:
        high = default_kib * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return low, high


cdef class SSLCore(DirectProtocol):
    """The native side of a TLS connection: an OpenSSL object between two memory BIOs. Made by tls.SSLProtocol alone."""

    def __init__(self, LoopCore loop not None, context, sslcontext, bint server_side, server_hostname):
        self.loop = loop
        self.context = context
        self.incoming = MemoryBIO()
        self.outgoing = MemoryBIO()
        self.sslobj = sslcontext.wrap_bio(self.incoming, self.outgoing, server_side, server_hostname)
        # A context may have an SSLObject of its own, with methods that are to be called.
        self.ssl = getattr(self.sslobj, "_sslobj", self.sslobj) if type(self.sslobj) is SSLObject else self.sslobj
        self.read_low_water_bytes, self.read_high_water_bytes = water_marks(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.write_low_water_bytes, self.write_high_water_bytes = water_marks(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)

    def set_app_protocol(self, protocol):
        self.app_protocol = protocol
        # By class as in asyncio; a protocol that has only the buffered interface is taken by it, as StreamTransport does.
        self.app_buffered = isinstance(protocol, asyncio.BufferedProtocol) or (
            hasattr(protocol, "get_buffer") and not hasattr(protocol, "data_received"))

    def set_transport(self, transport):
        self.transport = transport
        self.lower = transport._core if type(transport) is StreamTransport else None

    def drop(self):
        """The connection is lost: the ways back are cut, so that all is freed without the garbage collector."""
        self.backlog = self.sealed = None
        self.backlog_bytes = self.backlog_offset = self.sealed_bytes = 0
        self.outgoing.read()
        self.transport = self.lower = self.app_transport = self.app_protocol = None

    # -- receiving --------------------------------------------------------------------------------------------------------------------

    cdef int receive(self, const char *data, Py_ssize_t length) except -1:
        PyContext_Enter(self.context)
        try:
            self.take(data, length)
        finally:
            PyContext_Exit(self.context)
        return 0

    def data_received(self, bytes data not None):
        # From a transport that is not a StreamTransport; it called this in the right context.
        self.take(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int take(self, const char *data, Py_ssize_t length) except -1:
        cdef Py_ssize_t part
        if self.state == OPEN and not self.reading_paused and not self.app_buffered:
            return self.read_with(data, length)
        while length:
            # A BufferedProtocol empties the BIO between the pieces. Whoever paused, or shakes hands, gets all at once.
            part = min(length, self.room_bytes()) if self.state == OPEN and not self.reading_paused else length
            self.take_in(data, part)
            data += part
            length -= part
            try:
                self.go_on()
            except BaseException:
                if length:
                    self.take_in(data, length)      # an interrupt: the loop may run again, and a stream must not have a gap
                self.loop.add_ready(self.go_on, (), self.context)
                raise
        return 0

    cdef Py_ssize_t room_bytes(self) noexcept:
        return max(FEED_BYTES - self.tail_bytes, <Py_ssize_t>FEED_BYTES_MIN)

    cdef int take_in(self, const char *data, Py_ssize_t length) except -1:
        self.follow_records(<const uint8_t *>data, length)
        self.incoming.write(PyMemoryView_FromMemory(<char *>data, length, PyBUF_READ))
        return 0

    cdef void follow_records(self, const uint8_t *data, Py_ssize_t length) noexcept:
        """Note where the last whole record ends. OpenSSL judges the records; this has only to be right for those that it accepts."""
        cdef Py_ssize_t part
        while length:
            if self.record_left_bytes:
                part = min(length, self.record_left_bytes)
                self.record_left_bytes -= part
                self.tail_bytes = self.tail_bytes + part if self.record_left_bytes else 0
            else:
                part = 1
                self.header[self.header_bytes] = data[0]
                self.header_bytes += 1
                self.tail_bytes += 1
                if self.header_bytes == RECORD_HEADER_BYTES:
                    self.header_bytes = 0
                    self.record_left_bytes = (<Py_ssize_t>self.header[3] << 8) | self.header[4]
                    if (not 20 <= self.header[0] <= 24 or self.header[1] != 3 or self.record_left_bytes == 0
                            or self.record_left_bytes > RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX):
                        self.records_unclear = True     # OpenSSL is asked each time from now on, and says what is wrong
            data += part
            length -= part

    cdef Py_ssize_t readable_bytes(self) except -1:
        """A bound of what one read gives; 0 where it would only raise SSLWantReadError."""
        cdef Py_ssize_t pending
        if self.plaintext_waits:
            return self.ssl.pending()
        pending = self.incoming.pending
        if pending > self.tail_bytes or (pending and self.records_unclear):
            return min(pending, RECORD_BYTES_MAX)
        return 0

    cdef object read_record(self, Py_ssize_t wanted):
        """Decrypted bytes; empty for the peer's close_notify; None when OpenSSL needs more, because the record was not data."""
        cdef bytes data
        try:
            data = self.ssl.read(wanted)
        except AGAIN:
            self.plaintext_waits = False
            return None
        self.plaintext_waits = PyBytes_GET_SIZE(data) == wanted and self.ssl.pending()
        return data

    cdef int read_chunks(self, const char *more, Py_ssize_t more_bytes) except -1:
        """Decrypt all that is there, and `more` behind it, and hand it over at once."""
        cdef Py_ssize_t wanted, part
        cdef object chunk, first = None
        cdef list chunks = None
        cdef int result = EXHAUSTED
        while True:
            wanted = self.readable_bytes()
            chunk = self.read_record(wanted) if wanted else None
            if chunk is None:
                if more_bytes == 0:
                    break
                part = min(more_bytes, self.room_bytes())
                self.take_in(more, part)
                more += part
                more_bytes -= part
            elif PyBytes_GET_SIZE(chunk) == 0:
                result |= NOTIFIED
                break
            elif first is None:
                first = chunk
            elif chunks is None:
                chunks = [first, chunk]
            else:
                chunks.append(chunk)
        if first is not None:
            self.app_protocol.data_received(first if chunks is None else b"".join(chunks))
        return result

    cdef int read_into_buffer(self) except -1:
        """Fill one buffer of a BufferedProtocol."""
        cdef Py_buffer memory
        cdef Py_ssize_t size, filled = 0, count
        cdef int result = 0
        if self.readable_bytes() == 0:
            return EXHAUSTED
        cdef object target = self.app_protocol.get_buffer(self.ssl.pending() + self.incoming.pending)
        PyObject_GetBuffer(target, &memory, PyBUF_WRITABLE)
        size = memory.len
        PyBuffer_Release(&memory)
        if not size:
            raise RuntimeError("get_buffer() returned an empty buffer")
        view = None
        try:
            while True:
                count = self.ssl.read(size - filled, target if view is None else view[filled:])
                if count == 0:
                    result = NOTIFIED
                    break
                # OpenSSL gives what the record has, unless the buffer is too small.
                self.plaintext_waits = count == size - filled and self.ssl.pending() > 0
                filled += count
                if filled == size:
                    break
                if self.readable_bytes() == 0:
                    result = EXHAUSTED
                    break
                if view is None:
                    view = memoryview(target).cast("B")     # a slice of a bytearray would be a copy; a slice of a view is not
        except AGAIN:
            self.plaintext_waits = False
            result = EXHAUSTED
        finally:
            if view is not None:
                view.release()
        if filled:
            self.app_protocol.buffer_updated(filled)
        return result

    def read(self):
        """Hand over what came in, as far as the application takes it."""
        self.read_with(NULL, 0)

    cdef int read_with(self, const char *more, Py_ssize_t more_bytes) except -1:
        cdef int result = 0
        try:
            while not result and not self.reading_paused and (self.state == OPEN or self.state == ENDED):
                if self.app_buffered:
                    result = self.read_into_buffer()
                else:
                    result = self.read_chunks(more, more_bytes)
                    more_bytes = 0
            if result & NOTIFIED:
                self.call_eof_received()
                self.start_shutdown()
            elif result & EXHAUSTED and self.state == ENDED:
                self.encrypt()
                self.begin_shutdown()
            elif self.state == OPEN or self.state == ENDED:
                if not self.flush_scheduled:
                    self.encrypt()
                    self.pass_on()              # OpenSSL's own answers, and what waited for the peer's
                self.control_reading()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")
        return 0

    def go_on(self):
        """Continue where the connection is; called whenever bytes came in or there is room again."""
        if self.state == OPEN or self.state == ENDED:
            self.read_with(NULL, 0)
        else:
            self.go_on_closed()

    def pause_reading(self):
        self.reading_paused = True

    def resume_reading(self):
        if self.reading_paused:
            self.reading_paused = False
            # In the transport's context, and not from within the caller, who may hold locks.
            self.loop.add_ready(self.go_on, (), self.context)

    def read_buffer_bytes(self):
        """Received and not decrypted; the beginning of a record counts where nobody waits for its end."""
        cdef Py_ssize_t pending = self.incoming.pending
        return pending if self.reading_paused else max(0, pending - self.tail_bytes)

    def set_read_buffer_limits(self, high, low):
        self.read_low_water_bytes, self.read_high_water_bytes = water_marks(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.control_reading()

    def control_transport_reading(self):
        self.control_reading()

    cdef int control_reading(self) except -1:
        cdef Py_ssize_t pending
        if self.transport is None:
            return 0
        pending = self.read_buffer_bytes()
        if pending > self.read_high_water_bytes and not self.transport_reading_paused:
            self.transport_reading_paused = True
            self.transport.pause_reading()
        elif pending <= self.read_low_water_bytes and self.transport_reading_paused:
            self.transport_reading_paused = False
            self.transport.resume_reading()
        return 0

    # -- sending ----------------------------------------------------------------------------------------------------------------------

    cdef int write(self, object data) except -1:
        if self.state >= FLUSHING:
            if self.writes_after_loss >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("SSL connection is closed")
            self.writes_after_loss += 1
            return 0
        self.loop.ops.check()           # refuse before anything has changed
        self.queue(data)
        if (self.backlog_bytes >= GATHER_BYTES_MAX or self.transport_writing_paused or self.state <= HANDSHAKE
                or self.loop.idle_here()):
            return self.flush_writes()
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self.loop.schedule_flush(new_write_flush(self))
        return 0

    def queue(self, data):
        cdef bytes copy = data if PyBytes_CheckExact(data) else bytes(data)     # the caller may change it before it is encrypted
        if self.backlog is None:
            self.backlog = [copy]
        else:
            self.backlog.append(copy)
        self.backlog_bytes += PyBytes_GET_SIZE(copy)

    cdef int flush_writes(self) except -1:
        try:
            self.encrypt()
            self.pass_on()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")
        return 0

    def encrypt_backlog(self):
        self.encrypt()

    cdef int encrypt(self) except -1:
        """Give OpenSSL what was written, as far as it takes it: nothing before the handshake's end, or while the peer must answer first."""
        cdef bytes data
        cdef Py_ssize_t length, part
        if self.backlog is None or self.state <= HANDSHAKE:
            return 0
        try:
            while self.backlog:
                self.join_small()
                data = self.backlog[0]
                length = PyBytes_GET_SIZE(data)
                while self.backlog_offset < length:
                    part = min(length - self.backlog_offset, RECORD_BYTES_MAX)
                    if part == length:
                        self.ssl.write(data)
                    else:
                        self.ssl.write(PyMemoryView_FromMemory(PyBytes_AS_STRING(data) + self.backlog_offset, part, PyBUF_READ))
                    self.backlog_offset += part
                    self.backlog_bytes -= part
                    self.seal()
                self.backlog_offset = 0
                del self.backlog[0]
        except AGAIN:
            return 0
        self.backlog = None
        return 0

    cdef int join_small(self) except -1:
        """Let the first pieces that fit into one record share it."""
        cdef Py_ssize_t count = 0, total = 0
        if len(self.backlog) == 1 or self.backlog_offset:
            return 0
        for data in self.backlog:
            total += PyBytes_GET_SIZE(data)
            if total > RECORD_BYTES_MAX:
                break
            count += 1
        if count > 1:
            self.backlog[:count] = [b"".join(self.backlog[:count])]
        return 0

    cdef int seal(self) except -1:
        """Take the records that OpenSSL made out of the BIO."""
        cdef bytes records = self.outgoing.read()
        if PyBytes_GET_SIZE(records):
            if self.sealed is None:
                self.sealed = [records]
            else:
                self.sealed.append(records)
            self.sealed_bytes += PyBytes_GET_SIZE(records)
        return 0

    def send_outgoing(self):
        self.pass_on()

    cdef int pass_on(self) except -1:
        """Pass on what OpenSSL made, unless the transport below has too much already; then resume_writing() goes on."""
        if self.transport is None:
            return 0
        if self.outgoing.pending:
            self.seal()
        if self.sealed is not None and not self.transport_writing_paused:
            self.send_sealed()
        return self.control_app_writing()

    cdef int send_sealed(self) except -1:
        cdef list sealed = self.sealed
        self.sealed = None
        self.sealed_bytes = 0
        if self.lower is not None:
            if len(sealed) == 1:
                self.lower.write(sealed[0])
            else:
                self.lower.writelines(sealed)
        elif len(sealed) == 1:
            self.transport.write(sealed[0])
        else:
            self.transport.writelines(sealed)
        return 0

    def send_gathered(self):
        """What was written in this turn goes out before an abort, as it does with transports that write at once."""
        if self.flush_scheduled and self.transport is not None:
            try:
                self.encrypt()
                if self.sealed is not None:
                    self.send_sealed()
            except Exception:
                pass                    # the connection ends anyway, for a reason that is known already

    def unsent_bytes(self):
        """Encrypted bytes that the transport below has not taken."""
        return self.outgoing.pending + self.sealed_bytes

    def write_buffer_bytes(self):
        # What is gathered goes to the transport below with this turn, as it does at once in asyncio: it does not wait here.
        return self.outgoing.pending + self.sealed_bytes + (0 if self.flush_scheduled else self.backlog_bytes)

    def set_write_buffer_limits(self, high, low):
        self.write_low_water_bytes, self.write_high_water_bytes = water_marks(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        self.control_app_writing()

    cdef int control_app_writing(self) except -1:
        # Nothing is in the BIO here: what OpenSSL makes is sealed by whoever made it.
        cdef Py_ssize_t size = self.sealed_bytes + self.backlog_bytes
        if size > self.write_high_water_bytes:
            if not self.app_writing_paused:
                self.app_writing_paused = True
                self.tell_app("pause_writing")
        elif self.app_writing_paused and size <= self.write_low_water_bytes:
            self.app_writing_paused = False
            self.tell_app("resume_writing")
        return 0

    def pause_writing(self):
        self.transport_writing_paused = True

    def resume_writing(self):
        self.transport_writing_paused = False
        if self.state >= FLUSHING:
            self.go_on_closed()
        else:
            self.pass_on()


cdef class WriteFlush(Flushable):

    cdef int flush(self) except -1:
        self.core.flush_scheduled = False
        return self.core.flush_writes()


cdef WriteFlush new_write_flush(SSLCore core):
    cdef WriteFlush flush = WriteFlush.__new__(WriteFlush)
    flush.core = core
    return flush


class SSLTransport(asyncio.Transport):
    """The application's end of a TLS connection. Made by create_connection, create_server, start_tls and their relatives.

    Its class has SSL in its name because programs tell TLS transports by that.
    """

    __slots__ = ("__dict__", "__weakref__", "_core", "_loop")
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(self, loop, SSLCore protocol not None):
        self._loop = loop
        self._core = protocol

    @property
    def _ssl_protocol(self):
        return self._core

    @property
    def _closed(self):
        return (<SSLCore>self._core).closed

    def __repr__(self):
        protocol = self._core
        below = "" if protocol.transport is None else f" over {protocol.transport!r}"
        return f"<{type(self).__name__} {protocol.state_name()}{below}>"

    def __del__(self):
        # A constructor that failed has left nothing to close.
        cdef SSLCore core = getattr(self, "_core", None)
        if core is not None and not core.closed:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    def get_extra_info(self, name, default=None):
        """Also: sslcontext, ssl_object, peercert, cipher, compression; the last four once the handshake is over."""
        return self._core.get_extra_info(name, default)

    def set_protocol(self, protocol):
        (<SSLCore>self._core).set_app_protocol(protocol)

    def get_protocol(self):
        """The application's protocol; None once the connection is lost, as in asyncio."""
        return (<SSLCore>self._core).app_protocol

    def is_closing(self):
        return (<SSLCore>self._core).closed

    def close(self):
        """Send what is queued and close_notify, await the peer's, then close. No more data is handed over. connection_lost() follows."""
        if not (<SSLCore>self._core).closed:
            (<SSLCore>self._core).closed = True
            self._core.start_shutdown()

    def abort(self):
        """Close at once, without close_notify. connection_lost(None) follows."""
        self._force_close(None)

    def _force_close(self, exc):
        (<SSLCore>self._core).closed = True
        self._core.abort(exc)

    def is_reading(self):
        return not (<SSLCore>self._core).reading_paused

    def pause_reading(self):
        """Call data_received() no more until resume_reading()."""
        (<SSLCore>self._core).pause_reading()

    def resume_reading(self):
        (<SSLCore>self._core).resume_reading()

    def set_write_buffer_limits(self, high=None, low=None):
        """Water marks, in bytes, of the write buffer: pause_writing above `high`, resume_writing at `low`."""
        (<SSLCore>self._core).set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self):
        return ((<SSLCore>self._core).write_low_water_bytes, (<SSLCore>self._core).write_high_water_bytes)

    def get_write_buffer_size(self):
        """Bytes that were written and that the transport below has not taken yet."""
        return (<SSLCore>self._core).write_buffer_bytes()

    def set_read_buffer_limits(self, high=None, low=None):
        """Water marks, in bytes, of what is received and not yet read: the transport below pauses above `high`, resumes at `low`."""
        (<SSLCore>self._core).set_read_buffer_limits(high, low)

    def get_read_buffer_limits(self):
        return ((<SSLCore>self._core).read_low_water_bytes, (<SSLCore>self._core).read_high_water_bytes)

    def get_read_buffer_size(self):
        """Bytes that were received and are not decrypted yet."""
        return (<SSLCore>self._core).read_buffer_bytes()

    @property
    def _protocol_paused(self):
        # asyncio's sendfile looks here.
        return (<SSLCore>self._core).app_writing_paused

    def write(self, data):
        """Encrypt and send bytes; they go out together with all that is written in this turn."""
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if data:
            (<SSLCore>self._core).write(data)

    def writelines(self, list_of_data):
        """Send several pieces in order; they share TLS records."""
        self.write(b"".join(list_of_data))

    def _test__append_write_backlog(self, data):
        # asyncio's and uvloop's suites put data behind a renegotiation with this, which ssl cannot start by itself.
        (<SSLCore>self._core).queue(data)

    def write_eof(self):
        """TLS connections do not end in one direction: NotImplementedError."""
        raise NotImplementedError

    def can_write_eof(self):
        return False
