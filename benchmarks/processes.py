"""Starts and ends the processes of a sample, each on its core. Used by measure.py, resting.py and programs.py; knows no rows."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

START_TIMEOUT_S = 20


class Failed(Exception):
    """This contestant gave no figure; the message says why."""


@dataclass(frozen=True)
class Cores:
    """Which core the process under test has to itself, and where everything else of the suite runs."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise Failed("the suite needs two cores, one for the server and one for the load; this process may use one only")
        return cls(server=cores[-1], load=cores[0])


def _last_line(stderr: str, status: int | None) -> str:
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it ended with status {status}"


def _read_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    return process.stdout.readline().strip() if ready else ""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[str], port: int) -> bool:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def started(command: list[str], core: int, environment: dict[str, str], port: int | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process under test and where it listens: what it says after READY, or `port`, for programs that say nothing of the kind. It is killed
    at the end: no server here has anything to lose."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if port is None else subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )

        def last_words() -> str:
            status = process.poll()
            errors.seek(0)
            return _last_line(errors.read(), status)

        try:
            if port is not None:
                if not _wait_until_listening(process, port):
                    raise Failed(f"it did not start: {last_words()}")
                rest = str(port)
            else:
                line = _read_line(process, START_TIMEOUT_S)
                word, _, rest = line.partition(" ")
                if word == "UNAVAILABLE":
                    raise Failed(rest)
                if word != "READY":
                    raise Failed(f"it did not start: {last_words()}" if line == "" else f"it said {line!r} instead of READY")
            try:
                yield process, rest
            except Failed as failure:
                status = process.poll()
                if status is None:
                    raise
                raise Failed(f"the server ended with status {status}: {last_words()} ({failure})") from None
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run_to_end(command: list[str], core: int, timeout_s: float, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Runs a load program, or an app that is its own load, to its end; gives the window that it printed."""
    try:
        done = subprocess.run(
            ["taskset", "--cpu-list", str(core), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{os.path.basename(command[0])} did not end within {timeout_s:.0f} s") from None
    lines = done.stdout.strip().splitlines()
    last = lines[-1] if lines else ""
    if last.startswith("UNAVAILABLE "):
        raise Failed(last.partition(" ")[2])
    if done.returncode != 0 or not last.startswith("{"):
        raise Failed(_last_line(done.stderr, done.returncode))
    found: dict[str, float] = json.loads(last)
    return found
