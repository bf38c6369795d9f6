"""The servers under test, one code for every loop: `server.py LOOP APP ADDRESS [CERTIFICATE]`, ADDRESS being a port (0: any) or unix:PATH.

Started by benchmarks/measure.py, pinned, in the contestant's interpreter. Says "READY PORT" (or "READY unix:PATH") when it listens and
"UNAVAILABLE reason" when this loop cannot run this app. It runs until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from loops import Unavailable, be_a_process_under_test, make_loop, say, say_unavailable

BACKLOG = 4096


class Echo(asyncio.Protocol):
    """What a user would write who wants speed and knows the whole answer at once."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream server's transport is one

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """The same with a buffer of its own. It copies what it writes, since the buffer is filled again before a transport must be done with it."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = bytearray(65536)
        self.view = memoryview(self.buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.view[:nbytes]))


class DatagramEcho(asyncio.DatagramProtocol):
    """Answers each datagram to where it came from."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a datagram endpoint's transport is one

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What the documentation of asyncio shows."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def echo_sock(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    with sock, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(sock, 65536):
            await loop.sock_sendall(sock, data)


def listen(address: str) -> socket.socket:
    """A listening socket, set up alike for every loop."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address[5:])
    else:
        # asyncio sets TCP_NODELAY on connections whose socket says that it is TCP's, as those of create_server do, and on no others.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", int(address)))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


async def serve_protocol(address: str, factory: Callable[[], asyncio.BaseProtocol]) -> None:
    loop = asyncio.get_running_loop()
    if address.startswith("unix:"):
        await loop.create_unix_server(factory, address[5:], backlog=BACKLOG)
    else:
        await loop.create_server(factory, "127.0.0.1", int(address), backlog=BACKLOG)


async def serve_datagrams(address: str) -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(DatagramEcho, local_addr=("127.0.0.1", int(address)))


async def serve_tls(address: str) -> None:
    """Echo over TLS with the certificate (and its key, in the same file) that the command line names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4])
    await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(address), backlog=BACKLOG, ssl=context)


StreamHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
StartServer = Callable[..., Coroutine[Any, Any, asyncio.AbstractServer]]


async def serve_streams(address: str, handler: StreamHandler, start_server: StartServer = asyncio.start_server) -> None:
    if address.startswith("unix:"):
        await asyncio.start_unix_server(handler, address[5:], backlog=BACKLOG)
    else:
        await start_server(handler, "127.0.0.1", int(address), backlog=BACKLOG)


async def serve_native_streams(address: str) -> None:
    """aiouring's own reader and writer; every other loop runs asyncio's, which is what its users have."""
    name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    if name != "aiouring":
        await serve_streams(address, echo_stream)
        return
    start_server = getattr(importlib.import_module(name), "start_server", None)
    if start_server is None:
        raise Unavailable("aiouring.start_server does not exist yet")
    await serve_streams(address, echo_stream, start_server)


async def serve_sock(address: str) -> None:
    loop = asyncio.get_running_loop()
    listener = listen(address)
    connections: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # transports do it by themselves
            sock.setblocking(False)
            task = loop.create_task(echo_sock(loop, sock))
            connections.add(task)
            task.add_done_callback(connections.discard)

    connections.add(loop.create_task(accept()))


async def serve_hook_echo(address: str) -> None:
    """Every connection is echoed in aiouring's loop hook, whose engine is the one in the process."""
    loop = asyncio.get_running_loop()
    bpf = importlib.import_module("aiouring.bpf")
    bpf.Hook.load("standard", engine="inline").attach(loop)
    listener = listen(address)
    tasks: set[asyncio.Task[None]] = set()

    async def echo(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await bpf.echo(sock)

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            task = loop.create_task(echo(sock))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    tasks.add(loop.create_task(accept()))


APPS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "protocol": lambda address: serve_protocol(address, Echo),
    "buffered": lambda address: serve_protocol(address, BufferedEcho),
    "streams": lambda address: serve_streams(address, echo_stream),
    "native-streams": serve_native_streams,
    "sock": serve_sock,
    "hook-echo": serve_hook_echo,
    "datagram": serve_datagrams,
    "tls": serve_tls,
}


def free_port() -> int:
    """Not every loop tells the port that it took for port 0, so it is chosen before."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main(loop_name: str, app: str, address: str) -> None:
    be_a_process_under_test()
    if address == "0":
        address = str(free_port())
    try:
        loop = make_loop(loop_name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(APPS[app](address))
    except Exception as error:
        say_unavailable(error)
    loop.call_soon(say, "READY", address)
    loop.run_forever()


if __name__ == "__main__":
    main(*sys.argv[1:4])
