"""StreamReader, fed by hand: the same tests on asyncio's own and on ours, and both beside each other on random histories."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import aiouring

Script = list[tuple[Any, ...]]


@pytest.fixture(params=[asyncio, aiouring], ids=["asyncio", "aiouring"])
def streams(request: pytest.FixtureRequest) -> Any:
    return request.param


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(call: Any) -> asyncio.Task[Any]:
    """A task that waits in its call."""
    task = asyncio.ensure_future(call)
    await turns()
    assert not task.done()
    return task


class Pausing(asyncio.Transport):
    """Notes what the reader asks of its transport."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def pause_reading(self) -> None:
        self.asked.append("pause")

    def resume_reading(self) -> None:
        self.asked.append("resume")


class Unpausable(asyncio.Transport):
    asked = 0

    def pause_reading(self) -> None:
        self.asked += 1
        raise NotImplementedError


# -- what is there already ------------------------------------------------------------------------------------------------------------------


async def test_buffered_data_is_read_without_a_turn(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"one\ntwo;three;exactly")
    happened: list[str] = []
    asyncio.get_running_loop().call_soon(happened.append, "a turn")
    assert await reader.readline() == b"one\n"
    assert await reader.readuntil(b";") == b"two;"
    assert await reader.read(2) == b"th"
    assert await reader.readexactly(4) == b"ree;"
    assert await reader.read(100) == b"exactly"
    assert happened == []


async def test_every_result_is_exact_bytes(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.read(10))
    reader.feed_data(bytearray(b"ab"))
    results = [await task]
    reader.feed_data(memoryview(b"ab\nab\nabab"))
    results += [await reader.readline(), await reader.readuntil(), await reader.readexactly(2), await reader.read(1)]
    reader.feed_eof()
    results.append(await reader.read())
    assert [type(result) for result in results] == [bytes] * 6
    assert b"".join(results) == b"abab\nab\nabab"


async def test_sizes(streams: Any) -> None:
    reader = streams.StreamReader()
    assert await reader.read(0) == b""
    assert await reader.readexactly(0) == b""
    with pytest.raises(ValueError, match="less than zero"):
        await reader.readexactly(-1)
    reader.feed_data(b"abc")
    assert await reader.read(sys.maxsize * 4) == b"abc"
    reader.feed_data(b"def")
    task = await waiting(reader.read(-5))
    reader.feed_eof()
    assert await task == b"def"
    assert await reader.read(0) == b""


async def test_sizes_that_are_no_numbers(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"abc")
    for size in ("1", None, 1.5):
        with pytest.raises(TypeError):
            await reader.read(size)
    for size in ("1", None):
        with pytest.raises(TypeError):
            await reader.readexactly(size)
    assert await reader.read(3) == b"abc"


async def test_limits_that_make_no_sense(streams: Any) -> None:
    for limit in (0, -1):
        with pytest.raises(ValueError, match="Limit"):
            streams.StreamReader(limit=limit)


async def test_no_limit(streams: Any) -> None:
    reader = streams.StreamReader(limit=float("inf"))
    reader.set_transport(transport := Pausing())
    reader.feed_data(b"x" * 1_000_000 + b"\n")
    assert len(await reader.readline()) == 1_000_001
    assert transport.asked == []


async def test_is_asyncios() -> None:
    reader = aiouring.StreamReader()
    assert isinstance(reader, asyncio.StreamReader)
    assert issubclass(aiouring.StreamWriter, asyncio.StreamWriter)


async def test_repr_says_what_asyncios_says(streams: Any) -> None:
    reader = streams.StreamReader(limit=1000)
    reader.feed_data(b"abc")
    reader.feed_eof()
    assert repr(reader) == "<StreamReader 3 bytes eof limit=1000>"


# -- waiting --------------------------------------------------------------------------------------------------------------------------------


async def test_read_takes_all_that_came_before_its_task_ran(streams: Any) -> None:
    reader = streams.StreamReader()
    for size, left in ((100, b""), (4, b"ef")):
        task = await waiting(reader.read(size))
        reader.feed_data(b"abc")
        assert not reader.at_eof()
        assert bytes(reader._buffer) == b"abc"
        reader.feed_data(b"def")
        assert await task == b"abcdef"[:size]
        assert bytes(reader._buffer) == left


async def test_read_of_less_than_came(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.read(2))
    reader.feed_data(b"abc")
    assert await task == b"ab"
    assert await reader.read(2) == b"c"


