"""Graph edits that are easy to get wrong, written once.

All work inside subgraphs and functions as well. None renames an input or an output of a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.errors import StepError

if TYPE_CHECKING:
    from trtforge.artifacts import Array

Signature = tuple[tuple[str | None, ir.DataType | None, str], ...]


def graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """Yield the main graph, every subgraph and every function body, outermost first."""
    homes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for home in homes:
        yield home
        yield from list(_subgraphs(home))


def _subgraphs(graph: ir.Graph | ir.Function) -> Iterator[ir.Graph]:
    for node in graph:
        for body in bodies(node):
            yield body
            yield from _subgraphs(body)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that ``node`` holds: branches of an If, the body of a Loop or a Scan."""
    attributes = node.attributes.data  # a plain dict: this runs for every node of every pass
    for attribute in attributes.values():
        if attribute.type is ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def node_count(model: ir.Model) -> int:
    """Return the number of nodes in the main graph and its subgraphs."""
    return len(model.graph) + sum(len(graph) for graph in _subgraphs(model.graph))


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of all graphs; the node at hand may be removed while iterating."""
    for graph in list(graphs(model)):
        yield from graph


def label(node: ir.Node) -> str:
    """Return the name to show for a node: its own, or its operator and first output."""
    first = node.outputs[0].name if node.outputs else ""
    return node.name or f"{node.op_type} -> {first}"


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of these operators of the standard ONNX domain."""
    return node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx")


def opset(model: ir.Model) -> int:
    """Return the version of the standard operator set that the model uses.

    Raises:
        StepError: the model imports none.
    """
    version = model.graph.opset_imports.get("") or model.graph.opset_imports.get("ai.onnx")
    if version is None:
        raise StepError("the model imports no version of the standard ONNX operator set")
    return version


def interface(model: ir.Model) -> tuple[Signature, Signature]:
    """Return names, types and shapes of the inputs and outputs, which no pass may change."""

    def signature(values: Sequence[ir.Value]) -> Signature:
        return tuple((value.name, value.dtype, str(value.shape)) for value in values)

    return signature(model.graph.inputs), signature(model.graph.outputs)


def constant(value: ir.Value | None) -> Array | None:
    """Return the array behind an initializer or a Constant node's output, else None.

    An initializer that is also a graph input can be overridden by the caller, so it is none.
    Tensors of a file stay memory-mapped.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = constant_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node's output, else None."""
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or not is_op(node, "Constant"):
        return None
    held = node.attributes.get("value")
    if held is None or held.type is not ir.AttributeType.TENSOR or held.is_ref():
        return ir.convenience.get_const_tensor(value)
    tensor: ir.TensorProtocol = held.value  # as_tensor() first looks at all its properties
    return tensor


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """Return the single number behind ``value``, or None when it is no constant of one element."""
    array = constant(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fiub":
        return None
    number: float | int | bool = array.reshape(()).item()
    return number


def add_initializer(
    graph: ir.Graph, name: str, array: Array, taken: set[str | None] | None = None
) -> ir.Value:
    """Add a constant to ``graph`` under ``name``, made unique, and return its value.

    ``taken`` is what :func:`unique_name` says of it.
    """
    unique = unique_name(graph, name, taken)
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
    shape = ir.Shape(array.shape)
    value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def unique_name(graph: ir.Graph, name: str, taken: set[str | None] | None = None) -> str:
    """Return ``name``, or ``name_2`` and so on, so that no value of ``graph`` has it.

    Whoever adds many names keeps :func:`value_names` and gives it as ``taken``, which the new name
    is added to; else the whole graph is looked through for each.
    """
    known = value_names(graph) if taken is None else taken
    unique = name
    if name in known:
        unique = next(f"{name}_{i}" for i in range(2, len(known) + 3) if f"{name}_{i}" not in known)
    known.add(unique)
    return unique


def value_names(graph: ir.Graph) -> set[str | None]:
    """Return the names of all values of ``graph`` and of the graphs inside its nodes."""
    names: set[str | None] = {value.name for value in graph.inputs} | set(graph.initializers)
    for node in graph:
        names.update(output.name for output in node.outputs)
        for body in bodies(node):
            names |= value_names(body)
    return names


def why_not_bypass(node: ir.Node) -> str | None:
    """Return why ``node`` cannot be replaced by its first input, or None when it can."""
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return "it has no first input"
    if any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:]):
        return "a further output of it is used"
    if not node.outputs[0].is_graph_output():
        return None
    if source.is_graph_input() or source.is_initializer():
        return "its result is a graph output and its input is no node's result"
    if source.is_graph_output():
        return "both its input and its result are graph outputs"
    producer = source.producer()
    if producer is None or producer.graph is not node.graph:
        return "its result is a graph output and its input comes from an outer graph"
    return None


def bypass(node: ir.Node) -> bool:
    """Replace ``node`` by its first input and remove it; keep the graph's output names.

    Returns:
        Whether it was done; :func:`why_not_bypass` gives the reason otherwise.
    """
    source = node.inputs[0] if node.inputs else None
    graph = node.graph
    if source is None or graph is None or why_not_bypass(node):
        return False
    result = node.outputs[0]
    if result.is_graph_output():
        name = result.name
        for index, output in enumerate(graph.outputs):
            if output is result:
                graph.outputs[index] = source
        ir.convenience.replace_all_uses_with(result, source)
        graph.remove(node, safe=True)
        source.name = name
        _take_facts(source, result)
    else:
        ir.convenience.replace_all_uses_with(result, source)
        graph.remove(node, safe=True)
    return True


def _take_facts(value: ir.Value, promised: ir.Value) -> None:
    """Give ``value`` the type and shape that the graph output ``promised`` had."""
    value.type = promised.type or value.type
    value.shape = promised.shape or value.shape
    value.metadata_props.update(promised.metadata_props)


def replace(node: ir.Node, outputs: Sequence[ir.Value], new: Sequence[ir.Node]) -> None:
    """Put the nodes ``new`` in place of ``node``; ``outputs`` take over its results and names.

    ``outputs`` has one entry per output of ``node``, each the result of a node in ``new``.
    Node and value metadata (provenance) are carried over.

    Raises:
        StepError: the numbers of outputs differ, or ``node`` belongs to no graph.
    """
    graph = node.graph
    if graph is None or len(outputs) != len(node.outputs):
        raise StepError(f"cannot replace {label(node)}: {len(outputs)} outputs were given")
    graph.insert_before(node, new)
    for fresh in new:
        for key, value in node.metadata_props.items():
            fresh.metadata_props.setdefault(key, value)
    for old, fresh_value in zip(node.outputs, outputs, strict=True):
        name = old.name
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = fresh_value
        ir.convenience.replace_all_uses_with(old, fresh_value)
        old.name = None
        fresh_value.name = name
        _take_facts(fresh_value, old)
    graph.remove(node, safe=True)
