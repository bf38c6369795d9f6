"""What the tests of real programs share: which loop is tested, server processes, payloads, many clients at once.

Called by the tests and fixtures of this folder; knows nothing of a particular program.

`AIOURING_TEST_LOOP=asyncio` runs the same tests on the standard library's loop. That is an aid for people who write tests: what
fails there too is the test's own fault. Nothing else reads the variable.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import pytest

T = TypeVar("T")

LOOP = os.environ.get("AIOURING_TEST_LOOP", "aiouring")
if LOOP not in ("aiouring", "asyncio"):
    raise RuntimeError(f"AIOURING_TEST_LOOP is {LOOP!r}; it can be 'aiouring' (the default) or 'asyncio'")

#: How many connections every program is put under at once.
CONNECTIONS = 100
#: A server that takes longer than this to accept its first connection, or to end, is taken for hung.
PATIENCE_S = 30.0

REPOSITORY = Path(__file__).resolve().parents[2]
APPS = Path(__file__).resolve().parent / "apps"

#: Stands in for the package in child processes when the tests run on asyncio's loop. The modules below it are the package's own.
_STAND_IN = '''
import asyncio
from asyncio import DefaultEventLoopPolicy as EventLoopPolicy, SelectorEventLoop as Loop, new_event_loop

class RingUnavailable(OSError):
    pass

def run(main, *, debug=None, **_options):
    return asyncio.run(main, debug=debug)
'''

#: Words that only appear in a server's log when something went wrong that nobody handled.
_SIGNS_OF_TROUBLE = (
    "Traceback (most recent call last)",
    "was never retrieved",
    "was destroyed but it is pending",
    "was never awaited",
    "ResourceWarning",
    "Segmentation fault",
)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop of the kind that is under test."""
    if LOOP == "asyncio":
        return asyncio.SelectorEventLoop()
    import aiouring

    loop: asyncio.AbstractEventLoop = aiouring.new_event_loop()
    return loop


def run_on_asyncio(main: Awaitable[T]) -> T:
    """Runs a client on the standard library's loop: the reference that our servers are measured by."""

    async def body() -> T:
        return await main

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(body())


@functools.cache
def _stand_in_folder() -> str:
    folder = tempfile.mkdtemp(prefix="aiouring-standin-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = Path(folder, "aiouring")
    package.mkdir()
    package.joinpath("__init__.py").write_text(f"{_STAND_IN}\n__path__.append({str(REPOSITORY / 'aiouring')!r})\nfrom aiouring.files import open\n")
    return folder


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a child process that imports aiouring.

    A fallback that the caller's shell asks for is taken out: a test that silently ran on asyncio would prove nothing.
    """
    environment = {name: value for name, value in os.environ.items() if name != "AIOURING_FALLBACK"}
    path = [_stand_in_folder() if LOOP == "asyncio" else str(REPOSITORY)]
    if environment.get("PYTHONPATH"):
        path.append(environment["PYTHONPATH"])
    environment["PYTHONPATH"] = os.pathsep.join(path)
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(extra)
    return environment


def require_program(name: str, package: str, folders: Iterable[str] = ()) -> str:
    """The path of a program; the test fails, and says what to install, where it is missing."""
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)]))
    if found is None:
        pytest.fail(f"the program {name!r} is missing: install it with 'apt-get install {package}' (make test does)")
    return found


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on 127.0.0.1 that nobody has, for servers that cannot choose one themselves. It is none of those that the system gives to whoever asks
    for any, or a connection of somebody else's could have it before the server has begun, and one to where nobody listens could meet itself."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    while True:
        port = random.SystemRandom().choice([*range(10_000, first), *range(last + 1, 65_536)] or range(1024, 65_536))
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@functools.lru_cache(maxsize=64)
def payload(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes without a pattern, so that a lost, doubled or moved piece cannot go unseen; the same for the same arguments."""
    return random.Random(seed).randbytes(size_bytes)


async def at_once(count: int, client: Callable[[int], Awaitable[T]]) -> list[T]:
    """Runs `client(0)` … `client(count - 1)` all at once; the first failure cancels the others and is raised as it is."""

    async def one(number: int) -> T:
        return await client(number)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(count)]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what another process will do and tells nobody about: asks again and again, and leaves giving up to the test's time limit."""
    while not await condition():
        await asyncio.sleep(0.01)


