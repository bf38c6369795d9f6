"""Operations from load() to close(): which engine, cancellation, threads, forks, loops that end, registered buffers, and that nothing is left."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import aiouring
from aiouring import bpf
from aiouring.bpf import ops
from tests.unit.op_programs import CHUNK, ENGINES, MOST, NATIVE, Ids, busy_executor, gone, load, need, own_ids, some

IN_THREADS = ["inline", "prog_run"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    need(request.param)
    return request.param


@pytest.fixture(params=IN_THREADS)
def thread_engine(request: pytest.FixtureRequest) -> Any:
    need(request.param)
    return request.param


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- load and close ------------------------------------------------------------------------------------------------------------------------------


async def test_the_same_thing_is_loaded_once(engine: Any) -> None:
    first, second, third = await asyncio.gather(*(bpf.Op.load("crc32c", engine=engine) for _ in range(3)))
    assert first is second is third
    assert await bpf.Op.load("crc32c", engine=engine, loop=asyncio.get_running_loop()) is first
    own = own_ids()
    # prep and issue; the kernel's engines have a link as well.
    assert [len(own[kind]) for kind in ("prog_id", "link_id")] == {"inline": [0, 0], "prog_run": [1, 0]}.get(engine, [2, 1])
    other = await bpf.Op.load("copy", engine=engine)
    assert other is not first
    first.close()
    assert first.closed and repr(first) == f"<Op crc32c engine={engine} closed>"
    with pytest.raises(RuntimeError, match="crc32c: this operation is closed"):
        await first(b"1")
    again = await bpf.Op.load("crc32c", engine=engine)
    assert again is not first and not again.closed
    assert await again(b"123456789") == 0xE3069283
    first.close()
    assert await again(b"123456789") == 0xE3069283


async def test_the_best_engine_is_taken_and_the_others_reasons_are_told() -> None:
    op = await bpf.Op.load("crc32c")
    assert await op(b"123456789") == 0xE3069283
    better = ops.ENGINES[: ops.ENGINES.index(op.engine)]
    assert [reason.partition(":")[0] for reason in op.engine_reason.split("; ") if reason] == list(better)
    assert await bpf.Op.load("crc32c", engine=op.engine) is op
    for engine in better:
        with pytest.raises(OSError, match=rf"crc32c: the engine {engine} cannot run here: ") as refusal:
            await bpf.Op.load("crc32c", engine=engine)
        assert refusal.value.errno == errno.ENOSYS
    inline = await bpf.Op.load("crc32c", engine="inline")
    assert (inline.engine, inline.engine_reason) == ("inline", "inline was asked for")


async def test_arguments_of_load_that_are_refused(tmp_path: Path) -> None:
    wrong: Any = "fastest"
    with pytest.raises(ValueError, match="engine is 'auto', 'opcode', 'module', 'prog_run' or 'inline', not 'fastest'"):
        await bpf.Op.load("copy", engine=wrong)
    for name in ("no_such", "", "copy.c", ".op.so", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="those that ship are base64, copy"):
            await bpf.Op.load(name, engine="inline")
    number: Any = 5
    with pytest.raises(TypeError):
        await bpf.Op.load(number)
    with pytest.raises(TypeError, match="a str or a path, not bytes"):
        await bpf.Op.load(b"copy", engine="inline")  # type: ignore[arg-type]
    other = aiouring.new_event_loop()
    try:
        with pytest.raises(RuntimeError, match="its own loop's thread"):
            await bpf.Op.load("copy", loop=other)
    finally:
        other.close()


async def test_one_that_was_never_loaded_is_refused() -> None:
    nobody = bpf.Op()
    with pytest.raises(TypeError, match=r"await Op\.load"):
        _ = nobody(b"")
    chain = aiouring.Chain()
    with pytest.raises(TypeError, match=r"await Op\.load"):
        chain.bpf(nobody, b"")
    nobody.close()


def test_other_loops_are_refused() -> None:
    async def load() -> None:
        with pytest.raises(TypeError, match="not for _UnixSelectorEventLoop"):
            await bpf.Op.load("copy")
        with pytest.raises(TypeError, match="not with _UnixSelectorEventLoop"):
            bpf.register_buffer(bytearray(1))

    asyncio.run(load())


WITHOUT_RIGHTS = """if True:
    import ctypes, aiouring
    from aiouring import bpf

    # capset() of this thread, from which those of the executor will have theirs.
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0

    async def main():
        op = await bpf.Op.load("crc32c")
        assert await op(b"123456789") == 0xE3069283
        print(op.engine)
        print(op.engine_reason)
        try:
            await bpf.Op.load("crc32c", engine="prog_run")
        except OSError as error:
            print(error)

    aiouring.run(main())
