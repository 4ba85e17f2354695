"""Operators that ONNX itself defines by a function body of simpler operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import onnx
import onnx_ir as ir

from trtforge_plugins.convert.builder import RULE_KEY, Builder, infer
from trtforge_plugins.convert.rule import Refusal, Rule


class OwnBody(Rule):
    """Write an operator out by the function body that its ONNX specification gives."""

    name: ClassVar[str] = "own-body"
    ops: ClassVar[tuple[str, ...]] = (
        "AffineGrid",
        "CenterCropPad",
        "NegativeLogLikelihoodLoss",
        "SoftmaxCrossEntropyLoss",
        "SwiGLU",
    )
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/ (section Function Body)"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Inline the function body of the node's schema."""
        body = function_body(node, build.opset)
        if body is None:
            return Refusal("ONNX gives no function body for its types")
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


def inline(
    body: onnx.FunctionProto, node: ir.Node, build: Builder
) -> Sequence[ir.Value | None] | Refusal:
    """Add the nodes of ``body`` to ``build``, applied to the inputs and attributes of ``node``."""
    function = ir.serde.deserialize_function(body)
    values: dict[ir.Value | None, ir.Value | None] = {None: None}
    padded = [*node.inputs, *([None] * len(function.inputs))]
    values.update(zip(function.inputs, padded, strict=False))
    stem = build.node.name or node.op_type
    for inner in function:
        attributes = _resolved(inner, node, function)
        if attributes is None:
            return Refusal(f"its function body has a subgraph in {inner.op_type}")
        inputs = [values.get(value) for value in inner.inputs]
        made = ir.node(
            inner.op_type, inputs, attributes=attributes, num_outputs=len(inner.outputs),
            domain=inner.domain, name=f"{stem}/{inner.op_type}_{len(build.nodes)}",
        )  # fmt: skip
        made.metadata_props[RULE_KEY] = OwnBody.name
        for index, value in enumerate(made.outputs):
            value.name = f"{made.name}_out{index}"
        build.nodes.append(made)
        infer(made, build.opset)
        values.update(zip(inner.outputs, made.outputs, strict=True))
    return [values[value] for value in function.outputs[: len(node.outputs)]]


def _resolved(inner: ir.Node, node: ir.Node, function: ir.Function) -> dict[str, ir.Attr] | None:
    """Return the attributes of a body's node with the call's values in place of references."""
    resolved: dict[str, ir.Attr] = {}
    for name, attribute in inner.attributes.items():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        if not attribute.is_ref():
            resolved[name] = attribute
            continue
        reference = attribute.ref_attr_name or ""
        given = node.attributes.get(reference) or function.attributes.get(reference)
        if given is not None and given.value is not None:
            resolved[name] = ir.Attr(name, given.type, given.value)
    return resolved
