"""A UDP server that answers each datagram with the same bytes and says every second how many there were.

Shows: a datagram endpoint with a protocol class; a periodic task beside it.
Run:   python examples/udp_server.py             (--host and --port choose another address)
Try:   nc -u 127.0.0.1 8010                      and type something; Ctrl-C ends the server
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from typing import cast

import aiouring


class Answer(asyncio.DatagramProtocol):
    """Gets every datagram of the socket, whoever sent it."""

    datagrams = 0
    octets = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.datagrams += 1
        self.octets += len(data)
        self._transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        # A client that is gone by the time of the answer; with UDP that is nobody's fault.
        print(f"an answer came back: {exc}", flush=True)


async def report(protocol: Answer) -> None:
    """Prints the counters once a second, but only when something has happened."""
    shown = 0
    while True:
        await asyncio.sleep(1)
        if protocol.datagrams != shown:
            shown = protocol.datagrams
            print(f"{protocol.datagrams} datagrams, {protocol.octets} bytes", flush=True)


async def main(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Answer, local_addr=(host, port))
    name = transport.get_extra_info("sockname")
    print(f"UDP server on {name[0]}:{name[1]} (Ctrl-C ends it)", flush=True)
    try:
        await report(protocol)  # until Ctrl-C
    finally:
        transport.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answers each datagram with the same bytes.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8010, help="0 takes any free port")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        aiouring.run(main(options.host, options.port))
