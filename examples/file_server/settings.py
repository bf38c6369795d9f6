"""What the server is told: one value that every part reads and nobody changes. Made by `options` from the command line, and by tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    root: Path
    #: Show what is in a folder that has no index.html; otherwise it is answered with 403.
    listing: bool = True
    #: Serve (and list) names that begin with a dot.
    dot_files: bool = False
    #: Answer /-/stats and /-/stats.json with the server's counters instead of files of that name.
    stats: bool = False

    #: Bodies that are kept in memory, all together, and the largest one that is kept. Larger files are opened for each request.
    cache_bytes: int = 64 * MIB
    cache_file_bytes: int = MIB
    #: For so long a file in memory is served without a look at the disk: after a change the old one may be sent that long.
    cache_valid_s: float = 1.0

    #: A request's head, and in it the target, may be so long: else 431 and 414.
    head_bytes_max: int = 32 * 1024
    target_bytes_max: int = 8 * 1024
    header_lines_max: int = 100

    #: From its first byte (of the first request: from the connection) on a head may take so long: else 408.
    header_timeout_s: float = 10.0
    #: A connection on which nobody asks for anything is closed after this.
    idle_timeout_s: float = 60.0
    #: A client that takes not one byte of its answer for so long is disconnected.
    write_timeout_s: float = 60.0
    #: What is being answered when the server is told to stop may take so long.
    grace_s: float = 10.0
    #: Connections at once; more are told 503. 0: as many as the limit of descriptors allows.
    connections_max: int = 0
