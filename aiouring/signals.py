"""Signals: add_signal_handler, and the wake-up descriptor that lets a signal end the loop's wait.

Used by `loop.Loop` (SignalMixin): run_forever() brackets its run with _watch_signals() and _unwatch_signals(), LoopCore's wake pipe hands
the numbers that the signal module wrote to _process_signals(). Calls the standard library only.

The interpreter's C handler writes the number to the wake pipe, whose read is a request on the ring. So a signal that arrives just before the
loop sleeps wakes it all the same, and Python's own handlers (KeyboardInterrupt, asyncio.Runner's SIGINT) run right after the wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import signal
import sys
import warnings
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from aiouring._loop import LoopCore

    class _Base(LoopCore, asyncio.BaseEventLoop):
        pass
else:
    _Base = object

NO_FD = -1

# The wake-up descriptors of this process's loops: a forked child lets go of the one that it inherited.
_wake_fds: set[int] = set()


class _SignalHandler(NamedTuple):
    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: contextvars.Context


def _ignore(signum: int, frame: object) -> None:
    """What add_signal_handler() installs: the work is done by the wake pipe."""


def _let_go_after_fork() -> None:
    """A forked child's signals are not its parent's: do not write them into the parent's pipe."""
    if not _wake_fds:
        return
    previous = signal.set_wakeup_fd(NO_FD)
    if previous != NO_FD and previous not in _wake_fds:
        signal.set_wakeup_fd(previous)
    _wake_fds.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


class SignalMixin(_Base):
    """The part of the loop that reacts to signals."""

    def __init__(self) -> None:
        self._signal_handlers: dict[int, _SignalHandler] = {}
        self._signals_watched = False  # the wake-up descriptor was set for the time of a run
        super().__init__()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call `callback(*args)` in the loop whenever the signal arrives. Main thread only.

        ValueError: no such signal. RuntimeError: not in the main thread, or a signal that cannot be caught. TypeError: a coroutine.
        """
        if asyncio.iscoroutine(callback) or asyncio.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            # Raises ValueError outside the main thread, before anything was changed.
            self._take_wakeup()
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc)) from exc
        self._signal_handlers[sig] = _SignalHandler(callback, args, contextvars.copy_context())
        try:
            signal.signal(sig, _ignore)
            signal.siginterrupt(sig, False)
        except OSError as exc:
            del self._signal_handlers[sig]
            self._release_wakeup()
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Take a signal's handler away and restore the default. Returns whether there was one."""
        self._check_signal(sig)
        try:
            del self._signal_handlers[sig]
        except KeyError:
            return False
        try:
            signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise
        self._release_wakeup()
        return True

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

    def _process_signals(self, numbers: bytes) -> None:
        """Called in the loop with the numbers that arrived, in their order."""
        for sig in numbers:
            self._handle_signal(sig)

    def _handle_signal(self, sig: int) -> None:
        handler = self._signal_handlers.get(sig)
        if handler is not None:  # else a Python handler's, or removed since
            self.call_soon(handler.callback, *handler.args, context=handler.context)

    def _take_wakeup(self) -> int:
        """Let signals wake this loop; returns the descriptor that was set before. A full pipe is no cause for a warning: it wakes too."""
        wake_fd = self._wake_fd()
        previous = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
        _wake_fds.add(wake_fd)
        return previous

    def _release_wakeup(self) -> None:
        """Unset the wake-up descriptor when neither a handler nor a run needs it."""
        if self._signal_handlers or self._signals_watched:
            return
        try:
            signal.set_wakeup_fd(NO_FD)
        except (ValueError, OSError) as exc:
            logger.info("set_wakeup_fd(-1) failed: %s", exc)

    def _watch_signals(self) -> None:
        """Called when the loop starts to run: in the main thread signals shall end its wait, unless somebody else listens for them."""
        try:
            previous = self._take_wakeup()
        except ValueError:
            return  # not the main thread
        if previous == NO_FD:
            self._signals_watched = True
        elif previous != self._wake_fd():
            # There is no way to ask without setting; the owner's choice about warnings is not told and becomes the default again.
            signal.set_wakeup_fd(previous)

    def _unwatch_signals(self) -> None:
        """Called when the loop stops running, in the same thread."""
        if not self._signals_watched:
            return
        self._signals_watched = False
        if self._signal_handlers:
            return  # asyncio, too, leaves it set as long as there are handlers
        previous = signal.set_wakeup_fd(NO_FD)
        if previous not in (NO_FD, self._wake_fd()):
            signal.set_wakeup_fd(previous)  # set by somebody else during the run

    def _close_signals(self) -> None:
        """Called by close(), before the wake pipe goes: no signal may be written into a descriptor number that means another file."""
        if not sys.is_finalizing():
            for sig in list(self._signal_handlers):
                self.remove_signal_handler(sig)
        elif self._signal_handlers:
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self._signal_handlers.clear()
        _wake_fds.discard(self._wake_fd())
