"""The exceptions of hooks and operations, and what they show of a verifier's log. Raised by `_libbpf` and `_libbpf_op`; imports nothing of ours."""

from __future__ import annotations

import os
import re

# How much an exception's text shows: the last instructions that the verifier looked at, what it said then, and how long a line may be.
INSTRUCTIONS = 3
VERDICT_LINES = 6
LINE_CHARACTERS = 160

INSTRUCTION = re.compile(r"\d+: \([0-9a-f]{2}\) ")
SOURCE = re.compile(r";\s*(?P<text>[^@\s].*?)\s*(?:@ (?P<place>\S+:\d+))?$")
# States of registers, which the verifier puts between its words.
STATE = re.compile(r"(from \d+ to \d+|cur state|old state|caller|callee):|(\d+: )?R\d+(_w)?=")
COUNTS = re.compile(r"processed \d+ insns")
# What libbpf says beside the reason, in whatever order.
BESIDE = re.compile(r"failed to load|BPF program load failed|Retrying without BTF|PROG LOAD LOG")
# What the verifier says of a mistake that is made often, and what is meant.
HINTS = (
    (
        r"jumps is too complex|infinite loop detected|back-edge|BPF program is too large|Processed \d+ insn",
        "(loops are bounded by macros: AIOURING_REPEAT, in operations AIOURING_EACH and AIOURING_CHUNKS, with AIOURING_FORGET_NUMBER before them)",
    ),
    (r"reference leak|Unreleased reference", "(a loop of the macros is left by `break`, and not by `return` or `goto`)"),
)


class HookError(OSError):
    """A call about a hook's object failed. `errno` is the kernel's answer, `filename` the object and, after a colon, its map or program."""

    log: str = ""


class HookRefused(HookError):
    """The kernel or libbpf refused to open or load an object.

    reason: why, in the words of whoever refused it, one line; empty where nothing was said. log: all that was said, the verifier's log among it (of
    one beyond 16 MiB the end). The exception's text shows the reason, the line of the source, and the last instructions.
    """

    reason: str = ""

    def __init__(self, errno: int, message: str, filename: str, log: str = "") -> None:
        self._message = message
        lines = log.splitlines()
        self.reason, details = what_was_said(lines)
        text = f"{message} ({os.strerror(errno)}){': ' if self.reason else ''}{self.reason}"
        if details:
            details.append(f"(all {len(lines)} lines are the exception's `log`)")
        super().__init__(errno, "\n    ".join([text, *details]), filename)
        self.log = log

    def __str__(self) -> str:
        first, newline, details = str(self.strerror).partition("\n")
        return f"[Errno {self.errno}] {first}: {self.filename!r}{newline}{details}"

    def __reduce__(self) -> tuple[type, tuple[int | None, str, str, str]]:
        return type(self), (self.errno, self._message, self.filename, self.log)


class OperationError(HookError):
    """A call about an operation's object failed. `errno` is the kernel's answer, `filename` the object."""


class OperationRefused(HookRefused, OperationError):
    """The kernel or libbpf refused an operation's object: a HookRefused, with `reason` and `log`."""


def what_was_said(lines: list[str]) -> tuple[str, list[str]]:
    """The reason of a refusal, and the lines of the log that show where it is."""
    end = next((at for at in reversed(range(len(lines))) if "-- END PROG LOAD LOG --" in lines[at]), 0)
    begin = next((at + 1 for at in reversed(range(end)) if "-- BEGIN PROG LOAD LOG --" in lines[at]), 0)
    looked_at = lines[begin:end]
    if not looked_at:
        said = [line.removeprefix("libbpf: ") for line in lines if line.strip() and not BESIDE.search(line)]
        return (said[-1].strip().rstrip(".") if said else ""), [shortened(line) for line in said[-VERDICT_LINES:-1]]
    # The log is the path to what was refused: source lines with the instructions below them, then the verdict, then the counts.
    last = next((at for at in reversed(range(len(looked_at))) if INSTRUCTION.match(looked_at[at])), -1)
    verdict = [line for line in looked_at[last + 1 :] if line.strip() and not STATE.match(line) and not COUNTS.match(line)]
    instructions = [line for line in looked_at[: last + 1] if INSTRUCTION.match(line)]
    details = [
        *sources(looked_at[: last + 1], verdict),
        *instructions[-INSTRUCTIONS:],
        *verdict[-VERDICT_LINES:-1],
        *(hint for pattern, hint in HINTS if any(re.search(pattern, line) for line in verdict)),
    ]
    return (verdict[-1].strip().rstrip(".") if verdict else ""), [shortened(line) for line in details]


def sources(lines: list[str], verdict: list[str]) -> list[str]:
    """The source lines to look at: of the last instruction, the last one that is in the program and not in a header, and the one that took what the
    verdict says was not given back."""
    taken = [number for line in verdict for number in re.findall(r"alloc_insn=(\d+)", line)][-1:]
    ends = [len(lines), *(at for number in taken for at, line in enumerate(lines) if line.startswith(f"{number}: ("))]
    found: list[str] = []
    for end in (ends[0], ends[-1]):
        for in_program in (True, False):
            for line in reversed(lines[:end]):
                source = SOURCE.match(line)
                if source is None or (in_program and ".c:" not in (source["place"] or "")):
                    continue
                found.append(f"{source['place']}: {source['text']}" if source["place"] else source["text"])
                break
    return list(dict.fromkeys(found))


def shortened(line: str) -> str:
    line = re.sub(r"\s+;\s+R", " ; R", line)
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1] + "…"
