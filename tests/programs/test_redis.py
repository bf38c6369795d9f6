"""redis-py's asyncio client against a real Redis: pipelines, publish and subscribe, blocking commands that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from . import support
from .conftest import Redis
from .support import CONNECTIONS, at_once, eventually, payload

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, redis_server: Redis) -> str:
    if request.param == "unix":
        return f"unix://{redis_server.socket}?db=0"
    return f"redis://127.0.0.1:{redis_server.port}/0"


@contextlib.asynccontextmanager
async def client_of(url: str, **options: object) -> AsyncIterator[redis.Redis]:
    # The pool's own limit is 100; some tests need a hundred and the one that watches them.
    client = redis.from_url(url, max_connections=2 * CONNECTIONS, **options)
    try:
        await client.flushall()
        yield client
    finally:
        await client.aclose()


async def blocked(client: redis.Redis, count: int) -> bool:
    """Whether so many clients wait in a blocking command."""
    return int((await client.info("clients"))["blocked_clients"]) == count


async def test_hundred_connections_at_once(url: str) -> None:
    gate = asyncio.Barrier(CONNECTIONS)
    async with client_of(url) as watcher:

        async def client(number: int) -> int:
            async with redis.from_url(url, single_connection_client=True) as own:
                identity: int = await own.client_id()
                await gate.wait()
                for turn in range(20):
                    body = payload(turn * 997 + number, seed=number)
                    await own.set(f"{number}/{turn}", body)
                    assert await own.get(f"{number}/{turn}") == body
                await gate.wait()
                return identity

        assert len(set(await at_once(CONNECTIONS, client))) == CONNECTIONS
        assert await watcher.dbsize() == 20 * CONNECTIONS


async def test_many_commands_over_a_pool(url: str) -> None:
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=60)
    client = redis.Redis.from_pool(pool)
    try:
        await client.flushall()

        async def increment(number: int) -> None:
            await client.incr("counter")
            assert await client.echo(f"number {number}") == f"number {number}".encode()

        await at_once(2000, increment)
        assert await client.get("counter") == b"2000"
    finally:
        await client.aclose()


async def test_pipelines(url: str) -> None:
    async with client_of(url) as client:

        async def one(number: int) -> None:
            async with client.pipeline(transaction=bool(number % 2)) as pipeline:
                for turn in range(200):
                    pipeline.set(f"{number}/{turn}", payload(turn, seed=number))
                for turn in range(200):
                    pipeline.get(f"{number}/{turn}")
                answers = await pipeline.execute()
            assert answers[:200] == [True] * 200
            assert answers[200:] == [payload(turn, seed=number) for turn in range(200)]

        await at_once(CONNECTIONS, one)


async def test_large_values(url: str) -> None:
    async with client_of(url) as client:
        body = payload(64 << 20, seed=3)
        await client.set("large", body)
        assert await client.get("large") == body

        async def one(number: int) -> None:
            value = payload(1 << 20, seed=number % 8)
            await client.set(f"value {number}", value)
            assert await client.get(f"value {number}") == value

        await at_once(CONNECTIONS, one)


async def test_publish_and_subscribe(url: str) -> None:
    """A hundred subscribers hear each message, once and in order."""
    messages = 50
    ready = asyncio.Barrier(CONNECTIONS + 1)
    async with client_of(url) as client:

        async def subscriber(number: int) -> None:
            async with client.pubsub() as channel:
                await channel.subscribe("news")
                first = await channel.get_message(timeout=None)
                assert first is not None
                assert first["type"] == "subscribe"
                await ready.wait()
                heard = []
                async for message in channel.listen():
                    heard.append(message["data"])
                    if len(heard) == messages:
                        break
                assert heard == [payload(100 + turn, seed=turn) for turn in range(messages)]
                await channel.unsubscribe("news")

        async def publisher() -> None:
            await ready.wait()
            for turn in range(messages):
                assert await client.publish("news", payload(100 + turn, seed=turn)) == CONNECTIONS

        async with asyncio.TaskGroup() as group:
            group.create_task(publisher())
            group.create_task(at_once(CONNECTIONS, subscriber))


async def test_blocking_pops_that_are_cancelled(url: str) -> None:
    """A cancelled wait takes nothing: what is pushed afterwards is all there for others."""
    async with client_of(url) as client:
        tasks = [asyncio.ensure_future(client.blpop(["queue"], timeout=0)) for _ in range(CONNECTIONS)]
        await eventually(lambda: blocked(client, CONNECTIONS))
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        # Redis sees the closed connections by itself; before that, it may hand a value to one of them.
        await eventually(lambda: blocked(client, 0))
        await client.rpush("queue", *range(CONNECTIONS))
        popped = [tuple(await client.blpop(["queue"], timeout=0) or ()) for _ in range(CONNECTIONS)]
        assert popped == [(b"queue", str(number).encode()) for number in range(CONNECTIONS)]
        assert await client.llen("queue") == 0


async def test_blocking_pops_that_are_served(url: str) -> None:
    async with client_of(url) as client:
        tasks = [asyncio.ensure_future(client.blpop(["queue"], timeout=0)) for _ in range(CONNECTIONS)]
        await eventually(lambda: blocked(client, CONNECTIONS))
        await client.rpush("queue", *range(CONNECTIONS))
        popped = [tuple(answer or ()) for answer in await asyncio.gather(*tasks)]
        assert sorted(int(value) for _, value in popped) == list(range(CONNECTIONS))


async def test_a_blocking_pop_that_times_out(url: str) -> None:
    async with client_of(url) as client:
        assert await client.blpop(["nothing"], timeout=0.1) is None


async def test_a_connection_that_the_server_ends(url: str) -> None:
    async with client_of(url) as client, redis.from_url(url, single_connection_client=True, retry=Retry(NoBackoff(), 0)) as victim:
        identity = await victim.client_id()
        waiting = asyncio.ensure_future(victim.blpop(["nothing"], timeout=0))
        await eventually(lambda: blocked(client, 1))
        assert await client.client_kill_filter(_id=str(identity)) == 1
        with pytest.raises(redis.ConnectionError):
            await waiting


async def test_nobody_listens() -> None:
    client = redis.Redis(host="127.0.0.1", port=support.free_port(), retry=Retry(NoBackoff(), 0))
    with pytest.raises(redis.ConnectionError):
        await client.ping()
    await client.aclose()
