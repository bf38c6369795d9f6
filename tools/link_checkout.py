"""Makes the environment's interpreter import `aiouring` from this checkout, wherever it is started.

Called by the Makefile after a build with the environment's own interpreter. One line in a .pth file does what an editable install
does, and a later build costs no run of pip.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    if sys.prefix == sys.base_prefix:
        print("link_checkout.py: run it with the interpreter of a virtual environment; this one is the system's", file=sys.stderr)
        return 1
    link = Path(sysconfig.get_path("purelib"), "aiouring-checkout.pth")
    if not link.exists() or link.read_text() != f"{ROOT}\n":
        link.write_text(f"{ROOT}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
