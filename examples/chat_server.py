"""A chat room: what one person types, all others read.

Shows: many connections that share state; one slow reader must not hold up the room (each member has a bounded queue and a task
       that empties it; whoever falls too far behind is shown the door).
Run:   python examples/chat_server.py            (--host and --port choose another address)
Try:   nc 127.0.0.1 8008                         in two terminals; the first line that you type is your name
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import aiouring

#: A member who has this many lines unread is not reading any more.
UNREAD_LINES_MAX = 1000


class Member:
    """Somebody in the room: a name, and the lines that wait to be sent to them."""

    def __init__(self, name: str, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._writer = writer
        self._unread: asyncio.Queue[str] = asyncio.Queue(UNREAD_LINES_MAX)

    def tell(self, line: str) -> None:
        """Never waits: a slow reader costs the room nothing."""
        try:
            self._unread.put_nowait(line)
        except asyncio.QueueFull:
            self._writer.transport.abort()

    async def send_lines(self) -> None:
        while True:
            line = await self._unread.get()
            self._writer.write(f"{line}\n".encode())
            await self._writer.drain()


class Room:
    def __init__(self) -> None:
        self._members: dict[str, Member] = {}

    def say(self, line: str, but_not_to: Member | None = None) -> None:
        for member in self._members.values():
            if member is not but_not_to:
                member.tell(line)

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from the question for a name to the farewell."""
        try:
            name = await self._ask_for_name(reader, writer)
            if name is not None:
                await self._talk(Member(name, writer), reader)
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # gone in the middle of a line, a line that is longer than the reader's limit, or the program ends
        finally:
            writer.close()

    async def _ask_for_name(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        writer.write(b"Your name? ")
        while line := await reader.readline():
            name = line.decode(errors="replace").strip()
            if name and name not in self._members:
                return name
            writer.write(b"That name is taken or empty. Your name? ")
            await writer.drain()
        return None

    async def _talk(self, member: Member, reader: asyncio.StreamReader) -> None:
        self._members[member.name] = member
        sender = asyncio.create_task(member.send_lines())
        try:
            others = ", ".join(sorted(name for name in self._members if name != member.name)) or "nobody else"
            member.tell(f"* hello {member.name}; here: {others}")
            self.say(f"* {member.name} has come in", but_not_to=member)
            while line := await reader.readline():
                text = line.decode(errors="replace").rstrip("\r\n")
                self.say(f"{member.name}: {text}", but_not_to=member)
        finally:
            sender.cancel()
            # It may also have ended by itself, because the connection broke while it wrote.
            await asyncio.wait([sender])
            if not sender.cancelled():
                sender.exception()
            del self._members[member.name]
            self.say(f"* {member.name} has left")


async def main(host: str, port: int) -> None:
    server = await asyncio.start_server(Room().welcome, host, port)
    name = server.sockets[0].getsockname()
    print(f"chat server on {name[0]}:{name[1]} (Ctrl-C ends it)", flush=True)
    try:
        await asyncio.get_running_loop().create_future()  # until Ctrl-C
    finally:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat room for nc and telnet.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8008, help="0 takes any free port")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        aiouring.run(main(options.host, options.port))
