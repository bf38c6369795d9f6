"""The file server as a process: its end, its access log, its sockets, its options, its counters, and its check of itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from . import support
from .file_servers import LARGE_BYTES, Client, Running, command, make_site, request, serving
from .support import at_once, run_on_asyncio

HUGE_BYTES = 48 << 20  # more than sockets hold


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_site(tmp_path)
    root.joinpath("huge").write_bytes(support.payload(HUGE_BYTES))
    return root


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + support.PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.005)


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# --- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_download_that_is_running_is_finished(root: Path, number: signal.Signals) -> None:
    with serving(root, stop_signal=number) as running, running.connect() as busy, running.connect() as idle, running.connect() as new:
        idle.ask("/hello.txt")
        busy.send(request("/huge") + request("/hello.txt") * 2)
        busy._buffer = busy.sock.recv(1000)
        os.kill(running.process.pid, number)
        assert idle.is_closed()
        assert new.is_closed()
        wait_until(lambda: refuses_connections(running.port), "new connections are still accepted")
        assert running.process.running
        assert busy.answer().body == support.payload(HUGE_BYTES)
        # The next answer says that it is the last one, whatever was asked for behind it.
        answer = busy.answer()
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert busy.rest() == b""
        running.process.stop(signalled=True)


def test_the_end_comes_with_the_end_of_the_last_download(root: Path) -> None:
    """Its head has promised that the connection goes on, and nobody has asked for more: there is nothing to wait for."""
    with serving(root, "--grace", "3600") as running, running.connect() as client:
        client.send(request("/huge"))
        client._buffer = client.sock.recv(1000)
        os.kill(running.process.pid, signal.SIGTERM)
        wait_until(lambda: refuses_connections(running.port), "new connections are still accepted")
        assert client.answer().body == support.payload(HUGE_BYTES)
        assert client.is_closed()
        running.process.stop(signalled=True)


def test_an_answer_from_memory_that_is_not_read_yet_is_finished(root: Path) -> None:
    root.joinpath("body").write_bytes(support.payload(1_000_000))
    with serving(root) as running, running.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(request("/body"))
        assert select.select([client.sock], [], [], support.PATIENCE_S)[0]
        os.kill(running.process.pid, signal.SIGTERM)
        wait_until(lambda: refuses_connections(running.port), "new connections are still accepted")
        assert client.answer().body == support.payload(1_000_000)
        running.process.stop(signalled=True)


def test_a_head_that_is_half_there_is_waited_for(root: Path) -> None:
    with serving(root, "--valid", "60", "--grace", "3600") as running, running.connect() as client:
        client.ask("/hello.txt")
        client.send(request("/hello.txt")[:20])
        # The server has seen it when it has answered another client that asked later.
        assert running.ask("/hello.txt").status == 200
        os.kill(running.process.pid, signal.SIGTERM)
        wait_until(lambda: refuses_connections(running.port), "new connections are still accepted")
        client.send(request("/hello.txt")[20:])
        answer = client.answer()
        assert (answer.body, answer["Connection"]) == (b"hello, world\n", "close")
        assert client.is_closed()
        running.process.stop(signalled=True)


def test_the_end_is_bounded(root: Path) -> None:
    with serving(root, "--grace", "0.3") as running, running.connect() as client:
        client.send(request("/huge"))
        client.sock.recv(1000)
        running.process.stop()
        assert len(client.rest()) < HUGE_BYTES


def test_a_second_signal_ends_it_at_once(root: Path) -> None:
    with serving(root, "--grace", "3600", exit_codes=(-signal.SIGTERM,)) as running, running.connect() as client:
        client.send(request("/huge"))
        client.sock.recv(1000)
        os.kill(running.process.pid, signal.SIGTERM)
        wait_until(lambda: refuses_connections(running.port), "new connections are still accepted")
        running.process.stop()


def test_the_end_with_a_thousand_connections(root: Path) -> None:
    async def main(running: Running) -> None:
        connections = await at_once(1000, lambda number: asyncio.open_connection("127.0.0.1", running.port))
        for _, writer in connections[::2]:
            writer.write(request("/large.bin", Range="bytes=0-99999"))
        for reader, _ in connections[::2]:
            await reader.readuntil(b"\r\n\r\n")
        os.kill(running.process.pid, signal.SIGTERM)
        for number, (reader, writer) in enumerate(connections):
            assert len(await reader.read()) == (100_000 if number % 2 == 0 else 0)
            writer.close()

    with serving(root) as running:
        run_on_asyncio(main(running))
        running.process.stop(signalled=True)


# --- the access log


LINE = re.compile(
    r'(?P<peer>\S+) - - \[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "(?P<request>(?:[^"\\]|\\x[0-9A-F]{2})*)" '
    r'(?P<status>\d{3}) (?P<size>\d+|-) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
)


def lines_of(path: Path) -> list[re.Match[str]]:
    text = path.read_text(encoding="ascii")
    assert text == "" or text.endswith("\n")
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert None not in found, text
    return [line for line in found if line is not None]


def test_access_log(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(root, "--log", str(log), "--valid", "5") as running:
        with running.connect() as client:
            for _ in range(3):
                client.ask("/hello.txt", User_Agent="tester/1.0", Referer="http://example.com/")
            client.ask("/hello.txt?a=b", "HEAD")
            client.ask("/large.bin")
            client.ask("/large.bin", Range="bytes=0-9")
            client.ask("/missing")
            client.ask("/hello.txt", If_None_Match="*")
            client.ask("/", User_Agent='"quoted" \\ \xe4', X="y")
        running.raw(b'GE"T\x1b[31m nonsense\r\n\r\n')
        running.raw(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        before_s = time.time()
        running.process.stop()
    lines = lines_of(log)
    assert [(line["request"], line["status"], line["size"]) for line in lines[:8]] == [
        *[("GET /hello.txt HTTP/1.1", "200", "13")] * 3,
        ("HEAD /hello.txt?a=b HTTP/1.1", "200", "-"),
        ("GET /large.bin HTTP/1.1", "200", str(LARGE_BYTES)),
        ("GET /large.bin HTTP/1.1", "206", "10"),
        ("GET /missing HTTP/1.1", "404", lines[6]["size"]),
        ("GET /hello.txt HTTP/1.1", "304", "-"),
    ]
    assert (lines[0]["referer"], lines[0]["agent"]) == (lines[2]["referer"], lines[2]["agent"]) == ("http://example.com/", "tester/1.0")
    assert lines[3]["agent"] == "-"
    # What a client sends cannot break a line, or a terminal.
    assert lines[8]["agent"] == r"\x22quoted\x22 \x5C \xE4"
    assert (lines[9]["request"], lines[9]["status"]) == (r"GE\x22T\x1B[31m nonsense", "400")
    assert (lines[10]["request"], lines[10]["status"]) == ("POST / HTTP/1.1", "405")
    assert {line["peer"] for line in lines} == {"127.0.0.1"}
    assert abs(time.mktime(time.strptime(lines[0]["time"].split()[0], "%d/%b/%Y:%H:%M:%S")) - before_s) < 60
    assert log.stat().st_mode & 0o007 == 0


def test_a_download_that_was_broken_off_is_logged_with_what_was_sent(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(root, "--log", str(log)) as running:
        with running.connect() as client:
            client.send(request("/huge"))
            client.sock.recv(1000)
        support.wait_until_nobody_is_connected(running.port)
        running.process.stop()
    (line,) = lines_of(log)
    assert line["status"] == "200"
    assert 0 < int(line["size"]) < HUGE_BYTES


def test_the_log_is_written_while_the_server_runs(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(root, "--log", str(log)) as running, running.connect() as client:
        client.ask("/hello.txt")
        wait_until(lambda: log.read_bytes().count(b"\n") == 1, "the line was not written")


def test_log_rotation(root: Path, tmp_path: Path) -> None:
    """Under load: each line is in one of the files, whole and once."""
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    counts = []
    with serving(root, "--log", str(log), "--valid", "5") as running:
        for turn in range(5):
            with running.connect() as client:
                for number in range(300):
                    client.send(request(f"/hello.txt?{turn}-{number}"))
                for _ in range(300):
                    assert client.answer().status == 200
            log.rename(old)
            os.kill(running.process.pid, signal.SIGHUP)
            wait_until(log.exists, "the log was not opened again")
            counts += lines_of(old)
            old.unlink()
        running.process.stop()
    counts += lines_of(log)
    assert [line["request"] for line in counts] == [f"GET /hello.txt?{turn}-{number} HTTP/1.1" for turn in range(5) for number in range(300)]


def test_a_log_that_cannot_be_opened_again_goes_on(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "access.log"
    with serving(root, "--log", str(log)) as running:
        running.ask("/hello.txt")
        folder.rename(tmp_path / "moved")
        os.kill(running.process.pid, signal.SIGHUP)
        running.process.wait_for_line("the access log cannot be opened again")
        running.ask("/hello.txt")
        running.process.stop()
    assert len(lines_of(tmp_path / "moved" / "access.log")) == 2


def test_a_log_on_a_full_disk_stops_nobody(root: Path) -> None:
    with serving(root, "--log", "/dev/full") as running, running.connect() as client:
        for _ in range(2000):
            assert client.ask("/hello.txt").status == 200
        running.process.wait_for_line("the access log cannot be written: ")


def test_a_log_that_nobody_reads_stops_nobody(root: Path, tmp_path: Path) -> None:
    """A named pipe whose reader has stopped: lines are dropped, and the server serves, and ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with serving(root, "--log", str(pipe), "--valid", "5") as running:
            with running.connect() as client:
                asked = request("/hello.txt", User_Agent="x" * 1000)
                for _ in range(60):
                    client.send(asked * 200)
                    for _ in range(200):
                        assert client.answer().status == 200
            running.process.wait_for_line("the access log cannot be written as fast as lines come")
            running.process.stop()
    finally:
        os.close(reader)


