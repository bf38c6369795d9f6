"""Subprocesses: stdio through real pipes, return codes, many at once, threads, cancellation, and children that others wait for."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import aiouring

PIPE = subprocess.PIPE
EXEC = asyncio.create_subprocess_exec
PYTHON = sys.executable


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, not even one that waits to be waited for."""
    return not Path(f"/proc/{pid}").exists()


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-S", "-c", code)


# -- return codes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_return_code(loop: asyncio.AbstractEventLoop, code: int) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell(f"exit {code}")
        assert await process.wait() == code
        assert process.returncode == code
        assert await process.wait() == code
        assert is_gone(process.pid)

    loop.run_until_complete(main())


@pytest.mark.parametrize(("name", "expected"), [("kill", -signal.SIGKILL), ("terminate", -signal.SIGTERM)])
def test_ended_by_a_signal(loop: asyncio.AbstractEventLoop, name: str, expected: int) -> None:
    async def main() -> None:
        process = await EXEC("sleep", "1000")
        getattr(process, name)()
        assert await process.wait() == expected

    loop.run_until_complete(main())


def test_send_signal_reaches_a_handler(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell(
            "trap 'echo got it; exit 3' HUP; echo ready; while read x; do :; done", stdin=PIPE, stdout=PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        assert await process.stdout.read() == b"got it\n"
        assert await process.wait() == 3
        assert process.stdin is not None
        process.stdin.close()

    loop.run_until_complete(main())


def test_signals_to_an_ended_process(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await EXEC("/bin/true")
        await process.wait()
        for call in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGHUP)):
            with pytest.raises(ProcessLookupError):
                call()

    loop.run_until_complete(main())


def test_ended_before_the_loop_looked(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await EXEC("sleep", "1000")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert await process.wait() == -signal.SIGKILL

    loop.run_until_complete(main())


# -- stdio -------------------------------------------------------------------------------------------------------------------------


def test_ten_megabytes_through_cat(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        payload = os.urandom(10_000_000)
        process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(payload)
        assert out == payload
        assert process.returncode == 0

    loop.run_until_complete(main())


def test_lines_back_and_forth(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(200):
            process.stdin.write(b"%d\n" % number)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"%d\n" % number
        process.stdin.write_eof()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    loop.run_until_complete(main())


def test_stdio_are_pipes(loop: asyncio.AbstractEventLoop) -> None:
    """Programs open /dev/stdin or ask what they got, which sockets do not take."""

    async def main() -> None:
        code = "import os, stat; print([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (0, 1, 2)])"
        process = await EXEC(*python(code), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert out == b"[True, True, True]\n"
        assert err == b""
        process = await asyncio.create_subprocess_shell("cat < /dev/stdin > /dev/stdout", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"through the names")
        assert out == b"through the names"

    loop.run_until_complete(main())


def test_stderr_apart_and_joined(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        script = "printf out; printf err >&2"
        process = await asyncio.create_subprocess_shell(script, stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"out", b"err")
        process = await asyncio.create_subprocess_shell(script, stdout=PIPE, stderr=subprocess.STDOUT)
        assert await process.communicate() == (b"outerr", None)  # type: ignore[comparison-overlap]
        process = await asyncio.create_subprocess_shell(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert await process.communicate() == (None, None)  # type: ignore[comparison-overlap]

    loop.run_until_complete(main())


def test_stdin_and_stdout_of_files(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")

    async def main() -> None:
        with source.open("rb") as stdin, target.open("wb") as stdout:
            process = await EXEC("cat", stdin=stdin, stdout=stdout)
            assert await process.wait() == 0
        assert target.read_bytes() == b"content"

    loop.run_until_complete(main())


def test_child_that_does_not_read_its_stdin(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await EXEC("/bin/true", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(bytes(1_000_000))  # the broken pipe is ignored, as in asyncio
        assert out == b""
        assert process.returncode == 0

    loop.run_until_complete(main())


def test_broken_stdin_is_told_to_the_writer(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell("exec 0<&-; echo closed; exec sleep 1000", stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"closed\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):
                process.stdin.write(bytes(100_000))
                await process.stdin.drain()
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    loop.run_until_complete(main())


def test_a_child_on_a_terminal(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        ours, theirs = os.openpty()
        process = await EXEC("sh", "-c", "test -t 0 && test -t 1 && echo terminal", stdin=theirs, stdout=theirs)
        os.close(theirs)
        assert await process.wait() == 0
        assert b"terminal" in os.read(ours, 100)
        os.close(ours)

    loop.run_until_complete(main())


class Watcher(asyncio.SubprocessProtocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.events: list[str] = []
        self.data: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.exited: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self.events.append("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.data[fd] += data

    def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self.events.append(f"pipe {fd}")

    def process_exited(self) -> None:
        self.events.append("exited")
        self.exited.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(None)


def test_the_protocols_calls(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        transport, protocol = await loop.subprocess_exec(lambda: Watcher(loop), "sh", "-c", "cat; echo done >&2", stdin=PIPE)
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
        assert transport.get_pid() == transport.get_extra_info("subprocess").pid
        stdin.write(b"payload")
        stdin.write_eof()
        await protocol.lost
        assert protocol.data == {1: b"payload", 2: b"done\n"}
        assert protocol.events[0] == "made"
        assert protocol.events[-1] == "lost"
        assert sorted(protocol.events[1:-1]) == ["exited", "pipe 0", "pipe 1", "pipe 2"]
        assert transport.get_returncode() == 0
        transport.close()

    loop.run_until_complete(main())


def test_stdout_outlives_the_child(loop: asyncio.AbstractEventLoop) -> None:
    """A grandchild holds the pipe open: the exit is known at once, the end of the output later."""
    read_fd, write_fd = os.pipe()

    async def main() -> None:
        script = f"(read x; echo late) < /dev/fd/{read_fd} & exit 5"
        transport, protocol = await loop.subprocess_shell(lambda: Watcher(loop), script, stdin=None, stderr=None, pass_fds=(read_fd,))
        await protocol.exited
        assert transport.get_returncode() == 5
        assert protocol.data[1] == b""
        assert not protocol.lost.done()
        os.write(write_fd, b"go\n")
        await protocol.lost
        assert protocol.data[1] == b"late\n"
        transport.close()

    try:
        loop.run_until_complete(main())
    finally:
        os.close(read_fd)
        os.close(write_fd)


# -- many, and from elsewhere ----------------------------------------------------------------------------------------------------------


def test_a_hundred_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def one() -> int:
        return await (await EXEC("/bin/true")).wait()

    async def main() -> None:
        assert await asyncio.gather(*[one() for _ in range(100)]) == [0] * 100

    loop.run_until_complete(main())


def test_many_echoes_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def one(number: int) -> None:
        process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
        payload = b"%d " % number * 20_000
        out, _ = await process.communicate(payload)
        assert out == payload

    async def main() -> None:
        await asyncio.gather(*[one(number) for number in range(40)])

    loop.run_until_complete(main())


def test_loops_in_several_threads(descriptors: None) -> None:
    failures: list[BaseException] = []

    async def main() -> None:
        for number in range(5):
            process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
            out, _ = await process.communicate(b"%d" % number)
            assert out == b"%d" % number
            assert process.returncode == 0

    def run() -> None:
        try:
            loop = aiouring.new_event_loop()
            try:
                loop.run_until_complete(asyncio.wait_for(main(), 60))
            finally:
                loop.close()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_child_watcher_and_no_handler(loop: asyncio.AbstractEventLoop) -> None:
    """The program's own SIGCHLD handler is called for each child and is still there afterwards."""
    calls: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda signum, frame: calls.append(signum))
    try:
        handler = signal.getsignal(signal.SIGCHLD)
        threads = set(threading.enumerate())

        async def main() -> None:
            process = await EXEC("/bin/true")
            assert await process.wait() == 0
            assert signal.getsignal(signal.SIGCHLD) is handler
            assert set(threading.enumerate()) <= threads  # one of an earlier test may just have ended

        loop.run_until_complete(main())
        assert calls == [signal.SIGCHLD]
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)


# -- what goes wrong -------------------------------------------------------------------------------------------------------------------


def test_missing_program(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await EXEC("/no/such/program", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        with pytest.raises(PermissionError):
            await EXEC("/etc/passwd", stdout=PIPE)
        with pytest.raises(NotADirectoryError):
            await EXEC("/bin/true", cwd="/etc/passwd")
        process = await asyncio.create_subprocess_shell("/no/such/program 2>/dev/null")
        assert await process.wait() == 127

    loop.run_until_complete(main())


def test_wrong_arguments(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        for arguments in ({"universal_newlines": True}, {"shell": True}, {"bufsize": 4096}, {"text": True}, {"encoding": "utf-8"}):
            with pytest.raises(ValueError):
                await loop.subprocess_exec(asyncio.SubprocessProtocol, "/bin/true", **arguments)  # type: ignore[call-overload]
        with pytest.raises(ValueError):
            await loop.subprocess_shell(asyncio.SubprocessProtocol, 123)  # type: ignore[arg-type]

    loop.run_until_complete(main())


@pytest.mark.skipif(
    sys.version_info < (3, 11, 4), reason="needs python: 3.11.4, whose subprocess.Popen closes its pipes when it runs out of descriptors"
)
def test_out_of_descriptors(loop: asyncio.AbstractEventLoop) -> None:
    """Neither a child nor a descriptor is left when there is none left for the pidfd."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        await turns(2)
        fill = [os.open("/dev/null", os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fill) + 60, limits[1]))
        try:
            while True:
                try:
                    fill.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            # With each one given back the start comes a step further, and in the end it works.
            failed = 0
            while True:
                try:
                    process = await EXEC("/bin/true", stdin=PIPE, stdout=PIPE)
                except OSError:
                    failed += 1
                    os.close(fill.pop())
                else:
                    break
            assert failed >= 4
            for fd in fill:
                os.close(fd)
            await process.communicate()
            assert process.returncode == 0
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    loop.run_until_complete(main())


def test_waited_for_by_somebody_else(loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        process = await EXEC("sleep", "1000")
        process.kill()
        assert os.waitpid(process.pid, 0)[1] == signal.SIGKILL  # before the loop turns
        with caplog.at_level(logging.WARNING, "asyncio"):
            assert await process.wait() == 255
        assert "exit status already read" in caplog.text

    loop.run_until_complete(main())


def test_children_that_nobody_waits_for(loop: asyncio.AbstractEventLoop) -> None:
    """With SIGCHLD ignored the kernel keeps no return code: asyncio's 255."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:

        async def main() -> None:
            for _ in range(5):
                process = await asyncio.create_subprocess_shell("exit 3")
                assert await process.wait() == 255

        loop.run_until_complete(main())
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_popen_has_waited_already(loop: asyncio.AbstractEventLoop) -> None:
    """Popen.poll() takes the return code before the loop turns; it must not be lost."""

    async def main() -> None:
        process = await asyncio.create_subprocess_shell("exit 9")
        popen: subprocess.Popen[bytes] = process._transport.get_extra_info("subprocess")  # type: ignore[attr-defined]
        assert popen.wait() == 9
        assert await process.wait() == 9

    loop.run_until_complete(main())


@pytest.mark.parametrize("after_turns", range(8))
def test_cancelled_start_kills_and_waits(loop: asyncio.AbstractEventLoop, after_turns: int) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(EXEC("sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE))
        await turns(after_turns)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            pass
        else:
            process.kill()
            await process.communicate()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    loop.run_until_complete(main())


def test_cancelled_wait_can_be_repeated(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), 0.001)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.communicate(), 0.001)
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    loop.run_until_complete(main())


def test_transport_close_kills(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        transport, protocol = await loop.subprocess_exec(lambda: Watcher(loop), "sleep", "1000")
        pid = transport.get_pid()
        transport.close()
        transport.close()
        await protocol.lost
        assert is_gone(pid)

    loop.run_until_complete(main())


def test_loop_closed_with_a_running_child(descriptors: None) -> None:
    """As in asyncio: the child is killed when its transport is dropped, with a warning."""
    loop = aiouring.new_event_loop()
    process = loop.run_until_complete(EXEC("sleep", "1000"))
    pid = process.pid
    popen: Any = process._transport.get_extra_info("subprocess")  # type: ignore[attr-defined]
    loop.close()
    assert popen.poll() is None
    del process
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        gc.collect()
    assert popen.wait() == -signal.SIGKILL
    assert is_gone(pid)


def test_forked_child_runs_its_own(loop: asyncio.AbstractEventLoop) -> None:
    async def one() -> bytes:
        process = await EXEC("echo", "from a fork", stdout=PIPE)
        out, _ = await process.communicate()
        return out

    async def main() -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio._set_running_loop(None)
                child_loop = aiouring.new_event_loop()
                status = 0 if child_loop.run_until_complete(one()) == b"from a fork\n" else 2
                child_loop.close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode((await loop.run_in_executor(None, os.waitpid, pid, 0))[1]) == 0
        assert await one() == b"from a fork\n"

    loop.run_until_complete(main())


def test_stopped_and_continued_is_not_an_end(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        await turns(5)
        assert process.returncode is None
        process.send_signal(signal.SIGCONT)
        out, _ = await process.communicate(b"alive")
        assert out == b"alive"
        assert process.returncode == 0

    loop.run_until_complete(main())


def test_debug_mode(loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop.set_debug(True)
    loop.slow_callback_duration = 60  # type: ignore[attr-defined]
    with caplog.at_level(logging.DEBUG, "asyncio"):

        async def main() -> None:
            process = await EXEC("cat", stdin=PIPE, stdout=PIPE)
            assert await process.communicate(b"x") == (b"x", None)  # type: ignore[comparison-overlap]

        loop.run_until_complete(main())
    assert "exited with return code 0" in caplog.text
