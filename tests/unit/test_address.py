"""Socket addresses against real sockets: what _address makes and reads is what Python's socket module makes and reads."""

from __future__ import annotations

import ctypes
import os
import pathlib
import random
import socket

import pytest

from aiouring._address import HostNotLiteral, decode, encode

libc = ctypes.CDLL(None, use_errno=True)


def of_this_process(address: object) -> object:
    """Abstract names are the whole machine's, on which these tests may run in several processes; what is long stays as long."""
    if isinstance(address, str):
        return address.replace("aiouring", f"{os.getpid():08}")
    if isinstance(address, bytes | bytearray | memoryview):
        return type(address)(bytes(address).replace(b"aiouring", b"%08d" % os.getpid()))
    return address


def raw_sockname(sock: socket.socket) -> bytes:
    """The kernel's sockaddr of a bound socket."""
    buffer = ctypes.create_string_buffer(128)
    length = ctypes.c_uint(128)
    assert libc.getsockname(sock.fileno(), buffer, ctypes.byref(length)) == 0
    return buffer.raw[: length.value]


def raw_bind(sock: socket.socket, raw: bytes) -> None:
    if libc.bind(sock.fileno(), raw, len(raw)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_INET, ("", 0)),
        (socket.AF_INET, ("127.1", 0)),
        (socket.AF_INET, (b"127.0.0.1", 0)),
        (socket.AF_INET, (bytearray(b"127.0.0.1"), 0)),
        (socket.AF_INET, ("0x7f000001", 0)),
        (socket.AF_INET6, ("::1", 0)),
        (socket.AF_INET6, ("", 0)),
        (socket.AF_INET6, ("::1", 0, 0)),
        (socket.AF_INET6, ("::1", 0, 0, 0)),
        (socket.AF_UNIX, "\0aiouring-abstract"),
        (socket.AF_UNIX, b"\0aiouring-\xff\0embedded"),
        (socket.AF_UNIX, bytearray(b"\0aiouring-mutable")),
        (socket.AF_UNIX, memoryview(b"\0aiouring-view")),
        (socket.AF_UNIX, "\0aiouring".ljust(108, "\0")),
        (socket.AF_UNIX, ""),
    ],
)
def test_bound_by_us_and_by_the_socket_module_is_the_same(family: int, address: object) -> None:
    address = of_this_process(address)
    with socket.socket(family, socket.SOCK_DGRAM) as theirs, socket.socket(family, socket.SOCK_DGRAM) as ours:
        raw_bind(ours, encode(address, family))
        name, raw = ours.getsockname(), raw_sockname(ours)
        ours.close()
        theirs.bind(address)  # type: ignore[arg-type]
        assert decode(raw) == name
        assert decode(raw_sockname(theirs)) == theirs.getsockname()
        if family == socket.AF_UNIX and address:
            assert theirs.getsockname() == name
        elif family != socket.AF_UNIX:
            assert theirs.getsockname()[0] == name[0]


def test_unix_paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: list[str | bytes | pathlib.Path] = ["a", "ä", b"b\xff", pathlib.Path("p"), "x" * 107]
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            raw_bind(sock, encode(name, socket.AF_UNIX))
            assert sock.getsockname() == os.fsdecode(name)
            assert decode(raw_sockname(sock)) == os.fsdecode(name)
            assert os.path.exists(name)


def test_unnamed_and_absent() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        assert decode(raw_sockname(sock)) == sock.getsockname() == ""
    assert decode(b"") is None


def test_a_family_that_is_not_ours_keeps_its_bytes() -> None:
    raw = socket.AF_NETLINK.to_bytes(2, "little") + bytes(range(14))
    assert decode(raw) == (socket.AF_NETLINK, bytes(range(14)))
    with pytest.raises(OSError, match="bad family"):
        encode((0, 0), socket.AF_NETLINK)


