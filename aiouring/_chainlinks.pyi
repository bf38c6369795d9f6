"""What chain.py takes from the links of a chain."""

LINKS: int
MOVES: tuple[int, int, int, int]

class ChainFile: ...
