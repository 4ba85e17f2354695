"""Decides whether Triton may put requests together, and how many."""

from __future__ import annotations

from collections.abc import Sequence

from trtforge.bundle.manifest import TensorEntry
from trtforge.errors import RequestError
from trtforge.triton.source import Profile, Source

NAMES = ("n", "b", "bs")
"""First dimensions that count samples, beside all with ``batch`` in their name."""


def largest_batch(
    source: Source, profiles: Sequence[Profile], wished: int | None
) -> tuple[int, tuple[str, ...]]:
    """Return the largest batch, 0 for none, and a note that says why there is none.

    An open first dimension counts samples if the caller says so, or if it is named for that:
    putting requests together along an axis of time would give wrong results.

    Raises:
        RequestError: model or profiles do not take batches of 1 to ``wished``.
    """
    firsts = {_first(each) for each in (*source.inputs, *source.outputs)}
    names = [first for first in firsts if isinstance(first, str)]
    smallest, largest = _batch_range(source.inputs, profiles)
    if wished:
        if len(names) != len(firsts):
            raise RequestError(
                f"--max-batch {wished}: the first dimension of an input or output is not open",
                remedy="export the model with an open first dimension, or give --max-batch 0",
            )
        if profiles and not smallest <= 1 <= wished <= largest:
            raise RequestError(
                f"--max-batch {wished}: the profiles take batches of {smallest} to {largest}, and "
                "Triton sends from 1 on",
                remedy="give other shapes in the recipe",
            )
        return wished, ()
    if wished == 0 or len(names) != len(firsts):
        return 0, ()
    if len(names) > 1 or not _means_batch(names[0]):
        listed = ", ".join(sorted(names))
        why = f"no batching: nothing says that the first dimension ({listed}) counts samples"
        return 0, (f"{why}; --max-batch does",)
    if not profiles:
        return 0, ("no batching: no profile says how large a batch may be; --max-batch does",)
    if smallest > 1:
        return 0, (f"no batching: the profiles begin with a batch of {smallest}, not 1",)
    return largest, ()


def _first(entry: TensorEntry) -> int | str | None:
    return entry.dims[0] if entry.dims else None


def _means_batch(name: str) -> bool:
    return "batch" in name.lower() or name.lower() in NAMES


def _batch_range(inputs: Sequence[TensorEntry], profiles: Sequence[Profile]) -> tuple[int, int]:
    """Return the smallest and the largest batch that some profile takes for every input."""
    ranges = [
        [profile[each.name] for each in inputs if each.name in profile and profile[each.name].min]
        for profile in profiles
    ]
    lows = [max(shape.min[0] for shape in shapes) for shapes in ranges if shapes]
    highs = [min(shape.max[0] for shape in shapes) for shapes in ranges if shapes]
    return min(lows, default=1), max(highs, default=0)


def usual_batch(profile: Profile) -> int:
    """Return the batch of a profile's usual shapes."""
    return max((shape.opt[0] for shape in profile.values() if shape.opt), default=1)
