"""loop.sock_sendfile(): bytes, ranges, the file's position, cancellation, and what falls back."""

from __future__ import annotations

import asyncio
import io
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from .sockets import Pair


@pytest.fixture
def data(rng: random.Random) -> bytes:
    return rng.randbytes(3_000_001)


@pytest.fixture
def file(descriptors: None, data: bytes, tmp_path: Path) -> Iterator[IO[bytes]]:
    path = tmp_path / "data"
    path.write_bytes(data)
    with path.open("rb") as opened:
        yield opened


async def receive_to_end(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    received = bytearray()
    while piece := await loop.sock_recv(sock, 1 << 20):
        received += piece
    return bytes(received)


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1, None), (0, 1), (7, 100_000), (0, 131_072), (131_071, 131_074), (2_999_999, 10), (0, 9_000_000), (3_000_001, None)],
)
def test_ranges_and_position(
    loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes], data: bytes, offset: int, count: int | None
) -> None:
    left, right = pair
    expected = data[offset:] if count is None else data[offset : offset + count]

    async def main() -> None:
        file.seek(5)
        receiver = asyncio.ensure_future(receive_to_end(loop, right))
        assert await loop.sock_sendfile(left, file, offset, count, fallback=False) == len(expected)
        left.shutdown(socket.SHUT_WR)
        assert await receiver == expected
        assert file.tell() == (offset + len(expected) if expected else 5)

    loop.run_until_complete(main())


def test_an_empty_file_sends_nothing(loop: asyncio.AbstractEventLoop, pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with path.open("rb") as empty:
        assert loop.run_until_complete(loop.sock_sendfile(pair[0], empty, fallback=False)) == 0


def test_a_file_that_grows_or_shrinks_meanwhile(loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes], data: bytes) -> None:
    left, right = pair

    async def main() -> None:
        sending = asyncio.ensure_future(loop.sock_sendfile(left, file, fallback=False))
        first = await loop.sock_recv(right, 10)
        with open(file.name, "ab") as appender:
            appender.write(b"more")
        receiver = asyncio.ensure_future(receive_to_end(loop, right))
        assert await sending == len(data) + 4
        left.shutdown(socket.SHUT_WR)
        assert first + await receiver == data + b"more"

    loop.run_until_complete(main())


def test_the_loop_goes_on_while_a_file_is_sent(loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes], data: bytes) -> None:
    left, right = pair

    async def main() -> None:
        sending = asyncio.ensure_future(loop.sock_sendfile(left, file, fallback=False))
        received = bytearray()
        while len(received) < len(data):
            # One byte of the loop's own traffic for each piece: it would not arrive if sending held the loop.
            received += await loop.sock_recv(right, 65536)
            await loop.sock_sendall(right, b".")
            assert await loop.sock_recv(left, 1) == b"."
        assert bytes(received) == data
        assert await sending == len(data)

    loop.run_until_complete(main())


@pytest.mark.parametrize("received_bytes", [1, 500_000])
def test_cancelling_leaves_the_position_behind_the_last_byte_sent(
    loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes], data: bytes, received_bytes: int
) -> None:
    left, right = pair

    async def main() -> None:
        sending = asyncio.ensure_future(loop.sock_sendfile(left, file, 3, fallback=False))
        first = b""
        while len(first) < received_bytes:
            first += await loop.sock_recv(right, received_bytes - len(first))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        position = file.tell()
        left.shutdown(socket.SHUT_WR)
        rest = await receive_to_end(loop, right)
        sent = first + rest
        assert len(sent) < len(data)
        assert sent == data[3 : 3 + len(sent)]
        # Pieces that were only partly taken by the socket count as well.
        assert position == 3 + len(sent)

    loop.run_until_complete(main())


