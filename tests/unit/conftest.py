"""For the unit tests: none of them leaves a descriptor open, and the fixtures that more than one file uses."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pipes import Pipe, end_of
from .sockets import Pair
from .tls_peer import BufferedRecorder, Recorder


@pytest.fixture(autouse=True)
def _no_descriptor_leaks(descriptors: None) -> None:
    """Counts around the whole of each test, whether it asked for the `loop` fixture or not."""


@pytest.fixture
def pipe(loop: asyncio.AbstractEventLoop) -> Iterator[Pipe]:
    """Both ends as unbuffered file objects; a test may close them."""
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb", 0) as read_end, end_of(write_fd, "wb") as write_end:
        yield read_end, write_end


@pytest.fixture
def pair(descriptors: None) -> Iterator[Pair]:
    """Two connected TCP sockets, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    for sock in (left, right):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with left, right:
        yield left, right


@pytest.fixture
def datagrams(descriptors: None) -> Iterator[Pair]:
    """Two UDP sockets that are not connected."""
    with socket.socket(type=socket.SOCK_DGRAM) as left, socket.socket(type=socket.SOCK_DGRAM) as right:
        for sock in (left, right):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        yield left, right


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost`, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


@pytest.fixture
def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def client_context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.fixture(params=[Recorder, BufferedRecorder])
def recorder(loop: asyncio.AbstractEventLoop, request: pytest.FixtureRequest) -> Recorder:
    made: Recorder = request.param(loop)
    return made


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to and reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
