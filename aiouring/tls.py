"""TLS above a stream transport: the protocol that the transport calls, and the transport that the application holds.

Used by `network` (create_connection, create_server and their relatives, start_tls). Calls the standard `ssl` module and the public
interface of the transport below, which is a StreamTransport or, for TLS over TLS, another SSLTransport.

Why not asyncio.sslproto: its faults differ between Python's versions, and most of its methods would have to be replaced. What is mended:
- after close() the application gets no more data; data on its way is discarded, so that it does not make the shutdown fail;
- what was written before close() is sent before the connection ends, also when the peer reads slowly;
- close() ends the connection also when the peer went away while reading was paused, and before the handshake has begun;
- a connection that is lost during the handshake never counts as made;
- callbacks run in the context in which the transport was made, whoever calls write(), close() or resume_reading();
- after start_tls() the caller has the new transport before the protocol gets the first data;
- get_buffer() may return any writable buffer, and all data is handed over before the end of the stream;
- an alert that says why a handshake failed is sent;
- a write-buffer limit of zero means "pause when anything waits", as for other transports;
- a connection needs no receive buffer of its own.
Where asyncio's behaviour is only a choice, it is kept: a TCP end of stream without close_notify is eof_received() and connection_lost(None).
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import enum
import ssl
import warnings
from asyncio import constants, transports
from asyncio.log import logger
from collections.abc import Callable, Iterable
from typing import Any

# OpenSSL returns decrypted data record by record, at most 16 KiB; this only bounds one allocation.
READ_SIZE_MAX = 256 * 1024

# What SSLObject raises when it needs more from the peer; the second stands for an empty BIO in some OpenSSL versions.
AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)


class State(enum.Enum):
    """Where a connection is; it only ever moves downwards."""

    NEW = 0
    HANDSHAKE = 1
    OPEN = 2
    # The peer ended the TCP stream while the application had paused reading: what is on hold is still to be handed over.
    ENDED = 3
    # Closed by one side: what was written goes out, what comes in is discarded.
    FLUSHING = 4
    # close_notify is sent; the peer's is awaited.
    NOTIFIED = 5
    CLOSED = 6


class SSLTransport(transports._FlowControlMixin):
    """The application's end of a TLS connection. Made by create_connection, create_server, start_tls and their relatives.

    Its class has SSL in its name because programs tell TLS transports by that.
    """

    # asyncio's sendfile insists on its own flow-control class, an asyncio.Transport of which only `_loop` is used here.
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: SSLProtocol) -> None:
        self._loop = loop
        self._ssl_protocol = protocol
        self._closed = False

    def __repr__(self) -> str:
        protocol = self._ssl_protocol
        below = "" if protocol.transport is None else f" over {protocol.transport!r}"
        return f"<{type(self).__name__} {protocol.state.name.lower()}{below}>"

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Also: sslcontext, ssl_object, peercert, cipher, compression; the last four once the handshake is over."""
        return self._ssl_protocol.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._ssl_protocol.set_app_protocol(protocol)

    def get_protocol(self) -> Any:
        """The application's protocol; None once the connection is lost, as in asyncio."""
        return self._ssl_protocol.app_protocol

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Send what is queued and close_notify, await the peer's, then close. No more data is handed over. connection_lost() follows."""
        if not self._closed:
            self._closed = True
            self._ssl_protocol.start_shutdown()

    def abort(self) -> None:
        """Close at once, without close_notify. connection_lost(None) follows."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        self._closed = True
        self._ssl_protocol.abort(exc)

    def is_reading(self) -> bool:
        return not self._ssl_protocol.reading_paused

    def pause_reading(self) -> None:
        """Call data_received() no more until resume_reading()."""
        self._ssl_protocol.reading_paused = True

    def resume_reading(self) -> None:
        self._ssl_protocol.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Water marks, in bytes, of the write buffer: pause_writing above `high`, resume_writing at `low`."""
        self._ssl_protocol.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        protocol = self._ssl_protocol
        return (protocol.write_low_water_bytes, protocol.write_high_water_bytes)

    def get_write_buffer_size(self) -> int:
        """Bytes that were written and that the transport below has not taken yet."""
        return self._ssl_protocol.write_buffer_bytes()

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Water marks, in bytes, of what is received and not yet read: the transport below pauses above `high`, resumes at `low`."""
        self._ssl_protocol.set_read_buffer_limits(high, low)

    def get_read_buffer_limits(self) -> tuple[int, int]:
        protocol = self._ssl_protocol
        return (protocol.read_low_water_bytes, protocol.read_high_water_bytes)

    def get_read_buffer_size(self) -> int:
        """Bytes that were received and are not decrypted yet."""
        return self._ssl_protocol.incoming.pending

    @property
    def _protocol_paused(self) -> bool:
        # asyncio's sendfile looks here.
        return self._ssl_protocol.app_writing_paused

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send bytes; they go out together with all that is written in this turn."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if data:
            self._ssl_protocol.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Send several pieces in order; they share TLS records."""
        self.write(b"".join(list_of_data))

    def _test__append_write_backlog(self, data: bytes) -> None:
        # asyncio's and uvloop's suites put data behind a renegotiation with this, which ssl cannot start by itself.
        self._ssl_protocol.queue(data)

    def write_eof(self) -> None:
        """TLS connections do not end in one direction: NotImplementedError."""
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        return False


