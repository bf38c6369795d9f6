"""`python -m aiouring`: the commands of the package. Calls `cp` and `bpf.build`."""

from __future__ import annotations

import argparse
import sys

from aiouring import cp
from aiouring.bpf import build


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m aiouring", description="The commands of aiouring.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cp.add_command(commands)
    build.add_command(commands)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