async def test_data_and_end_before_the_task_runs(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.read(10))
    reader.feed_data(b"abc")
    reader.feed_eof()
    assert not reader.at_eof()
    assert await task == b"abc"
    assert reader.at_eof()
    assert await reader.read(10) == b""


async def test_two_reads_at_a_time(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.read(10))
    for call, name in (
        (reader.read(1), "read"),
        (reader.read(), "read"),
        (reader.readexactly(1), "readexactly"),
        (reader.readline(), "readuntil"),
        (reader.readuntil(b"x"), "readuntil"),
    ):
        with pytest.raises(RuntimeError, match=rf"^{name}\(\) called while another coroutine is already waiting"):
            await call
    reader.feed_data(b"abc")
    assert await task == b"abc"


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_bytes_that_come_one_by_one(streams: Any, size: int) -> None:
    reader = streams.StreamReader()
    text = b"line\r\n" * 3
    task = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    lines = []
    for start in range(0, len(text), size):
        await turns()
        reader.feed_data(text[start : start + size])
        await turns()
        if task.done():
            lines.append(await task)
            task = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        while True:
            lines.append(await task)
            task = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    assert lines == [b"line\r\n"] * 3


async def test_async_iteration(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"one\n\n")

    async def lines() -> list[bytes]:
        return [line async for line in reader]

    task = await waiting(lines())
    reader.feed_data(b"thr")
    await turns()
    reader.feed_data(b"ee\nlast")
    reader.feed_eof()
    assert await task == [b"one\n", b"\n", b"three\n", b"last"]
    assert await lines() == []


# -- separators and limits --------------------------------------------------------------------------------------------------------------------


async def test_separator_over_the_border_of_chunks(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.readuntil(b"ABCD"))
    for chunk in (b"xA", b"BC", b"ABC", b"D", b"rest"):
        assert not task.done()
        reader.feed_data(chunk)
        await turns()
        if chunk == b"D":
            break
    assert await task == b"xABCABCD"


async def test_separators_that_are_none(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"abc")
    with pytest.raises(ValueError, match="at least one-byte"):
        await reader.readuntil(b"")
    with pytest.raises(TypeError):
        await reader.readuntil("b")
    assert await reader.readuntil(bytearray(b"b")) == b"ab"
    assert await reader.readuntil(memoryview(b"c")) == b"c"


async def test_tuples_of_separators() -> None:
    reader = aiouring.StreamReader()
    with pytest.raises(ValueError, match="at least one element"):
        await reader.readuntil(())
    with pytest.raises(ValueError, match="at least one-byte"):
        await reader.readuntil((b"", b"a"))
    reader.feed_data(b"one\r\ntwo\nthree")
    assert await reader.readuntil((b"\r\n", b"\n")) == b"one\r\n"
    assert await reader.readuntil((b"\r\n", b"\n")) == b"two\n"
    reader.feed_data(b"abcd")
    assert await reader.readuntil((b"bcd", b"ab")) == b"threeab"
    task = await waiting(reader.readuntil((b"xyz", b"q")))
    reader.feed_data(b"xy")
    await turns()
    reader.feed_data(b"z")
    assert await task == b"cdxyz"


async def test_limit_of_readuntil(streams: Any) -> None:
    reader = streams.StreamReader(limit=4)
    reader.feed_data(b"12345;")
    with pytest.raises(asyncio.LimitOverrunError, match="found, but chunk is longer") as raised:
        await reader.readuntil(b";")
    assert raised.value.consumed == 5
    assert await reader.readexactly(6) == b"12345;"
    reader.feed_data(b"1234;")
    assert await reader.readuntil(b";") == b"1234;"
    task = await waiting(reader.readuntil(b";;"))
    reader.feed_data(b"12345")
    await turns()
    assert not task.done()
    reader.feed_data(b"6")
    with pytest.raises(asyncio.LimitOverrunError, match="not found, and chunk exceed") as raised:
        await task
    assert raised.value.consumed == 5
    assert await reader.read(100) == b"123456"


async def test_limit_of_readline(streams: Any) -> None:
    reader = streams.StreamReader(limit=4)
    reader.feed_data(b"12345\nnext\n")
    with pytest.raises(ValueError, match="found, but chunk is longer"):
        await reader.readline()
    assert await reader.readline() == b"next\n"
    reader.feed_data(b"123456")
    with pytest.raises(ValueError, match="not found, and chunk exceed"):
        await reader.readline()
    reader.feed_data(b"ab\n")
    assert await reader.readline() == b"ab\n"