"""


def test_without_rights_the_engine_inline_is_left() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RIGHTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    engine, reason, refusal = done.stdout.splitlines()
    assert engine == "inline"
    assert "prog_run: this process lacks CAP_BPF and CAP_PERFMON" in reason
    assert "crc32c: the engine prog_run cannot run here: this process lacks CAP_BPF and CAP_PERFMON" in refusal


async def test_many_operations_are_loaded_and_closed_without_a_trace(engine: Any) -> None:
    """Neither descriptors (see the fixture) nor anything in the kernel."""
    own: Ids = {"prog_id": set(), "map_id": set(), "link_id": set()}
    for _ in range(some(engine, 12)):
        copy, count = await bpf.Op.load("copy", engine=engine), await bpf.Op.load("count", engine=engine)
        target = bytearray(5)
        assert await copy(b"12345", target) == 5
        assert await count(target, flags=ord("3")) == 1
        for kind, numbers in own_ids().items():
            own[kind] |= numbers
        copy.close()
        count.close()
    assert engine == "inline" or (own["prog_id"] and own["map_id"])
    await gone(own)


def test_the_loops_end_frees_what_was_loaded(engine: Any) -> None:
    for _ in range(2):
        loop = aiouring.new_event_loop()
        loaded = loop.run_until_complete(load(engine, "nop", "fill"))
        own = own_ids()
        loop.run_until_complete(loaded["fill"](bytearray(10), flags=1))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert all(op.closed for op in loaded.values())
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loaded["nop"]().send(None)
        aiouring.run(gone(own))


async def test_calls_leave_no_memory(engine: Any) -> None:
    """Neither objects of Python's, nor bytes that it does not know of."""
    loaded = await load(engine, "copy", "fill")
    source, target = bytes(100), bytearray(200)
    count = 400 if engine in NATIVE else 20_000  # a kernel that looks for faults takes milliseconds for each

    async def calls() -> None:
        for _ in range(count):
            await loaded["copy"](source, target)
            try:
                await loaded["copy"](target, source[:1])
            except BufferError:
                pass
            try:
                await loaded["fill"](target, flags=999)
            except OSError:
                pass

    blocks, resident = [], []
    for _ in range(3):
        await calls()
        gc.collect()
        blocks.append(sys.getallocatedblocks())
        resident.append(resident_bytes())
    # What leaks does so in each round; what else takes memory, does so in one of them.
    assert min(after - before for before, after in itertools.pairwise(blocks)) < 200
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        return  # the sanitizer keeps what was freed, and finds leaks by itself
    assert min(after - before for before, after in itertools.pairwise(resident)) < max(3 * count * 8 // 2, 64 << 10)


def resident_bytes() -> int:
    """By the page tables: the sum that statm has is kept by each processor, and wrong by up to 32 pages for each."""
    (line,) = (line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


async def test_short_calls_end_where_they_are_awaited(thread_engine: Any) -> None:
    """No turn of the loop, no thread."""
    loop: Any = asyncio.get_running_loop()
    crc = await bpf.Op.load("crc32c", engine=thread_engine)
    with busy_executor(loop):
        before = loop.ring_stats()
        for size in (0, 1, 4096, 4097, 65536):
            await crc(bytes(size))
        assert loop.ring_stats() == before


# -- cancelling ----------------------------------------------------------------------------------------------------------------------------------


async def test_cancelled_before_it_begins(engine: Any) -> None:
    fill = await bpf.Op.load("fill", engine=engine)
    target = bytearray(10)
    task = asyncio.ensure_future(asyncio.wait_for(fill(target, flags=1), 10))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert target == bytes(10)
    call = fill(target, flags=1)
    call.close()
    target.append(0)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await call


async def test_cancelled_in_a_thread_it_ends_with_the_thread(thread_engine: Any) -> None:
    """CancelledError comes when no thread has the buffers, and not before."""
    fill = await bpf.Op.load("fill", engine=thread_engine)
    target = bytearray(MOST)
    with busy_executor(asyncio.get_running_loop()) as go:
        task = asyncio.ensure_future(as_coroutine(fill(target, flags=1)))
        await turns()
        task.cancel()
        await turns()
        task.cancel()
        await turns()
        assert not task.done()
        with pytest.raises(BufferError):
            target.append(1)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    # It was told to stop before it began, so it wrote nothing.
    assert target == bytes(MOST)
    target.append(1)
    # And the next one is not told.
    assert await fill(target[:MOST], flags=2) == MOST


async def as_coroutine(call: Any) -> Any:
    return await call


async def test_a_long_one_is_stopped_on_its_way(thread_engine: Any) -> None:
    """However far it is: the call ends, with CancelledError or with all done."""
    base64 = await bpf.Op.load("base64", engine=thread_engine)
    source, target = bytes(3 << 20), bytearray(MOST)
    for count in range(1, 8):
        task = asyncio.ensure_future(as_coroutine(base64(source, target)))
        await turns(count)
        task.cancel()
        try:
            assert await task == MOST
        except asyncio.CancelledError:
            pass
        assert len(memoryview(target)) == MOST
        del target[-1]
        target.append(0)
    assert await base64(source, target) == MOST


async def test_closed_in_a_thread(thread_engine: Any) -> None:
    """A coroutine that is closed cannot wait; its buffers stay locked until the thread is through."""
    fill = await bpf.Op.load("fill", engine=thread_engine)
    target = bytearray(MOST)
    loop = asyncio.get_running_loop()
    with busy_executor(loop) as go:
        call = fill(target, flags=1)
        waits_for = call.send(None)
        assert waits_for is call
        call.close()
        with pytest.raises(BufferError):
            target.append(1)
        go.set()
        while True:
            await turns()
            try:
                target.append(1)
                break
            except BufferError:
                await loop.run_in_executor(None, len, target)
    assert loop.ring_stats()["slots_in_use"] == 1  # type: ignore[attr-defined]


async def test_one_that_waits_for_its_turn_is_cancelled_at_once() -> None:
    need("prog_run")
    fill = await bpf.Op.load("fill", engine="prog_run")
    first, second, third, fourth = bytearray(MOST), bytearray(MOST), bytearray(10), bytearray(10)
    with busy_executor(asyncio.get_running_loop()) as go:
        tasks = [asyncio.ensure_future(as_coroutine(fill(target, flags=1))) for target in (first, second, third, fourth)]
        await turns()
        tasks[1].cancel()
        tasks[2].cancel()
        await turns()
        assert [task.cancelled() for task in tasks] == [False, True, True, False]
        second.append(0)
        third.append(0)
        go.set()
        assert await tasks[0] == MOST
        assert await tasks[3] == 10
    assert [bytes(target) for target in (first, second, third, fourth)] == [b"\1" * MOST, bytes(MOST + 1), bytes(11), b"\1" * 10]


@pytest.mark.parametrize("name", [pytest.param("module", marks=pytest.mark.bpf_module), pytest.param("opcode", marks=pytest.mark.bpf_opcode)])
async def test_cancelled_in_the_kernel(name: Any) -> None:
    """However far it is; the buffers are free when CancelledError comes."""
    loop = asyncio.get_running_loop()
    base64 = await bpf.Op.load("base64", engine=name)
    source, target = bytes(3 << 20), bytearray(MOST)
    for count in range(5):
        task = asyncio.ensure_future(as_coroutine(base64(source, target)))
        await turns(count)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        target.append(0)
        target.pop()
    call = base64(source, target)
    call.send(None)
    call.close()
    while loop.ring_stats()["slots_in_use"] > 1:  # type: ignore[attr-defined]
        await turns()
    target.append(0)
    target.pop()
    assert await base64(source, target) == MOST


async def test_a_cancelled_load_waits_for_the_kernel() -> None:
    need("prog_run")
    with busy_executor(asyncio.get_running_loop()) as go:
        first = asyncio.ensure_future(bpf.Op.load("copy", engine="prog_run"))
        second = asyncio.ensure_future(bpf.Op.load("copy", engine="prog_run"))
        await turns()
        first.cancel()
        await turns()
        assert not first.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        copy = await second
    target = bytearray(3)
    assert await copy(b"123", target) == 3
    own = own_ids()
    assert len(own["prog_id"]) == 1  # what the first one loaded is gone
    copy.close()
    await gone(own)


SIGNALLED = """if True:
    import asyncio, signal, sys, threading, aiouring
    from concurrent.futures import ThreadPoolExecutor
    from aiouring import bpf

    MOST = 4 << 20
    begun, go, armed = threading.Event(), threading.Event(), False

    class Pool(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            future = super().submit(function, *arguments)
            if armed:
                if sys.argv[2] == "running":
                    while not running() and not future.done():
                        pass
                signal.raise_signal(signal.SIGINT)
            return future

    def running():
        # Threads of the pool that are in native code are those whose frame is the pool's.
        return [frame for frame in sys._current_frames().values() if frame.f_code.co_name == "run"
                and frame.f_code.co_filename.endswith("futures/thread.py")]

    async def main():
        global armed
        loop = asyncio.get_running_loop()
        pool = Pool(1)
        loop.set_default_executor(pool)
        fill = await bpf.Op.load("fill", engine=sys.argv[1])
        target = bytearray(MOST)
        if sys.argv[2] == "waiting":
            pool.submit(go.wait)
        armed = True
        try:
            await fill(target, flags=7)
        except KeyboardInterrupt:
            print("interrupted")
        armed = False
        if sys.argv[2] == "waiting":
            target.append(0)        # it will never begin
            del target
        else:
            try:
                target.append(0)
            except BufferError:
                seen = None         # the thread has it still
            else:
                seen = bytes(target)
        go.set()
        # The operation goes on, and in the end nobody has the memory.
        other = bytearray(MOST)
        assert await asyncio.wait_for(fill(other, flags=9), 20) == MOST and other == bytes([9]) * MOST
        await loop.run_in_executor(None, len, "")
        if sys.argv[2] == "running":
            assert seen is None or seen == target
            target.append(0)
        print("alive")

    loop = aiouring.new_event_loop()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
"""


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_a_signal_raises_while_a_thread_is_given_the_call(thread_engine: Any, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, thread_engine, when], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nalive\n", "")


# -- closing meanwhile ---------------------------------------------------------------------------------------------------------------------------


async def test_closed_while_calls_are_in_flight(engine: Any) -> None:
    fill = await bpf.Op.load("fill", engine=engine)
    targets = [bytearray(MOST), bytearray(MOST), bytearray(10)]
    if engine in NATIVE:
        tasks = [asyncio.ensure_future(as_coroutine(fill(target, flags=1))) for target in targets]
        await turns()
        fill.close()
        assert await asyncio.gather(*tasks) == [MOST, MOST, 10]
    else:
        with busy_executor(asyncio.get_running_loop()) as go:
            tasks = [asyncio.ensure_future(as_coroutine(fill(target, flags=1))) for target in targets]
            await turns()
            fill.close()
            fill.close()
            with pytest.raises(RuntimeError, match="closed"):
                await fill(targets[2], flags=1)
            go.set()
            assert await asyncio.gather(*tasks) == [MOST, MOST, 10]
    assert all(target == b"\1" * len(target) for target in targets)
    with pytest.raises(RuntimeError, match="fill: this operation is closed"):
        await fill(targets[2], flags=1)


def test_the_loop_is_closed_while_a_thread_runs_one(thread_engine: Any) -> None:
    """Nothing waits, nothing is freed under the thread, and nothing is left after it."""
    loop = aiouring.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # a task is dropped that waits
    fill = loop.run_until_complete(bpf.Op.load("fill", engine=thread_engine))
    target = bytearray(MOST)
    with busy_executor(loop) as go:

        async def begin() -> asyncio.Task[int]:
            task = asyncio.ensure_future(as_coroutine(fill(target, flags=1)))
            await turns()
            return task

        task = loop.run_until_complete(begin())
        executor = loop._default_executor  # type: ignore[attr-defined]
        loop.close()
        assert fill.closed and not task.done()
        with pytest.raises(BufferError):
            target.append(1)
        go.set()
        executor.shutdown()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()
    target.append(1)
    assert target[:MOST] in (b"\1" * MOST, bytes(MOST))


DROPPED = """if True:
    import asyncio, gc, sys, time, aiouring
    from aiouring import bpf

    MOST = 4 << 20
    for number in range(12):
        loop = aiouring.new_event_loop()
        memories = [bytearray(MOST), bytearray(MOST)]
        tasks = []

        async def begin():
            copy = await bpf.Op.load("copy", engine=sys.argv[1])
            buffers = [bpf.register_buffer(memory) for memory in memories] if number % 2 else memories
            tasks.extend(asyncio.ensure_future(copy(*buffers)) for _ in range(3))
            await asyncio.sleep(0.001 * (number // 2 % 3))
            if number % 6 >= 4:
                copy.close()

        loop.run_until_complete(begin())
        for task in tasks:
            task._log_destroy_pending = False
        if number >= 6:
            loop.kept = tasks           # from the loop to the buffers and back
        executor = loop._default_executor
        loop.close()
        del task, tasks, loop, begin
        gc.collect()
        executor.shutdown()
        gc.collect()
        for memory in memories:
            memory.append(0)
    print("alive")
"""


def test_what_a_closed_loop_left_is_collected(thread_engine: Any) -> None:
    """The collector takes the operation, the loop and the requests apart in an order of its own."""
    done = subprocess.run([sys.executable, "-c", DROPPED, thread_engine], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("name", [pytest.param("module", marks=pytest.mark.bpf_module), pytest.param("opcode", marks=pytest.mark.bpf_opcode)])
def test_the_loop_is_closed_while_the_kernel_runs_them(name: Any) -> None:
    loop = aiouring.new_event_loop()
    base64 = loop.run_until_complete(bpf.Op.load("base64", engine=name))
    source, targets = bytes(3 << 20), [bytearray(MOST) for _ in range(4)]

    async def begin() -> list[asyncio.Task[int]]:
        tasks = [asyncio.ensure_future(as_coroutine(base64(source, target))) for target in targets]
        await turns()
        return tasks

    tasks = loop.run_until_complete(begin())
    own = own_ids()
    assert own["link_id"]
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, tasks
    gc.collect()
    for target in targets:
        target.append(0)
    aiouring.run(gone(own))


# -- threads, loops, forks -----------------------------------------------------------------------------------------------------------------------


async def test_a_long_one_does_not_hold_the_loop(thread_engine: Any) -> None:
    """The loop turns while it waits for the thread."""
    crc = await bpf.Op.load("crc32c", engine=thread_engine)
    with busy_executor(asyncio.get_running_loop()) as go:
        long = asyncio.ensure_future(as_coroutine(crc(bytes(65537))))
        await turns(50)
        assert not long.done()
        go.set()
        assert await long == await crc(bytes(537), flags=await crc(bytes(65000)))


async def test_an_operation_is_its_loops(engine: Any) -> None:
    copy = await bpf.Op.load("copy", engine=engine)

    def elsewhere() -> None:
        async def use() -> None:
            with pytest.raises(RuntimeError):
                await copy(b"1", bytearray(1))
            own = await bpf.Op.load("copy", engine=engine)
            assert own is not copy
            target = bytearray(3)
            assert await own(b"123", target) == 3
            assert target == b"123"

        aiouring.run(use())

    await asyncio.to_thread(elsewhere)
    assert await copy(b"1", bytearray(1)) == 1


def test_two_loops_at_the_same_time(engine: Any) -> None:
    """Each with its own operations, short and long calls."""
    failures: list[BaseException] = []
    meet = threading.Barrier(2)

    async def work(byte: int) -> None:
        loaded = await load(engine, "fill", "count")
        meet.wait()
        for size in (10, CHUNK, 100_000, 1_000_000):
            target = bytearray(size)
            for _ in range(some(engine, 6)):
                assert await loaded["fill"](target, flags=byte) == size
                assert await loaded["count"](target, flags=byte) == size

    def run(byte: int) -> None:
        try:
            aiouring.run(work(byte))
        except BaseException as error:
            failures.append(error)
            meet.abort()

    threads = [threading.Thread(target=run, args=(byte,)) for byte in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_loop_moves_to_another_thread(engine: Any, loop: asyncio.AbstractEventLoop) -> None:
    loaded = loop.run_until_complete(load(engine, "fill", "count"))
    registered = loop.run_until_complete(in_loop(bpf.register_buffer, bytearray(1000)))
    results: list[Any] = []

    async def use() -> None:
        results.append(await loaded["fill"](registered, flags=7))
        results.append(await loaded["count"](registered, flags=7))
        results.append(await loaded["count"](bytes(MOST)))

    def elsewhere() -> None:
        try:
            loop.run_until_complete(use())
        except BaseException as error:
            results.append(error)

    loop.run_until_complete(use())
    for _ in range(2):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    loop.run_until_complete(use())
    assert results == [1000, 1000, MOST] * 4
    registered.close()


async def in_loop(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


FORKING = """if True:
    import os, sys, aiouring
    from aiouring import bpf

    async def main():
        fill = await bpf.Op.load("fill", engine=sys.argv[1])
        target = bytearray(10)
        await fill(target, flags=1)
        child = os.fork()
        if child == 0:
            call = fill(target, flags=2)
            try:
                call.send(None)
            except RuntimeError as error:
                fill.close()
                os._exit(5 if "belongs to the parent process" in str(error) else 6)
            os._exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert await fill(target, flags=3) == 10 and target == bytes([3]) * 10
        fill.close()
        print("child:", status)

    aiouring.run(main())
"""


def test_a_forked_child_gets_the_loops_error(engine: Any) -> None:
    done = subprocess.run([sys.executable, "-c", FORKING, engine], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("child: 5\n", "")


# -- registered buffers --------------------------------------------------------------------------------------------------------------------------


async def test_registered_buffers(engine: Any) -> None:
    loaded = await load(engine, "fill", "copy", "xor")
    memory = bytearray(20_000)
    with bpf.register_buffer(memory) as registered, mmap.mmap(-1, 20_000) as mapped, bpf.register_buffer(mapped) as other:
        assert (len(registered), registered.registered, registered.closed) == (20_000, True, False)
        assert "registered" in repr(registered)
        assert await loaded["fill"](registered, flags=3) == 20_000
        assert memory == b"\3" * 20_000
        assert await loaded["copy"](registered, other) == 20_000
        assert mapped[:] == memory
        assert await loaded["xor"](registered, registered) == 20_000
        assert memory == bytes(20_000)
        assert await loaded["copy"](b"12345", registered, length=3) == 3
        assert memory[:5] == b"123\0\0"
        with memoryview(registered)[2:10] as part:
            assert await loaded["fill"](part, flags=9) == 8
        assert memory[:11] == b"12" + b"\x09" * 8 + b"\0"
        with pytest.raises(BufferError):
            memory.append(1)
    await registered.wait_closed()
    assert registered.closed and not registered.registered
    memory.append(1)
    with pytest.raises(ValueError, match=r"^fill: this registered buffer is closed"):
        await loaded["fill"](registered, flags=1)
    registered.close()


async def test_a_registered_buffer_is_closed_while_it_is_used(engine: Any) -> None:
    fill = await bpf.Op.load("fill", engine=engine)
    memory = bytearray(MOST)
    registered = bpf.register_buffer(memory)
    task = asyncio.ensure_future(as_coroutine(fill(registered, flags=4)))
    await turns(1)
    registered.close()
    assert registered.closed
    waiting = asyncio.ensure_future(registered.wait_closed())
    cancelled = asyncio.ensure_future(registered.wait_closed())
    await turns(1)
    cancelled.cancel()
    assert await task == MOST
    await waiting
    assert memory == b"\4" * MOST
    memory.append(1)


async def test_the_table_of_registered_buffers_is_used_again() -> None:
    """64 places: what comes after them is not registered, and works as any other."""
    count = await bpf.Op.load("count", engine="inline")
    for _ in range(2):
        buffers = [bpf.register_buffer(bytearray(10)) for _ in range(65)]
        assert [buffer.registered for buffer in buffers] == [True] * 64 + [False]
        assert await count(buffers[64]) == 10
        for buffer in buffers:
            buffer.close()


@pytest.mark.parametrize("dropped", [False, True])
async def test_registered_buffers_that_another_thread_closes(dropped: bool) -> None:
    """Their places in the table are free again, when the loop has had its turn."""

    def end(buffers: list[bpf.RegisteredBuffer]) -> None:
        buffer = buffers.pop()
        if not dropped:
            buffer.close()

    for _ in range(70):
        buffers = [bpf.register_buffer(bytearray(10))]
        assert buffers[0].registered
        waiting = None if dropped else asyncio.ensure_future(buffers[0].wait_closed())
        await turns(1)
        await asyncio.to_thread(end, buffers)
        if waiting is not None:
            await asyncio.wait_for(waiting, 10)


async def test_what_cannot_be_registered() -> None:
    for memory, kind in [(b"read-only", BufferError), ("text", TypeError), (memoryview(bytearray(9))[::2], BufferError), (bytearray(), ValueError)]:
        wrong: Any = memory
        with pytest.raises(kind, match="^register_buffer: "):
            bpf.register_buffer(wrong)


def test_registered_buffers_outlive_their_loop() -> None:
    memory = bytearray(100)

    async def register() -> bpf.RegisteredBuffer:
        return bpf.register_buffer(memory)

    registered = aiouring.run(register())
    assert bytes(registered) == bytes(100)
    registered.close()
    memory.append(1)
