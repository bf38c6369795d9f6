"""What stands behind an address: the file, the folder's page, the way to the right address, or the reason why there is nothing.

Called by `connection`, once for each request that the cache of known heads does not answer. Calls `files`, `cache`, `conditions`, `listing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import html
import re
import secrets
import time
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, unquote_to_bytes

from . import conditions, listing
from .answers import Answer, Piece, page
from .cache import Cache, Entry
from .conditions import Outcome, Validators
from .files import Files, Loaded, NotServed, OpenFile, Status
from .mime import media_type
from .request import Refusal, Request
from .settings import Settings
from .trouble import Trouble

INDEX = b"index.html"

_BAD_ENCODING = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_LEADS_OUT = (errno.EXDEV, errno.ELOOP)
_DENIED = (errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV)
_BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETXTBSY)


@dataclass(frozen=True, slots=True)
class Address:
    """A path, decoded: the names on the way, and whether it ends with a slash."""

    names: list[bytes]
    slash: bool

    @property
    def path(self) -> bytes:
        return b"/".join(self.names)

    @property
    def key(self) -> bytes:
        return self.path + b"/" if self.slash else self.path


def decode(path: str, *, dot_files: bool) -> Address:
    """Raises Refusal for what is no address of a file, and for every spelling of a way out of the root."""
    if _BAD_ENCODING.search(path):
        raise Refusal(HTTPStatus.BAD_REQUEST, "The address has a percent sign that encodes nothing.")
    names = []
    for part in path.encode("latin-1").split(b"/"):
        name = unquote_to_bytes(part)
        if b"\0" in name:
            raise Refusal(HTTPStatus.BAD_REQUEST, "The address has a zero byte in it.")
        if name == b".." or b"/" in name:
            raise Refusal(HTTPStatus.FORBIDDEN, "The address leads out of the folder that is served.")
        if name in (b"", b"."):
            continue
        if name.startswith(b".") and not dot_files:
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no such file.")
        names.append(name)
    return Address(names, path.endswith("/") or not names)


@dataclass(slots=True)
class _Content:
    """What an answer is made of: an entry of the cache, or an open file."""

    fields: list[str]
    kind: str
    size: int
    validators: Validators | None  # None: a page of our own making, the same for all
    body: bytes | None
    file: OpenFile | None
    entry: Entry | None = None


class Folder:
    """Answers requests with what is below the root."""

    def __init__(self, settings: Settings, files: Files, trouble: Trouble) -> None:
        self.settings = settings
        self.files = files
        self.trouble = trouble
        self.cache = Cache(settings.cache_bytes, settings.cache_valid_s)
        # Those who ask for the same while it is being loaded wait for the one that loads it.
        self._loading: dict[bytes, asyncio.Task[Entry | Loaded | None]] = {}

    def answer_from_memory(self, request: Request) -> Answer | None:
        """None where the disk must be asked. Raises Refusal."""
        address = decode(request.path, dot_files=self.settings.dot_files)
        entry = self.cache.find(address.key)
        if entry is None or entry.valid_until_s <= time.monotonic():
            return None
        return _answer(request, _of_entry(entry))

    async def answer(self, request: Request) -> Answer:
        """The same with the disk. Raises Refusal."""
        address = decode(request.path, dot_files=self.settings.dot_files)
        try:
            found = await self._load_once(address)
            while isinstance(found, Entry) and found.body is None:  # it had to make room for another one before we got to it
                found = await self._load_once(address)
        except OSError as error:
            raise self._refusal_of(error) from None
        if found is None:
            # The listing's links would lead nowhere without the slash. One leading slash only: two would name a host.
            location = "/" + "/".join(quote(name) for name in address.names) + "/" + request.query
            text = f'<!doctype html>\n<title>moved</title>\n<a href="{html.escape(location)}">It is here.</a>\n'
            return page(HTTPStatus.MOVED_PERMANENTLY, text, f"Location: {location}")
        if isinstance(found, Entry):
            return _answer(request, _of_entry(found))
        try:
            return _answer(request, _of_file(address, found))
        except BaseException:
            if found.file is not None:
                found.file.close()
            raise

    async def _load_once(self, address: Address) -> Entry | Loaded | None:
        task = self._loading.get(address.key)
        if task is None:
            task = asyncio.create_task(self._load(address))
            self._loading[address.key] = task
            task.add_done_callback(lambda task: self._loaded(address.key, task))
            # Not cancelled with a client that goes away: others may have come to wait.
            return await asyncio.shield(task)
        found = await asyncio.shield(task)
        # An open file is one client's.
        return await self._load(address) if isinstance(found, Loaded) else found

    def _loaded(self, key: bytes, task: asyncio.Task[Entry | Loaded | None]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; if nobody is left to, nobody needs to hear of it

    async def _load(self, address: Address) -> Entry | Loaded | None:
        """An entry, a file that is too large for one, or None for a folder whose address lacks the slash."""
        if not address.slash:
            return await self._load_file(address.key, address.path)
        index = address.path + b"/" + INDEX if address.names else INDEX
        with contextlib.suppress(FileNotFoundError):
            found = await self._load_file(address.key, index)
            if found is not None:  # else a folder of that name, which is no index
                return found
        return await self._load_listing(address)

    async def _load_file(self, key: bytes, path: bytes) -> Entry | Loaded | None:
        former = self.cache.find(key)
        known = former.status if former is not None and not former.may_have_changed_unseen() else None
        begin_s, begin_ns = time.monotonic(), time.time_ns()
        limit = 0 if self.cache.is_full(begin_s) else min(self.settings.cache_file_bytes, self.settings.cache_bytes // 4)
        found = await self.files.load(path, limit, known)
        status = found.status
        if status.is_folder:
            return None
        if found.body is None and found.file is None:
            assert former is not None
            entry = former
            if entry.body is None:  # it had to make room meanwhile
                found = await self.files.load(path, limit)
        if found.body is None and found.file is not None:
            self.cache.drop(key)
            return found
        if found.body is not None:
            kind = media_type(path)
            tag = conditions.tag_of(status.modified_ns, status.size, status.inode)
            modified_s = _modified_s(status, begin_ns)
            entry = Entry(status, found.body, _fields(kind, tag, modified_s), tag, modified_s)
            entry.loaded_ns = begin_ns
            self.cache.keep(key, entry)
        entry.seen_s = begin_ns / 1e9
        entry.valid_until_s = begin_s + self.cache.valid_s
        return entry

    async def _load_listing(self, address: Address) -> Entry:
        if not self.settings.listing:
            found = await self.files.load(address.path, 0)
            if found.file is not None:
                found.file.close()
            if not found.status.is_folder:
                raise NotADirectoryError(errno.ENOTDIR, "not a folder")
            raise PermissionError(errno.EACCES, "the folder's contents are not shown")
        begin_s = time.monotonic()
        entries, more = await self.files.entries(address.path, listing.ENTRIES_MAX, dot_files=self.settings.dot_files)
        body = await asyncio.to_thread(listing.render, address.names, entries, more, stats=self.settings.stats)
        entry = Entry(None, body, ["Content-Type: text/html; charset=utf-8"], "", None)
        entry.valid_until_s = begin_s + self.cache.valid_s
        self.cache.keep(address.key, entry)
        return entry

    def _refusal_of(self, error: OSError) -> Refusal:
        """What a client is told: neither paths nor more reasons than it needs."""
        if error.errno in _NOT_FOUND:
            return Refusal(HTTPStatus.NOT_FOUND, "There is no such file.")
        if error.errno in _LEADS_OUT:
            return Refusal(HTTPStatus.FORBIDDEN, "The address leads out of the folder that is served.")
        if isinstance(error, NotServed):
            return Refusal(HTTPStatus.FORBIDDEN, "This is not a regular file.")
        if error.errno in _DENIED:
            return Refusal(HTTPStatus.FORBIDDEN, "This is not to be read.")
        if error.errno in _BUSY:
            self.trouble.tell("a file could not be opened", error)
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The server has too much to do.", retry_after="1")
        self.trouble.tell("a file could not be read", error)
        return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "The file cannot be read.")


# -- from content to an answer


def _modified_s(status: Status, now_ns: int) -> int | None:
    """A date that lies in the future must not be told (RFC 9110, 8.8.2.1), and one that no calendar has cannot be."""
    seconds = status.modified_ns // 1_000_000_000
    return seconds if 0 <= seconds <= now_ns // 1_000_000_000 else None


def _fields(kind: str, tag: str, modified_s: int | None) -> list[str]:
    fields = [f"Content-Type: {kind}"]
    if modified_s is not None:
        fields.append(f"Last-Modified: {email.utils.formatdate(modified_s, usegmt=True)}")
    return [*fields, f"ETag: {tag}", "Accept-Ranges: bytes"]


def _of_entry(entry: Entry) -> _Content:
    assert entry.body is not None
    validators = Validators(entry.tag, entry.modified_s, entry.seen_s) if entry.status is not None else None
    kind = entry.fields[0].removeprefix("Content-Type: ")
    # What is not in the cache must not be kept alive by who remembers the request either.
    return _Content(entry.fields, kind, len(entry.body), validators, entry.body, None, entry if entry.kept else None)


def _of_file(address: Address, found: Loaded) -> _Content:
    now_ns = time.time_ns()
    status = found.status
    kind = media_type(INDEX if address.slash else address.names[-1])
    tag = conditions.tag_of(status.modified_ns, status.size, status.inode)
    modified_s = _modified_s(status, now_ns)
    return _Content(_fields(kind, tag, modified_s), kind, status.size, Validators(tag, modified_s, now_ns / 1e9), None, found.file)


def _answer(request: Request, content: _Content) -> Answer:
    """The answer to a GET or HEAD of something that exists. It takes the content's file over, or closes it. Raises Refusal."""
    if content.validators is None:
        return _whole(content)
    outcome = conditions.evaluate(request.headers, content.validators)
    if outcome is Outcome.FAILED:
        raise Refusal(HTTPStatus.PRECONDITION_FAILED, "The file is another version than the one that was asked for.")
    if outcome is Outcome.NOT_MODIFIED:
        if content.file is not None:
            content.file.close()
        return Answer(HTTPStatus.NOT_MODIFIED, [line for line in content.fields if line.startswith(("ETag", "Last-Modified"))], [], None)
    asked = request.headers.get("range")
    # Ranges are defined for GET alone.
    if asked is None or request.method != "GET" or not conditions.range_applies(request.headers, content.validators):
        return _whole(content)
    try:
        found = conditions.ranges(asked, content.size)
    except conditions.NotSatisfiable:
        raise Refusal(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The file is shorter than that.", content_range=f"bytes */{content.size}"
        ) from None
    if found is None:
        return _whole(content)
    return _part(content, *found[0]) if len(found) == 1 else _parts(content, found)


