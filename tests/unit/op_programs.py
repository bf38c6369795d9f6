"""What the tests of operations share: the engines that can run here, a model of each operation in plain Python, and what the kernel has loaded."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiouring import bpf
from aiouring.bpf import ops

# The last two run where the kernel has them (tests/vm).
ENGINES = [
    "inline",
    "prog_run",
    pytest.param("module", marks=pytest.mark.bpf_module),
    pytest.param("opcode", marks=pytest.mark.bpf_opcode),
]
NATIVE = ("module", "opcode")
CHUNK = 4096
DIRECT = 65536
MOST = 4 << 20


def need(engine: str) -> None:
    """Skips where an engine cannot run for want of rights."""
    if engine == "prog_run" and ops.why_not_kernel():
        pytest.skip(f"needs kernel: one that loads BPF programs for this process ({ops.why_not_kernel()})")


def some(engine: str, many: int) -> int:
    """How often or how many: tests of the kernel's engines run under emulation, twenty times slower."""
    return max(many // 6, 1) if engine in NATIVE else many


def build_op(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m aiouring build-op`."""
    command = [sys.executable, "-m", "aiouring", "build-op", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


async def load(engine: Any, *names: str) -> dict[str, bpf.Op]:
    """Some of the operations that ship. Each takes seconds where the verifier is emulated."""
    return {name: await bpf.Op.load(name, engine=engine) for name in names}


# -- the model -----------------------------------------------------------------------------------------------------------------------------------


def crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC32C = crc32c_table()


def crc32c(data: bytes, so_far: int = 0) -> int:
    crc = ~so_far & 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 255] ^ crc >> 8
    return ~crc & 0xFFFFFFFF


def xored(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "little") ^ int.from_bytes(right, "little")).to_bytes(len(left), "little")


Place = tuple[int, int]  # where a buffer begins and ends in the memory


def model(name: str, memory: bytearray, places: list[Place], flags: int) -> int:
    """What an operation does to buffers in one memory, which may overlap: in chunks, one after the other. Returns its result, raises its error."""

    def fail(number: int) -> None:
        raise OSError(number, name)

    lengths = [end - begin for begin, end in places]
    if name == "nop":
        return 0
    if name == "crc32c":
        return crc32c(bytes(memory[slice(*places[0])]), flags)
    if name in ("fill", "count") and flags > 255:
        fail(errno.EINVAL)
    if name == "count":
        return memory[slice(*places[0])].count(flags)
    if name == "fill":
        memory[slice(*places[0])] = bytes([flags]) * lengths[0]
        return lengths[0]
    if name == "find":
        if not 1 <= lengths[1] <= 16:
            fail(errno.EINVAL)
        return memory[slice(*places[0])].find(memory[slice(*places[1])], flags)
    if name == "xor":
        if len(places) == 2 and lengths[0] != lengths[1]:
            fail(errno.EINVAL)
        target = places[-1][0]
        for offset in range(0, lengths[0], CHUNK):
            size = min(CHUNK, lengths[0] - offset)
            if len(places) == 2:
                other = memory[places[0][0] + offset : places[0][0] + offset + size]
            else:
                other = bytearray((flags.to_bytes(4, "little") * CHUNK)[:size])
            memory[target + offset : target + offset + size] = xored(memory[target + offset : target + offset + size], other)
        return lengths[0]
    source, target = places[0][0], places[1][0]
    if name == "copy":
        if lengths[1] < lengths[0]:
            fail(errno.ENOSPC)
        for offset in range(0, lengths[0], CHUNK):
            size = min(CHUNK, lengths[0] - offset)
            memory[target + offset : target + offset + size] = memory[source + offset : source + offset + size]
        return lengths[0]
    assert name == "base64"
    written = (lengths[0] + 2) // 3 * 4
    if lengths[1] < written:
        fail(errno.ENOSPC)
    for offset in range(0, lengths[0], CHUNK // 4 * 3):
        piece = base64.b64encode(memory[source + offset : source + min(offset + CHUNK // 4 * 3, lengths[0])])
        memory[target : target + len(piece)] = piece
        target += len(piece)
    return written


# -- threads -------------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def busy_executor(loop: asyncio.AbstractEventLoop) -> Iterator[threading.Event]:
    """The loop's executor has one thread, which waits for the event: what goes there does not begin before. It is set at the end."""
    from concurrent.futures import ThreadPoolExecutor

    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    go = threading.Event()
    executor.submit(go.wait)
    try:
        yield go
    finally:
        go.set()


# -- what the kernel has -------------------------------------------------------------------------------------------------------------------------

SYS_BPF = 321
BPF_PROG_GET_NEXT_ID, BPF_MAP_GET_NEXT_ID, BPF_LINK_GET_NEXT_ID = 11, 12, 31


def loaded_ids(command: int) -> set[int]:
    """The numbers of all programs, maps or links in the kernel."""
    libc = ctypes.CDLL(None, use_errno=True)
    found: set[int] = set()
    attributes = (ctypes.c_uint32 * 4)()
    while libc.syscall(ctypes.c_long(SYS_BPF), ctypes.c_long(command), attributes, ctypes.c_long(ctypes.sizeof(attributes))) == 0:
        found.add(attributes[1])
        attributes[0] = attributes[1]
    assert ctypes.get_errno() == errno.ENOENT, ctypes.get_errno()
    return found


Ids = dict[str, set[int]]


def own_ids() -> Ids:
    """What this process has open of them. Other processes load programs as well."""
    found: Ids = {"prog_id": set(), "map_id": set(), "link_id": set()}
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            lines = Path("/proc/self/fdinfo", name).read_text().splitlines()
        except OSError:
            continue  # the descriptor that lists the folder
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        # A link also tells its map's and its program's.
        for kind in ("link_id", "map_id", "prog_id"):
            if kind in fields:
                found[kind].add(int(fields[kind]))
                break
    return found


async def gone(own: Ids) -> None:
    """Waits until the kernel, which frees programs and maps a little later, has none of them. The test's time-out bounds it."""
    commands = {"prog_id": BPF_PROG_GET_NEXT_ID, "map_id": BPF_MAP_GET_NEXT_ID, "link_id": BPF_LINK_GET_NEXT_ID}
    loop = asyncio.get_running_loop()
    while any(own[kind] & loaded_ids(command) for kind, command in commands.items()):
        await loop.run_in_executor(None, threading.Event().wait, 0.01)
