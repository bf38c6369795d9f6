"""An echo server that says every second how large the pieces were that it received: `python -m examples.receive_sizes [--port N] [--seconds S]`.

The counting is done by a loop hook, receive_sizes.bpf.c, in the kernel where it takes hooks and in this process otherwise. It is built first:
`python -m aiouring build-hook examples/receive_sizes/receive_sizes.bpf.c`.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import aiouring
from aiouring.bpf import Hook

PROGRAM = Path(__file__).with_name("receive_sizes.bpf.o")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def report(counters: list[int]) -> str:
    lines = [f"{1 << bits:>10,} B and more: {count:,}" for bits, count in enumerate(counters) if count]
    return "\n".join(lines) or "nothing received yet"


async def main(program: Path, port: int, seconds: float) -> None:
    hook = Hook.load(program)
    with hook:
        print(f"engine: {hook.engine}{f' ({hook.engine_reason})' if hook.engine_reason else ''}")
        server = await asyncio.start_server(echo, "127.0.0.1", port)
        async with server:
            print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
            end = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(min(1.0, max(0.0, end - asyncio.get_running_loop().time())))
                print(report(hook.counters), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=PROGRAM, help="the built object (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8007)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long it runs")
    arguments = parser.parse_args()
    try:
        aiouring.run(main(arguments.program, arguments.port, arguments.seconds))
    except FileNotFoundError as error:
        parser.exit(1, f"{error}\nbuild it first: python -m aiouring build-hook {PROGRAM.with_suffix('.c')}\n")
    except KeyboardInterrupt:
        pass
