"""Fixtures of the program tests: the loop under test, certificates, and a PostgreSQL and a Redis server that we start and stop.

Each server is a process of its own on a free port with its data in a temporary folder, one for the whole test run.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from . import support

_TEST_LIMIT_S = 120


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test of this folder runs on the loop that is under test."""
    return {support.LOOP: support.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A hung loop must end as a failed test with a traceback, not as a build that never ends."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_LIMIT_S))


@dataclass(frozen=True)
class Certificates:
    """A certificate authority, a certificate for localhost and 127.0.0.1, others for SNI, and one for a client."""

    authority: str
    server: str
    alternative: str
    client: str

    def server_context(self, *, client_required: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server)
        if client_required:
            context.load_verify_locations(self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        if with_certificate:
            context.load_cert_chain(self.client)
        return context


#: The name that the second certificate is for; a server offers it to clients that ask by SNI.
ALTERNATIVE_NAME = "other.example.test"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    paths = {name: str(folder / f"{name}.pem") for name in ("authority", "server", "alternative", "client")}
    authority.cert_pem.write_to_path(paths["authority"])
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(paths["server"])
    authority.issue_cert(ALTERNATIVE_NAME).private_key_and_cert_chain_pem.write_to_path(paths["alternative"])
    authority.issue_cert("client@example.test").private_key_and_cert_chain_pem.write_to_path(paths["client"])
    return Certificates(**paths)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; everybody else runs it as himself."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.fail("PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' to run it as")


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL: a TCP port on 127.0.0.1 (with TLS on offer) and a unix socket, no password asked."""

    port: int
    socket_folder: str
    user: str
    database: str
    process: support.ServerProcess


@pytest.fixture(scope="session")
def postgres(certificates: Certificates) -> Iterator[Postgres]:
    # Debian keeps the server's programs out of PATH, in a folder for each major version.
    folders = sorted((str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    initdb = support.require_program("initdb", "postgresql", folders)
    # initdb and the server must be of one version: prefer the server that lies beside it.
    server = support.require_program("postgres", "postgresql", [os.path.dirname(initdb), *folders])
    user = _unprivileged_user()
    # Not pytest's own temporary folder: that one is closed to every other user.
    folder = tempfile.mkdtemp(prefix="aiouring-postgres-")
    try:
        key = Path(folder, "server.pem")
        shutil.copy(certificates.server, key)
        key.chmod(0o600)
        if user is not None:
            for path in (folder, str(key)):
                shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        as_user: dict[str, object] = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        data = os.path.join(folder, "data")
        made = subprocess.run(
            [initdb, "--pgdata", data, "--username", "tester", "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"],
            capture_output=True,
            text=True,
            cwd=folder,
            **as_user,  # type: ignore[call-overload]
        )
        assert made.returncode == 0, f"initdb failed:\n{made.stdout}\n{made.stderr}"
        port = support.free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": folder,
            "max_connections": "250",
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": str(key),
            "ssl_key_file": str(key),
        }
        command = [server, "-D", data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with support.ServerProcess(
            command,
            address=("127.0.0.1", port),
            folder=folder,
            user=user,
            stop_signal=signal.SIGINT,  # "fast shutdown": ends what clients left open
        ) as process:
            # It accepts connections before it answers queries, and refuses them meanwhile.
            ready = support.require_program("pg_isready", "postgresql", [os.path.dirname(initdb), *folders])
            support.wait_until_answering([ready, "--quiet", "--host", "127.0.0.1", "--port", str(port)], process)
            yield Postgres(port, folder, "tester", "postgres", process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Redis:
    """A running Redis: a TCP port on 127.0.0.1 and a unix socket, nothing written to disk."""

    port: int
    socket: str
    process: support.ServerProcess


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    program = support.require_program("redis-server", "redis-server")
    folder = tmp_path_factory.mktemp("redis")
    port = support.free_port()
    # A short path: a unix socket's name has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="aiouring-redis-") as socket_folder:
        unix_socket = os.path.join(socket_folder, "socket")
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--unixsocket", unix_socket]
        command += ["--save", "", "--appendonly", "no", "--dir", str(folder), "--maxclients", "500"]
        with support.ServerProcess(command, address=("127.0.0.1", port)) as process:
            yield Redis(port, unix_socket, process)
