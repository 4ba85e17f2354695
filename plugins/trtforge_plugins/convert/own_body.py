"""Operators that ONNX itself defines by a function body of simpler operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import onnx
import onnx_ir as ir

from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.convert.builder import RULE_KEY, Builder, infer
from trtforge_plugins.convert.rule import Refusal, Rule


class OwnBody(Rule):
    """Write an operator out by the function body that its ONNX specification gives."""

    name: ClassVar[str] = "own-body"
    ops: ClassVar[tuple[str, ...]] = (
        "AffineGrid",
        "CausalConvWithState",
        "CenterCropPad",
        "LinearAttention",
        "NegativeLogLikelihoodLoss",
        "SoftmaxCrossEntropyLoss",
        "SwiGLU",
        "ai.onnx.preview::FlexAttention",
    )
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/ (section Function Body)"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Inline the function body of the node's schema."""
        body = function_body(node, build.opset)
        if body is None:
            return Refusal("ONNX gives no function body for its types")
        if any(inner.op_type == "If" for inner in body.node):
            return Refusal("its function body branches, and the branches differ in shape")
        return inline(body, node, build)


def function_body(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """Return the function body that the schema of ``node`` gives for its types, or None."""
    try:
        # onnx.defs has no types for what it says of function bodies
        schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        body: onnx.FunctionProto = schema.function_body
        return body
    if not schema.has_context_dependent_function:
        return None
    types = [
        ir.serde.serialize_value(value).type.SerializeToString()
        if value is not None and value.type is not None
        else onnx.TypeProto().SerializeToString()
        for value in node.inputs
    ]
    proto = ir.serde.serialize_node(node).SerializeToString()
    text = schema.get_context_dependent_function(proto, types)
    return onnx.FunctionProto.FromString(text) if text else None


def inline(body: onnx.FunctionProto, node: ir.Node, build: Builder) -> Sequence[ir.Value | None]:
    """Add the nodes of ``body`` to ``build``, applied to the inputs and attributes of ``node``."""
    declared = list(body.output)
    made = {name for inner in body.node for name in inner.output}
    body.output[:] = [name for name in declared if name in made]  # others the node leaves out
    function = ir.serde.deserialize_function(body)
    computed = dict(zip(body.output, function.outputs, strict=True))
    function.outputs.clear()  # a value belongs to the outputs of one graph at most
    for inner in function.all_nodes():
        _resolve_attributes(inner, node, function)
    _rename(function, build)
    given = [*node.inputs, *([None] * len(function.inputs))]
    for formal, actual in zip(function.inputs, given, strict=False):
        for use in tuple(formal.uses()):
            use.node.replace_input_with(use.idx, actual)
    for inner in tuple(function):
        function.remove(inner)
        inner.metadata_props[RULE_KEY] = OwnBody.name
        build.nodes.append(inner)
        infer(inner, build.opset)
    return [computed.get(name) for name in declared[: len(node.outputs)]]


def _rename(function: ir.Function, build: Builder) -> None:
    """Name nodes and values, those of subgraphs too, after the node that they replace."""
    stem, count = build.node.name or build.node.op_type, len(build.nodes)
    for index, inner in enumerate(function.all_nodes(), count):
        inner.name = f"{stem}/{inner.op_type}_{index}"
        for position, value in enumerate(inner.outputs):
            value.name = f"{inner.name}_out{position}" if value.name else ""
        for graph in bodies(inner):
            for value in graph.inputs:
                value.name = f"{inner.name}_{value.name}"


def _resolve_attributes(inner: ir.Node, node: ir.Node, function: ir.Function) -> None:
    """Put the call's values in place of references; what the call leaves out is left out."""
    for name, attribute in tuple(inner.attributes.items()):
        if not attribute.is_ref():
            continue
        reference = attribute.ref_attr_name or ""
        given = node.attributes.get(reference) or function.attributes.get(reference)
        del inner.attributes[name]
        if given is not None and given.value is not None:
            inner.attributes[name] = ir.Attr(name, given.type, given.value)
