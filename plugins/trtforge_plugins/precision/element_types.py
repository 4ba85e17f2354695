"""The element type of every value, from what the model declares and from ONNX's operator schemas.

Passes that depend on types must not depend on whether somebody ran shape inference before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

import onnx
import onnx_ir as ir

Types = dict[ir.Value, ir.DataType]

_LIKE_FIRST_INPUT = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Erf", "Flatten",
    "Gather", "Gemm", "GlobalAveragePool", "Identity", "LayerNormalization", "MatMul", "MaxPool",
    "Mul", "Pow", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze",
    "Sub", "Tanh", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Common operators whose first result has the type of the first input: to ask for one schema makes
ONNX set up all of them, which takes as long as calibrating a small model."""

_BY_ATTRIBUTE: Mapping[str, tuple[str, ir.DataType | None]] = MappingProxyType(
    {
        "Cast": ("to", None),
        "Bernoulli": ("dtype", None),
        "EyeLike": ("dtype", None),
        "Multinomial": ("dtype", ir.DataType.INT32),
        "RandomNormal": ("dtype", ir.DataType.FLOAT),
        "RandomNormalLike": ("dtype", None),
        "RandomUniform": ("dtype", ir.DataType.FLOAT),
        "RandomUniformLike": ("dtype", None),
        "BlackmanWindow": ("output_datatype", ir.DataType.FLOAT),
        "HannWindow": ("output_datatype", ir.DataType.FLOAT),
        "HammingWindow": ("output_datatype", ir.DataType.FLOAT),
        "DequantizeLinear": ("output_dtype", None),
        "QuantizeLinear": ("output_dtype", None),
    }
)


def element_types(model: ir.Model) -> Types:
    """Return the element type of each tensor value, where it can be told; the model stays as is."""
    inference = _Inference(model)
    inference.walk(model.graph, model.graph.opset_imports)
    return inference.types


class _Inference:
    """Walks the graphs in order; the body of a function is walked for each of its calls."""

    def __init__(self, model: ir.Model) -> None:
        self._functions = model.functions
        self.types: Types = {}

    def walk(self, graph: ir.Graph | ir.Function, versions: Mapping[str, int]) -> None:
        """Learn the types of all values of ``graph``."""
        given = [*graph.inputs]
        if isinstance(graph, ir.Graph):
            given += graph.initializers.values()
        for value in given:
            self._know(value, value.dtype)
        for node in graph:
            for body in bodies(node):
                if node.op_type in ("Loop", "Scan"):
                    self._pass_on(node, body)
                self.walk(body, versions)
            for index, output in enumerate(node.outputs):
                self._know(output, output.dtype or self._result(node, index, versions))

    def _know(self, value: ir.Value, dtype: ir.DataType | None) -> None:
        if dtype is None and value.const_value is not None:
            dtype = value.const_value.dtype
        if dtype is not None:
            self.types[value] = dtype

    def _pass_on(self, node: ir.Node, body: ir.Graph | ir.Function) -> None:
        """Give the inputs of a body the types of the node's inputs."""
        for inner, outer in zip(body.inputs, node.inputs, strict=False):
            if inner.dtype is None and outer is not None and outer in self.types:
                self.types[inner] = self.types[outer]

    def _result(self, node: ir.Node, index: int, versions: Mapping[str, int]) -> ir.DataType | None:
        """Return the type of output ``index``."""
        inner = bodies(node)
        if inner:
            place = index + 1 if node.op_type == "Loop" else index
            return self.types.get(inner[0].outputs[place])
        function = self._functions.get(node.op_identifier())
        if function is not None:
            self._pass_on(node, function)
            self.walk(function, function.opset_imports)
            return self.types.get(function.outputs[index])
        stated = _stated(node, index, self.types)
        if stated is not None:
            return stated
        if index == 0 and node.domain == "" and node.op_type in _LIKE_FIRST_INPUT:
            return self.types.get(node.inputs[0]) if node.inputs and node.inputs[0] else None
        schema = find_schema(node.domain, node.op_type, versions.get(node.domain, 0))
        if schema is None:
            return None
        kind = formal(schema.outputs, index)
        for place, source in enumerate(node.inputs):
            if source in self.types and formal(schema.inputs, place) == kind:
                return self.types[source]
        only = [
            each.allowed_type_strs
            for each in schema.type_constraints
            if each.type_param_str == kind
        ]
        return literal_type(only[0][0] if only and len(only[0]) == 1 else kind)


def bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the subgraphs of a node: the branches of an If, the body of a Loop or Scan."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _stated(node: ir.Node, index: int, types: Types) -> ir.DataType | None:
    """Return a type that an attribute or a constant tells."""
    if node.op_type in ("Constant", "ConstantOfShape"):
        tensor = node.attributes.get("value")
        if tensor is not None:
            return tensor.as_tensor().dtype
        known = ir.convenience.get_const_tensor(node.outputs[0])
        return known.dtype if known is not None else ir.DataType.FLOAT
    if node.op_type in _BY_ATTRIBUTE:
        name, default = _BY_ATTRIBUTE[node.op_type]
        number = node.attributes.get_int(name, 0)
        if number:
            return ir.DataType(number)
        source = _QDQ_TYPE_INPUT.get(node.op_type, 0)
        value = node.inputs[source] if source < len(node.inputs) else None
        if value is not None:
            return types.get(value)
        return default or (ir.DataType.UINT8 if node.op_type == "QuantizeLinear" else None)
    if node.op_type == "LayerNormalization" and index > 0:
        return ir.DataType(node.attributes.get_int("stash_type", ir.DataType.FLOAT.value))
    return None


_QDQ_TYPE_INPUT: Mapping[str, int] = MappingProxyType({"QuantizeLinear": 2, "DequantizeLinear": 1})


@cache
def find_schema(domain: str, op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """Return ONNX's schema of an operator, or None where ONNX does not know it."""
    domain = "" if domain == "ai.onnx" else domain
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


Formals = Sequence[onnx.defs.OpSchema.FormalParameter]


def formal(parameters: Formals, index: int) -> str:
    """Return the type, or the name of the type variable, of parameter ``index``.

    Entries of a variadic parameter share its variable only where the schema says so.
    """
    if not parameters:
        return ""
    parameter = parameters[min(index, len(parameters) - 1)]
    variadic = parameter.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    if index >= len(parameters) and not variadic:
        return ""
    if variadic and not parameter.is_homogeneous:
        return f"{parameter.type_str}#{index}"
    return parameter.type_str


def literal_type(kind: str) -> ir.DataType | None:
    """Return the type that ``tensor(float)`` and the like mean; None for a type variable."""
    if not kind.startswith("tensor("):
        return None
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    return ir.DataType.__members__.get(name)
