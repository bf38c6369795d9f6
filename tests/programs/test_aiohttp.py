"""aiohttp's server and client, both on the loop under test, in one process and over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from . import support
from .conftest import Certificates
from .support import CONNECTIONS, at_once, payload

pytestmark = pytest.mark.asyncio


class Gate:
    """Opens once `count` tasks stand before it: whoever gets through knows that all were there at once."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._open = asyncio.Event()

    async def pass_through(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._open.set()
        await self._open.wait()


def application(files: Path | None = None) -> web.Application:
    gate = Gate(CONNECTIONS)

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response

    async def digest(request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response({"size": len(body), "sha256": hashlib.sha256(body).hexdigest()})

    async def together(request: web.Request) -> web.Response:
        await gate.pass_through()
        return web.Response(text="all here")

    async def upload(request: web.Request) -> web.Response:
        form = await request.post()
        field = form["file"]
        assert isinstance(field, web.FileField)
        return web.Response(body=field.file.read())

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0, protocols=["echo"])
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    async def client_name(request: web.Request) -> web.Response:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        cipher = request.transport.get_extra_info("cipher")
        return web.json_response({"names": certificate and certificate["subjectAltName"], "cipher": bool(cipher)})

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/echo", echo)
    app.router.add_post("/digest", digest)
    app.router.add_get("/together", together)
    app.router.add_post("/upload", upload)
    app.router.add_get("/ws", websocket)
    app.router.add_get("/client", client_name)
    if files is not None:
        app.router.add_static("/files", files, show_index=True)
    return app


@contextlib.asynccontextmanager
async def serving(app: web.Application, **site: object) -> AsyncIterator[int]:
    """Serves on a free port of 127.0.0.1; yields the port."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=512, **site).start()  # type: ignore[arg-type]
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_the_loop() -> None:
    assert type(asyncio.get_running_loop()).__module__.split(".")[0] == support.LOOP


async def test_hundred_requests_are_inside_at_once() -> None:
    async with serving(application()) as port:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def client(number: int) -> None:
                async with session.get(f"http://127.0.0.1:{port}/together") as response:
                    assert await response.text() == "all here"

            await at_once(CONNECTIONS, client)


async def test_thousand_requests_over_a_pool_of_hundred_connections() -> None:
    async with serving(application()) as port:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

            async def client(number: int) -> None:
                body = payload(7 * number, seed=number)
                async with session.post(f"http://127.0.0.1:{port}/echo", data=body) as response:
                    assert await response.read() == body

            await at_once(1000, client)


async def test_streaming_in_both_directions_at_once() -> None:
    """A piece is sent only after the one before it came back: nothing waits for the end of the body."""
    async with serving(application()) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> None:
            came_back = asyncio.Semaphore(1)
            pieces = [payload(1 + 401 * turn + number, seed=turn) for turn in range(20)]

            async def body() -> AsyncIterator[bytes]:
                for piece in pieces:
                    await came_back.acquire()
                    yield piece

            async with session.post(f"http://127.0.0.1:{port}/echo", data=body()) as response:
                for piece in pieces:
                    assert await response.content.readexactly(len(piece)) == piece
                    came_back.release()
                assert await response.content.read() == b""

        await at_once(CONNECTIONS, client)


async def test_large_bodies() -> None:
    size = 1 << 20
    async with serving(application()) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> None:
            body = payload(size, seed=number % 8)
            async with session.post(f"http://127.0.0.1:{port}/digest", data=body) as response:
                assert await response.json() == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
            async with session.post(f"http://127.0.0.1:{port}/echo", data=body) as response:
                assert await response.read() == body

        await at_once(CONNECTIONS, client)

        body = payload(48 << 20, seed=9)
        async with session.post(f"http://127.0.0.1:{port}/echo", data=io.BytesIO(body)) as response:
            assert await response.read() == body


async def test_a_multipart_upload() -> None:
    async with serving(application()) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> None:
            body = payload(100_000 + number, seed=number)
            form = aiohttp.FormData()
            form.add_field("file", io.BytesIO(body), filename="file.bin")
            async with session.post(f"http://127.0.0.1:{port}/upload", data=form) as response:
                assert await response.read() == body

        await at_once(CONNECTIONS, client)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_static_files_by_sendfile(tmp_path: Path, certificates: Certificates, tls: bool) -> None:
    """aiohttp sends files by loop.sendfile (not under TLS): whole, empty, ranges, and to curl, which is not ours."""
    contents = {"empty": b"", "small": b"abc", "large": payload(8 << 20, seed=4), "odd": payload(1_000_003, seed=5)}
    for name, body in contents.items():
        tmp_path.joinpath(name).write_bytes(body)
    curl = support.require_program("curl", "curl")
    scheme = "https" if tls else "http"
    async with serving(application(tmp_path), ssl_context=certificates.server_context() if tls else None) as port:
        connector = aiohttp.TCPConnector(limit=0, ssl=certificates.client_context() if tls else True)
        async with aiohttp.ClientSession(connector=connector) as session:
            base = f"{scheme}://localhost:{port}/files"
            for name, body in contents.items():
                async with session.get(f"{base}/{name}") as response:
                    assert response.status == 200
                    assert await response.read() == body

            async def ranges(number: int) -> None:
                begin, end = 997 * number, 999_983 + number * 3
                async with session.get(f"{base}/large", headers={"Range": f"bytes={begin}-{end}"}) as response:
                    assert response.status == 206
                    assert await response.read() == contents["large"][begin : end + 1]
                # The connection is still good for the next request.
                async with session.get(f"{base}/small") as response:
                    assert await response.read() == b"abc"

            await at_once(CONNECTIONS, ranges)

            # In a thread, so that this test does not depend on the loop's subprocesses.
            command = [curl, "--silent", "--fail", "--cacert", certificates.authority, f"{base}/odd"]
            fetched = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=support.PATIENCE_S)
            assert fetched.returncode == 0, fetched.stderr
            assert fetched.stdout == contents["odd"]


async def test_hundred_websockets() -> None:
    gate = Gate(CONNECTIONS)
    async with serving(application()) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> None:
            async with session.ws_connect(f"http://127.0.0.1:{port}/ws", max_msg_size=0, protocols=["echo"]) as websocket:
                await gate.pass_through()
                for size in (0, 1, 125, 126, 65_535, 65_536, 200_000 + number):
                    body = payload(size, seed=number)
                    await websocket.send_bytes(body)
                    assert await websocket.receive_bytes() == body
                    await websocket.send_str(body.hex())
                    assert await websocket.receive_str() == body.hex()
                await websocket.close()
                assert websocket.close_code == 1000

        await at_once(CONNECTIONS, client)


async def test_tls_with_client_certificates(certificates: Certificates) -> None:
    async with serving(application(), ssl_context=certificates.server_context(client_required=True)) as port:
        connector = aiohttp.TCPConnector(limit=0, ssl=certificates.client_context(with_certificate=True))
        async with aiohttp.ClientSession(connector=connector) as session:

            async def client(number: int) -> None:
                async with session.get(f"https://localhost:{port}/client") as response:
                    seen = await response.json()
                assert seen == {"names": [["email", "client@example.test"]], "cipher": True}
                body = payload(300_000 + number, seed=number)
                async with session.post(f"https://localhost:{port}/echo", data=body) as response:
                    assert await response.read() == body
                async with session.ws_connect(f"https://localhost:{port}/ws") as websocket:
                    await websocket.send_bytes(body)
                    assert await websocket.receive_bytes() == body

            await at_once(CONNECTIONS, client)

        # Without a certificate the server breaks the handshake off (with TLS 1.3 the client may see it only when it reads).
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=certificates.client_context())) as session:
            with pytest.raises((aiohttp.ClientSSLError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await session.get(f"https://localhost:{port}/client")


async def test_a_client_that_does_not_trust_the_server(certificates: Certificates) -> None:
    async with serving(application(), ssl_context=certificates.server_context()) as port, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"https://localhost:{port}/client")


async def test_a_wrong_host_name(certificates: Certificates) -> None:
    async with serving(application(), ssl_context=certificates.server_context()) as port:
        connector = aiohttp.TCPConnector(ssl=certificates.client_context())
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"https://localhost:{port}/client", server_hostname="wrong.example.test")


async def test_a_unix_socket() -> None:
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    with tempfile.TemporaryDirectory(prefix="aiouring-aiohttp-") as folder:
        path = os.path.join(folder, "socket")
        await web.UnixSite(runner, path, backlog=512).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, limit=0)) as session:

            async def client(number: int) -> None:
                body = payload(150_000 + number, seed=number)
                async with session.post("http://localhost/echo", data=body) as response:
                    assert await response.read() == body

            await at_once(CONNECTIONS, client)
        await runner.cleanup()


async def test_time_outs_and_cancelled_requests_leave_the_client_usable() -> None:
    never = asyncio.Event()
    inside = asyncio.Semaphore(0)
    app = application()

    async def hang(request: web.Request) -> web.Response:
        inside.release()
        await never.wait()
        return web.Response()

    app.router.add_get("/hang", hang)
    async with serving(app) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def times_out(number: int) -> None:
            with pytest.raises(TimeoutError):
                await session.get(f"http://127.0.0.1:{port}/hang", timeout=aiohttp.ClientTimeout(total=0.2))

        await at_once(CONNECTIONS, times_out)

        requests = [asyncio.ensure_future(session.get(f"http://127.0.0.1:{port}/hang")) for _ in range(CONNECTIONS)]
        for _ in range(2 * CONNECTIONS):
            await inside.acquire()
        for request in requests:
            request.cancel()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

        body = payload(100_000)
        async with session.post(f"http://127.0.0.1:{port}/echo", data=body) as response:
            assert await response.read() == body
        never.set()


async def test_a_server_that_goes_away_in_the_middle_of_an_answer() -> None:
    app = web.Application()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        await response.write(b"x" * 1000)
        assert request.transport is not None
        request.transport.abort()
        return response

    app.router.add_get("/cut", cut)
    async with serving(app) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int) -> None:
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                async with session.get(f"http://127.0.0.1:{port}/cut") as response:
                    await response.read()

        await at_once(CONNECTIONS, client)


async def test_a_refused_connection_names_its_address() -> None:
    port = support.free_port()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await session.get(f"http://127.0.0.1:{port}/")
    assert isinstance(refused.value.os_error, ConnectionRefusedError)
    assert str(port) in str(refused.value)


async def test_json_of_many_small_answers_is_whole() -> None:
    """Small answers, many connections, no pause between them: where lost wake-ups and swapped buffers show."""
    app = web.Application()

    async def number(request: web.Request) -> web.Response:
        return web.Response(body=json.dumps({"number": int(request.query["n"]), "pad": "x" * (int(request.query["n"]) % 700)}))

    app.router.add_get("/number", number)
    async with serving(app) as port, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(which: int) -> None:
            for turn in range(20):
                n = which * 1000 + turn
                async with session.get(f"http://127.0.0.1:{port}/number?n={n}") as response:
                    assert json.loads(await response.read()) == {"number": n, "pad": "x" * (n % 700)}

        await at_once(CONNECTIONS, client)
