"""How ops that work on rows (along the last axis) are launched: see ``trtforge/cuda/row.cuh``."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from trtforge import Launch, Shape, Tactic, ceil_div

LANES = (128, 32, 64, 256, 512, 1024, 8)
"""Threads of a row; the first is used where nothing else is known."""
ITEMS = (4, 1, 2, 8, 3, 5)
"""Packs that each of them holds in registers."""
TACTICS: Mapping[str, tuple[int, ...]] = {"lanes": LANES, "items": ITEMS}
NORM_TACTICS: Mapping[str, tuple[int, ...]] = {**TACTICS, "early": (1, 0)}
"""Of those with weights: whether these are read before the sums are known, or after."""
EXACT = ((32, 3), (32, 5), (64, 3), (64, 5), (128, 3), (128, 5))
"""Lanes and items that hold the rows of widespread models without a rest: 768 to 5120 columns."""
FEW, MANY_LANES = 2**17, 128
"""Packs of a tensor up to which so many lanes are better: more threads wait for memory at once."""
WARP = 32
SHARED_BLOCK = 128
"""Threads of a block that has several rows, each of a warp or less."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def row_tactic(dtype: str, columns: int, most: int = 4) -> Tactic:
    """Choose lanes and items so that a row just fits the registers, ``most`` packs a thread."""
    packs = ceil_div(columns, 16 // BYTES[dtype])
    lanes = next((n for n in sorted(LANES) if n * most >= packs), max(LANES))
    items = next((n for n in (1, 2, 4, 8) if n * lanes >= packs), 8)
    return {"lanes": lanes, "items": items}


def norm_tactic(dtype: str, shape: Shape, *, early: bool) -> Tactic:
    """Choose as `row_tactic` does, but where a row fills the registers just so, or rows are few.

    What is read beside x, ``early``, decides whether registers are left.
    """
    packs = ceil_div(shape[-1], 16 // BYTES[dtype])
    for lanes, items in EXACT:
        if packs == lanes * items:
            return {"lanes": lanes, "items": items, "early": int(early)}
    if packs <= MANY_LANES and prod(shape[:-1]) * packs <= FEW:
        return {"lanes": MANY_LANES, "items": 1, "early": int(early)}
    return {**row_tactic(dtype, shape[-1]), "early": int(early)}


def row_launch(shape: Shape, tactic: Tactic) -> Launch:
    """Launch for all rows of a tensor of ``shape``; scalars: rows and columns."""
    columns = shape[-1]
    rows = prod(shape[:-1])
    lanes = tactic["lanes"]
    block = lanes if lanes > WARP else SHARED_BLOCK
    grid = max(1, ceil_div(rows, block // lanes))
    return Launch(grid, block, scalars=(rows, columns))
