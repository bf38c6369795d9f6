"""What the tests of the file server share: the server as a process, and clients that see every byte.

Called by test_file_server*.py; calls `support`.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import support

#: Larger than what is kept in memory, so that it goes by sendfile.
LARGE_BYTES = 3_000_000


def command(*arguments: str, module: str = "examples.file_server") -> list[str]:
    return [sys.executable, "-W", "error", "-m", module, *arguments]


@dataclass
class Running:
    process: support.ServerProcess
    root: Path
    port: int

    def connect(self) -> Client:
        return Client(socket.create_connection(("127.0.0.1", self.port), timeout=support.PATIENCE_S))

    def raw(self, request: bytes) -> bytes:
        """All that comes back until the server closes."""
        with self.connect() as client:
            client.send(request)
            return client.rest()

    def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """One request over a connection of its own. Underscores in names of headers stand for hyphens."""
        with self.connect() as client:
            return client.ask(target, method, **headers)


@contextlib.contextmanager
def serving(root: Path, *arguments: str, module: str = "examples.file_server", **options: object) -> Iterator[Running]:
    """The file server on a free port. Unless a test says otherwise it looks at the disk for each request."""
    if "--valid" not in arguments:
        arguments = ("--valid", "0", *arguments)
    process = support.ServerProcess(
        command("--root", str(root), "--port", "0", *arguments, module=module),
        address=None,
        environment=support.child_environment(),
        folder=tempfile.gettempdir(),  # not where an `aiouring` lies that is not the one under test
        **options,  # type: ignore[arg-type]
    )
    with process:
        said = process.wait_for_line(f"serving {root} on ")
        port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", said)
        yield Running(process, root, int(port[1]) if port else 0)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # by lower-case name
    body: bytes
    head: bytes

    def __getitem__(self, name: str) -> str | None:
        return self.headers.get(name.lower())


class Client:
    """A connection that reads answers one by one, and knows when more or less came than was announced."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        self.send(request(target, method, **headers))
        return self.answer(method)

    def _more(self) -> bool:
        piece = self.sock.recv(1 << 20)
        self._buffer += piece
        return bool(piece)

    def answer(self, method: str = "GET") -> Answer:
        """The next answer. Fails with EOFError when the connection ends before its end."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                raise EOFError(f"the connection ended, and this is all that came: {self._buffer!r}")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} comes twice"
            headers[name.lower()] = value
        length = 0 if method == "HEAD" or status == "304" else int(headers["content-length"])
        pieces = [self._buffer[:length]]
        got = len(pieces[0])
        self._buffer = self._buffer[length:]
        while got < length:
            piece = self.sock.recv(min(1 << 20, length - got))
            if not piece:
                raise EOFError(f"{got} of {length} bytes came")
            pieces.append(piece)
            got += len(piece)
        return Answer(int(status), headers, b"".join(pieces), head)

    def rest(self) -> bytes:
        """All that still comes. A reset is an end as well."""
        pieces, self._buffer = [self._buffer], b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.sock.recv(1 << 20):
                pieces.append(piece)
        return b"".join(pieces)

    def is_closed(self) -> bool:
        """Waits for the server's close; False if something comes instead."""
        return self.rest() == b""


def request(target: str, method: str = "GET", **headers: str) -> bytes:
    fields = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def make_site(folder: Path) -> Path:
    """A folder with a bit of everything."""
    root = folder / "served"
    root.joinpath("sub", "deep").mkdir(parents=True)
    root.joinpath("indexed").mkdir()
    root.joinpath("hello.txt").write_bytes(b"hello, world\n")
    root.joinpath("small.bin").write_bytes(support.payload(10_000))
    root.joinpath("large.bin").write_bytes(support.payload(LARGE_BYTES))
    root.joinpath("empty").write_bytes(b"")
    root.joinpath("indexed", "index.html").write_bytes(b"<p>the index")
    root.joinpath("sub", "ümläut & <tag>?.html").write_bytes(b"<p>x")
    root.joinpath("sub", "deep", "file").write_bytes(b"deep")
    root.joinpath(".hidden").write_bytes(b"hidden")
    root.joinpath(".hidden-folder").mkdir()
    root.joinpath(".hidden-folder", "file").write_bytes(b"hidden")
    folder.joinpath("secret").write_bytes(b"top secret")
    folder.joinpath("outer").mkdir()
    folder.joinpath("outer", "file").write_bytes(b"top secret")
    return root


STOP = signal.SIGTERM
