"""Operations for users: find a program, choose an engine, load it once per loop. Registered buffers.

Used by programs as `aiouring.bpf.Op`, and by `aiouring.chain`. Calls `_bpfop`, `_registered` and, for what is loaded into the kernel, `_libbpf_op`.

Who owns what: a loop's LoopOperations owns the operations that were loaded for it, and its Loop.close() closes them.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from aiouring import _bpfop, _registered, executor
from aiouring.bpf import support
from aiouring.bpf.errors import OperationRefused

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from aiouring.bpf._libbpf_op import OperationObject
    from aiouring.loop import Loop

OperationEngine = Literal["auto", "opcode", "module", "prog_run", "inline"]
ENGINES = ("opcode", "module", "prog_run", "inline")  # the best first

OBJECTS = Path(__file__).parent / "objects"
DEVICE = "/dev/aiouring_bpf"
SHIPPED = tuple(_bpfop.shipped())


class Op(_bpfop.OpCore):
    """An operation: `result = await op(*buffers, flags=0, length=None)`.

    Made by load(). A call's buffers are anything with the buffer protocol, of 4 MiB at most each, as many as the operation takes; those that it
    writes must be writable. They are locked (a bytearray cannot be resized) until the call has ended. flags: 32 bits, whose meaning is the
    operation's. length: only so many bytes of the first buffer.

    The result is an int of 64 bits. A call raises TypeError, ValueError or BufferError for what can be known before it begins, and OSError, whose
    text begins with the operation's name, for what the operation says. CancelledError comes when no buffer is in use any more; how much the
    operation has written by then is not known. Calls run at the same time where the engine can, and end in any order.
    """

    engine_reason: str
    """Why it is no better engine, in one sentence; empty for the best one."""

    @classmethod
    async def load(
        cls,
        program: str | os.PathLike[str],
        *,
        engine: OperationEngine = "auto",
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Op:
        """Load an operation for the running loop; the same one for the same arguments, until it is closed. The loop's end frees it.

        program: the name of one that ships ("nop", "copy", "fill", "xor", "crc32c", "find", "count", "base64"), or the path of the source or of any
        file that `python -m aiouring build-op` made from it ("mine.op.so"); the others lie beside it.
        engine: "opcode" (a kernel with BPF operations, IORING_OP_BPF), "module" (aiouring's kernel module), "prog_run" (a BPF program that this
        process runs; CAP_BPF and CAP_PERFMON, Linux 6.4), "inline" (C in this process), or "auto": the first of these that can be. `op.engine` and
        `op.engine_reason` say which it is, and why it is no better one.

        Raises ValueError for an engine that there is not, TypeError for a loop of another kind, RuntimeError where `loop` is not the running one,
        FileNotFoundError where a file is missing, and OSError where the engine that was asked for cannot run here, or refuses the operation: the
        verifier's words are in the message then. Cancelling it waits for the kernel's answer.
        """
        if engine not in ("auto", *ENGINES):
            raise ValueError(f"engine is 'auto', {', '.join(map(repr, ENGINES[:-1]))} or {ENGINES[-1]!r}, not {engine!r}")
        running = asyncio.get_running_loop()
        if not hasattr(running, "ring_stats"):
            raise TypeError(f"operations are for aiouring's event loops, not for {type(running).__name__}")
        if loop is not None and loop is not running:
            raise RuntimeError("an operation is loaded from its own loop's thread")
        operations = LoopOperations.of(cast("Loop", running))
        return await operations.load(cls, program_of(program), engine)

    def close(self) -> None:
        """Free what was loaded once the calls in flight have ended; further calls raise RuntimeError. May be called twice."""
        super().close()

    def __repr__(self) -> str:
        return f"<Op {self.name} engine={self.engine}{' closed' if self.closed else ''}>"


class Program:
    """Where the files of an operation are."""

    def __init__(self, named: str, folder: Path, stem: str) -> None:
        self.named = named
        self.ships = named in SHIPPED
        self.kernel_object = folder / f"{stem}.op.bpf.o"
        self.run_object = folder / f"{stem}.run.bpf.o"
        self.library = folder / f"{stem}.op.so"
        self.source = folder / f"{stem}.bpf.c"
        self.key = stem if self.ships else str((folder / stem).absolute())

    def other_sources(self) -> str:
        """Which of its files were not built from the source that lies beside them, in one sentence, or from one source; empty where none is known."""
        from aiouring.bpf import build  # here: who has no operation of his own does not need it

        stamps = {path.name: build.stamp_of(path) for path in (self.kernel_object, self.run_object, self.library)}
        built = {name: stamp for name, stamp in stamps.items() if stamp is not None}
        if self.source.exists():
            now = build.digest(self.source)
            stale = [name for name, stamp in built.items() if stamp != now]
            return f"{self.source.name} was changed after {' and '.join(stale)} {'was' if len(stale) == 1 else 'were'} built" if stale else ""
        return f"{' and '.join(built)} were built from different sources" if len(set(built.values())) > 1 else ""

    def missing(self, reasons: list[str]) -> FileNotFoundError:
        """There is no library, and no other engine can run it, for these reasons."""
        files = (self.library, self.run_object, self.kernel_object)
        if any(path.exists() for path in files):
            return FileNotFoundError(
                errno.ENOENT, f"the engine inline needs this file, which `python -m aiouring build-op` makes, and no other can run the operation "
                f"({'; '.join(reasons)})", str(self.library),
            )  # fmt: skip
        names = f"{', '.join(path.name for path in files[:2])} and {files[2].name}"
        text = f"none of the operation's files is there ({names}): `python -m aiouring build-op` makes them"
        return FileNotFoundError(errno.ENOENT, text, self.named)


def program_of(program: str | os.PathLike[str]) -> Program:
    named = os.fspath(program)
    if not isinstance(named, str):
        raise TypeError(f"an operation's name or path is a str or a path, not {type(named).__name__}")
    if named in SHIPPED:
        return Program(named, OBJECTS, named)
    path = Path(named)
    for suffix in (".op.bpf.o", ".run.bpf.o", ".op.so", ".bpf.c"):
        if path.name.endswith(suffix) and path.name != suffix:
            return Program(named, path.parent, path.name.removesuffix(suffix))
    raise FileNotFoundError(errno.ENOENT, f"no such operation; those that ship are {', '.join(SHIPPED)}, others are named by a file", named)


class Unfit(Exception):
    """An engine cannot run here, or not this operation: the text says why."""

    def __init__(self, reason: str, error: OSError | None = None) -> None:
        super().__init__(reason)
        self.error = error


class LoopOperations:
    """What was loaded for one loop."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.loaded: dict[tuple[str, str], Op] = {}
        self.lock = asyncio.Lock()
        self.numbers = set(range(_bpfop.OPERATIONS_MAX))  # that are free, on the ring and on the device
        self.device_fd = -1

    @classmethod
    def of(cls, loop: Loop) -> LoopOperations:
        """The loop's. Its close() closes them."""
        if loop._operations is None:
            loop._operations = cls(loop)
        return loop._operations

    async def load(self, kind: type[Op], program: Program, engine: OperationEngine) -> Op:
        key = (program.key, engine)
        async with self.lock:
            op = self.loaded.get(key)
            if op is None or op.closed:
                op = self.loaded[key] = await self.choose(kind, program, engine)
        return op

    async def choose(self, kind: type[Op], program: Program, engine: OperationEngine) -> Op:
        reasons: list[str] = []
        fault = "" if program.ships else await executor.in_executor(program.other_sources)
        if fault:
            warnings.warn(f"{program.named}: {fault}: `python -m aiouring build-op` makes them anew", RuntimeWarning, stacklevel=4)
        for name in ENGINES if engine == "auto" else (engine,):
            try:
                known = self.loaded.get((program.key, name))
                op = known if known is not None and not known.closed else await self.make(kind, program, name)
            except Unfit as unfit:
                # What the verifier does not trust is not run unchecked in its place, unless somebody says so.
                error = unfit.error
                refused = isinstance(error, OperationRefused) and error.errno != errno.EPERM and bool(error.log) and not program.ships
                if engine != "auto" or refused:
                    raise unfit.error or OSError(errno.ENOSYS, f"{program.named}: the engine {name} cannot run here: {unfit}") from unfit.error
                if unfit.error is not None and name == "inline":
                    raise program.missing(reasons) if isinstance(unfit.error, FileNotFoundError) else unfit.error from None
                reasons.append(f"{name}: {unfit}")
                continue
            if op is not known:
                op.engine_reason = f"{engine} was asked for" if engine not in ("auto", ENGINES[0]) else "; ".join(reasons)
                self.loaded[program.key, name] = op
            return op
        raise OSError(errno.ENOSYS, f"{program.named}: no engine can run it: {'; '.join(reasons)}")

    async def make(self, kind: type[Op], program: Program, engine: str) -> Op:
        """Load it for one engine. Raises Unfit."""
        op = kind()
        if engine == "inline":
            if program.ships:
                op._use_shipped(self.loop, program.named)
            else:
                op._use_library(self.loop, await executor.in_executor(load_library, program.library))
        else:
            reason = why_not_kernel()
            if reason:
                raise Unfit(reason)
            if engine == "prog_run":
                await load_in_thread(program.run_object, lambda loaded: op._use_program(self.loop, loaded))
            elif engine == "module":
                await self.attach(program, op, self.device(), lambda attached: op._use_device(self.loop, attached, attached.number, self.device_fd))
            else:
                opcode = await self.opcode()
                ring_fd = _bpfop.ring_fd(self.loop)
                await self.attach(program, op, ring_fd, lambda attached: op._use_ring(self.loop, attached, attached.number, opcode))
        return op

    def device(self) -> int:
        """The descriptor of the module's device, one for the loop. Raises Unfit."""
        if not support.holds(support.CAP_SYS_ADMIN):
            raise Unfit("this process lacks CAP_SYS_ADMIN, without which the kernel does not tell the module's types")
        if self.device_fd < 0:
            try:
                self.device_fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Unfit(f"there is no {DEVICE}: aiouring's kernel module is not loaded") from error
            except OSError as error:
                raise Unfit(f"{DEVICE} cannot be opened: {os.strerror(error.errno or 0)}", error) from error
        return self.device_fd

    async def opcode(self) -> int:
        """The number of IORING_OP_BPF. Raises Unfit."""
        from aiouring.bpf import _libbpf_op  # here, since a build without libbpf has none

        known: bool = b"\0IORING_OP_BPF\0" in await executor.in_executor(support.KERNEL_TYPES.read_bytes)
        opcode = await executor.in_executor(_libbpf_op.kernel_opcode) if known else -1
        if opcode < 0:
            raise Unfit(f"this kernel ({os.uname().release}) has no BPF operations (IORING_OP_BPF)")
        if not _bpfop.supports(self.loop, opcode):
            raise Unfit("this kernel's io_uring does not offer its BPF operations (IORING_OP_BPF)")
        return opcode

    async def attach(self, program: Program, op: Op, fd: int, use: Callable[[Attached], None]) -> None:
        """Load an operation's object as one of a ring's, or of the device's."""
        if not self.numbers:
            raise Unfit(f"{_bpfop.OPERATIONS_MAX} operations are loaded for this loop, which is the most")
        attached = Attached(str(program.kernel_object), self.numbers)

        def load(loaded: OperationObject) -> None:
            attached.attach(loaded, fd)
            use(attached)

        try:
            await load_in_thread(program.kernel_object, load)
        except BaseException:
            attached.close()
            raise

    def close(self) -> None:
        """The loop is closed: nothing is in flight but what runs in threads, which frees its operation when it ends."""
        loaded, self.loaded = self.loaded, {}
        for op in loaded.values():
            op.close()
        if self.device_fd >= 0:
            os.close(self.device_fd)
            self.device_fd = -1


