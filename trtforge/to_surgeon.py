"""Between an onnx-ir model and an onnx-graphsurgeon graph, directly and without loss.

ONNX's protobuf is not involved: weights go across by reference, and every graphsurgeon node and
tensor remembers the onnx-ir object it stands for (its ``origin``), so that what graphsurgeon has
no place for (metadata, doc strings, overloads, attribute kinds, denotations) is found again.

Only :mod:`trtforge.surgeon` imports this module, when the first surgeon pass runs; this is why
onnx-graphsurgeon may be imported at module level here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import convert_from_onnx_attr_type

from trtforge.artifacts import Array

# graphsurgeon gives these types of a variable as ONNX's number, all others as NumPy's type.
_NOT_OF_NUMPY = frozenset({
    ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ,
})  # fmt: skip
_PLAIN = frozenset({ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING})
OBJECTS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.TENSOR})
_LISTS = frozenset({ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS})


class LazyTensor(LazyValues):  # type: ignore[misc]  # graphsurgeon ships no types
    """The values of a constant, left where they are until a pass reads ``constant.values``."""

    def __init__(self, source: ir.TensorProtocol) -> None:
        self.source = source
        self.shape = source.shape.numpy()
        self.dtype = source.dtype.numpy()
        self.nbytes = source.nbytes

    @property
    def tensor(self) -> onnx.TensorProto:
        """The values as ONNX's message, which graphsurgeon's own export asks for."""
        return ir.serde.serialize_tensor(self.source)

    def load(self) -> Array:
        """Return a writable copy; 4-bit and 8-bit floating types as ``ml_dtypes`` has them."""
        return np.array(self.source.numpy()).reshape(self.shape)


def to_surgeon(model: ir.Model) -> gs.Graph:
    """Return ``model`` as a graphsurgeon graph; ``model`` must stay as it is while that is in use.

    An initializer that is also a graph input becomes an input, since the caller may override it.
    """
    return _Importer(model.graph.opset_imports).graph(
        model.graph,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        ir_version=model.ir_version,
        functions=[_import_function(function) for function in model.functions.values()],
    )


def _standard_opset(imports: Mapping[str, int]) -> int | None:
    return imports.get("") or imports.get("ai.onnx")


class _Importer:
    """Makes graphsurgeon objects; one importer per model or function body."""

    def __init__(self, imports: Mapping[str, int]) -> None:
        self.tensors: dict[ir.Value, gs.Tensor] = {}
        self.opsets = {
            "opset": _standard_opset(imports),
            "import_domains": [onnx.helper.make_opsetid(*entry) for entry in imports.items()],
        }

    def graph(self, graph: ir.Graph, **facts: Any) -> gs.Graph:
        inputs = [self.tensor(value) for value in graph.inputs]
        nodes = [self.node(node) for node in graph]
        outputs = [self.tensor(value) for value in graph.outputs]
        made = gs.Graph(
            nodes, inputs, outputs, graph.name or "", graph.doc_string, **self.opsets, **facts
        )
        made.origin = graph
        return made

    def tensor(self, value: ir.Value | None) -> gs.Tensor:
        if value is None or not value.name:
            return gs.Variable.empty()
        if value not in self.tensors:
            if (
                value.const_value is not None
                and value.is_initializer()
                and not value.is_graph_input()
            ):
                made = gs.Constant(value.name, LazyTensor(value.const_value))
            else:
                made = gs.Variable(value.name, surgeon_dtype(value), surgeon_shape(value))
                made.type = (
                    "sequence_type" if isinstance(value.type, ir.SequenceType) else made.type
                )
            made.origin = value
            self.tensors[value] = made
        return self.tensors[value]

    def node(self, node: ir.Node) -> gs.Node:
        made = gs.Node(
            node.op_type,
            node.name,
            {attr.name: self.attribute(attr) for attr in node.attributes.values()},
            [self.tensor(value) for value in node.inputs],
            [self.tensor(value) for value in node.outputs],
            node.domain or None,
        )
        made.origin = node
        return made

    def attribute(self, attr: ir.Attr) -> object:
        if attr.is_ref():
            kind = convert_from_onnx_attr_type(attr.type.value)
            return gs.Node.AttributeRef(attr.ref_attr_name, kind)
        if attr.type == ir.AttributeType.TENSOR:
            return gs.Constant(attr.value.name or "", LazyTensor(attr.value))
        if attr.type == ir.AttributeType.GRAPH:
            return self.graph(attr.value)
        return plain(attr)


def plain(attr: ir.Attr) -> object:
    """Return an attribute as graphsurgeon has it; of a kind that it lacks, ONNX's message."""
    if attr.type in _PLAIN:
        return attr.value
    if attr.type in _LISTS:
        return list(attr.value)
    return onnx.helper.get_attribute_value(ir.serde.serialize_attribute(attr))


def surgeon_dtype(value: ir.Value) -> Any:
    """Return the element type as graphsurgeon has it, or None."""
    if value.dtype is None:
        return None
    return value.dtype.value if value.dtype in _NOT_OF_NUMPY else value.dtype.numpy()


def surgeon_shape(value: ir.Value) -> list[int | str | None] | None:
    """Return the shape as graphsurgeon has it, or None."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _import_function(function: ir.Function) -> gs.Function:
    importer = _Importer(function.opset_imports)
    made = gs.Function(
        function.name,
        function.domain,
        inputs=[importer.tensor(value) for value in function.inputs],
        nodes=[importer.node(node) for node in function],
        outputs=[importer.tensor(value) for value in function.outputs],
        doc_string=function.doc_string,
        attrs={
            attr.name: None if attr.value is None else importer.attribute(attr)
            for attr in function.attributes.values()
        },
        **importer.opsets,
    )
    made.origin = function
    return made
