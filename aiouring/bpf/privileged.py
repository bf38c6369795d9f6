"""Hooks that one process loads, with privileges, and another one attaches, without. Once per hook.

Used by programs as `aiouring.bpf.load_for_others`, and by `hooks` for Hook.adopt. Calls `_libbpf`, `_hook` and, for a ring to look at, `loop`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

from aiouring import _hook
from aiouring.bpf.errors import HookError
from aiouring.loop import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiouring.bpf._libbpf import Map, Object


class Seen(Exception):
    """The layout is known; nothing shall be attached."""


def layout_of_loops(memory_bytes: int | None) -> bytes:
    """What a program has to know of a loop's ring and its memory: the same for each loop of this build on this kernel, so one is looked at."""
    layouts: list[bytes] = []

    def look(ring_fd: int, layout: bytes) -> NoReturn:
        layouts.append(layout)
        raise Seen

    async def attach() -> None:
        try:
            _hook.attach_kernel(asyncio.get_running_loop(), look, memory_bytes)
        except Seen:
            pass

    def run() -> None:
        loop = new_event_loop()
        try:
            loop.run_until_complete(attach())
        finally:
            loop.close()

    # The caller's thread may have a running loop of its own.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(run).result()
    return layouts[0]


def load_for_others(ring_fd: int, program: str | os.PathLike[str] = "standard", *, memory_bytes: int | None = None) -> Object:
    """Load a hook program for an event loop of another process, which attaches it by Hook.adopt() and needs no privileges for that.

    ring_fd: a number that is free among that process's descriptors; its ring is put there while it attaches. program, memory_bytes: as in
    Hook.load(), and the same as in that process, which must run the same build of aiouring. Hand the object over by its pin() or its `descriptors`,
    and keep it until the other one has it.

    Needs CAP_BPF and CAP_PERFMON. Raises OSError where the program's file is missing, HookRefused where the kernel refuses it, also for want of
    these or of a loop hook in this kernel.
    """
    from aiouring.bpf import _libbpf, hooks  # here: a build without libbpf has not the one, and the other imports this module

    loaded = _libbpf.Object.open(hooks.object_of(program))
    try:
        loaded.set_rodata({"aiouring_layout": layout_of_loops(memory_bytes)})
        loaded.load(ring_fd=ring_fd)
    except BaseException:
        loaded.close()
        raise
    return loaded


class Adopted:
    """An object that another process loaded, as a hook keeps it: attached again and again, to one ring at a time."""

    def __init__(self, loaded: Object) -> None:
        self.loaded = loaded
        self.latest: Attachment | None = None

    def attach(self, ring_fd: int, layout: bytes) -> Attachment:
        """Attach it to a ring of this process. Raises OSError: EINVAL where it was loaded for another kind of ring, and as Object.attach()."""
        if "aiouring_layout" not in self.loaded.globals or bytes(self.loaded.globals["aiouring_layout"]) != layout:
            raise HookError(errno.EINVAL, "it was loaded for loops of another build of aiouring, or for other memory_bytes", self.loaded.name)
        # A loop that moved to another thread has a new ring; the kernel binds an object to one.
        self.loaded.detach()
        self.loaded.attach(ring_fd)
        self.latest = Attachment(self)
        return self.latest


class Attachment:
    """What the kernel engine holds of an adopted object, in place of an object of its own."""

    def __init__(self, adopted: Adopted) -> None:
        self.adopted = adopted
        self.globals: Mapping[str, memoryview] = adopted.loaded.globals
        self.maps: Mapping[str, Map] = adopted.loaded.maps

    def detach(self) -> None:
        # The engine of a ring that the loop left detaches after the new ring's has attached.
        if self.adopted.latest is self:
            self.adopted.latest = None
            self.adopted.loaded.detach()

    def close(self) -> None:
        """Nothing: the object is its hook's."""
