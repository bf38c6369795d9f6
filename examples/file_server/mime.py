"""The media type of a file, by its name. Called by `folder`.

The standard library's own table and what it lacks, and not the machine's /etc/mime.types: a server shall answer alike wherever it runs.
"""

from __future__ import annotations

import mimetypes

UNKNOWN = "application/octet-stream"

_TYPES = mimetypes.MimeTypes()
for _kind, _endings in {
    "application/gzip": ".gz .tgz",
    "application/x-7z-compressed": ".7z",
    "application/x-bzip2": ".bz2",
    "application/x-xz": ".xz",
    "application/zstd": ".zst",
    "application/wasm": ".wasm",
    "application/yaml": ".yaml .yml",
    "application/toml": ".toml",
    "application/vnd.android.package-archive": ".apk",
    "application/x-brotli": ".br",
    "font/otf": ".otf",
    "font/ttf": ".ttf",
    "font/woff": ".woff",
    "font/woff2": ".woff2",
    "audio/flac": ".flac",
    "audio/ogg": ".oga .ogg",
    "image/avif": ".avif",
    "image/webp": ".webp",
    "image/jxl": ".jxl",
    "text/javascript": ".js .mjs",
    "text/markdown": ".md",
    "text/x-rst": ".rst",
    "video/ogg": ".ogv",
    "video/x-matroska": ".mkv",
}.items():
    for _ending in _endings.split():
        _TYPES.add_type(_kind, _ending)


def media_type(name: bytes) -> str:
    """What Content-Type says of a file. A compressed file is what it is, not what is in it: nobody asked to have it unpacked."""
    text = name.decode("ascii", "replace").lower()
    ending = text[text.rfind(".") :] if "." in text else ""
    return _TYPES.types_map[True].get(ending, UNKNOWN)
