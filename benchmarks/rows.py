"""The rows of the table and their goals: data, and nothing that runs. Read by rounds.py and report.py.

A row says which app every loop runs, what loads it, which program is its floor and what we want to reach. To add a row is to add it here.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.figures import Goal


@dataclass(frozen=True)
class Row:
    """One row. `kind` chooses the way of measuring in measure.py; what the other fields mean depends on it."""

    name: str
    title: str
    group: str  # the chart in which it stands
    kind: str
    app: str  # the app that the loops run: one of its file's
    script: str = "server.py"  # the file of apps/ in which it is
    floor: tuple[str, ...] = ()  # the C program that does the same, with its arguments
    load: tuple[str, ...] = ()  # the load program's arguments
    transport: str = "tcp"
    main: str = "cpu_us"  # the metric of the table's columns
    per: str = "message"  # what is counted
    goals: tuple[Goal, ...] = ()
    seconds: float = 1.0  # of one window in a full run; QUICK and --seconds scale it
    warmup: float = 0.2
    size: int = 0  # of the file, where there is one
    depth: int = 1  # how many workers are busy with files at a time
    connections: int = 0  # that are held, where connections are what costs
    our_option: str = ""  # of aiouring.new_event_loop, for ours alone
    loops: tuple[str, ...] | None = None  # the loops (and epoll) that take part beside the floor and ours; None: all
    extra_peers: tuple[str, ...] = ()  # contestants that only some rows have: programs of other kinds
    rounds_max: int = 5

    def rounds(self, wanted: int, quick: bool) -> int:
        """How many of them this row has. In a quick run, one is enough where even a full run has few."""
        return 1 if quick and self.rounds_max < 5 else min(wanted, self.rounds_max)

    @property
    def why_not_all(self) -> str:
        """The reason why some contestants are not in this row."""
        if not self.loops:
            return "not run: this row compares programs or libraries of other kinds"
        return f"not run: this row compares with {' and '.join(self.loops)} alone, which keeps the whole under 25 minutes"


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


def _echo(
    name: str,
    title: str,
    app: str,
    *,
    size: int,
    connections: int,
    group: str,
    goals: tuple[Goal, ...],
    transport: str = "tcp",
    loops: tuple[str, ...] | None = None,
    rounds_max: int = 5,
    extra_peers: tuple[str, ...] = (),
    our_option: str = "",
) -> Row:
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
        loops=loops,
        rounds_max=rounds_max,
        goals=goals,
        extra_peers=extra_peers,
        our_option=our_option,
        # Several answers of every connection shall fit into the window, and the first ones into the warm-up.
        seconds=1.0 if in_flight < 64 << 20 else 1.5 if in_flight < 512 << 20 else 3.0,
        warmup=0.2 if in_flight < 64 << 20 else 0.5 if in_flight < 512 << 20 else 1.5,
    )


def _standard(name: str, title: str, app: str, at_most: float) -> Row:
    goals = (Goal("floor", "cpu_us", at_most),)
    return _echo(name, f"TCP echo 1 KiB × 50, {title}", app, size=1024, connections=50, group="TCP echo", goals=goals)


def _matrix() -> list[Row]:
    """Twelve rows, which is why only the loop of their goal takes part beside the floors and ours."""
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
            loops=("uvloop",),
            rounds_max=3,
        )
        for size in (64, 16 << 10, 100 << 10, 1 << 20)
        for connections in (1, 50, 1000)
    ]


def _latency(name: str, title: str, at_most: float, our_option: str = "") -> Row:
    return Row(
        name=name,
        title=title,
        group="latency",
        kind="served",
        app="protocol",
        floor=("floor_stream", *floor_buffers(64, 1)),
        load=("load", "--size", "64", "--connections", "1", "--spin"),
        main="p50_us",
        our_option=our_option,
        loops=("uvloop",) if our_option else None,
        goals=(Goal("uvloop", "p50_us", at_most),),
    )


_MICRO = (
    ("call-soon", "call_soon, 1,000 a turn"),
    ("call-soon-threadsafe", "call_soon_threadsafe, 1,000 a turn"),
    ("call-later-cancel", "call_later and cancel"),
    ("switch", "sleep(0) between 100 tasks"),
)


def _micro(app: str, title: str) -> Row:
    return Row(
        name=f"micro-{app}",
        title=title,
        group="callbacks and tasks",
        kind="process",
        app=app,
        script="micro.py",
        main="rate",
        per="call",
        seconds=0.5,
        warmup=0.1,
        goals=(Goal("uvloop", "rate", 1.2),),
    )


def _memory(name: str, title: str, app: str, connections: int) -> Row:
    return Row(
        name=name,
        title=title,
        group="memory and idle",
        kind="memory",
        app=app,
        main="memory_bytes",
        connections=connections,
        transport="tls" if app == "tls" else "tcp",
        rounds_max=2,
        goals=(Goal("uvloop", "memory_bytes", 0.5),),
    )


def _tls(size: int) -> Row:
    return Row(
        name=f"tls-{_size(size).replace(' ', '')}",
        title=f"TLS echo {_size(size)} × 50, Protocol",
        group="TLS",
        kind="served",
        app="tls",
        load=("tls_load", "--size", str(size), "--connections", "50"),
        transport="tls",
        warmup=0.3,
        goals=(Goal("uvloop", "rate", 1.15),),
    )


def _web(app: str, title: str) -> Row:
    return Row(
        name=f"web-{app}",
        title=f"{title} × 50",
        group="web servers",
        kind="served",
        app=app,
        script="web.py",
        load=("load", "--http", "/", "--connections", "50"),
        per="request",
        goals=(Goal("uvloop", "rate", 1.10),),
    )


def _static(size: int, rate_of_nginx: float) -> Row:
    """Three programs of different kinds, so that the loops by themselves have no part in it."""
    return Row(
        name=f"static-{_size(size).replace(' ', '')}",
        title=f"a file of {_size(size)} × 50: nginx, examples/file_server, aiohttp",
        group="files and relays",
        kind="static",
        app="",
        load=("load", "--http", "/file.bin", "--connections", "50"),
        per="request",
        size=size,
        loops=(),
        extra_peers=("nginx", "aiohttp on uvloop"),
        goals=(Goal("nginx", "rate", rate_of_nginx), Goal("aiohttp on uvloop", "rate", 3.0)),
    )


def _relay(size: int) -> Row:
    return Row(
        name=f"relay-{_size(size).replace(' ', '')}",
        title=f"TCP relay {_size(size)} × 50: haproxy, protocols on uvloop, aiouring.relay",
        group="loop hook",
        kind="relay",
        app="",
        load=("load", "--size", str(size), "--connections", "50"),
        loops=("uvloop",),
        extra_peers=("haproxy",),
        goals=(Goal("uvloop", "rate", 1.6), Goal("haproxy", "rate", 1.2)),
    )


def _file(
    name: str,
    title: str,
    work: str,
    peers: tuple[str, ...],
    goals: tuple[Goal, ...],
    *,
    per: str = "MiB",
    depth: int = 1,
    size: int = 256 << 20,
    floor: tuple[str, ...] = (),
    main: str = "cpu_us",
    seconds: float = 0.5,
) -> Row:
    """Work on cached files, of apps/files.py. Libraries and programs take part, not loops by themselves: other libraries run on uvloop."""
    return Row(
        name=name,
        title=title,
        group="file reads and writes",
        kind="file",
        app=work,
        floor=floor,
        main=main,
        per=per,
        goals=goals,
        seconds=seconds,
        warmup=0.1,
        size=size,
        depth=depth,
        loops=(),
        extra_peers=peers,
        rounds_max=3,
    )


def _random_reads(depth: int, cpu_us_max: float) -> Row:
    return _file(
        f"file-depth-{depth}",
        f"4 KiB random reads of a cached file, {depth} at a time",
        "random",
        ("aiofiles", "caio", "aiofile", "anyio", "executor"),
        (Goal("", "cpu_us", cpu_us_max), Goal("aiofiles", "cpu_rate", 10)),
        per="read",
        depth=depth,
        size=64 << 20,
        floor=("floor_file", "--size", "4096", "--depth", str(depth)),
    )


def _small_files(depth: int) -> Row:
    return _file(
        f"file-small-{depth}",
        f"open, read and close 10,000 files of 1 KiB, {depth} at a time",
        "small",
        ("aiofiles", "anyio", "built-in open"),
        (Goal("aiofiles", "cpu_rate", 5), Goal("anyio", "cpu_rate", 2)),
        per="file",
        depth=depth,
    )


def _as_fast_as(program: str) -> tuple[Goal, ...]:
    return Goal(program, "rate", 0.9), Goal(program, "cpu_rate", 0.9)


_FILES = [
    _random_reads(1, 6),
    _random_reads(32, 3.5),
    _file(
        "file-into-depth-128",
        "4 KiB random reads into buffers, 128 at a time",
        "random-into",
        ("executor",),
        (Goal("floor", "cpu_us", 2.5),),
        per="read",
        depth=128,
        size=64 << 20,
        floor=("floor_file", "--size", "4096", "--depth", "128"),
    ),
    _file(
        "file-read-1MiB",
        "1 MiB sequential reads of a cached file",
        "read",
        ("dd", "aiofiles"),
        _as_fast_as("dd"),
        main="rate",
        floor=("floor_file", "--size", "1048576", "--way", "read"),
    ),
    _file(
        "file-write-1MiB",
        "1 MiB sequential writes over a cached file",
        "write",
        ("dd", "aiofiles"),
        _as_fast_as("dd"),
        main="rate",
        floor=("floor_file", "--size", "1048576", "--way", "write"),
    ),
    _file(
        "file-read-and-write-1MiB",
        "1 MiB sequential reads and writes, from a cached file over another",
        "read-and-write",
        ("dd", "aiofiles"),
        _as_fast_as("dd"),
        main="rate",
    ),
    _file("file-copy", "copy of a cached file of 256 MiB: fs.copyfile, cp", "copyfile", ("cp",), _as_fast_as("cp"), main="rate"),
    _small_files(1),
    _small_files(32),
    _file(
        "file-lines",
        "readline over a text file of 1 GiB (other libraries: a part of it)",
        "lines",
        ("aiofiles", "anyio", "built-in open"),
        (Goal("aiofiles", "cpu_rate", 20),),
        per="line",
        size=1 << 30,
    ),
]


ROWS: list[Row] = [
    _standard("tcp-protocol", "Protocol", "protocol", 1.12),
    _standard("tcp-buffered", "BufferedProtocol", "buffered", 1.10),
    _standard("tcp-streams", "streams", "streams", 1.55),
    _standard("tcp-native-streams", "aiouring.start_server", "native-streams", 1.30),
    _standard("tcp-sock", "sock_recv/sock_sendall", "sock", 1.50),
    *_matrix(),
    _latency("latency", "one connection, 64 B ping-pong", 1.0),
    _latency("latency-busy-poll", "the same, ours with busy_poll=", 0.7, our_option="busy_poll=0.00005"),
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
        name="udp",
        title="UDP echo 1 KiB × 50 clients",
        group="unix and UDP",
        kind="served",
        app="datagram",
        floor=("floor_datagram", "2048", "1024"),
        load=("load_datagram", "--size", "1024", "--connections", "50"),
        goals=(Goal("uvloop", "rate", 1.3),),
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
    Row(
        name="accept",
        title="accept, one 64 B echo, close (server)",
        group="connections and subprocesses",
        kind="served",
        app="protocol",
        floor=("floor_stream", "1024", "1024"),
        load=("load_connect", "--size", "64", "--connections", "50"),
        per="connection",
        goals=(Goal("uvloop", "rate", 1.3),),
    ),
    Row(
        name="connect",
        title="connect, one 64 B echo, close (client)",
        group="connections and subprocesses",
        kind="client",
        app="connect",
        script="client.py",
        floor=("load_connect", "--size", "64", "--connections", "50"),
        load=("floor_stream", "1024", "1024"),
        per="connection",
        goals=(Goal("uvloop", "rate", 1.3),),
    ),
    Row(
        name="spawn",
        title="subprocess: spawn /bin/true, wait",
        group="connections and subprocesses",
        kind="process",
        app="spawn",
        script="micro.py",
        floor=("floor_spawn",),
        main="rate",
        per="process",
        goals=(Goal("uvloop", "rate", 1.3),),
    ),
    *(_micro(app, title) for app, title in _MICRO),
    _memory("memory-protocol", "memory per idle connection, Protocol", "protocol", 5000),
    _memory("memory-streams", "memory per idle connection, streams", "streams", 5000),
    Row(
        name="idle",
        title="idle loop with one connection",
        group="memory and idle",
        kind="idle",
        app="protocol",
        main="idle_cpu_us",
        goals=(Goal("", "idle_cpu_us", 0), Goal("", "wakeups", 0)),
        seconds=2.0,
        rounds_max=2,
    ),
    _tls(1024),
    _tls(64 << 10),
    _memory("memory-tls", "memory per idle TLS connection", "tls", 1000),
    _web("uvicorn", "uvicorn plaintext"),
    _web("aiohttp", "aiohttp plaintext"),
    _static(10 << 10, 0.6),
    _static(1 << 20, 0.9),
    _relay(1024),
    _relay(64 << 10),
    _echo(
        "hook-echo",
        "TCP echo 1 KiB × 50 in the loop hook",
        "hook-echo",
        size=1024,
        connections=50,
        group="loop hook",
        goals=(Goal("floor", "cpu_us", 1.05),),
        loops=(),
    ),
    _echo(
        "hook-wake",
        "TCP echo 1 KiB × 50, Protocol: ours with a hook that leaves all to Python",
        "protocol",
        size=1024,
        connections=50,
        group="loop hook",
        goals=(Goal("aiouring without it", "cpu_us", 1.02),),
        loops=(),
        extra_peers=("aiouring without it",),
        our_option="hook=wake",
    ),
    *_FILES,
]


def select(pattern: str) -> list[Row]:
    """The rows in whose name, or at the beginning of whose group, is one of the comma-separated parts of `pattern`; all for ""."""
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    return [row for row in ROWS if not parts or any(part in row.name or row.group.startswith(part) for part in parts)]
