"""The cosines and sines of a rotary embedding: which tensor has one of each pair and position."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trtforge.graph import add_initializer, constant, is_op, scalar, unique_name
from trtforge_plugins.fuse.fusion import same_dim

SMOOTH = ("Cos", "Sin", "Cast", "Identity")
"""Operators that treat every entry alike."""


@dataclass(frozen=True)
class Table:
    """A tensor with a number for each position and each entry of the last axis, or each pair."""

    value: ir.Value
    pairs: int
    """Pairs of the last axis of what is turned."""
    doubled: bool
    """Whether it has each number twice."""
    interleaved: bool
    """Whether the two stand side by side, instead of in each half."""
    heads_last: bool


def find_table(
    value: ir.Value, shape: ir.Shape, *, doubled: bool, interleaved: bool
) -> Table | str:
    """Return ``value`` as a table for a tensor of ``shape``, or why it is none.

    Args:
        value: What a tensor of four axes, or its half, is multiplied by.
        shape: Of that tensor; two of its axes are positions and heads, in any order.
        doubled: Whether each number stands twice, for both of a pair.
        interleaved: Whether pairs are neighbours.
    """
    length = shape[-1]
    if value.shape is None or not isinstance(length, int) or len(value.shape) > len(shape):
        return f"the shape of {value.name!r} is not known"
    dims = (*(1,) * (len(shape) - len(value.shape)), *value.shape)
    if dims[0] != 1:
        return f"{value.name!r} is not known to be the same for all samples"
    if dims[1] == 1 and same_dim(dims[2], shape[2]):
        heads_last = False
    elif dims[2] == 1 and same_dim(dims[1], shape[1]):
        heads_last = True
    else:
        return f"{value.name!r} is not known to be one row per position, the same for all heads"
    if dims[3] != (length if doubled else length // 2) or length % 2:
        return f"{value.name!r} does not have one number per pair"
    table = Table(value, length // 2, doubled, interleaved, heads_last)
    if doubled and not _says_all_twice(table):
        return f"the two numbers of each pair in {value.name!r} are not known to be the same"
    return table


def _says_all_twice(table: Table) -> bool:
    array = constant(table.value)
    if array is not None:
        a, b = _parts(array, table)
        return bool((a == b).all())
    value: ir.Value | None = table.value
    while value is not None:
        node = value.producer()
        if node is None:
            return False
        if is_op(node, "Concat") and not table.interleaved:
            behind = node.attributes["axis"].as_int() in (-1, len(value.shape or ()) - 1)
            return behind and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        if is_op(node, "Reshape") and table.interleaved:
            return _repeats_each(node, table.pairs)
        value = _same_entries(node)
    return False


def _same_entries(node: ir.Node) -> ir.Value | None:
    """Return what ``node`` computes each entry of its result from alone, or None."""
    if is_op(node, *SMOOTH) or is_op(node, "Unsqueeze"):  # the caller knows the last axis's length
        return node.inputs[0]
    if is_op(node, "Mul"):
        first, second = node.inputs
        return (
            first if scalar(second) is not None else second if scalar(first) is not None else None
        )
    return None


def _repeats_each(reshape: ir.Node, pairs: int) -> bool:
    """Whether ``reshape`` ends a repetition of each entry: [.., n, 1] to [.., n, 2] to [.., 2n]."""
    source = reshape.inputs[0]
    repeat = source.producer() if source is not None else None
    single = repeat.inputs[0] if repeat is not None and is_op(repeat, "Expand", "Tile") else None
    shapes = [value.shape if value is not None else None for value in (single, source)]
    ends = [tuple(shape)[-2:] for shape in shapes if shape is not None]
    return ends == [(pairs, 1), (pairs, 2)]


def _parts(array: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
    if table.interleaved:
        return array[..., ::2], array[..., 1::2]
    return array[..., : table.pairs], array[..., table.pairs :]


@dataclass
class Tables:
    """Makes tensors of [positions, pairs] of tables, each once."""

    made: dict[tuple[ir.Value, object], ir.Value] = field(default_factory=dict)

    def make(self, table: Table, user: ir.Node) -> ir.Value:
        """Return the tensor for ``table``, in the graph of ``user`` and in front of it."""
        key = (table.value, user.graph)
        if key not in self.made:
            self.made[key] = self._make(table, user)
        return self.made[key]

    def _make(self, table: Table, user: ir.Node) -> ir.Value:
        graph, value = user.graph, table.value
        assert isinstance(graph, ir.Graph)  # noqa: S101  # functions are not fused
        array = constant(value)
        if array is not None:
            once = _parts(array, table)[0] if table.doubled else array
            return add_initializer(graph, f"{value.name}_pairs", once.reshape(-1, table.pairs))
        new = []
        source = value
        if table.doubled:
            bounds = (0, 2 * table.pairs, 2) if table.interleaved else (0, table.pairs, 1)
            start, end, step = (
                add_initializer(graph, f"{value.name}_{name}", np.array([number], np.int64))
                for name, number in zip(("start", "end", "step"), bounds, strict=True)
            )
            last = add_initializer(graph, f"{value.name}_axis", np.array([-1], np.int64))
            new.append(ir.node("Slice", [value, start, end, last, step]))
            source = new[0].outputs[0]
        rows = np.array([-1, table.pairs], np.int64)
        new.append(ir.node("Reshape", [source, add_initializer(graph, f"{value.name}_rows", rows)]))
        for made in new:
            made.outputs[0].name = unique_name(graph, f"{value.name}_{made.op_type.lower()}")
            made.name = made.outputs[0].name
            made.outputs[0].type = value.type
        assert value.shape is not None  # noqa: S101  # find_table looked
        new[0].outputs[0].shape = ir.Shape([*value.shape[:-1], table.pairs])
        position = value.shape[-3 if table.heads_last else -2]
        new[-1].outputs[0].shape = ir.Shape([position, table.pairs])
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, new)
        else:
            graph.insert_before(graph[0], new)
        return new[-1].outputs[0]
