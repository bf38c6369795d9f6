"""The ring's table of registered files, through the endpoints that use it: their requests do not look a descriptor up."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest

import aiouring
from tests.unit.sockets import own_host

TABLE_ENTRIES = 1024


class Echo(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)

    @property
    def address(self) -> Any:
        return self.transport.get_extra_info("sockname")


async def echo_endpoint(**options: Any) -> Echo:
    options = options or {"local_addr": (own_host(), 0)}
    return (await asyncio.get_running_loop().create_datagram_endpoint(Echo, **options))[1]


def registered() -> int:
    return asyncio.get_running_loop().ring_stats()["registered_files"]  # type: ignore[attr-defined, no-any-return]


async def answers(endpoint: Echo, data: bytes) -> bool:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(endpoint.address)
        await loop.sock_sendall(client, data)
        return await asyncio.wait_for(loop.sock_recv(client, 2048), 60) == data


async def test_requests_go_by_the_table_and_not_by_the_descriptor() -> None:
    endpoint = await echo_endpoint()
    assert await answers(endpoint, b"before")
    assert registered() == 1
    # Another file takes the number: whoever looked it up would send there.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, endpoint.transport.get_extra_info("socket").fileno())
    os.close(null)
    assert await answers(endpoint, b"after")
    endpoint.transport.close()
    await endpoint.lost


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_closed_endpoint_leaves_the_table_and_its_port(end: str) -> None:
    endpoint = await echo_endpoint()
    address = endpoint.address
    for number in range(200):
        assert await answers(endpoint, b"%d" % number)
        getattr(endpoint.transport, end)()
        await endpoint.lost
        assert registered() == 0
        endpoint = await echo_endpoint(local_addr=address)  # EADDRINUSE if the table still held the socket
    endpoint.transport.close()
    await endpoint.lost


async def test_more_endpoints_than_the_table_has_room_for() -> None:
    needed = TABLE_ENTRIES + 30
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    endpoints = [await echo_endpoint() for _ in range(needed)]
    for endpoint in (endpoints[0], endpoints[TABLE_ENTRIES - 1], endpoints[TABLE_ENTRIES], endpoints[-1]):
        assert await answers(endpoint, b"full")
    assert registered() == TABLE_ENTRIES
    endpoints[-1].transport.abort()
    for endpoint in endpoints[:-1]:
        endpoint.transport.close()
    for endpoint in endpoints:
        await endpoint.lost
    assert registered() == 0


FEW_DESCRIPTORS = """
import asyncio, resource
import aiouring
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
async def main():
    loop = asyncio.get_running_loop()
    transports = [(await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)))[0] for _ in range(20)]
    await asyncio.sleep(0)
    print(loop.ring_stats()["registered_files"])
    for transport in transports:
        transport.close()
aiouring.run(main())
"""


def test_a_process_that_may_open_few_descriptors_has_a_small_table() -> None:
    ended = subprocess.run([sys.executable, "-c", FEW_DESCRIPTORS], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "20\n", "")


def test_a_loop_that_moves_to_another_thread_fills_a_new_table(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[Any] = []

    async def begin() -> Echo:
        endpoint = await echo_endpoint()
        assert await answers(endpoint, b"here")
        return endpoint

    async def go_on(endpoint: Echo) -> None:
        seen.append(await answers(endpoint, b"there"))
        seen.append(registered())
        endpoint.transport.close()
        await endpoint.lost
        seen.append(registered())

    endpoint = loop.run_until_complete(begin())
    thread = threading.Thread(target=lambda: loop.run_until_complete(go_on(endpoint)))
    thread.start()
    thread.join()
    assert seen == [True, 1, 0]


async def test_abort_cancels_all_that_is_in_flight_on_the_file(tmp_path: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as slow:
        slow.bind(str(tmp_path / "slow"))
        near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        near.connect(str(tmp_path / "slow"))
        endpoint = await echo_endpoint(sock=near)
        for number in range(1000):
            endpoint.transport.sendto(b"%d" % number)
        for _ in range(100):
            await asyncio.sleep(0)
        assert endpoint.transport.get_write_buffer_size() > 0
        loop = asyncio.get_running_loop()
        before = loop.ring_stats()["slots_in_use"]  # type: ignore[attr-defined]
        endpoint.transport.abort()
        await endpoint.lost
        assert loop.ring_stats()["slots_in_use"] == before - 2  # type: ignore[attr-defined]  # the receive, and the wait for room
        assert loop.ring_stats()["stale_cqes"] == 0  # type: ignore[attr-defined]


def test_a_closed_loop_closes_what_its_table_held() -> None:
    loop = aiouring.new_event_loop()
    endpoint = loop.run_until_complete(echo_endpoint())
    address = endpoint.address
    endpoint.transport.get_extra_info("socket")._sock.close()
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del endpoint
        gc.collect()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)


async def test_an_endpoint_that_is_dropped_while_it_is_paused_lets_its_socket_go() -> None:
    """Nothing is in flight then, so that only the garbage collector ends it, as in asyncio."""
    loop = asyncio.get_running_loop()
    endpoint = await echo_endpoint()
    address = endpoint.address
    endpoint.transport.pause_reading()
    await asyncio.sleep(0)
    in_flight = loop.ring_stats()["slots_in_use"]
    while loop.ring_stats()["slots_in_use"] == in_flight:
        await asyncio.sleep(0)
    assert registered() == 1
    del endpoint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of the transport, or of its socket: who is found first
        gc.collect()
    assert registered() == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(address)
