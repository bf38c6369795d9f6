"""The ASGI application that test_uvicorn.py and test_httpx_anyio.py put behind uvicorn; no framework, so that nothing hides uvicorn."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_waiting: dict[int, list[asyncio.Future[None]]] = {}
_disconnected = 0
_disconnected_changed: asyncio.Condition | None = None


def _changed() -> asyncio.Condition:
    global _disconnected_changed
    if _disconnected_changed is None:
        _disconnected_changed = asyncio.Condition()
    return _disconnected_changed


async def _start(send: Send, headers: list[tuple[bytes, bytes]], status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, body: bytes, status: int = 200) -> None:
    await _start(send, [(b"content-length", str(len(body)).encode())], status)
    await send({"type": "http.response.body", "body": body})


async def _echo(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    """Sends each piece of the request's body back as it comes: both directions stream at once."""
    await _start(send, [(b"x-client-port", str(scope["client"][1]).encode())] if scope.get("client") else [])
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        if not message["more_body"]:
            break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _digest(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    digest, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message["body"])
        size += len(message["body"])
        if not message["more_body"]:
            break
    await _answer(send, json.dumps({"size": size, "sha256": digest.hexdigest()}).encode())


async def _download(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    """`size` bytes made from `seed`: with a Content-Length in one piece, or chunked in pieces of `piece` bytes."""
    body = random.Random(query["seed"]).randbytes(query["size"])
    if "piece" not in query:
        await _answer(send, body)
        return
    await _start(send, [])
    for begin in range(0, len(body), query["piece"]):
        await send({"type": "http.response.body", "body": body[begin : begin + query["piece"]], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _together(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    """Answers only once `count` requests are inside at the same time: proof that they are concurrent."""
    waiting = _waiting.setdefault(query["count"], [])
    mine = asyncio.get_running_loop().create_future()
    waiting.append(mine)
    if len(waiting) == query["count"]:
        for future in waiting:
            future.set_result(None)
        waiting.clear()
    gone = asyncio.create_task(receive_disconnect(receive))
    await asyncio.wait([mine, gone], return_when=asyncio.FIRST_COMPLETED)
    if not mine.done():
        waiting.remove(mine)
        return
    gone.cancel()
    await _answer(send, str(scope["client"][1]).encode())


async def _endless(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    """Sends until the client is gone; /disconnects tells how many went."""
    global _disconnected
    await _start(send, [])
    gone = asyncio.create_task(receive_disconnect(receive))
    try:
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 16384, "more_body": True})
            await asyncio.sleep(0)
    except OSError:
        # Later versions of the ASGI specification let send() raise here.
        pass
    await gone
    async with _changed():
        _disconnected += 1
        _changed().notify_all()


async def receive_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _disconnects(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    async with _changed():
        await _changed().wait_for(lambda: _disconnected >= query["count"])
    await _answer(send, str(_disconnected).encode())


async def _loop_name(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    kind = type(asyncio.get_running_loop())
    await _answer(send, f"{kind.__module__}.{kind.__qualname__}".encode())


async def _thread(scope: Message, receive: Receive, send: Send, query: dict[str, int]) -> None:
    """Work in the executor, as frameworks do with synchronous handlers."""
    body = await asyncio.to_thread(random.Random(query["seed"]).randbytes, query["size"])
    await _answer(send, body)


_ROUTES = {
    "/echo": _echo,
    "/digest": _digest,
    "/download": _download,
    "/together": _together,
    "/endless": _endless,
    "/disconnects": _disconnects,
    "/loop": _loop_name,
    "/thread": _thread,
}


async def _websocket(scope: Message, receive: Receive, send: Send) -> None:
    """Echoes text as text and bytes as bytes; the text "close 4321" closes with that code."""
    assert (await receive())["type"] == "websocket.connect"
    protocols = scope.get("subprotocols") or []
    await send({"type": "websocket.accept", "subprotocol": protocols[0] if protocols else None})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is not None and text.startswith("close "):
            await send({"type": "websocket.close", "code": int(text.removeprefix("close ")), "reason": "asked for"})
            return
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        print("lifespan: started", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan: ended", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    else:
        query = {name: int(values[0]) for name, values in parse_qs(scope["query_string"].decode()).items()}
        await _ROUTES[scope["path"]](scope, receive, send, query)
