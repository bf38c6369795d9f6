"""What a server costs that does nothing: memory of idle connections, CPU time and wake-ups. Used by measure.py; calls nothing of the suite but
processes.py. The connections are made here, since nobody measures their maker."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Sample
from benchmarks.processes import Failed

MESSAGE = b"x" * 512
TIMEOUT_S = 20
SETTLE_S = 0.1
WARM_CONNECTIONS = 100


def cpu_ns(pid: int) -> int:
    """The CPU time of another process: the kernel makes its clock's number of the pid (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def proportional_bytes(pid: int) -> int:
    """Pss: the process's memory, with what it shares divided among those that share it. Kernel memory (sockets, rings) is not in it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise Failed("/proc does not tell the server's Pss")


def context_switches(pid: int) -> int:
    """Of all the threads that are alive."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        total += sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)
    return total


def wait_until_quiet(pid: int) -> None:
    """Until the process has used no CPU time for a while, so that what it had to do is done; a process that never rests is as it is."""
    before = -1
    for _ in range(int(3 / SETTLE_S)):
        now = cpu_ns(pid)
        if now == before:
            return
        before = now
        time.sleep(SETTLE_S)


def _connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    if context is not None:
        sock = context.wrap_socket(sock)
    sock.sendall(MESSAGE)
    missing = len(MESSAGE)
    while missing:
        got = len(sock.recv(missing))
        if got == 0:
            raise Failed("the server closed a connection in the middle")
        missing -= got
    return sock


@contextlib.contextmanager
def connections(port: int, count: int, *, tls: bool = False) -> Iterator[None]:
    """So many connections to an echo server, each of which has had one answer and rests."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with contextlib.ExitStack() as held:
        try:
            for _ in range(count):
                held.enter_context(_connect(port, context))
        except OSError as error:
            raise Failed(f"a connection to the server failed: {error}") from None
        yield


def memory_of_connections(pid: int, port: int, count: int, *, tls: bool) -> Sample:
    with connections(port, WARM_CONNECTIONS, tls=tls):  # what the first connections bring about once, stays once
        pass
    wait_until_quiet(pid)
    before = proportional_bytes(pid)
    with connections(port, count, tls=tls):
        wait_until_quiet(pid)
        return {"memory_bytes": (proportional_bytes(pid) - before) / count, "memory_before_bytes": float(before)}


def idle(pid: int, port: int, window_s: float) -> Sample:
    with connections(port, 1):
        wait_until_quiet(pid)
        begin_ns, cpu_before_ns, switches_before = time.monotonic_ns(), cpu_ns(pid), context_switches(pid)
        time.sleep(window_s)
        elapsed_s = (time.monotonic_ns() - begin_ns) / 1e9
        return {
            "idle_cpu_us": (cpu_ns(pid) - cpu_before_ns) / 1e3 / elapsed_s,
            "wakeups": (context_switches(pid) - switches_before) / elapsed_s,
        }