async def test_pause_above_twice_the_limit(streams: Any) -> None:
    reader = streams.StreamReader(limit=4)
    reader.set_transport(transport := Pausing())
    reader.feed_data(b"12345678")
    assert transport.asked == []
    reader.feed_data(b"9")
    assert transport.asked == ["pause"]
    assert await reader.read(4) == b"1234"
    assert transport.asked == ["pause"]
    assert await reader.readexactly(1) == b"5"
    assert transport.asked == ["pause", "resume"]


async def test_readexactly_of_more_than_pauses(streams: Any) -> None:
    reader = streams.StreamReader(limit=4)
    reader.set_transport(transport := Pausing())
    reader.feed_data(b"123456789")
    task = await waiting(reader.readexactly(20))
    assert transport.asked == ["pause", "resume"]
    reader.feed_data(b"1234567890")
    await turns()
    assert not task.done()
    assert transport.asked.count("pause") == transport.asked.count("resume")
    reader.feed_data(b"123")
    assert await task == b"12345678912345678901"
    assert transport.asked.count("pause") == transport.asked.count("resume")
    assert not reader._paused


async def test_read_of_less_than_pauses(streams: Any) -> None:
    reader = streams.StreamReader(limit=2)
    reader.set_transport(transport := Pausing())
    task = await waiting(reader.read(3))
    reader.feed_data(b"123456789")
    assert transport.asked == ["pause"]
    assert await task == b"123"
    assert transport.asked == ["pause"]
    assert await reader.read(4) == b"4567"
    assert transport.asked == ["pause", "resume"]


async def test_transport_that_cannot_pause_is_asked_once(streams: Any) -> None:
    reader = streams.StreamReader(limit=1)
    reader.set_transport(transport := Unpausable())
    reader.feed_data(b"123")
    reader.feed_data(b"456")
    assert transport.asked == 1
    assert await reader.read(10) == b"123456"


# -- the end and errors -----------------------------------------------------------------------------------------------------------------------


async def test_end_in_the_middle(streams: Any) -> None:
    for call, error in (("readline", None), ("readuntil", asyncio.IncompleteReadError), ("read", None)):
        reader = streams.StreamReader()
        reader.feed_data(b"part")
        task = await waiting(getattr(reader, call)())
        reader.feed_eof()
        if error is None:
            assert await task == b"part"
        else:
            with pytest.raises(error) as raised:
                await task
            assert (raised.value.partial, raised.value.expected) == (b"part", None)
        assert reader.at_eof()
    reader = streams.StreamReader()
    reader.feed_data(b"part")
    task = await waiting(reader.readexactly(5))
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError) as raised:
        await task
    assert (raised.value.partial, raised.value.expected) == (b"part", 5)
    assert await reader.readline() == b""
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readuntil(b"x")


