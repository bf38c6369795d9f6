"""Connections and servers: what runs once per connection or per server.

Part of loop.Loop; overrides the hooks that asyncio.BaseEventLoop leaves to an implementation, and adds unix sockets. Calls `_stream` and
`_listener`, and `tls` for what runs above them.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
import ssl
import stat
import sys
import weakref
from asyncio.log import logger
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aiouring._listener import Listener
from aiouring._respond import Answers
from aiouring._sock import coroutine_function
from aiouring._stream import StreamTransport
from aiouring._stream_connect import connect_to_literal
from aiouring._tls import SSLTransport
from aiouring.bpf import hooks
from aiouring.framing import Framing
from aiouring.tls import SSLProtocol, context_of

if TYPE_CHECKING:
    from aiouring._loop import LoopCore

    class _Base(LoopCore, asyncio.BaseEventLoop):
        pass

else:
    _Base = object

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
SSLArgument = ssl.SSLContext | bool | None

# 3.13 made it the default that a server removes its unix socket's file when it is closed.
CLEANUP_SOCKET_DEFAULT = sys.version_info >= (3, 13)


class _Special:
    """A protocol factory on its way through asyncio's code, and a protocol that it made, with what is special in its connections' receiving."""

    def __init__(self, made: Any, receiving: Framing | Answers) -> None:
        self.made = made
        self.receiving = receiving

    def __call__(self) -> _Special:
        return _Special(self.made(), self.receiving)


def _specialise(
    loop: Any, factory: ProtocolFactory, frames: Framing | None, respond: Mapping[bytes, bytes] | None, sslcontext: object
) -> Any:
    """The factory for asyncio's code, and the standard hook where there is none."""
    if frames is None and respond is None:
        return factory
    if sslcontext:
        raise ValueError("frames= and respond= are for connections without TLS")
    if frames is not None and respond is not None:
        raise ValueError("frames= and respond= cannot both be given: a canned answer belongs to a request that is no frame")
    if frames is not None and not isinstance(frames, Framing):
        raise TypeError(f"frames is LengthPrefixed(...) or Delimited(...), not {frames!r}")
    if respond is not None and not isinstance(respond, Mapping):
        raise TypeError(f"respond is a dict of prefixes and answers, not {respond!r}")
    receiving = frames if respond is None else Answers(respond)
    assert receiving is not None
    hooks.attach_standard(loop)
    return _Special(factory, receiving)


def check_unix_arguments(
    path: str | bytes | os.PathLike[str] | None,
    sock: socket.socket | None,
    sslcontext: SSLArgument,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
    neither_given: str,
) -> str | bytes | socket.socket:
    """What a unix connection or server is made of: the path, or the socket that was given instead. Errors are asyncio's ValueErrors."""
    if ssl_handshake_timeout is not None and not sslcontext:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if ssl_shutdown_timeout is not None and not sslcontext:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")
    if path is not None:
        if sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        return os.fspath(path)
    if sock is None:
        raise ValueError(neither_given)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
    return sock


