"""What Python sees of the address conversions."""

from typing import Any

class HostNotLiteral(Exception):
    host: bytes
    def __init__(self, host: bytes) -> None: ...

def encode(address: Any, family: int, caller: str = "sendto", resolve: bool = False) -> bytes: ...
def decode(raw: bytes) -> Any: ...
