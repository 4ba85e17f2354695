"""How ops that choose entries are launched: see ``trtforge/cuda/select.cuh``."""

from __future__ import annotations

from trtforge import ceil_div

BLOCK = 256
MOST_BLOCKS = 2048
"""Each block adds up what all earlier ones chose, so that there should not be too many."""


def spans(size: int) -> tuple[int, int]:
    """Return the words of 32 entries that each warp of a block has, and the blocks."""
    words = max(1, ceil_div(size, BLOCK * MOST_BLOCKS))
    return words, max(1, ceil_div(size, BLOCK * words))


def selection_bytes(size: int) -> int:
    """Return the scratch memory for a count of each block and a bit of each entry."""
    words, blocks = spans(size)
    return 4 * blocks * (1 + BLOCK // 32 * words)