def test_the_log_on_standard_error_and_no_log(root: Path) -> None:
    with serving(root, "--log", "-") as running:
        running.ask("/hello.txt")
        assert '"GET /hello.txt HTTP/1.1" 200 13' in running.process.stop()
    with serving(root) as running:
        running.ask("/hello.txt")
        os.kill(running.process.pid, signal.SIGHUP)  # nothing to do, and no reason to die
        running.ask("/hello.txt")
        assert "GET" not in running.process.stop()


# --- sockets and options


def test_unix_socket(root: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "socket", tmp_path / "log"
    # One that is left over from a server that was killed.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with serving(root, "--unix", str(path), "--log", str(log)) as running:
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(support.PATIENCE_S)
            sock.connect(str(path))
            with Client(sock) as client:
                assert client.ask("/hello.txt").body == b"hello, world\n"
                assert client.ask("/huge").body == support.payload(HUGE_BYTES)
                assert client.ask("/large.bin", Range="bytes=5-9,20-29").status == 206
        curl = support.require_program("curl", "curl")
        done = subprocess.run([curl, "-sS", "--unix-socket", str(path), "http://x/hello.txt"], check=True, capture_output=True)
        assert done.stdout == b"hello, world\n"
        running.process.stop()
    assert not path.exists()
    # What another server has put in its place is not removed.
    with serving(root, "--unix", str(path)) as running:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            running.process.stop()
            assert path.exists()
    assert {line["peer"] for line in lines_of(log)} == {"unix:"}


def test_ipv6(root: Path) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        with serving(root, "--host", "::1") as running:
            port = re.fullmatch(r"http://\[::1\]:(\d+)/", running.process.wait_for_line(f"serving {root} on "))
            assert port is not None
            with Client(socket.create_connection(("::1", int(port[1])))) as client:
                assert client.ask("/hello.txt").status == 200


def test_too_many_connections(root: Path) -> None:
    with serving(root, "--connections", "3") as running, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.connect()) for _ in range(3)]
        for client in clients:
            assert client.ask("/hello.txt").status == 200
        answer = running.ask("/hello.txt")
        assert (answer.status, answer["Retry-After"], answer["Connection"]) == (503, "1", "close")
        clients[0].sock.close()
        wait_until(lambda: running.ask("/hello.txt").status == 200, "no connection is accepted although one has gone")


