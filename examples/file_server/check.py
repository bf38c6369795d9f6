"""The server fetches from itself and compares with the files: what DEMO_SECONDS=5 make demo does. Called by `demo`."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from .connection import JOINED_BYTES_MAX


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
        self.names = {path.name for path in root.iterdir() if not path.is_symlink()}
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
        for size in (0, 1, 1000, JOINED_BYTES_MAX, JOINED_BYTES_MAX + 1, 1_000_000, 5_000_000):
            root.joinpath(f"{size} bytes.bin").write_bytes(source.randbytes(size))
        root.joinpath("folder", "größe & <b>?#%.txt").write_bytes(source.randbytes(12_345))
        root.joinpath("a:b.txt").write_bytes(b"not a scheme")
        root.joinpath("check.py").write_bytes(Path(__file__).read_bytes())
        root.joinpath("link-to-outside").symlink_to("/etc/passwd")
        yield root
