"""An echo server with a control port, for test_strace.py and test_many_connections.py; runs on the loop under test.

Prints "ready ECHO_PORT CONTROL_PORT". The control port takes lines and answers each with one line of JSON:
  stats    connections, open descriptors, resident memory and the loop's own counters
  mark     the same, after one getppid(): a call that nothing else makes, so that a system-call trace shows where a phase begins
  drained  the same, once no echo connection is left
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
from pathlib import Path

import aiouring

connections = 0
nobody_left = asyncio.Event()


def _opened() -> None:
    global connections
    connections += 1
    nobody_left.clear()


def _closed() -> None:
    global connections
    connections -= 1
    if connections == 0:
        nobody_left.set()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        _opened()

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        _closed()


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _opened()
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the client reset its connection; half of them do
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass
        _closed()


def stats() -> dict[str, object]:
    loop = asyncio.get_running_loop()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    # The folder's own descriptor is open while it is listed, each time.
    return {
        "connections": connections,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "resident_bytes": pages * resource.getpagesize(),
        "ring": loop.ring_stats() if hasattr(loop, "ring_stats") else None,
    }


async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while line := await reader.readline():
        command = line.strip()
        if command == b"mark":
            # Only the loop's counters: reading /proc would itself be a read call, inside the phase.
            os.getppid()
            answer: dict[str, object] = {"ring": loop.ring_stats() if hasattr(loop, "ring_stats") else None}
        else:
            if command == b"drained":
                await nobody_left.wait()
                gc.collect()
            answer = stats()
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def main(style: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    if style == "streams":
        server = await asyncio.start_server(echo_streams, "127.0.0.1", 0, backlog=4096)
    else:
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=4096)
    controls = await asyncio.start_server(control, "127.0.0.1", 0)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", server.sockets[0].getsockname()[1], controls.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()
    controls.close()


if __name__ == "__main__":
    aiouring.run(main(sys.argv[1]))
