"""join-heads: the products that an attention reads become one, cut apart by heads."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import graphs, is_op, label, opset
from trtforge.weights import side_by_side
from trtforge_plugins.clean.names import Names, add_constant
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute
from trtforge_plugins.convert.heads import Projection, attention_of, turned_by
from trtforge_plugins.convert.matrices import joined
from trtforge_plugins.convert.stacked_key import exchange_last_axes
from trtforge_plugins.convert.towers import tower_ends

_OPSET = 14  # first whose Reshape can be told that a size of 0 is meant


@dataclass(frozen=True)
class JoinHeads(Pass):
    """Compute queries, keys and values by one product, and cut the result apart by heads.

    Where they are separate products, TensorRT-RTX 1.7.1 joins these by itself, but adds each bias
    and transposes each result in a kernel of its own. Of one product with one bias, reshaped to
    ``[batch, length, heads, size]``, transposed, and only then cut along the heads, it makes two
    kernels: a layer of BERT has 13 instead of 16, in float16 10 instead of 12. A cut before the
    Transpose, or of a stack ``[3, batch, heads, length, size]``, it moves before the product again.

    Products are joined that belong to one attention and have their input, the size of a head and
    the types in common: queries, keys and values, also where keys and values have fewer heads, or
    the keys and values of a cross-attention. A single product that is cut into them before its
    Transposes, or as a stack, is cut by heads instead. Matrices behind a DequantizeLinear of their
    own are joined as they are stored, each column with its scale; a quantized layer of BERT has 14
    kernels instead of 17.

    Of several encoders side by side, as in CLIP, the last attention of each stays as it is:
    TensorRT-RTX runs the joined product of one beside that of another on a second stream, which
    takes 8 MiB of scratch memory more.
    """

    name: ClassVar[str] = "join-heads"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Join in all graphs and functions; return the number of attentions."""
        if not model.graph.opset_imports.keys() & {"", "ai.onnx"}:
            return 0
        version, count = opset(model), 0
        names: Names | None = None  # gathering them takes a look at every value
        for graph in list(graphs(model)):
            found = _groups(graph)
            ends = tower_ends(graph, (attention for attention, _ in found))
            for attention, group in found:
                reason = f"it needs opset {_OPSET}" if version < _OPSET else _why_not(group)
                if attention in ends:
                    reason = "it is the last attention of one of several encoders"
                if reason is not None:
                    ctx.note(label(group[0].product), f"left alone: {reason}")
                    continue
                names = names or Names(model)
                _join(graph, group, Builder(group[0].product, version, self.name), names)
                count += 1
        return count


def _groups(graph: ir.Graph | ir.Function) -> list[tuple[ir.Node, list[Projection]]]:
    """Return what can become one product, and for which attention, in the order of the graph."""
    found: dict[Hashable, tuple[ir.Node, list[Projection]]] = {}
    for node in graph:
        each = Projection.find(node) if is_op(node, "MatMul") else None
        attention = None if each is None else attention_of(each)
        if each is not None and attention is not None:
            key = (attention, node.inputs[0], each.size, each.weight.kind)
            found.setdefault(key, (attention, []))[1].append(each)
    return [
        (attention, group)
        for attention, group in found.values()
        if sum(len(each.pieces) for each in group) > 1
    ]


def _why_not(group: Sequence[Projection]) -> str | None:
    """Return why products stay as they are, or None."""
    for each in group:
        weight = each.product.inputs[1]
        if len(group) > 1 and weight is not None and len(weight.uses()) > 1:
            return f"something else reads the matrix of {label(each.product)}, too"
        if any(value.is_graph_output() for value in (each.product.outputs[0], each.flat)):
            return f"the result of {label(each.product)} is an output of the graph"
    return None


