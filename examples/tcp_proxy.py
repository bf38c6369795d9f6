"""Passes TCP connections on to another address, both ways, and counts the bytes.

Shows: two connections joined; back-pressure from end to end (drain); an end of one direction is passed on as just that, so that
       programs which half-close (nc -N, many protocols) work through the proxy.
Run:   python examples/tcp_proxy.py example.org:80          (--host and --port choose where it listens)
Try:   curl -H 'Host: example.org' http://127.0.0.1:8009/
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import aiouring


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Copies one direction to its end, passes the end on, and returns how many bytes there were."""
    count = 0
    while data := await reader.read(262_144):
        writer.write(data)
        # Reads no faster than the other side takes it: the wait here is what fills the sender's window.
        await writer.drain()
        count += len(data)
    if writer.can_write_eof():
        writer.write_eof()
    return count


async def proxy(target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: opens the other one, joins the two, closes both."""
    peer = "{}:{}".format(*writer.get_extra_info("peername")[:2])
    try:
        far_reader, far_writer = await asyncio.open_connection(*target)
    except OSError as error:
        print(f"{peer}: cannot reach {target[0]}:{target[1]}: {error}", flush=True)
        writer.close()
        return
    try:
        # A task group: when one direction breaks, the other one is ended too.
        async with asyncio.TaskGroup() as group:
            up = group.create_task(pump(reader, far_writer))
            down = group.create_task(pump(far_reader, writer))
        print(f"{peer}: {up.result()} bytes there, {down.result()} bytes back", flush=True)
    except* ConnectionError as broken:
        print(f"{peer}: {broken.exceptions[0]}", flush=True)
    except* asyncio.CancelledError:
        pass  # the program ends
    finally:
        far_writer.close()
        writer.close()


async def main(host: str, port: int, target: tuple[str, int]) -> None:
    server = await asyncio.start_server(lambda reader, writer: proxy(target, reader, writer), host, port)
    name = server.sockets[0].getsockname()
    print(f"TCP proxy on {name[0]}:{name[1]} to {target[0]}:{target[1]} (Ctrl-C ends it)", flush=True)
    try:
        await asyncio.get_running_loop().create_future()  # until Ctrl-C
    finally:
        server.close()


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, where an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Passes TCP connections on.")
    parser.add_argument("target", type=address, help="HOST:PORT to pass connections on to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8009, help="0 takes any free port")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        aiouring.run(main(options.host, options.port, options.target))
