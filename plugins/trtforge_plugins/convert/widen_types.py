"""widen-types: compute in types that TensorRT has where the model uses others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import constant, graphs, is_op, label, opset
from trtforge.io_adapter import Adapted, read, write
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.make_convertible import put
from trtforge_plugins.convert.number_types import COMPUTING, IN_RANGE_KEY, INTERFACE
from trtforge_plugins.convert.widening import INT8_LACKS, widened

T = ir.DataType
_ALWAYS = frozenset(COMPUTING) - {T.INT8, T.INT4, T.FLOAT4E2M1, T.FLOAT8E4M3FN}
"""Types that TensorRT has not at all, or only at the ends of a network (uint8)."""


@dataclass(frozen=True)
class WidenTypes(Pass):
    """Compute in types that TensorRT has where the model uses others, with equal outputs.

    Integers of 2 to 16 bits are computed in int32, uint32 and uint64 in int64, 8-bit floats that
    TensorRT lacks in float32. Results wrap or round as in the original type.
    """

    name: ClassVar[str] = "widen-types"

    interface: Literal["keep", "adapt"] = "keep"
    """adapt: inputs and outputs of a type that TensorRT lacks change to the computing type; the
    model's metadata says from which, and comparisons convert the data."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Widen in all graphs; return the number of nodes and ends rewritten."""
        if not model.graph.opset_imports.keys() & {"", "ai.onnx"}:
            return 0
        strange = _strange_ends(model)
        if strange and self.interface == "keep":
            for value in strange:
                ctx.note(value.name or "", _note(value))
            return 0
        count = _adapt(model, strange)
        version = opset(model)
        given = (entry.given for entry in read(model.metadata_props).values())
        lacking = _ALWAYS | {ir.DataType[name] for name in given}
        for graph in list(graphs(model)):
            for node in list(graph):
                count += _widen(node, version, lacking, ctx)
            count += _drop_round_trips(graph)
        return count


def _strange_ends(model: ir.Model) -> list[ir.Value]:
    ends = (*model.graph.inputs, *model.graph.outputs)
    return [value for value in ends if value.dtype in COMPUTING and value.dtype not in INTERFACE]


def _note(value: ir.Value) -> str:
    return (
        f"left alone: TensorRT has no inputs or outputs of type {value.dtype}; with interface: "
        "adapt this one gets another type"
    )


def _adapt(model: ir.Model, strange: list[ir.Value]) -> int:
    """Give the ends ``strange`` their computing type and record it; return how many."""
    entries = dict(read(model.metadata_props))
    for value in strange:
        dtype = value.dtype
        assert dtype is not None  # noqa: S101  # a strange end has a type
        wide = COMPUTING[dtype]
        entries[value.name or ""] = Adapted(dtype.name, wide.name)
        if value.is_graph_input():
            _adapt_input(model.graph, value, dtype, wide)
        elif value.is_graph_output():
            _adapt_output(model.graph, value, wide)
    if strange:
        write(model.metadata_props, entries)
    return len(strange)


def _adapt_input(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, wide: ir.DataType) -> None:
    back = ir.node("Cast", [value], {"to": dtype.value}, name=f"{value.name}/narrow")
    back.metadata_props[IN_RANGE_KEY] = "yes"
    inner = back.outputs[0]
    inner.name, inner.shape, inner.type = f"{value.name}/own_type", value.shape, value.type
    uses = [(node, index) for node, index in value.uses() if node is not back]
    for node, index in uses:
        node.replace_input_with(index, inner)
    value.type = ir.TensorType(wide)
    graph.insert_before(graph[0], back) if len(graph) else graph.append(back)


def _adapt_output(graph: ir.Graph, value: ir.Value, wide: ir.DataType) -> None:
    made = ir.node("Cast", [value], {"to": wide.value}, name=f"{value.name}/widen")
    result = made.outputs[0]
    result.type, result.shape = ir.TensorType(wide), value.shape
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    result.name, value.name = value.name, f"{value.name}/own_type"
    graph.append(made)


def _widen(node: ir.Node, version: int, lacking: frozenset[ir.DataType], ctx: Context) -> int:
    kinds = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None}
    needed = kinds & lacking or (kinds & {T.INT8} and node.op_type in INT8_LACKS)
    if (
        not needed
        or is_op(node, "Constant")
        or node.domain not in ("", "ai.onnx")
        or _is_end_cast(node)
    ):
        return 0
    build = Builder(node, version, WidenTypes.name)
    answer = widened(node, build)
    if isinstance(answer, str):
        ctx.note(label(node), f"left alone: {answer}")
        return 0
    put(node, answer, build)
    return 1


def _is_end_cast(node: ir.Node) -> bool:
    """Whether ``node`` is a Cast between a type and its computing type that changes no value."""
    source, target = (node.inputs or (None,))[0], node.outputs[0]
    if not is_op(node, "Cast") or source is None or source.dtype is None or target.dtype is None:
        return False
    if COMPUTING.get(source.dtype) == target.dtype:
        return True
    exact = IN_RANGE_KEY in node.metadata_props
    return exact and COMPUTING.get(target.dtype) == source.dtype


def _drop_round_trips(graph: ir.Graph | ir.Function) -> int:
    """Let what is cast from a computing type and back read the computed value; fold constants."""
    count = 0
    for node in list(graph):
        source = node.inputs[0] if is_op(node, "Cast") else None
        if source is None or not _is_end_cast(node):
            continue
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
            count += 1
            continue
        if source.dtype not in COMPUTING:
            continue
        count += _skip(node, source) or _fold(graph, node, source)
    return count


def _skip(node: ir.Node, source: ir.Value) -> int:
    before = source.producer()
    result = node.outputs[0]
    if not is_op(before, "Cast") or before is None or not _is_end_cast(before):
        return 0
    origin = before.inputs[0]
    if origin is None or origin.dtype != result.dtype:
        return 0
    if result.is_graph_output():
        node.replace_input_with(0, origin)
        node.op_type = "Identity"
        node.attributes.clear()
    else:
        ir.convenience.replace_all_uses_with(result, origin)
        assert node.graph is not None  # noqa: S101  # it was found in one
        node.graph.remove(node, safe=True)
    _drop_unused(source)
    return 1


def _fold(graph: ir.Graph | ir.Function, node: ir.Node, source: ir.Value) -> int:
    array, result = constant(source), node.outputs[0]
    if array is None or result.dtype is None:
        return 0
    data = array.astype(result.dtype.numpy()) if source.dtype != T.UINT64 else array.view(np.int64)
    made = ir.node("Constant", [], {"value": ir.tensor(data)}, name=node.name)
    made.outputs[0].type, made.outputs[0].shape = result.type, ir.Shape(data.shape)
    graph.insert_before(node, made)
    name, result.name = result.name, None
    made.outputs[0].name = name
    ir.convenience.replace_all_uses_with(result, made.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    _drop_unused(source)
    return 1


def _drop_unused(source: ir.Value) -> None:
    if source.uses() or source.is_graph_output():
        return
    node, graph = source.producer(), source.graph
    if source.is_initializer() and not source.is_graph_input() and isinstance(graph, ir.Graph):
        graph.initializers.pop(source.name or "")
    if (
        node is not None
        and node.graph is not None
        and not any(v.uses() or v.is_graph_output() for v in node.outputs)
    ):
        node.graph.remove(node, safe=True)
