"""fuse-rotary-embedding: positions as rotations become one custom op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir
from trtforge_ops import RotaryEmbedding

from trtforge import Context, Pass
from trtforge.graph import constant, is_op
from trtforge_plugins.fuse.fusion import Fused, fuse, same_shape
from trtforge_plugins.fuse.halves import half, last_axis_slice
from trtforge_plugins.fuse.pattern import Input, Match, Pattern, either, node
from trtforge_plugins.fuse.rotation_tables import Table, Tables, find_table


@dataclass(frozen=True)
class HalfOf(Pattern):
    """One half of the last axis of the value ``x``."""

    second: bool

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the match with ``x``."""
        found = half(value) if value is not None else None
        if found is not None and found.second == self.second:
            yield from _reading(match, found.source, found.node)


@dataclass(frozen=True)
class EveryOther(Pattern):
    """Every second entry of the last axis of the value ``x``, from ``start`` on."""

    start: int

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the match with ``x``."""
        taking = value.producer() if value is not None else None
        source = taking.inputs[0] if taking is not None and is_op(taking, "Slice") else None
        if taking is None or source is None or not source.shape:
            return
        if last_axis_slice(taking, source.shape) == (self.start, source.shape[-1], 2):
            yield from _reading(match, source, taking)


def _reading(match: Match, source: ir.Value, taking: ir.Node) -> Iterator[Match]:
    named = match.naming("x", source)
    if named is not None:
        yield replace(named, nodes=(*named.nodes, taking))


COSINE, SINE = Input("cosine"), Input("sine")
A, B = HalfOf(second=False), HalfOf(second=True)
HALVES_TURNED = node("Concat", node("Neg", B), A, name="joined")
PAIRS_TURNED = node(
    "Reshape",
    node(
        "Concat",
        node("Unsqueeze", node("Neg", EveryOther(1)), name="left"),
        node("Unsqueeze", EveryOther(0), name="right"),
        name="joined",
    ),
    name="interleaved",
)
PATTERN = either(
    node(
        "Add",
        node("Mul", either(HALVES_TURNED, PAIRS_TURNED), SINE),
        node("Mul", Input("x"), COSINE),
        name="whole",
    ),
    node(
        "Concat",
        node("Sub", node("Mul", A, COSINE), node("Mul", B, SINE)),
        node("Add", node("Mul", B, COSINE), node("Mul", A, SINE)),
        name="joined",
    ),
)
"""``x * cos + turned(x) * sin``, where ``(a, b)`` is turned to ``(-b, a)``; or each half of it
by itself."""


@dataclass(frozen=True)
class FuseRotaryEmbedding(Pass):
    """Replace a rotary position embedding by ``trtforge::RotaryEmbedding``.

    ``x`` has four axes, and pairs are halves (LLaMA, GPT-NeoX) or neighbours (GPT-J). Cosines and
    sines must be the same for all samples and heads. Where they are as long as ``x``, the first and
    the second half, or both of a pair, must be known to be the same: a constant, or computed from a
    Concat of one tensor with itself.
    """

    name = "fuse-rotary-embedding"

    keep_rounding: bool = True
    """Whether to leave alone what rounds a value inside of it to 16 bits, as models in float16
    do; the kernel rounds its result only."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        tables = Tables()
        return fuse(model, ctx, PATTERN, lambda match: self._plan(match, tables))

    def _plan(self, match: Match, tables: Tables) -> Fused | str:
        x, interleaved = match["x"], match.has("interleaved")
        if x.shape is None or len(x.shape) != 4:
            return f"{x.name!r} is not known to have four axes"
        if not _joins_last_axis(match, x):
            return "what is joined is not the last axis"
        found: list[Table] = []
        for name in ("cosine", "sine"):
            doubled = match.has("whole")
            table = find_table(match[name], x.shape, doubled=doubled, interleaved=interleaved)
            if isinstance(table, str):
                return table
            found.append(table)
        cosine, sine = found
        if cosine.heads_last != sine.heads_last:
            return "cosines and sines run along different axes"
        return Fused(
            RotaryEmbedding(interleaved=interleaved, heads_last=cosine.heads_last),
            (x, match["cosine"], match["sine"]),
            keeps_rounding=self.keep_rounding,
            prepare=lambda end: (x, tables.make(cosine, end), tables.make(sine, end)),
        )


def _joins_last_axis(match: Match, x: ir.Value) -> bool:
    """Whether halves are joined along the last axis, or pairs along a new one behind it."""
    joined, rank = match["joined"].producer(), len(x.shape or ())
    assert joined is not None  # noqa: S101  # the match names a node's result
    axis = joined.attributes["axis"].as_int()
    if not match.has("interleaved"):
        return axis in (-1, rank - 1)
    fresh = [match[name].producer() for name in ("left", "right")]
    axes = [_axes(unsqueeze) for unsqueeze in fresh if unsqueeze is not None]
    behind = all(each in ([-1], [rank]) for each in axes)
    return behind and axis in (-1, rank) and same_shape(match["interleaved"], x)


def _axes(unsqueeze: ir.Node) -> list[int]:
    given = unsqueeze.attributes.get_ints("axes", None)
    if given is not None:
        return list(given)
    axes = constant(unsqueeze.inputs[1]) if len(unsqueeze.inputs) > 1 else None
    return [] if axes is None else [int(axis) for axis in axes.reshape(-1)]
