"""The client of the echo server: a process of its own on the standard library's loop; says on its last line, in JSON, what it saw.

echo_load.py steady ECHO CONTROL CONNECTIONS ROUNDS     warm-up, mark, `ROUNDS` messages of 1 KiB a connection, mark
echo_load.py many   ECHO CONTROL CONNECTIONS ROUNDS     stats, then `ROUNDS` times: open all, echo on all, close all, stats
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import struct
import sys
from typing import Any

MESSAGE_BYTES = 1024


class Control:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, command: str) -> dict[str, Any]:
        self._writer.write(command.encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._reader.readline())
        return answer

    def close(self) -> None:
        self._writer.close()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def exchange(connection: Connection, message: bytes) -> None:
    reader, writer = connection
    writer.write(message)
    answer = await reader.readexactly(len(message))
    if answer != message:
        raise AssertionError(f"sent {message[:16].hex()}…, got back {answer[:16].hex()}…")


def messages(count: int) -> list[bytes]:
    source = random.Random(1)
    return [source.randbytes(MESSAGE_BYTES) for _ in range(count)]


async def steady(echo: int, control: Control, count: int, rounds: int) -> dict[str, Any]:
    connections = [await asyncio.open_connection("127.0.0.1", echo) for _ in range(count)]
    sent = messages(64)

    async def client(number: int, turns: int) -> None:
        for turn in range(turns):
            await exchange(connections[number], sent[(number + turn) % len(sent)])

    await asyncio.gather(*(client(number, 50) for number in range(count)))
    before = await control.ask("mark")
    await asyncio.gather(*(client(number, rounds) for number in range(count)))
    after = await control.ask("mark")
    for _, writer in connections:
        writer.close()
    return {"messages": count * rounds, "before": before["ring"], "after": after["ring"]}


async def many(echo: int, control: Control, count: int, rounds: int) -> dict[str, Any]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sent = messages(count)
    # More at once than the server's backlog would only measure the kernel's retransmission timer.
    opening = asyncio.Semaphore(500)
    history = [await control.ask("stats")]

    async def opened(number: int) -> Connection:
        async with opening:
            return await asyncio.open_connection("127.0.0.1", echo, limit=4 * MESSAGE_BYTES)

    async def closed(number: int, connection: Connection) -> None:
        reader, writer = connection
        if number % 2:
            writer.write_eof()
            if await reader.read() != b"":
                raise AssertionError("the server sent more than it got")
        else:
            # With this option a close is a reset.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await writer.wait_closed()

    at_the_top = []
    for _ in range(rounds):
        connections = await asyncio.gather(*(opened(number) for number in range(count)))
        for shift in range(3):
            await asyncio.gather(*(exchange(connections[n], sent[(n + shift) % count]) for n in range(count)))
        at_the_top.append(await control.ask("stats"))
        await asyncio.gather(*(closed(n, connections[n]) for n in range(count)))
        history.append(await control.ask("drained"))
        # Descriptors close with their last completion, which may be a turn or two behind connection_lost().
        for _ in range(200):
            if history[-1]["descriptors"] == history[0]["descriptors"]:
                break
            await asyncio.sleep(0.01)
            history[-1] = await control.ask("stats")
    return {"history": history, "at_the_top": at_the_top}


async def main() -> None:
    kind, echo, port, count, rounds = sys.argv[1], *map(int, sys.argv[2:])
    control = Control(*await asyncio.open_connection("127.0.0.1", port))
    result = await (steady if kind == "steady" else many)(echo, control, count, rounds)
    control.close()
    print(json.dumps(result))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
