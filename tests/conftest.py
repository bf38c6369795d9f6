"""What all tests share: loops that are closed and counted, a seed that is printed, and pytest-asyncio on aiouring's loop.

pytest reads this file before any test below `tests/`. It uses aiouring's public names only.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest

import aiouring

# One number decides every random choice of a run; AIOURING_SEED repeats a run that failed.
SEED = int(os.environ.get("AIOURING_SEED") or random.SystemRandom().randrange(2**32))


# A shell that starts pytest in the background has SIGINT ignored; tests interrupt themselves and the servers that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So has nohup SIGHUP. A handler of ours that does nothing keeps this process alive as well, and no child inherits it.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="I/N", help="run the I-th of N parts of the tests alone; tools/test_parts.py runs them all")


def part_of(name: str, count: int) -> int:
    """The part, from 1, that a test is in. Its name decides and nothing else: processes that collected in another order agree on it."""
    return zlib.crc32(name.encode()) % count + 1


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [
        f"seed: {SEED} (AIOURING_SEED={SEED} repeats it)",
        f"aiouring: {os.path.dirname(aiouring.__file__)} on Linux {os.uname().release}",
    ]


def loads_programs() -> bool:
    """Whether this process may load programs into the kernel. Asked, as all below, without aiouring: where it holds, a build without the loader
    must fail the tests, not leave them out."""
    bpf_and_perfmon = 1 << 39 | 1 << 38
    (held,) = (int(line.split()[1], 16) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return held & bpf_and_perfmon == bpf_and_perfmon


def kernel_knows(name: bytes) -> bool:
    """Whether a name is among the kernel's types."""
    types = Path("/sys/kernel/btf/vmlinux")
    return types.exists() and b"\0" + name + b"\0" in types.read_bytes()


# What the tests with a marker need of the kernel.
NEEDS: dict[str, Callable[[], bool]] = {
    "kernel_hook": lambda: kernel_knows(b"io_uring_bpf_ops"),
    "bpf_module": lambda: Path("/dev/aiouring_bpf").exists(),
    "bpf_opcode": lambda: kernel_knows(b"IORING_OP_BPF"),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out, rather than skips, the tests of the kernel's engines where there is none for them: `make test-vm` and `make test-vm-opcode` run
    them, and look for them by --collect-only on the host."""
    if config.option.part:
        part, count = map(int, config.option.part.split("/"))
        items[:] = [item for item in items if part_of(item.nodeid, count) == part]
    if config.option.collectonly:
        return
    for marker, met in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not (loads_programs() and met()):
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if not item.get_closest_marker(marker)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leaves out of later collections what pytest and the modules of all tests hold to the end. `descriptors` collects twice around each test, which
    took most of the time of most tests while a collection went through these half a million objects. What a test makes is collected as ever."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    # The interpreter's end collects all there is; what was left out would look like leaked memory to the address sanitizer.
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the seed beside each failure, where someone who reads only that failure finds it."""
    report = yield
    if report.failed:
        report.sections.append(("seed", f"AIOURING_SEED={SEED}"))
    return report


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every `async def` test runs on aiouring's loop."""
    return {"aiouring": aiouring.new_event_loop}


def open_descriptors() -> dict[int, str]:
    """This process's open descriptors and what each one is, as the kernel names it."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            # The descriptor that listed the folder is gone by now.
            continue
    return found


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Fails a test that leaves a descriptor open. Fixtures that a test names after this one are closed before the count."""
    gc.collect()
    before = open_descriptors()
    yield
    # An object in a reference cycle closes what it owns when it is collected; that is no leak.
    gc.collect()
    after = open_descriptors()
    leaked = {number: what for number, what in after.items() if before.get(number) != what}
    assert not leaked, f"left open: {leaked}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test alone: the same seed gives the same numbers, whichever tests run beside it."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


@pytest.fixture
def loop(descriptors: None) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of aiouring, closed after the test. What the loop reports to its exception handler fails the test, and so does a
    descriptor that is still open once the loop is closed."""
    loop = aiouring.new_event_loop()
    reported: list[Mapping[str, object]] = []

    def collect(loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        reported.append(context)

    loop.set_exception_handler(collect)
    try:
        yield loop
    finally:
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
    assert not reported, f"the loop's exception handler was called: {reported}"
