"""The file server's HTTP: connections, pipelining, back-pressure, limits, time-outs, and input that is wrong on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import support
from .file_servers import LARGE_BYTES, Running, make_site, request, serving
from .support import at_once, run_on_asyncio

IDLE_TIMEOUT_S, WRITE_TIMEOUT_S = 0.8, 1.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(make_site(tmp_path_factory.mktemp("site")), "--valid", "1", "--stats") as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with short time-outs."""
    root = make_site(tmp_path_factory.mktemp("impatient"))
    root.joinpath("huge").write_bytes(support.payload(48 << 20))
    timeouts = ["--header-timeout", "0.4", "--idle-timeout", str(IDLE_TIMEOUT_S), "--write-timeout", str(WRITE_TIMEOUT_S)]
    with serving(root, *timeouts) as running:
        yield running


# --- connections


def test_keep_alive_and_close(site: Running) -> None:
    with site.connect() as client:
        for _ in range(3):
            answer = client.ask("/hello.txt")
            assert (answer.body, answer["Connection"]) == (b"hello, world\n", None)
        # An error is no reason to leave.
        assert client.ask("/missing").status == 404
        assert client.ask("/%zz").status == 400
        assert client.ask("/large.bin", Range="bytes=9999999-").status == 416
        assert client.ask("/large.bin").body == support.payload(LARGE_BYTES)
        answer = client.ask("/hello.txt", Connection="close")
        assert (answer.body, answer["Connection"]) == (b"hello, world\n", "close")
        assert client.is_closed()
    for wish in ("Close", "keep-alive, close", "close , x"):
        with site.connect() as client:
            assert client.ask("/large.bin", Connection=wish)["Connection"] == "close"
            assert client.is_closed()


