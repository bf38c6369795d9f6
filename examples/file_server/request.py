"""From the bytes of a request's head to a Request: RFC 9112, and what is refused of it. Called by `connection`; calls nothing.

Strict where two readers of the same bytes could disagree, since a proxy in front of us must not be led to see other requests than we do:
lines end with CRLF and nothing else, names have no blanks, lines are not folded, and what says twice how long a body is is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from .settings import Settings

END_OF_HEAD = b"\r\n\r\n"
#: Standard methods that this server does not have; others it does not even know.
KNOWN_METHODS = frozenset(("POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
ALLOWED = "GET, HEAD"

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) HTTP/(\d)\.(\d)")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ABSOLUTE = re.compile(r"https?://([^/?#]+)([^#]*)", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_BARE_NEWLINE = re.compile(rb"(?<!\r)\n")


class Refusal(Exception):
    """Ends a request with an error page. `final`: where the next request begins is not known or not trusted, so the connection ends too."""

    def __init__(self, status: HTTPStatus, why: str, *, final: bool = False, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.final = final
        self.headers = {name.replace("_", "-").title(): value for name, value in headers.items()}


def malformed(why: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, why, final=True)


@dataclass(slots=True)
class Request:
    """A head. Header names are in lower case; a field that came several times has its values joined by commas."""

    method: str
    target: str  # as it was sent
    path: str  # of it, still encoded: begins with a slash
    query: str  # with its question mark, or empty
    minor: int  # of HTTP/1.x: 0 or 1
    headers: dict[str, str]
    keep_alive: bool
    #: A body follows, which nobody reads: the connection ends with the answer.
    has_body: bool

    @property
    def is_plain(self) -> bool:
        """The answer depends on nothing but method and target."""
        headers = self.headers
        return not any(name in headers for name in ("range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"))


def parse(head: bytes, settings: Settings) -> Request:
    """The request of a complete head, its last empty line included. Raises Refusal."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise malformed("The first line is not an HTTP request.")
    method, target, major, minor_text = line.groups()
    if major != "1":
        raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.0 and HTTP/1.1.", final=True)
    minor = min(int(minor_text), 1)  # a later minor version is served as the last one that we know
    if len(target) > settings.target_bytes_max:
        raise Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long.", final=True)
    if len(lines) > settings.header_lines_max:
        raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "There are too many header lines.", final=True)
    headers = _headers(lines)
    host = headers.get("host")
    if host is None and minor:
        raise malformed("The header has no Host.")
    if host is not None and _HOST.fullmatch(host) is None:
        raise malformed("The Host is not one.")
    has_body = _has_body(headers, minor)
    wishes = {wish.strip().lower() for wish in headers.get("connection", "").split(",")}
    keep_alive = not has_body and "close" not in wishes and (minor == 1 or "keep-alive" in wishes)
    if method not in ("GET", "HEAD"):
        # The body of such a request may follow whatever its header says, so that is the connection's last answer.
        if method in KNOWN_METHODS:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This server only hands out files.", final=True, allow=ALLOWED)
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "This server does not know the method.", final=True, allow=ALLOWED)
    path, mark, query = _origin(target).partition("?")
    return Request(method, target, path, mark + query, minor, headers, keep_alive, has_body)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            raise malformed("A header line has no name, or blanks around it.")
        value = value.strip(" \t")
        if _CONTROLS.search(value):
            raise malformed("A header line has control characters in it.")
        name = name.lower()
        if name in headers:
            if name in ("host", "content-length"):
                raise malformed(f"There is more than one {name.title()}.")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _has_body(headers: dict[str, str], minor: int) -> bool:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise malformed("There are both a Content-Length and a Transfer-Encoding.")
        if minor == 0:
            raise malformed("HTTP/1.0 has no Transfer-Encoding.")
        if coding.lower() != "chunked":
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "This server does not know the transfer coding.", final=True)
        return True
    if length is None:
        return False
    # isdigit() takes other scripts' digits too, and int() takes signs and underscores.
    if not length.isascii() or not length.isdigit():
        raise malformed("The Content-Length is not a number.")
    return length.strip("0") != ""


def _origin(target: str) -> str:
    """Path and query of a target, which a client that takes us for a proxy sends with scheme and host."""
    if target.startswith("/"):
        origin = target
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise malformed("The address is not one.")
        origin = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if "#" in origin:
        raise malformed("The address has a fragment.")
    return origin


def check_unfinished(data: bytes, begin: int, searched: int, settings: Settings) -> None:
    """Raises Refusal where data[begin:] is too long for the beginning of a head, or cannot become one any more. Up to `searched` it could."""
    if _BARE_NEWLINE.search(data, max(begin, searched)):
        raise malformed("A line does not end with CRLF.")
    line_bytes_max = settings.target_bytes_max + 32
    if len(data) - begin > line_bytes_max and data.find(b"\r\n", begin, begin + line_bytes_max) < 0:
        raise Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long.", final=True)
    if len(data) - begin > settings.head_bytes_max:
        raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.", final=True)
