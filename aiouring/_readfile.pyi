"""What Python sees of fs.read_bytes(): an awaitable, or None where the executor has to do it."""

from collections.abc import Awaitable

from aiouring._types import StrOrBytesPath

def read_bytes(path: StrOrBytesPath) -> Awaitable[bytes] | None: ...
