"""How element-wise ops are launched: rows cut into strips, see ``trtforge/cuda/pack.cuh``."""

from __future__ import annotations

from collections.abc import Mapping

from trtforge import Launch, Tactic, ceil_div

PACK = 8
"""Elements that a thread handles at once, for every type: kPack in the kernels."""
SMALL = 2**21
"""Elements up to which one pack a thread is better: more threads wait for memory at once."""
TACTICS: Mapping[str, tuple[int, ...]] = {"block": (256, 128, 512), "items": (2, 1, 4)}


def strip_tactic(elements: int) -> Tactic:
    """Choose by how many elements there are."""
    return {"block": 128, "items": 1 if elements <= SMALL else 2}


def strip_launch(
    rows: int, columns: int, tactic: Tactic, scalars: tuple[int, ...], pack: int = PACK
) -> Launch:
    """Launch one block for each strip of ``block * pack * items`` columns of each row."""
    strips = ceil_div(columns, tactic["block"] * pack * tactic["items"])
    return Launch(max(1, rows * strips), tactic["block"], scalars)