async def test_data_after_the_end(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_eof()
    with pytest.raises(AssertionError, match="feed_data after feed_eof"):
        reader.feed_data(b"x")


@pytest.mark.parametrize("call", ["read", "readline", "readuntil", "readexactly"])
async def test_exception_wakes_and_stays(streams: Any, call: str) -> None:
    reader = streams.StreamReader()
    arguments = (3,) if call == "readexactly" else ()
    reader.feed_data(b"ab")
    assert reader.exception() is None
    task = await waiting(getattr(reader, call)(*arguments))
    error = ConnectionResetError("gone")
    reader.set_exception(error)
    with pytest.raises(ConnectionResetError) as raised:
        await task
    assert raised.value is error is reader.exception()
    reader.feed_data(b"c\n")
    with pytest.raises(ConnectionResetError):
        await getattr(reader, call)(*arguments)


async def test_data_and_exception_before_the_task_runs(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.read(10))
    reader.feed_data(b"abc")
    reader.set_exception(ConnectionResetError("gone"))
    assert await task == b"abc"
    with pytest.raises(ConnectionResetError):
        await reader.read(10)


async def test_exception_right_after_too_little_data() -> None:
    # asyncio's call waits for ever here.
    reader = aiouring.StreamReader()
    task = await waiting(reader.readuntil(b"yy"))
    reader._wakeup_waiter()
    reader.set_exception(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        await task


# -- cancelling -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["read", "readline", "readuntil", "readexactly", "__anext__"])
@pytest.mark.parametrize("when", ["while it waits", "with part of the data", "before its task runs"])
async def test_cancelling_loses_nothing(streams: Any, call: str, when: str) -> None:
    reader = streams.StreamReader()
    arguments = {"read": (100,), "readexactly": (4,)}.get(call, ())
    task = await waiting(getattr(reader, call)(*arguments))
    fed = b""
    if when == "with part of the data" and call != "read":
        reader.feed_data(fed := b"ab")
        await turns()
        assert not task.done()
    if when == "before its task runs":
        reader.feed_data(fed := b"abc\n")
    task.cancel()
    if when != "before its task runs":
        reader.feed_data(b"cd\n")
        fed += b"cd\n"
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await reader.readexactly(len(fed)) == fed


async def test_cancelling_read_to_the_end_loses_nothing() -> None:
    # asyncio drops what such a call has collected.
    reader = aiouring.StreamReader(limit=2)
    reader.set_transport(transport := Pausing())
    task = await waiting(reader.read())
    for chunk in (b"abcd", b"efgh", b"ij"):
        reader.feed_data(chunk)
        await turns()
    assert transport.asked == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transport.asked == []
    reader.feed_data(b"k")
    assert transport.asked == ["pause"]
    assert await reader.read(100) == b"abcdefghijk"
    assert transport.asked == ["pause", "resume"]


async def test_cancel_message_and_uncancel(streams: Any) -> None:
    reader = streams.StreamReader()

    async def stubborn() -> bytes:
        try:
            return bytes(await reader.read(10))
        except asyncio.CancelledError as error:
            assert error.args == ("why",)
            return bytes(await reader.read(10))

    task = await waiting(stubborn())
    task.cancel("why")
    await turns()
    assert not task.done()
    reader.feed_data(b"abc")
    assert await task == b"abc"


async def test_cancelled_before_it_begins(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"abc")
    task = asyncio.ensure_future(reader.read(10))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await reader.read(10) == b"abc"


async def test_cancel_is_swallowed_while_the_result_is_ready(streams: Any) -> None:
    """A task that cancels itself gets CancelledError at its next await, with the call as it was."""
    reader = streams.StreamReader()

    async def main() -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader.read(10)
        return bytes(await reader.read(10))

    task = asyncio.ensure_future(main())
    await turns()
    reader.feed_data(b"abc")
    assert await task == b"abc"


async def test_time_outs(streams: Any) -> None:
    reader = streams.StreamReader()
    for call in (reader.read(1), reader.readline()):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.001)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await reader.readexactly(2)
    reader.feed_data(b"abc")
    assert await asyncio.wait_for(reader.read(10), 60) == b"abc"


# -- as a coroutine ---------------------------------------------------------------------------------------------------------------------------


async def test_takes_part_as_a_coroutine(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"1\n2\n3\n4\n")
    call = reader.readline()
    assert asyncio.iscoroutine(call)
    assert await asyncio.create_task(call) == b"1\n"
    assert list(await asyncio.gather(reader.readline(), reader.readline())) == [b"2\n", b"3\n"]
    done, _ = await asyncio.wait([asyncio.ensure_future(reader.readline())])
    assert [await task for task in done] == [b"4\n"]
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await call


async def test_nothing_happens_before_the_await(streams: Any) -> None:
    reader = streams.StreamReader()
    call = reader.read(10)
    reader.feed_data(b"abc")
    assert await reader.read(1) == b"a"
    assert await call == b"bc"


@pytest.mark.parametrize("call", ["read", "readline", "__anext__"])
async def test_a_call_that_nobody_awaits_is_told(streams: Any, call: str) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"abc\n")
    await reader.readline()
    with pytest.warns(RuntimeWarning, match=rf"coroutine 'StreamReader\.{call}' was never awaited"):
        getattr(reader, call)()
        gc.collect()
    getattr(reader, call)().close()


async def test_repr_of_the_task(streams: Any) -> None:
    reader = streams.StreamReader()
    task = await waiting(reader.readline())
    assert "StreamReader.readline()" in repr(task)
    reader.feed_eof()
    await task


async def test_driven_by_hand(streams: Any) -> None:
    reader = streams.StreamReader()
    reader.feed_data(b"abc")
    with pytest.raises(StopIteration) as stopped:
        reader.read(10).send(None)
    assert stopped.value.value == b"abc"
    call = reader.read(10)
    with pytest.raises(TypeError, match="just-started"):
        call.send(1)
    call.send(None)
    with pytest.raises(ZeroDivisionError):
        call.throw(ZeroDivisionError("x"))
    reader.feed_data(b"def")
    assert await reader.read(10) == b"def"


