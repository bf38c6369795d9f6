"""`pip install .` in a fresh virtual environment, with a C compiler alone: what a user gets from a source release.

Run by `make test-package`. The environments and builds lie below pytest's temporary folder; pip fetches the build's
requirements as it would for a user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

# A build from nothing takes a minute on a machine that has other things to do.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[2]

# Run outside the checkout by the fresh environment's interpreter: it proves that the installed modules, not the sources, do the work.
PROGRAM = """
import asyncio, sys, sysconfig
import aiouring
assert aiouring.__file__.startswith(sysconfig.get_path("platlib")), aiouring.__file__

async def main():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return type(asyncio.get_running_loop()).__module__.split(".")[0]

assert aiouring.run(main()) == "aiouring"
print("served by aiouring")
"""


def run(*command: str | Path, cwd: Path) -> str:
    # PYTHONPATH and the like would let the checkout's own modules in.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command} ended with status {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources alone, without what `make build` made from them."""
    folder = tmp_path_factory.mktemp("package") / "checkout"
    run(sys.executable, ROOT / "tools" / "copy_checkout.py", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment in which nothing but pip is installed."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    # The interpreter that runs this test may be a virtual environment's; the fresh one is made by its base.
    run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def sdist(checkout: Path) -> Path:
    """The source release that the checkout would publish."""
    run(
        sys.executable,
        "-c",
        "import setuptools.build_meta as backend; backend.build_sdist('dist')",
        cwd=checkout,
    )
    (found,) = (checkout / "dist").glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def installed(sdist: Path, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fresh environment's interpreter once the package is installed there, built from the source release."""
    folder = tmp_path_factory.mktemp("elsewhere")
    output = run(fresh, "-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir", sdist, cwd=folder)
    assert "Successfully installed aiouring-" in output
    return fresh


def test_installs_from_the_source_release_and_serves(installed: Path, tmp_path: Path) -> None:
    # No dependency at run time: the fresh environment got the package and nothing beside it.
    listed = run(installed, "-m", "pip", "--disable-pip-version-check", "list", "--format=freeze", cwd=tmp_path)
    assert {line.split("==")[0] for line in listed.splitlines() if "==" in line} - {"pip", "setuptools"} == {"aiouring"}, listed
    assert "served by aiouring" in run(installed, "-c", PROGRAM, cwd=tmp_path)


def test_installs_modules_and_stubs_and_no_sources(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, "-m", "pip", "--disable-pip-version-check", "show", "--files", "aiouring", cwd=tmp_path)
    names = [line.strip() for line in shown.split("Files:")[1].splitlines()]
    modules = {Path(name).name.split(".")[0] for name in names if name.endswith(".so")}
    # A machine that has no libbpf and reaches no mirror of Debian builds without these two, and says so.
    assert modules | {"_libbpf", "_libbpf_op"} == {path.stem for path in ROOT.glob("aiouring/**/*.pyx")}
    stubs = {Path(name).stem for name in names if name.endswith(".pyi")}
    assert modules <= stubs, f"no stub for {modules - stubs}"
    assert "aiouring/py.typed" in names
    assert not [name for name in names if name.endswith((".pyx", ".c"))]
    if shutil.which("clang"):
        objects = {Path(name).name for name in names if name.startswith("aiouring/bpf/objects/")}
        hooks = {path.name.replace(".bpf.c", ".bpf.o") for path in ROOT.glob("bpf_progs/*.bpf.c")}
        operations = {path.name.replace(".bpf.c", f".{kind}.bpf.o") for path in ROOT.glob("bpf_progs/ops/*.bpf.c") for kind in ("op", "run")}
        assert objects == hooks | operations
    headers = {name.removeprefix("aiouring/bpf/include/") for name in names if name.startswith("aiouring/bpf/include/aiouring/")}
    assert headers == {str(path.relative_to(ROOT / "bpf_progs/include")) for path in ROOT.glob("bpf_progs/include/**/*.h")}
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_modules_need_no_library_but_c(installed: Path, tmp_path: Path) -> None:
    """No liburing, no libbpf: the native modules are linked with the C library alone."""
    located = "import aiouring, pathlib; print(*pathlib.Path(aiouring.__file__).parent.glob('**/*.so'), sep='\\n')"
    modules = run(installed, "-c", located, cwd=tmp_path).splitlines()
    assert modules
    needed = run("readelf", "--dynamic", "--wide", *modules, cwd=tmp_path)
    libraries = {line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line}
    assert {name.split(".so")[0] for name in libraries} - {f"libpython3.{sys.version_info[1]}"} <= {"libc", "libpthread", "libm"}


def test_source_release_holds_sources_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for pattern in (
        *("aiouring/**/*.py", "aiouring/**/*.pyx", "aiouring/**/*.pxd", "aiouring/**/*.pyi", "aiouring/include/*.h"),
        *("bpf_progs/**/*.c", "bpf_progs/**/*.h", "tests/**/*.py", "tests/vm/*.sh", "tests/vm/*.c"),
    ):
        missing = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)} - names
        assert not missing, f"the source release lacks {missing}"
    assert not [name for name in names if name.endswith((".so", ".o")) or name.startswith("aiouring/bpf/include")]
    assert not [name for name in names if name.startswith("aiouring/") and name.endswith(".c") and f"{name[:-2]}.pyx" in names]
