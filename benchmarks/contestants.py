"""Who takes part: floors, loops and builds of ours; what starts each, and whether it can take part on this machine.

Used by rounds.py and measure.py. It runs each loop's package once to learn its version, or the reason why it is absent.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".cache" / "bench" / "bin"
APPS = ROOT / "benchmarks" / "apps"
OURS = "ours"

# Loops on Python that are not ours, in the table's order; asyncio and uvloop have columns of their own, the others share one.
PEERS = ("asyncio", "uvloop", "rloop", "blazio", "loopmini")

_ASK_VERSION = """
import importlib, importlib.metadata, platform, sys
name = sys.argv[1]
module = importlib.import_module(name)
module.new_event_loop().close()
try:
    version = importlib.metadata.version(name)
except importlib.metadata.PackageNotFoundError:
    version = getattr(module, "__version__", "")
print(version or platform.python_version())
"""


@dataclass
class Contestant:
    """One column. A floor has no module: its program is the row's. `absent` says why it cannot take part at all."""

    name: str
    module: str = ""
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    version: str = ""
    absent: str = ""

    @property
    def is_floor(self) -> bool:
        return not self.module

    def command(self, app_file: str, *arguments: str) -> list[str]:
        """What starts an app of apps/ on this loop."""
        return [self.python, str(APPS / app_file), self.module, *arguments]

    def full_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name != "AIOURING_FALLBACK"}
        return kept | self.environment

    def look(self) -> None:
        """Fills in `version` or `absent`."""
        if self.is_floor:
            return
        asked = subprocess.run(
            [self.python, "-c", _ASK_VERSION, self.module], env=self.full_environment(), capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            self.version = asked.stdout.strip()
        else:
            lines = asked.stderr.strip().splitlines() or [f"it ended with status {asked.returncode}"]
            self.absent = lines[-1]
        note = BIN.parent / f"absent-{self.module}"
        if self.absent and note.exists():
            self.absent = note.read_text().strip()


def ours(python: str, name: str = OURS, checkout: Path = ROOT) -> Contestant:
    """aiouring as it is built in a checkout."""
    return Contestant(name, "aiouring", python, {"PYTHONPATH": str(checkout)})


def choose(python: str, against: list[str] | None, builds: dict[str, Path]) -> list[Contestant]:
    """The contestants in the order in which they run in each round. `against` restricts the peers; the floors always take part."""
    chosen = [Contestant("floor"), Contestant("epoll")]
    chosen += [Contestant(name, name, python) for name in PEERS if against is None or name in against]
    chosen.append(ours(python))
    chosen += [ours(python, name, path) for name, path in builds.items()]
    for contestant in chosen:
        contestant.look()
    return chosen
