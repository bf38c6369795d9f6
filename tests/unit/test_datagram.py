"""Datagram endpoints: what the network does to them, and what asyncio's transport would do."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time
import warnings
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import aiouring

LOCAL = ("127.0.0.1", 0)
SENDS_EMPTY = sys.version_info >= (3, 13)
HEADER_BYTES = 8 if sys.version_info >= (3, 13) else 0


class Recorder(asyncio.DatagramProtocol):
    """Keeps what it is told, and lets a test wait until enough has come."""

    transport: Any

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.calls: list[str] = []
        self.lost: list[Exception | None] = []
        self.changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((data, addr))
        self.note("received")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.note("error")

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self.note("lost")

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self.changed.clear()
            await self.changed.wait()

    async def received(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.datagrams) >= count)
        return [data for data, _ in self.datagrams]


class Echo(Recorder):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def endpoint(factory: Callable[[], Any] = Recorder, **options: Any) -> tuple[Any, Any]:
    return await asyncio.get_running_loop().create_datagram_endpoint(factory, **options)


async def connected(address: Any, factory: Callable[[], Any] = Recorder, family: int = socket.AF_INET) -> tuple[Any, Any]:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect(address)
    return await endpoint(factory, sock=sock)


async def ended(protocol: Any) -> None:
    """Wait for connection_lost."""
    await protocol.until(lambda: bool(protocol.lost))


async def closed(*protocols: Any) -> None:
    """Close the transports and wait for connection_lost."""
    for protocol in protocols:
        protocol.transport.close()
    for protocol in protocols:
        await ended(protocol)


def name_of(transport: Any) -> Any:
    return transport.get_extra_info("sockname")


def stats() -> dict[str, int]:
    return asyncio.get_running_loop().ring_stats()  # type: ignore[attr-defined]


@contextmanager
def reports() -> Iterator[list[dict[str, Any]]]:
    """What goes to the running loop's exception handler."""
    loop, collected = asyncio.get_running_loop(), []  # type: ignore[var-annotated]
    loop.set_exception_handler(lambda loop, context: collected.append(context))
    try:
        yield collected
    finally:
        loop.set_exception_handler(None)


# -- echo -----------------------------------------------------------------------------------------------------------------------------

SIZES = [1, 2, 511, 1472, 1473, 8192, 16384, 65000, 65507]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_echo_of_many_sizes(host: str, rng: random.Random) -> None:
    server, server_protocol = await endpoint(Echo, local_addr=(host, 0))
    client, protocol = await endpoint(local_addr=(host, 0))
    sent = [rng.randbytes(size) for size in SIZES]
    for count, data in enumerate(sent, 1):
        client.sendto(data, name_of(server))
        await protocol.received(count)
    assert protocol.datagrams == [(data, name_of(server)) for data in sent]
    await closed(protocol, server_protocol)


async def test_echo_connected(rng: random.Random) -> None:
    server, server_protocol = await endpoint(Echo, local_addr=LOCAL)
    client, protocol = await connected(name_of(server))
    sent = [rng.randbytes(size) for size in SIZES]
    for count, data in enumerate(sent, 1):
        client.sendto(data)
        await protocol.received(count)
    assert protocol.datagrams == [(data, name_of(server)) for data in sent]
    assert client.get_extra_info("peername") == name_of(server)
    await closed(protocol, server_protocol)