class SSLProtocol(asyncio.Protocol):
    """One TLS connection: the protocol of the transport below, with an OpenSSL object between two memory BIOs.

    `waiter` gets the end of the handshake. `call_connection_made` is false for start_tls(), whose protocol is connected already.
    Time-outs are in seconds. Raises ValueError for a time-out that is not positive, and what ssl raises for a server name that it
    does not take.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app_protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        *,
        context: contextvars.Context,
    ) -> None:
        self.handshake_timeout = _positive("ssl_handshake_timeout", ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT)
        self.shutdown_timeout = _positive("ssl_shutdown_timeout", ssl_shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT)
        if not sslcontext:
            sslcontext = _default_client_context(server_side, server_hostname)
        self.loop = loop
        self.context = context
        self.waiter = waiter
        self.transport: Any = None
        self.state = State.NEW
        self.eof_from_peer = False
        self.unwrapped = False
        self.timer: asyncio.TimerHandle | None = None
        self.handshake_start_time = 0.0
        self.writes_after_loss = 0
        self.extra: dict[str, Any] = {"sslcontext": sslcontext}

        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.sslobj = sslcontext.wrap_bio(self.incoming, self.outgoing, server_side, None if server_side else server_hostname or None)
        # What OpenSSL does not take: before the handshake is over, and during a renegotiation.
        self.backlog: collections.deque[bytes] = collections.deque()
        self.backlog_bytes = 0

        self.reading_paused = False
        self.transport_reading_paused = False
        self.transport_writing_paused = False
        self.app_writing_paused = False
        self.read_low_water_bytes, self.read_high_water_bytes = _water_marks(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.write_low_water_bytes, self.write_high_water_bytes = _water_marks(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)

        self.app_protocol: Any = None
        self.app_buffered = False
        self.app_connection_made = not call_connection_made
        self.app_eof_received = False
        self.set_app_protocol(app_protocol)
        # The two refer to each other until connection_lost().
        self.app_transport: SSLTransport | None = SSLTransport(loop, self)

    def set_app_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.app_protocol = protocol
        # By class as in asyncio; a protocol that has only the buffered interface is taken by it, as StreamTransport does.
        self.app_buffered = isinstance(protocol, asyncio.BufferedProtocol) or (
            hasattr(protocol, "get_buffer") and not hasattr(protocol, "data_received")
        )

    def get_extra_info(self, name: str, default: Any) -> Any:
        if name in self.extra:
            return self.extra[name]
        if name == "uvloop.sslproto":
            return self  # programs written for uvloop find its protocol by this name
        return default if self.transport is None else self.transport.get_extra_info(name, default)

    def call_app(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call the application in the transport's context, from within it (a callback) or from outside (write, close)."""
        try:
            self.context.run(_nothing)
        except RuntimeError:
            return method(*args)  # the context is entered already
        return self.context.run(method, *args)

    # -- what the transport below calls ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.state is State.CLOSED:
            self.close_transport_now(None)  # closed before it began
            return
        if self.loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self.handshake_start_time = self.loop.time()
        self.state = State.HANDSHAKE
        self.start_timer(self.handshake_timeout, self.handshake_timed_out)
        self.handshake()

    def data_received(self, data: bytes) -> None:
        self.incoming.write(data)
        self.go_on()

    def eof_received(self) -> bool | None:
        """The peer ended the TCP stream: the rest is handed over, then the connection closes."""
        self.eof_from_peer = True
        if self.loop.get_debug():
            logger.debug("%r received EOF", self)
        if self.state is State.HANDSHAKE:
            self.handshake_failed(ConnectionResetError())
        elif self.state is State.OPEN:
            self.state = State.ENDED
            self.read()
        else:
            self.go_on()
        # True where something is still to be done: this protocol closes the transport when it is.
        return True if self.state is State.ENDED or (self.outgoing.pending and self.state is not State.CLOSED) else None

    def connection_lost(self, exc: BaseException | None) -> None:
        handshaking = self.state is State.HANDSHAKE
        self.state = State.CLOSED
        self.stop_timer()
        self.backlog.clear()
        self.backlog_bytes = 0
        self.outgoing.read()
        self.writes_after_loss += 1
        if self.app_transport is not None:
            self.app_transport._closed = True
        if self.app_connection_made and not handshaking:
            self.loop.call_soon(self.app_protocol.connection_lost, exc, context=self.context)
        # The ways back are cut, so that all is freed without the garbage collector.
        self.transport = self.app_transport = self.app_protocol = None
        if self.waiter is not None:
            self.wake_waiter(exc or ConnectionAbortedError("SSL handshake: the connection was closed before the handshake was complete"))

    def pause_writing(self) -> None:
        self.transport_writing_paused = True

    def resume_writing(self) -> None:
        self.transport_writing_paused = False
        if self.state in (State.FLUSHING, State.NOTIFIED):
            self.go_on()
        else:
            self.send_outgoing()

    def go_on(self) -> None:
        """Continue where the connection is; called whenever bytes came in or there is room again."""
        if self.state is State.OPEN or self.state is State.ENDED:
            self.read()
        elif self.state is State.HANDSHAKE:
            self.handshake()
        elif self.state is State.FLUSHING:
            self.flush()
        elif self.state is State.NOTIFIED:
            self.shutdown()

    # -- handshake ------------------------------------------------------------------------------------------------------------------

    def handshake(self) -> None:
        try:
            self.sslobj.do_handshake()
        except AGAIN:
            self.send_outgoing()
        except Exception as exc:
            self.handshake_failed(exc)
        else:
            self.handshake_succeeded()

    def handshake_succeeded(self) -> None:
        self.stop_timer()
        self.state = State.OPEN
        if self.loop.get_debug():
            duration = self.loop.time() - self.handshake_start_time
            logger.debug("%r: SSL handshake took %.1f ms", self, duration * 1e3)
        sslobj = self.sslobj
        self.extra.update(peercert=sslobj.getpeercert(), cipher=sslobj.cipher(), compression=sslobj.compression(), ssl_object=sslobj)
        if self.app_connection_made:
            # start_tls(): its caller wakes before data comes, because only then it has the transport with which to answer.
            self.wake_waiter(None)
            self.send_outgoing()
            self.loop.call_soon(self.go_on, context=self.context)
        else:
            self.app_connection_made = True
            self.app_protocol.connection_made(self.app_transport)
            self.wake_waiter(None)
            self.go_on()

    def handshake_failed(self, exc: Exception) -> None:
        self.stop_timer()
        self.state = State.CLOSED
        on_verifying = " on verifying the certificate" if isinstance(exc, ssl.CertificateError) else ""
        self.fatal_error(exc, "SSL handshake failed" + on_verifying)
        self.wake_waiter(exc)

    def handshake_timed_out(self) -> None:
        if self.state is State.HANDSHAKE:
            self.fatal_error(ConnectionAbortedError(f"SSL handshake is taking longer than {self.handshake_timeout} seconds: aborting the connection"))

    def wake_waiter(self, exc: BaseException | None) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is None or waiter.done():
            return
        if exc is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(exc)

    # -- receiving ------------------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Hand over what came in, as far as the application takes it."""
        exhausted = notified = False
        try:
            while not (exhausted or notified or self.reading_paused) and self.state in (State.OPEN, State.ENDED):
                if self.app_buffered:
                    exhausted, notified = self.read_into_buffer()
                else:
                    exhausted, notified = self.read_chunks()
            if notified:
                self.call_eof_received()
                self.start_shutdown()
            elif exhausted and self.state is State.ENDED:
                self.encrypt_backlog()
                self.state = State.NOTIFIED
                self.shutdown()
            elif self.state in (State.OPEN, State.ENDED):
                self.encrypt_backlog()
                self.send_outgoing()
                self.control_transport_reading()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")

    def read_chunks(self) -> tuple[bool, bool]:
        """Decrypt all that is there and hand it over at once. Returns: nothing is left, the peer's close_notify came."""
        chunks: list[bytes] = []
        notified = False
        try:
            while True:
                chunk = self.sslobj.read(READ_SIZE_MAX)
                if not chunk:
                    notified = True
                    break
                chunks.append(chunk)
        except AGAIN:
            pass
        if chunks:
            self.app_protocol.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        return True, notified

    def read_into_buffer(self) -> tuple[bool, bool]:
        """Fill one buffer of a BufferedProtocol. Returns: nothing is left, the peer's close_notify came."""
        pending = self.sslobj.pending() + self.incoming.pending
        if not pending:
            return True, False
        buffer = self.app_protocol.get_buffer(pending)
        # A slice of a bytearray would be a copy; a slice of a view is not.
        view = memoryview(buffer).cast("B")
        if not view.nbytes:
            raise RuntimeError("get_buffer() returned an empty buffer")
        filled = 0
        exhausted = notified = False
        try:
            while filled < view.nbytes:
                count: Any = self.sslobj.read(view.nbytes - filled, view[filled:])  # the stubs say bytes; with a buffer it is a number
                if not count:
                    notified = True
                    break
                filled += count
        except AGAIN:
            exhausted = True
        finally:
            view.release()
        if filled:
            self.app_protocol.buffer_updated(filled)
        return exhausted, notified

    def discard(self) -> None:
        """Drop the application data that comes after close(), and notice the peer's close_notify."""
        try:
            while self.sslobj.read(READ_SIZE_MAX):
                pass
        except AGAIN:
            return
        except ssl.SSLZeroReturnError:
            pass  # how a close_notify shows when ours is sent
        self.call_eof_received()

    def call_eof_received(self) -> None:
        if self.app_eof_received or not self.app_connection_made or self.app_protocol is None:
            return
        self.app_eof_received = True
        try:
            if self.call_app(self.app_protocol.eof_received):
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Error calling eof_received()")

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            # In the transport's context, and not from within the caller, who may hold locks.
            self.loop.call_soon(self.go_on, context=self.context)

    def set_read_buffer_limits(self, high: int | None, low: int | None) -> None:
        self.read_low_water_bytes, self.read_high_water_bytes = _water_marks(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.control_transport_reading()

    def control_transport_reading(self) -> None:
        if self.transport is None:
            return
        pending = self.incoming.pending
        if pending > self.read_high_water_bytes and not self.transport_reading_paused:
            self.transport_reading_paused = True
            self.transport.pause_reading()
        elif pending <= self.read_low_water_bytes and self.transport_reading_paused:
            self.transport_reading_paused = False
            self.transport.resume_reading()

    # -- sending --------------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.state in (State.FLUSHING, State.NOTIFIED, State.CLOSED):
            if self.writes_after_loss >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("SSL connection is closed")
            self.writes_after_loss += 1
            return
        try:
            if self.backlog or self.state in (State.NEW, State.HANDSHAKE):
                self.queue(data)
            else:
                try:
                    # Nothing limits the memory BIO: OpenSSL takes all or nothing.
                    self.sslobj.write(data)
                except AGAIN:
                    self.queue(data)
            self.encrypt_backlog()
            self.send_outgoing()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")

    def queue(self, data: bytes | bytearray | memoryview[Any]) -> None:
        copy = bytes(data)  # the caller may change it before it is encrypted
        self.backlog.append(copy)
        self.backlog_bytes += len(copy)

    def encrypt_backlog(self) -> None:
        if self.state in (State.NEW, State.HANDSHAKE):
            return
        try:
            while self.backlog:
                self.sslobj.write(self.backlog[0])
                self.backlog_bytes -= len(self.backlog.popleft())
        except AGAIN:
            pass

    def send_outgoing(self) -> None:
        """Pass on what OpenSSL made, unless the transport below has too much already; then resume_writing() goes on."""
        if self.transport is None:
            return
        if self.outgoing.pending and not self.transport_writing_paused:
            self.transport.write(self.outgoing.read())
        self.control_app_writing()

    def write_buffer_bytes(self) -> int:
        return self.outgoing.pending + self.backlog_bytes

    def set_write_buffer_limits(self, high: int | None, low: int | None) -> None:
        self.write_low_water_bytes, self.write_high_water_bytes = _water_marks(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        self.control_app_writing()

    def control_app_writing(self) -> None:
        size = self.write_buffer_bytes()
        if size > self.write_high_water_bytes and not self.app_writing_paused:
            self.app_writing_paused = True
            self.tell_app("pause_writing")
        elif size <= self.write_low_water_bytes and self.app_writing_paused:
            self.app_writing_paused = False
            self.tell_app("resume_writing")

    def tell_app(self, method: str) -> None:
        if self.app_protocol is None:
            return
        try:
            self.call_app(getattr(self.app_protocol, method))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self.report(exc, f"protocol.{method}() failed")

    # -- the end --------------------------------------------------------------------------------------------------------------------

    def start_shutdown(self) -> None:
        """The application closed the transport, or the peer's close_notify came."""
        if self.app_transport is not None:
            self.app_transport._closed = True
        if self.state in (State.NEW, State.HANDSHAKE):
            self.abort(None)
        elif self.state in (State.OPEN, State.ENDED):
            self.state = State.FLUSHING
            self.start_timer(self.shutdown_timeout, self.shutdown_timed_out)
            self.flush()

    def flush(self) -> None:
        """Encrypt the rest of what was written; close_notify goes behind it."""
        try:
            self.discard()
            if self.state is not State.FLUSHING:
                return  # eof_received() of the application aborted
            self.encrypt_backlog()
            if self.backlog and not self.eof_from_peer:
                self.send_outgoing()  # a renegotiation that the peer has to answer first
                self.control_transport_reading()
                return
        except Exception as exc:
            self.shutdown_complete(exc)
        else:
            self.state = State.NOTIFIED
            self.shutdown()

    def shutdown(self) -> None:
        """Send close_notify and all before it; end when the peer's came, or when its TCP stream ended."""
        try:
            if not self.unwrapped and not self.eof_from_peer:
                # Application data that is still on its way would make OpenSSL's shutdown fail.
                self.discard()
                if self.state is not State.NOTIFIED:
                    return
                try:
                    self.sslobj.unwrap()
                except AGAIN:
                    self.send_outgoing()
                    self.control_transport_reading()
                    return
                self.unwrapped = True
            self.send_outgoing()
            self.call_eof_received()
        except Exception as exc:
            self.shutdown_complete(exc)
        else:
            if not self.outgoing.pending:
                self.shutdown_complete(None)

    def shutdown_complete(self, exc: Exception | None) -> None:
        if self.state is State.CLOSED:
            return
        self.stop_timer()
        if exc is not None:
            self.fatal_error(exc, "Error occurred during shutdown")
        else:
            self.state = State.CLOSED
            self.transport.close()

    def shutdown_timed_out(self) -> None:
        if self.state in (State.FLUSHING, State.NOTIFIED):
            self.abort(TimeoutError("SSL shutdown timed out"))

    def abort(self, exc: BaseException | None) -> None:
        self.stop_timer()
        self.state = State.CLOSED
        self.close_transport_now(exc)

    def close_transport_now(self, exc: BaseException | None) -> None:
        if self.transport is None:
            return
        force_close = getattr(self.transport, "_force_close", None)
        if force_close is None:
            self.transport.abort()  # a transport that is not asyncio's nor ours has no way to hand over the reason
        else:
            force_close(exc)

    def fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if self.app_transport is not None:
            self.app_transport._closed = True
        if isinstance(exc, ssl.SSLError):
            self.send_outgoing()  # the alert that tells the peer why
        if self.state is not State.HANDSHAKE:  # connection_lost() looks whether the handshake was going on
            self.state = State.CLOSED
        self.close_transport_now(exc)
        if isinstance(exc, OSError):
            if self.loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        elif not isinstance(exc, asyncio.CancelledError):
            self.report(exc, message)

    def report(self, exc: BaseException, message: str) -> None:
        self.loop.call_exception_handler({"message": message, "exception": exc, "transport": self.app_transport, "protocol": self})

    def start_timer(self, delay: float, callback: Callable[[], None]) -> None:
        self.stop_timer()
        self.timer = self.loop.call_later(delay, callback, context=self.context)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def context_of(transport: Any) -> contextvars.Context:
    """The context in which a transport's callbacks run: start_tls() keeps it. A copy of the caller's for transports of other makers."""
    if isinstance(transport, SSLTransport):
        return transport._ssl_protocol.context
    context = getattr(transport, "_context", None)
    return context if isinstance(context, contextvars.Context) else contextvars.copy_context()


def _nothing() -> None:
    pass


def _positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


def _default_client_context(server_side: bool, server_hostname: str | None) -> ssl.SSLContext:
    """What `ssl=True` means for a client."""
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    sslcontext = ssl.create_default_context()
    if not server_hostname:
        sslcontext.check_hostname = False
    return sslcontext


def _water_marks(high: int | None, low: int | None, default_kib: int) -> tuple[int, int]:
    """(low, high) in bytes."""
    if high is None:
        high = default_kib * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return low, high
