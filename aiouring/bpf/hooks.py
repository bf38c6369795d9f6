"""Loop hooks for users: choose a program and an engine, attach it to the running loop, look at its counters. Once per loop.

Used by programs as `aiouring.bpf.Hook`, and by `aiouring.tasks`. Calls `_hook` and, for the kernel engine, `_libbpf` and `privileged`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast

from aiouring import _hook
from aiouring.bpf import support

if TYPE_CHECKING:
    from aiouring.bpf._libbpf import Map, Object
    from aiouring.bpf.privileged import Adopted, Attachment
    from aiouring.loop import Loop

Engine = Literal["auto", "kernel", "inline"]

OBJECTS = Path(__file__).parent / "objects"


class Hook:
    """A program that sees each completion of an event loop before Python does.

    Made by load(), attached by attach() or by `with`. One hook at a time can be attached to a loop.
    """

    def __init__(self, name: str, engine: str, reason: str, *, object_path: Path, library: str, memory_bytes: int | None) -> None:
        self.name = name
        self._engine = engine
        self._reason = reason
        self._object_path = object_path
        self._library = library
        self._memory_bytes = memory_bytes
        self._attached: _hook.HookEngine | None = None
        self._loaded: Object | Attachment | None = None
        self._adopted: Adopted | None = None
        self._waits = False  # for its loop's next run
        self._loop: weakref.ref[Loop] | None = None  # it will be attached to, or was

    @classmethod
    def load(cls, program: str | os.PathLike[str] = "standard", *, engine: Engine = "auto", memory_bytes: int | None = None) -> Hook:
        """Find a program and decide which engine runs it.

        program: the name of one that ships ("standard": the tasks of aiouring.relay and its relatives; "wake": leaves everything to Python), or the
        path of an object that `python -m aiouring build-hook` made ("mine.bpf.o"; the library for the inline engine, "mine.bpf.so", lies beside it).
        engine: "kernel" runs it inside io_uring_enter (Linux 7.1.5, CAP_BPF and CAP_PERFMON), "inline" in this process right after it (any
        kernel), "auto" in the kernel where that is possible; `engine` and `engine_reason` say which it is, and why it is not the kernel.
        memory_bytes: the memory that program and process share, in whole pages, at least 1,650,688; 5 MiB if None, 1,191,936 bytes of them the
        program's own. All hooks of a loop share one, whose size the first decides. With less than 5 MiB connections with frames or canned answers
        are not watched.

        Raises FileNotFoundError where a file is missing, and OSError where the engine that was asked for cannot run here. What is in the files,
        and whether memory_bytes will do, attach() looks at.
        """
        if engine not in ("auto", "kernel", "inline"):
            raise ValueError(f"engine is 'auto', 'kernel' or 'inline', not {engine!r}")
        named = os.fspath(program)
        object_path = object_of(program)
        if named in _hook.SHIPPED:
            library = named
        else:
            library = str(object_path.with_suffix(".so"))
            if not object_path.exists() and not Path(library).exists():
                raise FileNotFoundError(2, f"no such hook program (those that ship are {', '.join(_hook.SHIPPED)})", named)
        reason = "inline was asked for" if engine == "inline" else why_not_kernel(object_path)
        if reason and engine == "kernel":
            raise OSError(38, f"the kernel engine cannot run here: {reason}")
        if reason and library not in _hook.SHIPPED and not Path(library).exists():
            raise FileNotFoundError(2, f"the inline engine needs the program as a library (and the kernel engine cannot run: {reason})", library)
        return cls(
            named, "inline" if reason else "kernel", reason, object_path=object_path, library=library, memory_bytes=memory_bytes
        )  # fmt: skip

    @classmethod
    def adopt(
        cls,
        program: str | os.PathLike[str] = "standard",
        *,
        pinned: str | os.PathLike[str] | None = None,
        descriptors: Mapping[str, int] | None = None,
        memory_bytes: int | None = None,
    ) -> Hook:
        """A hook that another process loaded into the kernel by aiouring.bpf.load_for_others(): this one needs no privileges.

        program, memory_bytes: the same as there. pinned: the folder in which its maps were pinned; or descriptors: theirs by name, inherited or
        received over a unix socket, which stay the caller's.

        Raises OSError where a file is missing or may not be read, or the descriptors are no such maps, ValueError where one of them is missing, and
        TypeError where there are both of pinned and descriptors or none. attach() raises OSError where it was
        loaded for another kind of ring, and EBUSY where it is attached already or its ring's number is taken in this process.
        """
        if (pinned is None) == (descriptors is None):
            raise TypeError("adopt() takes either pinned or descriptors")
        if importlib.util.find_spec("aiouring.bpf._libbpf") is None:
            raise OSError(38, kernel_support())
        from aiouring.bpf import _libbpf, privileged  # here, since a build without libbpf has no use for them

        path = object_of(program)
        if pinned is not None:
            loaded = _libbpf.Object.from_pinned(pinned, path)
        else:
            assert descriptors is not None
            loaded = _libbpf.Object.from_descriptors(descriptors, path)
        hook = cls(os.fspath(program), "kernel", "", object_path=path, library="", memory_bytes=memory_bytes)
        hook._adopted = privileged.Adopted(loaded)
        return hook

    @classmethod
    def current(cls, loop: asyncio.AbstractEventLoop | None = None) -> Hook | None:
        """The hook that is attached to a loop, the running one if None, and None where there is none.

        Also a standard hook that relay(), a chain or another of its users has attached by itself: to look at its stats, or to detach() it when
        nothing runs in it, so that another one can be attached. Raises TypeError where it is no loop of aiouring, RuntimeError where none runs.
        """
        if loop is None:
            loop = asyncio.get_running_loop()
        if not hasattr(loop, "ring_stats"):
            raise TypeError(f"hooks are for aiouring's event loops, not for {type(loop).__name__}")
        hook = cast("Loop", loop)._hook
        return hook if hook is not None and hook.attached else None

    @property
    def engine(self) -> str:
        """ "kernel" or "inline": the engine that runs the program, or will when it is attached."""
        return self._engine

    @property
    def engine_reason(self) -> str:
        """Why it is not the kernel engine, in one sentence; empty if it is."""
        return self._reason

    @property
    def attached(self) -> bool:
        """Whether it sees completions now."""
        return self._attached is not None and self._attached.attached

    def attach(self, loop: asyncio.AbstractEventLoop | None = None) -> Hook:
        """Attach it to a loop, the running one if None. Requests in flight go on. Returns itself, for `with`.

        A loop that does not run yet gets it when it runs, before its first turn, and what is said here about errors happens then.
        Raises RuntimeError where the loop has a hook already, runs in another thread, or is None and none runs; TypeError where it is no loop of
        aiouring; ValueError where memory_bytes cannot be, or is another size than that of the loop's first hook; OSError where a file is no hook
        program or the kernel refuses it; the verifier's words are in the message then.
        """
        running = asyncio._get_running_loop()
        if loop is None:
            loop = asyncio.get_running_loop()
        if not hasattr(loop, "ring_stats"):
            raise TypeError(f"hooks are for aiouring's event loops, not for {type(loop).__name__}")
        if self.attached:
            raise RuntimeError("this hook is attached already")
        if loop is running:
            self._loop = weakref.ref(cast("Loop", loop))
            self._attach_now(loop)
        elif loop.is_running():
            raise RuntimeError("a hook is attached from its own loop's thread")
        else:
            ours = cast("Loop", loop)
            ours._at_first_run(self._attach_now)
            self._loop = weakref.ref(ours)
            self._waits = True
        return self

    def _attach_now(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waits = False
        if self._engine == "kernel":
            self._attached = _hook.attach_kernel(loop, self._load_into_kernel, self._memory_bytes)
        else:
            self._attached = _hook.attach_inline(loop, self._library, self._memory_bytes)
        cast("Loop", loop)._hook = self

    def _load_into_kernel(self, ring_fd: int, layout: bytes) -> Object | Attachment:
        if self._adopted is not None:
            self._loaded = self._adopted.attach(ring_fd, layout)
            return self._loaded
        from aiouring.bpf import _libbpf  # here, since a build without libbpf has none

        loaded = _libbpf.Object.open(self._object_path)
        try:
            loaded.set_rodata({"aiouring_layout": layout})
            loaded.load(ring_fd=ring_fd)
            loaded.attach()
        except BaseException:
            loaded.close()
            raise
        self._loaded = loaded
        return loaded

    def detach(self) -> None:
        """Let completions go straight to the loop again. Raises RuntimeError while tasks run in it, and from another thread than its loop's while
        that one runs. May be called twice."""
        loop = self._loop() if self._loop is not None else None
        if loop is not None and loop.is_running() and loop._thread_id != threading.get_ident() and self.attached:
            raise RuntimeError("a hook is detached in its own loop's thread: use call_soon_threadsafe()")
        if self._waits and loop is not None:
            self._waits = False
            loop._at_first_run(None)
        if self._attached is not None:
            self._attached.detach()
            self._loaded = None

    def __enter__(self) -> Hook:
        if not self.attached:
            self.attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.detach()

    def _engine_object(self) -> _hook.HookEngine:
        if self._attached is None:
            raise RuntimeError("this hook was never attached")
        return self._attached

    @property
    def stats(self) -> dict[str, int]:
        """Counts since the loop got its first hook: steps of the program, completions (cqes) and what it said of them (consumed, held, woke), and
        the tasks and chains that run now; and of servers with respond= how many requests the program answered, and passed on to Python. The kernel
        engine's are counted by the program in the kernel."""
        return dict(self._engine_object().stats())

    @property
    def counters(self) -> list[int]:
        """The 64 counters that the program adds to by aiouring_count(). They are the loop's: its next hook goes on with them."""
        return list(self._engine_object().counters())

    @property
    def memory(self) -> memoryview:
        """The part of the shared memory that is the program's own (from AIOURING_USER_OFFSET on), writable. What is in it stays for the loop's next
        hook."""
        return self._engine_object().memory()

    @property
    def maps(self) -> Mapping[str, Map]:
        """The program's BPF maps by name; kernel engine only, while attached."""
        if self._loaded is None:
            raise RuntimeError("maps are those of a program in the kernel, while it is attached")
        return self._loaded.maps

    @property
    def globals(self) -> Mapping[str, memoryview]:
        """The program's global variables by name; kernel engine only, while attached."""
        if self._loaded is None:
            raise RuntimeError("globals are those of a program in the kernel, while it is attached")
        return self._loaded.globals

    def __repr__(self) -> str:
        return f"<Hook {self.name} engine={self.engine} {'attached' if self.attached else 'not attached'}>"


