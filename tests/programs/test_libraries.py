"""Libraries that stand on asyncio's interfaces in ways of their own: httpx and anyio, and the websockets library."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_process
import anyio.to_thread
import httpx
import pytest
from anyio.streams.tls import TLSListener, TLSStream
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from . import support
from .conftest import Certificates
from .support import CONNECTIONS, at_once, payload
from .test_uvicorn import uvicorn_on_tcp

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def uvicorn_port(certificates: Certificates) -> Iterator[int]:
    process, port = uvicorn_on_tcp("--ssl-certfile", certificates.server)
    with process:
        yield port


async def test_httpx(uvicorn_port: int, certificates: Certificates) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    base = f"https://localhost:{uvicorn_port}"
    async with httpx.AsyncClient(verify=certificates.client_context(), limits=limits, timeout=60, base_url=base) as session:

        async def client(number: int) -> str:
            inside = await session.get(f"/together?count={CONNECTIONS}")
            body = payload(100_000 + number, seed=number)
            assert (await session.post("/echo", content=body)).content == body
            received = b""
            async with session.stream("GET", f"/download?seed={number}&size=100000&piece=3000") as response:
                async for piece in response.aiter_raw():
                    received += piece
            assert received == payload(100_000, seed=number)
            return inside.text

        assert len(set(await at_once(CONNECTIONS, client))) == CONNECTIONS


async def test_httpx_times_out_and_goes_on(uvicorn_port: int, certificates: Certificates) -> None:
    async with httpx.AsyncClient(verify=certificates.client_context()) as session:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                await session.get(f"https://localhost:{uvicorn_port}/together?count=1000000", timeout=0.2)
        body = payload(1 << 20)
        assert (await session.post(f"https://localhost:{uvicorn_port}/echo", content=body)).content == body


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_anyio_streams(certificates: Certificates, tls: bool) -> None:
    async def echo(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            async for piece in stream:
                await stream.send(piece)

    async def client(number: int) -> None:
        stream: anyio.abc.ByteStream = await anyio.connect_tcp("127.0.0.1", port)
        if tls:
            stream = await TLSStream.wrap(stream, hostname="localhost", ssl_context=certificates.client_context())
        async with stream:
            await gate.wait()
            body = payload(150_000 + number, seed=number)
            async with anyio.create_task_group() as group:
                group.start_soon(stream.send, body)
                received = b""
                while len(received) < len(body):
                    received += await stream.receive()
            assert received == body

    gate = asyncio.Barrier(CONNECTIONS)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0, backlog=512)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    serving = TLSListener(listener, certificates.server_context()) if tls else listener
    async with anyio.create_task_group() as group:
        group.start_soon(serving.serve, echo)
        await at_once(CONNECTIONS, client)
        group.cancel_scope.cancel()
    await serving.aclose()


async def test_anyio_unix_sockets_and_descriptors(tmp_path: Path) -> None:
    """anyio passes descriptors by sendmsg on the socket itself, between waits for the socket (add_reader, add_writer)."""
    path = os.path.join(os.path.relpath(tmp_path), "socket")
    body = payload(1_000_000, seed=1)
    tmp_path.joinpath("file").write_bytes(body)

    async def handle(stream: anyio.abc.SocketStream) -> None:
        assert isinstance(stream, anyio.abc.UNIXSocketStream)
        async with stream:
            with tmp_path.joinpath("file").open("rb") as file:
                await stream.send_fds(b"here", [file])

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        for _ in range(20):
            async with await anyio.connect_unix(path) as stream:
                message, descriptors = await stream.receive_fds(4, 1)
                assert message == b"here"
                with os.fdopen(descriptors[0], "rb") as file:
                    assert file.read() == body
        group.cancel_scope.cancel()


async def test_anyio_udp() -> None:
    async with await anyio.create_udp_socket(family=socket.AF_INET, local_host="127.0.0.1") as server:
        address = server.extra(anyio.abc.SocketAttribute.local_address)
        assert isinstance(address, tuple)

        async def answer() -> None:
            async for packet, sender in server:
                await server.sendto(packet[::-1], *sender)

        async def client(number: int) -> None:
            async with await anyio.create_connected_udp_socket(address[0], address[1], family=socket.AF_INET) as own:
                for turn in range(20):
                    packet = payload(1 + turn * 60, seed=number)
                    await own.send(packet)
                    assert await own.receive() == packet[::-1]

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            await at_once(CONNECTIONS, client)
            group.cancel_scope.cancel()


async def test_anyio_processes() -> None:
    reverse = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1]); sys.exit(3)"

    async def one(number: int) -> None:
        body = payload(300_000 + number, seed=number)
        finished = await anyio.run_process([sys.executable, "-c", reverse], input=body, check=False)
        assert (finished.returncode, finished.stdout) == (3, body[::-1])

    await at_once(10, one)
    async with await anyio.open_process([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        process.terminate()
        assert await process.wait() == -signal.SIGTERM


async def test_anyio_threads_and_cancellation() -> None:
    def in_thread(number: int) -> int:
        return anyio.from_thread.run(double, number)

    async def double(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * number

    assert await at_once(CONNECTIONS, lambda number: anyio.to_thread.run_sync(in_thread, number)) == list(range(0, 200, 2))
    with anyio.move_on_after(0.05) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
                await listener.serve(lambda stream: stream.aclose())


async def test_anyio_signals() -> None:
    with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await anext(signals) == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGUSR2)
        assert await anext(signals) == signal.SIGUSR2


async def test_anyio_run_with_the_loop(tmp_path: Path) -> None:
    """anyio.run with a loop factory, in a process of its own: that is how such programs choose a loop."""
    program = (
        "import anyio, asyncio, aiouring\n"
        "async def main():\n"
        "    async with anyio.create_task_group() as group:\n"
        "        for _ in range(10): group.start_soon(anyio.sleep, 0.01)\n"
        "    return type(asyncio.get_running_loop()).__module__.split('.')[0]\n"
        "print(anyio.run(main, backend_options={'loop_factory': aiouring.new_event_loop}))\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = await asyncio.to_thread(
        subprocess.run, command, env=support.child_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, support.LOOP), done.stderr


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_websockets(certificates: Certificates, tls: bool) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            if message == "please close":
                await connection.close(4000, "as you wish")
            else:
                await connection.send(message)

    gate = asyncio.Barrier(CONNECTIONS)
    secure: ssl.SSLContext | None = certificates.server_context() if tls else None
    async with serve(echo, "127.0.0.1", 0, ssl=secure, max_size=None, backlog=512) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        scheme, trust = ("wss", certificates.client_context()) if tls else ("ws", None)

        async def client(number: int) -> None:
            async with connect(f"{scheme}://localhost:{port}", ssl=trust, max_size=None, open_timeout=60) as connection:
                await gate.wait()
                for size in (0, 125, 126, 65_536, 100_000 + number):
                    body = payload(size, seed=number)
                    await connection.send(body)
                    assert await connection.recv() == body
                pong = await connection.ping()
                assert await pong >= 0
                await connection.send("please close")
                with pytest.raises(ConnectionClosedError) as closed:
                    await connection.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4000

        await at_once(CONNECTIONS, client)


async def test_websockets_broadcast() -> None:
    members: set[ServerConnection] = set()
    everybody = asyncio.Event()

    async def member(connection: ServerConnection) -> None:
        members.add(connection)
        if len(members) == CONNECTIONS:
            everybody.set()
        await connection.wait_closed()

    async with serve(member, "127.0.0.1", 0, backlog=512) as server:
        port = next(iter(server.sockets)).getsockname()[1]

        async def listener(number: int) -> None:
            async with connect(f"ws://127.0.0.1:{port}", open_timeout=60) as connection:
                assert [await connection.recv() for _ in range(100)] == [payload(500 + turn, seed=turn) for turn in range(100)]
                await connection.close()
                with pytest.raises(ConnectionClosedOK):
                    await connection.recv()

        async def speaker() -> None:
            await everybody.wait()
            for turn in range(100):
                message = payload(500 + turn, seed=turn)
                await asyncio.gather(*(connection.send(message) for connection in members))

        async with asyncio.TaskGroup() as group:
            group.create_task(at_once(CONNECTIONS, listener))
            group.create_task(speaker())