class ServerProcess:
    """A server in its own process, started and stopped by its pid; used as a context manager.

    `address` is what to connect to for readiness: (host, port) or the path of a unix socket; None where the caller waits itself
    (for a line of output, by `wait_for_line`).
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        address: tuple[str, int] | str | None,
        environment: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        exit_codes: Sequence[int] = (0,),
        clean_log: bool = True,
    ) -> None:
        self.command = list(command)
        self.address = address
        self.stop_signal = stop_signal
        self.exit_codes = tuple(exit_codes)
        self.clean_log = clean_log
        self._environment = dict(environment) if environment is not None else None
        self._folder = folder
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._final_log: str | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All that the server wrote so far, standard output and standard error together."""
        if self._final_log is not None:
            return self._final_log
        assert self._log is not None, "not started"
        return Path(self._log.name).read_text(errors="replace")

    def __enter__(self) -> ServerProcess:
        self._log = tempfile.NamedTemporaryFile(prefix="aiouring-server-", suffix=".log")
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._folder,
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user is not None else None,
            extra_groups=[] if self._user is not None else None,
            # Its own group: a signal from the terminal reaches the tests, and they stop their servers in order.
            process_group=0,
        )
        try:
            if self.address is not None:
                self._wait_until_accepting()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._end()
            if error is not None:
                error.add_note(f"--- log of {self.command[:6]}:\n{self.log()[-6000:]}")
        elif self._final_log is None:
            self.stop()

    def stop(self, *, signalled: bool = False) -> str:
        """Asks the server to end and checks that it did so by itself, with a good status and a clean log; returns the log.

        `signalled` is for a caller that sent the signal itself: to many servers a second one means "at once, whatever you do".
        """
        assert self._process is not None, "not started"
        if self._process.poll() is None and not signalled:
            self._process.send_signal(self.stop_signal)
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            log = self.log()
            self._end()
            pytest.fail(f"{self.command} did not end within {PATIENCE_S} s of {self.stop_signal.name}; its log:\n{log[-6000:]}")
        log = self.log()
        self._end()
        assert code in self.exit_codes, f"{self.command} ended with {code}, expected {self.exit_codes}; its log:\n{log[-6000:]}"
        if self.clean_log:
            found = [sign for sign in _SIGNS_OF_TROUBLE if sign in log]
            assert not found, f"the log of {self.command} shows {found}:\n{log[-6000:]}"
        return log

    def wait_for_line(self, prefix: str) -> str:
        """Waits until the server has written a line that begins with `prefix`; returns the rest of that line."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for line in self.log().splitlines(keepends=True):
                if line.startswith(prefix) and line.endswith("\n"):
                    return line[len(prefix) :].strip()
            self._fail_if_ended()
            time.sleep(0.01)
        raise AssertionError(f"{self.command} wrote no line {prefix!r} within {PATIENCE_S} s; its log:\n{self.log()[-6000:]}")

    def _wait_until_accepting(self) -> None:
        assert self.address is not None
        deadline = time.monotonic() + PATIENCE_S
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        while time.monotonic() < deadline:
            self._fail_if_ended()
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(PATIENCE_S)
                try:
                    probe.connect(self.address)
                except (ConnectionRefusedError, FileNotFoundError):
                    # A refused connection says nothing about when the next one is worth a try.
                    time.sleep(0.02)
                    continue
                return
        raise AssertionError(
            f"{self.command} accepted no connection on {self.address} within {PATIENCE_S} s; its log:\n{self.log()[-6000:]}"
        )

    def _fail_if_ended(self) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise AssertionError(f"{self.command} ended with {code} before it was ready; its log:\n{self.log()[-6000:]}")

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._log is not None and self._final_log is None:
            self._final_log = self.log()
            self._log.close()


def wait_until_nobody_is_connected(port: int) -> None:
    """Waits until the server on this port of 127.0.0.1 has seen its last client leave, which no client can know by itself."""
    deadline = time.monotonic() + PATIENCE_S
    here = f"0100007F:{port:04X}"
    open_states = ("01", "08")  # established; closed by the client, and not yet by the server
    while True:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        connected = [row for row in rows if row[1] == here and row[3] in open_states]
        if not connected:
            return
        assert time.monotonic() < deadline, f"{len(connected)} connections to port {port} are open after {PATIENCE_S} s"
        time.sleep(0.01)


def wait_until_answering(question: Sequence[str], server: ServerProcess) -> None:
    """Runs a command until it ends with 0, for servers that accept connections before they are ready."""
    deadline = time.monotonic() + PATIENCE_S
    while subprocess.run(question, stdout=subprocess.DEVNULL).returncode != 0:
        assert server.running, f"the server ended before it was ready; its log:\n{server.log()[-6000:]}"
        assert time.monotonic() < deadline, f"{question} got no good answer within {PATIENCE_S} s; the server's log:\n{server.log()[-6000:]}"


def python_server(script: Path, *arguments: str, **options: object) -> ServerProcess:
    """One of the server scripts of this folder, on the loop that is under test; it prints its own address."""
    command = [sys.executable, "-W", "error", str(script), *arguments]
    return ServerProcess(command, address=None, environment=child_environment(), **options)  # type: ignore[arg-type]
