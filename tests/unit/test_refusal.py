"""What bad luck gets: io_uring refused, a loop in a forked child, in a subinterpreter, after its close. Never a crash, never a hang.

Refusals are real: a seccomp filter in a child process, or a bind mount over the sysctl in a mount namespace of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import warnings

import pytest

import aiouring

# Installs a classic-BPF seccomp filter that answers io_uring_setup (425) with an errno, and leaves all else alone.
DENY = """
import ctypes, os, struct, sys
def deny(error):
    libc = ctypes.CDLL(None, use_errno=True)
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(header)) == 0
"""


def python(code: str, *, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees the aiouring under test."""
    search = os.path.dirname(os.path.dirname(aiouring.__file__))
    environment = {**os.environ, "PYTHONPATH": search, **(env or {})}
    return subprocess.run(
        [*prefix, sys.executable, "-W", "always", "-c", DENY + textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [(1, "seccomp filter denies io_uring"), (38, "no io_uring, or a seccomp filter"), (12, "lock memory"), (22, "6.1")],
)
def test_refusal_names_cause_and_remedy(error: int, cause: str) -> None:
    done = python(f"""
        import aiouring
        deny({error})
        try:
            aiouring.new_event_loop()
        except aiouring.RingUnavailable as exc:
            assert isinstance(exc, OSError) and exc.errno == {error}
            assert exc.remedy and exc.reason
            print(exc)
    """)
    assert done.returncode == 0, done.stderr
    assert cause in done.stdout
    assert "Remedy: " in done.stdout


def test_refusal_by_sysctl_names_it(tmp_path: object) -> None:
    sysctl = f"{tmp_path}/io_uring_disabled"
    with open(sysctl, "w") as file:
        file.write("2\n")
    mount = f"mount --bind {sysctl} /proc/sys/kernel/io_uring_disabled && exec "
    done = python(
        """
        import aiouring
        deny(1)
        try:
            aiouring.new_event_loop()
        except aiouring.RingUnavailable as exc:
            print(exc)
        """,
        prefix=("unshare", "-m", "sh", "-c", mount + '"$@"', "sh"),
    )
    assert "kernel.io_uring_disabled is 2" in done.stdout, done.stderr
    assert "set it to 0" in done.stdout


@pytest.mark.parametrize(("argument", "variable"), [(', fallback="asyncio"', None), ("", "asyncio")])
def test_fallback_runs_on_asyncio_with_one_warning(argument: str, variable: str | None) -> None:
    done = python(
        f"""
        import asyncio, aiouring
        deny(1)
        async def main():
            await asyncio.sleep(0)
            print(type(asyncio.get_running_loop()).__module__)
            return 5
        assert aiouring.run(main(){argument}) == 5
        """,
        env={"AIOURING_FALLBACK": variable} if variable else {},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("asyncio.")
    assert done.stderr.count("RuntimeWarning: running on asyncio's own event loop") == 1
    assert "seccomp" in done.stderr


def test_no_fallback_without_being_asked() -> None:
    done = python("""
        import aiouring
        deny(1)
        async def main(): print("ran")
        try:
            aiouring.run(main())
        except aiouring.RingUnavailable:
            print("refused")
    """)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_wrong_fallback_is_refused() -> None:
    async def main() -> None:
        pass

    with pytest.raises(ValueError, match="asyncio"):
        aiouring.run(main(), fallback="uvloop")  # type: ignore[arg-type]


def test_run_checks_its_argument_as_asyncio_does() -> None:
    for run in (asyncio.run, aiouring.run):
        with pytest.raises((ValueError, TypeError), match="coroutine"):
            run(5)  # type: ignore[arg-type]

    async def nested() -> None:
        inner = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="running event loop"):
            aiouring.run(inner)
        inner.close()

    aiouring.run(nested())


def in_child(function: object) -> str:
    """Run a function in a forked child and return what it said; the child never returns to pytest."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads; this child does not use them
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            try:
                text = str(function())  # type: ignore[operator]
            except BaseException as exc:
                text = f"{type(exc).__name__}: {exc}"
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def test_forked_child_gets_a_clear_error_and_the_parents_ring_is_not_written(loop: aiouring.Loop) -> None:
    async def ping() -> str:
        await asyncio.sleep(0.001)
        return "pong"

    assert loop.run_until_complete(ping()) == "pong"
    before = loop.ring_stats()
    assert "belongs to the parent process" in in_child(lambda: loop.call_soon(print))
    assert "belongs to the parent process" in in_child(lambda: loop.call_later(1, print))
    assert "belongs to the parent process" in in_child(loop.run_forever)
    assert in_child(loop.close) == "None"
    assert in_child(lambda: aiouring.run(ping())) == "pong"
    assert loop.ring_stats() == before
    assert loop.run_until_complete(ping()) == "pong"


def test_fork_inside_a_running_loop(loop: aiouring.Loop) -> None:
    async def main() -> str:
        sock = __import__("socket").socketpair()
        loop.add_reader(sock[0], print)
        said = in_child(lambda: loop.remove_reader(sock[0]))
        loop.remove_reader(sock[0])
        for end in sock:
            end.close()
        return said

    assert "belongs to the parent process" in loop.run_until_complete(main())


def test_subinterpreter_gets_an_exception() -> None:
    done = python("""
        import aiouring
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            import _interpreters as interpreters
        import sys
        number = interpreters.create()
        code = ["import sys, os", f"sys.path[:] = {sys.path!r}", "try: import aiouring",
                "except ImportError as exc: os.write(1, b'refused: ' + str(exc).encode())", "else: os.write(1, b'imported')"]
        interpreters.run_string(number, chr(10).join(code))
        interpreters.destroy(number)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ")
