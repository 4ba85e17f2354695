"""Delta debugging: the smallest part of a list that still has a property.

The algorithm is ddmin of A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", IEEE Transactions on Software Engineering 28(2), 2002. Its result is 1-minimal: without any
one of its members the property is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

Part = tuple[int, ...]
FirstThatHolds = Callable[[Sequence[Part]], int | None]
"""Returns the index of the first of these parts that has the property, or None."""


def smallest(whole: Part, first_that_holds: FirstThatHolds, guesses: Iterable[Part] = ()) -> Part:
    """Return a 1-minimal part of ``whole`` that has the property.

    Args:
        whole: Sorted numbers that have the property together.
        first_that_holds: Judges several parts, perhaps at the same time.
        guesses: Parts to try first; where one has the property, only that one is made smaller.
    """
    tries = [guess for guess in guesses if 0 < len(guess) < len(whole)]
    found = first_that_holds(tries) if tries else None
    part = whole if found is None else tries[found]
    pieces = 2
    while len(part) >= 2:
        chunks = _chunks(part, pieces)
        candidates = [*chunks, *(_without(part, chunk) for chunk in chunks if pieces > 2)]
        found = first_that_holds(candidates)
        if found is None and pieces == len(part):
            break
        if found is None:
            pieces = min(2 * pieces, len(part))
            continue
        part = candidates[found]
        pieces = 2 if found < len(chunks) else max(pieces - 1, 2)
    return part


def _chunks(part: Part, count: int) -> list[Part]:
    bounds = [len(part) * number // count for number in range(count + 1)]
    return [part[low:high] for low, high in pairwise(bounds) if low < high]


def _without(part: Part, chunk: Part) -> Part:
    left = set(chunk)
    return tuple(number for number in part if number not in left)


def fewest(whole: Part, holds: Callable[[Part], bool]) -> Part:
    """Return a part that has a property which every larger part has as well; no member is spare.

    QuickXplain of U. Junker, "QUICKXPLAIN: Preferred Explanations and Relaxations for
    Over-Constrained Problems", AAAI 2004: for k members out of n it asks about k log2(n / k) times,
    where ddmin, which does not need larger parts to have the property too, asks far more often.
    """

    def explain(base: Part, part: Part, *, grown: bool = True) -> Part:
        if grown and holds(base):
            return ()
        if len(part) == 1:
            return part
        half = len(part) // 2
        first, second = part[:half], part[half:]
        of_second = explain(base + first, second)
        of_first = explain(base + of_second, first, grown=bool(of_second))
        return of_first + of_second

    return tuple(sorted(explain((), whole))) if whole else ()
