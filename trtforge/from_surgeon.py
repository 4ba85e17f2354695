"""From an onnx-graphsurgeon graph back to onnx-ir; the way there is :mod:`trtforge.to_surgeon`.

As in graphsurgeon's own export, a tensor's name is its identity within a scope.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import convert_to_onnx_attr_type

from trtforge.errors import StepError
from trtforge.to_surgeon import OBJECTS, LazyTensor, plain, surgeon_dtype, surgeon_shape

Scope = ChainMap[str, ir.Value]


def from_surgeon(graph: gs.Graph) -> tuple[ir.Graph, list[ir.Function]]:
    """Return the onnx-ir graph and functions of ``graph``, nodes in topological order.

    Raises:
        StepError: the graph breaks ONNX's rules; the message names the node or the tensor.
    """
    check_names(graph)
    functions = [_function(function) for function in graph.functions]
    exported = _graph(graph, ChainMap(), _opset_imports(graph))
    for value in (*exported.inputs, *exported.outputs):
        if value.type is None:
            raise StepError(
                f"input or output {value.name!r} of the graph has no type", remedy="set its dtype"
            )
    _sort(exported)
    return exported, functions


def check_names(graph: gs.Graph) -> None:
    """Refuse a graph that reads a tensor which nothing gives, or gives one twice.

    Raises:
        StepError: names the tensor, and the node that reads it.
    """
    for scope in (graph, *graph.functions):
        _check_scope(scope, frozenset())


def _check_scope(graph: gs.Graph, outer: frozenset[str]) -> None:
    given: set[str] = set()
    for tensor in (*graph.inputs, *(t for node in graph.nodes for t in node.outputs)):
        if tensor.name in given:
            raise StepError(f"{tensor.name!r} is given twice, by two nodes or a node and an input")
        if not tensor.is_empty():
            given.add(tensor.name)
    readers = [("the graph's outputs", graph.outputs)]
    readers += [(f"node {node.name or node.op!r}", node.inputs) for node in graph.nodes]
    read = [(who, tensor) for who, tensors in readers for tensor in tensors]
    known = outer | given | {t.name for _, t in read if isinstance(t, gs.Constant)}
    for who, tensor in read:
        if not tensor.is_empty() and tensor.name not in known:
            raise StepError(
                f"{who} read {tensor.name!r}, which no node, input or constant gives",
                remedy="connect the tensor, or remove its reader",
            )
    for node in graph.nodes:
        for subgraph in node.subgraphs():
            _check_scope(subgraph, known)


def _function(function: gs.Function) -> ir.Function:
    origin = _origin(function)
    known = origin.attributes if origin else {}
    body = _graph(function, ChainMap(), _opset_imports(function))
    for name, value in list(body.initializers.items()):  # a function has none: they become nodes
        if value.const_value is not None:
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)])
            del body.initializers[name]
            node.outputs[0].name = name
            ir.convenience.replace_all_uses_with(value, node.outputs[0])
            body.insert_before(body[0], node)
    _sort(body)
    return ir.Function(
        function.domain or "",
        function.name,
        origin.overload if origin else "",
        graph=body,
        attributes=[
            ir.Attr(name, ir.AttributeType.UNDEFINED, None)
            if default is None
            else _attribute(name, default, known.get(name), ChainMap())
            for name, default in function.attrs.items()
        ],
    )


def _graph(graph: gs.Graph, outer: Scope, imports: dict[str, int] | None = None) -> ir.Graph:
    scope = outer.new_child()
    for tensor in graph.inputs:
        _declare(tensor, scope)
    inputs = list(scope.maps[0].values())
    for tensor in _constants(graph):
        if tensor.name not in scope:
            _declare(tensor, scope)
    initializers = [value for value in scope.maps[0].values() if value.const_value is not None]
    for node in graph.nodes:
        for tensor in node.outputs:
            if not tensor.is_empty():
                _declare(tensor, scope)
    nodes = [_node(node, scope) for node in graph.nodes]
    made = ir.Graph(
        inputs,
        [scope[tensor.name] for tensor in graph.outputs],
        nodes=nodes,
        initializers=initializers,
        doc_string=graph.doc_string or None,
        opset_imports=imports,
        name=graph.name,
    )
    if graph_origin := _origin(graph):
        _copy_metadata(graph_origin, made)
    return made


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Yield the constants that belong to ``graph``: read by it, or brought along from it."""
    home = _origin(graph)
    home = home.graph if isinstance(home, ir.Function) else home
    for scope in (graph, *graph.subgraphs(recursive=True)):
        for tensor in (*(t for node in scope.nodes for t in node.inputs), *scope.outputs):
            if isinstance(tensor, gs.Constant):
                origin = _origin(tensor)
                if scope is graph or (origin is not None and origin.graph is home):
                    yield tensor


def _declare(tensor: gs.Tensor, scope: Scope) -> None:
    """Make the value of ``tensor`` in the innermost scope."""
    origin = _origin(tensor)
    value = ir.Value(name=tensor.name)
    if isinstance(tensor, gs.Constant):
        value.const_value = _tensor(tensor)
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(value.const_value.shape.numpy())
    else:
        same_type = origin is not None and tensor.dtype == surgeon_dtype(origin)
        value.type = origin.type if same_type else _type(tensor)
        same_shape = origin is not None and tensor.shape == surgeon_shape(origin)
        value.shape = origin.shape if same_shape else _shape(tensor.shape)
        if origin is not None and origin.is_graph_input():
            value.const_value = origin.const_value  # the default of an input
    if origin is not None:
        value.doc_string = origin.doc_string
        _copy_metadata(origin, value)
    scope[tensor.name] = value


