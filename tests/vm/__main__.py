"""`python -m tests.vm`: see lane.py."""

from __future__ import annotations

import sys

from tests.vm.lane import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
