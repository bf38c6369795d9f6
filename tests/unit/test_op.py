"""The operations that ship, each engine against a model in plain Python: every byte, result and error; and what is refused before it begins."""

from __future__ import annotations

import asyncio
import errno
import mmap
import random
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from aiouring import bpf
from aiouring.bpf import ops
from tests.unit.op_programs import CHUNK, DIRECT, ENGINES, MOST, Place, build_op, crc32c, crc32c_table, load, model, need, some, xored

OPERATIONS = Path(__file__).resolve().parents[2] / "bpf_progs" / "ops"

EDGES = [CHUNK // 4 * 3, CHUNK, 2 * CHUNK, DIRECT // 2, DIRECT]
SIZES = strategies.one_of(
    strategies.integers(0, 20),
    strategies.builds(lambda edge, off: max(0, edge + off), strategies.sampled_from(EDGES), strategies.integers(-9, 9)),
    strategies.integers(0, 3 * CHUNK),
    strategies.integers(0, 100_000),
)
BYTES = strategies.integers(0, 255)
FLAGS = strategies.one_of(strategies.just(0), BYTES, strategies.integers(250, 260), strategies.integers(0, 2**32 - 1))


@strategies.composite
def cases(draw: Any) -> tuple[str, int, list[Place], int, int]:
    """An operation, a memory's seed, where in it the buffers are, the flags, and of how many values its bytes are (few make delimiters match)."""
    name = draw(strategies.sampled_from(ops.SHIPPED))
    size = draw(SIZES)
    begin = draw(strategies.integers(0, 20) | strategies.integers(0, 2 * CHUNK))
    first = (begin, begin + size)
    other = size
    if name == "find":
        other = draw(strategies.integers(1, 16) | strategies.integers(0, 20))
    elif name == "base64":
        other = max(0, (size + 2) // 3 * 4 + draw(strategies.sampled_from([0, 0, 1, 5000, -1])))
    elif draw(strategies.integers(0, 9)) == 0:
        other = max(0, size + draw(strategies.integers(-9, 9)))
    # Behind it, or overlapping: the target before the source, or a little behind its beginning.
    place = draw(strategies.sampled_from(["apart", "apart", "anywhere", "near", "same"]))
    start = {
        "apart": begin + size + draw(strategies.integers(0, 9)),
        "anywhere": draw(strategies.integers(0, begin + size)),
        "near": max(0, begin + draw(strategies.integers(-CHUNK - 9, CHUNK + 9))),
        "same": begin,
    }[place]
    places = [first, (start, start + other)]
    if name == "nop":
        places = []
    elif name in ("fill", "crc32c", "count") or (name == "xor" and draw(strategies.booleans())):
        places = [first]
    flags = draw(strategies.sampled_from([0, 1, size // 2, size, size + 1]) if name == "find" else FLAGS)
    return name, draw(strategies.integers(0, 2**32)), places, flags, draw(strategies.sampled_from([256, 256, 2]))


def random_bytes(seed: int, size: int, values: int = 256) -> bytes:
    data = random.Random(seed).randbytes(size)
    return data if values == 256 else bytes(byte % values for byte in data)


async def outcome(name: str, operation: bpf.Op, buffers: list[memoryview], flags: int) -> int | tuple[type, int | None]:
    try:
        return await operation(*buffers, flags=flags)
    except OSError as error:
        assert f"] {name}: " in str(error)
        return type(error), error.errno


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    need(request.param)
    return request.param


def test_every_operation_is_like_its_model(engine: Any, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
    loaded = loop.run_until_complete(load(engine, *ops.SHIPPED))

    async def compare(name: str, seed: int, places: list[Place], flags: int, values: int) -> None:
        size = max((end for _, end in places), default=0) + 9
        memory = bytearray(random_bytes(seed, size, values))
        wanted_memory = bytearray(memory)
        wanted: Any
        try:
            wanted = model(name, wanted_memory, places, flags)
        except OSError as error:
            wanted = type(error), error.errno
        with memoryview(memory) as view:
            buffers = [view[begin:end] for begin, end in places]
            assert await outcome(name, loaded[name], buffers, flags) == wanted
            for buffer in buffers:
                buffer.release()
        assert memory == wanted_memory

    @hypothesis.given(cases())
    def check(case: tuple[str, int, list[Place], int, int]) -> None:
        loop.run_until_complete(compare(*case))

    settings = hypothesis.settings(
        max_examples=some(engine, 400),
        database=None,
        deadline=None,
        print_blob=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(rng.getrandbits(64))(settings(check))()
    assert loop.ring_stats()["slots_in_use"] == 1  # the wake-up pipe's


@pytest.mark.parametrize("shift", [-CHUNK - 1, -CHUNK, -CHUNK + 1, -1, 0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("name", ["copy", "xor", "base64"])
async def test_buffers_that_overlap(engine: Any, name: str, shift: int) -> None:
    """What is written is read again by the chunks behind it, as the model has it."""
    memory = bytearray(random_bytes(1, 8 * CHUNK))
    source = (2 * CHUNK, 5 * CHUNK + 100)
    size = source[1] - source[0]
    target = (source[0] + shift, source[0] + shift + ((size + 2) // 3 * 4 if name == "base64" else size))
    wanted = bytearray(memory)
    result = model(name, wanted, [source, target], 0)
    operation = await bpf.Op.load(name, engine=engine)
    with memoryview(memory) as view, view[slice(*source)] as one, view[slice(*target)] as two:
        assert await operation(one, two) == result
    assert memory == wanted


async def test_the_largest_buffers(engine: Any) -> None:
    loaded = await load(engine, "copy", "xor", "fill", "count", "find", "base64", "crc32c")
    source, other = random_bytes(2, MOST), random_bytes(3, MOST)
    target = bytearray(MOST)
    assert await loaded["copy"](source, target) == MOST
    assert target == source
    assert await loaded["xor"](other, target) == MOST
    assert target == xored(source, other)
    assert await loaded["fill"](target, flags=0xA5) == MOST
    assert target == b"\xa5" * MOST
    assert await loaded["count"](source, flags=7) == source.count(7)
    assert await loaded["find"](source, source[-16:]) == source.find(source[-16:])
    assert await loaded["find"](source, b"not in it") == -1
    third = MOST // 4 * 3
    assert await loaded["base64"](source, target, length=third) == MOST
    wanted = bytearray(MOST)
    assert model("base64", bytearray(source) + wanted, [(0, third), (MOST, 2 * MOST)], 0) == MOST
    memory = bytearray(source) + wanted
    model("base64", memory, [(0, third), (MOST, 2 * MOST)], 0)
    assert target == memory[MOST:]
    # The model of the checksum takes seconds for so much; where all is slow, the engine inline, which is compared with it elsewhere, stands for it.
    if engine == "inline":
        assert await loaded["crc32c"](source) == crc32c(source)
    else:
        assert await loaded["crc32c"](source) == await (await bpf.Op.load("crc32c", engine="inline"))(source)


async def test_known_checksums(engine: Any) -> None:
    operation = await bpf.Op.load("crc32c", engine=engine)
    assert await operation(b"") == 0
    assert await operation(b"123456789") == 0xE3069283  # RFC 3720
    assert await operation(bytes(32)) == 0x8A9136AA
    assert await operation(b"\xff" * 32) == 0x62A8AB43
    assert await operation(b"6789", flags=await operation(b"12345")) == 0xE3069283


async def test_the_processors_instruction_and_the_tables_agree(tmp_path: Path, rng: random.Random) -> None:
    """The engine inline has two ways to a checksum: one result for all lengths, places in memory and checksums so far."""
    (tmp_path / "tables.bpf.c").write_text(f'#define CRC32C_BY_TABLES\n#include "{OPERATIONS}/crc32c.bpf.c"\n')
    built = build_op(tmp_path / "tables.bpf.c", "--engine", "inline", "-I", OPERATIONS)
    assert built.returncode == 0, built.stderr
    tables = await bpf.Op.load(tmp_path / "tables.bpf.c", engine="inline")
    shipped = await bpf.Op.load("crc32c", engine="inline")
    # Three strings of 1,360 bytes and what is left, in chunks of 4,096.
    lengths = [*range(130), *range(1350, 1370), *range(4070, 4110), *range(8150, 8200), *(rng.randrange(100_000) for _ in range(100))]
    with memoryview(rng.randbytes(100_016)) as memory:
        for length in lengths:
            for place in range(16) if length < 130 else rng.sample(range(16), 4):
                flags = rng.choice([0, rng.getrandbits(32)])
                with memory[place : place + length] as buffer:
                    result = await shipped(buffer, flags=flags)
                    assert result == await tables(buffer, flags=flags), (length, place, flags)
                    if length < 130:
                        assert result == crc32c(bytes(buffer), flags)
    tables.close()


def test_the_constants_of_checksums() -> None:
    """The tables and factors in the sources are what their comments say."""

    def power(exponent: int) -> int:
        value = 1 << 31  # x^0, bits reversed
        for _ in range(exponent):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    source = (OPERATIONS / "crc32c_x86.h").read_text()
    defined = {name: int(value, 0) for name, value in re.findall(r"#define (CRC32C_\w+) (\w+?)u?\b", source)}
    bits = defined["CRC32C_STRING"] * 64
    assert (defined["CRC32C_FACTOR_1"], defined["CRC32C_FACTOR_2"]) == (power(bits - 33), power(2 * bits - 33))
    rows = [crc32c_table()]
    for _ in range(7):
        rows.append([value >> 8 ^ rows[0][value & 255] for value in rows[-1]])
    numbers = re.findall(r"0x[0-9a-f]{8}(?=,)", (OPERATIONS / "crc32c_table.h").read_text().partition("{")[2])
    assert [int(number, 0) for number in numbers] == [value for row in rows for value in row]


async def test_errors_name_the_operation(engine: Any) -> None:
    loaded = await load(engine, "copy", "base64", "fill", "count", "xor", "find")
    for name, buffers, flags, number in [
        ("copy", (b"12", bytearray(1)), 0, errno.ENOSPC),
        ("base64", (b"12", bytearray(3)), 0, errno.ENOSPC),
        ("fill", (bytearray(1),), 256, errno.EINVAL),
        ("count", (b"1",), 256, errno.EINVAL),
        ("xor", (b"1", bytearray(2)), 0, errno.EINVAL),
        ("find", (b"1", b""), 0, errno.EINVAL),
        ("find", (b"1" * 20, b"1" * 17), 0, errno.EINVAL),
    ]:
        with pytest.raises(OSError, match=rf"\] {name}: ") as failure:
            await loaded[name](*buffers, flags=flags)
        assert failure.value.errno == number
    # An error leaves the operation as it was.
    assert await loaded["find"](b"abc", b"c") == 2


async def test_length_cuts_the_first_buffer(engine: Any) -> None:
    loaded = await load(engine, "copy", "count", "crc32c", "nop")
    target = bytearray(5)
    assert await loaded["copy"](b"12345", target, length=3) == 3
    assert target == b"123\0\0"
    assert await loaded["count"](b"aaaa", flags=ord("a"), length=2) == 2
    assert await loaded["crc32c"](b"123456789-", length=9) == 0xE3069283
    assert await loaded["crc32c"](b"123", length=0) == 0
    for length, kind in [(-1, ValueError), (4, ValueError), (1.0, TypeError), ("1", TypeError)]:
        with pytest.raises(kind, match="^crc32c: "):
            await loaded["crc32c"](b"123", length=length)
    with pytest.raises(ValueError, match="^nop: there is no buffer"):
        await loaded["nop"](length=0)


async def test_what_is_refused_before_it_begins(engine: Any) -> None:
    loaded = await load(engine, "copy", "count", "xor")
    copy, count = loaded["copy"], loaded["count"]
    target = bytearray(4)
    released = memoryview(bytearray(4))
    released.release()
    refused: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (BufferError, (target, b"read-only")),
        (BufferError, (target, memoryview(bytearray(4)).toreadonly())),
        (BufferError, (memoryview(bytearray(8))[::2], target)),
        (ValueError, (target, released)),
        (ValueError, (released, target)),
        (ValueError, (target, bytearray(MOST + 1))),
        (ValueError, (bytearray(MOST + 1), target)),
        (TypeError, (target, "text")),
        (TypeError, (target, None)),
        (TypeError, (target,)),
        (TypeError, (target, target, target)),
        (TypeError, ()),
    ]
    for kind, buffers in refused:
        with pytest.raises(kind, match="^copy: "):
            await copy(*buffers)
    for flags, kind in [(-1, ValueError), (1 << 32, ValueError), (1.0, TypeError), (None, TypeError)]:
        with pytest.raises(kind, match="^count: flags"):
            await count(b"1", flags=flags)
    target.append(1)  # nothing holds it
    assert await copy(b"1234", target) == 4
    with pytest.raises(TypeError, match="it takes 2 buffers, not 1"):
        await copy(target)
    with pytest.raises(TypeError, match="it takes 1 to 2 buffers, not 3"):
        await loaded["xor"](target, target, target)


async def test_buffers_of_other_kinds(engine: Any) -> None:
    loaded = await load(engine, "fill", "xor")
    with mmap.mmap(-1, 3 * CHUNK) as mapped:
        assert await loaded["fill"](mapped, flags=1) == 3 * CHUNK
        assert mapped[:] == b"\1" * 3 * CHUNK
        # Across the borders of pages, at places of no alignment.
        with memoryview(mapped) as view, view[CHUNK - 3 : 2 * CHUNK + 5] as middle:
            assert await loaded["xor"](middle, flags=0x04030201) == CHUNK + 8
        expected = xored(b"\1" * (CHUNK + 8), (b"\1\2\3\4" * CHUNK)[: CHUNK + 8])
        assert mapped[:] == b"\1" * (CHUNK - 3) + expected + b"\1" * (CHUNK - 5)
    with memoryview(bytearray(16)).cast("I", (2, 2)) as shaped:
        assert await loaded["fill"](shaped, flags=2) == 16
        assert bytes(shaped) == bytes([2]) * 16


async def test_many_at_once(engine: Any, rng: random.Random) -> None:
    """Short and long ones together: each has its own result."""
    loaded = await load(engine, "copy", "count")
    sizes = [rng.choice([0, 100, CHUNK, DIRECT, DIRECT + 1, 300_000]) for _ in range(some(engine, 60))]
    data = [rng.randbytes(size) for size in sizes]
    targets = [bytearray(size) for size in sizes]
    results = await asyncio.gather(*(loaded["copy"](*pair) for pair in zip(data, targets, strict=True)))
    assert results == sizes
    assert targets == data
    counts = await asyncio.gather(*(loaded["count"](source, flags=index % 256) for index, source in enumerate(data)))
    assert counts == [source.count(index % 256) for index, source in enumerate(data)]


SAID = {
    "nop": ("none", (0, 0)),
    "copy": ("last", (2, 2)),
    "fill": ("first", (1, 1)),
    "crc32c": ("none", (1, 1)),
    "xor": ("last", (1, 2)),
    "find": ("none", (2, 2)),
    "count": ("none", (1, 1)),
    "base64": ("last", (2, 2)),
}


@pytest.mark.parametrize("engine", ["inline", "prog_run"])
async def test_what_an_operation_says_of_itself(engine: Any) -> None:
    need(engine)
    loaded = await load(engine, *ops.SHIPPED)
    assert {name: (op.writes, op.buffers) for name, op in loaded.items()} == SAID
    for name, op in loaded.items():
        assert (op.name, op.engine, op.closed) == (name, engine, False)
        assert repr(op) == f"<Op {name} engine={engine}>"


@pytest.mark.skipif(not hasattr(bpf, "Object"), reason="needs program: libbpf 1.4.6 when the package was built")
def test_what_the_objects_say() -> None:
    """Of all that ship, for the kernel's engines too, on any kernel."""
    from aiouring.bpf import _libbpf_op

    for name, (writes, buffers) in SAID.items():
        for suffix in ("op", "run"):
            path = ops.OBJECTS / f"{name}.{suffix}.bpf.o"
            opened = _libbpf_op.OperationObject(str(path), path.read_bytes())
            assert opened.info[:3] == (name, *buffers)
            assert opened.info[3] & 3 == ["none", "first", "last", "all"].index(writes)
            opened.close()


async def test_a_call_that_nobody_awaits_is_told(engine: Any) -> None:
    fill = await bpf.Op.load("fill", engine=engine)
    target = bytearray(3)
    with pytest.warns(RuntimeWarning, match="coroutine 'fill' was never awaited"):
        never = fill(target, flags=1)
        del never
    target.append(0)
    assert target == bytes(4)
    call = fill(target, flags=1)
    assert await call == 4
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await call
