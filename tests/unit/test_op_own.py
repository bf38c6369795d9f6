"""Operations of a user's own: built by `python -m aiouring build-op`, loaded by the path of any of their files, run by every engine alike."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiouring import bpf
from tests.unit.op_programs import ENGINES, NATIVE, build_op, need

ROOT = Path(__file__).resolve().parents[2]

# It has all four functions, counts their calls in globals, and does what its flags say.
PROGRAM = """
#include <aiouring/op.h>

static aiouring_u64 preps, issues, fails, cleanups;

struct mine {
    aiouring_u64 zero;
    aiouring_u32 flags, seen;
    aiouring_u8 rest[48];
};

static int mine_prep(struct aiouring_op *op)
{
    struct mine *mine = aiouring_state(op);
    aiouring_u8 *chunk = aiouring_scratch(op);

    preps++;
    if (mine->zero || mine->flags || mine->seen || mine->rest[47])
        return -AIOURING_EIO;
    mine->zero = ~0ull;
    mine->flags = aiouring_flags(op);
    mine->rest[47] = 1;
    switch (aiouring_flags(op)) {
    case 1: return -AIOURING_ENOENT;
    case 2: return 3;
    case 3: return -515;
    case 4: return chunk ? aiouring_load(op, chunk, 0, 0, 1) : -AIOURING_ENOMEM;
    }
    return 0;
}

static int mine_issue(struct aiouring_op *op)
{
    struct mine *mine = aiouring_state(op);
    aiouring_u8 *chunk = aiouring_scratch(op);

    issues++;
    if (mine->flags != aiouring_flags(op) || mine->zero != ~0ull || mine->rest[47] != 1)
        return -AIOURING_EIO;
    mine->seen++;
    if (!chunk)
        return -AIOURING_ENOMEM;
    switch (mine->flags) {
    case 10: return -AIOURING_EAGAIN;
    case 11: return -529;
    case 12: return 1;
    case 13: return -4096;
    case 14: return -AIOURING_ECANCELED;
    case 15: return -AIOURING_EINTR;
    case 16: return -4095;
    case 20: return aiouring_load(op, chunk, 0, aiouring_length(op, 0), 1);
    case 21: return aiouring_load(op, chunk, 1, 0, 1);
    case 22: return aiouring_store(op, chunk, 0, 0, 1);
    case 23: return aiouring_load(op, chunk, 0, ~0ull, 1);
    case 24: return aiouring_load(op, chunk, 0, aiouring_length(op, 0), 0);
    case 30: aiouring_set_result(op, ~0ull); return 0;
    case 31: aiouring_set_result(op, 1ull << 63); return 0;
    case 32: aiouring_set_result(op, 0x7fffffff); return 0;
    case 33: aiouring_set_result(op, 0x80000000); return 0;
    case 34: aiouring_set_result(op, 5); return -AIOURING_EIO;
    case 40: aiouring_set_result(op, preps); break;
    case 41: aiouring_set_result(op, issues); break;
    case 42: aiouring_set_result(op, fails); break;
    case 43: aiouring_set_result(op, cleanups); break;
    }
    return 0;
}

static int mine_fail(struct aiouring_op *op)
{
    (void)op;
    fails++;
    return 0;
}

static void mine_cleanup(struct aiouring_op *op)
{
    (void)op;
    cleanups++;
}

