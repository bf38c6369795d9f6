"""Judges the reports that the address sanitizer left in a folder: every memory error counts, and those leaks that are ours.

Called by tools/test-asan.sh as `asan_reports.py FOLDER`; ends with status 1 if anything is found. An interpreter may leave memory
allocated at exit on purpose, so a leak counts only if a module of the package made the allocation: itself, or through the C API (an
object whose reference it lost), which puts the module a few frames below the allocator.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LEAK = re.compile(r"^(Direct|Indirect) leak of .*")
FRAME = re.compile(r"^\s+#(\d+) 0x[0-9a-f]+ (.*)$")
ALLOCATORS = re.compile(r"\b(__interceptor_)?(malloc|calloc|realloc|posix_memalign|aligned_alloc|memalign|mmap|strdup)\b")
OUR_MODULE = re.compile(r"\baiouring/[\w./-]+\.(so|c|pyx)\b")

# How far below the allocator the C API's own functions reach at most.
C_API_FRAMES_MAX = 6


def find_errors(report: str) -> list[str]:
    """Each memory error's own lines: from its headline to the summary."""
    return re.findall(r"==\d+==ERROR: AddressSanitizer.*?(?=^SUMMARY|\Z)", report, flags=re.MULTILINE | re.DOTALL)


def find_own_leaks(report: str) -> list[str]:
    """The leak records whose allocation a module of the package made."""
    own = []
    for block in report.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if not lines or not LEAK.match(lines[0]):
            continue
        frames = [match.group(2) for line in lines[1:] if (match := FRAME.match(line))]
        callers = [frame for frame in frames if not ALLOCATORS.search(frame)]
        if any(OUR_MODULE.search(frame) for frame in callers[:C_API_FRAMES_MAX]):
            own.append("\n".join(lines[:12]))
    return own


def main(folder: Path) -> int:
    reports = sorted(folder.iterdir())
    errors: list[str] = []
    leaks: list[str] = []
    for path in reports:
        text = path.read_text(errors="replace")
        errors += find_errors(text)
        leaks += find_own_leaks(text)
    for found in dict.fromkeys(errors + leaks):
        print(found)
    print(f"address sanitizer: {len(reports)} reports, {len(errors)} memory errors, {len(leaks)} leaks of ours")
    return 1 if errors or leaks else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
