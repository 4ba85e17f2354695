"""How ops that choose entries are launched: see ``trtforge/cuda/select.cuh``."""

from __future__ import annotations

from trtforge import Launch, ceil_div

BLOCK = 256
CHUNK = 2048
"""Entries of a block: kSelectChunk in the kernels."""


def select_launches(size: int, written: int, scalars: tuple[int, ...]) -> tuple[Launch, ...]:
    """Count, number, find the places, and write ``written`` entries of the output at most.

    The first two scalars are ``size``, of which the chosen are a part, and its chunks.
    """
    chunks = max(1, ceil_div(size, CHUNK))
    scalars = (size, chunks, *scalars)
    return (
        Launch(chunks, BLOCK, scalars, kernel="count"),
        Launch(1, BLOCK, scalars, kernel="number"),
        Launch(chunks, BLOCK, scalars, kernel="places"),
        Launch(max(1, ceil_div(written, BLOCK)), BLOCK, scalars, kernel="write"),
    )


def select_workspace(size: int) -> int:
    """Bytes for an int per chunk and one per place."""
    return 4 * (max(1, ceil_div(size, CHUNK)) + size)