class NetworkMixin(_Base):
    """Stream connections and servers of the loop."""

    def __init__(self) -> None:
        super().__init__()
        # Descriptors that transports use, besides those that LoopCore knows of: add_reader() and sock_recv() on them would steal bytes.
        self._transports = weakref.WeakValueDictionary()
        self._listeners: dict[int, Listener] = {}
        self._unix_server_files: dict[socket.socket, tuple[int, int]] = {}

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        """Raise RuntimeError if a live transport uses this descriptor (an int or an object with fileno())."""
        fileno = fd
        if not isinstance(fileno, int):
            try:
                fileno = int(fileno.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fd!r}") from None
        transport = self._transport_of(fileno) or self._transports.get(fileno)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    # -- transports ---------------------------------------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Any = None,
    ) -> StreamTransport:
        self._ensure_fd_no_transport(sock)
        receiving = None
        made: Any = protocol
        if isinstance(made, _Special):
            protocol, receiving = made.made, made.receiving
        return StreamTransport(self, sock, protocol, waiter, extra, server, context, receiving)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        call_connection_made: bool = True,
        context: Any = None,
    ) -> Any:
        self._ensure_fd_no_transport(rawsock)
        # One context for both, so that what a callback sets in it is seen by the next one.
        context = contextvars.copy_context() if context is None else context
        ssl_protocol = SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            context=context,
        )
        StreamTransport(self, rawsock, ssl_protocol, None, extra, server, context)
        return ssl_protocol.app_transport

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> SSLTransport | None:
        """Put TLS above a connection that is open, which may be a TLS connection. Returns the transport that `protocol` uses from now on.

        Time-outs are in seconds. When the handshake fails or the call is cancelled, the connection is closed.
        """
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter: asyncio.Future[None] = self.create_future()
        context = context_of(transport)
        ssl_protocol = SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            False,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            context=context,
        )
        # Nothing may come to the TLS protocol before it knows its transport.
        transport.pause_reading()
        transport.set_protocol(ssl_protocol)
        connection_made = self.call_soon(ssl_protocol.connection_made, transport, context=context)
        resume_reading = self.call_soon(transport.resume_reading, context=context)
        try:
            await waiter
        except BaseException:
            transport.close()
            connection_made.cancel()
            resume_reading.cancel()
            raise
        # As in asyncio, None when the connection was lost again between the handshake and now.
        return ssl_protocol.app_transport

    @coroutine_function
    def create_connection(  # type: ignore[override]
        self, protocol_factory: ProtocolFactory, host: Any = None, port: Any = None, **arguments: Any
    ) -> Coroutine[Any, Any, tuple[Any, asyncio.BaseProtocol]]:
        """Connect to a TCP server. Arguments, results and errors are asyncio's. Cancelling closes what was begun.

        frames: as in create_server().
        """
        if arguments.get("frames") is not None:
            return self._create_framed_connection(protocol_factory, host, port, **arguments)
        arguments.pop("frames", None)
        if not arguments and type(host) is str and type(port) is int and not self._debug:
            connecting = connect_to_literal(self, protocol_factory, host, port)
            if connecting is not None:
                return connecting
        return super().create_connection(protocol_factory, host, port, **arguments)

    async def _create_framed_connection(
        self, protocol_factory: ProtocolFactory, host: Any, port: Any, *, frames: Framing, ssl: SSLArgument = None, **arguments: Any
    ) -> tuple[Any, asyncio.BaseProtocol]:
        factory = _specialise(self, protocol_factory, frames, None, ssl)
        made: Any
        transport, made = await super().create_connection(factory, host, port, **arguments)
        return transport, made.made

    # For who asks for its signature.
    create_connection.__wrapped__ = asyncio.BaseEventLoop.create_connection  # type: ignore[attr-defined]

    # -- servers ------------------------------------------------------------------------------------------------------------------

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: Any = None,
        port: Any = None,
        *,
        frames: Framing | None = None,
        respond: Mapping[bytes, bytes] | None = None,
        **arguments: Any,
    ) -> asyncio.Server:
        """Serve on TCP. Arguments, results and errors are asyncio's, and two more.

        frames: aiouring.LengthPrefixed(...) or aiouring.Delimited(...): protocols get whole frames, without their prefix or delimiter, by
        frames_received(list of bytes) once a batch where they have that method, else by data_received(frame) for each. The standard loop hook
        is attached where the loop has none, and Python is woken once a batch then; without a hook, or with more than 1,024 such connections, the same
        frames come with more wake-ups. A frame that is too long ends the connection: connection_lost() gets a ValueError. A stream that ends
        in the middle of a frame: eof_received() is called as ever, and connection_lost() gets aiouring.IncompleteFrameError. Not for TLS.

        respond: a dict of request prefixes and answers, up to 16 prefixes of up to 256 bytes and answers of up to 4,096: a request that begins with a
        prefix (`b"GET /health HTTP/1.1\\r\\n"`), ends with an empty line, and comes alone and whole is answered by the loop hook, and the protocol
        never sees it. Everything else goes to the protocol, and so does all that follows on the same connection, since only the protocol knows the
        order of its answers; transport.resume_answers() ends that. hook.stats counts what the hook answered and passed on. Without a hook
        the same requests get the same answers with a wake-up each.
        """
        factory = _specialise(self, protocol_factory, frames, respond, arguments.get("ssl"))
        return await super().create_server(factory, host, port, **arguments)

    # For who asks for its signature.
    create_server.__wrapped__ = asyncio.BaseEventLoop.create_server  # type: ignore[attr-defined]

    def _start_serving(
        self,
        protocol_factory: ProtocolFactory,
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        factory: Any = protocol_factory
        if isinstance(factory, _Special):
            listener = Listener(self, sock, factory.made, server, receiving=factory.receiving)
        elif sslcontext is None:
            listener = Listener(self, sock, protocol_factory, server)
        else:
            accepted = partial(
                self._tls_connection_accepted, protocol_factory, sslcontext, server, ssl_handshake_timeout, ssl_shutdown_timeout
            )
            listener = Listener(self, sock, None, accepted=accepted)
        self._listeners[sock.fileno()] = listener

    def _stop_serving(self, sock: socket.socket) -> None:
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.stop()
        self._remove_unix_server_file(sock)
        sock.close()

    def _tls_connection_accepted(
        self,
        protocol_factory: ProtocolFactory,
        sslcontext: ssl.SSLContext,
        server: Any,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
        listener: Listener,
        fd: int,
    ) -> None:
        listening = listener.sock
        # With family, type and protocol given the constructor does not ask the kernel; SOCK_NONBLOCK says what ACCEPT has set already.
        conn = socket.socket(listening.family, listening.type | socket.SOCK_NONBLOCK, listening.proto, fileno=fd)
        self.create_task(
            self._accept_tls(conn, protocol_factory, sslcontext, server, ssl_handshake_timeout, ssl_shutdown_timeout)
        )

    async def _accept_tls(
        self,
        conn: socket.socket,
        protocol_factory: ProtocolFactory,
        sslcontext: ssl.SSLContext,
        server: Any,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
    ) -> None:
        protocol = transport = None
        try:
            protocol = protocol_factory()
            waiter: asyncio.Future[None] | None = self.create_future()
            transport = self._make_ssl_transport(
                conn,
                protocol,
                sslcontext,
                waiter=waiter,
                server_side=True,
                server=server,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
            try:
                await waiter  # type: ignore[misc]
            except BaseException:
                transport.close()
                # The future's exception holds the traceback, which holds the protocol: let go of the cycle.
                waiter = None
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if transport is None:
                conn.close()
            self._accept_failed(exc, protocol, transport)

    def _accept_failed(self, exc: BaseException, protocol: Any, transport: Any) -> None:
        if not self.get_debug():
            return
        context: dict[str, Any] = {"message": "Error on transport creation for incoming connection", "exception": exc}
        if protocol is not None:
            context["protocol"] = protocol
        if transport is not None:
            context["transport"] = transport
        self.call_exception_handler(context)

    # -- unix sockets -------------------------------------------------------------------------------------------------------------

    async def create_unix_connection(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        ssl: SSLArgument = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, asyncio.BaseProtocol]:
        """Connect to a unix stream socket: a path, an abstract name that begins with NUL, or a connected socket."""
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl:
            raise ValueError("you have to pass server_hostname when using ssl")
        place = check_unix_arguments(
            path, sock, ssl, ssl_handshake_timeout, ssl_shutdown_timeout, "no path and sock were specified"
        )
        if isinstance(place, (str, bytes)):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, place)
            except BaseException:
                sock.close()
                raise
        else:
            sock = place
            sock.setblocking(False)
        return await self._create_connection_transport(  # type: ignore[attr-defined, no-any-return]
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def create_unix_server(
        self,
        protocol_factory: ProtocolFactory,
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: SSLArgument = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = CLEANUP_SOCKET_DEFAULT,
        frames: Framing | None = None,
        respond: Mapping[bytes, bytes] | None = None,
    ) -> asyncio.Server:
        """Serve on a unix stream socket. A socket file that is left over at `path` is replaced; `cleanup_socket` removes it at the end.

        frames, respond: as in create_server().
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        place = check_unix_arguments(
            path, sock, ssl, ssl_handshake_timeout, ssl_shutdown_timeout, "path was not specified, and no sock specified"
        )
        protocol_factory = _specialise(self, protocol_factory, frames, respond, ssl)
        sock = self._bind_unix(place) if isinstance(place, (str, bytes)) else place
        if cleanup_socket:
            self._remember_unix_server_file(sock)
        sock.setblocking(False)
        server = asyncio.base_events.Server(
            self, [sock], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        if start_serving:
            server._start_serving()  # type: ignore[attr-defined]
            # Callers may rely on the server accepting when this returns: give the loop one turn, as asyncio does.
            await asyncio.sleep(0)
        return server

    @staticmethod
    def _bind_unix(path: str | bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if path[0] not in (0, "\x00"):
            try:
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.remove(path)
            except FileNotFoundError:
                pass
            except OSError as err:
                logger.error("Unable to check or remove stale UNIX socket %r: %r", path, err)
        try:
            sock.bind(path)
        except OSError as exc:
            sock.close()
            if exc.errno == errno.EADDRINUSE:
                # The kernel's message does not name the address.
                raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
            raise
        except BaseException:
            sock.close()
            raise
        return sock

    def _remember_unix_server_file(self, sock: socket.socket) -> None:
        path = sock.getsockname()
        if path and path[0] not in (0, "\x00"):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                return
            self._unix_server_files[sock] = (status.st_dev, status.st_ino)

    def _remove_unix_server_file(self, sock: socket.socket) -> None:
        """Remove the socket's file when the server ends, unless something else took its place."""
        identity = self._unix_server_files.pop(sock, None)
        if identity is None:
            return
        path = sock.getsockname()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == identity:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as err:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, err)
