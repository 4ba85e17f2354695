"""Finds the largest number that fits, with few expensive trials."""

from __future__ import annotations

from collections.abc import Callable


def largest(low: int, high: int, guess: Callable[[int], bool], fits: Callable[[int], bool]) -> int:
    """Return the largest number from ``low`` to ``high`` that fits, or ``low - 1`` if none does.

    Both functions are true up to some number and false beyond. ``guess`` is cheap and nearly right:
    it says where the search with ``fits`` begins, which then doubles its steps until the answer is
    enclosed, and halves.

    Args:
        low: Smallest number.
        high: Largest number.
        guess: The prediction.
        fits: The judge; the answer rests on it alone.
    """
    start = max(_bisect(low - 1, high + 1, guess), low)
    good, bad, step = low - 1, high + 1, 1
    at = start
    if fits(at):
        good = at
        while good + 1 < bad and good < high:
            at = min(good + step, high)
            if not fits(at):
                bad = at
                break
            good, step = at, 2 * step
    else:
        bad = at
        while good < low and bad > low:
            at = max(bad - step, low)
            if fits(at):
                good = at
                break
            bad, step = at, 2 * step
    return _bisect(good, bad, fits)


def _bisect(good: int, bad: int, fits: Callable[[int], bool]) -> int:
    """Return the last number that fits, between one that does and a larger one that does not."""
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good
