"""The loader of hook programs on a kernel that takes them: load, attach, maps and variables, what is refused, and who may do what."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiouring.bpf import HookRefused, Object, kernel_support
from aiouring.bpf.build import INCLUDE, build_object

from .rings import Ring

pytestmark = [pytest.mark.kernel_hook, pytest.mark.usefixtures("descriptors")]

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "nop.bpf.c"
# Far above what a process has open.
NUMBER = 300


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    build_object(SOURCE, folder / "nop.bpf.o", [INCLUDE])
    return folder / "nop.bpf.o"


@pytest.fixture(scope="session")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    (folder / "refused.bpf.c").write_text(f'#define REFUSED\n#include "{SOURCE}"\n')
    build_object(folder / "refused.bpf.c", folder / "refused.bpf.o", [INCLUDE])
    return folder / "refused.bpf.o"


@pytest.fixture
def ring(descriptors: None) -> Iterator[Ring]:
    with Ring() as ring:
        yield ring


def opened(built: Path, ring: Ring, target: int = 100) -> Object:
    found = Object.open(built)
    found.set_rodata({**ring.offsets, "target": target})
    return found


def loaded(built: Path, ring: Ring, target: int = 100, number: int | None = None) -> Object:
    found = opened(built, ring, target)
    found.load(ring.fd if number is None else number)
    return found


def test_this_kernel_takes_hooks() -> None:
    assert kernel_support() == ""


def test_the_program_runs_inside_enter(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as hook:
        hook.attach()
        assert hook.attached
        assert ring.enter() == 0
        # 100 requests in batches of 8, and a step that sees the last of them.
        assert hook.globals["steps"][0] == 14
        assert hook.globals["seen"][0] == hook.globals["submitted"][0] == 100
        assert hook.globals["bad"][0] == 0


def test_nothing_runs_before_attach_or_after_detach(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as hook:
        ring.enter()
        assert hook.globals["steps"][0] == 0
        hook.attach()
        hook.attach()
        ring.enter()
        steps = hook.globals["steps"][0]
        hook.detach()
        hook.detach()
        assert not hook.attached
        ring.enter()
        assert hook.globals["steps"][0] == steps > 0


def test_a_hook_is_attached_again(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as hook:
        for times in range(1, 4):
            hook.attach()
            ring.enter()
            # Its work is done in the first run; after that it stops at its first step.
            assert hook.globals["steps"][0] == 13 + times
            hook.detach()


def test_a_ring_takes_one_hook(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as first, loaded(built, ring) as second:
        first.attach()
        with pytest.raises(OSError, match="cannot be attached") as refusal:
            second.attach()
        assert refusal.value.errno == errno.EBUSY
        assert refusal.value.filename == "nop.bpf.o: ops"
        first.detach()
        second.attach()
        ring.enter()
        assert (first.globals["steps"][0], second.globals["steps"][0]) == (0, 14)


def test_the_end_of_an_object_takes_its_hook_off(built: Path, ring: Ring) -> None:
    hook = loaded(built, ring)
    hook.attach()
    hook.close()
    with loaded(built, ring) as second:
        second.attach()
        del second
    with loaded(built, ring) as third:
        third.attach()
        assert ring.enter() == 0


def test_the_ring_may_be_named_when_it_is_attached(built: Path, ring: Ring) -> None:
    with opened(built, ring) as hook:
        hook.load()
        with pytest.raises(ValueError, match="no ring was named"):
            hook.attach()
        hook.attach(ring.fd)
        ring.enter()
        assert hook.globals["seen"][0] == 100


def test_what_is_no_ring_is_refused(built: Path, ring: Ring) -> None:
    with opened(built, ring) as hook, open(os.devnull) as file:
        hook.load()
        with pytest.raises(OSError) as refusal:
            hook.attach(file.fileno())
        assert refusal.value.errno in (errno.EOPNOTSUPP, errno.EBADFD, errno.EBADF)
    with Ring(flags=0) as other, opened(built, other) as hook:
        hook.load(other.fd)
        with pytest.raises(OSError) as refusal:
            hook.attach()
        assert refusal.value.errno == errno.EOPNOTSUPP


def test_a_refused_program_gives_the_verifiers_log(refused: Path, ring: Ring) -> None:
    hook = opened(refused, ring)
    with pytest.raises(HookRefused) as refusal:
        hook.load(ring.fd)
    assert refusal.value.errno == errno.EACCES
    assert refusal.value.filename == "refused.bpf.o"
    # The text has what is wrong, and where; the attribute has all that was said, from the first instruction on.
    assert "mem_or_null" in str(refusal.value)
    assert refusal.value.reason in str(refusal.value).splitlines()[0]
    assert "processed " in refusal.value.log and "processed " not in str(refusal.value)
    assert "BEGIN PROG LOAD LOG" in refusal.value.log
    assert len(refusal.value.log) > 1000
    with pytest.raises(RuntimeError, match="is refused"):
        hook.load(ring.fd)
    hook.close()


def test_variables(built: Path, ring: Ring) -> None:
    with loaded(built, ring, target=10) as hook:
        found = hook.globals
        assert {"target", "batch", "steps", "wide", "table", "pair_of_numbers"} <= set(found)
        assert found["batch"][0] == 8
        assert (found["wide"].format, found["table"].format, len(found["table"])) == ("Q", "h", 4)
        assert (found["pair_of_numbers"].format, found["pair_of_numbers"].nbytes) == ("B", 8)
        assert found["target"][0] == 10
        with pytest.raises(TypeError, match="read-only"):
            found["target"][0] = 1
        found["batch"][0] = 1
        hook.attach()
        ring.enter()
        assert found["steps"][0] == 11
        steps = found["steps"]
    # The pages stay for as long as somebody looks at them.
    assert steps[0] == 11


def test_constants_that_do_not_fit(built: Path) -> None:
    with Object.open(built) as hook:
        with pytest.raises(KeyError, match=r"no constant 'batch'; it has .*target"):
            hook.set_rodata({"batch": 1})
        with pytest.raises(ValueError, match="does not fit into target"):
            hook.set_rodata({"target": 1 << 32})
        with pytest.raises(ValueError, match="does not fit into target"):
            hook.set_rodata({"target": -1})
        with pytest.raises(ValueError, match="target has 4 bytes, not 3"):
            hook.set_rodata({"target": b"abc"})
        hook.set_rodata({"target": b"\x01\0\0\0"})
        with pytest.raises(RuntimeError, match="is open"):
            hook.globals  # noqa: B018
        hook.load()
        assert hook.globals["target"][0] == 1
        with pytest.raises(RuntimeError, match="is loaded"):
            hook.set_rodata({"target": 2})


def test_maps(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as hook:
        assert set(hook.maps) == {"counts", "seen_by_batch", ".rodata", ".data", ".bss", "ops"}
        table = hook.maps["seen_by_batch"]
        assert (table.key_size, table.value_size, table.max_entries) == (4, 8, 2)
        one, two, three = (number.to_bytes(4, "little") for number in (1, 2, 3))
        assert table.lookup(one) is None
        assert not table.delete(one)
        table.update(one, b"12345678")
        table.update(two, b"abcdefgh")
        with pytest.raises(OSError) as full:
            table.update(three, b"--------")
        assert (full.value.errno, full.value.filename) == (errno.E2BIG, "nop.bpf.o: seen_by_batch")
        with pytest.raises(OSError) as there:
            table.update(one, b"--------", 1)
        assert there.value.errno == errno.EEXIST
        with pytest.raises(ValueError, match="a key has 4 bytes, not 1"):
            table.lookup(b"x")
        with pytest.raises(ValueError, match="a value has 8 bytes, not 1"):
            table.update(one, b"x")
        assert dict(table.items()) == {one: b"12345678", two: b"abcdefgh"}
        assert table.delete(one)
        assert dict(table.items()) == {two: b"abcdefgh"}
        with pytest.raises(OSError, match="memory that can be mapped"):
            table.memory  # noqa: B018

        counts = hook.maps["counts"]
        hook.attach()
        ring.enter()
        memory = counts.memory.cast("Q")
        assert list(memory) == [14, 0, 0, 0]
        memory[3] = 5
        assert counts.lookup(three) == (5).to_bytes(8, "little")
        assert len(list(counts.items())) == 4
    with pytest.raises(ValueError, match="is closed"):
        counts.lookup(one)
    with pytest.raises(ValueError, match="is closed"):
        list(table.items())
    assert memory[3] == 5


def test_an_arena(tmp_path: Path, ring: Ring) -> None:
    """Memory that program and process share. An older clang has no pointers into it, but the map is the same."""
    source = tmp_path / "arena.bpf.c"
    arena = "__uint(type, 33); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 3);"
    source.write_text(f'#include "{SOURCE}"\nstruct {{ {arena} }} arena SEC(".maps");\n')
    build_object(source, tmp_path / "arena.bpf.o", [INCLUDE])
    with opened(tmp_path / "arena.bpf.o", ring) as hook:
        hook.load(ring.fd)
        memory = hook.maps["arena"].memory
        assert (memory.nbytes, memory.readonly) == (3 * os.sysconf("SC_PAGE_SIZE"), False)
        memory[5000] = 7
        assert hook.maps["arena"].memory[5000] == 7
    # libbpf's mapping stays for as long as somebody looks at it.
    assert memory[5000] == 7


def test_loading_needs_privileges_and_says_which(built: Path) -> None:
    program = (
        "import os, sys\nfrom aiouring.bpf import Object\nhook = Object.open(sys.argv[1])\nos.setresuid(65534, 65534, 65534)\n"
        "try: hook.load()\nexcept OSError as error: print(error.errno, error)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(built)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{errno.EPERM} ")
    assert "this process lacks CAP_BPF and CAP_PERFMON" in done.stdout


def test_a_forked_child_leaves_its_parents_hook_alone(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as hook:
        hook.attach()
        child = os.fork()
        if child == 0:
            hook.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ring.enter()
        assert hook.globals["steps"][0] == 14


def test_detaching_works_although_a_child_has_the_link_too(built: Path, ring: Ring) -> None:
    with loaded(built, ring) as hook, loaded(built, ring) as second:
        hook.attach()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        hook.detach()
        second.attach()
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def run_unprivileged(*arguments: str, pass_fds: list[int]) -> dict[str, object]:
    command = [sys.executable, str(HERE / "attach.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=pass_fds)
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


RAN = {"number": NUMBER, "enter": 0, "steps": 14, "seen": 100, "bad": 0, "steps_of_the_kernel": 14}


@pytest.fixture
def bpf_folder() -> Iterator[Path]:
    folder = Path(f"/sys/fs/bpf/aiouring-test-{os.getpid()}")
    yield folder
    for path in folder.glob("*"):
        path.unlink()
    folder.rmdir()


def test_a_process_without_privileges_attaches_what_was_pinned(built: Path, ring: Ring, bpf_folder: Path) -> None:
    with loaded(built, ring, number=NUMBER) as hook:
        hook.pin(bpf_folder)
        with pytest.raises(OSError) as again:
            hook.pin(bpf_folder)
        assert again.value.errno == errno.EEXIST
    # The files alone keep it. Nobody may read them at first.
    report = run_unprivileged(str(built), "pinned", str(bpf_folder), pass_fds=[])
    assert report["error"] == f"HookError {errno.EACCES}"
    assert "CAP_BPF and CAP_PERFMON" in str(report["support"])
    for path in (bpf_folder.parent, bpf_folder):
        path.chmod(0o755)
    for path in [bpf_folder, *bpf_folder.glob("*")]:
        os.chown(path, 65534, 65534)
    report = run_unprivileged(str(built), "pinned", str(bpf_folder), pass_fds=[])
    assert {name: report.get(name) for name in RAN} == RAN


def test_a_process_without_privileges_attaches_what_it_inherited(built: Path, ring: Ring) -> None:
    with loaded(built, ring, number=NUMBER) as hook:
        fds = hook.descriptors
        report = run_unprivileged(str(built), "inherited", json.dumps(fds), pass_fds=list(fds.values()))
        assert {name: report.get(name) for name in RAN} == RAN
        # The loader sees the same memory.
        assert hook.globals["steps"][0] == 14


def test_adopting_what_is_incomplete_or_taken(built: Path, ring: Ring, tmp_path: Path) -> None:
    with loaded(built, ring, number=NUMBER) as hook:
        with pytest.raises(ValueError, match="no descriptor for"):
            Object.from_descriptors({"ops": hook.descriptors["ops"]}, built)
        with pytest.raises(OSError) as refusal:
            Object.from_pinned(tmp_path, built)
        assert refusal.value.errno == errno.ENOENT
        with Object.from_descriptors(hook.descriptors, built) as adopted, open(os.devnull) as file:
            assert adopted.ring_fd == NUMBER
            os.dup2(file.fileno(), NUMBER)
            try:
                with pytest.raises(OSError, match="is something else in this process") as taken:
                    adopted.attach(ring.fd)
                assert taken.value.errno == errno.EBUSY
            finally:
                os.close(NUMBER)
            adopted.attach(ring.fd)
            ring.enter()
            assert adopted.globals["seen"][0] == 100


def test_garbage_is_refused(built: Path) -> None:
    image = built.read_bytes()
    for junk in (b"", b"junk", image[:1000], image[: len(image) // 2], b"\x7fELF" + bytes(2000)):
        with pytest.raises(HookRefused):
            Object.open(junk).load()
    with pytest.raises(FileNotFoundError):
        Object.open("no-such-object.bpf.o")