async def test_empty_datagrams_are_received_and_do_not_end_the_receive() -> None:
    _server, protocol = await endpoint(local_addr=LOCAL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(name_of(protocol.transport))
        for data in (b"", b"a", b"", b"", b"b"):
            sock.send(data)
        assert await protocol.received(5) == [b"", b"a", b"", b"", b"b"]
        assert {addr for _, addr in protocol.datagrams} == {sock.getsockname()}
    await closed(protocol)


async def test_empty_datagrams_are_sent_as_this_python_does() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await endpoint(local_addr=LOCAL)
    client.sendto(b"", name_of(server))
    client.sendto(b"end", name_of(server))
    await protocol.until(lambda: (b"end", name_of(client)) in protocol.datagrams)
    assert [data for data, _ in protocol.datagrams] == ([b"", b"end"] if SENDS_EMPTY else [b"end"])
    await closed(protocol, client_protocol)


async def test_host_names_and_any_address() -> None:
    server, protocol = await endpoint(local_addr=("0.0.0.0", 0))
    port = name_of(server)[1]
    client, client_protocol = await endpoint(local_addr=LOCAL)
    for host in ("localhost", "127.0.0.1", "127.1", ""):
        client.sendto(host.encode() or b"any", (host, port))
    assert await protocol.received(4) == [b"localhost", b"127.0.0.1", b"127.1", b"any"]
    await closed(protocol, client_protocol)


# -- unix -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_unix_datagrams(kind: str, tmp_path: pathlib.Path, rng: random.Random) -> None:
    prefix = f"{tmp_path}/" if kind == "path" else f"\0aiouring-test-{os.getpid()}-{rng.randrange(2**32)}-"
    server, server_protocol = await endpoint(Echo, local_addr=prefix + "server", family=socket.AF_UNIX)
    client, protocol = await endpoint(local_addr=prefix + "client", family=socket.AF_UNIX)
    peer = prefix + "server" if kind == "path" else os.fsencode(prefix + "server")
    sent = [rng.randbytes(size) for size in (1, 1000, 65536, 70000, 200_000)]
    for count, data in enumerate(sent, 1):
        client.sendto(data, peer)
        await protocol.received(count)
    assert protocol.datagrams == [(data, peer) for data in sent]
    assert name_of(server) == peer
    await closed(protocol, server_protocol)


async def test_unix_sender_without_a_name(tmp_path: pathlib.Path) -> None:
    _server, protocol = await endpoint(local_addr=str(tmp_path / "server"), family=socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", str(tmp_path / "server"))
        sock.sendto(b"", str(tmp_path / "server"))
        await protocol.received(2)
    assert protocol.datagrams == [(b"hello", None), (b"", None)]
    await closed(protocol)


async def test_unix_socketpair() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        transport, protocol = await endpoint(sock=ours)
        theirs.send(b"ping")
        assert await protocol.received(1) == [b"ping"]
        transport.sendto(b"pong")
        theirs.settimeout(10)
        assert await asyncio.to_thread(theirs.recv, 100) == b"pong"
        await closed(protocol)


async def test_unix_order_is_kept_with_a_reader_that_is_slower_than_us(tmp_path: pathlib.Path) -> None:
    """The kernel queues about ten datagrams; the rest waits in the transport, and each must come after the one before it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(tmp_path / "reader"))
        reader.settimeout(10)
        transport, protocol = await endpoint(local_addr=str(tmp_path / "us"), family=socket.AF_UNIX)
        for number in range(500):
            transport.sendto(b"%d" % number, str(tmp_path / "reader"))
        got = await asyncio.to_thread(lambda: [int(reader.recv(100)) for _ in range(500)])
        assert got == list(range(500))
        await closed(protocol)


# -- order, floods, fairness ------------------------------------------------------------------------------------------------------------


async def test_sends_of_a_turn_go_out_in_order() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await connected(name_of(server))
    for start in range(0, 1000, 100):  # what the socket's receive buffer holds for sure
        before = stats()["turns"]
        for number in range(start, start + 100):
            client.sendto(b"%d" % number)
        assert stats()["turns"] == before
        await protocol.received(start + 100)
    assert [int(data) for data, _ in protocol.datagrams] == list(range(1000))
    await closed(protocol, client_protocol)


async def test_an_error_amid_a_batch_stops_nothing() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await endpoint(local_addr=LOCAL)
    for number in range(50):
        client.sendto(b"%d" % number, name_of(server))
        if number % 10 == 5:
            client.sendto(bytes(65508), name_of(server))
    assert [int(data) for data in await protocol.received(50)] == list(range(50))
    await client_protocol.until(lambda: len(client_protocol.errors) == 5)
    assert {error.errno for error in client_protocol.errors} == {errno.EMSGSIZE}
    assert client.get_write_buffer_size() == 0
    await closed(protocol, client_protocol)


async def test_an_error_amid_a_chain_stops_nothing(tmp_path: pathlib.Path) -> None:
    _server, protocol = await endpoint(local_addr=str(tmp_path / "server"), family=socket.AF_UNIX)
    client, client_protocol = await endpoint(local_addr=str(tmp_path / "client"), family=socket.AF_UNIX)
    for number in range(50):
        client.sendto(b"%d" % number, str(tmp_path / "server"))
        if number % 10 == 5:
            client.sendto(b"lost", str(tmp_path / "nobody"))
    assert [int(data) for data in await protocol.received(50)] == list(range(50))
    await client_protocol.until(lambda: len(client_protocol.errors) == 5)
    assert {type(error) for error in client_protocol.errors} == {FileNotFoundError}
    await closed(protocol, client_protocol)


async def test_flood() -> None:
    """100,000 datagrams from four senders that honour pause_writing: what arrives is in order, and no buffer or request stays behind."""
    total, senders = 100_000, 4
    before = stats()["slots_in_use"]

    class Counter(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.last: dict[Any, int] = {}
            self.count = 0

        def datagram_received(self, data: bytes, addr: Any) -> None:
            number = int(data)
            assert number > self.last.get(addr, -1)
            self.last[addr] = number
            self.count += 1
            self.changed.set()

    class Sender(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.may_write = asyncio.Event()
            self.may_write.set()

        def pause_writing(self) -> None:
            self.may_write.clear()

        def resume_writing(self) -> None:
            self.may_write.set()

    async def send(protocol: Any) -> None:
        for number in range(total // senders):
            protocol.transport.sendto(b"%020d" % number)
            if number % 100 == 99:
                await asyncio.sleep(0)
            await protocol.may_write.wait()

    with reports() as reported:
        server, counter = await endpoint(Counter, local_addr=LOCAL)
        protocols = [(await connected(name_of(server), Sender))[1] for _ in range(senders)]
        await asyncio.gather(*(send(protocol) for protocol in protocols))
        for protocol in protocols:
            await closed(protocol)
        last_words, last_words_protocol = await connected(name_of(server))
        # What is in the socket comes before this. If the socket was too full for it, more comes, and it is sent again.
        tries = 0
        while name_of(last_words) not in counter.last:
            last_words.sendto(b"%d" % tries)
            tries += 1
            counter.changed.clear()
            await counter.changed.wait()
        assert reported == []
    assert total // 10 < counter.count <= total + tries
    await closed(counter, last_words_protocol)
    after = stats()
    assert after["buffers_free"] == after["buffers_total"] > 0
    assert after["slots_in_use"] == before
    assert after["stale_cqes"] == 0


async def test_a_busy_socket_does_not_starve_the_others() -> None:
    """Each socket holds more datagrams than the loop has buffers, so the buffers run out in every turn."""
    counts = 100
    order: list[int] = []
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for sock in socks:
            sock.bind(LOCAL)
            for number in range(counts):
                sender.sendto(b"%d" % number, sock.getsockname())

    def numbered(index: int) -> Callable[[], Recorder]:
        class Numbered(Recorder):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                order.append(index)
                super().datagram_received(data, addr)

        return Numbered

    loop = asyncio.get_running_loop()
    # All four in one turn: the first must not be emptied before the others have begun.
    made = await asyncio.gather(*(loop.create_datagram_endpoint(numbered(i), sock=sock) for i, sock in enumerate(socks)))
    for _, protocol in made:
        assert [int(data) for data in await protocol.received(counts)] == list(range(counts))
    finished = [max(at for at, who in enumerate(order) if who == index) for index in range(4)]
    started = [min(at for at, who in enumerate(order) if who == index) for index in range(4)]
    assert max(started) < min(finished), "a socket was emptied before another one got anything"
    await closed(*(protocol for _, protocol in made))


# -- errors -----------------------------------------------------------------------------------------------------------------------------


async def test_refused_and_then_answered() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(LOCAL)
        address = probe.getsockname()
    client, protocol = await connected(address)
    for count in (1, 2, 3):
        client.sendto(b"is anybody there?")
        while len(protocol.errors) < count:
            protocol.changed.clear()
            await protocol.changed.wait()
    assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}
    assert not client.is_closing()
    _server, server_protocol = await endpoint(Echo, local_addr=address)
    while not protocol.datagrams:
        client.sendto(b"now?")
        protocol.changed.clear()
        await protocol.changed.wait()
    assert protocol.datagrams[0] == (b"now?", address)
    await closed(protocol, server_protocol)


async def test_what_the_network_refuses_goes_to_error_received() -> None:
    client, protocol = await endpoint(local_addr=("0.0.0.0", 0))
    client.sendto(b"no SO_BROADCAST", ("255.255.255.255", 9))
    await protocol.until(lambda: len(protocol.errors) == 1)
    assert isinstance(protocol.errors[0], PermissionError)
    client.sendto(bytes(70000), ("127.0.0.1", 9))
    await protocol.until(lambda: len(protocol.errors) == 2)
    assert protocol.errors[1].errno == errno.EMSGSIZE
    client.sendto(b"port 0", ("127.0.0.1", 0))
    await protocol.until(lambda: len(protocol.errors) == 3)
    assert protocol.errors[2].errno == errno.EINVAL
    assert not client.is_closing()
    await closed(protocol)


async def test_addresses_that_cannot_be_resolved_go_to_error_received() -> None:
    client, protocol = await endpoint(local_addr=LOCAL)
    client.sendto(b"x", ("no such host", 9))
    assert [type(error) for error in protocol.errors] == [socket.gaierror]
    client.sendto(b"x", ("::1", 9))
    assert [type(error) for error in protocol.errors] == [socket.gaierror] * 2
    await closed(protocol)


@pytest.mark.parametrize(
    ("address", "kind"),
    [("127.0.0.1", TypeError), (None, TypeError), (("127.0.0.1", 70000), OverflowError), (("127.0.0.1", "9"), TypeError), ((1, 9), TypeError)],
)
async def test_wrong_addresses_are_fatal(address: Any, kind: type[Exception]) -> None:
    with reports() as reported:
        client, protocol = await endpoint(local_addr=LOCAL)
        client.sendto(b"x", address)
        assert client.is_closing()
        await ended(protocol)
    assert [type(report["exception"]) for report in reported] == [kind]
    assert reported[0]["message"] == "Fatal write error on datagram transport"
    assert reported[0]["transport"] is client
    assert [type(error) for error in protocol.lost] == [kind]


async def test_wrong_arguments() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    # allow_broadcast leaves the socket unconnected: the remote address is the transport's.
    client, client_protocol = await endpoint(remote_addr=name_of(server), allow_broadcast=True)
    with pytest.raises(TypeError, match="data argument must be a bytes-like object, not 'str'"):
        client.sendto("text", name_of(server))
    with pytest.raises(ValueError, match="Invalid address: must be None or"):
        client.sendto(b"x", ("127.0.0.1", 9))
    client.sendto(b"to nobody in particular")
    client.sendto(b"to it", name_of(server))
    assert await protocol.received(2) == [b"to nobody in particular", b"to it"]
    with pytest.raises(ValueError, match="must be >= low"):
        client.set_write_buffer_limits(1, 2)
    await closed(protocol, client_protocol)


async def test_exceptions_of_the_protocol_go_to_the_exception_handler() -> None:
    class Failing(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise ZeroDivisionError("told to")

    with reports() as reported:
        server, protocol = await endpoint(Failing, local_addr=LOCAL)
        client, client_protocol = await connected(name_of(server))
        for data in (b"good", b"bad", b"good again"):
            client.sendto(data)
        assert await protocol.received(3) == [b"good", b"bad", b"good again"]
    assert [type(report["exception"]) for report in reported] == [ZeroDivisionError]
    assert not server.is_closing()
    await closed(protocol, client_protocol)


def test_keyboard_interrupt_passes_through_and_nothing_is_lost(loop: asyncio.AbstractEventLoop) -> None:
    class Interrupted(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"1":
                raise KeyboardInterrupt

    async def start() -> Any:
        _transport, protocol = await endpoint(Interrupted, local_addr=LOCAL)
        return protocol

    protocol = loop.run_until_complete(start())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(40):
            sock.sendto(b"%d" % number, name_of(protocol.transport))
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    got = loop.run_until_complete(protocol.received(40))
    assert [int(data) for data in got] == list(range(40))
    loop.run_until_complete(closed(protocol))


# -- the end ----------------------------------------------------------------------------------------------------------------------------


async def test_close_sends_what_is_queued() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await connected(name_of(server))
    for number in range(60):
        client.sendto(b"%d" % number)
    client.close()
    client.close()
    assert client.is_closing()
    await ended(client_protocol)
    assert client_protocol.lost == [None]
    assert len(await protocol.received(60)) == 60
    await closed(protocol)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_end_while_the_peer_does_not_read(end: str, tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(tmp_path / "reader"))
        transport, protocol = await endpoint(local_addr=str(tmp_path / "us"), family=socket.AF_UNIX)
        fd = transport.get_extra_info("socket").fileno()
        for number in range(100):
            transport.sendto(b"%d" % number, str(tmp_path / "reader"))
        # The peer's queue fills within some turns; then nothing moves any more.
        left = -1
        while left != transport.get_write_buffer_size():
            left = transport.get_write_buffer_size()
            for _ in range(20):
                await asyncio.sleep(0)
        assert left > 0
        getattr(transport, end)()
        reader.settimeout(10)
        if end == "close":
            for _ in range(20):
                await asyncio.sleep(0)
            assert protocol.lost == []
            assert os.fstat(fd)
            assert await asyncio.to_thread(lambda: [int(reader.recv(10)) for _ in range(100)]) == list(range(100))
            await ended(protocol)
        else:
            await ended(protocol)
            reader.setblocking(False)
            got = []
            with pytest.raises(BlockingIOError):
                while True:
                    got.append(int(reader.recv(10)))
            assert got == list(range(len(got)))
            assert len(got) < 100
        assert protocol.lost == [None]
        assert transport.get_write_buffer_size() == 0


async def test_abort_tries_once_what_was_sent_in_the_same_turn() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await connected(name_of(server))
    client.sendto(b"before the end")
    client.abort()
    await ended(client_protocol)
    other, other_protocol = await endpoint(remote_addr=name_of(server), allow_broadcast=True)
    other.sendto(b"other")
    other.abort()
    other.sendto(b"too late")
    await ended(other_protocol)
    last, last_protocol = await connected(name_of(server))
    last.sendto(b"last")
    assert await protocol.received(3) == [b"before the end", b"other", b"last"]
    await closed(protocol, last_protocol)


async def test_sending_on_a_closed_transport(caplog: pytest.LogCaptureFixture) -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await connected(name_of(server))
    remote, remote_protocol = await endpoint(remote_addr=name_of(server), allow_broadcast=True)
    await closed(client_protocol, remote_protocol)
    for transport in (client, remote):
        with caplog.at_level(logging.WARNING, logger="asyncio"):
            caplog.clear()
            for _ in range(4):
                transport.sendto(b"too late")
            assert caplog.messages == []
            for _ in range(3):
                transport.sendto(b"too late")
            assert set(caplog.messages) == {"socket.send() raised exception."}
        transport.close()
        transport.abort()
    server.close()
    await ended(protocol)
    assert protocol.datagrams == []


async def test_nothing_is_delivered_after_close() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"in the socket", name_of(server))
        server.close()
        await ended(protocol)
    assert protocol.calls == ["made", "lost"]


async def test_close_and_abort_within_callbacks() -> None:
    class Leaving(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            getattr(self.transport, data.decode())()

    for end in (b"close", b"abort"):
        server, protocol = await endpoint(Leaving, local_addr=LOCAL)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(20):
                sock.sendto(end, name_of(server))
        await ended(protocol)
        assert protocol.calls == ["made", "received", "lost"]

    class Unwilling(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.close()

    _transport, protocol = await endpoint(Unwilling, local_addr=LOCAL)
    await ended(protocol)
    assert protocol.calls == ["made", "lost"]


async def test_cancelled_creation_leaves_nothing() -> None:
    loop = asyncio.get_running_loop()
    before = stats()["slots_in_use"]
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    for turns in range(4):
        task = asyncio.ensure_future(loop.create_datagram_endpoint(factory, local_addr=LOCAL))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            result[0].close()
    for protocol in protocols:
        await ended(protocol)
    assert stats()["slots_in_use"] == before


async def test_a_descriptor_that_is_used_again_gets_only_its_own() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(50):
            first, first_protocol = await endpoint(local_addr=LOCAL)
            fd = first.get_extra_info("socket").fileno()
            for _ in range(5):
                sender.sendto(b"for the first", name_of(first))
            first.abort()
            await ended(first_protocol)
            second, second_protocol = await endpoint(local_addr=LOCAL)
            assert second.get_extra_info("socket").fileno() == fd
            sender.sendto(b"%d" % number, name_of(second))
            assert await second_protocol.received(1) == [b"%d" % number]
            await closed(second_protocol)
    assert stats()["stale_cqes"] == 0


def test_unclosed_transports_warn() -> None:
    loop: asyncio.AbstractEventLoop = aiouring.new_event_loop()

    async def start() -> None:
        await endpoint(local_addr=LOCAL)

    loop.run_until_complete(start())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        gc.collect()
    # The socket says so itself as well if the garbage collector comes to it first.
    texts = [str(warning.message) for warning in caught if "unclosed <socket" not in str(warning.message)]
    assert len(texts) == 1
    assert texts[0].startswith("unclosed transport <DatagramTransport fd=")


def test_a_closed_loop_frees_its_endpoints() -> None:
    async def start() -> tuple[Any, Any]:
        transport, protocol = await endpoint(local_addr=LOCAL)
        transport.sendto(bytes(100), name_of(transport))
        return transport, protocol

    for _ in range(20):
        loop = aiouring.new_event_loop()
        transport, _protocol = loop.run_until_complete(start())
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.sendto(b"x", LOCAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del transport, _protocol
            gc.collect()


# -- flow control ------------------------------------------------------------------------------------------------------------------------


async def test_write_buffer_limits() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await connected(name_of(server))
    assert client.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    client.set_write_buffer_limits(high=1000)
    assert client.get_write_buffer_limits() == (250, 1000)
    client.sendto(bytes(990))
    assert client.get_write_buffer_size() == 990 + HEADER_BYTES
    assert client_protocol.calls == ["made"]
    client.sendto(bytes(11))
    assert client_protocol.calls == ["made", "pause"]
    client.sendto(bytes(11))
    await client_protocol.until(lambda: "resume" in client_protocol.calls)
    assert client_protocol.calls == ["made", "pause", "resume"]
    assert client.get_write_buffer_size() == 0
    client.sendto(bytes(11))
    client.set_write_buffer_limits(high=0)
    assert client_protocol.calls == ["made", "pause", "resume", "pause"]
    await client_protocol.until(lambda: client_protocol.calls[-1] == "resume")
    assert [len(data) for data in await protocol.received(4)] == [990, 11, 11, 11]
    await closed(protocol, client_protocol)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_pause_reading(family: int, tmp_path: pathlib.Path) -> None:
    """Nothing is delivered while paused, nothing is lost, and the order stays, whatever was under way at the pause."""

    class Pausing(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            assert self.transport.is_reading()
            super().datagram_received(data, addr)
            if int(data) % 3 == 0:
                self.transport.pause_reading()
                self.transport.pause_reading()

    local = LOCAL if family == socket.AF_INET else str(tmp_path / "server")
    server, protocol = await endpoint(Pausing, local_addr=local, family=family)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for number in range(9):
            sock.sendto(b"%d" % number, name_of(server))
        for count in (1, 4, 7):
            await protocol.received(count)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(protocol.datagrams) == count
            assert not server.is_reading()
            server.resume_reading()
            if count == 4:
                # Both are undone before the kernel hears of the first.
                server.pause_reading()
                server.resume_reading()
        assert [int(data) for data in await protocol.received(9)] == list(range(9))
        server.pause_reading()
        sock.sendto(b"9", name_of(server))
    await closed(protocol)
    assert len(protocol.datagrams) == 9


async def test_what_the_caller_changes_later_is_not_sent() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    client, client_protocol = await connected(name_of(server))
    data = bytearray(b"before")
    client.sendto(data)
    client.sendto(memoryview(data)[:3])
    data[:] = b"after!"
    assert await protocol.received(2) == [b"before", b"bef"]
    await closed(protocol, client_protocol)


def test_what_was_ready_before_a_datagram_came_runs_before_it_is_seen(loop: asyncio.AbstractEventLoop) -> None:
    server, protocol = loop.run_until_complete(endpoint(local_addr=LOCAL))

    async def later() -> None:
        protocol.note("ready")
        await protocol.received(1)

    # It is in the socket before the loop looks at its ready callbacks, and in the completion queue before they run.
    server.sendto(b"x", name_of(server))
    loop.run_until_complete(later())
    assert protocol.calls == ["made", "ready", "received"]
    loop.run_until_complete(closed(protocol))


# -- sockets of all kinds ----------------------------------------------------------------------------------------------------------------


async def test_broadcast() -> None:
    server, protocol = await endpoint(local_addr=("0.0.0.0", 0), allow_broadcast=True)
    client, client_protocol = await endpoint(local_addr=("127.0.0.1", 0), allow_broadcast=True)
    client.sendto(b"to all", ("127.255.255.255", name_of(server)[1]))
    assert await protocol.received(1) == [b"to all"]
    await closed(protocol, client_protocol)


async def test_multicast() -> None:
    group = "239.255.43.21"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton("127.0.0.1")))
        _server, protocol = await endpoint(sock=sock.dup())
    client, client_protocol = await endpoint(local_addr=LOCAL)
    client.get_extra_info("socket").setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    client.sendto(b"to the group", (group, name_of(protocol.transport)[1]))
    assert await protocol.received(1) == [b"to the group"]
    await closed(protocol, client_protocol)


async def test_reuse_port() -> None:
    first, first_protocol = await endpoint(local_addr=LOCAL, reuse_port=True)
    _second, second_protocol = await endpoint(local_addr=name_of(first), reuse_port=True)
    senders = [await connected(name_of(first)) for _ in range(32)]
    for number, (sender, _) in enumerate(senders):
        sender.sendto(b"%d" % number)

    def all_came() -> bool:
        return len(first_protocol.datagrams) + len(second_protocol.datagrams) == 32

    await asyncio.wait(
        [asyncio.ensure_future(protocol.until(all_came)) for protocol in (first_protocol, second_protocol)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    await closed(first_protocol, second_protocol, *(protocol for _, protocol in senders))
    assert all_came()


async def test_other_families_use_the_socket_modules_addresses() -> None:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    sock.bind((0, 0))
    transport, protocol = await endpoint(sock=sock)
    assert isinstance(transport, asyncio.DatagramTransport)
    # RTM_GETLINK of all interfaces: header (length, type, flags, sequence, pid), struct ifinfomsg.
    transport.sendto(struct.pack("IHHII", 32, 18, 0x301, 1, 0) + bytes(16), (0, 0))
    await protocol.received(1)
    assert protocol.datagrams[0][1] == (0, 0)
    assert "fd=" in repr(transport)
    await closed(protocol)


async def test_extra_info_and_repr() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    assert isinstance(server, asyncio.DatagramTransport)
    sock = server.get_extra_info("socket")
    assert isinstance(sock, TransportSocket)
    assert sock.getsockname() == name_of(server)
    assert server.get_extra_info("peername") is None
    assert server.get_extra_info("nonsense", 7) == 7
    assert server.get_protocol() is protocol
    await asyncio.sleep(0)
    assert repr(server) == f"<DatagramTransport fd={sock.fileno()} read=polling write=<idle, bufsize=0>>"
    server.sendto(b"x", name_of(server))
    assert f"bufsize={1 + HEADER_BYTES}" in repr(server)
    fd = sock.fileno()
    server.close()
    assert repr(server).startswith(f"<DatagramTransport closing fd={fd} ")
    await ended(protocol)
    assert repr(server) == f"<DatagramTransport closed fd={fd}>"


async def test_a_descriptor_belongs_to_one_transport() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(server.get_extra_info("socket").fileno(), print)
    await closed(protocol)


async def test_set_protocol() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    successor = Recorder()
    server.set_protocol(successor)
    successor.transport = server
    server.sendto(b"to myself", name_of(server))
    assert await successor.received(1) == [b"to myself"]
    await closed(successor)
    assert protocol.calls == ["made"]


async def test_callbacks_run_in_the_context_of_the_creation() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen: list[str] = []

    class Looking(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            seen.append(variable.get())
            super().datagram_received(data, addr)

    variable.set("creation")
    server, protocol = await endpoint(Looking, local_addr=LOCAL)
    variable.set("later")
    server.sendto(b"x", name_of(server))
    await protocol.received(1)
    assert seen == ["creation"]
    await closed(protocol)


# -- threads -------------------------------------------------------------------------------------------------------------------------------


def test_the_loop_moves_to_another_thread(loop: asyncio.AbstractEventLoop, tmp_path: pathlib.Path) -> None:
    """The receives and a send that waits for its peer go on in the ring of the new thread, without loss or repetition."""
    udp = loop.run_until_complete(endpoint(local_addr=LOCAL))[1]
    unix = loop.run_until_complete(endpoint(local_addr=str(tmp_path / "us"), family=socket.AF_UNIX))[1]
    failures: list[BaseException] = []

    async def elsewhere() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"after", name_of(udp.transport))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"after", str(tmp_path / "us"))
        assert await udp.received(1) == [b"after"]
        assert await unix.received(1) == [b"after"]
        assert await asyncio.to_thread(lambda: [int(reader.recv(10)) for _ in range(100)]) == list(range(100))
        await closed(udp, unix)

    def run() -> None:
        try:
            loop.run_until_complete(elsewhere())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        except BaseException as exc:
            failures.append(exc)

    async def fill() -> None:
        for number in range(100):
            unix.transport.sendto(b"%d" % number, str(tmp_path / "reader"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert unix.transport.get_write_buffer_size() > 0

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(tmp_path / "reader"))
        reader.settimeout(10)
        loop.run_until_complete(fill())
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert failures == []


async def test_another_thread_is_told_so() -> None:
    server, protocol = await endpoint(local_addr=LOCAL)
    with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
        await asyncio.to_thread(server.sendto, b"x", name_of(server))
    with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
        await asyncio.to_thread(server.close)
    assert not server.is_closing()
    await closed(protocol)


# -- asyncio's order, memory, contexts ----------------------------------------------------------------------------------------------------


async def test_a_datagram_comes_before_a_timer_that_is_due_in_its_turn() -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await endpoint(local_addr=LOCAL)

    def overslept() -> None:
        # Timers run last in their turn, so the next turn begins with both: a datagram that is there, and a timer that is due.
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"first", name_of(transport))
        time.sleep(0.01)
        loop.call_later(-1, protocol.note, "timer")

    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_later(0.001, overslept)
    await protocol.until(lambda: "timer" in protocol.calls)
    assert protocol.calls == ["made", "received", "timer"]
    await closed(protocol)


async def test_pausing_at_each_datagram_leaves_the_others_in_the_socket() -> None:
    """A peer that floods a protocol which takes one datagram a turn fills the socket's buffer and not our memory."""
    count = 150

    class OneATurn(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.pause_reading()
            super().datagram_received(data, addr)
            if len(self.datagrams) < 40:
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    transport, protocol = await endpoint(OneATurn, local_addr=LOCAL)
    sock = transport.get_extra_info("socket").dup()
    with sock, socket.socket(type=socket.SOCK_DGRAM) as sender:
        for number in range(count):
            sender.sendto(b"%d" % number, name_of(transport))
        await protocol.received(40)
        left = 0
        with pytest.raises(BlockingIOError):
            while True:
                sock.recv(100)
                left += 1
        assert left >= count - 40 - 2 * 16      # what one receive may bring: 16 buffers, and a margin
    rest = Recorder()
    transport.set_protocol(rest)
    transport.resume_reading()
    await rest.received(count - left - 40)
    assert [int(data) for data, _ in protocol.datagrams + rest.datagrams] == list(range(count - left))
    transport.close()
    await ended(rest)


async def test_all_callbacks_run_in_the_transports_context() -> None:
    """One context, a copy of that of the creation: as uvloop's, and unlike asyncio's where connection_lost runs in that of close()."""
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[tuple[str, str]] = []

    class Contexts(Recorder):
        def note(self, call: str) -> None:
            seen.append((call, variable.get()))
            super().note(call)

    variable.set("created")
    transport, protocol = await endpoint(Contexts, local_addr=LOCAL)
    variable.set("later")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"data", name_of(transport))
    await protocol.received(1)
    await closed(protocol)
    assert seen == [("made", "created"), ("received", "created"), ("lost", "created")]


async def test_reuse_address_is_taken_as_asyncio_took_it_before_3_11() -> None:
    with pytest.raises(ValueError, match="SO_REUSEADDR"):
        await endpoint(local_addr=LOCAL, reuse_address=True)
    with pytest.warns(DeprecationWarning, match="reuse_address") as caught:
        transport, protocol = await endpoint(local_addr=LOCAL, reuse_address=False)
    assert caught[0].filename == __file__
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    await closed(protocol)
    with pytest.raises(TypeError):
        await endpoint(local_addr=LOCAL, no_such_argument=1)
