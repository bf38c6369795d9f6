"""Who takes part: floors, loops and builds of ours; what starts each, and whether it can take part on this machine.

Used by rounds.py and measure.py. It runs each loop's package once to learn its version, or the reason why it is absent.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".cache" / "bench" / "bin"
CERTIFICATE = ROOT / ".cache" / "bench" / "certificate.pem"  # the key stands in it too
APPS = ROOT / "benchmarks" / "apps"
OURS = "ours"
FLOORS = ("floor", "epoll")
# A peer of rows that give ours an option: ours without it.
WITHOUT_OPTION = "aiouring without it"

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
    """One column. Floors and programs of other kinds have no module: what starts them is the row's. `absent`: why it cannot take part."""

    name: str
    module: str = ""
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    version: str = ""
    absent: str = ""

    @property
    def is_floor(self) -> bool:
        return self.name in FLOORS

    @property
    def is_aiouring(self) -> bool:
        return self.module == "aiouring"

    def command(self, app_file: str, *arguments: str, option: str = "") -> list[str]:
        """What starts an app of apps/ on this loop. `option` is given to new_event_loop of aiouring."""
        module = f"{self.module}?{option}" if option and self.is_aiouring and self.name != WITHOUT_OPTION else self.module
        return [self.python, str(APPS / app_file), module, *arguments]

    def full_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name != "AIOURING_FALLBACK"}
        return kept | self.environment

    def look(self) -> None:
        """Fills in `version` or `absent`."""
        if not self.module:
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


def choose(python: str, against: Sequence[str] | None, builds: dict[str, Path], floors: Sequence[str] = FLOORS) -> list[Contestant]:
    """The contestants in the order in which they run in each round. `against` restricts the peers; the floors always take part."""
    chosen = [Contestant(name) for name in floors]
    chosen += [Contestant(name, name, python) for name in PEERS if against is None or name in against]
    chosen.append(ours(python))
    chosen += [ours(python, name, path) for name, path in builds.items()]
    for contestant in chosen:
        contestant.look()
    return chosen