def test_http_1_0(site: Running) -> None:
    answer = site.raw(b"GET /hello.txt HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nhello, world\n")
    with site.connect() as client:
        for _ in range(2):
            client.send(b"GET /hello.txt HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            kept = client.answer()
            assert (kept.body, kept["Connection"]) == (b"hello, world\n", "keep-alive")
        client.send(b"HEAD /hello.txt HTTP/1.0\r\n\r\n")
        assert client.answer("HEAD")["Connection"] == "close"
        assert client.is_closed()
    # A later minor version is ours with more to it.
    assert site.raw(b"GET /hello.txt HTTP/1.9\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"hello, world\n")


def test_a_client_that_ends_its_side_gets_its_answers(site: Running) -> None:
    with site.connect() as client:
        client.send(request("/large.bin") * 3 + request("/hello.txt"))
        client.sock.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert client.answer().body == support.payload(LARGE_BYTES)
        assert client.answer().body == b"hello, world\n"
        assert client.is_closed()
    # Half a request is none.
    with site.connect() as client:
        client.send(request("/hello.txt")[:-2])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.is_closed()
    with site.connect() as client:
        client.sock.shutdown(socket.SHUT_WR)
        assert client.is_closed()


def test_clients_that_vanish(site: Running) -> None:
    for number in range(60):
        with site.connect() as client:
            client.send(request("/large.bin") * (1 + number % 3))
            if number % 2:
                client.sock.recv(10)
            if number % 5 == 0:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # with a reset
    assert site.ask("/large.bin").body == support.payload(LARGE_BYTES)


def test_no_descriptor_is_left_open(site: Running) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{site.process.pid}/fd").iterdir()))

    site.ask("/large.bin")
    support.wait_until_nobody_is_connected(site.port)
    before = descriptors()
    for target in ("/large.bin", "/hello.txt", "/sub/", "/sub", "/missing", "/"):
        for headers in ({}, {"Range": "bytes=1-2,5-6"}, {"If_None_Match": "*"}, {"If_Match": '"x"'}, {"Range": "bytes=99999999-"}):
            site.ask(target, **headers)
            site.ask(target, "HEAD", **headers)
            with site.connect() as client:
                client.send(request(target, **headers))  # and is gone
    support.wait_until_nobody_is_connected(site.port)
    deadline_s = time.monotonic() + support.PATIENCE_S
    while descriptors() > before:
        assert time.monotonic() < deadline_s, f"{descriptors()} descriptors instead of {before}"
        time.sleep(0.01)


# --- pipelining


def script(chance: random.Random, count: int) -> tuple[bytes, list[tuple[str, int, bytes]]]:
    """Requests of all kinds in a row, and what is to come back: method, status, body."""
    whole, small = support.payload(LARGE_BYTES), support.payload(10_000)
    kinds: list[tuple[str, str, dict[str, str], int, bytes]] = [
        ("GET", "/hello.txt", {}, 200, b"hello, world\n"),
        ("GET", "/hello.txt", {}, 200, b"hello, world\n"),
        ("HEAD", "/hello.txt", {}, 200, b""),
        ("GET", "/small.bin", {}, 200, small),
        ("GET", "/small.bin", {"Range": "bytes=5000-"}, 206, small[5000:]),
        ("GET", "/large.bin", {}, 200, whole),
        ("GET", "/large.bin", {"Range": "bytes=1000000-1999999"}, 206, whole[1_000_000:2_000_000]),
        ("HEAD", "/large.bin", {}, 200, b""),
        ("GET", "/hello.txt", {"If-None-Match": "*"}, 304, b""),
        ("GET", "/empty", {}, 200, b""),
        ("GET", "/sub/deep/file", {"X-Long": "x" * 5000}, 200, b"deep"),
        ("HEAD", "/missing", {}, 404, b""),
        ("GET", "/indexed/", {}, 200, b"<p>the index"),
    ]
    sent, expected = b"", []
    for _ in range(count):
        method, target, headers, status, body = chance.choice(kinds)
        sent += request(target, method, **headers)
        expected.append((method, status, body))
    return sent, expected


@pytest.mark.parametrize("seed", range(6))
def test_pipelined_answers_come_in_order(site: Running, seed: int) -> None:
    """However the requests are cut into packets."""
    chance = random.Random(seed)
    sent, expected = script(chance, 40)
    with site.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send_some() -> None:
            nonlocal sent
            size = chance.choice([1, 7, 100, 5000, 100_000])
            client.send(sent[:size])
            sent = sent[size:]

        for method, status, body in expected:
            while sent and not select.select([client.sock], [], [], 0)[0]:
                send_some()
            answer = client.answer(method)
            if answer.status == 304:
                answer.body = b""
            assert (method, answer.status, answer.body == body) == (method, status, True)
        assert not sent
        client.send(request("/hello.txt", Connection="close"))
        client.answer()
        assert client.is_closed()


def test_a_request_cut_at_each_place(site: Running) -> None:
    whole = request("/hello.txt")
    with site.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(1, len(whole)):
            client.send(whole[:place])
            client.send(whole[place:])
            assert client.answer().body == b"hello, world\n"
        for byte in whole:
            client.send(bytes([byte]))
        assert client.answer().body == b"hello, world\n"


def test_the_same_head_with_more_behind_it(site: Running) -> None:
    """What the server remembers is the exact head: the same one with a header more is another request."""
    with site.connect() as client:
        for _ in range(3):
            assert client.ask("/small.bin").status == 200
        assert client.ask("/small.bin", Range="bytes=0-9").body == support.payload(10_000)[:10]
        assert client.ask("/small.bin", If_None_Match="*").status == 304
        assert client.ask("/small.bin", "HEAD").body == b""
        client.send(request("/small.bin") + request("/hello.txt")[:10])
        assert client.answer().status == 200
        client.send(request("/hello.txt")[10:])
        assert client.answer().body == b"hello, world\n"
        answer = client.ask("/small.bin", Connection="close")
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert client.is_closed()


def memory_kib(running: Running) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_client_that_asks_and_does_not_read(site: Running) -> None:
    """Its requests wait in its own socket: the server takes no more of them than it answers."""
    asked = request("/small.bin")
    assert site.ask("/small.bin").status == 200
    before = memory_kib(site)
    with site.connect() as client:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            client.sock.setsockopt(socket.SOL_SOCKET, option, 65536)
        client.sock.setblocking(False)
        sent = 0
        deadline_s = time.monotonic() + support.PATIENCE_S
        # Until nothing moves any more, neither here nor there.
        while select.select([], [client.sock], [], 1)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += client.sock.send(asked * 1000)
            assert time.monotonic() < deadline_s
        assert memory_kib(site) - before < 20_000
        # All that it asked for is there for it, once it reads.
        client.sock.setblocking(True)
        client.sock.settimeout(support.PATIENCE_S)
        for _ in range(sent // len(asked)):
            assert client.answer().body == support.payload(10_000)


def test_a_thousand_connections(site: Running) -> None:
    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for turn in range(3):
            begin = 1000 * number + turn
            writer.write(request("/hello.txt") + request("/large.bin", Range=f"bytes={begin}-{begin + 99_999}"))
            for status, body in ((200, b"hello, world\n"), (206, support.payload(LARGE_BYTES)[begin : begin + 100_000])):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(f"HTTP/1.1 {status} ".encode())
                assert await reader.readexactly(len(body)) == body
        writer.close()
        await writer.wait_closed()

    async def idle(number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", site.port)

    async def main() -> None:
        silent = await at_once(500, idle)
        await at_once(1000, client)
        for reader, writer in silent:
            writer.write(request("/hello.txt"))
            assert (await reader.readexactly(12)) == b"HTTP/1.1 200"
            writer.close()

    run_on_asyncio(main())


# --- what is refused


BAD = [
    (b"nonsense\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\n\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
    (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    # Header lines.
    (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\n: no name\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\n A: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\thost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA(b): c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\xc3\xa4: c\r\n\r\n", 400),
    # Host.
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    # How long is a body?
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    # Methods.
    (b"POST /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
    (b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"PATCH / HTTP/1.0\r\n\r\n", 405),
    (b"PROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    # Lengths.
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET /" + b"a" * 100_000, 414),
    (b"a" * 100_000, 414),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000, 431),
]


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize(("data", "status"), BAD, ids=[re.sub(rb"[^ -~]", b".", data)[:60].decode() for data, _ in BAD])
def test_bad_requests(site: Running, data: bytes, status: int, cut: bool) -> None:
    """Each is told what is wrong, and nothing behind it is taken for a request."""
    behind = request("/hello.txt")
    with site.connect() as client:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            if cut:
                client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                step = max(1, len(data) // 50)
                for place in range(0, len(data), step):
                    client.send(data[place : place + step])
            else:
                client.send(data)
            client.send(behind)
        answer = client.answer()
        assert (answer.status, answer["Connection"]) == (status, "close")
        assert (answer["Allow"] == "GET, HEAD") == (status == 405 or (status == 501 and b"Transfer-Encoding" not in data))
        assert b"hello, world" not in client.rest()
    assert site.ask("/hello.txt").status == 200


@pytest.mark.parametrize("data", [b"HEAD / HTTP/1.1\r\n\r\n", b"HEAD / HTTP/2.0\r\n\r\n", b"HEAD /%zz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_request_that_is_refused_gets_no_body(site: Running, data: bytes) -> None:
    with site.connect() as client:
        client.send(data)
        answer = client.answer("HEAD")
        assert answer.status in (400, 505) and int(answer["Content-Length"] or 0) > 0
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_what_is_unusual_and_right(site: Running) -> None:
    for head in (
        b"\r\n\r\nGET /hello.txt HTTP/1.1\r\nHost: x\r\n",
        b"GET /hello.txt HTTP/1.1\r\nhOsT:x\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost:\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost:   [::1]:80\t \r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nEmpty:\r\nUtf8: \xc3\xa4\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 000\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 90,
        b"GET /hello.txt?" + b"q" * 8000 + b" HTTP/1.1\r\nHost: x\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 30_000 + b"\r\n",
        b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nUpgrade: h2c\r\nTE: trailers\r\n",
    ):
        with site.connect() as client:
            client.send(head + b"\r\n")
            answer = client.answer()
            assert (answer.status, answer["Connection"]) == (200, None), head[:100]
            assert client.ask("/hello.txt").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 47\r\n\r\n",
        b"Content-Length: 1\r\n\r\nx",
        b"Transfer-Encoding: chunked\r\n\r\n2f\r\n",
        b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_body_is_no_request(site: Running, body: bytes) -> None:
    """What stands in a body, or behind it, must not be taken for a request by us if a proxy takes it for something else."""
    smuggled = request("/hello.txt")
    with site.connect() as client:
        client.send(b"GET /small.bin HTTP/1.1\r\nHost: x\r\n" + body + smuggled)
        answer = client.answer()
        assert (answer.status, answer["Connection"], answer.body) == (200, "close", support.payload(10_000))
        assert client.rest() == b""


def test_the_answer_to_an_upload_is_read_before_the_end(site: Running) -> None:
    """A server that closes at once resets the connection, and the client never sees why."""
    for _ in range(5):
        with site.connect() as client:
            with contextlib.suppress(BrokenPipeError):
                client.send(b"POST /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000))
            assert client.answer().status == 405
            client.sock.shutdown(socket.SHUT_WR)
            assert client.sock.recv(1) == b""


def test_garbage(site: Running) -> None:
    """Requests that were broken at random: whatever comes back is HTTP, and the server stays."""
    chance = random.Random(7)
    alphabet = b"\r\n\0 :/%\x80GETHOST.,\"0123456789-=*abc"
    for number in range(400):
        data, _ = script(chance, 2)
        broken = bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(broken))
            if chance.random() < 0.3:
                del broken[place : place + chance.randrange(1, 20)]
            elif chance.random() < 0.5:
                broken[place:place] = bytes(chance.choices(alphabet, k=chance.randrange(1, 10)))
            else:
                broken[place] = chance.choice(alphabet)
            if not broken:
                broken = bytearray(b"x")
        with site.connect() as client:
            client.send(bytes(broken) + b"\r\n\r\n" * (number % 2))
            client.sock.shutdown(socket.SHUT_WR)
            received = client.rest()
        assert received == b"" or received.startswith(b"HTTP/1.1 "), bytes(broken)
        assert b"HTTP/1.1 500 " not in received, bytes(broken)
    assert site.ask("/hello.txt").status == 200


# --- time-outs


def test_a_head_that_does_not_end(impatient: Running) -> None:
    with impatient.connect() as client:
        assert client.ask("/hello.txt").status == 200
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        answer = client.answer()
        assert (answer.status, answer["Connection"]) == (408, "close")
        assert client.is_closed()


def test_a_head_that_comes_byte_by_byte(impatient: Running) -> None:
    """Each byte in time, and the whole never."""
    begin_s = time.monotonic()
    with impatient.connect() as client:
        client.sock.settimeout(0.05)
        received = b""
        while not received:
            client.sock.send(b"x")
            with contextlib.suppress(TimeoutError):
                received = client.sock.recv(1000)
            assert time.monotonic() - begin_s < support.PATIENCE_S
    assert received.startswith(b"HTTP/1.1 408 ")


def test_empty_lines_keep_nobody_alive(impatient: Running) -> None:
    begin_s = time.monotonic()
    with impatient.connect() as client:
        client.sock.settimeout(0.05)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while True:
                client.sock.send(b"\r\n")
                with contextlib.suppress(TimeoutError):
                    assert client.sock.recv(1000) == b""
                    break
                assert time.monotonic() - begin_s < support.PATIENCE_S


def test_silent_connections_are_closed(impatient: Running) -> None:
    with impatient.connect() as never, impatient.connect() as once:
        assert once.ask("/hello.txt").status == 200
        assert never.is_closed()
        assert once.is_closed()


def note(steps_s: list[float]) -> None:
    steps_s.append(time.monotonic())


def keeping_pace(attempt: Callable[[Callable[[], None]], None], silence_s: float) -> None:
    """Runs what keeps a pace and calls its argument at each step. Where the machine held it up for about so long, the server was right to take it for
    silent: that says nothing, and it runs again."""
    for _ in range(5):
        steps_s = [time.monotonic()]
        try:
            attempt(functools.partial(note, steps_s))
            return
        except (OSError, EOFError):
            note(steps_s)
            if max(after - before for before, after in itertools.pairwise(steps_s)) < silence_s / 2:
                raise
    pytest.fail(f"no attempt of five went on without a pause of {silence_s / 2} s")


def test_a_busy_connection_is_not_idle(impatient: Running) -> None:
    """Longer than the time-outs, with something all the time."""

    def attempt(step: Callable[[], None]) -> None:
        with impatient.connect() as client:
            begin_s = time.monotonic()
            while time.monotonic() - begin_s < 2:
                assert client.ask("/hello.txt").status == 200
                step()
                time.sleep(0.1)  # a client's own pace is what is tested here

    keeping_pace(attempt, IDLE_TIMEOUT_S)


@pytest.mark.parametrize("target", ["/huge", "/small.bin"], ids=["from a file", "from memory"])
def test_a_client_that_stops_reading_is_disconnected(impatient: Running, target: str) -> None:
    size = 48 << 20 if target == "/huge" else 10_000
    count = 1 if target == "/huge" else 5000
    with impatient.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.send(request(target) * count)
        # Nothing is read before the server has given up, which shows in the kernel's table of connections.
        support.wait_until_nobody_is_connected(impatient.port)
        try:
            received = len(client.rest())
        except OSError:
            received = 0
        assert received < size * count


@pytest.mark.parametrize("target", ["/huge", "/small.bin"], ids=["from a file", "from memory"])
@pytest.mark.parametrize("pace_bytes", [10_000, 200_000])
def test_a_slow_reader_is_served(impatient: Running, target: str, pace_bytes: int) -> None:
    """It takes much longer than the write time-out, and takes something all the time, however little."""
    size = 48 << 20 if target == "/huge" else 10_000
    count = 1 if target == "/huge" else 1000

    def attempt(step: Callable[[], None]) -> None:
        with impatient.connect() as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.send(request(target) * count)
            begin_s = time.monotonic()
            while time.monotonic() - begin_s < 3:
                client._buffer += client.sock.recv(pace_bytes)
                step()
                time.sleep(0.05)  # a client's own pace is what is tested here
            client.sock.settimeout(support.PATIENCE_S)
            for _ in range(count):
                assert len(client.answer().body) == size
                step()

    keeping_pace(attempt, WRITE_TIMEOUT_S)


# --- other clients


def test_curl(site: Running, tmp_path: Path) -> None:
    curl = support.require_program("curl", "curl")
    base = f"http://127.0.0.1:{site.port}"

    def run(*arguments: str) -> bytes:
        return subprocess.run([curl, "-sS", "--max-time", "30", *arguments], check=True, capture_output=True).stdout

    whole = support.payload(LARGE_BYTES)
    assert run(f"{base}/large.bin") == whole
    assert run("-0", f"{base}/large.bin") == whole
    assert run("-r", "5-99", f"{base}/large.bin") == whole[5:100]
    assert run("-r", "-99", f"{base}/large.bin") == whole[-99:]
    assert run("-L", f"{base}/sub/deep") == run(f"{base}/sub/deep/")
    assert run("--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", f"{base}/../secret") == b"403"
    # A download that is gone on with, and one that is only made if there is something new.
    partial = tmp_path / "partial"
    partial.write_bytes(whole[:1_234_567])
    run("-C", "-", "-o", str(partial), f"{base}/large.bin")
    assert partial.read_bytes() == whole
    tag = tmp_path / "tag"
    assert run("--etag-save", str(tag), "-w", "%{http_code}", "-o", "/dev/null", f"{base}/large.bin") == b"200"
    assert run("--etag-compare", str(tag), "-w", "%{http_code}", "-o", "/dev/null", f"{base}/large.bin") == b"304"
    assert run("-z", "1 Jan 2037", "-w", "%{http_code}", "-o", "/dev/null", f"{base}/large.bin") == b"304"
    assert run("-I", f"{base}/large.bin").startswith(b"HTTP/1.1 200 OK")
    assert run(*[f"{base}/hello.txt"] * 5, "-w", "%{num_connects}").count(b"hello, world\n") == 5


async def test_aiohttp(site: Running) -> None:
    import aiohttp

    async with aiohttp.ClientSession(f"http://127.0.0.1:{site.port}") as session:

        async def fetch(number: int) -> None:
            async with session.get("/large.bin", headers={"Range": f"bytes={number}-"}) as answer:
                assert answer.status == 206
                assert await answer.read() == support.payload(LARGE_BYTES)[number:]

        await asyncio.gather(*map(fetch, range(20)))
        async with session.get("/sub") as answer:
            assert answer.url.path == "/sub/"
            assert "deep/" in await answer.text()
        async with session.post("/hello.txt", data=b"x" * 1_000_000) as answer:
            assert answer.status == 405


async def test_httpx(site: Running) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}", follow_redirects=True, trust_env=False) as session:
        answers = await asyncio.gather(*(session.get("/large.bin") for _ in range(10)))
        assert {answer.content for answer in answers} == {support.payload(LARGE_BYTES)}
        answer = await session.get("/sub")
        assert answer.url.path == "/sub/"
        assert (await session.get("/hello.txt", headers={"If-None-Match": "*"})).status_code == 304
        assert (await session.request("DELETE", "/hello.txt")).headers["allow"] == "GET, HEAD"
