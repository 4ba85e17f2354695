"""Step ``join-products``: several matrix products of one tensor become one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass, StepError
from trtforge.graph import add_initializer, constant, is_op, label, opset, replace, unique_name

_OPSET = 13  # first whose Split takes the sizes as an input


@dataclass(frozen=True)
class JoinProducts(Pass):
    """Join MatMul nodes that multiply one tensor by constant matrices; the result is split.

    Each result is the same sum of the same products. With ``insert-qdq: {attention: true}`` it
    lets TensorRT-RTX write queries, keys and values in one kernel instead of three.
    """

    name = "join-products"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Return how many products went into another.

        Raises:
            StepError: the model's opset is older than 13.
        """
        if opset(model) < _OPSET:
            raise StepError(
                f"Split with sizes as an input needs opset {_OPSET}; the model has {opset(model)}",
                remedy="put upgrade-opset before join-products",
            )
        groups = list(_groups(model.graph, ctx))
        for group in groups:
            _join(model.graph, group)
        return sum(len(group) - 1 for group in groups)


def _groups(graph: ir.Graph, ctx: Context) -> Iterator[list[ir.Node]]:
    """Yield the products, in graph order, that can be one."""
    found: dict[tuple[ir.Value | None, ir.DataType | None], list[ir.Node]] = {}
    for node in graph:
        if not is_op(node, "MatMul"):
            continue
        value, weight = node.inputs
        array = constant(weight)
        if weight is None or array is None or array.ndim != 2:
            continue
        if not weight.is_initializer() or len(weight.uses()) > 1 or weight.is_graph_output():
            ctx.note(label(node), "its weight is no initializer, or something else reads it too")
            continue
        found.setdefault((value, weight.dtype), []).append(node)
    return (group for group in found.values() if len(group) > 1)


def _join(graph: ir.Graph, group: Sequence[ir.Node]) -> None:
    first = group[0]
    weights = [value for node in group if (value := node.inputs[1]) is not None]
    arrays = [np.asarray(constant(weight)) for weight in weights]
    name = "+".join(label(node) for node in group)
    joined = add_initializer(graph, f"{name}_weight", np.concatenate(arrays, axis=1))
    sizes = np.array([array.shape[1] for array in arrays], np.int64)
    product = ir.node("MatMul", (first.inputs[0], joined), name=name)
    whole = product.outputs[0]
    whole.name = unique_name(graph, f"{name}_out")
    whole.type = first.outputs[0].type
    shape = first.outputs[0].shape
    if shape is not None and len(shape):
        whole.shape = ir.Shape([*shape[:-1], int(sizes.sum())])
    split = ir.node(
        "Split", (whole, add_initializer(graph, f"{name}_sizes", sizes)), {"axis": -1},
        num_outputs=len(group), name=f"{name}_split",
    )  # fmt: skip
    graph.insert_before(first, (product, split))
    for node, part in zip(group, split.outputs, strict=True):
        part.name = unique_name(graph, f"{label(node)}_part")
        replace(node, [part], [])
    for weight in weights:
        graph.initializers.pop(str(weight.name))
