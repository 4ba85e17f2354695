"""Outputs of plugins that nothing reads, where TensorRT needs them read."""

from __future__ import annotations

import onnx_ir as ir

from trtforge import CustomOp


def read_counted(node: ir.Node, kind: type[CustomOp]) -> None:
    """Let something read each counted output of a plugin node; no value changes.

    TensorRT-RTX 1.7.1 fails with ``Assertion t->graph.shapeContext.isProxy(*xs) failed`` in
    ``removeDeadLayers`` when the length of an output depends on the data and nothing reads that
    output. So an output that is read becomes a slice of itself whose end is its own length plus
    that of the unread output, which is the whole of it.

    Args:
        node: The plugin's node, in a graph; its outputs have names, and one of the counted ones is
            read.
        kind: The op.
    """
    graph, counted = node.graph, _counted(node, kind)
    unread = [value for value in counted if not _is_read(value)]
    read = next((value for value in counted if _is_read(value)), None)
    if graph is None or not unread or read is None:
        return
    readers = [(use.node, use.idx) for use in read.uses()]
    zero = ir.node("Constant", [], {"value_ints": [0]}, name=f"{node.name}_start")
    lengths = [ir.node("Shape", [v], {"start": 0, "end": 1}) for v in (read, *unread)]
    sums: list[ir.Node] = []
    end = lengths[0].outputs[0]
    for length in lengths[1:]:
        sums.append(ir.node("Add", [end, length.outputs[0]]))
        end = sums[-1].outputs[0]
    start = zero.outputs[0]
    whole = ir.node("Slice", [read, start, end, start])  # the axis is 0, too
    fresh = [zero, *lengths, *sums, whole]
    for number, each in enumerate(fresh):
        each.name = each.outputs[0].name = f"{node.name}_kept_{number}"
    graph.insert_after(node, fresh)
    _take_over(read, whole.outputs[0], readers)


def why_not_read(node: ir.Node, kind: type[CustomOp]) -> str:
    """Return why TensorRT would fail although :func:`read_counted` does what it can."""
    if not kind.counted or any(map(_is_read, _counted(node, kind))):
        return ""
    return "nothing reads an output of it whose length depends on the data, where TensorRT fails"


def _counted(node: ir.Node, kind: type[CustomOp]) -> list[ir.Value]:
    ours = zip(node.outputs, kind.output_ports(), strict=False)
    return [value for value, port in ours if port.name in kind.counted]


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _take_over(value: ir.Value, whole: ir.Value, readers: list[tuple[ir.Node, int]]) -> None:
    """Let ``whole`` be read in place of ``value``, as an output of the graph under its name."""
    whole.type, whole.shape = value.type, value.shape
    for reader, index in readers:
        reader.replace_input_with(index, whole)
    graph = whole.graph
    if graph is None or not value.is_graph_output():
        return
    name = value.name
    value.name, whole.name = f"{name}_uncut", name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = whole
