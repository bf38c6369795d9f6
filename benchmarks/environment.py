"""Makes the environment of the suite, .cache/bench-venv, from the Python that runs this: `python -m benchmarks.environment`.

Called by the Makefile with .venv's Python, so that every contestant runs on the same one. Calls pip. What the suite cannot do without
(requirements.txt) must install; a peer (peers.txt) that does not leaves the reason in .cache/bench/absent-NAME, which contestants.py
shows in the table.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CACHE = FOLDER.parent / ".cache"
VENV = CACHE / "bench-venv"


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def reason_of(output: str, requirement: str) -> str:
    """The sentence for the table from what pip said."""
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    if "No matching distribution found" in output:
        return f"{requirement} has no release for {python}"
    errors = [line for line in output.splitlines() if re.match(r"error", line, re.IGNORECASE)]
    return f"pip cannot install {requirement} on {python}: {errors[-1] if errors else 'see pip install'}"


def peers() -> list[str]:
    return [line.strip() for line in (FOLDER / "peers.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]


def main() -> int:
    if not (VENV / "bin" / "python").exists():
        print(f"making {VENV.relative_to(FOLDER.parent)} with Python {sys.version.split()[0]}", flush=True)
        venv.create(VENV, with_pip=True)
    print("installing with pip into .cache/bench-venv: benchmarks/requirements.txt and the loops of benchmarks/peers.txt", flush=True)
    done = pip("--requirement", str(FOLDER / "requirements.txt"))
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return 1
    notes = CACHE / "bench"
    notes.mkdir(parents=True, exist_ok=True)
    for requirement in peers():
        note = notes / f"absent-{requirement.partition('==')[0]}"
        note.unlink(missing_ok=True)
        done = pip(requirement)
        if done.returncode != 0:
            note.write_text(reason_of(done.stderr, requirement) + "\n")
            print(f"  {note.read_text().strip()}; its cells will say so", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
