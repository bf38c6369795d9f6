"""For the unit tests: none of them leaves a descriptor open, whether it asked for the `loop` fixture or not."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_descriptor_leaks(descriptors: None) -> None:
    """Counts around the whole of each test."""
