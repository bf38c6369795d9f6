"""What the tests drive of a chain. The docstrings are in _chain.pyx."""

from typing import final

CARRYING_LINKS: int
CARRYING_CHAINS: int

@final
class ChainRun: ...
