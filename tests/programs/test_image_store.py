"""The example of operations of one's own in chains: built by build-op, run as a process, asked by an HTTP client that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.files import small_disk
from tests.unit.op_programs import build_op, crc32c, need

from . import support
from .support import payload

SOURCE = support.REPOSITORY / "examples" / "image_store" / "filled.bpf.c"
BLOCK = 65536


@pytest.fixture(scope="module", params=["inline", "prog_run"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    need(name)
    return name


@pytest.fixture(scope="module")
def program(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    built = build_op(SOURCE, "--output", folder, "--engine", engine)
    assert built.returncode == 0, built.stderr
    return folder / "filled.bpf.c"


@contextlib.contextmanager
def store(folder: Path, program: Path, engine: str) -> Iterator[tuple[support.ServerProcess, int]]:
    command = [sys.executable, "-W", "error", "-m", "examples.image_store", str(folder), "--program", str(program), "--engine", engine, "--port", "0"]
    process = support.ServerProcess(
        command, address=None, environment=support.child_environment(), stop_signal=signal.SIGINT, folder=support.REPOSITORY
    )  # fmt: skip
    with process:
        said = process.wait_for_line("image store on ")
        port = re.match(r"127\.0\.0\.1:(\d+)", said)
        assert port is not None, said
        yield process, int(port[1])


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=support.PATIENCE_S)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    finally:
        connection.close()


def sparse_image() -> bytes:
    """Data at its beginning, across a block's border, in one byte at a block's end, and nowhere else."""
    image = bytearray(40 * BLOCK + 12_345)
    image[:5000] = payload(5000)
    image[10 * BLOCK - 100 : 10 * BLOCK + 100] = payload(200, seed=1)
    image[20 * BLOCK - 1] = 7
    return bytes(image)


def test_images_come_back_as_they_were(engine: str, program: Path, tmp_path: Path) -> None:
    with store(tmp_path, program, engine) as (process, port):
        assert f"filled is run by {engine}" in process.log()
        sizes = [0, 1, 7, 8, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 1_000_003]
        images = {f"image{size}": payload(size, seed=size) for size in sizes} | {"sparse.img": sparse_image(), "zeros": bytes(5 * BLOCK + 3)}
        for name, image in images.items():
            status, said, _ = ask(port, "PUT", f"/{name}", image)
            assert (status, said) == (201, b"%08x\n" % crc32c(image)), name
        for name, image in images.items():
            status, got, fields = ask(port, "GET", f"/{name}")
            assert status == 200 and got == image and fields["X-CRC32C"] == f"{crc32c(image):08x}", name
        status, listing, _ = ask(port, "GET", "/")
        assert status == 200
        listed = {line.split()[2]: int(line.split()[1]) for line in listing.decode().splitlines()}
        assert listed == {name: len(image) for name, image in images.items()}
        # What the checksums are of is what lies there, and the empty parts take no space.
        for path in tmp_path.iterdir():
            assert path.read_bytes() == images[path.name.partition("~")[0]]
        (sparse,) = tmp_path.glob("sparse.img~*")
        (zeros,) = tmp_path.glob("zeros~*")
        assert zeros.stat().st_blocks == 0
        # Of the blocks that have data, all but the zeros at their ends; and not even a tenth of the others.
        assert sparse.stat().st_blocks * 512 <= 4 * BLOCK
    # They are still there for the next one.
    with store(tmp_path, program, engine) as (_, port):
        assert ask(port, "GET", "/sparse.img")[1] == images["sparse.img"]
        # Another image takes the name, and the old one goes.
        assert ask(port, "PUT", "/sparse.img", b"new")[0] == 201
        assert ask(port, "GET", "/sparse.img")[1] == b"new"
        assert [path.name for path in tmp_path.glob("sparse.img~*")] == [f"sparse.img~{crc32c(b'new'):08x}"]


def test_many_at_once(engine: str, program: Path, tmp_path: Path) -> None:
    images = [payload(100_000 + 30_000 * number, seed=number) for number in range(20)]

    async def both(port: int, number: int) -> None:
        loop = asyncio.get_running_loop()
        assert (await loop.run_in_executor(None, ask, port, "PUT", f"/{number}", images[number]))[0] == 201
        assert (await loop.run_in_executor(None, ask, port, "GET", f"/{number}"))[1] == images[number]

    async def main(port: int) -> None:
        await asyncio.gather(*(both(port, number) for number in range(len(images))))

    with store(tmp_path, program, engine) as (_, port):
        support.run_on_asyncio(main(port))


def test_damage_is_seen_before_an_image_is_whole(engine: str, program: Path, tmp_path: Path) -> None:
    image = payload(3 * BLOCK + 100)
    with store(tmp_path, program, engine) as (process, port):
        assert ask(port, "PUT", "/image", image)[0] == 201
        (path,) = tmp_path.iterdir()
        with open(path, "r+b") as file:
            file.seek(BLOCK + 5)
            file.write(bytes([image[BLOCK + 5] ^ 1]))
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(port, "GET", "/image")
        assert len(cut.value.partial) == 3 * BLOCK
        process.wait_for_line(f"DAMAGED: {path.name} sums up to ")
        os.truncate(path, 2 * BLOCK + 1)
        with pytest.raises(http.client.IncompleteRead):
            ask(port, "GET", "/image")


def test_a_client_that_leaves(engine: str, program: Path, tmp_path: Path) -> None:
    """What there was stays, and nothing is left of what came."""
    with store(tmp_path, program, engine) as (process, port):
        assert ask(port, "PUT", "/image", b"first")[0] == 201
        for sent in (10, BLOCK + 10):
            with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as client:
                client.sendall(b"PUT /image HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + payload(sent))
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
            process.wait_for_line(f"the client left: {sent:,} of 200,000 bytes came")
        # Without a word, in the middle of a download.
        assert ask(port, "PUT", "/large", payload(8 << 20))[0] == 201
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as client:
            client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
            assert client.recv(100)
        process.wait_for_line("the client left: [Errno ")
        assert ask(port, "GET", "/image")[1] == b"first"
        assert sorted(path.name.partition("~")[0] for path in tmp_path.iterdir()) == ["image", "large"]


@pytest.mark.parametrize("room", [4 * BLOCK + 45_056, 4 * BLOCK])
def test_a_disk_that_becomes_full(engine: str, program: Path, tmp_path: Path, room: int) -> None:
    """Where a part of the block still fits, and where none does."""
    with small_disk(tmp_path / "disk", room) as disk, store(disk, program, engine) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as client:
            client.sendall(b"PUT /image HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + payload(5 * BLOCK))
            assert client.recv(100).startswith(b"HTTP/1.1 507 ")
        process.wait_for_line("failed: [Errno 28] ")
        assert list(disk.iterdir()) == []
        # What is empty takes none of it.
        assert ask(port, "PUT", "/image", bytes(20 * BLOCK))[0] == 201
        assert ask(port, "GET", "/image")[1] == bytes(20 * BLOCK)


def test_what_it_refuses(engine: str, program: Path, tmp_path: Path) -> None:
    with store(tmp_path, program, engine) as (_, port):
        assert ask(port, "GET", "/image")[0] == 404
        for method, path in [("PUT", "/../image"), ("PUT", "/.image"), ("PUT", "/image~1"), ("GET", "/a/b"), ("POST", "/image")]:
            assert ask(port, method, path, b"")[0] == 400, path
        for request in (b"PUT /image HTTP/1.1\r\n\r\n", b"PUT /image HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"nonsense\r\n\r\n", b"x" * 20000):
            with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as client:
                client.sendall(request)
                assert client.recv(100).startswith(b"HTTP/1.1 400 ")
        # Who asks first is told to go on.
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as client:
            client.sendall(b"PUT /image HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"abc")
            assert client.recv(100).startswith(b"HTTP/1.1 201 ")
        assert ask(port, "GET", "/image")[1] == b"abc"


def test_without_the_operation_it_says_how_to_build_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.image_store", str(tmp_path), "--program", str(tmp_path / "none.op.so")],
        cwd=support.REPOSITORY, env=support.child_environment(), capture_output=True, text=True, timeout=support.PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert "none of the operation's files is there (none.op.so, none.run.bpf.o and none.op.bpf.o)" in done.stderr
    assert f"build it first: python -m aiouring build-op {SOURCE}" in done.stderr
