"""Hook programs that are compiled, and objects that are opened: what needs no kernel with the loop hook. tests/vm has the rest."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aiouring import bpf
from aiouring.bpf import build, support
from tools import find_libbpf

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
#include <aiouring/hook.h>
static int on_cqe(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    (void)hook;
    (void)cqe;
    return AIOURING_WAKE;
}
AIOURING_HOOK(on_cqe)
"""


def build_hook(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aiouring", "build-hook", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.bpf.c"
    path.write_text(PROGRAM)
    return path


def test_builds_for_both_engines(source: Path, tmp_path: Path) -> None:
    done = build_hook(source, "-o", tmp_path / "made")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path}/made/mine.bpf.o: for the kernel engine",
        f"{tmp_path}/made/mine.bpf.so: for the inline engine",
    ]
    assert sorted(os.listdir(tmp_path / "made")) == ["mine.bpf.o", "mine.bpf.so"]
    made = (tmp_path / "made" / "mine.bpf.o").read_bytes()
    assert made.startswith(b"\x7fELF")
    # What is shipped tells nobody where it was built.
    assert os.fsencode(tmp_path) not in made and os.fsencode(ROOT) not in made


def test_one_engine_beside_the_source(source: Path) -> None:
    assert build_hook(source, "--engine", "inline").returncode == 0
    assert sorted(os.listdir(source.parent)) == ["mine.bpf.c", "mine.bpf.so"]


def test_a_program_with_a_mistake_leaves_no_file(source: Path) -> None:
    source.write_text(PROGRAM.replace("return AIOURING_WAKE", "return no_such_name"))
    done = build_hook(source)
    assert done.returncode == 1
    assert "for the kernel engine" in done.stderr and "for the inline engine" in done.stderr and "no_such_name" in done.stderr
    assert os.listdir(source.parent) == ["mine.bpf.c"]


def test_without_a_compiler(source: Path) -> None:
    done = build_hook(source, AIOURING_CLANG="no-such-clang", CC="no-such-compiler")
    assert done.returncode == 1
    assert "there is no clang" in done.stderr
    assert "no-such-compiler cannot be run" in done.stderr


def test_names_that_are_no_program(tmp_path: Path) -> None:
    done = build_hook(tmp_path / "missing.bpf.c")
    assert done.returncode == 2 and "there is no such file" in done.stderr
    done = build_hook(tmp_path / "hook.c")
    assert done.returncode == 2 and "ends with .bpf.c" in done.stderr


@pytest.mark.parametrize(
    ("release", "fault"),
    [
        *(("7.1.4", True), ("7.1.0-rc3", True), ("7.1", True), ("6.18.44-x", True)),
        *(("7.1.5", False), ("7.2", False), ("10.0.1+deb", False), ("odd", False)),
    ],
)
def test_kernels_with_the_fault(release: str, fault: bool) -> None:
    assert support.release_has_fault(release) == fault


def test_kernel_support_is_a_sentence_or_nothing() -> None:
    reason = bpf.kernel_support()
    known = support.KERNEL_TYPES.exists() and b"\0io_uring_bpf_ops\0" in support.KERNEL_TYPES.read_bytes()
    assert isinstance(reason, str)
    if not known:
        assert "Linux 7.1" in reason or "libbpf" in reason or "types" in reason


