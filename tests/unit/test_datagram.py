"""Datagram endpoints: what the network does to them, over each kind of socket."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import random
import socket
import struct
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from typing import Any

import pytest

from .datagrams import HEADER_BYTES, LOCAL, SENDS_EMPTY, Echo, Recorder, closed, connected, ended, endpoint, name_of, reports, stats
from .sockets import own_host

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
        probe.bind((own_host(), 0))
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
