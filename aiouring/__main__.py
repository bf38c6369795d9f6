"""`python -m aiouring`: the commands of the package. Calls `cp`."""

from __future__ import annotations

import sys

from aiouring.cp import main

if __name__ == "__main__":
    sys.exit(main())
