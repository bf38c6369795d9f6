"""What the server counts, and the pages that show it (--stats). Called by `connection` and `demo`."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus

from .answers import Answer, page
from .cache import Cache

PATH = "/-/stats"

_PAGE = """<!doctype html>
<meta charset="utf-8"><title>live counters</title>
<style>
body { font: 16px/1.6 system-ui, sans-serif; margin: 3em }
td { padding-right: 2em } td + td { text-align: right; font-family: monospace }
</style>
<h1>live counters</h1><table id="counters"></table><p><a href="/">files</a></p>
<script>
const cell = text => Object.assign(document.createElement("td"), {textContent: text});
async function show() {
    const counters = await (await fetch("/-/stats.json")).json();
    document.getElementById("counters").replaceChildren(...Object.entries(counters).map(([name, value]) => {
        const row = document.createElement("tr");
        row.append(cell(name.replaceAll("_", " ")), cell(value.toLocaleString()));
        return row;
    }));
}
show(); setInterval(show, 1000);
</script>
"""


@dataclass
class Counters:
    """What the server has done since it started. What it answered from known heads the cache counts, and `snapshot` adds it."""

    cache: Cache
    connections: int = 0
    connections_open: int = 0
    body_bytes: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    started_s: float = field(default_factory=time.monotonic)

    def snapshot(self) -> dict[str, int]:
        """All counters by name, those of the loop included where it has some (asyncio's own loop has none)."""
        ring_stats = getattr(asyncio.get_running_loop(), "ring_stats", dict)
        ring = {f"loop_{name}": value for name, value in ring_stats().items() if name not in ("setup_flags", "features")}
        fast = self.cache.counts()
        answers = self.answers + Counter({200: fast.answers})
        return {
            "seconds_up": round(time.monotonic() - self.started_s),
            "connections": self.connections,
            "connections_open": self.connections_open,
            "requests": answers.total(),
            "requests_from_known_heads": fast.answers,
            "body_bytes": self.body_bytes + fast.body_bytes,
            "cache_bytes": self.cache.bytes_used,
            **{f"answers_{status}": count for status, count in sorted(answers.items())},
            **ring,
        }

    def line(self) -> str:
        """The most telling counters, short enough for a terminal."""
        now = self.snapshot()
        text = f"{now['connections_open']} of {now['connections']} connections open, {now['requests']} requests, {size_text(now['body_bytes'])}"
        if "loop_turns" in now:
            text += f", {now['loop_turns']} turns, {now['loop_enters']} enters"
        return text

    def answer(self, path: str) -> Answer | None:
        """The page of this path, if it is one of ours."""
        if path == PATH:
            return page(HTTPStatus.OK, _PAGE, "Cache-Control: no-store")
        if path == f"{PATH}.json":
            return page(HTTPStatus.OK, json.dumps(self.snapshot()), "Cache-Control: no-store", kind="application/json")
        return None


def size_text(count: int) -> str:
    """A number of bytes as people read it."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
