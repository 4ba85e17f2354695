"""How ops that work on rows (along the last axis) are launched: see ``trtforge/cuda/row.cuh``."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from trtforge import Launch, Shape, Tactic, ceil_div

LANES = (128, 32, 64, 256, 512, 1024, 8)
"""Threads of a row; the first is used where nothing else is known."""
ITEMS = (4, 1, 2, 8)
"""Packs that each of them holds in registers."""
TACTICS: Mapping[str, tuple[int, ...]] = {"lanes": LANES, "items": ITEMS}
NORM_TACTICS: Mapping[str, tuple[int, ...]] = {**TACTICS, "early": (1, 0)}
"""Of those with weights: whether these are read before the sums are known, or after."""
WARP = 32
SHARED_BLOCK = 128
"""Threads of a block that has several rows, each of a warp or less."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def row_tactic(dtype: str, columns: int) -> Tactic:
    """Choose lanes and items so that a row just fits the registers, four packs a thread at most."""
    packs = ceil_div(columns, 16 // BYTES[dtype])
    lanes = next((n for n in sorted(LANES) if n * 4 >= packs), max(LANES))
    items = next((n for n in sorted(ITEMS) if n * lanes >= packs), max(ITEMS))
    return {"lanes": lanes, "items": items}


def norm_tactic(dtype: str, columns: int, *, early: bool) -> Tactic:
    """Choose as `row_tactic` does; what is read beside x decides whether registers are left."""
    return {**row_tactic(dtype, columns), "early": int(early)}


def row_launch(shape: Shape, tactic: Tactic) -> Launch:
    """Launch for all rows of a tensor of ``shape``; scalars: rows and columns."""
    columns = shape[-1]
    rows = prod(shape[:-1])
    lanes = tactic["lanes"]
    block = lanes if lanes > WARP else SHARED_BLOCK
    grid = max(1, ceil_div(rows, block // lanes))
    return Launch(grid, block, scalars=(rows, columns))
