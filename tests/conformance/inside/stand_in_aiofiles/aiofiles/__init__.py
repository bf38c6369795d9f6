"""A module named aiofiles whose files are aiouring's; aiofiles' own tests import it.

It is thin: what aiofiles has another name or another shape for, and nothing that aiouring lacks. Where a test asks for more it fails, or is left
out by aim_aiofiles with the reason.
"""
from . import os, tempfile, threadpool
from .threadpool import open  # noqa: A004

__all__ = ["open", "os", "tempfile", "threadpool"]
