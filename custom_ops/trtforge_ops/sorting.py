"""How ops that sort indices are launched: see ``trtforge/cuda/sort.cuh``."""

from __future__ import annotations

from trtforge import Launch, ceil_div

BLOCK = 256


def padded(size: int) -> int:
    """Return the next power of two: the bitonic network's size."""
    return 1 << max(0, size - 1).bit_length()


def sort_launches(size: int, scalars: tuple[int, ...]) -> tuple[Launch, ...]:
    """One launch per stage; the first two scalars are the length of the runs and the distance."""
    count = padded(size)
    grid = max(1, ceil_div(count, BLOCK))
    runs = [1 << i for i in range(1, count.bit_length())]
    stages = [(run, 1 << j) for run in runs for j in reversed(range(run.bit_length() - 1))]
    return tuple(Launch(grid, BLOCK, (*stage, *scalars), kernel="stage") for stage in stages)
