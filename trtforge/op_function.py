"""A custom op in an ONNX model: a node that carries its meaning along as a model-local function.

The function's body is plain ONNX, so ONNX Runtime, the checker, shape inference and a TensorRT
without our plugin run the model as it is. ``CustomOp.function`` holds only the body; the header
(domain, name, inputs, outputs, attributes) is made from the op's declaration. The body may use
Jinja with the op's attributes and ``opset`` (the model's), for example to use an operator where
the opset has it; instances with different bodies then are overloads of one function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtforge.errors import ModelError, StepError
from trtforge.graph import label, opset
from trtforge.kernel_source import attributes, render_text

if TYPE_CHECKING:
    import onnx

    from trtforge.ops import CustomOp, Port

OVERLOADS_SINCE = 10
"""The IR version of ONNX that brought overloads of functions."""

_KINDS = {
    bool: ir.AttributeType.INT, int: ir.AttributeType.INT,
    float: ir.AttributeType.FLOAT, str: ir.AttributeType.STRING,
}  # fmt: skip


class OpsetTooOld(StepError):
    """The function of a custom op needs an operator that the model's opset lacks."""


def make_function(op: CustomOp, opset: int) -> ir.Function:
    """Return the ONNX function of ``op`` for models of this opset.

    Raises:
        OpsetTooOld: its body uses an operator that this opset lacks.
        StepError: its body is no ONNX.
    """
    import onnx.parser

    where = f"{type(op).__module__}.{type(op).__name__}.function"
    if opset < op.since:
        raise OpsetTooOld(
            f"custom op {op.name} needs opset {op.since}; the model has {opset}",
            remedy="put upgrade-opset first",
        )
    names = {**attributes(op), "opset": opset, "dtype_of": op.types("T")}
    body = render_text(op.function, names, where)
    given = ", ".join(attributes(op))
    text = f"""<domain: "{op.domain}", opset_import: ["" : {opset}]>
        {op.op_type} {f"<{given}>" if given else ""} ({_names(op.input_ports())})
        => ({_names(op.output_ports())}) {{ {body} }}"""
    try:
        proto = onnx.parser.parse_function(text)
    except onnx.parser.ParseError as error:
        raise StepError(f"the ONNX body of {op.name} is wrong: {error}", where=where) from error
    _check_operators(op, proto, opset)
    proto.overload = _overload(op)
    return ir.serde.deserialize_function(proto)


def call_op(
    model: ir.Model, op: CustomOp, inputs: Sequence[ir.Value | None], name: str | None = None
) -> ir.Node:
    """Return a node that calls ``op``; the model gets the function and the import of its domain.

    The caller puts the node into a graph and gives its outputs their types, as
    :func:`trtforge.graph.replace` does.

    Raises:
        OpsetTooOld: the function needs a later opset than the model's.
        StepError: the model has another function of the same name.
    """
    function = make_function(op, opset(model))
    known = model.functions.get(function.identifier())
    if known is None:
        model.functions[function.identifier()] = function
    elif _meaning(known) != _meaning(function):
        raise StepError(
            f"the model already has a function {op.name} with another body",
            remedy="rename it, or inline the model's functions first",
        )
    model.graph.opset_imports.setdefault(op.domain, 1)
    if function.overload:
        model.ir_version = max(model.ir_version, OVERLOADS_SINCE)
    given = [ir.convenience.convert_attribute(key, _plain(v)) for key, v in attributes(op).items()]
    return ir.Node(
        op.domain, op.op_type, inputs, given, overload=function.overload,
        num_outputs=len(op.outputs), name=name,
    )  # fmt: skip


def read_op(node: ir.Node, ops: Mapping[str, type[CustomOp]]) -> CustomOp | None:
    """Return the custom op that ``node`` calls, its attributes set, or None when it is none.

    Raises:
        ModelError: an attribute is not the op's, or has another type.
    """
    kind = ops.get(f"{node.domain}::{node.op_type}")
    if kind is None:
        return None
    known = {field.name: field.default for field in fields(kind)}
    values = {}
    for name, attr in node.attributes.items():
        if name not in known or attr.is_ref():
            raise ModelError(
                f"node {label(node)!r}: custom op {kind.name} has no attribute {name!r}",
                remedy=f"it has: {', '.join(known) or 'none'}",
            )
        wanted = _KINDS.get(type(known[name]), attr.type)
        if attr.type != wanted:
            raise ModelError(
                f"node {label(node)!r}: attribute {name!r} is {attr.type.name}, "
                f"but custom op {kind.name} has {wanted.name}"
            )
        values[name] = bool(attr.value) if isinstance(known[name], bool) else attr.value
    return kind(**values)


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(port.name for port in ports)


def _plain(value: float | str) -> float | str:
    return int(value) if isinstance(value, bool) else value  # ONNX has no boolean attributes


def _overload(op: CustomOp) -> str:
    """Name the overload by the attributes, where the body depends on them."""
    if "{{" not in op.function and "{%" not in op.function:
        return ""
    return ",".join(f"{name}={value}" for name, value in attributes(op).items())


def _check_operators(op: CustomOp, proto: onnx.FunctionProto, version: int) -> None:
    """Refuse a body with an operator that the opset lacks; ONNX Runtime's words for it mislead."""
    from onnx import defs

    for node in proto.node:
        if not node.domain and not defs.has(node.op_type, version):
            raise OpsetTooOld(
                f"custom op {op.name} needs {node.op_type}, which opset {version} lacks",
                remedy="raise the model's opset",
            )


def _meaning(function: ir.Function) -> bytes:
    """Return the function without what does not decide its result."""
    proto = ir.serde.serialize_function(function)
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    proto.ClearField("value_info")
    for node in proto.node:
        node.ClearField("name")
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return bytes(proto.SerializeToString(deterministic=True))
