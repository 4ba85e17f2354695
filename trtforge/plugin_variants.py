"""Which attributes, ranks and types a plugin in C++ is to have: as asked for, or as a model has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from trtforge.errors import RequestError, did_you_mean
from trtforge.graph import label, nodes
from trtforge.op_attributes import write_op
from trtforge.op_examples import examples_of
from trtforge.op_examples import read_op as read_attributes
from trtforge.op_function import read_op
from trtforge.op_testing import shapes_of
from trtforge.plugin_rules import Ranks, Variant

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.ops import CustomOp


def variants_asked_for(
    kind: type[CustomOp],
    settings: Sequence[str] = (),
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
) -> list[Variant]:
    """Return the attributes and ranks that are given; without them, those of the op's examples.

    Args:
        kind: The op.
        settings: Attributes as ``name=value``.
        shapes: Shapes as ``input=4x64``, of which the ranks count.
        dtypes: Types that T may be; none: all of the op.

    Raises:
        RequestError: something of it is wrong, or the op has no examples and no shapes are given.
    """
    examples = examples_of(kind, settings, shapes)
    ops = [read_attributes(kind, settings)] if settings else [each.op for each in examples]
    ranks = dict.fromkeys(tuple(map(len, shapes_of(each.inputs))) for each in examples)
    return _variants(ops, list(ranks), checked_types(kind, dtypes))


def variants_in(
    model: ir.Model,
    kind: type[CustomOp],
    ops: Mapping[str, type[CustomOp]],
    dtypes: Sequence[str] = (),
) -> list[Variant]:
    """Return the attributes and ranks with which a model calls the op.

    Raises:
        RequestError: no node calls it, or the rank of an input is not known.
    """
    calls, ranks = [], dict[Ranks, None]()
    for node in nodes(model):
        if f"{node.domain}::{node.op_type}" != kind.name:
            continue
        op = read_op(node, ops)
        shapes = [value.shape for value in node.inputs if value is not None]
        known = [shape for shape in shapes if shape is not None]
        if op is None or len(known) != len(kind.inputs):
            raise RequestError(
                f"node {label(node)!r}: the ranks of its inputs are not known",
                remedy="put the step infer-shapes first",
            )
        calls.append(op)
        ranks[tuple(map(len, known))] = None
    if not calls:
        raise RequestError(f"no node of the model calls {kind.name}")
    return _variants(calls, list(ranks), checked_types(kind, dtypes))


def _variants(
    ops: Iterable[CustomOp], ranks: list[Ranks], dtypes: tuple[str, ...]
) -> list[Variant]:
    by_text = {write_op(op): op for op in ops}
    return [Variant(op, dtypes, tuple(ranks)) for op in by_text.values()]


def checked_types(kind: type[CustomOp], dtypes: Sequence[str]) -> tuple[str, ...]:
    """Return the types that are asked for, or all of the op.

    Raises:
        RequestError: the op has no kernel for one.
    """
    for dtype in dtypes:
        if dtype not in kind.dtypes:
            hint = did_you_mean(dtype, kind.dtypes)
            raise RequestError(
                f"custom op {kind.name} has no kernel for {dtype!r}. {hint}".rstrip(),
                remedy=f"use {', '.join(kind.dtypes)}",
            )
    return tuple(dict.fromkeys(dtypes)) or tuple(kind.dtypes)
