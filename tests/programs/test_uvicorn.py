"""uvicorn as its users start it, `uvicorn --loop aiouring:new_event_loop`, under HTTP and websocket clients.

The clients are aiohttp's, on the standard library's loop: what differs here is the server's doing.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from . import support
from .conftest import Certificates
from .support import CONNECTIONS, at_once, payload, run_on_asyncio

# (HTTP implementation, websocket implementation): each of uvicorn's own at least once.
IMPLEMENTATIONS = [("httptools", "websockets-sansio"), ("h11", "wsproto")]


def uvicorn(*options: str, address: tuple[str, int] | str, **kinds: object) -> support.ServerProcess:
    command = [sys.executable, "-m", "uvicorn", "asgi_app:app", "--loop", "aiouring:new_event_loop", "--no-access-log", *options]
    # uvicorn hands the signal on to itself once it has shut down in order: that is the status of a good end.
    kinds = {"exit_codes": (0, -signal.SIGTERM), **kinds}
    return support.ServerProcess(
        command,
        address=address,
        environment=support.child_environment(),
        folder=support.APPS,
        **kinds,  # type: ignore[arg-type]
    )


def uvicorn_on_tcp(*options: str, **kinds: object) -> tuple[support.ServerProcess, int]:
    port = support.free_port()
    return uvicorn("--host", "127.0.0.1", "--port", str(port), *options, address=("127.0.0.1", port), **kinds), port


@pytest.fixture(scope="module", params=IMPLEMENTATIONS, ids=lambda both: "+".join(both))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    http, websocket = request.param
    process, port = uvicorn_on_tcp("--http", http, "--ws", websocket)
    with process:
        yield f"http://127.0.0.1:{port}"
        # uvicorn's shutdown fails on a websocket whose closing handshake is half done.
        support.wait_until_nobody_is_connected(port)


def test_it_runs_on_the_loop_under_test(url: str) -> None:
    async def main() -> str:
        async with aiohttp.request("GET", f"{url}/loop") as response:
            return await response.text()

    name = run_on_asyncio(main())
    assert name.split(".")[0] == support.LOOP


def test_hundred_requests_are_inside_at_once(url: str) -> None:
    async def client(number: int) -> str:
        async with aiohttp.request("GET", f"{url}/together?count={CONNECTIONS}") as response:
            return await response.text()

    ports = run_on_asyncio(at_once(CONNECTIONS, client))
    assert len(set(ports)) == CONNECTIONS


def test_keep_alive_serves_many_requests_on_each_of_hundred_connections(url: str) -> None:
    async def client(number: int) -> set[str]:
        ports = set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            # All connections are open before the second request: none is reused between clients.
            async with session.get(f"{url}/together?count={CONNECTIONS}") as response:
                ports.add(await response.text())
            for turn in range(10):
                body = payload(1 + 977 * turn, seed=number)
                async with session.post(f"{url}/echo", data=body) as response:
                    assert response.status == 200
                    assert await response.read() == body
                    ports.add(response.headers["x-client-port"])
        return ports

    used = run_on_asyncio(at_once(CONNECTIONS, client))
    assert all(len(ports) == 1 for ports in used), "a keep-alive connection was closed between requests"
    assert len(set.union(*used)) == CONNECTIONS


def test_chunked_bodies_in_both_directions(url: str) -> None:
    async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
        for begin in range(0, len(body), size):
            yield body[begin : begin + size]
            # Each piece in a write of its own, answered or not.
            await asyncio.sleep(0)

    async def client(number: int) -> None:
        body = payload(20_000 + number, seed=number)
        async with aiohttp.request("POST", f"{url}/echo", data=pieces(body, 101 + 37 * number)) as response:
            assert response.headers["transfer-encoding"] == "chunked"
            assert await response.read() == body
        async with aiohttp.request("GET", f"{url}/download?seed={number}&size=50000&piece={1000 + number}") as response:
            assert response.headers["transfer-encoding"] == "chunked"
            assert await response.read() == payload(50_000, seed=number)

    run_on_asyncio(at_once(CONNECTIONS, client))


def test_large_bodies_in_both_directions(url: str) -> None:
    size = 1 << 20

    async def client(number: int) -> None:
        seed = number % 8
        body = payload(size, seed=seed)
        async with aiohttp.request("POST", f"{url}/digest", data=body) as response:
            assert await response.json(content_type=None) == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
        async with aiohttp.request("GET", f"{url}/download?seed={seed}&size={size}") as response:
            assert await response.read() == body

    run_on_asyncio(at_once(CONNECTIONS, client))


def test_a_very_large_body_streams_back_as_it_comes(url: str) -> None:
    body = payload(32 << 20, seed=1)

    async def main() -> bytes:
        async with aiohttp.request("POST", f"{url}/echo", data=io.BytesIO(body)) as response:
            return await response.read()

    assert run_on_asyncio(main()) == body


def test_a_client_that_reads_late_gets_every_byte(url: str) -> None:
    """The server's write side fills up and waits; nothing may be lost when the client reads on."""
    size = 8 << 20

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=4096)
        writer.write(f"GET /download?seed=3&size={size} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        # Another request on another connection is served meanwhile.
        async with aiohttp.request("GET", f"{url}/loop") as response:
            assert response.status == 200
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {size}".encode() in head.lower()
        assert await reader.readexactly(size) == payload(size, seed=3)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run_on_asyncio(at_once(10, client))


def test_a_request_that_comes_byte_by_byte_and_one_that_is_pipelined(url: str) -> None:
    port = int(url.rpartition(":")[2])
    request = b"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            connection.send(bytes([byte]))
        # Five more in one segment, behind the first.
        last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        connection.sendall(request * 4 + last)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 6
    assert received.count(hashlib.sha256(b"hello").hexdigest().encode()) == 6


def test_clients_that_vanish_are_noticed(url: str) -> None:
    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        # With data unread in the socket the kernel sends a reset; some close in order instead.
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()

    async def main() -> str:
        await at_once(CONNECTIONS, client)
        async with aiohttp.request("GET", f"{url}/disconnects?count={CONNECTIONS}") as response:
            return await response.text()

    assert run_on_asyncio(main()) == str(CONNECTIONS)


def test_work_in_threads(url: str) -> None:
    async def client(number: int) -> None:
        async with aiohttp.request("GET", f"{url}/thread?seed={number}&size=20000") as response:
            assert await response.read() == payload(20_000, seed=number)

    run_on_asyncio(at_once(CONNECTIONS, client))


def test_hundred_websockets(url: str) -> None:
    gathered = asyncio.Event()
    opened = 0

    async def client(number: int) -> None:
        nonlocal opened
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/ws", protocols=["echo"], max_msg_size=8 << 20) as websocket:
                assert websocket.protocol == "echo"
                opened += 1
                if opened == CONNECTIONS:
                    gathered.set()
                await gathered.wait()
                for size in (0, 1, 125, 126, 65_535, 65_536, 100_000 + number):
                    body = payload(size, seed=number)
                    await websocket.send_bytes(body)
                    assert await websocket.receive_bytes() == body
                    text = body.hex()
                    await websocket.send_str(text)
                    assert await websocket.receive_str() == text
                # Many in flight, answers in order.
                for turn in range(50):
                    await websocket.send_str(f"{number}/{turn}")
                assert [await websocket.receive_str() for _ in range(50)] == [f"{number}/{turn}" for turn in range(50)]
                await websocket.send_str(f"close {4000 + number}")
                closing = await websocket.receive()
                assert (closing.type, closing.data, closing.extra) == (aiohttp.WSMsgType.CLOSE, 4000 + number, "asked for")

    run_on_asyncio(at_once(CONNECTIONS, client))


def test_a_large_websocket_message(url: str) -> None:
    body = payload(8 << 20, seed=5)

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/ws", max_msg_size=0) as websocket:
                await websocket.send_bytes(body)
                assert await websocket.receive_bytes() == body

    run_on_asyncio(main())


def test_tls(certificates: Certificates) -> None:
    process, port = uvicorn_on_tcp("--ssl-certfile", certificates.server)
    context = certificates.client_context()

    async def client(number: int) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            body = payload(200_000 + number, seed=number)
            async with session.post(f"https://localhost:{port}/echo", data=body) as response:
                assert await response.read() == body
            async with session.ws_connect(f"wss://localhost:{port}/ws") as websocket:
                await websocket.send_bytes(body)
                assert await websocket.receive_bytes() == body

    with process:
        run_on_asyncio(at_once(CONNECTIONS, client))
        support.wait_until_nobody_is_connected(port)
        log = process.stop()
    assert "lifespan: ended" in log


def test_a_plain_client_on_a_tls_port_harms_nobody(certificates: Certificates) -> None:
    process, port = uvicorn_on_tcp("--ssl-certfile", certificates.server)
    with process:
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while plain.recv(65536):
                pass
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as raw:
            context: ssl.SSLContext = certificates.client_context()
            with context.wrap_socket(raw, server_hostname="localhost") as secure:
                secure.sendall(b"GET /loop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert secure.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_unix_socket() -> None:
    with tempfile.TemporaryDirectory(prefix="aiouring-uvicorn-") as folder:
        path = os.path.join(folder, "socket")

        async def client(number: int) -> None:
            body = payload(100_000 + number, seed=number)
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
                async with session.post("http://localhost/echo", data=body) as response:
                    assert await response.read() == body

        with uvicorn("--uds", path, address=path):
            run_on_asyncio(at_once(CONNECTIONS, client))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    """Requests that are being answered are answered to the end; then the application is told, and the process ends."""
    process, port = uvicorn_on_tcp(stop_signal=number, exit_codes=(0, -number, 128 + number))
    size = 16 << 20
    with process:
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as connection:
            request = f"GET /download?seed=1&size={size}&piece=65536 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            # Once the head is there, the request is in the middle: the socket's buffers hold far less than the answer.
            received = connection.recv(1024)
            os.kill(process.pid, number)
            while piece := connection.recv(1 << 20):
                received += piece
        assert received.endswith(b"\r\n0\r\n\r\n"), "the answer was cut off"
        log = process.stop(signalled=True)
    assert "lifespan: ended" in log


def test_two_workers() -> None:
    """Each worker is a process that uvicorn spawns, with a loop of its own, all on one inherited listening socket."""
    process, port = uvicorn_on_tcp("--workers", "2", exit_codes=(0, -signal.SIGTERM))

    async def client(number: int) -> None:
        body = payload(10_000 + number, seed=number)
        async with aiohttp.request("POST", f"http://127.0.0.1:{port}/echo", data=body) as response:
            assert await response.read() == body

    with process:
        run_on_asyncio(at_once(CONNECTIONS, client))
