"""`make demo`: the file server with its counters on /-/stats and on the terminal, or a check of the server by itself.

    python -m examples.file_server.demo                 serves the current folder on http://127.0.0.1:8080/ (--help lists the options)
    DEMO_SECONDS=5 python -m examples.file_server.demo  serves files of its own making, fetches them from itself over real connections for
                                                        five seconds, compares every byte, and ends with status 0 if all were right
                                                        (0: each kind of request once)

`make demo PORT=8081` chooses the port, and `make demo ARGS="..."` passes any option.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import http.client
import os
import sys

import aiouring

from . import options
from .__main__ import serve_until_stopped, start
from .check import Check, Difference, files_to_check
from .options import Options
from .server import Server
from .stats import Counters, size_text


async def show_counters(counters: Counters) -> None:
    """Keeps one line on the terminal up to date."""
    while True:
        print(f"\r\x1b[K{counters.line()}", end="", flush=True)
        await asyncio.sleep(0.5)


def show_on_terminal(server: Server) -> asyncio.Task[None] | None:
    """A line that rewrites itself is for terminals; a log file would fill up with it."""
    return asyncio.create_task(show_counters(server.counters)) if sys.stdout.isatty() else None


async def serve(chosen: Options) -> None:
    """Serves until Ctrl-C."""
    server = Server(chosen.settings, logged=chosen.logged, log=chosen.log)
    address = await start(server, chosen)
    print(f"serving {chosen.settings.root} on {address}", flush=True)
    print(f"live counters on {address}-/stats; Ctrl-C ends it", flush=True)
    shown = show_on_terminal(server)
    await serve_until_stopped(server)
    if shown is not None:
        shown.cancel()
    print(f"\n{server.counters.line()}", flush=True)


async def check(chosen: Options, seconds: float, clients: int) -> int:
    """Serves, fetches from itself, and compares; returns the program's status."""
    with files_to_check() as root:
        server = Server(dataclasses.replace(chosen.settings, root=root))
        address = await start(server, chosen)
        print(f"serving {root} on {address}, and fetching from it for {seconds:g} s over {clients} connections", flush=True)
        host, _, port = address.removeprefix("http://").removesuffix("/").rpartition(":")
        checks = Check(root, host.strip("[]"), int(port))
        shown = show_on_terminal(server)
        try:
            await checks.run(seconds, clients)
        except (Difference, OSError, EOFError, http.client.HTTPException) as error:
            print(f"\nFAILED: {error or type(error).__name__}", file=sys.stderr)
            return 1
        finally:
            if shown is not None:
                shown.cancel()
                print()
            await server.close()
    print(f"server: {server.counters.line()}")
    print("client: " + ", ".join(f"{kind} {count}" for kind, count in checks.done.items()))
    rate = checks.body_bytes / max(seconds, 0.001)
    print(f"compared {size_text(checks.body_bytes)} ({size_text(round(rate))}/s) on {type(asyncio.get_running_loop()).__module__}: all equal")
    return 0


def main() -> int:
    parser = options.parser("python -m examples.file_server.demo", "Serves the files of a folder over HTTP, with live counters on /-/stats.")
    parser.add_argument("--clients", type=options.count, default=20, help="connections of the check that DEMO_SECONDS asks for")
    chosen, found = options.read(parser, stats=True)
    wish = os.environ.get("DEMO_SECONDS", "")
    seconds = 0.0
    try:
        seconds = options.seconds(wish) if wish else 0.0
    except argparse.ArgumentTypeError:
        parser.error(f"DEMO_SECONDS is {wish!r}, which is not a number of seconds from 0 to a day")
    if wish and chosen.unix is not None:
        parser.error("the check that DEMO_SECONDS asks for fetches over TCP: leave --unix out")
    try:
        if wish:
            return aiouring.run(check(chosen, seconds, found.clients))
        aiouring.run(serve(chosen))
    except KeyboardInterrupt:
        pass
    except aiouring.RingUnavailable as refusal:
        # Its message names the cause and the remedy; a traceback would bury them.
        sys.exit(f"{refusal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
