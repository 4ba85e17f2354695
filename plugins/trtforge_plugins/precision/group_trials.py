"""Measures what a model's outputs become when some groups of nodes are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from trtforge import Batches, Comparison, Context, Ranges, Requirements
from trtforge.compare import compare, meets
from trtforge.feeds import first
from trtforge.reference import Provider
from trtforge.statistics import Evaluated
from trtforge.task_accuracy import task_accuracy
from trtforge_plugins.precision.group_choice import Measured
from trtforge_plugins.precision.node_groups import node_groups
from trtforge_plugins.precision.placement import Wanted
from trtforge_plugins.precision.trial import Trial, usable_points

if TYPE_CHECKING:
    from trtforge.artifacts import Array

    Arrays = Mapping[str, Array]

NOISE_PASSES = 3.0
"""Work of measuring the groups one by one, in passes over all samples."""
MOST_NOISE_SAMPLES = 8
"""Samples after which the order of the groups no longer changes much."""


@dataclass(frozen=True)
class _Choice:
    comparison: Comparison
    point: Evaluated


class GroupTrials:
    """The groups of a model, and one session in which each can be quantized or not.

    Args:
        ctx: Holds the model, the data and the ranges.
        wanted: The placement.
        target: What a choice must meet.
        count: How many samples it is measured on.
        provider: Where ONNX Runtime runs.
    """

    def __init__(
        self, ctx: Context, wanted: Wanted, target: Requirements, count: int, provider: Provider
    ) -> None:
        self._ctx = ctx
        self._batches = ctx.get(Batches)
        ranges = ctx.get(Ranges).by_tensor
        self._cut = all(
            value.shape and not isinstance(value.shape[0], int)
            for value in ctx.model.graph.inputs
            if not value.is_initializer()
        )
        self._feeds = first(self._batches, count, cut=self._cut)
        self.samples = Batches(self._feeds, "").samples
        shapes = {name: array.shape for name, array in self._feeds[0].items()}
        points = usable_points(ctx.model, wanted, ranges)
        self.groups, self.macs = node_groups(ctx.model, points, shapes)
        self._target = target
        self.passes = 0.0
        """Work so far, in passes over all samples."""
        self._measured: dict[frozenset[int], _Choice] = {}
        if self.groups:
            self._trial = Trial(ctx.model, self.groups, ranges, wanted, provider)
            self._exact = list(self._outputs(self._feeds, frozenset()))

    def nodes(self, group: int) -> tuple[str, ...]:
        """Return the names of the nodes of a group."""
        return self.groups[group].nodes

    def noise_alone(self) -> list[float]:
        """Return the noise power over power of the outputs with one group quantized, for each.

        The output that suffers most counts.
        """
        fitting = int(NOISE_PASSES * self.samples / len(self.groups))
        count = min(max(1, fitting), MOST_NOISE_SAMPLES)
        few = first(self._batches, count, cut=self._cut)
        exact = list(self._outputs(few, frozenset()))
        found = []
        for group in range(len(self.groups)):
            self._ctx.progress.update("measuring sensitivity", group, len(self.groups))
            actual = self._outputs(few, frozenset({group}))
            found.append(max(_noise(out.sqnr_db) for out in compare(exact, actual)))
        return found

    def measure(self, kept: frozenset[int]) -> Measured:
        """Run the model with all groups but ``kept`` quantized."""
        quantized = frozenset(range(len(self.groups))) - kept
        self._ctx.progress.update("measuring choices", len(self._measured), 0)
        given, tested = task_accuracy(self._batches), task_accuracy(self._batches)
        outputs = compare(
            given.watch(self._feeds, self._exact),
            tested.watch(self._feeds, self._outputs(self._feeds, quantized)),
        )
        both = {"given": given.value(), "final": tested.value()}
        accuracy = {name: value for name, value in both.items() if value is not None}
        data = self._batches
        comparison = Comparison(outputs, data.source, data.real, self.samples, accuracy)
        share = sum(self.groups[i].macs for i in quantized) / max(self.macs, 1)
        point = _point(comparison, share, meets_target=not meets(comparison, self._target))
        self._measured[kept] = _Choice(comparison, point)
        return Measured(point.meets, _noise(point.sqnr_db))

    def comparison(self, kept: frozenset[int]) -> Comparison:
        """Return how the outputs of a measured choice compare with the exact ones."""
        return self._measured[kept].comparison

    def curve(self, choice: frozenset[int]) -> tuple[Evaluated, ...]:
        """Return the measured points, the choice last."""
        others = [found.point for kept, found in self._measured.items() if kept != choice]
        return (*others, self._measured[choice].point)

    def closest(self) -> frozenset[int]:
        """Return the measured choice that misses the fewest requirements, then the nearest one."""

        def distance(kept: frozenset[int]) -> tuple[int, float]:
            found = self._measured[kept]
            return len(meets(found.comparison, self._target)), -found.point.sqnr_db

        return min(self._measured, key=distance)

    def _outputs(self, feeds: tuple[Arrays, ...], quantized: frozenset[int]) -> Iterator[Arrays]:
        self.passes += Batches(feeds, "").samples / self.samples
        for feed in feeds:
            yield self._trial.run(feed, quantized)


def _point(comparison: Comparison, share: float, *, meets_target: bool) -> Evaluated:
    outputs = comparison.outputs
    scores = [each.top1_agreement for each in outputs if each.top1_agreement is not None]
    samples = [each.sample_cosine for each in outputs if each.sample_cosine is not None]
    return Evaluated(
        share=share,
        cosine=min(each.cosine for each in outputs),
        sqnr_db=min(each.sqnr_db for each in outputs),
        accuracy=comparison.accuracy.get("final"),
        meets=meets_target,
        sample_cosine=min(samples, default=None),
        top1_agreement=min(scores, default=None),
    )


def _noise(sqnr_db: float) -> float:
    return inf if sqnr_db == -inf else float(10 ** (-sqnr_db / 10))
