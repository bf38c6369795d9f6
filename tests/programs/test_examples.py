"""Each program of examples/ as its users start it: as a process, with its own options, ended by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from . import support
from .support import CONNECTIONS, at_once, payload, run_on_asyncio

EXAMPLES = support.REPOSITORY / "examples"


def command_of(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]


@contextlib.contextmanager
def example(name: str, greeting: str, *arguments: str) -> Iterator[tuple[support.ServerProcess, int]]:
    """An example on a free port; yields the process and the port that it says it listens on."""
    process = support.ServerProcess(
        command_of(name, *arguments, "--port", "0"),
        address=None,
        environment=support.child_environment(),
        stop_signal=signal.SIGINT,
    )
    with process:
        said = process.wait_for_line(greeting)
        port = re.match(r"127\.0\.0\.1:(\d+)", said)
        assert port is not None, said
        yield process, int(port[1])


def run_example(name: str, *arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command_of(name, *arguments),
        input=stdin,
        capture_output=True,
        timeout=support.PATIENCE_S * 2,
        env=support.child_environment(**environment),
    )


async def exchange(port: int, body: bytes) -> None:
    """Sends a body, says that it is all, and expects it back; reading and writing at the same time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(body)
    writer.write_eof()
    assert await reader.read() == body
    writer.close()
    await writer.wait_closed()


def test_every_example_is_tested_here_and_says_how_to_run_it() -> None:
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        if path.name == "__init__.py":
            continue
        head = path.read_text().split('"""')[1]
        assert f"python examples/{path.name}" in head, f"{path.name} does not say how to run it"
        assert "Shows:" in head, f"{path.name} does not say what it shows"
        assert f'"{path.stem}"' in tests, f"{path.name} has no test"


def test_echo_server() -> None:
    with example("echo_server", "echo server on ") as (_, port):
        run_on_asyncio(at_once(CONNECTIONS, lambda number: exchange(port, payload(100_000 + number, seed=number))))


def test_echo_server_survives_resets() -> None:
    with example("echo_server", "echo server on ") as (_, port):

        async def rude(number: int) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(payload(1 << 20))
            writer.transport.abort()

        run_on_asyncio(at_once(CONNECTIONS, rude))
        run_on_asyncio(exchange(port, payload(1 << 20)))


