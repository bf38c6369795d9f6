"""Programs that stand beside the loops in some rows: servers of files, relays. What starts each of them.

Used by measure.py; calls processes.py. nginx and haproxy are Debian's; they run in the foreground as one process with one thread and without
access logs, since they are measured on one core and beside servers that write none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contestants import APPS, ROOT, Contestant
from benchmarks.processes import Cores, Failed, free_port, started
from benchmarks.rows import Row

Started = tuple[subprocess.Popen[str], str]

FILE_NAME = "file.bin"

_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=100;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

_HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend here
    bind 127.0.0.1:{port}
    default_backend there
backend there
    server one 127.0.0.1:{target}
"""


def _installed(program: str) -> str:
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Failed(f"{program} is not installed (make bench does it as root)")
    return path


@contextlib.contextmanager
def file_server(row: Row, contestant: Contestant, cores: Cores) -> Iterator[Started]:
    """A server of a folder in which FILE_NAME is."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="aiouring-bench-") as folder:
        root = Path(folder, "files")
        root.mkdir()
        Path(root, FILE_NAME).write_bytes(os.urandom(row.size))
        if contestant.name == "nginx":
            configuration = Path(folder, "nginx.conf")
            configuration.write_text(_NGINX.format(folder=folder, port=port, root=root))
            command = [_installed("nginx"), "-e", "stderr", "-p", folder, "-c", str(configuration)]
        elif contestant.is_aiouring:
            command = [contestant.python, "-m", "examples.file_server", "--port", str(port), "--root", str(root)]
        elif contestant.name == "aiohttp on uvloop":
            command = [contestant.python, str(APPS / "web.py"), "uvloop", "static", str(port), str(root)]
        else:
            raise Failed("this row has no program for it")
        with started(command, cores.server, _environment(contestant), port) as found:
            yield found


@contextlib.contextmanager
def relay(contestant: Contestant, cores: Cores, target: int) -> Iterator[Started]:
    """A relay to 127.0.0.1:`target`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="aiouring-bench-") as folder:
        if contestant.name == "haproxy":
            configuration = Path(folder, "haproxy.cfg")
            configuration.write_text(_HAPROXY.format(port=port, target=target))
            command = [_installed("haproxy"), "-db", "-q", "-f", str(configuration)]
        elif contestant.module:
            command = contestant.command("relay.py", str(port), str(target))
        else:
            raise Failed("this row has no program for it")
        with started(command, cores.server, _environment(contestant), port) as found:
            yield found


def _environment(contestant: Contestant) -> dict[str, str]:
    """A build of ours runs the examples of this checkout: the same program on both, whatever the other one's examples are."""
    environment = contestant.full_environment()
    if contestant.is_aiouring:
        environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(ROOT)])
    return environment
