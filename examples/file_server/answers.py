"""Answers: status, header fields, and a body that is bytes, pieces of an open file, or both. Made by `folder` and `stats`, sent by `connection`."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from http import HTTPStatus

from .cache import Entry
from .files import OpenFile
from .request import Refusal


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the answer's file."""

    offset: int
    length: int


@dataclass(slots=True)
class Answer:
    """`length` is that of the whole body; None: the answer says nothing of a body (304). The answer owns its file until it was sent."""

    status: HTTPStatus
    #: Complete header lines, without Date, Content-Length and Connection.
    fields: list[str]
    body: list[bytes | Piece] = field(default_factory=list)
    length: int | None = 0
    file: OpenFile | None = None
    #: In memory, where the answer is the whole of it: the next request with the same head can be answered with it at once.
    entry: Entry | None = None

    def close(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()


def page(status: HTTPStatus, text: str, *fields: str, kind: str = "text/html; charset=utf-8") -> Answer:
    """An answer that is a text of our own making."""
    body = text.encode(errors="replace")
    return Answer(status, [f"Content-Type: {kind}", *fields], [body], len(body))


def refusal_page(refusal: Refusal) -> Answer:
    title = f"{int(refusal.status)} {refusal.status.phrase}"
    text = f'<!doctype html>\n<meta charset="utf-8"><title>{title}</title>\n<h1>{title}</h1>\n<p>{html.escape(str(refusal))}</p>\n'
    return page(refusal.status, text, *(f"{name}: {value}" for name, value in refusal.headers.items()))


def head_of(answer: Answer, date: str, minor: int, keep_alive: bool) -> bytes:
    """The answer's head. The version is ours, whatever the request's; Connection is said where it is not what that version means anyway."""
    lines = [f"HTTP/1.1 {int(answer.status)} {answer.status.phrase}", f"Date: {date}", *answer.fields]
    if answer.length is not None:
        lines.append(f"Content-Length: {answer.length}")
    if not keep_alive:
        lines.append("Connection: close")
    elif minor == 0:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