class Attached:
    """An operation in the kernel under a number. What OpCore holds of it, and closes."""

    def __init__(self, path: str, numbers: set[int]) -> None:
        self.path = path
        self.numbers = numbers
        self.number = min(numbers)
        numbers.remove(self.number)
        self.loaded: OperationObject | None = None
        self.info: tuple[str, int, int, int] = ("", 0, 0, 0)

    def attach(self, loaded: OperationObject, fd: int) -> None:
        loaded.load_and_attach(self.number, fd)
        self.loaded = loaded
        self.info = loaded.info

    def move(self, fd: int) -> None:
        """Its ring is gone; attach it to another one. The verifier looks at it again, in the loop's thread: a matter of milliseconds."""
        from aiouring.bpf import _libbpf_op

        old, self.loaded = self.loaded, None
        if old is not None:
            old.close()
        self.attach(_libbpf_op.OperationObject(self.path, Path(self.path).read_bytes()), fd)

    def close(self) -> None:
        """Take it off. No request may be in flight."""
        if self.loaded is not None:
            self.loaded.close()
            self.loaded = None
        self.numbers.add(self.number)


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        missing = FileNotFoundError(errno.ENOENT, "this file of the operation is missing: `python -m aiouring build-op` makes it", str(path))
        raise Unfit(f"there is no {path.name}", missing) from error


