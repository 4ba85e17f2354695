"""Which groups of nodes to keep in high precision, apart from how a choice is measured.

Noise of independent roundings adds up: the noise of a choice is about the sum of its groups' own
(the assumption behind per-layer sensitivities: Wu et al., "Integer quantization for deep learning
inference: principles and empirical evaluation", 2020, section 6.2). So groups are kept in the order
of noise spared per multiply-accumulate, and how many must be kept is found by measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

SMALLEST_COST = 1e-3
"""A kept group counts as at least this share of the work: a change of type is not free."""


@dataclass(frozen=True)
class Candidate:
    """A group of nodes that is quantized or kept as a whole."""

    share: float
    """Of all multiply-accumulates, 0..1."""
    noise: float
    """What quantizing it alone adds to the outputs: noise power over power."""


@dataclass(frozen=True)
class Measured:
    """What a run with one choice showed."""

    meets: bool
    """Whether everything required was reached."""
    noise: float
    """Noise power of the outputs over their power."""


@dataclass
class GroupSearch:
    """Finds few multiply-accumulates to keep, such that what is left meets the requirement.

    Args:
        candidates: The groups.
        measure: Runs the model with these groups kept.
        allowed: Noise power over power that the requirement allows, where it tells: it says where
            to look, never what is good enough. None: unknown.
        left: How many measurements may be made.
    """

    candidates: Sequence[Candidate]
    measure: Callable[[frozenset[int]], Measured]
    allowed: float | None
    left: int
    _factor: float = field(init=False, default=1.0)
    """Noise that was measured over noise that was expected, of the latest choice."""

    _tighter: float = field(init=False, default=0.97)
    """What the allowed noise is multiplied by, when less than that was not good enough."""

    def run(self) -> frozenset[int] | None:
        """Return the groups to keep, measured and good enough.

        None: no choice that leaves a group quantized was seen to be good enough.
        """
        if self._good_enough(frozenset()):
            return frozenset()
        found = self._shortest_start()
        return None if found is None else self._give_back(found)

    def _shortest_start(self) -> frozenset[int] | None:
        """Return the shortest start of the order that was seen to be good enough."""
        order = sorted(range(len(self.candidates)), key=self._spared_per_work, reverse=True)
        too_few, enough = 0, len(order)  # keeping all of them leaves nothing quantized
        found = None
        while enough - too_few > 1 and self.left > 0:
            count = self._guess(order, too_few, enough)
            kept = frozenset(order[:count])
            if self._good_enough(kept):
                enough, found = count, kept
            else:
                too_few = count
        return found

    def _guess(self, order: Sequence[int], too_few: int, enough: int) -> int:
        """Return how many groups to try between the two, by expected noise, else the middle."""
        if self.allowed is None:
            return (too_few + enough) // 2
        allowed, starts = self.allowed, range(too_few + 1, enough)
        return next((n for n in starts if self._expected(order[:n]) <= allowed), enough - 1)

    def _give_back(self, kept: frozenset[int]) -> frozenset[int]:
        """Quantize kept groups again, the most work first, where the rest is still good enough."""
        for group in sorted(kept, key=lambda each: -self.candidates[each].share):
            fewer = kept - {group}
            likely = self.allowed is None or self._expected(fewer) <= self.allowed
            if self.left > 0 and fewer and likely and self._good_enough(fewer):
                kept = fewer
        return kept

    def _good_enough(self, kept: frozenset[int]) -> bool:
        self.left -= 1
        found = self.measure(kept)
        sum_of_own = self._expected(kept) / self._factor
        if sum_of_own > 0 and 0 < found.noise < float("inf"):
            self._factor = found.noise / sum_of_own
        if self.allowed is not None and not found.meets and found.noise <= self.allowed:
            self.allowed = found.noise * self._tighter
            self._tighter **= 3  # something else than noise decides: look ever farther away
        return found.meets

    def _expected(self, kept: Collection[int]) -> float:
        without = set(kept)
        own = sum(each.noise for i, each in enumerate(self.candidates) if i not in without)
        return own * self._factor

    def _spared_per_work(self, group: int) -> float:
        each = self.candidates[group]
        return each.noise / max(each.share, SMALLEST_COST)
