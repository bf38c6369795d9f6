"""Runs commands as a pipeline, as a shell does with `|`, feeds the first and reads the last, and reports how each one ended.

Shows: subprocesses; pipes between two processes that never pass through Python (os.pipe); writing to one process and reading from
       another at the same time, without which a pipeline that is longer than its pipes' buffers stands still.
Run:   python examples/subprocess_pipeline.py 'tr A-Z a-z' 'tr -cs a-z \\n' sort 'uniq -c' 'sort -rn' 'head -5' < README.md
       (without commands it runs that pipeline; without a file on standard input it reads this file)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import aiouring

MOST_FREQUENT_WORDS = ["tr A-Z a-z", r"tr -cs a-z \\n", "sort", "uniq -c", "sort -rn", "head -5"]


async def start(commands: list[str]) -> list[Process]:
    """Starts all commands; the output of each is the input of the next, by a pipe that only those two hold."""
    processes: list[Process] = []
    source: int = PIPE
    for command in commands[:-1]:
        next_source, sink = os.pipe()
        try:
            processes.append(await asyncio.create_subprocess_exec(*shlex.split(command), stdin=source, stdout=sink))
        finally:
            # The children have their own copies. While we keep ours open, no reader would ever see the end.
            for descriptor in {source, sink} - {PIPE}:
                os.close(descriptor)
        source = next_source
    processes.append(await asyncio.create_subprocess_exec(*shlex.split(commands[-1]), stdin=source, stdout=PIPE))
    if source != PIPE:
        os.close(source)
    return processes


async def feed(process: Process, data: bytes) -> None:
    """Writes all, as fast as the pipeline takes it; one that has seen enough (head) closes its end, and that is no error."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.wait_closed()


async def run_pipeline(commands: list[str], data: bytes) -> tuple[bytes, list[int]]:
    """The output of the last command, and the status of each."""
    processes = await start(commands)
    output = processes[-1].stdout
    assert output is not None
    _, result = await asyncio.gather(feed(processes[0], data), output.read())
    return result, [await process.wait() for process in processes]


async def main(commands: list[str], data: bytes) -> int:
    result, statuses = await run_pipeline(commands, data)
    sys.stdout.buffer.write(result)
    sys.stdout.flush()
    for command, status in zip(commands, statuses, strict=True):
        print(f"{command!r} ended with {status}", file=sys.stderr)
    # As bash's "pipefail": the last one that failed counts.
    return next((status for status in reversed(statuses) if status), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs commands as a pipeline.")
    parser.add_argument("commands", nargs="*", default=MOST_FREQUENT_WORDS, help="each in quotes, with its arguments")
    options = parser.parse_args()
    piped = not sys.stdin.isatty()
    sys.exit(aiouring.run(main(options.commands, sys.stdin.buffer.read() if piped else Path(__file__).read_bytes())))
