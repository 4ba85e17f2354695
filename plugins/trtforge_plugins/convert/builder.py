"""Makes the nodes that take the place of one node, each value with its type and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from trtforge.graph import constant_tensor

if TYPE_CHECKING:
    from trtforge.artifacts import Array

RULE_KEY = "trtforge.rule"
"""Metadata key under which a new node names the rule that made it."""
Operand = ir.Value | np.ndarray | np.generic | float | int | bool | Sequence[int] | None
_SMALL = 1024  # entries; larger constants decide no shapes


class Builder:
    """Collects new nodes.

    Args:
        node: The node that they will replace.
        opset: Version of the standard operator set of the model.
        rule: Name of the rule that makes them.
        part: What their names have behind the node's.
    """

    def __init__(self, node: ir.Node, opset: int, rule: str, part: str = "") -> None:
        self.node = node
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.rule = rule
        self._stem = (node.name or node.outputs[0].name or node.op_type) + part

    def op(self, op_type: str, *operands: Operand, **attributes: Any) -> ir.Value:
        """Add a node of the standard domain with one output and return that output.

        A Python number among the operands becomes a constant of the first value's type, a list of
        integers one of int64, an array one of its own type; None leaves an optional input out.
        """
        return self.ops(op_type, 1, *operands, **attributes)[0]

    def ops(
        self, op_type: str, outputs: int, *operands: Operand, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Add a node with several outputs and return them."""
        typed = operands[1:] if op_type == "Where" else operands  # its first is the condition
        like = next((each.dtype for each in typed if isinstance(each, ir.Value)), None)
        inputs = [self._value(operand, like) for operand in operands]
        while inputs and inputs[-1] is None:
            inputs.pop()
        made = ir.node(
            op_type,
            inputs,
            attributes={key: value for key, value in attributes.items() if value is not None},
            num_outputs=outputs,
            name=f"{self._stem}/{op_type}_{len(self.nodes)}",
        )
        made.metadata_props[RULE_KEY] = self.rule
        for index, value in enumerate(made.outputs):
            value.name = f"{made.name}_out{index}"
        self.nodes.append(made)
        infer(made, self.opset)
        return tuple(made.outputs)

    def const(self, array: Array | float, dtype: ir.DataType | None = None) -> ir.Value:
        """Add a constant; ``dtype`` converts it."""
        data = np.asarray(array)
        if dtype is not None:
            data = data.astype(dtype.numpy())
        made = ir.node("Constant", [], attributes={"value": ir.tensor(data)}, num_outputs=1)
        made.name = f"{self._stem}/Constant_{len(self.nodes)}"
        made.metadata_props[RULE_KEY] = self.rule
        (value,) = made.outputs
        value.name = f"{made.name}_out0"
        value.type = ir.TensorType(ir.tensor(data).dtype)
        value.shape = ir.Shape(data.shape)
        self.nodes.append(made)
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return ``value`` as ``dtype``; nothing is added where it has that type already."""
        return value if value.dtype == dtype else self.op("Cast", value, to=dtype.value)

    def reshape(self, value: ir.Value, dims: Sequence[int]) -> ir.Value:
        """Reshape to static ``dims``, with at most one -1 (and 0 for "as it was")."""
        return self.op("Reshape", value, list(dims))

    def reduce(
        self, op_type: str, value: ir.Value, axes: Sequence[int], *, keepdims: bool = True
    ) -> ir.Value:
        """Add ``ReduceSum`` and the like over constant ``axes``, by the form of the opset."""
        since = 13 if op_type == "ReduceSum" else 18
        if self.opset >= since:
            return self.op(op_type, value, list(axes), keepdims=int(keepdims))
        return self.op(op_type, value, axes=list(axes), keepdims=int(keepdims))

    def unsqueeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Insert dimensions of 1 at ``axes``, counted in the result."""
        if self.opset >= 13:
            return self.op("Unsqueeze", value, list(axes))
        return self.op("Unsqueeze", value, axes=list(axes))

    def squeeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Remove the dimensions ``axes``, which are 1."""
        if self.opset >= 13:
            return self.op("Squeeze", value, list(axes))
        return self.op("Squeeze", value, axes=list(axes))

    def slice(self, value: ir.Value, axis: int, start: int, end: int, step: int = 1) -> ir.Value:
        """Take a constant range of one axis, with the numbers of ONNX's Slice."""
        if self.opset >= 10:
            return self.op("Slice", value, [start], [end], [axis], [step])
        return self.op("Slice", value, starts=[start], ends=[end], axes=[axis])

    def dims(self, value: ir.Value) -> ir.Value:
        """Return the run-time shape of ``value``: int64, one entry per dimension."""
        return self.op("Shape", value)

    def positions(self, value: ir.Value, axis: int) -> ir.Value:
        """Return 0, 1, and so on up to the size of one axis of ``value``: int64, 1-D."""
        size = None if value.shape is None else value.shape[axis]
        if isinstance(size, int):
            return self.const(np.arange(size, dtype=np.int64))
        length = self.op("Gather", self.dims(value), np.int64(axis))
        return self.op("Range", np.int64(0), length, np.int64(1))

    def _value(self, operand: Operand, like: ir.DataType | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, np.ndarray | np.generic):
            return self.const(np.asarray(operand))
        if isinstance(operand, list | tuple):
            return self.const(np.asarray(operand, np.int64))
        return self.const(np.asarray(operand), like or ir.DataType.FLOAT)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of ``value`` when every dimension is a number, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(dim) for dim in value.shape.numpy())


def rank(value: ir.Value | None) -> int | None:
    """Return the number of dimensions of ``value``, or None when it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def infer(node: ir.Node, opset: int) -> None:
    """Give the outputs of ``node`` the types and shapes that follow from its inputs, if they do."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return
    known = {value.name: value for value in node.inputs if value is not None}
    if any(value.type is None for value in known.values()):
        return
    types = {name: ir.serde.serialize_value(value).type for name, value in known.items() if name}
    data = {name: tensor for name, value in known.items() if (tensor := _small(value)) and name}
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return
    for value in node.outputs:
        proto = found.get(value.name or "")
        if proto is not None and proto.HasField("tensor_type"):
            value.type = ir.serde.deserialize_type_proto_for_type(proto)
            value.shape = ir.serde.deserialize_type_proto_for_shape(proto)


def _small(value: ir.Value) -> onnx.TensorProto | None:
    held = None if value.is_graph_input() else constant_tensor(value)
    if held is None or held.size > _SMALL:  # asked first: reading a large one takes time
        return None
    return ir.serde.serialize_tensor(ir.tensor(np.asarray(held.numpy()), name=value.name))
