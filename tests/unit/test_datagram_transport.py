"""Datagram endpoints: what asyncio's transport would do. Their end, flow control, order, contexts and threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import pathlib
import socket
import threading
import time
import warnings
from typing import Any

import pytest

import aiouring

from .datagrams import HEADER_BYTES, LOCAL, Recorder, closed, connected, ended, endpoint, name_of, stats

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