def test_ctrl_c_ends_a_server_with_connected_clients() -> None:
    with example("echo_server", "echo server on ") as (process, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        process.stop()
        client.settimeout(support.PATIENCE_S)
        assert client.recv(1) == b"", "the client was not told"


def test_chat_server() -> None:
    """Everybody hears what every other one says, in each one's order; the late and the rude do no harm."""
    people = 20
    lines = 10

    async def join(port: int, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(len("Your name? ")) == b"Your name? "
        writer.write(f"{name}\n".encode())
        assert (await reader.readline()).startswith(f"* hello {name}; here: ".encode())
        return reader, writer

    async def main(port: int) -> None:
        members = [await join(port, f"person {number}") for number in range(people)]

        # A name that is taken is asked for again; somebody who leaves without a word is just gone.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"person 0\nlate\n")
        assert (await reader.readuntil(b"hello late")).count(b"Your name? ") == 2
        writer.transport.abort()

        async def listen(number: int) -> None:
            heard: dict[str, list[str]] = {}
            left = False
            while not left or sum(map(len, heard.values())) < (people - 1) * lines:
                line = (await members[number][0].readline()).decode().rstrip("\n")
                if line == "* late has left":
                    left = True
                elif not line.startswith("*"):
                    speaker, _, text = line.partition(": ")
                    heard.setdefault(speaker, []).append(text)
            others = [other for other in range(people) if other != number]
            assert heard == {f"person {other}": [f"line {turn} of {other}" for turn in range(lines)] for other in others}

        async def talk(number: int) -> None:
            for turn in range(lines):
                members[number][1].write(f"line {turn} of {number}\n".encode())
                await asyncio.sleep(0)

        await asyncio.gather(*map(listen, range(people)), *map(talk, range(people)))
        for _, writer in members:
            writer.close()

    with example("chat_server", "chat server on ") as (_, port):
        run_on_asyncio(main(port))


def test_tcp_proxy() -> None:
    with (
        example("echo_server", "echo server on ") as (_, far),
        example("tcp_proxy", "TCP proxy on ", f"127.0.0.1:{far}") as (process, port),
    ):
        run_on_asyncio(at_once(CONNECTIONS, lambda number: exchange(port, payload(300_000 + number, seed=number))))
        run_on_asyncio(exchange(port, payload(32 << 20)))
        log = process.stop()
    assert f"{32 << 20} bytes there, {32 << 20} bytes back" in log
    assert log.count("bytes back") == CONNECTIONS + 1


def test_tcp_proxy_with_nobody_behind_it() -> None:
    closed = support.free_port()
    with example("tcp_proxy", "TCP proxy on ", f"127.0.0.1:{closed}") as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as client:
            assert client.recv(1) == b""
        log = process.stop()
    assert f"cannot reach 127.0.0.1:{closed}" in log


def test_udp_server() -> None:
    with example("udp_server", "UDP server on ") as (process, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.connect(("127.0.0.1", port))
            client.settimeout(support.PATIENCE_S)
        octets = 0
        for turn in range(20):
            # As many at once as the server's socket holds for sure; the kernel drops the rest, as UDP may.
            for group in range(0, CONNECTIONS, 20):
                packets = [(client, payload(1 + 70 * turn + number, seed=number)) for number, client in enumerate(clients[group : group + 20])]
                for client, packet in packets:
                    client.send(packet)
                for client, packet in packets:
                    octets += len(packet)
                    assert client.recv(65536) == packet
        clients[0].send(payload(65_507))
        assert clients[0].recv(65536) == payload(65_507)
        process.wait_for_line(f"{20 * CONNECTIONS + 1} datagrams, {octets + 65_507} bytes")


def test_subprocess_pipeline() -> None:
    # Far more than the pipes between the processes hold.
    words = [f"word{number % 1000}" for number in range(300_000)]
    text = " ".join(words).encode()
    done = run_example("subprocess_pipeline", r"tr -s ' ' '\n'", "sort", "uniq -c", "sort -k2", stdin=text)
    assert done.returncode == 0, done.stderr
    rows = [row.split() for row in done.stdout.decode().splitlines()]
    assert {name: int(count) for count, name in rows} == {f"word{number}": 300 for number in range(1000)}
    assert done.stderr.decode().splitlines()[0].endswith("ended with 0")


def test_subprocess_pipeline_that_stops_reading() -> None:
    done = run_example("subprocess_pipeline", "cat", "head -c 10", stdin=payload(4 << 20))
    assert done.stdout == payload(4 << 20)[:10]
    # cat is told by SIGPIPE that nobody reads any more.
    assert done.stderr.decode().splitlines() == ["'cat' ended with -13", "'head -c 10' ended with 0"]


def test_subprocess_pipeline_by_default() -> None:
    done = run_example("subprocess_pipeline", stdin=b"a b a c a b")
    assert [row.split() for row in done.stdout.decode().splitlines()] == [["3", "a"], ["2", "b"], ["1", "c"]]


# --- the demo server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.joinpath("sub").mkdir(parents=True)
    folder.joinpath("hello.txt").write_bytes(b"hello, world\n")
    folder.joinpath("large.bin").write_bytes(payload(3_000_000))
    folder.joinpath("empty").write_bytes(b"")
    folder.joinpath("sub", "ümläut & <tag>?.html").write_bytes(b"<p>x")
    folder.joinpath("outside").symlink_to("/etc/passwd")
    folder.joinpath("inside").symlink_to("hello.txt")
    os.mkfifo(folder / "fifo")
    tmp_path.joinpath("secret").write_bytes(b"secret")
    return folder


@pytest.fixture
def demo(root: Path) -> Iterator[http.client.HTTPConnection]:
    with example("demo_server", f"serving {root} on http://", "--root", str(root)) as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=support.PATIENCE_S)
        with contextlib.closing(connection):
            yield connection


def ask(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer, answer.read()


def test_demo_server_files(demo: http.client.HTTPConnection, root: Path) -> None:
    answer, body = ask(demo, "/hello.txt")
    assert (answer.status, body) == (200, b"hello, world\n")
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert ask(demo, "/large.bin")[1] == payload(3_000_000)
    assert ask(demo, "/empty")[1] == b""
    assert ask(demo, "/inside")[1] == b"hello, world\n"
    assert ask(demo, "/missing")[0].status == 404
    assert ask(demo, "/hello.txt/")[0].status == 404
    assert ask(demo, "/hello.txt/more")[0].status == 404
    assert ask(demo, "/fifo")[0].status == 403
    assert ask(demo, "/hello.txt?query=1")[1] == b"hello, world\n"
    answer, body = ask(demo, "/large.bin", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], body) == (200, "3000000", b"")
    tag = answer.headers["ETag"]
    assert ask(demo, "/large.bin", If_None_Match=tag)[0].status == 304
    root.joinpath("large.bin").write_bytes(b"changed")
    answer, body = ask(demo, "/large.bin", If_None_Match=tag)
    assert (answer.status, body) == (200, b"changed")


def test_demo_server_ranges(demo: http.client.HTTPConnection) -> None:
    whole = payload(3_000_000)
    for asked, begin, end in [
        ("0-0", 0, 1),
        ("5-9", 5, 10),
        ("0-", 0, 3_000_000),
        ("1000000-", 1_000_000, 3_000_000),
        ("2999999-2999999", 2_999_999, 3_000_000),
        ("2999990-9999999", 2_999_990, 3_000_000),
        ("-1", 2_999_999, 3_000_000),
        ("-500000", 2_500_000, 3_000_000),
        ("-9999999", 0, 3_000_000),
    ]:
        answer, body = ask(demo, "/large.bin", Range=f"bytes={asked}")
        assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {begin}-{end - 1}/3000000")
        assert body == whole[begin:end]
    for asked in ("3000000-", "3000000-3000001", "-0"):
        answer, _ = ask(demo, "/large.bin", Range=f"bytes={asked}")
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */3000000")
    assert ask(demo, "/empty", Range="bytes=0-")[0].status == 416
    # No range at all, or several: the whole file is an answer that every client understands.
    for odd in ("bytes=", "bytes=-", "bytes=9-5", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6"):
        answer, body = ask(demo, "/large.bin", Range=odd)
        assert (answer.status, len(body)) == (200, 3_000_000)
    answer, body = ask(demo, "/large.bin", "HEAD", Range="bytes=0-9")
    assert (answer.status, answer.headers["Content-Length"], body) == (206, "10", b"")
    tag = answer.headers["ETag"]
    assert ask(demo, "/large.bin", Range="bytes=0-9", If_Range=tag)[0].status == 206
    assert ask(demo, "/large.bin", Range="bytes=0-9", If_Range='"other"')[0].status == 200


def test_demo_server_listing(demo: http.client.HTTPConnection) -> None:
    answer, body = ask(demo, "/")
    assert answer.status == 200
    links = re.findall(r'href="\./([^"]*)"', body.decode())
    assert [unquote(link) for link in links] == ["sub/", "empty", "fifo", "hello.txt", "inside", "large.bin", "outside"]
    assert "3,000,000" in body.decode()
    answer, _ = ask(demo, "/sub")
    assert (answer.status, answer.headers["Location"]) == (301, "/sub/")
    answer, body = ask(demo, "/sub/")
    assert "&lt;tag&gt;" in body.decode()
    assert "<tag>" not in body.decode()
    (link,) = re.findall(r'href="\./([^"]*)"', body.decode())
    assert ask(demo, f"/sub/{link}")[1] == b"<p>x"
    # Two slashes would send the browser to another host.
    assert ask(demo, "//sub")[0].headers["Location"] == "/sub/"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/sub/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/sub/%2e%2e/%2e%2e/secret",
        "/./../secret",
        "/outside",
        "//../secret",
    ],
)
def test_demo_server_lets_nobody_out_of_its_folder(demo: http.client.HTTPConnection, path: str) -> None:
    answer, body = ask(demo, path)
    assert answer.status == 403
    assert b"secret" not in body.replace(path.encode(), b"")
    assert b"root:" not in body


def test_demo_server_bad_requests(demo: http.client.HTTPConnection) -> None:
    def raw(request: bytes) -> bytes:
        with socket.create_connection((demo.host, demo.port), timeout=support.PATIENCE_S) as connection:
            connection.sendall(request)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
            return received

    assert raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(b"GET / HTTP/2.0\r\n\r\n").startswith(b"HTTP/1.1 505 ")
    assert raw(b"GET / HTTP/1.1\r\nno colon\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(b"GET /a%00b HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000).startswith(b"HTTP/1.1 431 ")
    assert raw(b"GET /hello.txt HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nhello, world\n")
    # What stands behind a request's body must not be taken for a request.
    smuggled = raw(b"POST /hello.txt HTTP/1.1\r\nContent-Length: 30\r\n\r\nGET /hello.txt HTTP/1.1\r\n\r\n")
    assert smuggled.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD" in smuggled
    assert smuggled.count(b"HTTP/1.1 ") == 1
    # Pipelined requests are answered in their order.
    pipelined = raw(b"GET /hello.txt HTTP/1.1\r\n\r\n" * 9 + b"GET /hello.txt HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert pipelined.count(b"HTTP/1.1 200 OK") == pipelined.count(b"hello, world\n") == 10
    assert ask(demo, "/hello.txt")[1] == b"hello, world\n"


def test_demo_server_counters(demo: http.client.HTTPConnection) -> None:
    answer, body = ask(demo, "/-/stats")
    assert answer.status == 200
    assert b"live counters" in body
    before = json.loads(ask(demo, "/-/stats.json")[1])
    for _ in range(10):
        ask(demo, "/hello.txt")
    ask(demo, "/missing")
    after = json.loads(ask(demo, "/-/stats.json")[1])
    assert after["requests"] - before["requests"] == 12
    assert after["answers_200"] - before["answers_200"] == 11
    assert after["answers_404"] == 1
    # Keep-alive: all of this went over one connection.
    assert after["connections"] == after["connections_open"] == 1
    if support.LOOP == "aiouring":
        assert after["loop_turns"] > before["loop_turns"]
        assert after["loop_enters"] > before["loop_enters"]


def test_demo_server_under_hundred_connections(demo: http.client.HTTPConnection) -> None:
    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(demo.host, demo.port)
        for turn in range(3):
            begin = 1000 * number + turn
            writer.write(f"GET /large.bin HTTP/1.1\r\nHost: x\r\nRange: bytes={begin}-{begin + 499_999}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 206 ")
            assert await reader.readexactly(500_000) == payload(3_000_000)[begin : begin + 500_000]
        writer.close()
        await writer.wait_closed()

    run_on_asyncio(at_once(CONNECTIONS, client))


def test_demo_server_survives_clients_that_vanish(demo: http.client.HTTPConnection) -> None:
    for _ in range(20):
        with socket.create_connection((demo.host, demo.port)) as rude:
            rude.sendall(b"GET /large.bin HTTP/1.1\r\n\r\n")
            rude.recv(10)
    assert ask(demo, "/large.bin")[1] == payload(3_000_000)


def test_demo_checks_itself() -> None:
    done = run_example("demo_server", "--port", "0", DEMO_SECONDS="1")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    assert re.search(rb"compared [\d.]+ MiB .*: all equal\n", done.stdout)
    for kind in ("whole file", "range", "suffix", "head", "listing", "way out refused", "range outside", "unchanged"):
        assert re.search(rf"\b{kind} \d+", done.stdout.decode()), kind


def test_demo_check_finds_a_difference(tmp_path: Path) -> None:
    """The check itself is checked: a server that drops one byte of each range fails it."""
    broken = (EXAMPLES / "demo_server.py").read_text()
    right = "begin, end = int(first), min(size, int(last) + 1) if last else size"
    assert right in broken
    copy = tmp_path / "demo_server.py"
    copy.write_text(broken.replace(right, right.replace("int(last) + 1", "int(last)")))
    done = subprocess.run(
        [sys.executable, str(copy), "--port", "0"], capture_output=True, env=support.child_environment(DEMO_SECONDS="30"), timeout=60
    )
    assert done.returncode == 1
    assert b"FAILED: " in done.stderr


def test_demo_server_says_what_to_do_about_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_example("demo_server", "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}".encode() in done.stderr
    assert b"--port chooses another port" in done.stderr
    assert b"Traceback" not in done.stderr


def test_demo_server_refuses_bad_options() -> None:
    missing = run_example("demo_server", "--root", "/nowhere/at/all")
    assert (missing.returncode, b"there is no such folder" in missing.stderr) == (2, True)
    number = run_example("demo_server", DEMO_SECONDS="soon")
    assert (number.returncode, b"not a number of seconds" in number.stderr) == (2, True)
