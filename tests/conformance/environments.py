"""The Pythons to test on, and a virtual environment for each with the loop under test in it; the command line calls it.

An environment lies in `.cache/conformance/<version>` and is used again. That of the Python which runs this has the checkout's own modules. For others
aiouring is built from a copy of the checkout, so that nothing in the checkout is touched, and is built again only when its sources have changed.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tools.copy_checkout import copy_checkout

from .suites import CACHE, ROOT, SuiteError

SUPPORTED = ("3.11", "3.12", "3.13")

# All that a build reads; what a build leaves behind in these folders is not a source.
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "aiouring", "bpf_progs", "tools")
GENERATED = (".so", ".pyc", ".html", ".o")

_ASK = "import json,sys; print(json.dumps([list(sys.version_info[:3]), sys.prefix, sys.base_prefix]))"
_ASK_FOR_TESTS = "import test.test_asyncio.utils, test.support"


@dataclass(frozen=True)
class Python:
    """One Python on this machine."""

    executable: str
    version: tuple[int, int, int]

    @property
    def short(self) -> str:
        """As people name it: 3.11."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def full(self) -> str:
        """With the patch level: 3.11.7."""
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Environment:
    """A virtual environment that is ready to run tests."""

    python: Python
    executable: str


def _run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )


def _candidates(name: str) -> list[str]:
    """The executables that may be the Python of this name: a path, or a version such as 3.12."""
    if not name[:1].isdigit():
        found = shutil.which(name)
        return [found] if found else []
    found = shutil.which(f"python{name}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    pattern = name if name.count(".") == 2 else f"{name}.*"
    return ([found] if found else []) + [str(path / "bin" / "python") for path in sorted(pyenv.glob(pattern))]


def find_python(name: str) -> Python | None:
    """The first Python of this name that starts (a pyenv shim for a version that is not chosen does not); None when there is none."""
    for candidate in _candidates(name):
        answer = _run([candidate, "-c", _ASK])
        if answer.returncode:
            continue
        version, _, base_prefix = json.loads(answer.stdout)
        # By its own path, whatever it was called by: an environment of an environment would see the packages of neither, and a Python that is
        # named in two ways would have its environment made anew each time.
        own = Path(base_prefix) / "bin" / f"python{version[0]}.{version[1]}"
        candidate = str(own) if own.exists() else candidate
        return Python(candidate, (version[0], version[1], version[2]))
    return None


def check_suite(python: Python) -> None:
    """Makes sure that this Python has its own tests, and the certificates that its TLS tests read."""
    answer = _run([python.executable, "-c", _ASK_FOR_TESTS])
    if not answer.returncode:
        return
    raise SuiteError(
        f"Python {python.full} ({python.executable}) cannot import its own tests, test.test_asyncio and the certificates in test/certdata.\n"
        f"On Debian and Ubuntu they are in a package: apt-get install libpython{python.short}-testsuite\n{answer.stdout.strip()}"
    )


def prepare(python: Python, loop: str, requirements: tuple[str, ...]) -> Environment:
    """An environment of this Python with these packages and the loop, made or brought up to date where needed."""
    folder = CACHE / python.full
    executable = folder / "bin" / "python"
    base = folder / "base"
    if not executable.exists() or not base.exists() or base.read_text() != python.executable:
        print(f"conformance: making an environment for Python {python.full}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        made = _run([python.executable, "-m", "venv", str(folder)])
        if made.returncode:
            raise SuiteError(
                f"Python {python.full} could not make a virtual environment; on Debian and Ubuntu: apt-get install "
                f"python{python.short}-venv\n{made.stdout.strip()}"
            )
        base.write_text(python.executable)
    environment = Environment(python, str(executable))
    wanted = list(requirements)
    if loop == "uvloop":
        wanted.append("uvloop")
    _install(environment, "requirements", "\n".join(wanted), wanted)
    if loop.startswith("aiouring"):
        _install_checkout(environment)
    return environment


def _install(environment: Environment, what: str, fingerprint: str, arguments: list[str], **variables: str) -> None:
    """Installs with pip, with these environment variables, unless the last installation of the same thing had the same fingerprint."""
    mark = Path(environment.executable).parents[1] / f"installed-{what}"
    if not arguments or (mark.exists() and mark.read_text() == fingerprint):
        return
    print(f"conformance: installing {what} for Python {environment.python.full}", flush=True)
    mark.unlink(missing_ok=True)
    installed = _run([environment.executable, "-m", "pip", "install", "--quiet", *arguments], env={**os.environ, **variables})
    if installed.returncode:
        raise SuiteError(f"pip could not install {what} for Python {environment.python.full}:\n{installed.stdout.strip()}")
    mark.write_text(fingerprint)


def _source_files() -> dict[str, Path]:
    """Every file that a build reads, by its path in the checkout."""
    files: dict[str, Path] = {}
    for name in SOURCES:
        top = ROOT / name
        paths = [top] if top.is_file() else sorted(top.rglob("*"))
        for path in paths:
            # A C file beside a Cython file of its name is Cython's output.
            generated = path.suffix in GENERATED or (path.suffix == ".c" and path.with_suffix(".pyx").exists())
            if path.is_file() and not generated:
                files[str(path.relative_to(ROOT))] = path
    return files


def _link_checkout(environment: Environment, link: Path) -> bool:
    """Lets the environment have the checkout's modules, if they were built for its Python. Not by a line in a .pth file, which would bring the
    checkout's other packages along: the suites have a `tests` too."""
    built = sysconfig.get_config_var("EXT_SUFFIX")
    if environment.python != find_python(sys.executable) or not (ROOT / "aiouring" / f"_ring{built}").exists():
        return False
    if link.exists() and not link.is_symlink():
        _run([environment.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "aiouring"])
        (Path(environment.executable).parents[1] / "installed-aiouring").unlink(missing_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT / "aiouring")
    return True


def _install_checkout(environment: Environment) -> None:
    """Builds the checkout for this Python and installs it, unless the same sources are installed already."""
    folder = Path(environment.executable).parents[1]
    link = folder / "lib" / f"python{environment.python.short}" / "site-packages" / "aiouring"
    if _link_checkout(environment, link):
        return
    if link.is_symlink():
        link.unlink()  # pip would write through it into the checkout
    digest = hashlib.sha256()
    for name, path in _source_files().items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    with open(ROOT / "pyproject.toml", "rb") as file:
        requires: list[str] = tomllib.load(file)["build-system"]["requires"]
    _install(environment, "build-tools", "\n".join(requires), [*requires, "wheel"])
    mark = folder / "installed-aiouring"
    if not (mark.exists() and mark.read_text() == digest.hexdigest()):
        copy = CACHE / "source"
        copy_checkout(copy, ROOT)
        # A module that is gone from the sources would otherwise be installed from an earlier build.
        for stale in (copy / "build").glob("lib*"):
            shutil.rmtree(stale)
        _install(
            environment, "aiouring", digest.hexdigest(),
            ["--no-build-isolation", "--no-deps", "--force-reinstall", str(copy)],
            # Built in two thirds of the time that -O2 takes, with which the Python that runs this has it.
            AIOURING_CFLAGS=f"{os.environ.get('AIOURING_CFLAGS', '')} -O1",
        )


def cpython_test_files(python: Python) -> set[str]:
    """The names of the files of this Python's test.test_asyncio."""
    answer = _run([python.executable, "-c", "import test.test_asyncio as t; print(t.__path__[0])"])
    return {path.stem for path in Path(answer.stdout.strip()).glob("test_*.py")}
