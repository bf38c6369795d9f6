"""A folder as a page. Called by `folder`, in a worker thread: a folder can be long. Calls nothing."""

from __future__ import annotations

import html
import time
from urllib.parse import quote

from .files import FolderEntry

#: More lines than anybody reads.
ENTRIES_MAX = 10_000

_STYLE = (
    "body { font: 16px/1.6 system-ui, sans-serif; margin: 3em } td { padding-right: 2em } "
    "td + td { text-align: right; font-family: monospace }"
)


def shown(name: bytes) -> str:
    """A name as text in HTML. It may have bytes that are no UTF-8, and characters that are HTML's own."""
    return html.escape(name.decode(errors="replace"))


def render(names: list[bytes], entries: list[FolderEntry], more: bool, *, stats: bool) -> bytes:
    """The page of the folder that `names` lead to: folders first, each in order of the names' bytes."""
    title = "/" + "".join(f"{shown(name)}/" for name in names)
    lines = ['<tr><td><a href="../">../</a><td><td>'] if names else []
    for entry in sorted(entries, key=lambda entry: (not entry.is_folder, entry.name)):
        slash = "/" if entry.is_folder else ""
        size = "" if entry.is_folder else f"{entry.size:,}"
        try:
            changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified_ns / 1e9))
        except (OverflowError, ValueError, OSError):
            changed = ""  # a time that no calendar has
        # ./ before the name: a file may be called "a:b", which would look like a scheme.
        lines.append(f'<tr><td><a href="./{quote(entry.name)}{slash}">{shown(entry.name)}{slash}</a><td>{size}<td>{changed}')
    if more:
        lines.append(f"<tr><td>… and more than these {ENTRIES_MAX:,}")
    foot = '<p><a href="/-/stats">live counters</a></p>\n' if stats else ""
    return (
        f'<!doctype html>\n<html>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n<table>\n" + "\n".join(lines) + f"\n</table>\n{foot}"
    ).encode()
