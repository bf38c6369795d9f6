"""The suites: which files of them run, and where those come from. The command line and the environments use it.

CPython's suite is part of the standard library's `test` package. uvloop's and aiofiles' come from their source distributions, which are fetched once
into the cache and never become part of the project.
"""
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "conformance"
INSIDE = Path(__file__).resolve().parent

UVLOOP_VERSION = "0.23.0"
AIOFILES_VERSION = "25.1.0"


class SuiteError(Exception):
    """A suite cannot run here; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class TimeLimit:
    """A test that wants something done within a time: `text`, with the time in place of {}, is what its source has of it."""

    file: str
    function: str
    text: str
    limit_s: float


@dataclass(frozen=True)
class Suite:
    """A suite's name, its test files, what of it is left out with the reason for it, and the times that a slow machine needs more of."""

    name: str
    files: tuple[str, ...]
    left_out: Mapping[str, str]
    requirements: tuple[str, ...] = ()
    time_limits: tuple[TimeLimit, ...] = ()


# The slow files come first, so that no worker is left alone with one of them at the end.
CPYTHON = Suite(
    name="cpython",
    files=(
        "test_ssl", "test_events", "test_subprocess", "test_unix_events", "test_sendfile", "test_sslproto", "test_tasks", "test_streams",
        "test_sock_lowlevel", "test_server", "test_buffered_proto", "test_context", "test_eager_task_factory", "test_futures",
        "test_futures2", "test_locks", "test_protocols", "test_queues", "test_runners", "test_staggered", "test_taskgroups",
        "test_threads", "test_timeouts", "test_transports", "test_waitfor",
    ),
    left_out={},
    # Of the files that run in the emulated guest. Some Pythons have them, and later ones took them out or made them longer because they failed on
    # slow machines. --slower makes them longer, and so the test still fails where something is not done at all, or not before long.
    time_limits=(
        TimeLimit("test_events", "test_prompt_cancellation", "self.assertLess(elapsed, {})", 0.1),
        TimeLimit("test_events", "test_run_until_complete", "self.assertTrue(0.08 <= t1-t0 <= {}, t1-t0)", 0.8),
        TimeLimit("test_server", "test_start_server_1", "sock.settimeout({})", 2),
        TimeLimit("test_server", "test_start_unix_server_1", "sock.settimeout({})", 2),
    ),
)

UVLOOP = Suite(
    name="uvloop",
    files=(
        "test_tcp", "test_process", "test_context", "test_unix", "test_process_spawning", "test_base", "test_signals", "test_sockets",
        "test_udp", "test_pipes", "test_dns", "test_aiohttp", "test_dealloc", "test_executors", "test_regr1", "test_runner",
    ),
    left_out={
        "test_cython": "a coroutine compiled into uvloop's own extension",
        "test_fs_event": "uvloop's private binding of libuv's file watcher",
        "test_libuv_api": "pointers to libuv's own structures",
        "test_sourcecode": "the style of uvloop's source files",
        "test_testbase": "the metaclass of the suite's own test classes",
    },
    # As the suite's own list of test requirements has them.
    requirements=("aiohttp>=3.10.5", "psutil", "pyOpenSSL~=26.4.0"),
)

AIOFILES = Suite(
    name="aiofiles",
    files=("test_concurrency", "test_binary", "test_text", "test_os", "test_open", "test_tempfile", "test_simple"),
    left_out={
        "test_stdio": "aiofiles.stdin and its relatives, around whatever sys.stdin is at the time; aiouring.open opens descriptors",
        "test_wrap": "aiofiles' own function that chooses a wrapper by the class of a file object",
    },
    requirements=("pytest>=8.4,<10", "pytest-asyncio>=1.2,<2"),
)

SUITES = {suite.name: suite for suite in (CPYTHON, UVLOOP, AIOFILES)}


def _fetch(name: str, version: str, parts: tuple[str, ...], scratch: Path) -> Path:
    """Downloads a project's source distribution and unpacks what begins with one of `parts` in it; gives its folder."""
    # A source distribution is what the tests are in; pip asks its build system for its name, which needs no compiler.
    download = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", str(scratch), f"{name}=={version}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    archives = list(scratch.glob(f"{name}-*.tar.gz"))
    if download.returncode or not archives:
        raise SuiteError(
            f"pip could not download the source distribution of {name} {version}, which holds its tests; "
            f"check the network or pip's index:\n{download.stdout.strip()}"
        )
    top = f"{name}-{version}/"
    with tarfile.open(archives[0]) as archive:
        wanted = [member for member in archive if member.name.startswith(tuple(top + part for part in parts))]
        # Debian 12's Python has no extraction filters yet; regular files alone are what the tests are in.
        for member in wanted:
            content = archive.extractfile(member) if member.isreg() and ".." not in Path(member.name).parts else None
            if content is not None:
                (scratch / member.name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / member.name).write_bytes(content.read())
    return scratch / top


def fetch_uvloop_suite() -> Path:
    """The folder with uvloop's `tests/` and, under `support/`, its test helpers; downloads the source distribution the first time."""
    folder = CACHE / f"uvloop-suite-{UVLOOP_VERSION}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch_name:
        unpacked = _fetch("uvloop", UVLOOP_VERSION, ("tests/", "uvloop/_testbase.py"), Path(scratch_name))
        (unpacked / "support").mkdir()
        shutil.move(unpacked / "uvloop" / "_testbase.py", unpacked / "support" / "_testbase.py")
        (unpacked / "uvloop").rmdir()
        unpacked.rename(folder)
    return folder


def fetch_aiofiles_suite(python: str) -> Path:
    """The folder with aiofiles' `tests/` for one Python (3.11), as new; downloads the source distribution the first time.

    Each Python has its own, because the tests rename their resources, and two Pythons may be at work at a time. For the same reason the port
    that one of them has in its source is another one for each.
    """
    original = CACHE / f"aiofiles-suite-{AIOFILES_VERSION}"
    if not original.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch_name:
            _fetch("aiofiles", AIOFILES_VERSION, ("tests/",), Path(scratch_name)).rename(original)
    folder = original.with_name(f"{original.name}-on-{python}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    test = folder / "tests" / "threadpool" / "test_concurrency.py"
    test.write_text(test.read_text().replace("30001", f"3000{python.rpartition('.')[2][-1]}"))
    return folder
