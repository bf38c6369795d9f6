"""The types that public annotations share. Imports nothing of ours."""

from __future__ import annotations

import os
from typing import TypeAlias

StrPath: TypeAlias = "str | os.PathLike[str]"
StrOrBytesPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
FdOrPath: TypeAlias = "int | str | bytes | os.PathLike[str] | os.PathLike[bytes]"
