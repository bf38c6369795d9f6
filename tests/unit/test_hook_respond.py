"""Canned answers: the same requests under each engine, without one, and under plain asyncio code; every byte of the answers compared."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from typing import Any

import pytest

import aiouring
from aiouring import Delimited, _hook
from aiouring.bpf import Hook
from tests.unit.hook_programs import ENGINES, check_fork, some
from tests.unit.hook_serving import serving, stats_of

HEALTH = b"GET /health HTTP/1.1\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + bytes(range(250)) * 16
RESPOND = {HEALTH: OK, b"GET /large ": LARGE, b"GET /healthy": b"never: a shorter prefix comes before it"}


@pytest.fixture(params=[*ENGINES, "none"])
def engine(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def request_of(path: bytes, *, headers: bytes = b"Host: here\r\n") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + headers + b"\r\n"


class Application(asyncio.Protocol):
    """Answers each whole request with its number and path, also those that have a canned answer: what it gets, it answers."""

    hands_back = False

    def __init__(self) -> None:
        self.buffer = b""
        self.requests: list[bytes] = []
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            request, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            self.requests.append(request)
            self.answer(request)
        if self.hands_back and not self.buffer:
            self.transport.resume_answers()

    def answer(self, request: bytes) -> None:
        self.transport.write(answer_of(request + b"\r\n\r\n"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class HandsBack(Application):
    hands_back = True


def answer_of(request: bytes) -> bytes:
    for prefix, answer in RESPOND.items():
        if request.startswith(prefix):
            return answer
    return b"<" + request.split(b" ")[1] + b">"


async def receive(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    got = b""
    while len(got) < count:
        data = await loop.sock_recv(sock, count - len(got))
        assert data, got
        got += data
    return got


async def exchange(sock: socket.socket, request: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    assert await receive(sock, len(answer_of(request))) == answer_of(request)


async def test_health_checks_do_not_reach_the_protocol(engine: str) -> None:
    async with serving(engine, Application, respond=RESPOND) as running:
        sock, made = await running.connect()
        for _ in range(20):
            await exchange(sock, request_of(b"/health"))
            await exchange(sock, request_of(b"/large"))
        assert made.requests == []
        await exchange(sock, request_of(b"/other"))
        await exchange(sock, request_of(b"/health"))
        assert [request.split(b" ")[1] for request in made.requests] == [b"/other", b"/health"]
        made.transport.resume_answers()
        await exchange(sock, request_of(b"/health"))
        assert len(made.requests) == 2
        if running.hook is not None:
            assert running.hook.stats["answered"] >= 40
            assert running.hook.stats["passed_on"] >= 2
        sock.close()
        assert await made.lost is None


async def test_python_sleeps_while_the_hook_answers(engine: str) -> None:
    if engine == "none":
        return
    loop = asyncio.get_running_loop()
    async with serving(engine, Application, respond=RESPOND) as running:
        sock, made = await running.connect()
        await exchange(sock, request_of(b"/health"))
        sock.setblocking(True)

        def client() -> int:
            before = stats_of(loop)["turns"]
            for _ in range(some(engine, 1000)):
                sock.sendall(request_of(b"/health"))
                assert sock.recv(4096) == OK
            return stats_of(loop)["turns"] - before

        assert await loop.run_in_executor(None, client) <= 1
        assert running.hook.stats["answered"] >= some(engine, 1000)  # type: ignore[union-attr]
        assert made.requests == []
        sock.close()


@pytest.mark.parametrize("protocol", [Application, HandsBack])
async def test_random_requests_are_answered_in_order(engine: str, protocol: type[Application], rng: random.Random) -> None:
    """Alone, pipelined, cut in pieces, with a canned answer and without: what comes back does not depend on who answers."""
    loop = asyncio.get_running_loop()
    for _ in range(some(engine, 4)):
        async with serving(engine, protocol, respond=RESPOND) as running:
            ends = [await running.connect() for _ in range(6)]

            async def client(sock: socket.socket) -> None:
                for _ in range(some(engine, 60)):
                    paths = [rng.choice([b"/health", b"/large", b"/other", b"/more"]) for _ in range(rng.choice([1, 1, 1, 2, 6]))]
                    requests = [request_of(path, headers=b"X: " + b"y" * rng.choice([1, 50, 2000]) + b"\r\n") for path in paths]
                    stream = b"".join(requests)
                    while stream:
                        size = rng.choice([len(stream), len(stream), len(requests[0]), rng.randint(1, len(stream))])
                        await loop.sock_sendall(sock, stream[:size])
                        stream = stream[size:]
                        if rng.random() < 0.3:
                            await asyncio.sleep(0)
                    expected = b"".join(map(answer_of, requests))
                    assert await receive(sock, len(expected)) == expected
                    # What is canned goes on without the protocol afterwards, on connections that never had anything else.

            await asyncio.gather(*(client(sock) for sock, _ in ends))
            for sock, made in ends:
                sock.close()
                assert await made.lost is None
    assert stats_of(loop)["slots_in_use"] == 1


class Slow(Application):
    """Answers when it is told to."""

    def answer(self, request: bytes) -> None:
        self.waiting = request


async def test_no_canned_answer_overtakes_the_protocols(engine: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine, Slow, respond=RESPOND) as running:
        sock, made = await running.connect()
        await loop.sock_sendall(sock, request_of(b"/slow"))
        while not made.requests:
            await asyncio.sleep(0)
        await loop.sock_sendall(sock, request_of(b"/health"))
        while len(made.requests) < 2:
            await asyncio.sleep(0)
        made.transport.write(b"<slow>")
        made.transport.write(OK)
        assert await receive(sock, 6 + len(OK)) == b"<slow>" + OK
        sock.close()


async def test_what_the_protocol_writes_first_comes_first(engine: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine, Application, respond=RESPOND) as running:
        sock, made = await running.connect()
        await loop.sock_sendall(sock, request_of(b"/health"))
        made.transport.write(b"greeting")
        await loop.sock_sendall(sock, request_of(b"/health"))
        got = await receive(sock, 8 + 2 * len(OK))
        assert sorted([got.replace(b"greeting", b"", 1), b"greeting"]) == sorted([OK + OK, b"greeting"])
        assert got.index(b"greeting") % len(OK) == 0
        sock.close()


async def test_a_peer_that_does_not_read_gets_all_of_it_later(engine: str) -> None:
    """More answers than the socket has room for: Python sends what is left over, and the order stays."""
    loop = asyncio.get_running_loop()
    for end in ("read", "close", "reset"):
        async with serving(engine, Application, respond=RESPOND) as running:
            sock, made = await running.connect(receive_buffer=4096)
            made.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            count = some(engine, 200)
            for _ in range(count):
                await loop.sock_sendall(sock, request_of(b"/large"))
                await asyncio.sleep(0)
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
                assert isinstance(await made.lost, ConnectionError)
                continue
            if end == "close":
                sock.shutdown(socket.SHUT_WR)
            # What is passed on is answered by the protocol with the same bytes.
            assert await receive(sock, count * len(LARGE)) == LARGE * count
            if end == "close":
                assert await loop.sock_recv(sock, 1) == b""
                assert await made.lost is None
            sock.close()


async def test_an_answer_to_a_peer_that_ends_its_stream_at_once(engine: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine, Application, respond=RESPOND) as running:
        for _ in range(20):
            sock, made = await running.connect()
            sock.send(request_of(b"/large"))
            sock.shutdown(socket.SHUT_WR)
            assert await receive(sock, len(LARGE)) == LARGE
            assert await loop.sock_recv(sock, 1) == b""
            assert await made.lost is None
            sock.close()


async def test_closing_with_answers_under_way(engine: str, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    async with serving(engine, Application, respond=RESPOND) as running:
        for _ in range(some(engine, 40)):
            ends = [await running.connect() for _ in range(4)]
            for sock, made in ends:
                sock.send(request_of(rng.choice([b"/large", b"/health", b"/other"])))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
                how = rng.choice(["close", "abort", "peer"])
                if how == "peer":
                    sock.close()
                else:
                    getattr(made.transport, how)()
            for sock, made in ends:
                assert isinstance(await made.lost, ConnectionError | None)
                sock.close()
        buffers = stats_of(loop)
        assert buffers["buffers_free"] == buffers["buffers_total"]
        if running.hook is not None:
            assert stats_of(loop)["slots_in_use"] == 2


async def test_detaching_with_answers_under_way(engine: str) -> None:
    if engine == "none":
        return
    async with serving(engine, Application, respond=RESPOND) as running:
        sock, made = await running.connect()
        for number in range(some(engine, 30)):
            sock.send(request_of(b"/health"))
            if number % 2:
                await asyncio.sleep(0)
            running.hook.detach()  # type: ignore[union-attr]
            assert await receive(sock, len(OK)) == OK
            await exchange(sock, request_of(b"/health"))
            running.hook = Hook.load("standard", engine=engine).attach()  # type: ignore[arg-type]
            await exchange(sock, request_of(b"/large"))
        assert made.requests == []
        answered = running.hook.stats["answered"]
        await exchange(sock, request_of(b"/health"))
        await exchange(sock, request_of(b"/health"))
        assert running.hook.stats["answered"] > answered
        sock.close()


def test_answers_go_on_in_another_thread(engine: str) -> None:
    loop: Any = aiouring.new_event_loop()
    kept: list[Any] = []

    async def begin() -> None:
        manager = serving(engine, Application, respond=RESPOND)
        running = await manager.__aenter__()
        sock, made = await running.connect()
        await exchange(sock, request_of(b"/health"))
        sock.send(request_of(b"/large"))
        kept.extend([manager, sock, made])

    async def go_on() -> None:
        manager, sock, made = kept
        assert await receive(sock, len(LARGE)) == LARGE
        await exchange(sock, request_of(b"/health"))
        await exchange(sock, request_of(b"/other"))
        assert len(made.requests) == 1
        sock.close()
        await manager.__aexit__(None, None, None)

    loop.run_until_complete(begin())
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(go_on())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    loop.close()
    if failures:
        raise failures[0]


def test_a_fork_in_a_callback() -> None:
    check_fork('respond={b"health": b"ok"}', more=True)


async def test_servers_take_and_give_back_their_places(engine: str) -> None:
    """64 places in the region: more servers than that are answered for without them, and closed ones give theirs back."""
    if engine == "none":
        return
    loop: Any = asyncio.get_running_loop()
    hook = Hook.load("standard", engine=engine).attach()  # type: ignore[arg-type]
    for _ in range(3):
        servers = []
        for number in range(6):
            answers = {b"GET /%d/%d " % (number, i): b"%d,%d" % (number, i) for i in range(16)}
            servers.append(await loop.create_server(Application, "127.0.0.1", 0, respond=answers))
        before = hook.stats["answered"]
        for number, server in enumerate(servers):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(request_of(b"/%d/15" % number))
            assert await reader.readexactly(4) == b"%d,15" % number
            writer.close()
            await writer.wait_closed()
        assert hook.stats["answered"] - before == 4
        for server in servers:
            server.close()
        servers.clear()
        del server
        for _ in range(5):
            await asyncio.sleep(0)
    hook.detach()


async def test_what_cannot_be_answered_says_why() -> None:
    loop: Any = asyncio.get_running_loop()
    many = {b"%d" % number: b"x" for number in range(17)}
    for wrong in ({}, many, {b"": b"x"}, {b"x" * 257: b"x"}, {b"x": b""}, {b"x": b"y" * 4097}):
        with pytest.raises(ValueError, match="respond ha"):
            await loop.create_server(Application, "127.0.0.1", 0, respond=wrong)
    with pytest.raises(TypeError, match="bytes objects"):
        await loop.create_server(Application, "127.0.0.1", 0, respond={"x": b"y"})
    with pytest.raises(TypeError, match="dict"):
        await loop.create_server(Application, "127.0.0.1", 0, respond=[b"x"])
    with pytest.raises(ValueError, match="both"):
        await loop.create_server(Application, "127.0.0.1", 0, respond=RESPOND, frames=Delimited())
    left, right = socket.socketpair()
    with left:
        right.setblocking(False)
        transport, _ = await loop.create_connection(Application, sock=right)
        with pytest.raises(RuntimeError, match="no respond="):
            transport.resume_answers()
        transport.abort()
    assert _hook.engine_of(loop) is None
