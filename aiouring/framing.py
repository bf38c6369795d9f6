"""How a stream is cut into frames: what `create_server(frames=...)` and its relatives take. Once per server.

Public as aiouring.LengthPrefixed, aiouring.Delimited and aiouring.IncompleteFrameError. Used by `network` and `_frames`, which cuts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

MAX_FRAME_LIMIT = 1 << 40


class IncompleteFrameError(asyncio.IncompleteReadError):
    """The peer ended its stream in the middle of a frame; connection_lost() gets it.

    partial: what came after the last whole frame, with its prefix. expected: how many bytes that would have become, or None where it is not known.
    """


def _check(max_frame: int, max_delay: float, max_batch: int) -> None:
    if not 1 <= max_frame <= MAX_FRAME_LIMIT:
        raise ValueError(f"max_frame is a number of bytes from 1 to {MAX_FRAME_LIMIT:,}, not {max_frame!r}")
    if not 0 <= max_delay <= 3600:
        raise ValueError(f"max_delay is a time in seconds from 0 to 3600, not {max_delay!r}")
    if not 1 <= max_batch <= 1_000_000:
        raise ValueError(f"max_batch is a number of frames from 1 to 1,000,000, not {max_batch!r}")


@dataclass(frozen=True, kw_only=True)
class _Limits:
    max_frame: int = 1024 * 1024
    max_delay: float = 0.001
    max_batch: int = 32


@dataclass(frozen=True)
class LengthPrefixed(_Limits):
    """Frames that begin with their length, a number that does not count itself.

    size_bytes: of that number: 1, 2, 4 or 8. byteorder: "big" (as in most protocols) or "little".
    max_frame: the longest frame in bytes, without its prefix. A longer one aborts the connection with ValueError.
    max_delay: seconds for which a whole frame may wait for others before Python is woken. max_batch: whole frames that wake Python at once.
    Both matter only where a loop hook runs; without one Python is woken for whatever comes. If it wakes for something else, it gets the whole
    frames that are there.
    """

    size_bytes: int = 4
    byteorder: Literal["big", "little"] = "big"

    def __post_init__(self) -> None:
        if self.size_bytes not in (1, 2, 4, 8):
            raise ValueError(f"size_bytes is 1, 2, 4 or 8, not {self.size_bytes!r}")
        if self.byteorder not in ("big", "little"):
            raise ValueError(f"byteorder is 'big' or 'little', not {self.byteorder!r}")
        _check(self.max_frame, self.max_delay, self.max_batch)


@dataclass(frozen=True)
class Delimited(_Limits):
    """Frames that end with a delimiter, which is no part of them.

    delimiter: 1 to 8 bytes. The others are those of LengthPrefixed; max_frame does not count the delimiter.
    """

    delimiter: bytes = b"\n"

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes):
            raise TypeError(f"the delimiter is a bytes object, not {type(self.delimiter).__name__}")
        if not 1 <= len(self.delimiter) <= 8:
            raise ValueError(f"the delimiter has from 1 to 8 bytes, not {len(self.delimiter)}")
        _check(self.max_frame, self.max_delay, self.max_batch)


Framing = LengthPrefixed | Delimited
