"""The loop under test as a client: `client.py LOOP PORT WARMUP SECONDS` opens connections to an echo server as fast as it can.

Started by benchmarks/measure.py, pinned, in the contestant's interpreter. Fifty connections are in work at a time; each brings 64 bytes and
their echo and is closed. Prints its window as JSON, or "UNAVAILABLE reason".
"""

from __future__ import annotations

import asyncio
import sys

from loops import Window, be_a_process_under_test, make_loop, say_unavailable

CONNECTIONS = 50
MESSAGE = b"x" * 64


class Once(asyncio.Protocol):
    """One message there, its echo back, the end."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = len(MESSAGE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream connection's transport is one
        self.transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing == 0:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.missing:
            self.ended.set_exception(exc or ConnectionError("the server closed a connection before it answered"))
        else:
            self.ended.set_result(None)


async def connect_again_and_again(port: int, window: Window) -> None:
    loop = asyncio.get_running_loop()
    is_over = False

    async def work() -> None:
        nonlocal is_over
        while not is_over:
            _, protocol = await loop.create_connection(Once, "127.0.0.1", port)
            await protocol.ended
            if not is_over:
                is_over = window.over(1)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))


def main(loop_name: str, port: str, warmup: str, seconds: str) -> None:
    be_a_process_under_test()
    try:
        loop = make_loop(loop_name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(connect_again_and_again(int(port), Window(float(warmup), float(seconds))))
    except Exception as error:
        say_unavailable(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
