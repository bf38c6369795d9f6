"""The command line. Called by `__main__` and `demo`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from .settings import MIB, Settings


@dataclass(frozen=True)
class Options:
    settings: Settings
    host: str
    port: int
    unix: str | None
    logged: bool
    log: Path | None  # None: standard error


def parser(program: str, description: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog=program, description=description)
    defaults = Settings(Path())
    where = options.add_argument_group("where")
    where.add_argument("--root", type=Path, default=Path(), help="the folder to serve (default: the current one)")
    where.add_argument("--host", default="127.0.0.1", help="the address to listen on; '' for all (default: only this machine)")
    where.add_argument("--port", type=_port, default=8080, help="0 takes any free port (default: %(default)s)")
    where.add_argument("--unix", metavar="PATH", help="listen on a unix socket instead")
    what = options.add_argument_group("what")
    what.add_argument("--no-listing", action="store_true", help="answer 403 for a folder without index.html, instead of what is in it")
    what.add_argument("--dot-files", action="store_true", help="serve names that begin with a dot, too")
    what.add_argument("--stats", action="store_true", help="show counters on /-/stats and /-/stats.json, to whoever asks")
    log = options.add_argument_group("access log (combined format; SIGHUP opens the file again)")
    log.add_argument("--log", metavar="FILE", help="append to a file; '-' writes to standard error (default: no log)")
    cache = options.add_argument_group("memory")
    cache.add_argument("--cache", type=_mebibytes, default=defaults.cache_bytes, metavar="MIB", help="for files up to 1 MiB (default: 64; 0: none)")
    cache.add_argument(
        "--valid",
        type=seconds,
        default=defaults.cache_valid_s,
        metavar="S",
        help="how long a file in memory is served without a look at the disk (default: %(default)g; 0 looks each time)",
    )
    limits = options.add_argument_group("limits")
    limits.add_argument("--connections", type=count, default=0, help="at once; more are told 503 (default: half of the limit of open files)")
    for name, default, what_for in (
        ("header", defaults.header_timeout_s, "for a request's head to be complete"),
        ("idle", defaults.idle_timeout_s, "without a request"),
        ("write", defaults.write_timeout_s, "in which a client takes not one byte of its answer"),
    ):
        limits.add_argument(f"--{name}-timeout", type=_time, default=default, metavar="S", help=f"seconds {what_for} (default: %(default)g)")
    what_for = "seconds for running answers when it is told to stop (default: %(default)g)"
    limits.add_argument("--grace", type=seconds, default=defaults.grace_s, metavar="S", help=what_for)
    return options


def read(options: argparse.ArgumentParser, arguments: list[str] | None = None, *, stats: bool = False) -> tuple[Options, argparse.Namespace]:
    """Ends the program with a message where the arguments make no sense."""
    found = options.parse_args(arguments)
    if not found.root.is_dir():
        options.error(f"--root {found.root}: there is no such folder")
    settings = Settings(
        root=found.root.resolve(),
        listing=not found.no_listing,
        dot_files=found.dot_files,
        stats=found.stats or stats,
        cache_bytes=found.cache,
        cache_valid_s=found.valid,
        header_timeout_s=found.header_timeout,
        idle_timeout_s=found.idle_timeout,
        write_timeout_s=found.write_timeout,
        grace_s=found.grace,
        connections_max=found.connections,
    )
    log = None if found.log in (None, "-") else Path(found.log)
    if log is not None and not log.parent.is_dir():
        options.error(f"--log {log}: there is no such folder")
    return Options(settings, found.host, found.port, found.unix, found.log is not None, log), found


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def _port(text: str) -> int:
    number = _number(text, 0, 65535, "a port")
    if number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(number)


def count(text: str) -> int:
    return int(_number(text, 1, 1 << 20, "a number of connections"))


def seconds(text: str) -> float:
    return _number(text, 0, 86400, "a number of seconds")


def _time(text: str) -> float:
    return _number(text, 0.01, 86400, "a number of seconds above 0")


def _mebibytes(text: str) -> int:
    return int(_number(text, 0, 1 << 20, "a number of MiB") * MIB)
