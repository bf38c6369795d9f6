"""A static file server: directory listings, range requests, keep-alive, and live counters of the loop underneath.

Shows: an HTTP/1.1 server on asyncio streams; file bodies sent by loop.sendfile; work that may block (listing a folder) in threads;
       the loop's own counters (ring_stats) beside the server's.
Run:   python examples/demo_server.py            serves the current folder on http://127.0.0.1:8080/ (see --help)
       DEMO_SECONDS=5 python examples/demo_server.py
                                                 serves files of its own making, fetches them from itself over real connections for
                                                 five seconds, compares every byte, and ends with status 0 if all were right
Try:   http://127.0.0.1:8080/-/stats             live counters
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import email.utils
import html
import http.client
import json
import mimetypes
import os
import random
import re
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote_to_bytes

import aiouring

#: A request's head may be this long; browsers stay far below.
HEAD_BYTES_MAX = 32 * 1024
#: A connection that says nothing for so long is closed.
IDLE_S = 60
#: Files up to this size travel with the head of their answer in one write; longer ones go by sendfile.
SMALL_FILE_BYTES = 64 * 1024

STATS_PAGE = """<!doctype html>
<meta charset="utf-8"><title>live counters</title>
<style>
body { font: 16px/1.6 system-ui, sans-serif; margin: 3em }
td { padding-right: 2em } td + td { text-align: right; font-family: monospace }
</style>
<h1>live counters</h1><table id="counters"></table><p><a href="/">files</a></p>
<script>
const cell = text => Object.assign(document.createElement("td"), {textContent: text});
async function show() {
    const counters = await (await fetch("/-/stats.json")).json();
    document.getElementById("counters").replaceChildren(...Object.entries(counters).map(([name, value]) => {
        const row = document.createElement("tr");
        row.append(cell(name.replaceAll("_", " ")), cell(value.toLocaleString()));
        return row;
    }));
}
show(); setInterval(show, 1000);
</script>
"""


# --- what is counted


@dataclass
class Counters:
    """What the server has done since it started."""

    connections: int = 0
    connections_open: int = 0
    requests: int = 0
    body_bytes: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def snapshot(self) -> dict[str, int]:
        """All counters by name, those of the loop included where it has some (asyncio's own loop has none)."""
        ring_stats = getattr(asyncio.get_running_loop(), "ring_stats", dict)
        ring = {f"loop_{name}": value for name, value in ring_stats().items() if name not in ("setup_flags", "features")}
        return {
            "seconds_up": round(time.monotonic() - self.started),
            "connections": self.connections,
            "connections_open": self.connections_open,
            "requests": self.requests,
            "body_bytes": self.body_bytes,
            **{f"answers_{status}": count for status, count in sorted(self.answers.items())},
            **ring,
        }

    def line(self) -> str:
        """The most telling counters, short enough for a terminal."""
        now = self.snapshot()
        text = f"{now['connections_open']} of {now['connections']} connections open, {now['requests']} requests, {size_text(now['body_bytes'])}"
        if "loop_turns" in now:
            text += f", {now['loop_turns']} turns, {now['loop_enters']} enters"
        return text


def size_text(count: int) -> str:
    """A number of bytes as people read it."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


# --- the server


class Refusal(Exception):
    """Ends a request with an error page."""

    def __init__(self, status: HTTPStatus, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = {name.replace("_", "-").title(): value for name, value in headers.items()}


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Raises Refusal for what is not an HTTP/1 request."""
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "The first line is not an HTTP request.")
        method, target, version = parts
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.0 and HTTP/1.1.")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise Refusal(HTTPStatus.BAD_REQUEST, "A header line has no name or no colon.")
            headers[name.lower()] = value.strip()
        wishes = headers.get("connection", "").lower()
        keep_alive = "close" not in wishes if version == "HTTP/1.1" else "keep-alive" in wishes
        # We never read a body. What follows one could not be told from the next request, so the connection ends there.
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            keep_alive = False
        return cls(method, target, headers, keep_alive)