def test_cancelling_at_each_of_the_first_turns(loop: asyncio.AbstractEventLoop, file: IO[bytes], data: bytes) -> None:
    async def main() -> None:
        for turns in range(12):
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                right.setblocking(False)
                file.seek(0)
                sending = asyncio.ensure_future(loop.sock_sendfile(left, file, fallback=False))
                for _ in range(turns):
                    await asyncio.sleep(0)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                left.shutdown(socket.SHUT_WR)
                sent = await receive_to_end(loop, right)
                assert file.tell() == len(sent)
                assert sent == data[: len(sent)]

    loop.run_until_complete(main())


def test_the_peer_leaves_in_the_middle(loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes]) -> None:
    left, right = pair

    async def main() -> None:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sending = asyncio.ensure_future(loop.sock_sendfile(left, file, fallback=False))
        received = 0
        while received < 400_000:
            received += len(await loop.sock_recv(right, 65536))
        right.close()
        with pytest.raises(ConnectionError):
            await sending
        assert file.tell() >= received

    loop.run_until_complete(main())


def test_the_file_is_closed_in_the_middle(loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes], data: bytes) -> None:
    left, right = pair

    async def main() -> None:
        sending = asyncio.ensure_future(loop.sock_sendfile(left, file, fallback=False))
        first = await loop.sock_recv(right, 10)
        file.close()
        with open(os.devnull, "rb"):        # takes the number over
            receiver = asyncio.ensure_future(receive_to_end(loop, right))
            with pytest.raises(OSError, match="Bad file descriptor"):
                await sending
        left.shutdown(socket.SHUT_WR)
        sent = first + await receiver
        assert sent == data[: len(sent)]

    loop.run_until_complete(main())


def unavailable(tmp_path: Path) -> dict[str, Any]:
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe")
    os.close(writer)
    path = tmp_path / "nonblocking"
    path.write_bytes(b"from a file")
    return {
        "memory": io.BytesIO(b"from memory"),
        "pipe": os.fdopen(reader, "rb"),
        "nonblocking": os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb"),
    }


@pytest.mark.parametrize("name", ["memory", "pipe", "nonblocking"])
def test_what_is_no_regular_file_is_refused_or_sent_by_the_fallback(
    loop: asyncio.AbstractEventLoop, pair: Pair, tmp_path: Path, name: str
) -> None:
    left, right = pair
    files = unavailable(tmp_path)

    async def main() -> None:
        source = files[name]
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(left, source, 0, 100, fallback=False)
        if name != "pipe":      # a pipe has no position, and asyncio's fallback sets it at the end
            expected = source.read()
            source.seek(0)
            assert await loop.sock_sendfile(left, source) == len(expected)
            assert await loop.sock_recv(right, 100) == expected

    try:
        loop.run_until_complete(main())
    finally:
        for source in files.values():
            source.close()


def test_wrong_arguments(loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes]) -> None:
    left, _ = pair

    async def main() -> None:
        with pytest.raises(ValueError, match="binary mode"):
            with open(file.name) as text:
                await loop.sock_sendfile(left, text)  # type: ignore[arg-type]
        for arguments in ((-1, None), (0, 0)):
            with pytest.raises(ValueError):
                await loop.sock_sendfile(left, file, *arguments)
        with socket.socket() as unconnected:
            unconnected.setblocking(False)
            # Not one byte goes out, so the fallback is asked, and it finds the reason.
            with pytest.raises(asyncio.SendfileNotAvailableError) as refused:
                await loop.sock_sendfile(unconnected, file, fallback=False)
            assert isinstance(refused.value.__cause__, BrokenPipeError)
            with pytest.raises(BrokenPipeError):
                await loop.sock_sendfile(unconnected, file)

    loop.run_until_complete(main())


@pytest.mark.parametrize(("offset", "count"), [(1 << 63, None), (0, 1 << 63), (1 << 70, None)])
def test_numbers_beyond_a_files_offsets(
    loop: asyncio.AbstractEventLoop, pair: Pair, file: IO[bytes], offset: int, count: int | None
) -> None:
    """No descriptor is left open, and nothing says that it was never awaited."""
    with pytest.raises(OverflowError):
        loop.run_until_complete(loop.sock_sendfile(pair[0], file, offset, count))
