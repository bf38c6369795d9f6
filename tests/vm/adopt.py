"""A program without privileges whose loop runs under a hook that another process loaded; run by test_privileges.py with a JSON of Hook.adopt's
arguments. It prints what happened as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys

import aiouring
from aiouring.bpf import Hook, echo, kernel_support

arguments = json.loads(sys.argv[1])
hook = None
if "open_first" in arguments:
    # Shows that the pinned files can be opened while this is root, and attached to afterwards.
    del arguments["open_first"]
    hook = Hook.adopt(**arguments)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)


async def talk() -> bytes:
    """An echo task of the hook's own, to which Python listens through the same loop."""
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    loop = asyncio.get_running_loop()
    with left, right:
        task = asyncio.ensure_future(echo(right))
        await asyncio.sleep(0)
        answer = bytearray()
        for number in range(10):
            await loop.sock_sendall(left, b"%d" % number)
            answer += await loop.sock_recv(left, 100)
        left.shutdown(socket.SHUT_WR)
        await task
        return bytes(answer)


async def main() -> dict[str, object]:
    report: dict[str, object] = {"support": kernel_support()}
    adopted = hook or Hook.adopt(**arguments)
    with adopted:
        report["engine"] = adopted.engine
        report["answer"] = (await talk()).decode()
        report["steps"] = adopted.stats["steps"]
    # The loop goes on without it, and takes it again.
    await asyncio.sleep(0)
    with adopted:
        report["again"] = (await talk()).decode()
        report["more_steps"] = adopted.stats["steps"]
    return report


try:
    print(json.dumps(aiouring.run(main())))
except OSError as error:
    print(json.dumps({"errno": error.errno, "text": str(error)}))
