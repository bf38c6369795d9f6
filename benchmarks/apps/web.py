"""Web servers as they are installed, on any loop: `web.py LOOP uvicorn|aiohttp|static ADDRESS [ROOT]`, ADDRESS being a port (0: any).

Started by benchmarks/measure.py and programs.py, pinned, in the contestant's interpreter. Says "READY PORT" or "UNAVAILABLE reason", as
server.py does, and runs until it is killed. None writes an access log.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from loops import be_a_process_under_test, make_loop, say, say_unavailable
from server import free_port, listen

TEXT = b"Hello, world!"


async def plaintext(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """The least ASGI application."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(TEXT)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": TEXT})


async def serve_uvicorn(port: int, root: str) -> object:
    import uvicorn

    config = uvicorn.Config(plaintext, loop="none", http="httptools", lifespan="off", access_log=False, log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listen(str(port))]))
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("uvicorn ended by itself")
        await asyncio.sleep(0.01)
    return task


async def serve_aiohttp(port: int, root: str) -> object:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=TEXT, content_type="text/plain")

    application = web.Application()
    if root:
        application.router.add_static("/", root)
    else:
        application.router.add_get("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    return runner


APPS: dict[str, Callable[[int, str], Awaitable[object]]] = {
    "uvicorn": serve_uvicorn,
    "aiohttp": serve_aiohttp,
    "static": serve_aiohttp,
}


async def serve(app: str, port: int, root: str) -> None:
    kept = await APPS[app](port, root)
    say("READY", port)
    await asyncio.get_running_loop().create_future()  # until it is killed
    del kept


def main(loop_name: str, app: str, address: str, root: str = "") -> None:
    be_a_process_under_test()
    try:
        loop = make_loop(loop_name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(app, int(address) or free_port(), root))
    except Exception as error:
        say_unavailable(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