def test_random_addresses_round_trip(rng: random.Random) -> None:
    """The kernel gives back what it was given: connect() a socket to our sockaddr, ask the socket module for its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(300):
            host = f"127.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
            address = (host, rng.randrange(1, 65536))
            raw = encode(address, socket.AF_INET)
            assert libc.connect(sock.fileno(), raw, len(raw)) == 0
            assert sock.getpeername() == address == decode(raw)
    for _ in range(300):
        address6 = (
            socket.inet_ntop(socket.AF_INET6, rng.randbytes(16)),
            rng.randrange(65536),
            rng.randrange(2**20),
            rng.randrange(2**32),
        )
        assert decode(encode(address6, socket.AF_INET6)) == address6


def test_ipv6_with_flow_label_and_scope() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        raw = encode(("::1", 9, 5, 1), socket.AF_INET6)
        assert libc.connect(sock.fileno(), raw, len(raw)) == 0
        assert sock.getpeername()[:2] == ("::1", 9)
    loopback = socket.if_nametoindex("lo")
    # The socket module drops an interface in the host as well: the scope id is the fourth item.
    assert decode(encode(("fe80::1%lo", 9), socket.AF_INET6)) == ("fe80::1", 9, 0, 0)
    assert decode(encode(("fe80::1", 9, 0, loopback), socket.AF_INET6)) == ("fe80::1", 9, 0, loopback)


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, None),
        (socket.AF_INET, ["127.0.0.1", 1]),
        (socket.AF_INET, ("127.0.0.1",)),
        (socket.AF_INET, ("127.0.0.1", 1, 0)),
        (socket.AF_INET, (None, 1)),
        (socket.AF_INET, (127, 1)),
        (socket.AF_INET, ("127.0.0.1", "1")),
        (socket.AF_INET, ("127.0.0.1", 1.0)),
        (socket.AF_INET, ("127.0.0.1", None)),
        (socket.AF_INET, ("127.0.0.1", -1)),
        (socket.AF_INET, ("127.0.0.1", 65536)),
        (socket.AF_INET, ("127.0.0.1", Index(65536))),
        (socket.AF_INET, ("127.0.0.1", 2**40)),
        (socket.AF_INET, ("127.0.0.1", -(2**80))),
        (socket.AF_INET, ("127.0.0.1\0", 1)),
        (socket.AF_INET, ("\xe9" * 70, 1)),
        (socket.AF_INET6, ("127.0.0.1", 1)),
        (socket.AF_INET6, ("<broadcast>", 1)),
        (socket.AF_INET6, ("255.255.255.255", 1)),
        (socket.AF_INET6, ("::1",)),
        (socket.AF_INET6, ("::1", 1, 2, 3, 4)),
        (socket.AF_INET6, ("::1", 65536)),
        (socket.AF_INET6, ("::1", 1, 2**20)),
        (socket.AF_INET6, ("::1", 1, -1)),
        (socket.AF_INET6, ("::1", 1, 0, "lo")),
        (socket.AF_INET6, "::1"),
        (socket.AF_UNIX, 5),
        (socket.AF_UNIX, None),
        (socket.AF_UNIX, ("x", 1)),
        (socket.AF_UNIX, "x" * 108),
        (socket.AF_UNIX, "\0" * 109),
    ],
)
@pytest.mark.parametrize("caller", ["sendto", "connect"])
def test_wrong_addresses_raise_as_the_socket_module_does(family: int, address: object, caller: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        with pytest.raises((TypeError, OverflowError, OSError)) as theirs:
            if caller == "sendto":
                sock.sendto(b"", address)  # type: ignore[call-overload]
            else:
                sock.connect(address)  # type: ignore[arg-type]
    with pytest.raises((TypeError, OverflowError, OSError)) as ours:
        encode(address, family, caller)
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


@pytest.mark.parametrize("address", [("127.0.0.1", Index(7)), ("127.0.0.1", True), ("<broadcast>", 7), ("255.255.255.255", 7)])
def test_unusual_addresses_that_are_right(address: tuple[str, int]) -> None:
    host = "255.255.255.255" if address[0] in ("<broadcast>", "255.255.255.255") else "127.0.0.1"
    assert decode(encode(address, socket.AF_INET)) == (host, int(address[1].__index__()))


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "localhost"), (socket.AF_INET, b"example.org"), (socket.AF_INET6, "ip6-localhost"), (socket.AF_INET, "b\xfccher.example")],
)
def test_names_are_not_looked_up(family: int, host: str | bytes) -> None:
    with pytest.raises(HostNotLiteral) as raised:
        encode((host, 1), family)
    assert raised.value.host == (host.encode("idna") if isinstance(host, str) else host)
    assert not isinstance(raised.value, OSError)


def test_names_are_looked_up_on_demand() -> None:
    assert decode(encode(("localhost", 7), socket.AF_INET, resolve=True)) == ("127.0.0.1", 7)
    with pytest.raises(socket.gaierror):
        encode(("no such host", 7), socket.AF_INET, resolve=True)
