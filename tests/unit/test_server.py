"""Servers and connections over TCP, unix sockets and TLS, both ends on the loop."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sockets import deaf_port, own_host


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("certificate")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


@pytest.fixture
def contexts(certificate: tuple[str, str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    server.set_alpn_protocols(["echo"])
    client = ssl.create_default_context(cafile=certificate[0])
    client.set_alpn_protocols(["echo"])
    return server, client


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def round_trip(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> None:
    reader, writer = connection
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()


async def close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


def test_tcp_server(loop, rng):
    ended = 0

    async def counted_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await echo(reader, writer)
        ended += 1

    async def main() -> None:
        server = await asyncio.start_server(counted_echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        payloads = [rng.randbytes(rng.randint(1, 200_000)) for _ in range(100)]

        async def client(data: bytes) -> None:
            connection = await asyncio.open_connection(*address)
            sock = connection[1].get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await round_trip(connection, data)

        await asyncio.gather(*map(client, payloads))
        while ended < len(payloads):
            await asyncio.sleep(0)
        await close(server)

    loop.run_until_complete(main())


def test_closed_server_frees_its_address_at_once(loop):
    async def main() -> None:
        port, host = None, own_host()
        for _ in range(50):
            server = await asyncio.start_server(echo, host, port or 0)
            port = server.sockets[0].getsockname()[1]
            server.close()
            # Without SO_REUSEADDR the bind fails as long as anything still listens there.
            with socket.socket() as probe:
                probe.bind((host, port))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, port)
            await server.wait_closed()

    loop.run_until_complete(main())


def test_several_hosts_and_reuse_port(loop):
    async def main() -> None:
        host = own_host()
        first = await asyncio.start_server(echo, [host, "::1"], 0)
        assert len(first.sockets) == 2
        for sock in first.sockets:
            await round_trip(await asyncio.open_connection(*sock.getsockname()[:2]), b"hello")
        port = next(sock.getsockname()[1] for sock in first.sockets if sock.family == socket.AF_INET)
        with pytest.raises(OSError, match="address already in use"):
            await asyncio.start_server(echo, host, port)
        await close(first)
        shared = [await asyncio.start_server(echo, host, port, reuse_port=True) for _ in range(2)]
        await round_trip(await asyncio.open_connection(host, port), b"hello")
        for server in shared:
            await close(server)

    loop.run_until_complete(main())


@pytest.mark.parametrize("abstract", [False, True])
def test_unix_server(loop, tmp_path, rng, abstract):
    path = f"\0aiouring-test-{os.getpid()}" if abstract else str(tmp_path / "socket")
    data = rng.randbytes(300_000)

    async def main() -> None:
        server = await asyncio.start_unix_server(echo, path)
        await round_trip(await asyncio.open_unix_connection(path), data)
        await close(server)

    loop.run_until_complete(main())


def test_unix_server_replaces_a_stale_file(loop, tmp_path):
    path = tmp_path / "socket"

    async def main() -> None:
        for _ in range(2):
            server = await asyncio.start_unix_server(echo, path)
            await round_trip(await asyncio.open_unix_connection(path), b"hello")
            await close(server)

    loop.run_until_complete(main())


def test_unix_address_in_use_is_named(loop):
    path = f"\0aiouring-test-in-use-{os.getpid()}"

    async def main() -> None:
        server = await asyncio.start_unix_server(echo, path)
        with pytest.raises(OSError, match="aiouring-test-in-use.*already in use"):
            await asyncio.start_unix_server(echo, path)
        await close(server)

    loop.run_until_complete(main())


def test_unix_wrong_arguments(loop, tmp_path):
    async def main() -> None:
        with socket.socket() as tcp:
            for call in (
                loop.create_unix_server(asyncio.Protocol, "/x", sock=tcp),
                loop.create_unix_server(asyncio.Protocol),
                loop.create_unix_server(asyncio.Protocol, sock=tcp),
                loop.create_unix_connection(asyncio.Protocol, "/x", sock=tcp),
                loop.create_unix_connection(asyncio.Protocol),
                loop.create_unix_connection(asyncio.Protocol, sock=tcp),
                loop.create_unix_connection(asyncio.Protocol, "/x", ssl=True),
                loop.create_unix_connection(asyncio.Protocol, "/x", server_hostname="x"),
            ):
                with pytest.raises(ValueError):
                    await call
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(asyncio.Protocol, tmp_path / "missing")
        with pytest.raises(TypeError):
            await loop.create_unix_server(asyncio.Protocol, "/x", ssl=True)

    loop.run_until_complete(main())


def test_connection_refused(loop):
    async def main(port: int) -> None:
        with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)

    with deaf_port() as port:
        loop.run_until_complete(main(port))


def test_out_of_descriptors_pauses_the_server_and_says_so(loop, monkeypatch):
    from asyncio import constants

    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.05)
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        clients = [socket.socket() for _ in range(20)]
        free = os.dup(0)
        os.close(free)
        # ACCEPT keeps the limit that held when it was armed, so it is lowered before the server starts.
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, hard))
        try:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            for client in clients:
                client.connect(address)
            while not reports:
                await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "out of system resource" in reports[0]["message"]
        # With descriptors again every waiting connection is served.
        for client in clients:
            client.setblocking(False)
            await loop.sock_sendall(client, b"hello")
        for client in clients:
            assert await asyncio.wait_for(loop.sock_recv(client, 100), 30) == b"hello"
            client.close()
        await close(server)

    loop.run_until_complete(main())


def test_protocol_factory_that_fails_closes_its_connection(loop):
    loop.set_debug(False)  # in debug mode the exception handler hears of it too, as with asyncio

    def factory() -> asyncio.Protocol:
        raise ZeroDivisionError

    async def main() -> None:
        server = await loop.create_server(factory, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await close(server)

    loop.run_until_complete(main())


# -- TLS ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True])
def test_tls(loop, contexts, rng, tmp_path, unix):
    server_context, client_context = contexts
    payloads = [rng.randbytes(size) for size in (1, 16_384, 1_000_000)]

    async def main() -> None:
        if unix:
            server = await asyncio.start_unix_server(echo, tmp_path / "tls", ssl=server_context)
        else:
            server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)

        async def client(data: bytes) -> None:
            if unix:
                connection = await asyncio.open_unix_connection(tmp_path / "tls", ssl=client_context, server_hostname="localhost")
            else:
                connection = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context)
            ssl_object = connection[1].get_extra_info("ssl_object")
            assert ssl_object.selected_alpn_protocol() == "echo"
            assert connection[1].get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
            reader, writer = connection
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(data) for data in payloads * 5))
        await close(server)

    loop.run_until_complete(main())


def test_start_tls_on_both_ends(loop, contexts, rng):
    server_context, client_context = contexts
    data = rng.randbytes(100_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(server_context)
        await echo(reader, writer)

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        await round_trip((reader, writer), data)
        await close(server)

    loop.run_until_complete(main())


def test_tls_errors_are_ssls(loop, contexts, tmp_path):
    server_context, client_context = contexts
    loop.set_exception_handler(lambda loop, context: None)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*address, ssl=ssl.create_default_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*address, ssl=client_context, server_hostname="example.org")
        await close(server)
        mute = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = mute.sockets[0].getsockname()
        with pytest.raises(ConnectionAbortedError, match="handshake"):
            await asyncio.open_connection(*address, ssl=client_context, ssl_handshake_timeout=0.1)
        await close(mute)

    loop.run_until_complete(main())


def test_sendfile_through_a_transport(loop, tmp_path, rng):
    data = rng.randbytes(3_000_000)
    path = Path(tmp_path / "file")
    path.write_bytes(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"head:")
        with path.open("rb") as file:
            assert await loop.sendfile(writer.transport, file, 1000, 2_000_000) == 2_000_000
        writer.write(b":tail")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b"head:" + data[1000:2_001_000] + b":tail"
        writer.close()
        await writer.wait_closed()
        await close(server)

    loop.run_until_complete(main())