def _node(node: gs.Node, scope: Scope) -> ir.Node:
    origin = _origin(node)
    known = origin.attributes if origin is not None else {}
    label = node.name or node.op
    try:
        attributes = [
            _attribute(name, value, known.get(name), scope) for name, value in node.attrs.items()
        ]
    except (TypeError, ValueError) as error:
        raise StepError(f"node {label!r} has an attribute that ONNX lacks: {error}") from error
    made = ir.Node(
        node.domain or "",
        node.op,
        [None if t.is_empty() else scope[t.name] for t in node.inputs],
        attributes,
        outputs=[ir.Value(name="") if t.is_empty() else scope[t.name] for t in node.outputs],
        name=node.name or (None if origin is None else ""),  # None: onnx-ir makes one up
    )
    if origin is not None:
        made.overload = (
            origin.overload if origin.op_identifier()[:2] == (made.domain, node.op) else ""
        )
        made.doc_string = origin.doc_string
        made.device_configurations = origin.device_configurations
        _copy_metadata(origin, made)
    return made


def _attribute(name: str, value: object, known: ir.Attr | None, scope: Scope) -> ir.Attr:
    """Return an attribute; ``known``, the one it came from, when the pass left it as it was.

    Raises:
        TypeError: ONNX has no such attribute.
        ValueError: its type cannot be told, as in an empty list.
    """
    made: ir.Attr | None = None
    if isinstance(value, gs.Node.AttributeRef):
        kind = convert_to_onnx_attr_type(value.type) or ir.AttributeType.UNDEFINED
        made = ir.RefAttr(name, value.name, ir.AttributeType(kind))
        same = known is not None and known.ref_attr_name == value.name
    elif isinstance(value, gs.Graph):
        made, same = ir.AttrGraph(name, _graph(value, scope)), False
    elif isinstance(value, gs.Constant):
        made = ir.AttrTensor(name, _tensor(value))
        same = known is not None and known.value is made.value
    else:
        same = known is not None and known.type not in OBJECTS and plain(known) == value
    if known is not None and same:
        return known
    return made or _plain_attribute(name, value, known)


def _plain_attribute(name: str, value: object, known: ir.Attr | None) -> ir.Attr:
    if isinstance(value, type | np.dtype):
        value = ir.DataType.from_numpy(np.dtype(value)).value
    if known is not None and isinstance(value, list) and not value:
        return ir.Attr(name, known.type, ())
    return ir.serde.deserialize_attribute(onnx.helper.make_attribute(name, value))


def _tensor(constant: gs.Constant) -> ir.TensorProtocol:
    """Return the values without a copy; the very same tensor when no pass has read them."""
    values = constant._values  # noqa: SLF001  # `values` would load them
    if isinstance(values, LazyTensor):
        return values.source
    if isinstance(values, LazyValues):
        return ir.serde.deserialize_tensor(values.tensor)
    wanted = _data_type(constant.export_dtype)
    if wanted != ir.DataType.from_numpy(values.dtype):
        values = values.astype(wanted.numpy())
    return ir.tensor(values, dtype=wanted, name=constant.name)


def _data_type(dtype: Any) -> ir.DataType:
    return ir.DataType(dtype) if isinstance(dtype, int) else ir.DataType.from_numpy(np.dtype(dtype))


def _type(tensor: gs.Variable) -> ir.TypeProtocol | None:
    if tensor.dtype is None:
        return None
    element = ir.TensorType(_data_type(tensor.dtype))
    return ir.SequenceType(element) if tensor.type == "sequence_type" else element


def _shape(dims: Any) -> ir.Shape | None:
    """Return a shape; a negative length, which some passes write, is an unknown one."""
    if dims is None:
        return None
    return ir.Shape(
        [
            dim if isinstance(dim, str) or dim is None else int(dim) if dim >= 0 else None
            for dim in dims
        ]
    )


def _opset_imports(graph: gs.Graph) -> dict[str, int]:
    imports = {entry.domain: entry.version for entry in graph.import_domains or ()}
    if not {"", "ai.onnx"} & set(imports):
        imports[""] = graph.opset
    scopes = (graph, *graph.subgraphs(recursive=True))
    for domain in {node.domain or "" for scope in scopes for node in scope.nodes}:
        if domain != "ai.onnx":
            imports.setdefault(domain, 1)  # as graphsurgeon does for a domain nobody imported
    return imports


def _origin(made: Any) -> Any:
    """Return the onnx-ir object that the importer made this from; None for what a pass added."""
    return getattr(made, "origin", None)


def _copy_metadata(origin: Any, made: Any) -> None:
    made.metadata_props.update(origin.metadata_props)
    made.meta.update(origin.meta)  # holds quantization annotations, for one


def _sort(graph: ir.Graph) -> None:
    try:
        graph.sort()
    except ValueError as error:
        raise StepError("the graph has a cycle") from error
