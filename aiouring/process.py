"""Subprocesses: asyncio's subprocess transport with real pipes, and a pidfd that tells of the child's end.

Used by `loop.Loop` (ProcessMixin), whose subprocess_exec() and subprocess_shell() are asyncio.BaseEventLoop's. Calls `_poll` for the pidfd and,
through connect_read_pipe() and connect_write_pipe(), `_pipe` for stdin, stdout and stderr.

There is no child watcher, no SIGCHLD handler and no thread: a poll request on the child's pidfd ends when the child does, in whichever thread
and loop. Who owns what: the loop's `_children` owns the pidfd from the start of the child until it was waited for or the loop is closed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio import base_subprocess
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiouring._loop import LoopCore
    from aiouring._poll import PollMixin

    class _Base(PollMixin, LoopCore, asyncio.BaseEventLoop):
        pass

else:
    _Base = object

UNKNOWN_RETURNCODE = 255  # asyncio's, for a child that somebody else waited for


class SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """A running child. asyncio's base class does the protocol's side, this class starts the child and notices its end."""

    _loop: ProcessMixin
    _proc: subprocess.Popen[bytes]

    def _start(self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any) -> None:
        self._proc = subprocess.Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, universal_newlines=False, bufsize=bufsize, **kwargs
        )
        try:
            self._loop._watch_child(self._proc.pid, self._child_ended)
        except BaseException:
            # Without a pidfd (out of descriptors) nobody would ever wait for it.
            self._proc.kill()
            self._proc.wait()
            for pipe in (self._proc.stdin, self._proc.stdout, self._proc.stderr):
                if pipe is not None:
                    pipe.close()
            raise

    def _child_ended(self) -> None:
        # Popen.poll(), which close() and Popen.send_signal() call, may have waited for the child already.
        returncode = self._proc.returncode
        if returncode is None:
            # At once, before a program's own SIGCHLD handler waits for whatever child has ended.
            returncode = self._proc.returncode = wait_for_child(self._proc.pid)
        # The protocol hears of it after what the child's last output has made ready in this turn.
        self._loop.call_soon(self._process_exited, returncode)


def wait_for_child(pid: int) -> int:
    """The return code of a child that has ended; negative: the signal that ended it."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        logger.warning("child process pid %d exit status already read: will report returncode %d", pid, UNKNOWN_RETURNCODE)
        return UNKNOWN_RETURNCODE
    try:
        return os.waitstatus_to_exitcode(status)
    except ValueError:
        return status


class ProcessMixin(_Base):
    """The part of the loop that starts children and notices their end."""

    def __init__(self) -> None:
        self._children: set[int] = set()  # pidfds
        super().__init__()

    async def _make_subprocess_transport(
        self, protocol: Any, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, extra: Any = None, **kwargs: Any
    ) -> SubprocessTransport:
        waiter = self.create_future()
        transport = SubprocessTransport(self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, pid: int, callback: Callable[[], object]) -> None:
        """Call `callback()` in the loop when the child has ended and can be waited for."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            # Already gone, and nobody can tell how: SIGCHLD is ignored, or somebody waits for all children.
            self.call_soon(callback)
            return
        try:
            self._add_reader(pidfd, self._child_ready, pidfd, callback)
        except BaseException:
            os.close(pidfd)
            raise
        self._children.add(pidfd)

    def _child_ready(self, pidfd: int, callback: Callable[[], object]) -> None:
        self._remove_reader(pidfd)
        self._children.discard(pidfd)
        os.close(pidfd)
        callback()

    def _close_children(self) -> None:
        """Called by close(): the children run on, and their transports kill them when they are dropped, as in asyncio."""
        for pidfd in self._children:
            os.close(pidfd)
        self._children.clear()