def load_library(path: Path) -> _bpfop.Library:
    return _bpfop.Library(str(path), read_file(path))


async def load_in_thread(path: Path, load: Callable[[OperationObject], None]) -> None:
    """Open an object and load it into the kernel. The verifier may take a second for a large one."""
    from aiouring.bpf import _libbpf_op  # here, since a build without libbpf has none

    def run() -> None:
        loaded = _libbpf_op.OperationObject(str(path), read_file(path))
        try:
            load(loaded)
        except BaseException:
            loaded.close()
            raise

    try:
        await executor.in_executor(run)
    except OperationRefused as error:
        raise Unfit(f"the kernel refused it: {error.reason or os.strerror(error.errno or 0)}", error) from error


def why_not_kernel() -> str:
    """Why this process can load no operation into the kernel, in one sentence; empty if it can."""
    if importlib.util.find_spec("aiouring.bpf._libbpf_op") is None:
        return "this build of aiouring has no libbpf (it was not found, or not new enough, when the package was built)"
    missing = support.missing_capabilities()
    if missing:
        return f"this process lacks {' and '.join(missing)}"
    return ""


def register_buffer(memory: Buffer) -> _registered.RegisteredBuffer:
    """Register memory (a bytearray, an mmap, any writable buffer) with the running loop's ring, and give a buffer that operations take as any other.

    The kernel keeps it pinned, which spares the engines opcode and module the look-up of its pages for each request; the others use the memory
    itself. It is locked until it is closed, by close() or by `with`, and no request and no memoryview of it is left; wait_closed() waits for that.
    There are 64 places in a ring's table, and RLIMIT_MEMLOCK may bound what is pinned: `registered` says whether the kernel took it. The module uses
    the table for one buffer of a request.

    Raises TypeError for what has no buffer, or where the loop is another kind, BufferError for memory that is read-only or not in one piece.
    """
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "ring_stats"):
        raise TypeError(f"buffers are registered with aiouring's event loops, not with {type(loop).__name__}")
    return _registered.RegisteredBuffer(loop, memory)
