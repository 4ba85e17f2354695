"""single-columns: a product with a matrix of one column becomes a sum of products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant, constant_tensor, is_op
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, operand
from trtforge_plugins.convert.make_convertible import put
from trtforge_plugins.convert.node_pass import NodePass, Taken
from trtforge_plugins.convert.rule import Refusal


@dataclass(frozen=True)
class SingleColumns(NodePass):
    """Write products with a matrix ``[K, 1]`` as Mul and ReduceSum along the last axis.

    TensorRT-RTX 1.7.1 widens such a matrix to four columns, pads the other operand to fit, and cuts
    the result out again: up to four kernels. The sum joins what comes before and behind it in one.
    Only float32, as the products of shorter types would be rounded before they are added.
    """

    name: ClassVar[str] = "single-columns"

    since: ClassVar[int] = 7  # before it operands were broadcast by another rule

    def rewrite_node(
        self,
        node: ir.Node,
        build: Builder,
        names: Taken,  # noqa: ARG002  # it adds no initializer
    ) -> bool | Refusal:
        """Put a sum of products in the place of a product with one column."""
        column = _column(node)
        if column is None:
            return False
        reason = _why_not(node)
        if reason is not None:
            return Refusal(reason)
        value = build.op("Mul", node.inputs[0], column)
        value = build.reduce("ReduceSum", value, [-1])
        added = operand(node, 2)
        put(node, [value if added is None else build.op("Add", value, added)], build)
        return True


def _column(node: ir.Node) -> np.ndarray | None:
    """Return the constant ``[K]`` that a MatMul or Gemm multiplies rows by, if it is one column."""
    if not is_op(node, "MatMul", "Gemm") or node.inputs[0] is None or node.inputs[1] is None:
        return None
    weight = node.inputs[1]
    held = None if weight.is_graph_input() else constant_tensor(weight)
    if held is None or held.dtype != ir.DataType.FLOAT or len(held.shape) != 2:
        return None
    if held.shape[0 if attribute(node, "transB", 0) else 1] != 1:
        return None
    array = constant(weight)
    return None if array is None else array.reshape(-1)


def _why_not(node: ir.Node) -> str | None:
    """Return why a Gemm stays, or None."""
    if attribute(node, "transA", 0):
        return "its first operand is transposed"
    if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        return "its product or its sum is scaled"
    return None
