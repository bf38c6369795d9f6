"""The rows of the table and their goals: data, and nothing that runs. Read by rounds.py and report.py.

A row says which app every loop runs, what loads it, which program is its floor and what we want to reach. To add a row is to add it here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.figures import Goal


@dataclass(frozen=True)
class Row:
    """One row. `kind` chooses the way of measuring in measure.py; what the other fields mean depends on it."""

    name: str
    title: str
    group: str  # the chart in which it stands
    kind: str
    app: str  # the app that the loops run (apps/)
    floor: tuple[str, ...] = ()  # the C program that does the same, with its arguments
    load: tuple[str, ...] = ()  # the load program's arguments
    transport: str = "tcp"
    main: str = "cpu_us"  # the metric of the table's columns
    per: str = "message"  # what is counted
    goals: tuple[Goal, ...] = ()
    seconds: float = 1.0  # of one window in a full run; QUICK and --seconds scale it
    warmup: float = 0.2
    extra_peers: tuple[str, ...] = field(default=())  # contestants that only some rows have (programs of other kinds)


def floor_buffers(message_size: int, connections: int) -> tuple[str, str]:
    """Size and count of the buffers that suit a floor best: a message in one piece, two for each connection, and no more than that, since
    what is passed through in rotation should stay in the cache."""
    size = 1024
    while size < message_size and size < 262144:
        size *= 2
    count = 64
    while count < 2 * connections and count * size < 32 << 20:
        count *= 2
    return str(size), str(count)


def _size(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size // 1024} KiB" if size < 1 << 20 else f"{size >> 20} MiB"


def _echo(name: str, title: str, app: str, *, size: int, connections: int, group: str, goals: tuple[Goal, ...], transport: str = "tcp") -> Row:
    in_flight = size * connections
    return Row(
        name=name,
        title=title,
        group=group,
        kind="served",
        app=app,
        floor=("floor_stream", *floor_buffers(size, connections)),
        load=("load", "--size", str(size), "--connections", str(connections)),
        transport=transport,
        goals=goals,
        # Several answers of every connection shall fit into the window, and the first ones into the warm-up.
        seconds=1.0 if in_flight < 64 << 20 else 1.5 if in_flight < 512 << 20 else 3.0,
        warmup=0.2 if in_flight < 64 << 20 else 0.5 if in_flight < 512 << 20 else 1.5,
    )


def _standard(name: str, title: str, app: str, at_most: float) -> Row:
    goals = (Goal("floor", "cpu_us", at_most),)
    return _echo(name, f"TCP echo 1 KiB × 50, {title}", app, size=1024, connections=50, group="TCP echo", goals=goals)


def _matrix() -> list[Row]:
    better = (Goal("uvloop", "cpu_us", 1.0),)
    return [
        _echo(
            f"matrix-{_size(size).replace(' ', '')}-{connections}",
            f"TCP echo {_size(size)} × {connections}, Protocol",
            "protocol",
            size=size,
            connections=connections,
            group="sizes and connections",
            goals=better,
        )
        for size in (64, 16 << 10, 100 << 10, 1 << 20)
        for connections in (1, 50, 1000)
    ]


ROWS: list[Row] = [
    _standard("tcp-protocol", "Protocol", "protocol", 1.12),
    _standard("tcp-buffered", "BufferedProtocol", "buffered", 1.10),
    _standard("tcp-streams", "streams", "streams", 1.55),
    _standard("tcp-native-streams", "aiouring.start_server", "native-streams", 1.30),
    _standard("tcp-sock", "sock_recv/sock_sendall", "sock", 1.50),
    *_matrix(),
    Row(
        name="latency",
        title="one connection, 64 B ping-pong",
        group="latency",
        kind="served",
        app="protocol",
        floor=("floor_stream", *floor_buffers(64, 1)),
        load=("load", "--size", "64", "--connections", "1", "--spin"),
        main="p50_us",
        goals=(Goal("uvloop", "p50_us", 1.0),),
    ),
    _echo(
        "unix-protocol",
        "unix-socket echo 1 KiB × 50, Protocol",
        "protocol",
        size=1024,
        connections=50,
        group="unix and UDP",
        goals=(Goal("uvloop", "rate", 1.3),),
        transport="unix",
    ),
    Row(
        name="bulk-streams",
        title="bulk through streams, 1 connection",
        group="bulk",
        kind="served",
        app="streams",
        floor=("floor_stream", *floor_buffers(262144, 1)),
        load=("load", "--size", "262144", "--connections", "1", "--bulk"),
        per="256 KiB",
        goals=(Goal("uvloop", "rate", 1.1),),
    ),
]


def select(pattern: str) -> list[Row]:
    """The rows whose name or group has one of the comma-separated parts of `pattern` in it; all for ""."""
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    return [row for row in ROWS if not parts or any(part in row.name or part in row.group for part in parts)]
