"""merge-views: several nodes that only pick or rearrange elements become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import add_initializer, constant, is_op, label, nodes, replace
from trtforge_plugins.clean.attributes import attribute, axes_of, refers

_Cuts = list[tuple[int, int, int, int]]
"""Axis, start, end and step of each cut of a Slice."""


@dataclass(frozen=True)
class MergeViews(Pass):
    """Make one node of Slices of different axes, and of Reshapes in a row.

    A Transpose that moves axes of length 1 alone counts as a Reshape. PyTorch's exporters write
    such chains for ``x[:, ::2, 1::2]`` and for windows that are as large as the picture; each node
    is a kernel of its own in a runtime that does not fuse. The target of a Reshape that is computed
    from sizes becomes a constant where the declared shapes settle it.
    """

    name: ClassVar[str] = "merge-views"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Merge in all graphs; return the number of nodes that became another one's part."""
        if model.graph.opset_imports.get("", 1) < 13:
            ctx.note("", "left alone: it knows the operators of opset 13 and later")
            return 0
        count = 0
        for node in nodes(model):
            if not isinstance(node.graph, ir.Graph) or refers(node):
                continue
            if is_op(node, "Slice"):
                count += _merge_slice(node)
            moved = _reshape_instead(node) if is_op(node, "Transpose") else None
            count += moved is not None
            count += _settle_target(node) if is_op(node, "Reshape") else 0
            if moved is not None or is_op(node, "Reshape"):
                count += _skip_reshape(moved or node)
        return count


def _merge_slice(node: ir.Node) -> int:
    """Let ``node`` cut what the Slice before it cuts as well, if all readers of that one can."""
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or not is_op(first, "Slice") or refers(first):
        return 0
    source, middle = first.inputs[0], first.outputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else None
    before = _cuts(first, rank)
    if before is None or middle.is_graph_output():
        return 0
    taken = {axis for axis, *_ in before}
    for reader, position in middle.uses():
        cuts = _cuts(reader, rank) if is_op(reader, "Slice") and position == 0 else None
        if cuts is None or taken & {axis for axis, *_ in cuts} or reader.graph is not first.graph:
            return 0
    return _replace_slice(node, source, [*before, *(_cuts(node, rank) or ())])


def _cuts(node: ir.Node, rank: int | None) -> _Cuts | None:
    """Return what a Slice cuts, axes counted from 0; None where that is not constant."""
    given = [None if value is None else constant(value) for value in node.inputs[1:]]
    if any(
        value is not None and array is None
        for value, array in zip(node.inputs[1:], given, strict=True)
    ):
        return None
    starts, ends, axes, steps = (*given, None, None)[:4]
    if starts is None or ends is None:
        return None
    places = [int(axis) for axis in (range(starts.size) if axes is None else axes.flat)]
    if rank is None and min(places, default=0) < 0:
        return None
    strides = np.ones(starts.size, np.int64) if steps is None else steps
    columns = (axes_of(places, rank or 0), starts.flat, ends.flat, strides.flat)
    return [(axis, int(a), int(b), int(c)) for axis, a, b, c in zip(*columns, strict=True)]


def _replace_slice(node: ir.Node, source: ir.Value | None, cuts: _Cuts) -> int:
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101  # rewrite() looked
    axes, starts, ends, steps = np.array(cuts, np.int64).T
    name = label(node)
    inputs = [
        add_initializer(graph, f"{name}_{kind}", array)
        for kind, array in (("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps))
    ]
    merged = ir.node("Slice", (source, *inputs), name=node.name)
    replace(node, merged.outputs, [merged])
    return 1


def _reshape_instead(node: ir.Node) -> ir.Node | None:
    """Put a Reshape in the place of a Transpose that moves axes of length 1 alone; return it."""
    source, order = node.inputs[0], attribute(node, "perm")
    if source is None or source.shape is None or order is None:
        return None
    dims = list(source.shape)
    kept = [axis for axis in order if dims[axis] != 1]
    target = _target([dims[axis] for axis in order])
    if kept != sorted(kept) or list(order) == sorted(order) or target is None:
        return None
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101  # rewrite() looked
    shape = add_initializer(graph, f"{label(node)}_shape", np.array(target, np.int64))
    reshape = ir.node("Reshape", (source, shape), name=node.name)
    replace(node, reshape.outputs, [reshape])
    return reshape


def _settle_target(node: ir.Node) -> int:
    """Give a Reshape to a computed shape that shape as a constant, if it is known well enough."""
    (source, target), (result,) = node.inputs, node.outputs
    if target is None or constant(target) is not None or result.shape is None:
        return 0
    sizes = [dim if isinstance(dim, int) else -1 for dim in result.shape]
    if 0 in sizes:
        return 0
    before = () if source is None or source.shape is None else source.shape
    if sizes.count(-1) > 1:
        for axis, (old, new) in enumerate(zip(before, result.shape, strict=False)):
            if isinstance(new, ir.SymbolicDim) and new.value is not None and old == new:
                sizes[axis] = 0  # as large as the same dimension of what is reshaped
    if sizes.count(-1) > 1:
        return 0
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101  # rewrite() looked
    node.attributes.pop("allowzero", None)
    array = np.array(sizes, np.int64)
    node.replace_input_with(1, add_initializer(graph, f"{label(node)}_shape", array))
    return 1


def _target(dims: Sequence[int | ir.SymbolicDim]) -> list[int] | None:
    """Return what a Reshape to ``dims`` is given, at most one of which is not known."""
    sizes = [dim if isinstance(dim, int) else -1 for dim in dims]
    return None if 0 in sizes or sizes.count(-1) > 1 else sizes


def _skip_reshape(node: ir.Node) -> int:
    """Let a Reshape read what the Reshape before it reads, if nothing else reads that one."""
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or not is_op(first, "Reshape") or refers(first):
        return 0
    middle = first.outputs[0]
    wanted = constant(node.inputs[1])
    if wanted is None or 0 in wanted or len(middle.uses()) > 1 or middle.is_graph_output():
        return 0
    if first.graph is not node.graph:
        return 0
    node.replace_input_with(0, first.inputs[0])
    return 1
