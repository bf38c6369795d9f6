"""asyncpg against a real PostgreSQL, over TCP, TLS (upgraded in place, by loop.start_tls) and a unix socket."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from . import support
from .conftest import Certificates, Postgres
from .support import CONNECTIONS, at_once, eventually, payload

pytestmark = pytest.mark.asyncio

WAYS = ["tcp", "tls", "unix"]


def parameters(postgres: Postgres, certificates: Certificates, way: str) -> dict[str, Any]:
    common: dict[str, Any] = {"port": postgres.port, "user": postgres.user, "database": postgres.database, "timeout": 60}
    if way == "unix":
        return {**common, "host": postgres.socket_folder}
    secure: ssl.SSLContext | bool = certificates.client_context() if way == "tls" else False
    return {**common, "host": "127.0.0.1", "ssl": secure}


@pytest.fixture(params=WAYS)
def how(request: pytest.FixtureRequest, postgres: Postgres, certificates: Certificates) -> dict[str, Any]:
    """Arguments for asyncpg.connect, for each way to reach the server."""
    return parameters(postgres, certificates, request.param)


@pytest.fixture
def tcp(postgres: Postgres, certificates: Certificates) -> dict[str, Any]:
    return parameters(postgres, certificates, "tcp")


async def test_the_connection_is_of_the_asked_kind(how: dict[str, Any]) -> None:
    connection = await asyncpg.connect(**how)
    try:
        tls = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        address = await connection.fetchval("SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    finally:
        await connection.close()
    assert tls is isinstance(how.get("ssl"), ssl.SSLContext)
    assert (address is None) is str(how["host"]).startswith("/")


async def test_hundred_connections_at_once(how: dict[str, Any]) -> None:
    gate = asyncio.Barrier(CONNECTIONS)

    async def client(number: int) -> int:
        connection = await asyncpg.connect(**how)
        try:
            await gate.wait()
            for turn in range(10):
                body = payload(turn * 5000 + number, seed=number)
                assert await connection.fetchval("SELECT $1::bytea", body) == body
            pid: int = await connection.fetchval("SELECT pg_backend_pid()")
            return pid
        finally:
            await connection.close()

    pids = await at_once(CONNECTIONS, client)
    assert len(set(pids)) == CONNECTIONS


async def test_a_pool_of_hundred(how: dict[str, Any]) -> None:
    async with asyncpg.create_pool(**how, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        gate = asyncio.Barrier(CONNECTIONS)

        async def all_at_once(number: int) -> int:
            async with pool.acquire() as connection:
                await gate.wait()
                pid: int = await connection.fetchval("SELECT pg_backend_pid()")
                return pid

        assert len(set(await at_once(CONNECTIONS, all_at_once))) == CONNECTIONS

        async def query(number: int) -> None:
            assert await pool.fetchval("SELECT $1::int * 2", number) == 2 * number

        await at_once(1000, query)


async def test_large_values_and_many_rows(how: dict[str, Any]) -> None:
    connection = await asyncpg.connect(**how)
    try:
        body = payload(32 << 20, seed=2)
        assert await connection.fetchval("SELECT $1::bytea", body) == body
        rows = await connection.fetch("SELECT i, repeat(md5(i::text), 20) AS text FROM generate_series(1, 50000) AS i")
        assert [row["i"] for row in rows] == list(range(1, 50001))
        assert all(len(row["text"]) == 640 for row in rows)
    finally:
        await connection.close()


async def test_copy_in_and_out(how: dict[str, Any]) -> None:
    connection = await asyncpg.connect(**how)
    try:
        await connection.execute("CREATE TEMPORARY TABLE pieces (number int PRIMARY KEY, body bytea)")
        records = [(number, payload(number % 3000, seed=number % 50)) for number in range(20_000)]
        assert await connection.copy_records_to_table("pieces", records=records) == "COPY 20000"

        received = io.BytesIO()
        await connection.copy_from_query("SELECT * FROM pieces ORDER BY number", output=received, format="binary")
        await connection.execute("CREATE TEMPORARY TABLE again (number int PRIMARY KEY, body bytea)")

        async def source() -> AsyncIterator[bytes]:
            view = received.getvalue()
            for begin in range(0, len(view), 100_003):
                yield view[begin : begin + 100_003]

        assert await connection.copy_to_table("again", source=source(), format="binary") == "COPY 20000"
        rows = await connection.fetch("SELECT number, body FROM again ORDER BY number")
        assert [tuple(row) for row in rows] == records
    finally:
        await connection.close()


async def test_copy_on_hundred_connections(tcp: dict[str, Any]) -> None:
    async def client(number: int) -> None:
        connection = await asyncpg.connect(**tcp)
        try:
            await connection.execute("CREATE TEMPORARY TABLE pieces (number int, body bytea)")
            records = [(turn, payload(200 + number, seed=turn)) for turn in range(500)]
            await connection.copy_records_to_table("pieces", records=records)
            assert [tuple(row) for row in await connection.fetch("SELECT * FROM pieces ORDER BY number")] == records
        finally:
            await connection.close()

    await at_once(CONNECTIONS, client)


async def test_listen_and_notify(how: dict[str, Any]) -> None:
    """One speaks, a hundred listen; each hears everything, in order."""
    notices = 20
    ready = asyncio.Barrier(CONNECTIONS + 1)

    async def listener(number: int) -> None:
        connection = await asyncpg.connect(**how)
        try:
            heard: asyncio.Queue[object] = asyncio.Queue()
            await connection.add_listener("news", lambda _connection, _pid, _channel, text: heard.put_nowait(text))
            await ready.wait()
            assert [await heard.get() for _ in range(notices)] == [f"notice {turn}" for turn in range(notices)]
        finally:
            await connection.close()

    async def speaker() -> None:
        connection = await asyncpg.connect(**how)
        try:
            await ready.wait()
            for turn in range(notices):
                await connection.execute("SELECT pg_notify('news', $1)", f"notice {turn}")
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(speaker())
        group.create_task(at_once(CONNECTIONS, listener))


async def test_a_cancelled_query_is_cancelled_in_the_server(how: dict[str, Any]) -> None:
    async with asyncpg.create_pool(**how, min_size=2, max_size=10) as pool:
        watcher = await asyncpg.connect(**how)
        try:

            async def sleepers(expected: int) -> bool:
                count: int = await watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
                return count == expected

            tasks = [asyncio.ensure_future(pool.fetchval("SELECT pg_sleep(600)")) for _ in range(10)]
            await eventually(lambda: sleepers(10))
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            await eventually(lambda: sleepers(0))
            # The pool's connections are good for further use.
            assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(50))) == list(range(50))
        finally:
            await watcher.close()


async def test_a_query_that_times_out(how: dict[str, Any]) -> None:
    connection = await asyncpg.connect(**how)
    try:
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT pg_sleep(600)", timeout=0.2)
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


async def test_transactions_and_cursors(tcp: dict[str, Any]) -> None:
    async with asyncpg.create_pool(**tcp, min_size=10, max_size=CONNECTIONS) as pool:
        await pool.execute("DROP TABLE IF EXISTS account; CREATE TABLE account (id int PRIMARY KEY, amount int)")
        await pool.executemany("INSERT INTO account VALUES ($1, 100)", [(n,) for n in range(10)])

        async def move(number: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                first, second = sorted((number % 10, (number * 7 + 1) % 10))
                await connection.execute("SELECT 1 FROM account WHERE id IN ($1, $2) ORDER BY id FOR UPDATE", first, second)
                await connection.execute("UPDATE account SET amount = amount - 1 WHERE id = $1", first)
                await connection.execute("UPDATE account SET amount = amount + 1 WHERE id = $1", second)

        await at_once(3 * CONNECTIONS, move)
        assert await pool.fetchval("SELECT sum(amount) FROM account") == 1000
        async with pool.acquire() as connection, connection.transaction():
            seen = [row["i"] async for row in connection.cursor("SELECT i FROM generate_series(1, 5000) AS i", prefetch=97)]
        assert seen == list(range(1, 5001))
        await pool.execute("DROP TABLE account")


async def test_a_connection_that_the_server_ends(how: dict[str, Any]) -> None:
    victim, killer = await asyncpg.connect(**how), await asyncpg.connect(**how)
    lost = asyncio.Event()
    victim.add_termination_listener(lambda _connection: lost.set())
    try:
        query = asyncio.ensure_future(victim.fetchval("SELECT pg_sleep(600)"))
        pid = victim.get_server_pid()
        await eventually(lambda: killer.fetchval("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1", pid))
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await query
        await lost.wait()
        assert victim.is_closed()
    finally:
        await killer.close()


async def test_nobody_listens(tcp: dict[str, Any]) -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(**{**tcp, "port": support.free_port()})
