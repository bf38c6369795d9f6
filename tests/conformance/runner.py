"""Runs tests in child processes that may hang or crash, several at a time; the command line calls it.

A chunk is some tests of one file for one Python. A child runs it test by test and reports over a pipe; this side keeps the clock. When a
test takes too long or takes its child down, that test has failed, and another child goes on with those that are left.
"""
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .environments import Environment
from .suites import INSIDE, TimeLimit

# A test ends in one of these ways; "flaky" failed, and passed when it ran once more, alone.
FAILURES = ("failed", "hung", "crashed")
OUTCOMES = ("passed", "flaky", "skipped", *FAILURES)

TESTS_PER_CHUNK = 60
LOG_TAIL_CHARACTERS = 6000
# What a killed child gets to print where it hangs, and a finished one to leave its interpreter.
GRACE_S = 5.0
EXIT_S = 30.0

_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from inside.worker import main; main()"


@dataclass(frozen=True, eq=False)
class Run:
    """One suite on one Python with one loop, and what its children need to know."""

    suite: str
    loop: str
    environment: Environment
    path: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    # The tests' limits on elapsed time are so many times as long.
    slower: float = 1.0
    time_limits: tuple[TimeLimit, ...] = ()

    @property
    def label(self) -> str:
        """For the progress and the summary."""
        return f"{self.suite} {self.environment.python.short}"