async def test_a_call_is_not_used_again_while_someone_has_it() -> None:
    reader = aiouring.StreamReader()
    reader.feed_data(b"abcdef")
    first = reader.read(1)
    second = reader.read(1)
    assert [await second, await first] == [b"a", b"b"]
    third = reader.read(1)
    assert third is not first and third is not second
    assert await third == b"c"
    assert await reader.read(1) == b"d"
    tasks = [asyncio.ensure_future(reader.read(1)) for _ in range(2)]
    assert await asyncio.gather(*tasks) == [b"e", b"f"]


async def test_a_waiting_call_without_a_holder_is_freed(streams: Any) -> None:
    reader = streams.StreamReader()
    call = reader.read(1)
    call.send(None)
    del call
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del reader
        gc.collect()


async def test_python_tasks_wait_as_well(streams: Any) -> None:
    reader = streams.StreamReader()
    task = asyncio.tasks._PyTask(reader.read(10), loop=asyncio.get_running_loop())
    await turns()
    assert not task.done()
    reader.feed_data(b"abc")
    assert await task == b"abc"
    task = asyncio.tasks._PyTask(reader.read(10), loop=asyncio.get_running_loop())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- both beside each other -------------------------------------------------------------------------------------------------------------------

CHUNKS = strategies.text(alphabet="ab;\n", max_size=12).map(str.encode)
CALLS = strategies.one_of(
    strategies.tuples(strategies.just("read"), strategies.integers(0, 20)),
    strategies.tuples(strategies.just("readexactly"), strategies.integers(-1, 20)),
    strategies.tuples(strategies.just("readuntil"), strategies.sampled_from([b";", b"\n", b"a;", b";a\n", b"aab", b""])),
    strategies.tuples(strategies.just("readline")),
    strategies.tuples(strategies.just("__anext__")),
)
STEPS = strategies.one_of(
    strategies.tuples(strategies.just("feed"), CHUNKS),
    strategies.tuples(strategies.just("feed twice"), CHUNKS, CHUNKS),
    CALLS,
    CALLS,
    strategies.tuples(strategies.just("cancel")),
    strategies.tuples(strategies.just("feed and cancel"), CHUNKS),
)
ENDS = strategies.sampled_from([("feed_eof",), ("set_exception",), ("read", -1)])


async def history(streams: Any, limit: int, script: Script) -> list[Any]:
    """What a reader answers to a script; one call waits at most."""
    reader = streams.StreamReader(limit=limit)
    reader.set_transport(Pausing())
    told: list[Any] = []
    call: asyncio.Task[Any] | None = None
    # What comes for a waiting call and is too little pauses in asyncio until its task has run; ours does not run it. Who cancels it in
    # between finds the one paused now, the other at the next feed.
    paused_is_told = "feed and cancel" not in [name for name, *_ in script]

    for name, *arguments in script:
        if name.startswith("feed ") or name == "feed":
            for chunk in arguments:
                reader.feed_data(chunk)
        if name.endswith("cancel") and call is not None:
            call.cancel()
        if name == "feed_eof":
            reader.feed_eof()
        if name == "set_exception":
            reader.set_exception(ConnectionResetError("gone"))
        if call is None and (name.startswith("read") or name == "__anext__"):
            call = asyncio.ensure_future(getattr(reader, name)(*arguments))
        await turns()
        if call is not None and call.done():
            try:
                told.append(call.result())
            except (Exception, asyncio.CancelledError) as error:
                told.append((type(error), str(error)))
            call = None
        # While it waits, asyncio's read(-1) keeps what it has collected apart from the buffer.
        if call is None or arguments != [-1] or name != "read":
            told.append((reader.at_eof(), bytes(reader._buffer), call is None, paused_is_told and call is None and reader._paused))
    if call is not None:
        call.cancel()
        await turns()
    return told


@hypothesis.settings(max_examples=300, deadline=None, database=None)
@hypothesis.seed(int(os.environ.get("AIOURING_SEED") or 0))
@hypothesis.given(limit=strategies.integers(1, 12), script=strategies.lists(STEPS, max_size=20), end=ENDS, after=strategies.lists(CALLS, max_size=4))
def test_any_history_is_asyncios(limit: int, script: Script, end: tuple[Any, ...], after: Script) -> None:
    """A reader on which one call at a time waits tells the same as asyncio's, step by step."""

    async def both() -> None:
        told = [await history(streams, limit, [*script, end, *after]) for streams in (asyncio, aiouring)]
        assert told[0] == told[1]

    if end[0] == "read":
        after[:] = [("feed_eof",)]
    aiouring.run(both())