def _whole(content: _Content) -> Answer:
    body: list[bytes | Piece] = [content.body if content.body is not None else Piece(0, content.size)]
    return Answer(HTTPStatus.OK, content.fields, body, content.size, content.file, content.entry)


def _piece(content: _Content, begin: int, end: int) -> bytes | Piece:
    return content.body[begin:end] if content.body is not None else Piece(begin, end - begin)


def _part(content: _Content, begin: int, end: int) -> Answer:
    fields = [*content.fields, f"Content-Range: bytes {begin}-{end - 1}/{content.size}"]
    return Answer(HTTPStatus.PARTIAL_CONTENT, fields, [_piece(content, begin, end)], end - begin, content.file)


def _parts(content: _Content, found: list[tuple[int, int]]) -> Answer:
    boundary = secrets.token_hex(16)
    body: list[bytes | Piece] = []
    length = 0
    for begin, end in found:
        head = f"\r\n--{boundary}\r\nContent-Type: {content.kind}\r\nContent-Range: bytes {begin}-{end - 1}/{content.size}\r\n\r\n".encode()
        body += [head, _piece(content, begin, end)]
        length += len(head) + end - begin
    tail = f"\r\n--{boundary}--\r\n".encode()
    body.append(tail)
    fields = [f"Content-Type: multipart/byteranges; boundary={boundary}", *content.fields[1:]]
    return Answer(HTTPStatus.PARTIAL_CONTENT, fields, body, length + len(tail), content.file)
