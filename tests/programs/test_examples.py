"""Each program of examples/ as its users start it: as a process, with its own options, ended by Ctrl-C. (test_file_server*.py has that one.)"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/__init__.py")]:
        if path == EXAMPLES / "__init__.py":
            continue
        name = path.parent.name if path.name == "__init__.py" else path.stem
        head = path.read_text().split('"""')[1]
        assert f"python examples/{name}.py" in head or f"python -m examples.{name}" in head, f"{name} does not say how to run it"
        assert "Shows:" in head, f"{name} does not say what it shows"
        assert f'"{name}"' in tests or list(Path(__file__).parent.glob(f"test_{name}*.py")), f"{name} has no test"


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
