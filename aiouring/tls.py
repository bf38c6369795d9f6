"""TLS above a stream transport: the protocol that the transport calls, what of it runs once per connection.

Used by `network` (create_connection, create_server and their relatives, start_tls). Calls `_tls`, which has what runs per record and the
transport that the application holds, the standard `ssl` module, and the public interface of the transport below, which is a
StreamTransport or, for TLS over TLS, another SSLTransport.

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
import contextvars
import enum
import ssl
from asyncio import constants
from asyncio.log import logger
from collections.abc import Callable
from typing import Any

from aiouring._tls import SSLCore, SSLTransport

# Bounds one allocation.
READ_SIZE_MAX = 256 * 1024

# What SSLObject raises when it needs more from the peer; the second stands for an empty BIO in some OpenSSL versions.
AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)

# Connections that negotiated the same share the tuple that says so.
_ciphers: dict[Any, Any] = {}


class State(enum.IntEnum):
    """Where a connection is; it only ever moves downwards. `_tls` has the same numbers."""

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


class SSLProtocol(SSLCore, asyncio.Protocol):
    """One TLS connection: the protocol of the transport below, with an OpenSSL object between two memory BIOs.

    `waiter` gets the end of the handshake. `call_connection_made` is false for start_tls(), whose protocol is connected already.
    Time-outs are in seconds. Raises ValueError for a time-out that is not positive, and what ssl raises for a server name that it
    does not take.
    """

    # A connection has no dictionary: it would be its largest object but OpenSSL's.
    __slots__ = (
        "cipher",
        "compression",
        "handshake_start_time",
        "handshake_timeout",
        "peercert",
        "shutdown_timeout",
        "sslcontext",
        "timer",
        "waiter",
    )

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
        super().__init__(loop, context, sslcontext, server_side, None if server_side else server_hostname or None)
        self.sslcontext = sslcontext
        self.waiter = waiter
        self.timer: asyncio.TimerHandle | None = None
        self.handshake_start_time = 0.0
        self.peercert: Any = None
        self.cipher: Any = None
        self.compression: str | None = None
        self.app_connection_made = not call_connection_made
        self.set_app_protocol(app_protocol)
        # The two refer to each other until connection_lost().
        self.app_transport = SSLTransport(loop, self)

    def state_name(self) -> str:
        return State(self.state).name.lower()

    def get_extra_info(self, name: str, default: Any) -> Any:
        if name == "sslcontext":
            return self.sslcontext
        if name in ("peercert", "cipher", "compression", "ssl_object") and self.handshake_is_over:
            return self.sslobj if name == "ssl_object" else getattr(self, name)
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
        self.set_transport(transport)
        if self.state == State.CLOSED:
            self.close_transport_now(None)  # closed before it began
            return
        if self.loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self.handshake_start_time = self.loop.time()
        self.state = State.HANDSHAKE
        self.start_timer(self.handshake_timeout, self.handshake_timed_out)
        self.handshake()

    def eof_received(self) -> bool | None:
        """The peer ended the TCP stream: the rest is handed over, then the connection closes."""
        self.eof_from_peer = True
        if self.loop.get_debug():
            logger.debug("%r received EOF", self)
        if self.state == State.HANDSHAKE:
            self.handshake_failed(ConnectionResetError())
        elif self.state == State.OPEN:
            self.state = State.ENDED
            self.read()
        else:
            self.go_on()
        # True where something is still to be done: this protocol closes the transport when it is.
        return True if self.state == State.ENDED or (self.unsent_bytes() and self.state != State.CLOSED) else None

    def connection_lost(self, exc: BaseException | None) -> None:
        handshaking = self.state == State.HANDSHAKE
        self.state = State.CLOSED
        self.stop_timer()
        self.writes_after_loss += 1
        self.closed = True
        if self.app_connection_made and not handshaking:
            self.loop.call_soon(self.app_protocol.connection_lost, exc, context=self.context)
        # The ways back are cut, so that all is freed without the garbage collector.
        self.drop()
        if self.waiter is not None:
            self.wake_waiter(exc or ConnectionAbortedError("SSL handshake: the connection was closed before the handshake was complete"))

    def go_on_closed(self) -> None:
        """go_on() of a connection that is not open (any more)."""
        if self.state == State.HANDSHAKE:
            self.handshake()
        elif self.state == State.FLUSHING:
            self.flush_rest()
        elif self.state == State.NOTIFIED:
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
        self.peercert = sslobj.getpeercert()
        cipher = sslobj.cipher()
        self.cipher = _ciphers.setdefault(cipher, cipher)
        self.compression = sslobj.compression()
        self.handshake_is_over = True
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
        if self.state == State.HANDSHAKE:
            self.fatal_error(ConnectionAbortedError(f"SSL handshake is taking longer than {self.handshake_timeout} seconds: aborting the connection"))

    def wake_waiter(self, exc: BaseException | None) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is None or waiter.done():
            return
        if exc is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(exc)

    # -- what `_tls` calls beside the above: rare things ---------------------------------------------------------------------------------

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
        self.closed = True
        if self.state in (State.NEW, State.HANDSHAKE):
            self.abort(None)
        elif self.state in (State.OPEN, State.ENDED):
            self.state = State.FLUSHING
            self.start_timer(self.shutdown_timeout, self.shutdown_timed_out)
            self.flush_rest()

    def flush_rest(self) -> None:
        """Encrypt the rest of what was written; close_notify goes behind it."""
        try:
            self.discard()
            if self.state != State.FLUSHING:
                return  # eof_received() of the application aborted
            self.encrypt_backlog()
            if self.backlog_bytes and not self.eof_from_peer:
                self.send_outgoing()  # a renegotiation that the peer has to answer first
                self.control_transport_reading()
                return
        except Exception as exc:
            self.shutdown_complete(exc)
        else:
            self.state = State.NOTIFIED
            self.shutdown()

    def begin_shutdown(self) -> None:
        """All was handed over, and the peer's stream has ended."""
        self.state = State.NOTIFIED
        self.shutdown()

    def shutdown(self) -> None:
        """Send close_notify and all before it; end when the peer's came, or when its TCP stream ended."""
        try:
            if not self.unwrapped and not self.eof_from_peer:
                # Application data that is still on its way would make OpenSSL's shutdown fail.
                self.discard()
                if self.state != State.NOTIFIED:
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
            if not self.unsent_bytes():
                self.shutdown_complete(None)

    def shutdown_complete(self, exc: Exception | None) -> None:
        if self.state == State.CLOSED:
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
        self.send_gathered()
        force_close = getattr(self.transport, "_force_close", None)
        if force_close is None:
            self.transport.abort()  # a transport that is not asyncio's nor ours has no way to hand over the reason
        else:
            force_close(exc)

    def fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        self.closed = True
        if isinstance(exc, ssl.SSLError):
            self.send_outgoing()  # the alert that tells the peer why
        if self.state != State.HANDSHAKE:  # connection_lost() looks whether the handshake was going on
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
    context = transport._ssl_protocol.context if isinstance(transport, SSLTransport) else getattr(transport, "_context", None)
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