def test_a_build_without_libbpf_says_so() -> None:
    """The package is imported where its loader cannot be: nothing else of it is missing."""
    program = """
import sys
missing = ("aiouring.bpf._libbpf", "aiouring.bpf._libbpf_op")
for name in missing:
    sys.modules[name] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in missing else real(name, package)
import aiouring.bpf
assert not hasattr(aiouring.bpf, "Object")
assert "libbpf" in aiouring.bpf.kernel_support(), aiouring.bpf.kernel_support()

async def main():
    op = await aiouring.bpf.Op.load("crc32c")
    assert await op(b"123456789") == 0xE3069283
    assert op.engine == "inline" and op.engine_reason.count("has no libbpf") == 3, op.engine_reason

aiouring.run(main())
print("told")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "told\n", done.stderr


needs_loader = pytest.mark.skipif(not hasattr(bpf, "Object"), reason="needs program: libbpf 1.4.6 when the package was built")


@pytest.fixture(scope="module")
def nop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("nop") / "nop.bpf.o"
    build.build_object(ROOT / "tests" / "vm" / "nop.bpf.c", target, [build.INCLUDE])
    return target


@needs_loader
def test_an_object_is_opened_without_privileges(nop: Path) -> None:
    with bpf.Object.open(nop) as opened:
        assert (opened.state, opened.name, opened.attached) == ("open", "nop.bpf.o", False)
        assert set(opened.map_names()) == {"counts", "seen_by_batch", ".rodata", ".data", ".bss", "ops"}
        assert opened.maps == {}
        opened.set_rodata({"target": 7, "cqes_offset": b"\x40\0\0\0"})
        with pytest.raises(KeyError, match=r"no constant 'steps'; it has .*target"):
            opened.set_rodata({"steps": 1})
        with pytest.raises(ValueError, match="does not fit into target"):
            opened.set_rodata({"target": 1 << 32})
        with pytest.raises(ValueError, match="target has 4 bytes, not 5"):
            opened.set_rodata({"target": b"12345"})
        for wanted in (opened.attach, lambda: opened.globals, lambda: opened.pin("folder")):
            with pytest.raises(RuntimeError, match=r"nop\.bpf\.o is open"):
                wanted()
    assert opened.state == "closed"
    calls: list[Callable[[], object]] = [opened.load, opened.map_names, opened.attach]
    for call in calls:
        with pytest.raises(RuntimeError, match="is closed"):
            call()
    opened.close()
    opened.detach()


@needs_loader
def test_a_kernel_that_takes_no_hook_refuses_with_its_reason(nop: Path) -> None:
    if not support.why_not():
        pytest.skip("needs kernel: one that takes no hooks")
    opened = bpf.Object.open(nop.read_bytes(), "mine")
    with pytest.raises(bpf.HookRefused) as refusal:
        opened.load()
    assert refusal.value.filename == "mine"
    assert support.why_not() in str(refusal.value)
    assert "libbpf: " in refusal.value.log
    assert opened.state == "refused"
    opened.close()


@needs_loader
def test_garbage_is_refused(nop: Path) -> None:
    image = nop.read_bytes()
    for junk in (b"", b"junk", image[:1000], image[: len(image) // 2], b"\x7fELF" + bytes(2000)):
        with pytest.raises(bpf.HookRefused) as refusal:
            bpf.Object.open(junk)
        assert refusal.value.errno in errno.errorcode
    with pytest.raises(FileNotFoundError):
        bpf.Object.open("no-such-object.bpf.o")
    with pytest.raises(TypeError):
        bpf.Object.open(5)


@needs_loader
def test_what_another_process_loaded_must_be_whole(nop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no descriptor for .*ops"):
        bpf.Object.from_descriptors({}, nop)
    with pytest.raises(OSError, match="pinned map cannot be opened"):
        bpf.Object.from_pinned(tmp_path, nop)
    # A descriptor that is no map; those of the others were duplicated by then and must not stay.
    with open(os.devnull) as file, pytest.raises(OSError):
        bpf.Object.from_descriptors(dict.fromkeys(("counts", "seen_by_batch", ".rodata", ".data", ".bss", "ops"), file.fileno()), nop)


def test_the_reasons_why_no_libbpf_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(find_libbpf.Unavailable, match="there is no pkg-config"):
        find_libbpf.find_libbpf(tmp_path / "unpacked")


def test_an_old_libbpf_of_the_machine_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "pkg-config"
    tool.write_text('#!/bin/sh\ncase "$1" in --version) echo 1.8 ;; --modversion) echo 1.1.2 ;; *) exit 1 ;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(find_libbpf.Unavailable, match=r"the machine's libbpf is 1\.1\.2"):
        find_libbpf.of_the_machine()


def test_archives_that_do_not_link_are_told(tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    for name in ("bpf", "btf", "libbpf"):
        (tmp_path / "bpf" / f"{name}.h").write_text("")
    found = find_libbpf.Libbpf(tmp_path, [], "nothing")
    assert "error" in (find_libbpf.why_it_does_not_link(found) or "")
