"""A TCP server that sends back what it gets: the smallest program that shows the loop at work.

Shows: aiouring.run() in place of asyncio.run(); everything else is plain asyncio (streams).
Run:   python examples/echo_server.py            (--host and --port choose another address)
Try:   nc 127.0.0.1 8007                         and type something; Ctrl-C ends the server
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import aiouring


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: read what is there, write it back, until the client has said all it wants to say."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            # A client that sends but never reads must not fill our memory: wait until it has taken enough.
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass  # the client went away in the middle, which is its right, or the program ends: this connection is over
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()  # also takes note of how the connection ended, so that nobody else is told


async def main(host: str, port: int) -> None:
    server = await asyncio.start_server(echo, host, port)
    name = server.sockets[0].getsockname()
    print(f"echo server on {name[0]}:{name[1]} (Ctrl-C ends it)", flush=True)
    try:
        await asyncio.get_running_loop().create_future()  # until Ctrl-C
    finally:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sends back what it gets.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007, help="0 takes any free port")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        aiouring.run(main(options.host, options.port))
