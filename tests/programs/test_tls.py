"""Our TLS against TLS that is not Python's: a server of asyncio streams under curl and openssl, a client against openssl's server.

The foreign programs run in threads (subprocess.run), so that only the sockets depend on the loop under test.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from . import support
from .conftest import ALTERNATIVE_NAME, Certificates
from .support import CONNECTIONS, at_once, payload

pytestmark = pytest.mark.asyncio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def run_program(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = support.require_program(command[0], command[0])
    return await asyncio.to_thread(
        subprocess.run, [program, *command[1:]], input=stdin, capture_output=True, timeout=support.PATIENCE_S * 2
    )


async def s_client(port: int, certificates: Certificates, *options: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """openssl's client, which verifies us; it ends when we close, and complains when we do so without a close_notify."""
    return await run_program(
        "openssl",
        *("s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", certificates.authority, "-verify_return_error", "-ign_eof"),
        *options,
        stdin=stdin,
    )


class Handled:
    """Runs handlers for the server and keeps what they raise: an exception in a handler must fail the test."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._run(reader, writer))
        self._tasks.add(task)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def finish(self) -> None:
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None, **options: object) -> AsyncIterator[int]:
    """A server of asyncio streams on a free port; what its handlers raised is raised at the end."""
    handled = Handled(handler)
    server = await asyncio.start_server(handled, "127.0.0.1", 0, ssl=context, backlog=512, **options)  # type: ignore[arg-type]
    async with server:
        yield server.sockets[0].getsockname()[1]
    await handled.finish()


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Just enough HTTP for curl: GET /SIZE/SEED gives bytes, POST gives the body back; connections are kept alive."""
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError as cut:
            if cut.partial:
                raise
            return
        method, path, _ = head.split("\r\n")[0].split(" ")
        if method == "GET":
            body = payload(*map(int, path.strip("/").split("/")))
        else:
            length = re.search(r"(?i)\r\ncontent-length: (\d+)\r\n", head)
            assert length is not None
            if "100-continue" in head.lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(length[1]))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        writer.write(body)
        await writer.drain()


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"])


