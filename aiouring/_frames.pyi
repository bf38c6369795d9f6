from collections.abc import Iterable

from aiouring.framing import Framing

class Framer:
    framing: Framing
    error: ValueError | None
    def __init__(self, framing: Framing) -> None: ...

def cut(framing: Framing, pieces: Iterable[bytes]) -> tuple[list[bytes], Exception | None]: ...
