"""Make ONNX Runtime's CPU sessions round to float16 and bfloat16 where the model does.

ONNX Runtime has hardly any float16 kernels for CPUs. It casts to float32 and drops the casts
between neighbouring nodes, at every optimization level, so nothing is rounded and nothing overflows
(measured with 1.32: 300 x 300 x 0.001 gives 90 where float16 gives Inf). bfloat16 models do
not run at all. A model that breaks on a GPU would pass for equal.

:func:`round_explicitly` writes the same model in float32 with the rounding as nodes of its own: a
cast to the type and back after each node that makes new values. ONNX Runtime keeps casts that a
model holds. That is float16 work with float32 accumulation, one rounding per tensor: what tensor
cores do, or slightly worse, because a fused kernel skips some roundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from trtforge.graph import graphs, is_op

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
FLOAT = ir.DataType.FLOAT
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_ACTIVATIONS = ("Relu", "Clip")
_NO_NEW_VALUES = (
    "Abs", "Ceil", "Clip", "Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Dropout",
    "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "GlobalMaxPool",
    "Identity", "If", "Loop", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin",
    "Relu", "Reshape", "ReverseSequence", "Round", "Scan", "Sign", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
)  # fmt: skip


def computes_in_half(model: ir.Model) -> bool:
    """Whether some tensor of ``model`` is float16 or bfloat16."""
    for graph in graphs(model):
        if any(value.dtype in HALF for value in graph.inputs):
            return True
        if isinstance(graph, ir.Graph) and any(
            v.dtype in HALF for v in graph.initializers.values()
        ):
            return True
        if any(_names_half(node) for node in graph):
            return True
    return False


def _names_half(node: ir.Node) -> bool:
    """Whether an attribute of ``node`` asks for float16 or bfloat16."""
    for attribute in node.attributes.data.values():
        if (
            attribute.type is ir.AttributeType.TENSOR
            and not attribute.is_ref()
            and attribute.value.dtype in HALF
        ):
            return True
        if attribute.name in _TYPE_ATTRIBUTES and attribute.value in HALF:
            return True
    return False


def round_explicitly(model: ir.Model) -> ir.Model:
    """Return ``model`` in float32, rounding by explicit casts; weights are shared, not copied.

    Functions are inlined. Inputs and outputs keep their names; float16 ones keep their type,
    bfloat16 ones become float32, because NumPy cannot hand bfloat16 to ONNX Runtime. Tensors whose
    type cannot be inferred (operators outside ONNX) are computed in float32 and not rounded.
    """
    wide = model.clone()
    if wide.functions:
        InlinePass()(wide)
    ShapeInferencePass()(wide)
    names = (f"rounding/{number}" for number in count())
    for graph in list(graphs(wide)):
        if isinstance(graph, ir.Graph):
            _Widening(graph, names, is_main=graph is wide.graph).apply()
    return wide


class _Widening:
    """Turns one graph to float32; the types of its values tell where to round."""

    def __init__(self, graph: ir.Graph, names: Iterator[str], *, is_main: bool) -> None:
        self.graph = graph
        self.names = names
        self.is_main = is_main
        self.outputs = tuple((value.name, value.dtype) for value in graph.outputs)

    def apply(self) -> None:
        """Widen the whole graph, which has its types inferred."""
        nodes = list(self.graph)
        self._widen_sources(nodes[0] if nodes else None)
        for node in nodes:
            if is_op(node, "Cast", "Constant"):
                self._widen_after(node, node.outputs[0])
            else:
                self._widen_node(node)
        if self.is_main:
            self._restore_outputs()

    def _widen_sources(self, first: ir.Node | None) -> None:
        """Widen what enters the graph: initializers, and inputs of the main graph."""
        sources = {id(v): v for v in [*self.graph.inputs, *self.graph.initializers.values()]}
        for value in sources.values():
            if value.is_initializer() or (self.is_main and value.dtype == ir.DataType.FLOAT16):
                self._widen_before(first, value)
            elif value.dtype in HALF:
                value.type = ir.TensorType(FLOAT)  # a new one: a clone shares its types

    def _widen_before(self, first: ir.Node | None, value: ir.Value) -> None:
        if value.dtype in HALF and first is not None:
            uses = list(value.uses())
            cast = self._cast(value, FLOAT)
            self.graph.insert_before(first, cast)
            _rewire(uses, cast.outputs[0])

    def _widen_after(self, node: ir.Node, value: ir.Value) -> None:
        if value.dtype in HALF:
            uses = list(value.uses())
            self._insert_after(node, value, self._cast(value, FLOAT), uses)

    def _widen_node(self, node: ir.Node) -> None:
        _widen_attributes(node)
        for value in node.outputs:
            dtype = value.dtype
            if dtype not in HALF or dtype is None:
                continue
            value.type = ir.TensorType(FLOAT)  # a new one: a clone shares its types
            if _must_round(node, value):
                uses = list(value.uses())
                rounded = self._cast(value, dtype)
                self.graph.insert_after(node, rounded)
                self._insert_after(rounded, value, self._cast(rounded.outputs[0], FLOAT), uses)

    def _insert_after(
        self, node: ir.Node, value: ir.Value, cast: ir.Node, uses: Sequence[tuple[ir.Node, int]]
    ) -> None:
        """Let ``uses`` of ``value``, and the graph's outputs, take the result of ``cast``."""
        self.graph.insert_after(node, cast)
        _rewire(uses, cast.outputs[0])
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = cast.outputs[0]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Node:
        result = ir.Value(name=next(self.names), type=ir.TensorType(dtype), shape=value.shape)
        name = result.name
        return ir.node("Cast", [value], {"to": dtype}, outputs=[result], name=name)

    def _restore_outputs(self) -> None:
        """Give the main graph its outputs back: by name, and the float16 ones by type."""
        for index, (name, dtype) in enumerate(self.outputs):
            value = self.graph.outputs[index]
            if dtype == ir.DataType.FLOAT16 and value.dtype == FLOAT:
                cast = self._cast(value, ir.DataType.FLOAT16)
                self.graph.append(cast)
                self.graph.outputs[index] = value = cast.outputs[0]
            if value.name != name:
                self._free_name(name)
                value.name = name

    def _free_name(self, name: str | None) -> None:
        for node in self.graph:
            for value in node.outputs:
                if value.name == name:
                    value.name = next(self.names)


def _rewire(uses: Sequence[tuple[ir.Node, int]], value: ir.Value) -> None:
    for user, index in uses:
        user.replace_input_with(index, value)


def _widen_attributes(node: ir.Node) -> None:
    """Let a node that names its result's type, such as RandomNormal, give float32."""
    for attribute in list(node.attributes.values()):
        if attribute.name in _TYPE_ATTRIBUTES and attribute.value in HALF:
            node.attributes[attribute.name] = ir.AttrInt64(attribute.name, FLOAT)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALF:
            wide = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, wide)


def _must_round(node: ir.Node, value: ir.Value) -> bool:
    """Whether ``value`` is rounded right after ``node``.

    Relu and Clip commute with rounding, so a node that only feeds one leaves the rounding to it,
    and ONNX Runtime can still fuse the two.
    """
    if is_op(node, *_ACTIVATIONS) and _only_feeds_activation(node.inputs[0]):
        return True
    return not is_op(node, *_NO_NEW_VALUES) and not _only_feeds_activation(value)


def _only_feeds_activation(value: ir.Value | None) -> bool:
    if value is None or value.is_graph_output() or value.producer() is None:
        return False
    uses = list(value.uses())
    return len(uses) == 1 and is_op(uses[0][0], *_ACTIVATIONS) and uses[0][1] == 0