def _join(
    graph: ir.Graph | ir.Function, group: Sequence[Projection], build: Builder, names: Names
) -> None:
    """Cut the result of one product by heads, instead of one or several in another way."""
    first = group[0]
    flat = first.flat if len(group) == 1 else _product(graph, group, build, names)
    heads = [same[0].heads for each in group for same in each.pieces]
    whole = build.reshape(flat, [0, 0, sum(heads), first.size])
    whole = build.op("Transpose", whole, perm=[0, 2, 1, 3])
    pieces = build.ops("Split", len(heads), whole, heads, axis=1)
    results = []
    for piece, same in zip(pieces, (same for each in group for same in each.pieces), strict=True):
        straight = [each.value for each in same if not each.turned]
        turned = [each.value for each in same if each.turned]
        turned += [value for each in straight for value in turned_by(each)]
        results += [(old, piece) for old in straight]
        results += [(old, exchange_last_axes(piece, build)) for old in turned]
    for each in group if len(group) > 1 else ():
        results += _shapes(each, build)
    _carry_provenance(group, build)
    if len(group) == 1:
        graph.insert_after(first.add or first.product, build.nodes)
    else:
        graph.insert_before(first.product, build.nodes)
    for old, new in results:
        _take_over(old, new)
    _drop_unread([old for old, _ in results])


def _product(
    graph: ir.Graph | ir.Function, group: Sequence[Projection], build: Builder, names: Names
) -> ir.Value:
    """Return the product with all matrices of ``group`` side by side, and its bias."""
    name = "+".join(label(each.product) for each in group)

    def add(what: str, tensor: ir.TensorProtocol) -> ir.Value:
        tensor.name = names.fresh(f"{name}_{what}")
        return add_constant(graph, group[0].product, tensor.name, tensor)

    weight = joined([each.weight for each in group], build, add)
    value = build.op("MatMul", group[0].product.inputs[0], weight)
    if all(each.bias is None for each in group):
        return value
    zero = group[0].weight.dtype.numpy()
    biases = [each.bias or ir.tensor(np.zeros(each.width, zero)) for each in group]
    return build.op("Add", value, add("bias", side_by_side(biases, "bias")))


def _shapes(each: Projection, build: Builder) -> list[tuple[ir.Value, ir.Value]]:
    """Return the shapes that somebody asks of the results of ``each``, and them from its input."""
    columns = {each.product.outputs[0]: each.width, each.flat: each.width, **each.parts}
    asked = [
        (use.node, count)
        for value, count in columns.items()
        for use in value.uses()
        if is_op(use.node, "Shape")
    ]
    found = []
    for node, count in asked:
        rows = build.slice(build.op("Shape", each.product.inputs[0]), 0, 0, 2)
        whole = build.op("Concat", rows, [count], axis=0)
        start, end = attribute(node, "start", 0), attribute(node, "end", 3)
        found.append((node.outputs[0], build.slice(whole, 0, start, end)))
    return found


def _carry_provenance(group: Sequence[Projection], build: Builder) -> None:
    """Give the new nodes the metadata of the products that they stand for."""
    for each in group:
        for new in build.nodes:
            for key, text in each.product.metadata_props.items():
                new.metadata_props.setdefault(key, text)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Give ``new`` the name, the facts and the readers of ``old``."""
    name, old.name = old.name, None
    new.name, new.type, new.shape = name, old.type or new.type, old.shape or new.shape
    new.metadata_props.update(old.metadata_props)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _drop_unread(values: Sequence[ir.Value]) -> None:
    """Remove what computes ``values``, as far as nobody reads it any more."""
    todo = list(values)
    while todo:
        value = todo.pop()
        node, graph = value.producer(), value.graph
        if value.uses() or value.is_graph_output():
            continue
        if node is None and value.is_initializer() and graph is not None:
            graph.initializers.pop(str(value.name))
        elif node is not None and node.graph is not None and _is_unread(node):
            todo += [each for each in node.inputs if each is not None]
            node.graph.remove(node, safe=True)


def _is_unread(node: ir.Node) -> bool:
    return not any(value.uses() or value.is_graph_output() for value in node.outputs)