AIOURING_OP(mine, 1, 1, AIOURING_WRITES_NOTHING, mine_prep, mine_issue, mine_fail, mine_cleanup)
"""


def build_for(engine: str, source: Path) -> None:
    """Builds what an engine needs: where the kernel's engines run, clang takes a quarter of a minute for each file."""
    done = build_op(source, *(["--engine", "kernel"] if engine in NATIVE else []))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout, done.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the program above, built for an engine; the same one for all that need the same files."""
    made: dict[bool, Path] = {}

    def folder_for(engine: str) -> Path:
        native = engine in NATIVE
        if native not in made:
            made[native] = tmp_path_factory.mktemp("built")
            (made[native] / "mine.bpf.c").write_text(PROGRAM)
            build_for(engine, made[native] / "mine.bpf.c")
        return made[native]

    return folder_for


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    need(request.param)
    return request.param


@pytest.fixture
def built(engine: str, folders: Callable[[str], Path]) -> Path:
    return folders(engine)


async def calls(mine: bpf.Op) -> list[int]:
    """How often prep, issue, fail and cleanup were called, these four calls left out."""
    counts = [await mine(b"", flags=flags) for flags in (40, 41, 42, 43)]
    return [counts[0] - 1, counts[1] - 2, counts[2], counts[3] - 3]


async def test_the_four_functions(engine: Any, built: Path) -> None:
    """A prep error ends the request, what is no error becomes one, cleanup comes once for each."""
    mine = await bpf.Op.load(built / "mine.op.so", engine=engine)
    assert (mine.name, mine.engine, mine.buffers, mine.writes) == ("mine", engine, (1, 1), "none")
    try:
        assert await calls(mine) == [0, 0, 0, 0]
        for flags, number in [
            *((1, errno.ENOENT), (2, errno.EINVAL), (3, errno.EINVAL), (4, errno.EFAULT)),
            *((10, errno.EAGAIN), (11, errno.EINVAL), (12, errno.EINVAL), (13, errno.EINVAL), (14, errno.EINVAL), (15, errno.EINTR), (16, 4095)),
            *((20, errno.ERANGE), (21, errno.ERANGE), (22, errno.EACCES), (23, errno.ERANGE), (34, errno.EIO)),
        ]:
            with pytest.raises(OSError, match=r"\] mine: ") as failure:
                await mine(b"1234", flags=flags)
            assert failure.value.errno == number, flags
        assert await mine(b"1234", flags=24) == 0
        # 17 requests and the four questions.
        assert await calls(mine) == [21, 17, 0, 21]
    finally:
        mine.close()


async def test_results_have_64_bits(engine: Any, built: Path) -> None:
    mine = await bpf.Op.load(built / "mine.bpf.c", engine=engine)
    results = [await mine(b"", flags=flags) for flags in (0, 30, 31, 32, 33)]
    assert results == [0, 2**64 - 1, 1 << 63, 2**31 - 1, 2**31]
    mine.close()


async def test_state_is_a_requests_own(engine: Any, built: Path) -> None:
    """prep sees zeros, and issue what prep wrote, whatever ran before."""
    mine = await bpf.Op.load(built / "mine.run.bpf.o", engine=engine)
    for _ in range(5):
        assert await mine(b"1") == 0
    mine.close()


async def test_any_file_names_the_operation(engine: Any, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await bpf.Op.load(built / "mine.op.so", engine=engine)
    for name in ("mine.op.bpf.o", "mine.run.bpf.o", "mine.bpf.c"):
        assert await bpf.Op.load(str(built / name), engine=engine) is first
    monkeypatch.chdir(built)
    assert await bpf.Op.load("mine.op.so", engine=engine) is first
    first.close()


async def test_the_newer_file_is_loaded(engine: Any, built: Path, tmp_path: Path) -> None:
    """What is loaded is what lay there then."""
    for name in os.listdir(built):
        shutil.copy(built / name, tmp_path)
    old = await bpf.Op.load(tmp_path / "mine.bpf.c", engine=engine)
    (tmp_path / "mine.bpf.c").write_text(PROGRAM.replace("issues++;", "issues += 100;"))
    build_for(engine, tmp_path / "mine.bpf.c")
    assert await old(b"", flags=41) == 1
    old.close()
    new = await bpf.Op.load(tmp_path / "mine.bpf.c", engine=engine)
    assert await new(b"", flags=41) == 100
    new.close()


async def test_what_was_not_built_again_is_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    source = tmp_path / "mine.bpf.c"
    source.write_text(PROGRAM)
    build_op(source)  # for the inline engine alone, where there is no clang
    (await bpf.Op.load(source, engine="inline")).close()
    assert not recwarn.list
    source.write_text(PROGRAM + "\n")
    with pytest.warns(RuntimeWarning, match=r"mine\.bpf\.c was changed after .*mine\.op\.so w.* built: .* build-op") as told:
        (await bpf.Op.load(source, engine="inline")).close()
    assert told[0].filename == __file__
    # One engine's is built again, and the others' are what they were.
    assert build_op(source, "--engine", "inline").returncode == 0
    stale = [path.name for path in (tmp_path / "mine.op.bpf.o", tmp_path / "mine.run.bpf.o") if path.exists()]
    if stale:
        with pytest.warns(RuntimeWarning, match=f"was changed after {' and '.join(map(re.escape, stale))} were built"):
            (await bpf.Op.load(source, engine="inline")).close()
        source.unlink()
        with pytest.warns(RuntimeWarning, match="were built from different sources"):
            (await bpf.Op.load(source, engine="inline")).close()


async def test_without_optional_functions(engine: Any, tmp_path: Path) -> None:
    source = tmp_path / "length.bpf.c"
    source.write_text("""