def run(*arguments: str, module: str = "examples.file_server", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, module=module),
        capture_output=True,
        text=True,
        timeout=support.PATIENCE_S * 2,
        env=support.child_environment(**environment),
        cwd="/",
    )


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port chooses another port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--root", "/nowhere/at/all"), "there is no such folder"),
        (("--port", "70000"), "is not a port"),
        (("--port", "http"), "is not a port"),
        (("--log", "/nowhere/at/all/log"), "there is no such folder"),
        (("--valid", "-1"), "is not a number of seconds"),
        (("--idle-timeout", "0"), "is not a number of seconds above 0"),
        (("--cache", "much"), "is not a number of MiB"),
        (("--connections", "0"), "is not a number of connections"),
    ],
)
def test_bad_options(arguments: tuple[str, str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert arguments[0] in done.stderr


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    for option in ("--root", "--host", "--port", "--unix", "--log", "--no-listing", "--dot-files", "--cache", "--valid", "--grace"):
        assert option in done.stdout


def test_without_memory_for_files(root: Path) -> None:
    """--cache 0: everything comes from the disk."""
    with serving(root, "--cache", "0", "--stats", "--valid", "5") as running, running.connect() as client:
        for _ in range(3):
            assert client.ask("/hello.txt").body == b"hello, world\n"
            assert client.ask("/empty").body == b""
            assert client.ask("/small.bin", Range="bytes=1-2,4-5").status == 206
            assert client.ask("/sub/").status == 200
        assert json.loads(client.ask("/-/stats.json").body)["cache_bytes"] == 0


def test_memory_has_its_bound(root: Path) -> None:
    """Many more bytes are asked for than may be kept, over and over; what is asked for most stays."""
    folder = root / "many"
    folder.mkdir()
    for number in range(60):
        folder.joinpath(f"{number}").write_bytes(support.payload(100_000, seed=number))
    with serving(root, "--cache", "2", "--valid", "60", "--stats") as running, running.connect() as client:
        for _ in range(3):
            for number in range(60):
                assert client.ask(f"/many/{number}").body == support.payload(100_000, seed=number)
                assert client.ask("/hello.txt").status == 200
        stats = json.loads(client.ask("/-/stats.json").body)
        assert 1 << 20 < stats["cache_bytes"] <= 2 << 20
        assert stats["requests_from_known_heads"] >= 150


# --- counters and the demo


def test_counters(root: Path) -> None:
    with serving(root) as running:
        assert running.ask("/-/stats").status == 404
    with serving(root, "--valid", "5", "--stats") as running, running.connect() as client:
        assert b"live counters" in client.ask("/-/stats").body
        assert client.ask("/-/stats")["Cache-Control"] == "no-store"
        before = json.loads(client.ask("/-/stats.json").body)
        for _ in range(10):
            client.ask("/hello.txt")
        client.ask("/large.bin")
        client.ask("/missing", "HEAD")
        after = json.loads(client.ask("/-/stats.json").body)
        assert after["requests"] - before["requests"] == 13
        assert after["answers_200"] - before["answers_200"] == 12
        assert after["answers_404"] == 1
        assert after["requests_from_known_heads"] == 9
        assert after["body_bytes"] - before["body_bytes"] == 130 + LARGE_BYTES + len(json.dumps(before))
        # Keep-alive: all of this went over one connection.
        assert after["connections"] == after["connections_open"] == 1
        if support.LOOP == "aiouring":
            assert after["loop_turns"] > before["loop_turns"]
            assert after["loop_enters"] > before["loop_enters"]
            assert after["loop_slots_in_use"] <= 5


def test_the_demo(root: Path) -> None:
    with serving(root, module="examples.file_server.demo", stop_signal=signal.SIGINT) as running:
        assert running.process.wait_for_line("live counters on ") == f"http://127.0.0.1:{running.port}/-/stats; Ctrl-C ends it"
        assert running.ask("/-/stats").status == 200
        assert b"live counters" in running.ask("/").body
        assert "0 of 2 connections open, 2 requests" in running.process.stop()


def test_the_demo_checks_itself() -> None:
    done = run("--port", "0", module="examples.file_server.demo", DEMO_SECONDS="1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"compared [\d.]+ MiB .*: all equal\n", done.stdout)
    for kind in ("whole file", "range", "suffix", "head", "listing", "way out refused", "range outside", "unchanged"):
        assert re.search(rf"\b{kind} \d+", done.stdout), kind
    once = run("--port", "0", "--clients", "2", module="examples.file_server.demo", DEMO_SECONDS="0")
    assert (once.returncode, once.stderr) == (0, "")
    assert "head 2" in once.stdout and "all equal" in once.stdout
    for wish in ("soon", "-1", "nan", "inf"):
        number = run(module="examples.file_server.demo", DEMO_SECONDS=wish)
        assert (number.returncode, "not a number of seconds" in number.stderr) == (2, True), wish
    for arguments, message in ((("--clients", "0"), "is not a number of connections"), (("--unix", "/tmp/x"), "leave --unix out")):
        wrong = run(*arguments, module="examples.file_server.demo", DEMO_SECONDS="1")
        assert wrong.returncode == 2 and message in wrong.stderr


def test_make_demo_takes_options() -> None:
    done = subprocess.run(["make", "--dry-run", "demo", "PORT=8123", "ARGS=--clients 3"], cwd=support.REPOSITORY, capture_output=True, text=True)
    assert "examples.file_server.demo --port 8123 --clients 3\n" in done.stdout, done.stdout + done.stderr


def test_the_check_finds_a_difference(tmp_path: Path) -> None:
    """The check itself is checked: a server that drops one byte of each range fails it."""
    package = tmp_path / "examples" / "file_server"
    shutil.copytree(support.REPOSITORY / "examples" / "file_server", package)
    tmp_path.joinpath("examples", "__init__.py").touch()
    path = package / "conditions.py"
    right = "min(size, _number(last) + 1) if last else size"
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, right.replace(" + 1", "")))
    done = subprocess.run(
        command("--port", "0", module="examples.file_server.demo"),
        capture_output=True,
        env=support.child_environment(DEMO_SECONDS="30"),
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 1
    assert b"FAILED: " in done.stderr