@VERSIONS
async def test_curl_gets_and_posts_large_bodies(certificates: Certificates, tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    size = 24 << 20
    sent = tmp_path / "sent"
    sent.write_bytes(payload(size, seed=2))
    async with serving(http, context) as port:
        base = ["curl", "--silent", "--show-error", "--fail", "--cacert", certificates.authority, "--http1.1"]
        got = await run_program(*base, f"https://localhost:{port}/{size}/1")
        assert got.returncode == 0, got.stderr
        assert got.stdout == payload(size, seed=1)
        came_back = await run_program(*base, "--data-binary", f"@{sent}", f"https://localhost:{port}/")
        assert came_back.returncode == 0, came_back.stderr
        assert came_back.stdout == payload(size, seed=2)


async def test_curl_with_hundred_connections(certificates: Certificates, tmp_path: Path) -> None:
    """A hundred TLS connections of one curl are open at once: no answer begins before all handshakes are done."""
    everybody = asyncio.Barrier(CONNECTIONS)

    async def together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await everybody.wait()
        await http(reader, writer)

    config = [f'url = "https://localhost:PORT/{200_000 + number}/{number}"\noutput = "{tmp_path}/{number}"\n' for number in range(CONNECTIONS)]
    async with serving(together, certificates.server_context()) as port:
        got = await run_program(
            "curl",
            *("--silent", "--show-error", "--fail", "--cacert", certificates.authority, "--http1.1"),
            *("--parallel", "--parallel-immediate", "--parallel-max", str(CONNECTIONS), "--config", "-"),
            stdin="".join(config).replace("PORT", str(port)).encode(),
        )
        assert got.returncode == 0, got.stderr
    for number in range(CONNECTIONS):
        assert tmp_path.joinpath(str(number)).read_bytes() == payload(200_000 + number, seed=number)


async def test_curl_reuses_a_connection(certificates: Certificates) -> None:
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await http(reader, writer)

    async with serving(counted, certificates.server_context()) as port:
        urls = [f"https://localhost:{port}/{1000 + number}/{number}" for number in range(20)]
        got = await run_program("curl", "--silent", "--fail", "--cacert", certificates.authority, "--http1.1", *urls)
    assert got.returncode == 0, got.stderr
    assert got.stdout == b"".join(payload(1000 + number, seed=number) for number in range(20))
    assert connections == 1


async def test_alpn(certificates: Certificates) -> None:
    seen: list[str | None] = []

    async def protocol(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        writer.write(b"bye\n")
        await writer.drain()

    context = certificates.server_context()
    context.set_alpn_protocols(["first/1", "http/1.1"])
    async with serving(protocol, context) as port:
        for offered, chosen in (("http/1.1", "http/1.1"), ("http/1.1,first/1", "first/1"), (None, None)):
            result = await s_client(port, certificates, *(["-alpn", offered] if offered else []))
            assert result.returncode == 0, result.stderr
            assert (f"ALPN protocol: {chosen}" if chosen else "No ALPN negotiated").encode() in result.stdout
            assert seen.pop() == chosen

    async with serving(http, context) as port:
        curl = await run_program("curl", "-sv", "--cacert", certificates.authority, f"https://localhost:{port}/10/0")
        assert curl.stdout == payload(10)
        assert b"ALPN: server accepted http/1.1" in curl.stderr


async def test_sni_chooses_the_certificate(certificates: Certificates) -> None:
    context, alternative = certificates.server_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    alternative.load_cert_chain(certificates.alternative)
    asked: list[str | None] = []

    def choose(connection: ssl.SSLObject, name: str | None, _initial: ssl.SSLContext) -> int | None:
        asked.append(name)
        if name == ALTERNATIVE_NAME:
            connection.context = alternative
        elif name == "nobody.example.test":
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    context.sni_callback = choose  # type: ignore[assignment]

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()

    async with serving(greet, context) as port:
        for name in ("localhost", ALTERNATIVE_NAME):
            good = await s_client(port, certificates, "-servername", name, "-verify_hostname", name)
            assert good.returncode == 0, good.stderr
            assert b"hello\n" in good.stdout
        wrong = await s_client(port, certificates, "-servername", "localhost", "-verify_hostname", ALTERNATIVE_NAME)
        assert wrong.returncode != 0
        assert b"hostname mismatch" in wrong.stderr.lower()
        refused = await s_client(port, certificates, "-servername", "nobody.example.test")
        assert refused.returncode != 0
        assert b"hello\n" not in refused.stdout
        nameless = await s_client(port, certificates, "-noservername")
        assert nameless.returncode == 0, nameless.stderr
    assert asked == ["localhost", ALTERNATIVE_NAME, "localhost", "nobody.example.test", None]


@VERSIONS
async def test_client_certificates(certificates: Certificates, version: ssl.TLSVersion) -> None:
    seen: list[object] = []

    async def identify(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert")["subjectAltName"])
        writer.write(b"known\n")
        await writer.drain()

    context = certificates.server_context(client_required=True)
    context.minimum_version = context.maximum_version = version
    async with serving(identify, context) as port:
        known = await s_client(port, certificates, "-cert", certificates.client, "-key", certificates.client)
        assert known.returncode == 0, known.stderr
        assert b"known\n" in known.stdout
        unknown = await s_client(port, certificates)
        assert unknown.returncode != 0
        assert b"known\n" not in unknown.stdout
    assert seen == [(("email", "client@example.test"),)]


@VERSIONS
async def test_close_notify_from_us(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """close() says goodbye in TLS before the FIN; abort() does not, and openssl notices the difference."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        how = await reader.readline()
        writer.write(payload(100_000, seed=1))
        await writer.drain()
        if how == b"abort\n":
            writer.transport.abort()

    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    async with serving(leave, context) as port:
        closed = await s_client(port, certificates, "-quiet", stdin=b"close\n")
        assert closed.returncode == 0, closed.stderr
        assert closed.stdout == payload(100_000, seed=1)
        assert b"error" not in closed.stderr.replace(b"verify error", b"")
        aborted = await s_client(port, certificates, "-quiet", stdin=b"abort\n")
        assert b"unexpected eof" in aborted.stderr or b"errno" in aborted.stderr, aborted.stderr


@VERSIONS
async def test_close_notify_from_the_client(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """What the client sent before its close_notify is all read; then comes the end, not an error."""
    received: list[bytes] = []

    async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    body = payload(3 << 20, seed=6).hex().encode()  # s_client takes some letters at a line's begin as commands
    async with serving(read_all, context) as port:
        program = support.require_program("openssl", "openssl")
        command = [program, "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", certificates.authority, "-nocommands"]
        ended = await asyncio.to_thread(subprocess.run, command, input=body, capture_output=True, timeout=support.PATIENCE_S)
        assert ended.returncode == 0, ended.stderr
    assert len(received[0]) == len(body)
    assert received == [body]


@VERSIONS
async def test_nothing_is_lost_when_the_end_comes_with_the_data(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """Clients that send and are done: the last data and the end of the connection may well arrive in one turn of the loop.

    With a reader that pauses (it takes far more than its limit), asyncio's TLS protocol loses data if the end overtakes the resumption.
    """
    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    body = payload(2_000_000, seed=9)
    received: list[int] = []

    async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read()
        assert body.startswith(got), "the bytes are not those that were sent"
        received.append(len(got))

    def send_and_leave(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as connection:
            with certificates.client_context().wrap_socket(connection, server_hostname="localhost") as secure:
                secure.sendall(body)
                # The end follows at once. What the server sends is read to its end, so that no reset can cut the data off.
                secure.shutdown(socket.SHUT_WR)
                while secure.recv(65536):
                    pass

    async with serving(read_all, context) as port:
        with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as threads:
            loop = asyncio.get_running_loop()
            await at_once(CONNECTIONS, lambda _: loop.run_in_executor(threads, send_and_leave, port))
    assert received == [len(body)] * CONNECTIONS


async def test_openssl_echoes_large_bodies(certificates: Certificates) -> None:
    body = payload(8 << 20, seed=7)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = len(body)
        while left:
            piece = await reader.read(65536)
            assert piece, "the end came early"
            left -= len(piece)
            writer.write(piece)
            await writer.drain()

    async with serving(echo, certificates.server_context()) as port:

        async def client(number: int) -> None:
            result = await s_client(port, certificates, "-quiet", stdin=body)
            assert result.returncode == 0, result.stderr
            assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(body).digest()

        # Each is a process that encrypts 16 MiB: a few at once are enough to interleave.
        await at_once(5, client)


async def test_hundred_connections_with_bytes_compared(certificates: Certificates) -> None:
    """Our own client too: a hundred handshakes at once, then everybody talks."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()

    everybody = asyncio.Barrier(CONNECTIONS)
    async with serving(echo, certificates.server_context()) as port:
        context = certificates.client_context()

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            await everybody.wait()
            for turn in range(5):
                body = payload(40_000 * turn + number + 1, seed=number)
                writer.write(body)
                assert await reader.readexactly(len(body)) == body
            writer.close()
            await writer.wait_closed()

        await at_once(CONNECTIONS, client)


async def test_starttls(certificates: Certificates) -> None:
    """A plain connection is upgraded in the middle, as mail servers do; openssl plays the mail client."""
    context = certificates.server_context()

    async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 localhost ESMTP\r\n")
        assert (await reader.readline()).upper().startswith(b"EHLO")
        writer.write(b"250-localhost\r\n250 STARTTLS\r\n")
        assert (await reader.readline()).strip().upper() == b"STARTTLS"
        writer.write(b"220 go ahead\r\n")
        await writer.drain()
        await writer.start_tls(context)
        assert writer.get_extra_info("cipher") is not None
        line = await reader.readline()
        writer.write(b"250 " + line + payload(500_000, seed=8))
        await writer.drain()

    async with serving(mail, None) as port:
        result = await s_client(port, certificates, "-starttls", "smtp", "-quiet", stdin=b"NOOP\n")
        assert result.returncode == 0, result.stderr
        # s_client prints the last greeting line itself.
        assert result.stdout.endswith(b"250 NOOP\n" + payload(500_000, seed=8))


async def test_our_client_upgrades_a_plain_connection(certificates: Certificates) -> None:
    async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 localhost\r\n")
        assert await reader.readline() == b"STARTTLS\r\n"
        writer.write(b"220 go ahead\r\n")
        await writer.drain()
        await writer.start_tls(certificates.server_context())
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()

    async with serving(upgraded, None) as port:

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"220 localhost\r\n"
            writer.write(b"STARTTLS\r\n")
            assert await reader.readline() == b"220 go ahead\r\n"
            await writer.start_tls(certificates.client_context(), server_hostname="localhost")
            body = payload(100_000 + number, seed=number)
            writer.write(body)
            assert await reader.readexactly(len(body)) == body
            writer.close()
            await writer.wait_closed()

        await at_once(CONNECTIONS, client)


@VERSIONS
async def test_our_client_against_openssls_server(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """openssl's server turns each line round; it checks our certificate, chooses by ALPN, and sees our close_notify."""
    port = support.free_port()
    program = support.require_program("openssl", "openssl")
    command = [program, "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificates.server, "-key", certificates.server]
    command += ["-CAfile", certificates.authority, "-Verify", "5", "-verify_return_error", "-alpn", "rev/1", "-rev"]
    context = certificates.client_context(with_certificate=True)
    context.set_alpn_protocols(["none/1", "rev/1"])
    context.minimum_version = context.maximum_version = version
    # s_server knows no orderly end: the signal that ends it is its status.
    with support.ServerProcess(command, address=None, exit_codes=(0, -15)) as server:
        await asyncio.to_thread(server.wait_for_line, "ACCEPT")
        for number in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "rev/1"
            assert writer.get_extra_info("peercert")["subjectAltName"]
            for turn in range(10):
                line = payload(50 + 100 * turn, seed=number).hex().encode()
                writer.write(line + b"\n")
                assert await reader.readline() == line[::-1] + b"\n"
            writer.write(b"CLOSE\n")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


async def test_our_client_refuses_a_server_that_it_cannot_trust(certificates: Certificates) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a connection was made although the client refused")

    async with serving(nothing, certificates.server_context()) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self.signed"):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context(), server_hostname="localhost")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            context = certificates.client_context()
            await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="wrong.example.test")


async def test_a_client_that_never_begins_the_handshake(certificates: Certificates) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a connection was made without a handshake")

    def silent(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as connection:
            try:
                return connection.recv(1)
            except ConnectionResetError:
                return b""

    async with serving(nothing, certificates.server_context(), ssl_handshake_timeout=0.3) as port:
        # The server ends it; the client's own patience is a hundred times longer.
        assert await asyncio.to_thread(silent, port) == b""


async def test_rubbish_instead_of_a_handshake(certificates: Certificates) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"fine\n")
        await writer.drain()

    def rubbish(seed: int, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as connection:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(payload(5000, seed=seed))
                while connection.recv(65536):
                    pass

    async with serving(nothing, certificates.server_context()) as port:
        for seed in range(20):
            await asyncio.to_thread(rubbish, seed, port)
        good = await s_client(port, certificates)
        assert good.returncode == 0
        assert b"fine\n" in good.stdout


async def test_the_certificates_that_openssl_makes(tmp_path: Path) -> None:
    """A self-signed certificate of `openssl req`, as people make them by hand, pinned by the client."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = await run_program(
        "openssl",
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
    )
    assert made.returncode == 0, made.stderr
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with serving(http, context) as port:
        get = functools.partial(run_program, "curl", "--silent", "--http1.1")
        trusted = await get("--cacert", certificate, f"https://localhost:{port}/5000/1")
        assert trusted.stdout == payload(5000, seed=1)
        distrusted = await get(f"https://localhost:{port}/5000/1", "--cacert", os.devnull)
        assert distrusted.returncode in (60, 77), distrusted