@dataclass
class Answer:
    """Everything of an answer but the connection: head, and a body in memory or in a file from `offset` on."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes = b""
    file: BinaryIO | None = None
    offset: int = 0
    length: int = 0


def page(status: HTTPStatus, text: str, kind: str = "text/html; charset=utf-8", **headers: str) -> Answer:
    body = text.encode(errors="surrogateescape")
    return Answer(status, {"Content-Type": kind, **headers}, body=body, length=len(body))


class FileServer:
    """Serves the files below `root`, and nothing else, to every connection that `serve` is called with."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve(strict=True)
        self.counters = Counters()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with as many requests as the client keeps it alive for."""
        self.counters.connections += 1
        self.counters.connections_open += 1
        try:
            while await self._one_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
            pass  # a client that resets, goes away in the middle of a head or stays silent, or the program ends: all in order
        finally:
            self.counters.connections_open -= 1
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Reads a request and answers it; False when the connection ends with it."""
        method, keep_alive = "GET", False
        try:
            async with asyncio.timeout(IDLE_S):
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.") from None
            request = Request.parse(head)
            method, keep_alive = request.method, request.keep_alive
            answer = await self._answer(request)
        except Refusal as refusal:
            title = f"{refusal.status} {refusal.status.phrase}"
            answer = page(refusal.status, f"<!doctype html><title>{title}</title><h1>{title}</h1><p>{refusal}</p>", **refusal.headers)
        try:
            await self._send(answer, writer, with_body=method != "HEAD", keep_alive=keep_alive)
        finally:
            if answer.file is not None:
                answer.file.close()
        return keep_alive

    async def _send(self, answer: Answer, writer: asyncio.StreamWriter, *, with_body: bool, keep_alive: bool) -> None:
        lines = [f"HTTP/1.1 {answer.status} {answer.status.phrase}", f"Date: {email.utils.formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.status is not HTTPStatus.NOT_MODIFIED:
            lines.append(f"Content-Length: {answer.length}")
        lines += [f"Connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        # Counted before it is sent: a client that has an answer finds it in the counters.
        self.counters.requests += 1
        self.counters.answers[int(answer.status)] += 1
        if with_body:
            self.counters.body_bytes += answer.length
        if with_body and answer.file is not None:
            writer.write(head)
            await asyncio.get_running_loop().sendfile(writer.transport, answer.file, answer.offset, answer.length)
        else:
            writer.write(head + answer.body if with_body else head)
            await writer.drain()

    async def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This server only hands out files.", allow="GET, HEAD")
        path = request.target.partition("?")[0]
        if path == "/-/stats":
            return page(HTTPStatus.OK, STATS_PAGE, **{"Cache-Control": "no-store"})
        if path == "/-/stats.json":
            return page(HTTPStatus.OK, json.dumps(self.counters.snapshot()), "application/json", **{"Cache-Control": "no-store"})
        # A disk can be slow, and a folder long: in a thread, so that others are served meanwhile.
        return await asyncio.to_thread(self._look_up, path, request)

    def _look_up(self, path: str, request: Request) -> Answer:
        """What stands behind a path. Runs in a thread."""
        try:
            place = self._place(path)
            if place.is_dir():
                if not path.endswith("/"):
                    # Without the slash, the listing's relative links would lead nowhere. One leading slash: two would name a host.
                    return page(HTTPStatus.MOVED_PERMANENTLY, "", Location=quote(unquote_to_bytes("/" + path.strip("/") + "/")))
                return page(HTTPStatus.OK, self._listing(place))
            return self._file(place, request)
        except (FileNotFoundError, NotADirectoryError):
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no such file.") from None
        except OSError as error:
            raise Refusal(HTTPStatus.FORBIDDEN, f"The file cannot be read: {html.escape(error.strerror or 'error')}.") from None

    def _place(self, path: str) -> Path:
        """The file behind a path; Refusal for every path that leads out of the root, by dots or by a symbolic link."""
        name = os.fsdecode(unquote_to_bytes(path))
        if not name.startswith("/") or "\0" in name:
            raise Refusal(HTTPStatus.BAD_REQUEST, "The path is not one.")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        place = self.root.joinpath(*parts).resolve() if ".." not in parts else None
        if place is None or not place.is_relative_to(self.root):
            raise Refusal(HTTPStatus.FORBIDDEN, "The path leads out of the folder that is served.")
        # "file/" is not a file.
        if name.endswith("/") and not place.is_dir():
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no such folder.")
        return place

    def _listing(self, folder: Path) -> str:
        inside = folder.relative_to(self.root)
        title = html.escape(f"/{inside}/" if inside.parts else "/", quote=False)
        rows = ['<tr><td><a href="../">../</a><td><td>'] if inside.parts else []
        entries = sorted(os.scandir(folder), key=lambda entry: (not entry.is_dir(), entry.name))
        for entry in entries:
            try:
                known = entry.stat()
            except OSError:
                continue  # gone since, or a link to nothing
            slash = "/" if entry.is_dir() else ""
            # ./ before the name: a file may be called "a:b", which would look like a scheme.
            link = "./" + quote(os.fsencode(entry.name)) + slash
            size = "" if slash else f"{known.st_size:,}"
            changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(known.st_mtime))
            rows.append(f'<tr><td><a href="{link}">{html.escape(entry.name)}{slash}</a><td>{size}<td>{changed}')
        return (
            f'<!doctype html>\n<meta charset="utf-8"><title>{title}</title>\n'
            "<style>body { font: 16px/1.6 system-ui, sans-serif; margin: 3em } td { padding-right: 2em } "
            "td + td { text-align: right; font-family: monospace }</style>\n"
            f"<h1>{title}</h1>\n<table>\n" + "\n".join(rows) + '\n</table>\n<p><a href="/-/stats">live counters</a></p>\n'
        )

    def _file(self, place: Path, request: Request) -> Answer:
        # Opened without blocking, because opening a named pipe waits for somebody to write into it; read as any file is.
        file = os.fdopen(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
        try:
            known = os.fstat(file.fileno())
            if not stat.S_ISREG(known.st_mode):
                raise Refusal(HTTPStatus.FORBIDDEN, "This is not a regular file.")
            os.set_blocking(file.fileno(), True)
            tag = f'"{known.st_mtime_ns:x}-{known.st_size:x}"'
            kind, encoding = mimetypes.guess_type(place.name)
            headers = {
                "Content-Type": "application/octet-stream" if kind is None or encoding else kind,
                "Last-Modified": email.utils.formatdate(known.st_mtime, usegmt=True),
                "ETag": tag,
                "Accept-Ranges": "bytes",
            }
            if tag in request.headers.get("if-none-match", ""):
                file.close()
                return Answer(HTTPStatus.NOT_MODIFIED, headers)
            begin, end = 0, known.st_size
            # A range of a version that is no longer there would be glued to pieces of another: then the whole file.
            wanted = byte_range(request.headers.get("range", ""), known.st_size) if request.headers.get("if-range", tag) == tag else None
            status = HTTPStatus.OK
            if wanted is not None:
                begin, end = wanted
                status = HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{known.st_size}"
            answer = Answer(status, headers, file=file, offset=begin, length=end - begin)
            if answer.length <= SMALL_FILE_BYTES:
                answer.body = os.pread(file.fileno(), answer.length, begin)
                answer.length, answer.file = len(answer.body), None
                file.close()
            return answer
        except BaseException:
            file.close()
            raise


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The (begin, end) that a Range header asks for; None where it asks for the whole file.

    Several ranges at once may be answered with the whole file (RFC 9110, 14.2), and so may what is no range at all.
    Raises Refusal (416) where the file has no byte of the range.
    """
    match = re.fullmatch(r"bytes=\s*(\d*)-(\d*)\s*", header)
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:  # a suffix: the last so many bytes
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < begin:
            return None
    if begin >= end:
        raise Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The file is shorter than that.", content_range=f"bytes */{size}")
    return begin, end


# --- the check of the server by itself


class Difference(Exception):
    """The server answered something else than what is on the disk."""


@dataclass
class Client:
    """One keep-alive connection of the check."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def fetch(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        status = int(first.split(" ")[1])
        bodiless = method == "HEAD" or status == HTTPStatus.NOT_MODIFIED
        return status, found, b"" if bodiless else await self.reader.readexactly(int(found["content-length"]))


class Check:
    """Fetches from a server over many connections at once and compares with the files themselves."""

    def __init__(self, root: Path, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.files = {quote(f"/{path.relative_to(root)}"): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
        self.names = {path.name for path in root.iterdir()}
        self.done: Counter[str] = Counter()
        self.body_bytes = 0

    async def run(self, seconds: float, clients: int) -> None:
        """Raises Difference at the first wrong answer."""
        await asyncio.to_thread(self._second_opinion)
        deadline = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(clients):
                    group.create_task(self._client(random.Random(number), deadline))
        except ExceptionGroup as failed:
            # One is enough to know, and the first may be the cause of the others.
            raise failed.exceptions[0] from None

    async def _client(self, chance: random.Random, deadline: float) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        client = Client(reader, writer)
        try:
            for turn in range(sys.maxsize):
                # Each kind of request once, whatever the time; then at random.
                kinds = [self._whole, self._range, self._suffix, self._outside, self._head, self._unchanged, self._listing, self._traversal]
                await (kinds[turn] if turn < len(kinds) else chance.choice(kinds))(client, chance)
                if turn >= len(kinds) and time.monotonic() > deadline:
                    break
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _compare(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            raise Difference(f"{what}: got {str(got)[:200]}, expected {str(expected)[:200]}")

    def _compare_bytes(self, kind: str, path: str, status: tuple[int, int], got: bytes, expected: bytes) -> None:
        self._compare(f"{kind} of {path}, status", *status)
        if got != expected:
            place = next((at for at, (one, other) in enumerate(zip(got, expected, strict=False)) if one != other), min(len(got), len(expected)))
            raise Difference(f"{kind} of {path}: {len(got)} bytes, expected {len(expected)}; the first difference is at byte {place}")
        self.done[kind] += 1
        self.body_bytes += len(got)

    async def _whole(self, client: Client, chance: random.Random) -> None:
        path, body = chance.choice(list(self.files.items()))
        status, _, got = await client.fetch(path)
        self._compare_bytes("whole file", path, (status, 200), got, body)

    async def _range(self, client: Client, chance: random.Random) -> None:
        path, body = chance.choice([item for item in self.files.items() if item[1]])
        begin = chance.randrange(len(body))
        last = chance.randrange(begin, 2 * len(body))  # beyond the end is allowed, and means up to the end
        status, headers, got = await client.fetch(path, Range=f"bytes={begin}-{last}")
        self._compare_bytes("range", path, (status, 206), got, body[begin : last + 1])
        self._compare("Content-Range", headers.get("content-range"), f"bytes {begin}-{min(last, len(body) - 1)}/{len(body)}")

    async def _suffix(self, client: Client, chance: random.Random) -> None:
        path, body = chance.choice([item for item in self.files.items() if item[1]])
        count = chance.randint(1, len(body))
        status, _, got = await client.fetch(path, Range=f"bytes=-{count}")
        self._compare_bytes("suffix", path, (status, 206), got, body[-count:])

    async def _outside(self, client: Client, chance: random.Random) -> None:
        path, body = chance.choice(list(self.files.items()))
        status, headers, _ = await client.fetch(path, Range=f"bytes={len(body)}-")
        self._compare(f"range outside of {path}", (status, headers.get("content-range")), (416, f"bytes */{len(body)}"))
        self.done["range outside"] += 1

    async def _head(self, client: Client, chance: random.Random) -> None:
        path, body = chance.choice(list(self.files.items()))
        status, headers, _ = await client.fetch(path, "HEAD")
        self._compare(f"HEAD of {path}", (status, headers.get("content-length")), (200, str(len(body))))
        self.done["head"] += 1

    async def _unchanged(self, client: Client, chance: random.Random) -> None:
        path, _ = chance.choice(list(self.files.items()))
        _, headers, _ = await client.fetch(path, "HEAD")
        status, _, _ = await client.fetch(path, If_None_Match=headers["etag"])
        self._compare(f"unchanged {path}", status, 304)
        self.done["unchanged"] += 1

    async def _listing(self, client: Client, chance: random.Random) -> None:
        status, _, got = await client.fetch("/")
        links = re.findall(r'href="\./([^"]+)"', got.decode())
        self._compare("listing", (status, {os.fsdecode(unquote_to_bytes(link)).rstrip("/") for link in links}), (200, self.names))
        self.done["listing"] += 1

    async def _traversal(self, client: Client, chance: random.Random) -> None:
        path = chance.choice(["/../etc/passwd", "/%2e%2e/etc/passwd", "/folder/../../etc/passwd", "/..%2f..%2fetc/passwd", "/link-to-outside"])
        status, _, _ = await client.fetch(path)
        self._compare(f"a way out, {path}", status, 403)
        self.done["way out refused"] += 1

    def _second_opinion(self) -> None:
        """Every file once by the standard library's own client, in a thread: neither its code nor its sockets are ours."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        with contextlib.closing(connection):
            for path, body in self.files.items():
                connection.request("GET", path)
                answer = connection.getresponse()
                self._compare_bytes("whole file by http.client", path, (answer.status, 200), answer.read(), body)


@contextlib.contextmanager
def files_to_check() -> Iterator[Path]:
    """A folder with files of many sizes and awkward names."""
    source = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="aiouring-demo-") as name:
        root = Path(name)
        root.joinpath("folder").mkdir()
        for size in (0, 1, 1000, SMALL_FILE_BYTES, SMALL_FILE_BYTES + 1, 1_000_000, 5_000_000):
            root.joinpath(f"{size} bytes.bin").write_bytes(source.randbytes(size))
        root.joinpath("folder", "größe & <b>?#%.txt").write_bytes(source.randbytes(12_345))
        root.joinpath("a:b.txt").write_bytes(b"not a scheme")
        root.joinpath("demo_server.py").write_bytes(Path(__file__).read_bytes())
        root.joinpath("link-to-outside").symlink_to("/etc/passwd")
        yield root


# --- the program


async def show_counters(counters: Counters) -> None:
    """Keeps one line on the terminal up to date."""
    while True:
        print(f"\r\x1b[K{counters.line()}", end="", flush=True)
        await asyncio.sleep(0.5)


async def listen(server: FileServer, host: str, port: int) -> asyncio.Server:
    """Starts the server; ends the program with what the user can do where the address is not to be had."""
    try:
        return await asyncio.start_server(server.serve, host, port, limit=HEAD_BYTES_MAX, backlog=1024)
    except OSError as error:
        sys.exit(f"cannot listen on {host}:{port}: {error.strerror or error}\n--port chooses another port (0: any free one), --host another address")


async def serve(root: Path, host: str, port: int) -> None:
    """Serves until Ctrl-C."""
    server = FileServer(root)
    listener = await listen(server, host, port)
    name = listener.sockets[0].getsockname()
    address = f"[{name[0]}]" if ":" in name[0] else name[0]
    print(f"serving {server.root} on http://{address}:{name[1]}/", flush=True)
    print(f"live counters on http://{address}:{name[1]}/-/stats; Ctrl-C ends it", flush=True)
    # A line that rewrites itself is for terminals; a log file would fill up with it.
    shown = asyncio.create_task(show_counters(server.counters)) if sys.stdout.isatty() else None
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        listener.close()
        if shown is not None:
            shown.cancel()
        print(f"\n{server.counters.line()}", flush=True)


async def check(seconds: float, host: str, port: int, clients: int) -> int:
    """Serves, fetches from itself, and compares; returns the program's status."""
    with files_to_check() as root:
        server = FileServer(root)
        listener = await listen(server, host, port)
        name = listener.sockets[0].getsockname()
        print(f"serving {root} on http://{name[0]}:{name[1]}/, and fetching from it for {seconds:g} s over {clients} connections", flush=True)
        checks = Check(root, name[0], name[1])
        shown = asyncio.create_task(show_counters(server.counters)) if sys.stdout.isatty() else None
        try:
            await checks.run(seconds, clients)
        except (Difference, OSError, EOFError, http.client.HTTPException) as error:
            print(f"\nFAILED: {error or type(error).__name__}", file=sys.stderr)
            return 1
        finally:
            listener.close()
            if shown is not None:
                shown.cancel()
                print()
    print(f"server: {server.counters.line()}")
    print("client: " + ", ".join(f"{kind} {count}" for kind, count in checks.done.items()))
    rate = checks.body_bytes / max(seconds, 0.001)
    print(f"compared {size_text(checks.body_bytes)} ({size_text(round(rate))}/s) on {type(asyncio.get_running_loop()).__module__}: all equal")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Serves the files of a folder over HTTP, with live counters on /-/stats.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: only this machine)")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free port")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder to serve (default: the current one)")
    parser.add_argument("--clients", type=int, default=20, help="connections of the check that DEMO_SECONDS asks for")
    options = parser.parse_args()
    if not options.root.is_dir():
        parser.error(f"--root {options.root}: there is no such folder")
    try:
        seconds = float(os.environ.get("DEMO_SECONDS") or 0)
    except ValueError:
        parser.error(f"DEMO_SECONDS is {os.environ['DEMO_SECONDS']!r}, which is not a number of seconds")
    try:
        if seconds > 0:
            return aiouring.run(check(seconds, options.host, options.port, options.clients))
        aiouring.run(serve(options.root, options.host, options.port))
    except KeyboardInterrupt:
        pass
    except aiouring.RingUnavailable as refusal:
        # Its message names the cause and the remedy; a traceback would bury them.
        sys.exit(f"{refusal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
