"""The images: one file each, whose name is that of the image, "~", and its CRC-32C, so that both appear by one rename. Blocks go through chains."""

from __future__ import annotations

import asyncio
import errno
import itertools
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import aiouring
from aiouring.bpf import Op
from aiouring.chain import Result

# The loop's hook runs operations of up to so many bytes itself; longer ones would take a thread.
BLOCK_BYTES = 65536
IDLE_S = 60.0
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class Damaged(Exception):
    """What is on the disk is not what was uploaded."""


class Incomplete(Exception):
    """The client left before all was there."""


@dataclass
class Image:
    """What a name stands for."""

    path: Path
    length: int
    checksum: int


class Store:
    """Made once for a folder; `crc32c` and `filled` are operations of the running loop."""

    def __init__(self, folder: Path, crc32c: Op, filled: Op) -> None:
        self.folder = folder
        self.crc32c = crc32c
        self.filled = filled
        self.images: dict[str, Image] = {}
        self.numbers = itertools.count()
        # Of one name there are two where the program ended between the rename and the removal: the newer one counts.
        for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            name, _, checksum = path.name.rpartition("~")
            if path.name.startswith(".upload"):
                path.unlink()
            elif NAME.fullmatch(name):
                self.images[name] = Image(path, path.stat().st_size, int(checksum, 16))

    async def receive(self, sock: socket.socket, name: str, first: bytes, length: int) -> Image:
        """Stores what comes from the socket, `first` before it. Raises Incomplete, TimeoutError, and OSError for what the disk says; the image that
        had the name stays then."""
        block = memoryview(bytearray(BLOCK_BYTES))
        part = self.folder / f".upload{next(self.numbers)}"
        checksum = offset = 0
        try:
            async with aiouring.open(part, "xb", buffering=0) as file:
                while offset < length:
                    size = min(BLOCK_BYTES, length - offset)
                    begun = min(len(first), size)
                    block[:begun] = first[:begun]
                    first = first[begun:]
                    total: int | Result = size
                    # Python is woken when the block has gone all the way. Each link takes the number that an earlier one brought: what is received
                    # may be less than a block, if the client leaves, and then only that is summed, measured and written.
                    async with aiouring.Chain(timeout=IDLE_S) as chain:
                        if begun < size:
                            total = chain.recv(sock, block[begun:size], whole=True).result + begun
                        summed = chain.bpf(self.crc32c, block[:size], flags=checksum, length=total)
                        used = chain.bpf(self.filled, block[:size], length=total)
                        # Zeros at its end are left out, and what nobody writes takes no space. Of zeros alone nothing is written.
                        written = chain.write(file, block[:size], offset=offset, length=used.result)
                    try:
                        results = await chain
                    except aiouring.ChainError as error:
                        if error.link is not written or error.errno != errno.EIO:
                            raise
                        # A part of it was written, as where the disk becomes full, and no chain can say why. Writing it again does, or finds room.
                        await file.pwrite(block[:size], offset)
                        results = error.results
                    if begun < size and results[0] < size - begun:
                        raise Incomplete(f"{offset + begun + results[0]:,} of {length:,} bytes came")
                    checksum = results[summed.index]
                    offset += size
                await file.truncate(length)
                await file.fsync()
            image = Image(self.folder / f"{name}~{checksum:08x}", length, checksum)
            await aiouring.fs.replace(part, image.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        old = self.images.get(name)
        self.images[name] = image
        if old is not None and old.path != image.path:
            await aiouring.fs.unlink(old.path)
        return image

    async def send(self, sock: socket.socket, head: bytes, image: Image) -> None:
        """Sends `head` and an image. Raises FileNotFoundError before anything is sent where another one has just taken its place; Damaged, with the
        last block unsent, so that no client takes it for whole; TimeoutError, and OSError for what the disk and the socket say."""
        loop = asyncio.get_running_loop()
        block = memoryview(bytearray(BLOCK_BYTES))
        checksum = offset = 0
        async with aiouring.open(image.path, "rb", buffering=0) as file:
            await loop.sock_sendall(sock, head)
            while offset < image.length:
                size = min(BLOCK_BYTES, image.length - offset)
                is_last = offset + size == image.length
                async with aiouring.Chain(timeout=IDLE_S) as chain:
                    data = chain.read(file, block[:size], offset=offset)
                    summed = chain.bpf(self.crc32c, block[:size], flags=checksum, length=data.result)
                    if not is_last:
                        chain.send(sock, block[:size], length=data.result)
                results = await chain
                checksum = results[summed.index]
                if results[data.index] < size or (is_last and checksum != image.checksum):
                    raise Damaged(f"{image.path.name} sums up to {checksum:08x}, with {offset + results[0]:,} of {image.length:,} bytes")
                offset += size
                if is_last:
                    async with asyncio.timeout(IDLE_S):
                        await loop.sock_sendall(sock, block[:size])
