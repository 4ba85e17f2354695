"""Which nodes leave the lower type's range on data: the evidence is named in every reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtforge.graph import is_op
from trtforge_plugins.precision import half_range
from trtforge_plugins.precision.cast_operators import FLEXIBLE, FLOAT

if TYPE_CHECKING:
    from trtforge_plugins.precision.cast_types import Decisions
    from trtforge_plugins.precision.element_types import Types
    from trtforge_plugins.precision.magnitudes import Magnitudes


@dataclass(frozen=True)
class Evidence:
    """What is known of the tensors' magnitudes, and how much room a type must leave."""

    by_tensor: Mapping[str, Magnitudes] = field(default_factory=dict)
    headroom: float = 2.0
    """How many times larger than the data showed a value may get."""

    def why_not(self, value: ir.Value, low: ir.DataType) -> str | None:
        """Return why ``value`` does not fit into ``low``, or None where nothing says so."""
        seen = self.by_tensor.get(str(value.name))
        if seen is None:
            return None
        limit, name = half_range.largest(low), half_range.name(low)
        if seen.largest > limit:
            return f"{value.name!r} reached {seen.largest:.4g}; {name} ends at {limit:g}"
        if seen.largest * self.headroom > limit and not seen.bounded:
            return (
                f"{value.name!r} reached {seen.largest:.4g}, more than 1/{self.headroom:g} of "
                f"{name}'s largest {limit:g}"
            )
        if low != ir.DataType.FLOAT16 or seen.lost <= half_range.LOST:
            return None
        if seen.nonzeros:
            share = seen.flushed / seen.nonzeros
            return (
                f"{value.name!r} is too small: {share:.1%} of its values become 0 in {name} "
                f"(largest {seen.largest:.3g}), {seen.lost:.1%} of its magnitude is lost"
            )
        return f"{value.name!r} is too small: its largest value {seen.largest:.3g} is denormal"

    def why_not_inside(self, node: ir.Node, low: ir.DataType) -> str | None:
        """Return why a value inside ``node`` does not fit; the operator's definition makes it."""
        seen = self.by_tensor.get(str(node.outputs[0].name))
        if seen is None:
            return None
        limit = half_range.largest(low) / self.headroom
        name = half_range.name(low)
        if is_op(node, "ReduceL2") and seen.largest > sqrt(limit):
            return f"the squares that it sums reached {seen.largest**2:.4g}, too much for {name}"
        if is_op(node, "ReduceLogSumExp", "ReduceLogSum") and seen.largest > log(limit):
            return f"the sum inside it reached e^{seen.largest:.4g}, too much for {name}"
        return None


def out_of_range(
    nodes: Sequence[ir.Node], decisions: Decisions, types: Types, evidence: Evidence
) -> Iterator[tuple[ir.Node, str]]:
    """Yield the nodes that make or take a value that the lower type cannot hold, and the reason."""
    for node in nodes:
        if node in decisions.kept or is_op(node, *FLEXIBLE):
            continue
        reason = _why_not(node, decisions, types, evidence)
        if reason:
            yield node, reason


def _why_not(node: ir.Node, decisions: Decisions, types: Types, evidence: Evidence) -> str | None:
    low = decisions.low
    for index, value in enumerate(node.outputs):
        if types.get(value) == FLOAT and decisions.of_output(node, index) == low:
            reason = evidence.why_not(value, low)
            if reason:
                return f"its output {reason}"
    for index, taken in enumerate(node.inputs):
        if taken is None or types.get(taken) != FLOAT or decisions.of_input(node, index) != low:
            continue
        reason = evidence.why_not(taken, low)
        if reason:
            return f"its input {reason}"
    return evidence.why_not_inside(node, low)
