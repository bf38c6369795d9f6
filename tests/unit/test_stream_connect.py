"""create_connection() to an IP address: the short way, which must not be told from asyncio's long one."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import aiouring
from tests.unit.sockets import deaf_port

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.events: list[Any] = [("factory", VARIABLE.get())]
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append(("made", VARIABLE.get()))

    def data_received(self, data: bytes) -> None:
        self.events.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(exc)
        self.lost.set_result(None)


@pytest.fixture(autouse=True)
def _short_way(loop: asyncio.AbstractEventLoop) -> None:
    """Debug mode goes asyncio's way, which logs each connection."""
    loop.set_debug(False)


@pytest.fixture
def full(descriptors: None) -> Iterator[tuple[str, int]]:
    """The address of a listener whose queue is full: who connects waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        yield address
        for sock in waiting:
            sock.close()


def descriptors_open() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection(loop: asyncio.AbstractEventLoop, host: str) -> None:
    async def main(listener: socket.socket) -> None:
        VARIABLE.set("the caller's")
        transport, protocol = await loop.create_connection(Recorder, host, listener.getsockname()[1])
        peer, name = listener.accept()
        with peer:
            assert transport.get_extra_info("sockname") == name
            assert transport.get_extra_info("peername") == peer.getsockname()
            sock = transport.get_extra_info("socket")
            assert (sock.family, sock.type, sock.proto) == (listener.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not os.get_inheritable(sock.fileno())
            transport.write(b"there")
            assert await loop.run_in_executor(None, peer.recv, 5, socket.MSG_WAITALL) == b"there"
            peer.sendall(b"back")
        await protocol.lost
        assert protocol.events == [("factory", "the caller's"), ("made", "the caller's"), b"back", None]

    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        loop.run_until_complete(main(listener))


def test_it_is_a_coroutine_function(loop: asyncio.AbstractEventLoop) -> None:
    assert asyncio.iscoroutinefunction(loop.create_connection)
    assert inspect.signature(type(loop).create_connection) == inspect.signature(asyncio.BaseEventLoop.create_connection)

    async def main(port: int) -> None:
        connecting: Any = loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        assert asyncio.iscoroutine(connecting)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_task(connecting)

    with deaf_port() as port:
        loop.run_until_complete(main(port))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_refusal_is_worded_as_asyncio_words_it(loop: asyncio.AbstractEventLoop, host: str) -> None:
    with deaf_port(host) as port:
        with pytest.raises(ConnectionRefusedError) as ours:
            loop.run_until_complete(loop.create_connection(asyncio.Protocol, host, port))
        reference = asyncio.SelectorEventLoop()
        with pytest.raises(ConnectionRefusedError) as theirs:
            reference.run_until_complete(reference.create_connection(asyncio.Protocol, host, port))
        reference.close()
    assert (ours.value.errno, str(ours.value)) == (theirs.value.errno, str(theirs.value))


@pytest.mark.parametrize(
    "arguments",
    [("127.0.0.1", 70000), ("127.0.0.1", -1), ("999.0.0.1", 80), ("255.255.255.255", 80), ("", 80), ("127.0.0.1\0", 80), ("::1%nowhere", 80)],
)
def test_what_is_wrong_is_wrong_as_in_asyncio(loop: asyncio.AbstractEventLoop, arguments: tuple[str, int]) -> None:
    raised = []
    reference = asyncio.SelectorEventLoop()
    for tried in (reference, loop):
        with pytest.raises(Exception) as caught:
            tried.run_until_complete(tried.create_connection(asyncio.Protocol, *arguments))
        raised.append((type(caught.value), str(caught.value)))
    reference.close()
    assert raised[0] == raised[1]


def test_cancelling_closes_what_was_begun(loop: asyncio.AbstractEventLoop, full: tuple[str, int]) -> None:
    async def main() -> None:
        before = descriptors_open()
        task = loop.create_task(loop.create_connection(asyncio.Protocol, *full))
        while descriptors_open() == before:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while descriptors_open() != before:
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_cancelled_in_the_turn_in_which_it_began(loop: asyncio.AbstractEventLoop) -> None:
    async def main(address: tuple[str, int]) -> None:
        before = descriptors_open()
        # After so many turns the request may be queued, under way, done, or its transport there and its protocol not yet called.
        for turns in range(6):
            task = loop.create_task(loop.create_connection(asyncio.Protocol, *address))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                (await task)[0].close()
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            while descriptors_open() != before:
                await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop.run_until_complete(main(listener.getsockname()))


def test_a_coroutine_that_is_thrown_away_leaves_nothing(loop: asyncio.AbstractEventLoop, full: tuple[str, int]) -> None:
    async def main() -> None:
        before = descriptors_open()
        never: Any = loop.create_connection(asyncio.Protocol, *full)
        never.close()
        begun: Any = loop.create_connection(asyncio.Protocol, *full)
        begun.send(None)
        assert descriptors_open() == before + 1
        begun.close()
        while descriptors_open() != before:
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_a_factory_that_raises_closes_the_connection(loop: asyncio.AbstractEventLoop) -> None:
    def factory() -> asyncio.Protocol:
        raise ValueError("no protocol today")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ValueError, match="no protocol today"):
            loop.run_until_complete(loop.create_connection(factory, *listener.getsockname()))
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1) == b""


def test_a_loop_that_is_closed_while_connecting_closes_the_descriptor(full: tuple[str, int]) -> None:
    loop = aiouring.new_event_loop()
    loop.set_debug(False)
    before = descriptors_open()
    task = loop.create_task(loop.create_connection(asyncio.Protocol, *full))

    async def main() -> None:
        while descriptors_open() == before:
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would say what this test is about
    del task
    loop.close()
    assert descriptors_open() < before


def test_a_connect_goes_on_in_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    async def begin(address: tuple[str, int]) -> asyncio.Task[Any]:
        task = loop.create_task(loop.create_connection(Recorder, *address))
        before = descriptors_open()
        while descriptors_open() == before:
            await asyncio.sleep(0)
        return task

    async def finish(task: asyncio.Task[Any], listener: socket.socket) -> None:
        transport, protocol = await task
        listener.accept()[0].close()
        await protocol.lost
        assert protocol.events[1:] == [("made", "unset"), None]
        transport.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = loop.run_until_complete(begin(listener.getsockname()))
        failed: list[BaseException] = []

        def elsewhere() -> None:
            try:
                loop.run_until_complete(finish(task, listener))
            except BaseException as exc:
                failed.append(exc)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert failed == []


def test_many_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        accepted = ended = 0

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                nonlocal accepted
                accepted += 1

            def connection_lost(self, exc: Exception | None) -> None:
                nonlocal ended
                ended += 1

        server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1000)
        address = server.sockets[0].getsockname()
        for _ in range(3):
            made = await asyncio.gather(*(loop.create_connection(Recorder, *address) for _ in range(200)))
            assert len({transport.get_extra_info("sockname") for transport, _ in made}) == 200
            for transport, _ in made:
                transport.close()
            for _, protocol in made:
                await protocol.lost
        while ended < 600:
            await asyncio.sleep(0)
        assert accepted == 600
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
