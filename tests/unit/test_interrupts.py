"""KeyboardInterrupt, and whatever a signal's handler raises, at any moment of a call that a thread runs: nothing waits for ever for what is lost on
the way, and no thread uses memory that its caller has back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from .op_programs import need

# One process for all moments. What raises is a profiler's hook, at each entry of a Python function and each return of a function in C that the main
# thread calls, one after another: these are the places where the interpreter runs the handlers of signals, and here each has its turn. (A lock that
# is taken in threading.Condition.__enter__() is one of them.) The calls of the task that is interrupted may fail with it, and nothing else may.
SWEEP = """if True:
    import asyncio, faulthandler, os, sys, aiouring
    from aiouring import bpf
    from aiouring.executor import in_executor, open_in_executor

    kind, debug = sys.argv[1], sys.argv[2] == "debug"
    faulthandler.dump_traceback_later(50, exit=True)
    left = 0
    raised = []

    def hook(frame, event, argument):
        global left
        if event not in ("call", "c_return"):
            return
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raised.append((event, frame.f_code.co_name))
            raise KeyboardInterrupt

    async def once(state):
        if kind == "run_in_executor":
            assert await asyncio.get_running_loop().run_in_executor(None, len, "abc") == 3
        elif kind == "in_executor":
            assert await in_executor(len, "abc") == 3
        elif kind == "file":
            await state["file"].advise(0, 1 << 33, os.POSIX_FADV_NORMAL)    # too long for a request: a thread does it
        else:
            target = bytearray(100_000)
            assert await state["op"](target, flags=7) == len(target)
            assert target == bytes([7]) * len(target)
            target.append(0)            # no thread has it any more

    async def profiled(state):
        sys.setprofile(hook)
        try:
            await once(state)
        finally:
            sys.setprofile(None)

    async def setup(state):
        state["file"] = await aiouring.open(__file__ if "__file__" in globals() else sys.executable, "rb", 0)
        if kind in ("inline", "prog_run"):
            state["op"] = await bpf.Op.load("fill", engine=kind)

    async def settled(task, state):
        await asyncio.wait([task], timeout=20)
        assert task.done(), f"lost: {raised[-1]}"
        if task.exception() is not None:
            assert isinstance(task.exception(), KeyboardInterrupt), task.exception()
        # What comes after it is served as ever.
        await asyncio.wait_for(once(state), 20)

    moment = attempt = 0
    while moment < 1000:
        # A fresh loop now and then: its pool has to begin a thread.
        if attempt % 40 == 0:
            loop = aiouring.new_event_loop()
            loop.set_debug(debug)
            loop.slow_callback_duration = 60
            state = {}
            loop.run_until_complete(setup(state))
        attempt += 1
        count, left = len(raised), moment
        task = loop.create_task(profiled(state))
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            pass
        sys.setprofile(None)
        # Where it came when the task was over, asyncio's own callback still stops the run after this one.
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.run_until_complete(settled(task, state))
        if attempt % 40 == 0 or len(raised) == count:
            if "op" in state:
                state["op"].close()
            loop.run_until_complete(state["file"].close())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            attempt = 0
        if len(raised) == count:
            break                       # the call was over before
        moment += 1
    assert moment >= 8, raised          # it was interrupted at all
    print("alive")
"""


@pytest.mark.parametrize("debug", ["", "debug"])
@pytest.mark.parametrize("kind", ["run_in_executor", "in_executor", "file", "inline", "prog_run"])
def test_at_each_place_of_a_call_in_a_thread(kind: str, debug: str) -> None:
    if kind == "prog_run":
        need(kind)
    result = subprocess.run([sys.executable, "-c", SWEEP, kind, debug], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr


RANDOM = """if True:
    import asyncio, faulthandler, os, random, signal, sys, aiouring

    faulthandler.dump_traceback_later(100, exit=True)
    random.seed(int(sys.argv[1]))
    armed = False

    def interrupt(number, frame):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)

    async def work(state):
        while not state["stop"]:
            await asyncio.get_running_loop().run_in_executor(None, len, "")
            await state["file"].advise(0, 1 << 33, os.POSIX_FADV_NORMAL)

    async def settled(task, state):
        await asyncio.wait([task], timeout=20)
        assert task.done(), "lost"
        assert task.exception() is None or isinstance(task.exception(), KeyboardInterrupt), task.exception()
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, len, ""), 20)

    async def opened():
        return await aiouring.open(sys.executable, "rb", 0)

    loop = aiouring.new_event_loop()
    file = loop.run_until_complete(opened())
    for _ in range(400):
        state = {"stop": False, "file": file}
        task = loop.create_task(work(state))
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.003))
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            pass
        state["stop"] = True
        loop.call_soon(loop.stop)       # see above
        loop.run_forever()
        loop.run_until_complete(settled(task, state))
    loop.run_until_complete(file.close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    print("alive")
"""


def test_at_moments_that_a_clock_chooses(rng: Any) -> None:
    result = subprocess.run([sys.executable, "-c", RANDOM, str(rng.randrange(1 << 30))], capture_output=True, text=True, timeout=150)
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr
