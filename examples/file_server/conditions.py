"""Conditional and range requests: what RFC 9110 says of a file's tag, its date and its bytes. Called by `folder`; pure functions.

A tag names one version of a file's bytes (it is a strong validator), so pieces that were fetched under the same tag fit together.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC
from enum import Enum

#: More parts than anybody needs would only be asked for to make us work: then the whole file is the answer.
RANGES_MAX = 64

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[\s,]*{_TAG}(?:\s*,[\s,]*{_TAG})*[\s,]*")
_ONE_TAG = re.compile(_TAG)
_RANGES = re.compile(r"bytes=[ \t,]*((?:\d+-\d*|-\d+)(?:[ \t]*,[ \t,]*(?:\d+-\d*|-\d+))*)[ \t,]*", re.IGNORECASE | re.ASCII)


class Outcome(Enum):
    """What the conditions of a request lead to."""

    PERFORM = "perform"
    NOT_MODIFIED = "not modified"
    FAILED = "precondition failed"


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one version of a file from another."""

    tag: str
    #: Whole seconds since 1970, as the date header has them; None where the file claims to be from the future.
    modified_s: int | None
    #: When the file's state was looked at, in seconds: a change in the same second would leave the date as it is.
    seen_s: float


def tag_of(modified_ns: int, size: int, inode: int) -> str:
    """The inode is in it for files that are put in place of others and have, or were given, the same time and size.

    A digest, since numbers of inodes are nobody's business. It is the same after a restart.
    """
    return f'"{hashlib.blake2b(f"{modified_ns} {size} {inode}".encode(), digest_size=12).hexdigest()}"'


def date_s(text: str) -> int | None:
    """Seconds since 1970 of an HTTP date in any of its three formats; None for what is not one, which is to be ignored."""
    try:
        found = email.utils.parsedate_to_datetime(text)
        if found.tzinfo is None:  # asctime's format, and "-0000"
            found = found.replace(tzinfo=UTC)
        return int(found.timestamp())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _tags(field: str) -> list[str]:
    return _ONE_TAG.findall(field) if _TAGS.fullmatch(field) else []


def evaluate(headers: dict[str, str], file: Validators) -> Outcome:
    """The conditions of a GET or HEAD of a file that exists, in the order of RFC 9110, 13.2.2."""
    if (field := headers.get("if-match")) is not None:
        # Strong comparison: a weak tag matches nothing here.
        if field.strip() != "*" and file.tag not in _tags(field):
            return Outcome.FAILED
    elif (field := headers.get("if-unmodified-since")) is not None:
        limit_s = date_s(field)
        if limit_s is not None and (file.modified_s is None or file.modified_s > limit_s):
            return Outcome.FAILED
    if (field := headers.get("if-none-match")) is not None:
        if field.strip() == "*" or file.tag in (tag.removeprefix("W/") for tag in _tags(field)):
            return Outcome.NOT_MODIFIED
    elif (field := headers.get("if-modified-since")) is not None:
        since_s = date_s(field)
        if since_s is not None and file.modified_s is not None and file.modified_s <= since_s:
            return Outcome.NOT_MODIFIED
    return Outcome.PERFORM


def range_applies(headers: dict[str, str], file: Validators) -> bool:
    """Whether If-Range, where there is one, names this very version: else the whole file is sent instead of a piece of another one."""
    field = headers.get("if-range")
    if field is None:
        return True
    if field.startswith(('"', "W/")):
        return field == file.tag
    # A date is good enough only where the file cannot have changed again within that second.
    asked_s = date_s(field)
    return asked_s is not None and asked_s == file.modified_s and file.seen_s - asked_s >= 2


class NotSatisfiable(Exception):
    """The file has not one byte of what was asked for."""


def ranges(field: str, size: int) -> list[tuple[int, int]] | None:
    """The (begin, end) pairs that a Range field asks for, in its order; overlapping ones are joined (then they are in the file's order).

    None where it asks for the whole file, or for what is no range. Raises NotSatisfiable.
    """
    match = _RANGES.fullmatch(field)
    if match is None:
        return None
    specs = [spec.strip() for spec in match[1].split(",") if spec.strip()]
    if len(specs) > RANGES_MAX:
        return None
    found = []
    for spec in specs:
        first, _, last = spec.partition("-")
        if not first:
            begin, end = max(0, size - _number(last)), size
            if size == 0 and _number(last):
                return None  # all of an empty file, of which no Content-Range can tell
        else:
            begin, end = _number(first), min(size, _number(last) + 1) if last else size
            if last and _number(last) < begin:
                return None
        if begin < end:
            found.append((begin, end))
    if not found:
        raise NotSatisfiable
    return _joined(found)


def _number(digits: str) -> int:
    """No file is longer than what 18 digits say, and the interpreter refuses to read thousands of them."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= 18 else 10**18


def _joined(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without overlaps, so that an answer is never longer than the file (and its parts' heads)."""
    ordered = sorted(found)
    joined = [ordered[0]]
    for begin, end in ordered[1:]:
        if begin < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return found if len(joined) == len(found) else joined
