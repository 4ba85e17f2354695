"""Carries out the decisions of ``cast``: types, constants, and the Casts where types meet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import bypass, constant, is_op
from trtforge_plugins.precision import half_range
from trtforge_plugins.precision.cast_operators import FLEXIBLE, FLOAT
from trtforge_plugins.precision.element_types import Types, bodies
from trtforge_plugins.precision.quantized_weights import requantize

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge_plugins.precision.cast_types import Decisions

Uses = dict[ir.DataType, list[tuple[ir.Node, int]]]


class Rewriter:
    """Gives every float32 value its new type and joins what differs by Casts.

    Args:
        model: Is changed by :meth:`run`.
        decisions: The types of the nodes' inputs and outputs.
        types: The element types before the change.
        keep_io: Whether the model's inputs and outputs stay in float32.
    """

    def __init__(
        self, model: ir.Model, decisions: Decisions, types: Types, *, keep_io: bool
    ) -> None:
        self._model = model
        self._decisions = decisions
        self._low = decisions.low
        self._types = types
        self._graphs = [model.graph, *model.graph.subgraphs()]
        self._borders = {model.graph: FLOAT if keep_io else self._low}
        for node in model.graph.all_nodes():
            border = FLOAT if node in decisions.kept else self._low
            self._borders.update(dict.fromkeys(bodies(node), border))
        self._made: dict[ir.Value, ir.DataType] = {}
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._names = {value.name for value in self._values()}
        self._changes = 0

    def run(self) -> int:
        """Rewrite; return how many values changed their type and how many Casts were added."""
        floats = [value for value in self._values() if self._types.get(value) == FLOAT]
        computed = [value for value in floats if not _is_constant(value)]
        self._made = {value: self._type_made(value) for value in computed}
        wanted = {value: self._wanted(value) for value in floats}
        for value in computed:
            if self._made[value] == self._low:
                self._retype(value)
        for value in floats:
            if value in self._made:
                self._join(value, wanted[value])
            else:
                self._convert(value, wanted[value])
        for graph in self._graphs:
            self._join_outputs(graph)
        self._drop_idle_casts()
        return self._changes

    def _values(self) -> Iterator[ir.Value]:
        for graph in self._graphs:
            yield from graph.inputs
            yield from (
                value for value in graph.initializers.values() if not value.is_graph_input()
            )
            for node in graph:
                yield from node.outputs

    def _type_made(self, value: ir.Value) -> ir.DataType:
        """Return the type that ``value`` has from now on, before any Cast behind it."""
        producer = value.producer()
        if producer is None:
            return self._borders[value.graph] if isinstance(value.graph, ir.Graph) else FLOAT
        if producer in self._decisions.kept:
            return FLOAT
        if not is_op(producer, *FLEXIBLE, "ConstantOfShape"):
            return self._decisions.of_output(producer, value.index() or 0)
        votes = {
            self._decisions.of_input(node, index)
            for node, index in value.uses()
            if node in self._decisions.kept or not is_op(node, *FLEXIBLE)
        }
        if value.is_graph_output():
            votes.update(self._borders[graph] for graph in self._graphs if value in graph.outputs)
        return self._low if self._low in votes else FLOAT

    def _wanted(self, value: ir.Value) -> Uses:
        """Return the uses of ``value`` by the type that they want; some take any type."""
        uses: Uses = defaultdict(list)
        for node, index in value.uses():
            if node in self._decisions.kept or not is_op(node, *FLEXIBLE):
                uses[self._decisions.of_input(node, index)].append((node, index))
            elif index == 1:  # the scale: QuantizeLinear's is typed like its input
                partner = node.inputs[0] if is_op(node, "QuantizeLinear") else node.outputs[0]
                dtype = self._made.get(partner, FLOAT) if partner is not None else FLOAT
                uses[dtype].append((node, index))
        return uses

    def _retype(self, value: ir.Value) -> None:
        value.type = ir.TensorType(self._low)
        self._changes += 1
        node = value.producer()
        if is_op(node, "Cast") and node is not None:
            node.attributes.add(ir.AttrInt64("to", self._low.value))
        elif is_op(node, "DequantizeLinear") and node is not None:
            if node.attributes.get_int("output_dtype", 0):
                node.attributes.add(ir.AttrInt64("output_dtype", self._low.value))
        elif is_op(node, "ConstantOfShape") and node is not None:
            given = node.attributes.get("value")
            fill = given.as_tensor().numpy() if given is not None else np.zeros(1, np.float32)
            tensor = ir.tensor(fill.astype(self._low.numpy()))
            node.attributes.add(ir.AttrTensor("value", tensor))

    def _join(self, value: ir.Value, wanted: Uses) -> None:
        """Put one Cast behind ``value`` for all uses that want the other type."""
        for dtype, uses in wanted.items():
            if dtype == self._made[value]:
                continue
            cast = self._cast(value, dtype)
            for node, index in uses:
                node.replace_input_with(index, cast)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return ``value`` in another type, made right behind it."""
        if (value, dtype) in self._casts:
            return self._casts[value, dtype]
        name = self._fresh(f"{value.name}_{half_range.name(dtype)}")
        node = ir.node("Cast", [value], {"to": dtype.value}, name=name)
        result = node.outputs[0]
        result.name, result.type, result.shape = name, ir.TensorType(dtype), value.shape
        producer, graph = value.producer(), value.graph
        if not isinstance(graph, ir.Graph):  # functions are not rewritten
            raise TypeError(f"{value.name} belongs to no graph")
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        self._casts[value, dtype] = result
        self._changes += 1
        return result

    def _convert(self, value: ir.Value, wanted: Uses) -> None:
        """Give the uses of a constant that want the lower type a converted copy of it."""
        uses = wanted.get(self._low)
        array = constant(value)
        if not uses or array is None:
            return
        scales = all(is_op(node, *FLEXIBLE) for node, _ in uses)
        if scales:
            converted = half_range.low_scales(array, self._low)
            for node, _ in uses:
                self._adapt_codes(node, array, converted)
            _agree(value, wanted.get(FLOAT, []), converted)
        else:
            converted = array.astype(self._low.numpy())
        copy = self._new_constant(value, converted, self._low)
        for node, index in uses:
            node.replace_input_with(index, copy)
        self._changes += 1
        drop_unused(value)

    def _new_constant(self, value: ir.Value, array: Array, dtype: ir.DataType) -> ir.Value:
        """Add a constant that stands for ``value`` in another type or with other codes."""
        name = self._fresh(f"{value.name}_{half_range.name(self._low)}")
        tensor = ir.tensor(array, name=name)
        copy = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape, const_value=tensor)
        if isinstance(value.graph, ir.Graph):
            value.graph.register_initializer(copy)
        return copy

    def _adapt_codes(self, node: ir.Node, old: Array, new: Array) -> None:
        """Requantize a stored weight whose scale changed by more than half a step."""
        codes = node.inputs[0]
        stored = constant(codes) if is_op(node, "DequantizeLinear") else None
        if stored is None or codes is None or node.attributes.get("block_size") is not None:
            return
        axis = node.attributes.get_int("axis", 1)
        changed = requantize(stored, old, new.astype(np.float32), axis)
        if changed is not None:
            node.replace_input_with(0, self._new_constant(codes, changed, ir.DataType.INT8))
            drop_unused(codes)

    def _join_outputs(self, graph: ir.Graph) -> None:
        border = self._borders[graph]
        for index, value in enumerate(graph.outputs):
            if self._types.get(value) != FLOAT or self._made.get(value, FLOAT) == border:
                continue
            if value not in self._made:
                array = constant(value)
                if array is not None:
                    graph.outputs[index] = self._new_constant(
                        value, array.astype(self._low.numpy()), self._low
                    )
                continue
            result = self._cast(value, border)
            if graph is self._model.graph and not result.is_graph_output():
                value.name, result.name = (
                    self._fresh(f"{value.name}_{half_range.name(self._low)}"),
                    value.name,
                )
            graph.outputs[index] = result

    def _drop_idle_casts(self) -> None:
        """Remove the Casts of the given model that no longer change a type."""
        for graph in self._graphs:
            for node in graph:
                source = node.inputs[0] if is_op(node, "Cast") else None
                if source is None or not {source, node.outputs[0]} & self._made.keys():
                    continue
                dtype = self._made.get(source, self._types.get(source))
                if dtype is not None and dtype.value == node.attributes.get_int("to", 0):
                    self._changes += bypass(node)

    def _fresh(self, name: str) -> str:
        unique, count = name, 2
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._names.add(unique)
        return unique


def _agree(scale: ir.Value, others: list[tuple[ir.Node, int]], rounded: Array) -> None:
    """Let the float32 uses of a scale use its rounded value too: Q and DQ must not differ.

    Stored codes were made for the scale as it was, so a scale that dequantizes some stays.
    """
    stored = any(
        is_op(node, "DequantizeLinear") and constant(node.inputs[0]) is not None
        for node, _ in others
    )
    if scale.is_initializer() and others and not stored:
        scale.const_value = ir.tensor(rounded.astype(np.float32), name=scale.name)


def _is_constant(value: ir.Value) -> bool:
    return constant(value) is not None


def drop_unused(value: ir.Value) -> None:
    """Remove a constant that nothing uses any more."""
    graph = value.graph
    if value.uses() or value.is_graph_output() or not isinstance(graph, ir.Graph):
        return
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    elif value.is_initializer():
        graph.initializers.pop(str(value.name))
