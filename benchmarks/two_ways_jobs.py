"""One job done in one way, in a process of its own: what `two_ways` runs, under strace where system calls are counted.

`python -m benchmarks.two_ways_jobs JOB WAY ENGINE BLOCK COUNT` prints one line of JSON: what the loop and the processor did for COUNT blocks or
messages. A job is `copy` (a file with its CRC-32C, block after block) or `echo` (messages whose bytes are XORed with a key). Each way checks its
result; none has more than one block in flight, so that they differ in nothing but who does the next step:

    awaits  Python awaits each request and does the sum or the XOR between them
    links   plain linked requests, one chain a block; Python does the sum or the XOR after it, or before the next
    ops     one chain a block with a BPF operation between the two requests, which is all that Python sees of it
    hook    a loop hook (two_ways.bpf.c) does all blocks; Python sees the end

ENGINE is the operations' (ops) or the hook's (hook), "-" for the others. Calls aiouring alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import crc32c

import aiouring
from aiouring.bpf import Hook, Op

KEY = 0x5A
KEY_32 = 0x5A5A5A5A
XOR_TABLE = bytes(value ^ KEY for value in range(256))
HOOK_PROGRAM = Path(__file__).resolve().parents[1] / ".cache" / "bench" / "two_ways.bpf.o"

# The first fields of struct job in two_ways.bpf.c.
JOB = struct.Struct("=IIiiiiIIQQQI")
BEGIN, OVER = 1, 3
COPY, ECHO = 1, 2


class Meter:
    """What the loop and this process did between start() and stop()."""

    def __init__(self) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.hook: Hook | None = None

    def now(self) -> dict[str, int]:
        stats = self.loop.ring_stats()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "wake_ups": stats["turns"],
            "enters": stats["enters"],
            "requests": stats["requests"],
            "cqes": stats["cqes"],
            "cpu_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
            "wall_ns": time.monotonic_ns(),
        }

    def start(self) -> None:
        self.before = self.now()

    def stop(self) -> dict[str, int]:
        after = self.now()
        return {
            name: (after[name] - self.before[name]) % 2**32 if name in ("requests", "cqes") else after[name] - self.before[name] for name in after
        }


async def run_in_hook(meter: Meter, engine: str, kind: int, fd_in: int, fd_out: int, block: int, count: int) -> int:
    """Both jobs in the hook: it begins at the next completion that it sees, and says by an eventfd that it is over. The result is the CRC."""
    loop = asyncio.get_running_loop()
    with Hook.load(HOOK_PROGRAM, engine=engine) as hook:  # type: ignore[arg-type]
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            changed = asyncio.Event()

            def hear() -> None:
                os.eventfd_read(eventfd)
                changed.set()

            loop.add_reader(eventfd, hear)
            await asyncio.sleep(0)
            meter.start()
            JOB.pack_into(hook.memory, 0, BEGIN, kind, fd_in, fd_out, eventfd, 0, block, KEY_32, 1, 0, block * count, 0)
            os.eventfd_write(eventfd, 1)  # its completion is the one by which the program sees the job
            while (fields := JOB.unpack_from(hook.memory, 0))[0] != OVER:
                await changed.wait()
                changed.clear()
            loop.remove_reader(eventfd)
        finally:
            os.close(eventfd)
        if fields[0] != OVER or fields[5]:
            raise SystemExit(f"the hook ended with {os.strerror(-fields[5])} at byte {fields[9]}")
        return int(fields[11])


# -- a copy with a checksum -------------------------------------------------------------------------------------------------------------------


def opened(fd: int, mode: str) -> Any:
    return aiouring.open(fd, mode, buffering=0, closefd=False)


async def copy_awaits(meter: Meter, engine: str, source: int, target: int, block: int, count: int) -> int:
    buffer = bytearray(block)
    crc = 0
    async with opened(source, "rb") as src, opened(target, "wb") as dst:
        meter.start()
        for index in range(count):
            await src.pread_into(buffer, index * block)
            crc = crc32c.crc32c(buffer, crc)
            await dst.pwrite(buffer, index * block)
    return crc


async def copy_links(meter: Meter, engine: str, source: int, target: int, block: int, count: int) -> int:
    buffer = bytearray(block)
    crc = 0
    async with opened(source, "rb") as src, opened(target, "wb") as dst:
        meter.start()
        for index in range(count):
            async with aiouring.Chain() as chain:
                chain.read(src, buffer, offset=index * block)
                chain.write(dst, buffer, offset=index * block)
            await chain
            crc = crc32c.crc32c(buffer, crc)
    return crc


async def copy_ops(meter: Meter, engine: str, source: int, target: int, block: int, count: int) -> int:
    buffer = bytearray(block)
    operation = await Op.load("crc32c", engine=engine)  # type: ignore[arg-type]
    crc = 0
    async with opened(source, "rb") as src, opened(target, "wb") as dst:
        meter.start()
        for index in range(count):
            async with aiouring.Chain() as chain:
                chain.read(src, buffer, offset=index * block)
                chain.bpf(operation, buffer, flags=crc)
                chain.write(dst, buffer, offset=index * block)
            _, crc, _ = await chain
    return crc


async def copy_hook(meter: Meter, engine: str, source: int, target: int, block: int, count: int) -> int:
    return await run_in_hook(meter, engine, COPY, source, target, block, count)


async def copy(way: str, engine: str, block: int, count: int) -> dict[str, int]:
    data = os.urandom(block) * count
    do = {"awaits": copy_awaits, "links": copy_links, "ops": copy_ops, "hook": copy_hook}[way]
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(data)
        source.flush()
        meter = Meter()
        crc = await do(meter, engine, source.fileno(), target.fileno(), block, count)
        found = meter.stop()
        target.seek(0)
        if target.read() != data or crc != crc32c.crc32c(data):
            raise SystemExit(f"{way}: the copy or its checksum is wrong")
    return found


# -- an echo with a transformation ------------------------------------------------------------------------------------------------------------


async def echo_awaits(meter: Meter, engine: str, sock: socket.socket, size: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    meter.start()
    for _ in range(count):
        await loop.sock_sendall(sock, (await loop.sock_recv(sock, size)).translate(XOR_TABLE))


async def echo_links(meter: Meter, engine: str, sock: socket.socket, size: int, count: int) -> None:
    # The answer and the next receive are one chain, since the XOR is between a receive and its answer.
    loop = asyncio.get_running_loop()
    buffer = bytearray(size)
    meter.start()
    await loop.sock_recv_into(sock, buffer)
    for index in range(count):
        async with aiouring.Chain() as chain:
            chain.send(sock, buffer.translate(XOR_TABLE))
            if index + 1 < count:
                chain.recv(sock, buffer)
        await chain


async def echo_ops(meter: Meter, engine: str, sock: socket.socket, size: int, count: int) -> None:
    buffer = bytearray(size)
    operation = await Op.load("xor", engine=engine)  # type: ignore[arg-type]
    meter.start()
    for _ in range(count):
        async with aiouring.Chain() as chain:
            chain.recv(sock, buffer)
            chain.bpf(operation, buffer, flags=KEY_32)
            chain.send(sock, buffer)
        await chain


async def echo_hook(meter: Meter, engine: str, sock: socket.socket, size: int, count: int) -> None:
    await run_in_hook(meter, engine, ECHO, sock.fileno(), sock.fileno(), size, count)


def ask(sock: socket.socket, size: int, count: int) -> int:
    """The client, in a process of its own: sends a message, waits for its answer, and looks at it. Gives its exit status."""
    message = os.urandom(size)
    wanted = message.translate(XOR_TABLE)
    for _ in range(count):
        sock.sendall(message)
        answer = b""
        while len(answer) < size:
            piece = sock.recv(size - len(answer))
            if not piece:
                return 1
            answer += piece
        if answer != wanted:
            return 1
    return 0


async def echo(way: str, engine: str, size: int, count: int) -> dict[str, int]:
    do = {"awaits": echo_awaits, "links": echo_links, "ops": echo_ops, "hook": echo_hook}[way]
    ours, theirs = socket.socketpair()
    client = os.fork()
    if client == 0:
        status = 1
        try:
            ours.close()
            status = ask(theirs, size, count)
        finally:
            os._exit(status)
    with ours, theirs:
        theirs.close()
        ours.setblocking(False)
        meter = Meter()
        try:
            await do(meter, engine, ours, size, count)
            found = meter.stop()
        finally:
            ours.shutdown(socket.SHUT_RDWR) if sys.exc_info()[0] else None
            _, status = os.waitpid(client, 0)
        if status:
            raise SystemExit(f"{way}: the client got another answer than it wanted")
    return found


async def engines() -> dict[str, list[str]]:
    """Which engines this machine has."""
    found: dict[str, list[str]] = {"ops": [], "hook": []}
    for engine in ("opcode", "module", "prog_run", "inline"):
        with contextlib.suppress(OSError):
            await Op.load("crc32c", engine=engine)
            found["ops"].append(engine)
    for engine in ("kernel", "inline"):
        with contextlib.suppress(OSError):
            Hook.load(HOOK_PROGRAM, engine=engine)  # type: ignore[arg-type]
            found["hook"].append(engine)
    return found


def main(arguments: list[str]) -> None:
    if arguments == ["engines"]:
        print(json.dumps(aiouring.run(engines())))
        return
    job, way, engine, block, count = arguments[0], arguments[1], arguments[2], int(arguments[3]), int(arguments[4])
    jobs: dict[str, Callable[..., Coroutine[Any, Any, dict[str, int]]]] = {"copy": copy, "echo": echo}
    print(json.dumps(aiouring.run(jobs[job](way, engine, block, count))))


if __name__ == "__main__":
    main(sys.argv[1:])
