"""The socket under an accepted connection: no object until somebody asks, names that outlive it, and who closes the descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import aiouring


class Kept(asyncio.Protocol):
    """Remembers its transport and its end."""

    def __init__(self) -> None:
        self.made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def accepted(host: str = "127.0.0.1") -> AsyncIterator[tuple[Any, Kept, socket.socket]]:
    """The transport of an accepted connection, its protocol, and the other end."""
    protocols: list[Kept] = []

    def factory() -> Kept:
        protocols.append(Kept())
        return protocols[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, host, 0)
    with socket.create_connection(server.sockets[0].getsockname()[:2]) as peer:
        while not protocols:
            await asyncio.sleep(0)
        transport = await protocols[0].made
        yield transport, protocols[0], peer
        transport.abort()
        await protocols[0].lost
    server.close()
    await server.wait_closed()


def socket_objects_of(fd: int) -> list[socket.socket]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, socket.socket) and found.fileno() == fd]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_there_is_no_socket_object_until_somebody_asks(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with accepted() as (transport, _, peer):
            fd = transport._sock_fd
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("sockname") == peer.getpeername()
            assert transport.get_extra_info("nothing", 5) == 5
            assert transport.get_extra_info("nothing") is None
            assert socket_objects_of(fd) == []
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock is transport.get_extra_info("socket")
            assert socket_objects_of(fd) == [transport._sock]
            assert (sock.fileno(), sock.family, sock.type, sock.proto) == (fd, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            assert sock.gettimeout() == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.close()
            assert sock.fileno() == fd
            assert is_open(fd)

    loop.run_until_complete(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("ask_before", [False, True])
def test_the_names_are_told_after_the_end(loop: asyncio.AbstractEventLoop, host: str, ask_before: bool) -> None:
    async def main() -> None:
        async with accepted(host) as (transport, protocol, peer):
            fd = transport._sock_fd
            names = peer.getsockname(), peer.getpeername()
            asked = transport.get_extra_info("socket") if ask_before else None
            peer.close()
            assert await protocol.lost is None
            assert not is_open(fd)
            assert (transport.get_extra_info("peername"), transport.get_extra_info("sockname")) == names
            sock = transport.get_extra_info("socket")
            assert sock.fileno() == -1
            assert sock.family == (socket.AF_INET6 if host == "::1" else socket.AF_INET)
            assert asked is None or sock is asked
            assert transport._sock is None
            assert "closed" in repr(transport)

    loop.run_until_complete(main())


def test_the_peer_has_a_name_after_it_reset_the_connection(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with accepted() as (transport, protocol, peer):
            name = peer.getsockname()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            assert isinstance(await protocol.lost, ConnectionResetError)
            assert transport.get_extra_info("peername") == name

    loop.run_until_complete(main())


def test_unix_names(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    bound = str(tmp_path / ("c" * (100 - len(str(tmp_path)))))

    async def main() -> None:
        protocols: list[Kept] = []

        def factory() -> Kept:
            protocols.append(Kept())
            return protocols[-1]

        server = await loop.create_unix_server(factory, path)
        for name in ("", bound):
            with socket.socket(socket.AF_UNIX) as peer:
                if name:
                    peer.bind(name)
                peer.connect(path)
                while not protocols:
                    await asyncio.sleep(0)
                protocol = protocols.pop()
                transport = await protocol.made
                assert transport.get_extra_info("peername") == name
                assert transport.get_extra_info("sockname") == path
                assert transport.get_extra_info("socket").family == socket.AF_UNIX
                transport.close()
                await protocol.lost
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_the_dict_of_extra_info(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with accepted() as (transport, _, peer):
            transport._extra["more"] = 1
            assert transport.get_extra_info("more") == 1
            assert set(transport._extra) == {"socket", "sockname", "peername", "more"}
            assert transport.get_extra_info("peername") == peer.getsockname()
            transport._extra = {"peername": "somebody"}
            assert transport.get_extra_info("peername") == "somebody"
            assert transport.get_extra_info("sockname", 3) == 3
            transport.note = "attributes of the user's"
            assert vars(transport) == {"note": "attributes of the user's"}

    loop.run_until_complete(main())


def test_who_detaches_the_socket_object_has_the_descriptor(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with accepted() as (transport, protocol, peer):
            fd = transport._sock.detach()
            transport.close()
            await protocol.lost
            assert is_open(fd)
            with socket.socket(fileno=fd) as taken:
                taken.sendall(b"still here")
                assert peer.recv(20) == b"still here"

    loop.run_until_complete(main())


def test_what_was_closed_is_not_closed_again(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with accepted() as (transport, protocol, _):
            fd = transport._sock_fd
            transport.close()
            await protocol.lost
            # The number goes to somebody else, whom neither a second end nor the transport's destructor may hit.
            other = os.open("/dev/null", os.O_RDONLY)
            if other != fd:
                os.dup2(other, fd)
                os.close(other)
            transport.close()
            transport.abort()
        del transport, protocol
        gc.collect()
        await asyncio.sleep(0)
        assert is_open(fd)
        os.close(fd)

    loop.run_until_complete(main())


@pytest.mark.parametrize("ask_before", [False, True])
@pytest.mark.parametrize("category", ["always", "error"])
def test_a_dropped_transport_warns_and_closes(ask_before: bool, category: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(args.exc_value))
    loop = aiouring.new_event_loop()
    fds: list[int] = []

    async def main() -> socket.socket:
        made = loop.create_future()

        class Note(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                if ask_before:
                    transport.get_extra_info("socket")
                fds.append(transport._sock_fd)
                made.set_result(None)

        server = await loop.create_server(Note, "127.0.0.1", 0)
        peer = socket.create_connection(server.sockets[0].getsockname())
        await made
        server.close()
        return peer

    with loop.run_until_complete(main()) as peer, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(category, ResourceWarning)
        loop.close()
        gc.collect()
        heard = [warning.message for warning in caught] if category == "always" else unraisable
        assert [str(warning).partition(" <")[0] for warning in heard] == ["unclosed transport"]
        assert not is_open(fds[0])
        assert peer.recv(1) == b""


def test_the_descriptor_is_refused_to_others_until_the_end(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    async def main() -> None:
        async with accepted() as (transport, protocol, peer):
            fd = transport._sock_fd
            for _ in range(2):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    loop.add_reader(fd, print)
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await loop.sock_recv(transport._sock, 1)
                # sendfile() lends the socket to sock_sendfile(), and takes it back.
                (tmp_path / "file").write_bytes(b"content")
                with (tmp_path / "file").open("rb") as file:
                    assert await loop.sendfile(transport, file) == 7
                assert await loop.run_in_executor(None, peer.recv, 7, socket.MSG_WAITALL) == b"content"
            transport.close()
            await protocol.lost
            read_fd, write_fd = os.pipe()
            os.dup2(read_fd, fd)
            loop.add_reader(fd, print)
            assert loop.remove_reader(fd)
            for opened in {read_fd, write_fd, fd}:
                os.close(opened)

    loop.run_until_complete(main())


def test_a_protocol_that_cannot_be_made_costs_its_connection_alone(loop: asyncio.AbstractEventLoop) -> None:
    heard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: heard.append(context))
    loop.set_debug(True)

    async def main() -> None:
        protocols: list[Kept] = []

        def factory() -> Kept:
            if not heard:
                raise ValueError("no protocol today")
            protocols.append(Kept())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address) as peer:
            assert await loop.run_in_executor(None, peer.recv, 1) == b""
        assert [str(context["exception"]) for context in heard] == ["no protocol today"]
        assert heard[0]["message"] == "Error on transport creation for incoming connection"
        with socket.create_connection(address):
            while not protocols:
                await asyncio.sleep(0)
            (await protocols[0].made).close()
            await protocols[0].lost
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_protocol_factory_goes_through(loop: asyncio.AbstractEventLoop, interrupt: type[BaseException]) -> None:
    def factory() -> asyncio.Protocol:
        raise interrupt

    serve: Callable[[], Any] = lambda: loop.create_server(factory, "127.0.0.1", 0)  # noqa: E731
    server = loop.run_until_complete(serve())
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        with pytest.raises(interrupt):
            loop.run_forever()
        assert peer.recv(1) == b""
    server.close()
    loop.run_until_complete(server.wait_closed())
