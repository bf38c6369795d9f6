"""What Python sees of an awaited request: a coroutine's interface, and that of the future that its task waits for."""

from aiouring._awaitable import AwaitableFuture
from aiouring._loop import LoopCore

class Operation(AwaitableFuture):
    @property
    def _loop(self) -> LoopCore | None: ...
    def cancel(self, msg: object = None) -> bool: ...
