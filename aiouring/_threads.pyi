"""What Python sees of calls in threads."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

from aiouring._loop import LoopCore

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

def in_thread(loop: LoopCore, function: Callable[[], _T], drop: Callable[[_T], None] | None) -> Awaitable[_T]: ...

class ThreadPool(ThreadPoolExecutor): ...

class ThreadMixin:
    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]: ...
