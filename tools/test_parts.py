"""Runs the tests of one folder in several processes side by side, each of which runs a part of them: `make test-unit` and test-asan.sh call it.

`test_parts.py COUNT RESULTS_PREFIX COMMAND...` starts COMMAND, which is a call of pytest, COUNT times with `--part=I/COUNT` (tests/conftest.py), its
own `--junitxml=RESULTS_PREFIX-I.xml` and its own cache. Lines come as they are written and begin with the part's number. The status is that of the
first part that failed. It needs nothing but Python's standard library.

They are processes of their own and not the workers of one: those have a thread more, with which a signal or a fork is another thing to test.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

# What an interrupted part gets to print where it was.
GRACE_S = 10.0
LOCK = threading.Lock()


def pass_on(part: int, process: subprocess.Popen[bytes]) -> None:
    """Prints a part's lines whole."""
    assert process.stdout is not None
    for line in process.stdout:
        with LOCK:
            sys.stdout.buffer.write(b"%d: " % part + line.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends those that still run. A terminal has interrupted them itself: they get the time to print what they have."""
    deadline_s = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: list[str]) -> int:
    if len(arguments) < 3:
        print("usage: test_parts.py COUNT RESULTS_PREFIX COMMAND...", file=sys.stderr)
        return 2
    count, prefix, command = int(arguments[0]), arguments[1], arguments[2:]
    processes: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def stop_if_told() -> None:
        if not told:
            return
        if signal.SIGTERM in told:
            for process in processes:
                process.terminate()
        sys.exit(128 + told[0])

    def stop(number: int, frame: types.FrameType | None) -> None:
        told.append(number)
        # While they are started, one may run that is not in the list yet.
        if len(processes) == count:
            stop_if_told()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        for part in range(1, count + 1):
            more = [f"--part={part}/{count}", f"--junitxml={prefix}-{part}.xml", f"--override-ini=cache_dir=.cache/pytest-{Path(prefix).name}-{part}"]
            processes.append(subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        stop_if_told()
        readers = [threading.Thread(target=pass_on, args=(part, process), daemon=True) for part, process in enumerate(processes, 1)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        statuses = [process.wait() for process in processes]
    finally:
        end(processes)
    return next((abs(status) for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
