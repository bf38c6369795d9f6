"""What `python -m aiouring cp` shows: a progress bar by the library `rich` where that is installed, plain lines elsewhere.

Used by `cp`. Progress and messages go to standard error, the summary to standard output.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
import time
from typing import Any

_LINE_EVERY_S = 1.0
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def show(path: Any) -> str:
    """A path for a message: quoted as for a shell where it needs to be, and printable in every encoding."""
    return printable(shlex.quote(os.fsdecode(path))).encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """On one line, and without what a terminal would obey: names of files may have line feeds and escape sequences in them."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def size_text(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def say(text: str, stream: Any) -> None:
    """One line, whatever the stream's encoding."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


class Display:
    """Nothing but messages: what --quiet shows."""

    def begin(self, size: int, files: int) -> None:
        """What is to be copied is known."""

    def file(self, path: Any) -> None:
        """A file's turn has come."""

    def checking(self, path: Any) -> None:
        """Its copy is being read again."""

    def advance(self, count: int) -> None:
        """So many bytes more are copied."""

    def end(self) -> None:
        """No progress any more."""

    def note(self, text: str) -> None:
        """A message."""
        say(printable(f"cp: {text}"), sys.stderr)

    def summary(self, files: int, size: int, skipped: int, seconds: float, *, verified: bool) -> None:
        """What was done."""


class Plain(Display):
    """Lines, one a second at most."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.began = self.told = time.monotonic()

    def begin(self, size: int, files: int) -> None:
        self.total = size
        self.began = self.told = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.told >= _LINE_EVERY_S:
            self.told = now
            self.line(now)

    def line(self, now: float) -> None:
        share = 100.0 if not self.total else 100.0 * self.done / self.total
        speed = self.done / max(now - self.began, 1e-6)
        say(f"{share:5.1f} %  {size_text(self.done)} of {size_text(self.total)}, {size_text(speed)}/s", sys.stderr)

    def summary(self, files: int, size: int, skipped: int, seconds: float, *, verified: bool) -> None:
        text = f"copied {files} file{'s' * (files != 1)}, {size_text(size)} in {seconds:.1f} s ({size_text(size / max(seconds, 1e-6))}/s)"
        if skipped:
            text += f"; {skipped} had been copied before"
        say(text + ("; verified" if verified else ""), sys.stdout)


class Bar(Plain):
    """rich's progress bar."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self.task: Any = None

    def begin(self, size: int, files: int) -> None:
        super().begin(size, files)
        self.task = self.progress.add_task("", total=size)
        self.progress.start()

    def file(self, path: Any) -> None:
        self.describe(path, "")

    def checking(self, path: Any) -> None:
        self.describe(path, "checking ")

    def describe(self, path: Any, what: str) -> None:
        name = show(os.path.basename(os.fsdecode(path)))
        self.progress.update(self.task, description=what + (name if len(name) <= 30 else name[:29] + "…"))

    def advance(self, count: int) -> None:
        self.done += count
        self.progress.update(self.task, completed=self.done)

    def end(self) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        self.progress.console.print(printable(f"cp: {text}"), markup=False, highlight=False, soft_wrap=True)


def make(*, quiet: bool) -> Display:
    """What suits the terminal."""
    if quiet:
        return Display()
    return Bar() if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None else Plain()
