"""What the tests of loop hooks share: the engines that can run here, hook programs built from C in the test's folder, and plain asyncio code that
does what the shipped hooks do."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiouring.bpf import build

# The kernel engine's tests run where the kernel has loop hooks (tests/vm).
ENGINES = ["inline", pytest.param("kernel", marks=pytest.mark.kernel_hook)]


def some(engine: str, many: int) -> int:
    """How often or how many: the kernel engine's tests run under emulation, twenty times slower."""
    return max(many // 6, 1) if engine == "kernel" else many


FORKING = """if True:
    import asyncio, gc, os, sys, aiouring
    from aiouring import Delimited

    class Forking(asyncio.Protocol):
        received, child = 0, None

        def connection_made(self, transport):
            self.transport = transport
            protocols.append(self)

        def data_received(self, data):
            self.received += 1
            if self.child is None:
                self.child = os.fork()
            if self.received == 2:
                done.set_result(self)

    protocols = []

    async def main():
        global done
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        server = await loop.create_server(Forking, "127.0.0.1", 0, %s)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"one\\r\\n\\r\\ntwo\\r\\n\\r\\n")
        await writer.drain()
        if %r:
            while not protocols[0].received:
                await asyncio.sleep(0)
            writer.write(b"more")
        protocol = await done
        protocol.transport.abort()
        writer.close()
        server.close()
        print("child:", os.waitstatus_to_exitcode(os.waitpid(protocol.child, 0)[1]))

    aiouring.run(main())
"""


def check_fork(arguments: str, *, more: bool) -> None:
    """A protocol of a server with such arguments forks in data_received(): the child gets the loop's own error, and the parent goes on."""
    result = subprocess.run([sys.executable, "-c", FORKING % (arguments, more)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "child: 1\n"
    assert "belongs to the parent process" in result.stderr


def build_program(folder: Path, body: str, *, engine: str, name: str = "mine") -> Path:
    """A hook program from the body of on_cqe(hook, cqe), compiled for one engine. Returns the path that Hook.load() takes."""
    source = folder / f"{name}.bpf.c"
    source.write_text(
        "#include <aiouring/hook.h>\n"
        "static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)\n"
        "{\n    (void)hook;\n    (void)cqe;\n" + body + "\n}\nAIOURING_HOOK(on_cqe)\n"
    )
    return compile_program(source, engine=engine)


def compile_program(source: Path, *, engine: str) -> Path:
    """As `python -m aiouring build-hook` does. Returns the path that Hook.load() takes."""
    target = source.with_suffix(".o")
    if engine == "inline":
        warnings = build.build_library(source, source.with_suffix(".so"), [build.INCLUDE])
    else:
        warnings = build.build_object(source, target, [build.INCLUDE])
    assert warnings == ""
    return target


def pair(*, tcp: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that do not block."""
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            left = socket.create_connection(listener.getsockname())
            right, _ = listener.accept()
    else:
        left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


async def plain_relay(a: socket.socket, b: socket.socket) -> tuple[int, int]:
    """relay() in plain asyncio: what the hook is compared with."""
    loop = asyncio.get_running_loop()

    async def one_way(src: socket.socket, dst: socket.socket) -> int:
        total = 0
        while data := await loop.sock_recv(src, 65536):
            await loop.sock_sendall(dst, data)
            total += len(data)
        try:
            dst.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return total

    ways = [asyncio.ensure_future(one_way(a, b)), asyncio.ensure_future(one_way(b, a))]
    try:
        there, back = await asyncio.gather(*ways)
    except BaseException:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        raise
    return there, back


async def plain_echo(sock: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    total = 0
    while data := await loop.sock_recv(sock, 65536):
        await loop.sock_sendall(sock, data)
        total += len(data)
    return total


async def plain_discard(sock: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    total = 0
    while data := await loop.sock_recv(sock, 65536):
        total += len(data)
    return total


async def receive_all(loop: Any, sock: socket.socket) -> bytes:
    """Up to the end of the stream."""
    pieces = []
    while data := await loop.sock_recv(sock, 65536):
        pieces.append(data)
    return b"".join(pieces)
