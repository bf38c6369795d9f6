"""`python -m examples.image_store FOLDER`: PUT /NAME stores an image, GET /NAME sends it, GET / lists them. One request a connection.

The operation is built first: `python -m aiouring build-op examples/image_store/filled.bpf.c`.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import socket
from pathlib import Path

import aiouring
from aiouring.bpf import Op, OperationRefused

from .store import IDLE_S, NAME, Damaged, Incomplete, Store

PROGRAM = Path(__file__).with_name("filled.bpf.c")
HEAD_BYTES_MAX = 16384
# A loop runs 256 chains that carry numbers at a time.
CONNECTIONS_MAX = 200


def answer(status: str, body: str = "") -> bytes:
    text = f"{body}\n".encode() if body else b""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text


async def read_head(sock: socket.socket) -> tuple[str, dict[str, str], bytes]:
    """The request's first line, its fields by their names in small letters, and what came behind it. Raises Incomplete, ValueError, TimeoutError."""
    loop = asyncio.get_running_loop()
    received = b""
    async with asyncio.timeout(IDLE_S):
        while b"\r\n\r\n" not in received:
            if len(received) > HEAD_BYTES_MAX:
                raise ValueError("the head is too long")
            data = await loop.sock_recv(sock, HEAD_BYTES_MAX)
            if not data:
                raise Incomplete("no request came")
            received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, fields, rest


async def serve(store: Store, sock: socket.socket) -> str:
    """One request: answers it, and returns a line for the log. Raises what Store.receive() and send() do."""
    loop = asyncio.get_running_loop()
    first, fields, rest = await read_head(sock)
    words = first.split(" ")
    if len(words) != 3 or not words[1].startswith("/"):
        raise ValueError("this is no request")
    method, name = words[0], words[1].removeprefix("/")
    if method == "GET" and name == "":
        listing = "\n".join(f"{image.checksum:08x} {image.length:>14} {name}" for name, image in sorted(store.images.items()))
        await loop.sock_sendall(sock, answer("200 OK", listing))
        return "the list"
    if not NAME.fullmatch(name):
        raise ValueError(f"no image can have the name {name!r}")
    if method == "GET":
        image = store.images.get(name)
        if image is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such image", name)
        fields_of_answer = f"Content-Length: {image.length}\r\nX-CRC32C: {image.checksum:08x}\r\nConnection: close"
        await store.send(sock, f"HTTP/1.1 200 OK\r\n{fields_of_answer}\r\n\r\n".encode(), image)
        return f"{name}: {image.length:,} bytes sent, CRC-32C {image.checksum:08x}"
    if method != "PUT":
        raise ValueError(f"GET and PUT are what there is, not {method}")
    length = int(fields.get("content-length", "-1"))
    if length < 0:
        raise ValueError("an upload says its Content-Length")
    if fields.get("expect", "").lower() == "100-continue":
        await loop.sock_sendall(sock, b"HTTP/1.1 100 Continue\r\n\r\n")
    image = await store.receive(sock, name, rest[:length], length)
    space = (await aiouring.fs.stat(image.path)).st_blocks * 512
    await loop.sock_sendall(sock, answer("201 Created", f"{image.checksum:08x}"))
    return f"{name}: {length:,} bytes received, CRC-32C {image.checksum:08x}, {space:,} bytes on the disk"


async def handle(store: Store, sock: socket.socket, places: asyncio.Semaphore) -> None:
    """A connection, from its first byte to its end, whatever comes."""
    refusal = b""
    with sock:
        try:
            async with places:
                said = await serve(store, sock)
        except Incomplete as error:
            said = f"the client left: {error}"
        except Damaged as error:
            said = f"DAMAGED: {error}"
        except FileNotFoundError as error:
            said, refusal = str(error), answer("404 Not Found", error.strerror or "")
        except ValueError as error:
            said, refusal = f"refused: {error}", answer("400 Bad Request", str(error))
        except TimeoutError:
            said = "the client did nothing for too long"
        except OSError as error:
            # A chain's error says which link it was; its cause is the plain one.
            if isinstance(error.__cause__ if isinstance(error, aiouring.ChainError) else error, ConnectionError):
                said = f"the client left: {error}"
            else:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                said = f"failed: {error}"
                refusal = answer("507 Insufficient Storage", "the disk is full") if full else answer("500 Internal Server Error", "see the log")
        print(said, flush=True)
        try:
            if refusal:
                await asyncio.get_running_loop().sock_sendall(sock, refusal)
        except OSError:
            pass  # nobody is there to hear it


async def main(folder: Path, program: Path, engine: str, host: str, port: int) -> None:
    crc32c = await Op.load("crc32c", engine=engine)  # type: ignore[arg-type]
    filled = await Op.load(program, engine=engine)  # type: ignore[arg-type]
    for op in (crc32c, filled):
        print(f"{op.name} is run by {op.engine}{f' ({op.engine_reason})' if op.engine_reason else ''}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder, crc32c, filled)
    places = asyncio.Semaphore(CONNECTIONS_MAX)
    loop = asyncio.get_running_loop()
    with socket.create_server((host, port)) as listener:
        listener.setblocking(False)
        print("image store on {}:{} (Ctrl-C ends it)".format(*listener.getsockname()[:2]), flush=True)
        async with asyncio.TaskGroup() as group:
            while True:
                sock, _ = await loop.sock_accept(listener)
                group.create_task(handle(store, sock, places))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the images are")
    parser.add_argument(
        "--program", type=Path, default=PROGRAM, help="the operation, by its source or what build-op made of it (default: %(default)s)"
    )
    parser.add_argument("--engine", default="auto", choices=["auto", "opcode", "module", "prog_run", "inline"], help="what runs the operations")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8020)
    arguments = parser.parse_args()
    try:
        aiouring.run(main(arguments.folder, arguments.program, arguments.engine, arguments.host, arguments.port))
    except FileNotFoundError as error:
        parser.exit(1, f"{error}\nbuild it first: python -m aiouring build-op {PROGRAM}\n")
    except OperationRefused as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        pass