def object_of(program: str | os.PathLike[str]) -> Path:
    """Where the object of a program is: one that ships, by its name, or any by its path."""
    named = os.fspath(program)
    return OBJECTS / f"{named}.bpf.o" if named in _hook.SHIPPED else Path(named)


def kernel_support() -> str:
    """Why no hook can be loaded into this machine's kernel by this process, in one sentence; an empty string if one can.

    It asks the kernel's own types, so a kernel that was built without the loop hook, or before it (Linux 7.1), is recognised as such. Where only the
    privileges are missing, a hook that a privileged process loaded can still be attached: see Hook.adopt().
    """
    if importlib.util.find_spec("aiouring.bpf._libbpf") is None:
        return "this build of aiouring has no libbpf (it was not found, or not new enough, when the package was built)"
    return support.why_not()


def why_not_kernel(object_path: Path) -> str:
    """Why a program cannot run in the kernel, in one sentence; empty if it can."""
    reason = kernel_support()
    if reason:
        return reason
    if not object_path.exists():
        return f"there is no BPF object {object_path} (clang was not there when aiouring was built)"
    return ""


def attach_standard(loop: asyncio.AbstractEventLoop) -> None:
    """For what a hook only makes cheaper: attach the standard one where the loop runs and has none."""
    if loop.is_running():
        standard_engine(loop)


def standard_engine(loop: asyncio.AbstractEventLoop) -> _hook.HookEngine:
    """The engine of the loop's hook, for tasks; the standard hook is attached where there is none."""
    engine = _hook.engine_of(loop)
    if engine is None:
        hook = Hook.load("standard")
        try:
            hook.attach(loop)
        except OSError as error:
            if hook.engine != "kernel":
                raise
            hook = Hook.load("standard", engine="inline")
            hook._reason = f"the kernel refused it: {error}"
            hook.attach(loop)
        engine = _hook.engine_of(loop)
        assert engine is not None
    return engine
