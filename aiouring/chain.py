"""Chains: requests that run one after another in the kernel and are awaited as one.

Public as aiouring.Chain, with Link and ChainError. The code is in `_chaincalls` (the calls), `_chain` (the life of a chain) and `_chainlinks`.
"""

from __future__ import annotations

from aiouring._chaincalls import Chain
from aiouring._chainlinks import Link, Result
from aiouring._errors import ChainError

__all__ = ["Chain", "ChainError", "Link", "Result"]