@dataclass(frozen=True)
class Result:
    """How one test ended."""

    file: str
    test: str
    outcome: str
    detail: str = ""
    duration_s: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Tests of one file, to run in order in one child."""

    run: Run
    file: str
    tests: tuple[str, ...]


class Child:
    """One test child: its pipe, its log and its scratch folder; whatever it left running is killed with it."""

    alive: ClassVar[set["Child"]] = set()

    def __init__(self, run: Run, request: dict[str, Any]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        (self._folder / "cwd").mkdir()
        request_file = self._folder / "request.json"
        longer = [
            (limit.function, limit.text.format(limit.limit_s), limit.text.format(limit.limit_s * run.slower))
            for limit in run.time_limits
            if limit.file == request.get("file") and run.slower != 1
        ]
        about = {"suite": run.suite, "loop": run.loop, "path": list(run.path), "slower": run.slower, "longer": longer}
        request_file.write_text(json.dumps({**request, **about}))
        self._log = self._folder / "log"
        self._log_start = 0
        reading, writing = os.pipe()
        environment = {**os.environ, **run.variables}
        # Switches of the caller's Python would change what the tests see.
        for name in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONWARNINGS", "VIRTUAL_ENV"):
            environment.pop(name, None)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [run.environment.executable, "-P", "-c", _BOOT, str(INSIDE), str(request_file), str(writing)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,), cwd=self._folder / "cwd", env=environment,
                start_new_session=True,
            )
        os.close(writing)
        os.set_blocking(reading, False)
        self._pipe = reading
        self._end = os.pidfd_open(self._process.pid)
        self._rest = b""
        self.alive.add(self)

    def messages(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """The child's messages until it ends; TimeoutError when it says nothing for so long."""
        while True:
            # A process that the test left running may hold the pipe open, so the end of the child itself is watched too.
            poll = select.poll()
            poll.register(self._pipe, select.POLLIN)
            poll.register(self._end, select.POLLIN)
            ready = dict(poll.poll(timeout_s * 1000))
            if not ready:
                raise TimeoutError
            data = self._read()
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
            if not data:
                return

    def _read(self) -> bytes:
        """What is in the pipe; empty once the child has ended and all is read."""
        try:
            return os.read(self._pipe, 1 << 20)
        except BlockingIOError:
            return b""

    def mark_log(self, start: int) -> None:
        """From this place on the log belongs to the next test."""
        self._log_start = start

    def log(self) -> str:
        """The end of what the child printed since the mark."""
        with open(self._log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()

    def wait(self, timeout_s: float) -> int | None:
        """The child's exit status; None when it has none after this time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def abort(self) -> None:
        """Ends a child that hangs; on this signal it prints where each of its threads is."""
        self._process.send_signal(signal.SIGABRT)
        if self.wait(GRACE_S) is None:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Kills the child and all that its tests started, except what went into a session of its own."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Kills what is left of the child and of all that its tests started, and removes its files."""
        self.alive.discard(self)
        self.kill()
        self._process.wait()
        os.close(self._pipe)
        os.close(self._end)
        shutil.rmtree(self._folder, ignore_errors=True)


def list_tests(run: Run, files: tuple[str, ...], timeout_s: float) -> tuple[dict[str, list[str]], list[Result]]:
    """The tests of these files, by file, and a result for each file that has none because it cannot be imported."""
    tests: dict[str, list[str]] = {}
    results: list[Result] = []
    child = Child(run, {"action": "list", "files": list(files)})
    try:
        done = False
        for message in child.messages(timeout_s):
            if message["event"] == "test":
                tests.setdefault(message["file"], []).append(message["test"])
            elif message["event"] == "fixture":
                results.append(Result(message["name"], message["name"], message["outcome"], message["detail"]))
            done = done or message["event"] == "done"
        if not done:
            raise RuntimeError(f"{run.label}: the child could not list the tests (status {child.wait(EXIT_S)}):\n{child.log()}")
    finally:
        child.close()
    return tests, results


def cut(run: Run, tests: dict[str, list[str]]) -> Iterator[Chunk]:
    """Chunks of a size that keeps all workers busy to the end."""
    for file, names in tests.items():
        for first in range(0, len(names), TESTS_PER_CHUNK):
            yield Chunk(run, file, tuple(names[first : first + TESTS_PER_CHUNK]))


class ChunkRun:
    """One chunk on its way through one child or, after hangs and crashes, several."""

    def __init__(self, chunk: Chunk, timeout_s: float, report: Callable[[Result], None]) -> None:
        self._chunk = chunk
        self._timeout_s = timeout_s
        self._report = report
        self._left = list(chunk.tests)

    def run(self) -> None:
        """Runs until every test of the chunk has its result."""
        while self._left:
            child = Child(self._chunk.run, {"action": "run", "file": self._chunk.file, "tests": self._left})
            try:
                self._follow(child)
            finally:
                child.close()

    def _result(self, test: str, outcome: str, detail: str, duration_s: float = 0.0) -> None:
        if test in self._left:
            self._left.remove(test)
        self._report(Result(self._chunk.file, test, outcome, detail, duration_s))

    def _follow(self, child: Child) -> None:
        """Follows one child to its end; at least one test has its result after it."""
        current: str | None = None
        started_s = time.monotonic()
        try:
            for message in child.messages(self._timeout_s):
                event = message["event"]
                if event == "start":
                    current = message["test"]
                    started_s = time.monotonic()
                    child.mark_log(message["log_start"])
                elif event == "end":
                    current = None
                    printed = child.log() if message["outcome"] == "failed" else ""
                    detail = message["detail"] + (f"\nit printed:\n{printed}" if printed else "")
                    self._result(message["test"], message["outcome"], detail, message["duration_s"])
                elif event == "fixture":
                    self._fixture(message)
                elif event == "done":
                    self._finish(child)
                    return
        except TimeoutError:
            child.abort()
            self._lost(current, "hung", f"no result after {self._timeout_s:g} s\n{child.log()}", started_s)
            return
        status = child.wait(EXIT_S)
        self._lost(current, "crashed", f"the child ended with {_describe_status(status)}\n{child.log()}", started_s)

    def _lost(self, current: str | None, outcome: str, detail: str, started_s: float) -> None:
        """A test that took its child with it; between two tests it is the next one's set-up that did."""
        self._result(current or self._left[0], outcome, detail, time.monotonic() - started_s)

    def _fixture(self, message: dict[str, Any]) -> None:
        """A class's or a file's set-up that failed or was skipped is the result of each of its tests; a failed tear-down stands alone."""
        kind, _, owner = message["name"].rstrip(")").partition(" (")
        tests = [test for test in self._left if test.startswith(owner + ".")] if kind.startswith("setUp") else []
        for test in tests:
            self._result(test, message["outcome"], message["detail"] if message["outcome"] == "skipped" else f"in {kind}:\n{message['detail']}")
        if not tests and message["outcome"] == "failed":
            self._result(f"{owner}.({kind})", "failed", message["detail"])

    def _finish(self, child: Child) -> None:
        """The child has run all it could, and leaves its interpreter: that too can fail."""
        for test in list(self._left):
            self._result(test, "failed", "the child never ran this test")
        status = child.wait(EXIT_S)
        if status != 0:
            outcome = "hung" if status is None else "crashed"
            if status is None:
                child.abort()
            tests = f"{self._chunk.tests[0]} ... {self._chunk.tests[-1]}"
            self._result(
                f"{self._chunk.file}.(exit of the interpreter)", outcome, f"after {tests}: {_describe_status(status)}\n{child.log()}"
            )


def _describe_status(status: int | None) -> str:
    if status is None:
        return "no exit"
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def run_chunks(chunks: list[Chunk], jobs: int, timeout_s: float, report: Callable[[Chunk, Result], None]) -> None:
    """Runs the chunks, `jobs` at a time; `report` gets each result as it comes, one at a time."""
    todo: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    for chunk in chunks:
        todo.put(chunk)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                chunk = todo.get_nowait()
            except queue.Empty:
                return

            def report_one(result: Result, chunk: Chunk = chunk) -> None:
                if errors:
                    raise errors[0]  # no other child for the tests that are left
                with lock:
                    report(chunk, result)

            try:
                ChunkRun(chunk, timeout_s, report_one).run()
            except BaseException as error:
                errors.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException as error:
        # The run itself is ended: the workers take no further chunk, and no child may outlive them.
        errors.append(error)
        for child in list(Child.alive):
            child.kill()
        # Each still closes the pipe of its child.
        for worker in workers:
            worker.join(GRACE_S)
        raise
    if errors:
        raise errors[0]
