"""What an echo server of ours asks the kernel for in steady state: one io_uring_enter a turn, and nothing else.

strace is the witness; the loop's own counters are checked against it. A marker call (getppid, by the server, on the client's
demand) shows in the trace where the steady phase begins and ends.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from . import support

CONNECTIONS = 50
ROUNDS = 100

#: What the interpreter may do besides: hand the GIL over, get and give back memory. Everything else is a finding.
INNOCENT = {"futex", "brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "restart_syscall"}

_CALL = re.compile(r"^\d+\s+(\w+)\(")


def steady_calls(trace: str) -> Counter[str]:
    """Counts the calls between the two markers; a call that strace shows in two halves counts once, where it begins."""
    names = [match.group(1) for line in trace.splitlines() if (match := _CALL.match(line))]
    markers = [position for position, name in enumerate(names) if name == "getppid"]
    assert len(markers) == 2, f"the trace shows {len(markers)} markers instead of 2"
    return Counter(names[markers[0] + 1 : markers[1]])


@pytest.mark.skipif(support.LOOP == "asyncio", reason="asyncio's loop is known to use epoll")
@pytest.mark.parametrize("style", ["protocol", "streams"])
def test_steady_state_is_one_enter_a_turn(style: str, tmp_path: Path) -> None:
    strace = support.require_program("strace", "strace")
    with support.python_server(support.APPS / "echo_server.py", style) as server:
        echo, control = server.wait_for_line("ready ").split()
        trace, errors = tmp_path / "trace", tmp_path / "errors"
        with errors.open("wb") as log:
            tracer = subprocess.Popen([strace, "-f", "-o", str(trace), "-p", str(server.pid)], stderr=log)
        try:
            deadline = time.monotonic() + support.PATIENCE_S
            while "attached" not in errors.read_text():
                assert tracer.poll() is None, f"strace ended: {errors.read_text()}"
                assert time.monotonic() < deadline, f"strace did not attach: {errors.read_text()}"
                time.sleep(0.01)
            client = subprocess.run(
                [sys.executable, str(support.APPS / "echo_load.py"), "steady", echo, control, str(CONNECTIONS), str(ROUNDS)],
                capture_output=True,
                text=True,
                timeout=support.PATIENCE_S * 3,
            )
            assert client.returncode == 0, client.stderr
            seen = json.loads(client.stdout)
        finally:
            tracer.terminate()
            tracer.wait()
        calls = steady_calls(trace.read_text())
    turns = seen["after"]["turns"] - seen["before"]["turns"]
    enters = seen["after"]["enters"] - seen["before"]["enters"]
    print(f"{style}: {seen['messages']} messages, {turns} turns, {enters} enters; strace saw {dict(calls)}")

    assert seen["messages"] == CONNECTIONS * ROUNDS
    others = {name: count for name, count in calls.items() if name != "io_uring_enter" and name not in INNOCENT}
    assert not others, f"calls other than io_uring_enter in steady state: {others}"
    # The markers stand inside a turn each: the counters may be one apart from the trace at either end.
    assert abs(calls["io_uring_enter"] - enters) <= 2
    assert calls["io_uring_enter"] <= turns + 2, "more than one io_uring_enter a turn"
    # And the turns are shared: fifty connections that always have a message under way do not get a turn each.
    assert 0 < turns < seen["messages"]
