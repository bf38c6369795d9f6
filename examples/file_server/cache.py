"""What is kept in memory: bodies of small files with their heads, and the raw request heads that ask for them.

Called by `folder` (entries), `connection` (known heads) and `stats`. Calls `clock`.

Two dicts make the fast way. `entries` goes from a path to a file's body, its header fields and, for the current second, the whole answer as
one piece of bytes. `known` goes from the exact bytes of a request's head to such an entry: since the whole head is the key, no header can be
forgotten, and who sends the same bytes again (as every client does) costs no parsing. Only heads are kept whose answer is the whole file
with nothing conditional about it.

An entry is good until `until_s`: the end of the second that its Date names, or the end of the time for which the disk need not be asked
(`valid_until_s`), whichever comes first. What has expired goes the long way, which renews it.

Bounds: bodies count against `cache_bytes`. To make room, entries that were not used since the last time go (one hand goes
round, as in CLOCK), and so who was asked for once goes first. A body
that a transport is still sending would not free memory, so it stays, and a file for which there is no room is sent from disk.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from .clock import Clock
from .files import Status

#: Larger bodies are not copied behind their head each second, but sent as a second piece.
JOINED_BYTES_MAX = 64 * 1024
#: Heads longer than this are not worth keeping, and more than so many are not kept.
HEAD_BYTES_MAX = 2048
HEADS_MAX = 4096
#: A change within this time of a file's last change may not show in its times: file systems' clocks have ticks, some of two seconds.
TICK_NS = 2_000_000_000
#: After a body found no room none is tried for so long.
FULL_S = 0.1
#: What an entry needs beside its body, roughly.
ENTRY_BYTES = 2048


@dataclass(slots=True)
class Counts:
    """What the fast way has sent, of which the entries keep count."""

    answers: int = 0
    body_bytes: int = 0


class Entry:
    """A body in memory, the header lines that depend on it alone, and the answer of this second."""

    def __init__(self, status: Status | None, body: bytes, fields: list[str], tag: str, modified_s: int | None) -> None:
        self.status = status  # None: made by us (a listing)
        self.body: bytes | None = body
        self.fields = fields
        self.tag = tag
        self.modified_s = modified_s
        self.loaded_ns = 0  # the system's clock when it was read
        self.seen_s = 0.0  # the same of when the disk was last asked
        self.valid_until_s = 0.0
        self.until_s = 0.0
        #: The answer for who asks for the whole file over HTTP/1.1 and stays: in one piece, or (None) in `pieces`.
        self.wire: bytes | None = None
        self.pieces: list[bytes] = []
        self.kept = False  # it is in the cache
        self.hits = 0
        self.hits_before = 0  # when the hand that makes room last came by

    @property
    def cost_bytes(self) -> int:
        size = len(self.body or b"")
        return (2 * size if size <= JOINED_BYTES_MAX else size) + ENTRY_BYTES

    def may_have_changed_unseen(self) -> bool:
        """Whether the file had changed so shortly before it was read that another change could look the same."""
        return self.status is not None and self.loaded_ns - max(self.status.modified_ns, self.status.changed_ns) < TICK_NS

    def prepare(self, clock: Clock) -> None:
        """The answer for the clock's second."""
        body = self.body
        assert body is not None
        lines = ["HTTP/1.1 200 OK", f"Date: {clock.date}", *self.fields, f"Content-Length: {len(body)}"]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if len(body) <= JOINED_BYTES_MAX:
            self.wire = head + body
        else:
            self.pieces = [head, body]
        self.until_s = min(clock.until_s, self.valid_until_s)


class Known:
    """A request's head that was answered with an entry, and the two parts of its line in the access log."""

    __slots__ = ("entry", "log_line")

    def __init__(self, entry: Entry, log_line: bytes) -> None:
        self.entry = entry
        self.log_line = log_line


class Cache:
    def __init__(self, bytes_max: int, valid_s: float) -> None:
        self.bytes_max = bytes_max
        self.valid_s = valid_s
        self.bytes_used = 0
        self.known: dict[bytes, Known] = {}
        self._entries: dict[bytes, Entry] = {}
        self._hand: list[bytes] = []
        self._past = Counts()  # of entries that have gone
        self._full_until_s = 0.0

    def is_full(self, now_s: float) -> bool:
        """Whether there was no room a moment ago. Then bodies are not even read, so that memory has its bound however many ask."""
        return now_s < self._full_until_s

    def find(self, path: bytes) -> Entry | None:
        """The entry of a path, valid or not."""
        return self._entries.get(path)

    def keep(self, path: bytes, entry: Entry) -> bool:
        """Take an entry in, in the place of any other of that path. False: there is no room for it."""
        self.drop(path)
        if not self._make_room(entry.cost_bytes):
            self._full_until_s = time.monotonic() + FULL_S
            return False
        self._entries[path] = entry
        entry.kept = True
        self.bytes_used += entry.cost_bytes
        return True

    def drop(self, path: bytes) -> None:
        entry = self._entries.pop(path, None)
        if entry is None:
            return
        self.bytes_used -= entry.cost_bytes
        self._past.answers += entry.hits
        self._past.body_bytes += entry.hits * len(entry.body or b"")
        # Known heads still refer to it: what is left of it says that they are to go the long way.
        entry.kept = False
        entry.hits = 0
        entry.until_s = entry.valid_until_s = 0.0
        entry.body = entry.wire = None
        entry.pieces = []

    def learn(self, head: bytes, entry: Entry, log_line: bytes) -> None:
        """Who sends this very head again shall get this entry."""
        if len(head) > HEAD_BYTES_MAX:
            return
        known = self.known
        if len(known) >= HEADS_MAX and head not in known:
            del known[next(iter(known))]  # the one that was learned first
        known[head] = Known(entry, log_line)

    def counts(self) -> Counts:
        total = Counts(self._past.answers, self._past.body_bytes)
        for entry in self._entries.values():
            total.answers += entry.hits
            total.body_bytes += entry.hits * len(entry.body or b"")
        return total

    def _make_room(self, wanted_bytes: int) -> bool:
        if wanted_bytes > self.bytes_max:
            return False
        # Twice round: the first time only takes note of who was used since the last time.
        for _ in range(2 * len(self._entries) + 1):
            if self.bytes_used + wanted_bytes <= self.bytes_max:
                return True
            if not self._hand:
                self._hand = list(reversed(self._entries))
                if not self._hand:
                    break
            path = self._hand.pop()
            entry = self._entries.get(path)
            if entry is None:
                continue
            if entry.hits != entry.hits_before:
                entry.hits_before = entry.hits
            elif not self._is_being_sent(entry):
                self.drop(path)
        return self.bytes_used + wanted_bytes <= self.bytes_max

    @staticmethod
    def _is_being_sent(entry: Entry) -> bool:
        """Whether anybody but the entry refers to its bytes. The numbers: its attribute, the variable here, the call's argument."""
        wire, body = entry.wire, entry.body
        if wire is not None and sys.getrefcount(wire) > 3:
            return True
        # The shortest bytes objects are everybody's, and their references say nothing.
        return body is not None and len(body) > 1 and sys.getrefcount(body) > (4 if entry.pieces else 3)
