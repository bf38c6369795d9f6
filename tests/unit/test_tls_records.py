"""TLS record by record: what shares one, records that come in pieces, and what is no record at all."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from .tls_peer import MUCH, BufferedRecorder, Loop, Recorder, client_of_peer, run

RECORD_HEADER_BYTES = 5
APPLICATION_DATA = 23


def sealed(peer_tls: ssl.SSLObject, outgoing: ssl.MemoryBIO, *pieces: bytes) -> bytes:
    """What goes over the wire for these pieces, each in a record of its own."""
    for piece in pieces:
        peer_tls.write(piece)
    return outgoing.read()


def record_types(wire: bytes) -> list[int]:
    types = []
    while wire:
        types.append(wire[0])
        wire = wire[RECORD_HEADER_BYTES + int.from_bytes(wire[3:5], "big") :]
    return types


def test_writes_of_one_turn_share_a_record(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        mutable = bytearray(b"body")
        transport.write(b"head, ")
        transport.write(mutable)
        mutable[:] = b"...."  # written is written
        wire = await loop.sock_recv(peer.sock, 65536)
        assert record_types(wire) == [APPLICATION_DATA]
        peer.incoming.write(wire)
        assert peer.tls.read(100) == b"head, body"
        transport.abort()
        assert await recorder.lost is None
        peer.close()

    run(loop, main())


def test_sizes_around_a_record_keep_their_order(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    sizes = [1, 16383, 1, 16384, 16385, 7, 9, 70_000, 3, 65_536, 1]

    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        expected = bytearray()
        for size in sizes:
            piece = MUCH[len(expected) : len(expected) + size]
            transport.write(piece)
            expected += piece
        assert await peer.receive(len(expected)) == expected
        transport.abort()
        assert await recorder.lost is None
        peer.close()

    run(loop, main())


def test_write_then_abort_sends_what_was_written(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        transport.write(b"last words")
        transport.abort()
        assert await peer.receive(10) == b"last words"
        assert await recorder.lost is None
        peer.close()

    run(loop, main())


def test_write_between_two_runs_goes_out_at_once(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    transport, peer = run(loop, client_of_peer(loop, recorder, client_context, server_context))
    transport.write(b"while the loop rests")
    peer.sock.settimeout(30)
    peer.incoming.write(peer.sock.recv(65536))
    assert peer.tls.read(100) == b"while the loop rests"
    peer.sock.setblocking(False)
    transport.abort()
    assert run(loop, asyncio.wait_for(recorder.lost, 30)) is None
    peer.close()


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_records_in_pieces(
    loop: Loop, kind: type[Recorder], step: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """Each piece is delivered by itself; with a read limit of zero nothing but whole records counts as waiting."""
    recorder = kind(loop)

    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        await peer.send(b"0")
        await recorder.bytes_received(1)
        transport.set_read_buffer_limits(0, 0)  # type: ignore[attr-defined]
        protocol = transport._ssl_protocol
        wire = sealed(peer.tls, peer.outgoing, b"first", b"second" * 20, b"third")
        for start in range(0, len(wire), step):
            protocol.data_received(wire[start : start + step])
            assert transport.get_read_buffer_size() == 0  # type: ignore[attr-defined]
        assert recorder.received == b"0first" + b"second" * 20 + b"third"
        await peer.send(b"and over the socket")  # the transport below was not paused for good
        await recorder.bytes_received(1 + 5 + 120 + 5 + 19)
        transport.abort()
        assert await recorder.lost is None
        peer.close()

    run(loop, main())


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
def test_much_comes_whole(loop: Loop, kind: type[Recorder], client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    """Large receives are fed to OpenSSL in pieces, of which none ends with a record."""
    recorder = kind(loop)

    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)
        await peer.send(MUCH)
        await recorder.bytes_received(len(MUCH))
        assert recorder.received == MUCH
        transport.abort()
        assert await recorder.lost is None
        peer.close()

    run(loop, main())


def test_what_is_no_record_ends_the_connection(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        _, peer = await client_of_peer(loop, recorder, client_context, server_context)
        await peer.send(b"data")
        await recorder.bytes_received(4)
        # As a record it would be longer than what comes: nobody must wait for its end.
        await loop.sock_sendall(peer.sock, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert isinstance(await recorder.lost, ssl.SSLError)
        peer.close()

    run(loop, main())


def test_application_that_writes_and_raises_has_written(
    loop: Loop, recorder: Recorder, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    reports: list[object] = []
    loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))

    async def main() -> None:
        transport, peer = await client_of_peer(loop, recorder, client_context, server_context)

        def fail() -> None:
            transport.write(b"an apology")
            raise ZeroDivisionError

        recorder.on_data = fail
        await peer.send(b"data")
        assert await peer.receive(10) == b"an apology"
        assert isinstance(await recorder.lost, ZeroDivisionError)
        peer.close()

    run(loop, main())
    assert [type(exception) for exception in reports] == [ZeroDivisionError]


def test_an_interrupt_in_a_buffered_protocol_leaves_no_gap_in_the_stream(loop, client_context, server_context):
    """What was received together with the record that it came in goes on in the next run."""
    data = bytes(range(256)) * 400
    protocol = BufferedRecorder(loop)
    transport, peer = run(loop, client_of_peer(loop, protocol, client_context, server_context))

    def interrupt() -> None:
        protocol.on_data = lambda: None
        raise KeyboardInterrupt

    protocol.on_data = interrupt
    sending = loop.create_task(peer.send(data))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(protocol.bytes_received(len(data)))
    run(loop, protocol.bytes_received(len(data)))
    assert protocol.received == data
    run(loop, sending)
    transport.abort()
    run(loop, protocol.lost)
    peer.close()
