"""More of everything than fits: completions, submissions and buffers. Nothing is lost, nothing leaks."""

from __future__ import annotations

import asyncio
import resource
import socket

import pytest


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 19_000:
        pytest.fail(f"the hard limit of open descriptors is {hard}; this test needs 19,000 (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (19_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Counter(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, expected: int) -> None:
        self.received = b""
        self.lost = loop.create_future()
        self.complete = loop.create_future()
        self.expected = expected

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) == self.expected:
            self.complete.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


def test_more_completions_than_the_queue_holds(loop, many_descriptors):
    """9,000 receives that complete while they are submitted overflow a completion queue of 8,192 and the 128 buffers."""
    count = 9000
    pairs = [socket.socketpair() for _ in range(count)]

    async def main() -> None:
        made = []
        for ours, theirs in pairs:
            theirs.sendall(b"12345678")
            ours.setblocking(False)
            protocol = Counter(loop, 8)
            made.append((loop._make_socket_transport(ours, protocol), protocol))
        await asyncio.gather(*(protocol.complete for _, protocol in made))
        for transport, protocol in made:
            assert protocol.received == b"12345678"
            transport.close()
        await asyncio.gather(*(protocol.lost for _, protocol in made))

    loop.run_until_complete(main())
    for _, theirs in pairs:
        theirs.close()
    stats = loop.ring_stats()
    assert stats["slots_in_use"] == 1  # the wake-up pipe
    assert stats["buffers_free"] == stats["buffers_total"]
    assert stats["stale_cqes"] == 0


def test_more_requests_in_a_turn_than_the_submission_queue_holds(loop):
    pairs = [socket.socketpair() for _ in range(200)]

    async def main() -> None:
        transports = []
        for ours, _ in pairs:
            ours.setblocking(False)
            transports.append(loop._make_socket_transport(ours, Counter(loop, 1)))
        await asyncio.sleep(0)
        for round_number in range(50):
            for transport in transports:
                transport.write(b"%03d" % round_number)
                transport.pause_reading()
                transport.resume_reading()
            await asyncio.sleep(0)
        for transport in transports:
            transport.close()
            await transport.get_protocol().lost

    loop.run_until_complete(main())
    expected = b"".join(b"%03d" % number for number in range(50))
    for _, theirs in pairs:
        assert theirs.recv(1000) == expected
        theirs.close()


def test_queueing_without_running_is_bounded(loop):
    """A loop that does not run cannot submit: what is too much is refused, and what was accepted happens."""
    pairs = [socket.socketpair() for _ in range(100)]
    fired: list[int] = []
    for index, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")

        def read(ours: socket.socket = ours, index: int = index) -> None:
            ours.recv(1)
            fired.append(index)
            if len(fired) == 100:
                loop.stop()

        loop.add_reader(ours, read)
    loop.run_forever()
    assert sorted(fired) == list(range(100))
    for ours, theirs in pairs:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()


def test_close_with_everything_in_flight(loop):
    pairs = [socket.socketpair() for _ in range(300)]

    async def main() -> None:
        for ours, _ in pairs:
            ours.setblocking(False)
            loop.add_reader(ours, print)
            loop.create_task(loop.sock_recv(ours, 10)) if ours.fileno() % 2 else None
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert loop.ring_stats()["slots_in_use"] >= 300

    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()
    assert loop.ring_stats()["slots_in_use"] == 0
    for ours, theirs in pairs:
        ours.close()
        theirs.settimeout(30)
        assert theirs.recv(1) == b""  # the kernel let go of our end
        theirs.close()
