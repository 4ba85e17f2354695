"""Constant matrices, as they are or quantized, and what makes one of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant, constant_tensor, is_op
from trtforge.weights import side_by_side
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute

if TYPE_CHECKING:
    from trtforge.artifacts import Array


@dataclass(frozen=True)
class Matrix:
    """The constant right factor ``[depth, width]`` of a product.

    Where it is quantized, ``stored`` is what a DequantizeLinear reads, with a scale and a zero
    point for each column, as matrices with a scale each can stand side by side only so.
    """

    stored: ir.TensorProtocol
    dtype: ir.DataType
    """The type that is multiplied."""
    scale: Array | None = None
    zero: Array | None = None

    @classmethod
    def find(cls, value: ir.Value | None) -> Matrix | None:
        """Return the matrix that ``value`` is, if it is one."""
        node = None if value is None else value.producer()
        if value is None or node is None or not is_op(node, "DequantizeLinear"):
            held = fixed(value)
            return None if held is None or len(held.shape) != 2 else cls(held, held.dtype)
        held, scale = fixed(node.inputs[0]), _numbers(node, 1)
        if held is None or len(held.shape) != 2 or held.dtype.bitwidth != 8 or scale is None:
            return None  # shorter numbers are packed, and are not put together here
        width = int(held.shape.numpy()[1])
        by_column = attribute(node, "axis", 1) in (1, -1) and scale.shape == (width,)
        if attribute(node, "block_size", 0) or not (scale.ndim == 0 or by_column):
            return None
        zero = _numbers(node, 2)
        if zero is None and len(node.inputs) > 2 and node.inputs[2] is not None:
            return None
        return cls(
            held,
            ir.DataType.from_numpy(scale.dtype),
            np.broadcast_to(scale, (width,)),
            None if zero is None else np.broadcast_to(zero, (width,)),
        )

    @property
    def width(self) -> int:
        """The number of columns."""
        return int(self.stored.shape.numpy()[1])

    @property
    def kind(self) -> tuple[ir.DataType, ir.DataType, bool]:
        """What matrices have in common that can stand side by side."""
        return self.stored.dtype, self.dtype, self.scale is None


def fixed(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return what ``value`` always is; a caller may set what is an input of the graph."""
    return None if value is None or value.is_graph_input() else constant_tensor(value)


def _numbers(node: ir.Node, position: int) -> Array | None:
    value = node.inputs[position] if len(node.inputs) > position else None
    return None if fixed(value) is None else constant(value)


Constant = Callable[[str, ir.TensorProtocol], ir.Value]
"""Adds a tensor to the graph, under a name that contains the given word."""


def joined(parts: Sequence[Matrix], build: Builder, add: Constant) -> ir.Value:
    """Return the matrix that has the columns of ``parts``, which are of one kind, in a row."""
    weight = add("weight", side_by_side([part.stored for part in parts], "weight"))
    scales = [part.scale for part in parts if part.scale is not None]
    if not scales:
        return weight
    scale = add("scale", ir.tensor(np.concatenate(scales)))
    if all(part.zero is None for part in parts):
        return build.op("DequantizeLinear", weight, scale, axis=1)
    dtype = parts[0].stored.dtype
    zeros = [np.zeros(p.width, dtype.numpy()) if p.zero is None else p.zero for p in parts]
    zero = add("zero", ir.Tensor(np.concatenate(zeros), dtype=dtype))
    return build.op("DequantizeLinear", weight, scale, zero, axis=1)