#include <aiouring/op.h>
static int length_issue(struct aiouring_op *op)
{
    aiouring_set_result(op, aiouring_length(op, 0) + aiouring_length(op, 1) * 1000ull + aiouring_length(op, 2));
    return 0;
}
AIOURING_OP(length, 0, 2, AIOURING_WRITES_NOTHING, AIOURING_NONE, length_issue, AIOURING_NONE, AIOURING_NONE)
""")
    build_for(engine, source)
    length = await bpf.Op.load(source, engine=engine)
    assert [await length(*buffers) for buffers in ((), (b"12",), (b"12", b"345"))] == [0, 2, 3002]
    length.close()


async def test_writing_both_buffers(engine: Any, tmp_path: Path) -> None:
    """swap(one, other), also where they overlap: each chunk is read after what was written before."""
    source = tmp_path / "swap.bpf.c"
    source.write_text("""
#include <aiouring/op.h>
static int swap_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    int error = 0;
    if (!chunk)
        return -AIOURING_ENOMEM;
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, offset, bytes);
        if (!error)
            error = aiouring_load(op, chunk + AIOURING_CHUNK_BYTES, 1, offset, bytes);
        if (!error)
            error = aiouring_store(op, chunk + AIOURING_CHUNK_BYTES, 0, offset, bytes);
        if (!error)
            error = aiouring_store(op, chunk, 1, offset, bytes);
        if (error)
            break;
    }
    AIOURING_CHUNKS_END
    return error;
}
AIOURING_OP(swap, 2, 2, AIOURING_WRITES_ALL, AIOURING_NONE, swap_issue, AIOURING_NONE, AIOURING_NONE)
""")
    build_for(engine, source)
    swap = await bpf.Op.load(source, engine=engine)
    assert swap.writes == "all"
    for shift in (20_000, 10_001, 4096, 4095, 5, 0):
        memory = bytearray(os.urandom(40_000))
        wanted = bytearray(memory)
        for offset in range(0, 10_001, 4096):
            size = min(4096, 10_001 - offset)
            one, two = slice(offset, offset + size), slice(shift + offset, shift + offset + size)
            first, second = wanted[one], wanted[two]
            wanted[one] = second
            wanted[two] = first
        with memoryview(memory) as view, view[:10_001] as left, view[shift : shift + 10_001] as right:
            assert await swap(left, right) == 0
        assert memory == wanted, shift
    # What was written before an error stays.
    short, long = bytearray(b"a" * 5000), bytearray(b"b" * 9000)
    with pytest.raises(OSError, match="swap") as failure:
        await swap(long, short)
    assert failure.value.errno == errno.ERANGE
    assert bytes(short) == b"b" * 4096 + b"a" * 904 and bytes(long) == b"a" * 4096 + b"b" * 4904
    swap.close()


async def test_files_that_are_no_operation(engine: Any, built: Path, tmp_path: Path) -> None:
    suffix = {"inline": ".op.so", "prog_run": ".run.bpf.o"}.get(engine, ".op.bpf.o")
    for name, contents in [("empty", b""), ("junk", b"junk" * 100), ("cut", (built / f"mine{suffix}").read_bytes()[:900])]:
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(contents)
        with pytest.raises(OSError, match=name) as failure:
            await bpf.Op.load(path, engine=engine)
        assert failure.value.errno
    with pytest.raises(FileNotFoundError, match=f"missing{suffix}") as missing:
        await bpf.Op.load(tmp_path / f"missing{suffix}", engine=engine)
    assert "build-op" in str(missing.value)
    # Another kind of object in its place, and another version's.
    hook = Path(bpf.__file__).parent / "objects" / "wake.bpf.o"
    shutil.copy(built / "mine.op.bpf.o" if engine == "prog_run" else hook, tmp_path / f"other{suffix}")
    with pytest.raises(OSError, match="other"):
        await bpf.Op.load(tmp_path / f"other{suffix}", engine=engine)
    source = tmp_path / "older.bpf.c"
    source.write_text("#include <aiouring/op_inline.h>\n#undef AIOURING_OP_ABI\n#define AIOURING_OP_ABI 77\n" + PROGRAM)
    build_for(engine, source)
    with pytest.raises(OSError, match="version 77"):
        await bpf.Op.load(source, engine=engine)


WRONG = """
#include <aiouring/op.h>
static int wrong_issue(struct aiouring_op *op)
{
    aiouring_u8 *chunk = aiouring_scratch(op);
    aiouring_u64 changed = 0;
    int error = 0;
    if (!chunk)
        return -AIOURING_ENOMEM;
    AIOURING_FORGET_NUMBER(chunk, changed);
    AIOURING_CHUNKS(aiouring_length(op, 0), AIOURING_CHUNK_BYTES, offset, bytes)
    {
        error = aiouring_load(op, chunk, 0, offset, bytes);
        if (error)
            break;
        BODY
    }
    AIOURING_CHUNKS_END
    aiouring_set_result(op, changed);
    return error;
}
AIOURING_OP(wrong, 1, 1, AIOURING_WRITES_FIRST, AIOURING_NONE, wrong_issue, AIOURING_NONE, AIOURING_NONE)
"""


@pytest.mark.parametrize(
    ("body", "reason", "shown"),
    [
        # A place in memory that nothing bounds.
        ("changed += chunk[aiouring_flags(op)];", "R\\d unbounded memory access", ["wrong.bpf.c:16: changed += chunk[aiouring_flags(op)];"]),
        # The loop that any C programmer would write. The verifier's log of it has 18 MB.
        (
            "for (aiouring_u32 index = 0; index < bytes; index++)\n    if (AIOURING_BYTE(chunk, index) == 'A')\n        changed++;",
            "jumps is too complex",
            ["wrong.bpf.c:17: if (AIOURING_BYTE(chunk, index) == 'A')", "loops are bounded by macros"],
        ),
        ("return -AIOURING_EIO;", "reference leak", ["AIOURING_CHUNKS(", "is left by `break`"]),
    ],
)
async def test_what_the_verifier_refuses_is_told(body: str, reason: str, shown: list[str], tmp_path: Path) -> None:
    """In few lines: why, and which of the source. All that it said is at hand."""
    need("prog_run")
    source = tmp_path / "wrong.bpf.c"
    source.write_text(WRONG.replace("BODY", body))
    assert build_op(source).returncode == 0
    with pytest.raises(bpf.OperationRefused, match="wrong: the kernel refused the operation") as refusal:
        await bpf.Op.load(source, engine="prog_run")
    assert re.search(reason, refusal.value.reason)
    assert refusal.value.errno in errno.errorcode and refusal.value.filename == str(tmp_path / "wrong.run.bpf.o")
    said = str(refusal.value).splitlines()
    assert refusal.value.reason in said[0]
    assert len(said) <= 12 and max(map(len, said[1:])) <= 170
    for words in shown:
        assert any(words in line for line in said), said
    assert "processed" in refusal.value.log.splitlines()[-4] and said[-1].split()[1] == str(len(refusal.value.log.splitlines()))
    # `auto` does not run it unchecked instead; who asks for that gets it.
    with pytest.raises(bpf.OperationRefused):
        await bpf.Op.load(source)
    wrong = await bpf.Op.load(source, engine="inline")
    assert wrong.engine == "inline"
    wrong.close()


async def test_a_source_without_an_operation(tmp_path: Path) -> None:
    source = tmp_path / "none.bpf.c"
    source.write_text("#include <aiouring/op.h>\n")
    done = build_op(source)
    assert done.returncode == 1 and done.stderr.count("none.bpf.c declares no operation: AIOURING_OP") >= 1, done.stderr
    assert os.listdir(tmp_path) == ["none.bpf.c"]


async def test_one_engine_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.bpf.c").write_text(PROGRAM)
    done = build_op(tmp_path / "mine.bpf.c", "-o", tmp_path / "made", "--engine", "inline")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "made") == ["mine.op.so"]
    mine = await bpf.Op.load(tmp_path / "made" / "mine.op.so")
    assert mine.engine == "inline"
    assert "there is no mine.run.bpf.o" in mine.engine_reason or "lacks" in mine.engine_reason
    mine.close()


def test_what_cannot_be_built_is_told(tmp_path: Path) -> None:
    source = tmp_path / "mine.bpf.c"
    done = build_op(source)
    assert done.returncode == 2 and "there is no such file" in done.stderr
    done = build_op(tmp_path / "mine.c")
    assert done.returncode == 2 and "ends with .bpf.c" in done.stderr
    source.write_text(PROGRAM.replace("preps++", "no_such_name++"))
    done = build_op(source)
    assert done.returncode == 1
    assert done.stderr.count("no_such_name") >= 3
    assert all(f"build-op: for the {engine} engine: " in done.stderr for engine in ("kernel", "prog_run", "inline"))
    assert os.listdir(tmp_path) == ["mine.bpf.c"]
    # What an earlier source gave does not stay beside it either.
    (tmp_path / "mine.op.so").write_bytes(b"old")
    done = build_op(source)
    assert "the old mine.op.so was removed" in done.stderr
    assert os.listdir(tmp_path) == ["mine.bpf.c"]
    source.write_text(PROGRAM)
    done = build_op(source, AIOURING_CLANG="no-such-clang")
    assert done.returncode == 1 and "there is no clang" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["mine.bpf.c", "mine.op.so"]


def test_what_is_built(tmp_path: Path) -> None:
    (tmp_path / "mine.bpf.c").write_text(PROGRAM)
    done = build_op(tmp_path / "mine.bpf.c")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path}/mine.op.bpf.o: for the kernel engine",
        f"{tmp_path}/mine.run.bpf.o: for the prog_run engine",
        f"{tmp_path}/mine.op.so: for the inline engine",
    ]
    assert sorted(os.listdir(tmp_path)) == ["mine.bpf.c", "mine.op.bpf.o", "mine.op.so", "mine.run.bpf.o"]
    for path in tmp_path.glob("*.bpf.o"):
        contents = path.read_bytes()
        assert contents.startswith(b"\x7fELF")
        # What is shipped tells nobody where it was built.
        assert os.fsencode(tmp_path) not in contents and os.fsencode(ROOT) not in contents


async def test_the_tutorials_operation(engine: Any, tmp_path: Path) -> None:
    """The program in docs/operations.md is built and runs with every engine."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (program,) = [block.partition("```")[0] for block in text.split("```c\n")[1:]]
    (tmp_path / "lower.bpf.c").write_text(program)
    build_for(engine, tmp_path / "lower.bpf.c")
    lower = await bpf.Op.load(tmp_path / "lower.bpf.c", engine=engine)
    target = bytearray(b"Some TEXT, @[ \xc4\n" * 900)
    assert await lower(target) == 5 * 900
    assert bytes(target) == b"some text, @[ \xc4\n" * 900
    lower.close()
