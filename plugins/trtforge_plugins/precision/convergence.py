"""Tells whether the ranges of a calibration had settled when the data ended."""

from __future__ import annotations

from collections.abc import Mapping

from trtforge import Context, Range, Statistics

PLACE = "calibration"
"""What the notes are about."""
_NAMED = 5
_REMEDY = "give more samples, or more varied ones"


def tell_convergence(statistics: Statistics, ranges: Mapping[str, Range], ctx: Context) -> None:
    """Note the tensors whose range still grew at the end of the data, with a remedy.

    Growth beyond a chosen range does not count: it is clipped.
    """
    answers = {
        name: seen.converged(ranges[name].amax if name in ranges else seen.amax)
        for name, seen in statistics.by_tensor.items()
    }
    count = f"{statistics.samples} sample{'s' * (statistics.samples != 1)}"
    growing = [name for name, converged in answers.items() if converged is False]
    if growing:
        named = ", ".join(map(repr, growing[:_NAMED]))
        more = f" and {len(growing) - _NAMED} more" if len(growing) > _NAMED else ""
        ctx.note(
            PLACE,
            f"ranges not converged after {count}: the last quarter of the data still raised "
            f"{named}{more} by over 5 %; {_REMEDY}",
        )
    elif all(converged is None for converged in answers.values()):
        ctx.note(PLACE, f"{count} in one batch cannot tell whether ranges converged; {_REMEDY}")
