"""Starts the server, and ends it when a signal says so: `python -m examples.file_server --help`.

SIGTERM and SIGINT stop it: what is being answered is finished, for a bounded time; a second one ends it at once. SIGHUP opens the access log again.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import aiouring

from . import options
from .options import Options
from .server import Server

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def start(server: Server, chosen: Options) -> str:
    """Listen where the options say; returns the address as people write it. Ends the program where that is not to be had."""
    try:
        if chosen.unix is not None:
            await server.listen_unix(chosen.unix)
            return f"unix:{chosen.unix}"
        host, port = await server.listen(chosen.host, chosen.port)
    except OSError as error:
        place = f"unix:{chosen.unix}" if chosen.unix is not None else f"{chosen.host}:{chosen.port}"
        sys.exit(f"cannot listen on {place}: {error.strerror or error}\n--port chooses another port (0: any free one), --host another address")
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


async def serve_until_stopped(server: Server) -> None:
    """Returns when the server has ended, which a signal asks for."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    reopening: set[asyncio.Task[None]] = set()

    def reopen() -> None:
        task = loop.create_task(server.reopen_log())
        reopening.add(task)
        task.add_done_callback(reopening.discard)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    await stopped.wait()
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)  # the next one ends the program
    await server.close()


async def serve(chosen: Options) -> None:
    try:
        server = Server(chosen.settings, logged=chosen.logged, log=chosen.log)
    except OSError as error:
        sys.exit(f"cannot start: {error}")
    address = await start(server, chosen)
    print(f"serving {chosen.settings.root} on {address}", flush=True)
    await serve_until_stopped(server)


def main() -> int:
    chosen, _ = options.read(options.parser("python -m examples.file_server", "Serves the files of a folder over HTTP."))
    try:
        aiouring.run(serve(chosen))
    except KeyboardInterrupt:
        return 130
    except aiouring.RingUnavailable as refusal:
        # Its message names the cause and the remedy; a traceback would bury them.
        sys.exit(f"{refusal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
