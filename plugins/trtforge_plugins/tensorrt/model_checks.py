"""What must be right about a model before TensorRT sees it, because TensorRT would not say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from trtforge import BuildError, RequestError, Target
from trtforge.graph import is_op, label, nodes
from trtforge.targets import KNOWN
from trtforge_plugins.clean.unroll_loop import goes_on

# Domains whose operators TensorRT's parser knows under their own meaning.
_PARSER_DOMAINS = ("", "ai.onnx", "com.microsoft", "trt", "TRT")
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_DTYPE_OF_OPERATOR = {
    "TRT_FP4DynamicQuantize": "float4e2m1",
    "TRT_MXFP8DynamicQuantize": "float8e4m3fn",
}
_SHOWN = 5


def prepared(model: ir.Model) -> ir.Model:
    """Return ``model`` as TensorRT reads it rightly: without functions. The given one stays.

    TensorRT's parser finds functions by their operator name alone, whatever their domain, takes
    a function or operator that is called like a standard one for that one, and loses attributes
    that are handed through two functions: the network is then another one, without a word.

    Raises:
        RequestError: the model has no nodes.
        BuildError: functions call themselves, a foreign operator has a standard name, or what a
            Loop collects has a length that TensorRT gets wrong.
    """
    if not len(model.graph):
        raise RequestError("the model has no nodes, so there is nothing to build", code="no-nodes")
    if model.functions:
        try:
            model = InlinePass()(model.clone()).model
        except Exception as error:  # onnx-ir raises several kinds
            raise BuildError(f"the model's functions cannot be inlined: {error}") from error
    _refuse_disguised(model)
    _refuse_early_end(model)
    return model


def _refuse_disguised(model: ir.Model) -> None:
    disguised = [
        f"{label(node)} ({node.domain}::{node.op_type})"
        for node in nodes(model)
        if node.domain not in _PARSER_DOMAINS and onnx.defs.has(node.op_type)
    ]
    if disguised:
        raise BuildError(
            f"TensorRT would take {_some(disguised)} for the standard operator of that name",
            remedy="give the operator a name that ONNX has not, or a function as its body",
            code="misread-model",
        )


def _refuse_early_end(model: ir.Model) -> None:
    """Refuse a Loop that may end early and collects what its turns make.

    TensorRT gives the collection the length of the trip count, whatever the number of turns.
    """
    ending = [
        label(node)
        for node in nodes(model)
        if is_op(node, "Loop")
        and not goes_on(node.attributes["body"].as_graph())
        and any(_collects(node))
    ]
    if ending:
        raise BuildError(
            f"{_some(ending)} may end early, and TensorRT fills what it collects up to its trip "
            "count with anything",
            remedy="let it return what it carries instead, or declare the length of its outputs",
            code="misread-model",
        )


def _collects(node: ir.Node) -> Iterator[bool]:
    """Yield, for each scan output of a Loop, whether it is used and its length open."""
    for value in node.outputs[len(node.attributes["body"].as_graph().inputs) - 2 :]:
        length = None if value.shape is None or not len(value.shape) else value.shape[0]
        yield not isinstance(length, int) and (bool(value.uses()) or value.is_graph_output())


def takers(model: ir.Model, targets: Sequence[Target]) -> tuple[Target, ...]:
    """Return those of ``targets`` that take every type of ``model``; all of them if none does."""
    used = {dtype for node in nodes(model) for dtype in _types(node)}
    listed = {dtype for target in KNOWN.values() for dtype in target.dtypes}
    able = tuple(target for target in targets if used & listed <= target.dtypes)
    return able or tuple(targets)  # check_types then says which type none of them takes


def check_types(model: ir.Model, targets: Sequence[Target]) -> None:
    """Refuse types that some of ``targets`` cannot compute in.

    Raises:
        RequestError: it names the types, nodes and targets.
    """
    users: dict[str, list[str]] = {}
    for node in nodes(model):
        for dtype in set(_types(node)):
            users.setdefault(dtype, []).append(label(node))
    for dtype, names in sorted(users.items()):
        takers = [target.name for target in KNOWN.values() if dtype in target.dtypes]
        lacking = [target.name for target in targets if dtype not in target.dtypes]
        if takers and lacking:  # a type that no target lists is no type of tensor cores
            raise RequestError(
                f"the model uses {dtype} ({_some(names)}), which does not build for "
                f"{', '.join(lacking)}",
                remedy=f"leave {', '.join(lacking)} out of the targets ({', '.join(takers)} take "
                "it), or use another type",
                code="type-of-target",
            )


def _types(node: ir.Node) -> Iterator[str]:
    """Yield the types that ``node`` reads, makes or names, as ``Target.dtypes`` spells them."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None:
            yield value.dtype.name.lower()
    for name in _DTYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT:
            yield ir.DataType(attribute.as_int()).name.lower()
    if node.op_type in _DTYPE_OF_OPERATOR:
        yield _DTYPE_OF_OPERATOR[node.op_type]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
