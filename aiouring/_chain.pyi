"""What the tests drive of a chain. The docstrings are in _chain.pyx."""

from typing import final

@final
class ChainRun: ...
