"""Cuts a part out of a model so that it is a model of its own, with ranges for its inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from trtforge.graph import bodies
from trtforge.quantities import Dims, ShapeRange

Profile = Mapping[str, ShapeRange]


class Cutter:
    """Cuts parts out of one model; a part is a choice of nodes of its main graph.

    Args:
        model: Stays as it is. Its functions are inlined already.
        profile: A range for each dynamic input.
    """

    def __init__(self, model: ir.Model, profile: Profile) -> None:
        self._model = model
        self._profile = profile
        points = [_inferred(model, profile, name) for name in ("min", "opt", "max")]
        self._types = {name: dtype for name, (dtype, _) in points[1].items()}
        self._ranges = dict(_joined(*points))

    @property
    def size(self) -> int:
        """How many nodes there are to choose from."""
        return len(self._model.graph)

    def cut(
        self, chosen: Collection[int], also: Collection[str] = ()
    ) -> tuple[ir.Model, dict[str, ShapeRange]] | None:
        """Return the model of the nodes with these numbers, and the ranges of its inputs.

        Its outputs are what other nodes or the caller read, and the values named in ``also``.
        None when type or shape of a value that would become an input is not known.
        """
        model = self._model.clone()
        graph = model.graph
        home = {inner: number for number, node in enumerate(graph) for inner in _inside(node)}
        wanted = set(chosen)
        kept = [node for number, node in enumerate(graph) if number in wanted]
        dropped = [node for number, node in enumerate(graph) if number not in wanted]
        outputs = [
            value
            for node in kept
            for value in node.outputs
            if value.name in also or _leaves(value, home, wanted)
        ]
        needed = {
            value
            for node in dropped
            for value in node.outputs
            if any(home.get(use.node) in wanted for use in value.uses())
        }
        ranges: dict[str, ShapeRange] = {}
        fresh = []
        for node in dropped:
            for value in node.outputs:
                if value in needed:
                    made = self._as_input(value, ranges)
                    if made is None:
                        return None
                    value.replace_all_uses_with(made, replace_graph_outputs=True)
                    value.name = None
                    fresh.append(made)
        graph.outputs[:] = outputs
        for node in dropped:
            for inner in _inside(node):
                for place in range(len(inner.inputs)):
                    inner.replace_input_with(place, None)
            graph.remove(node, safe=False)
        for value in outputs:
            self._state(value)
        graph.inputs[:] = [value for value in graph.inputs if value.uses()] + fresh
        _drop_unused(graph)
        profile = {n: r for n, r in self._profile.items() if n in {v.name for v in graph.inputs}}
        return model, {**profile, **ranges}

    def _as_input(self, value: ir.Value, ranges: dict[str, ShapeRange]) -> ir.Value | None:
        name = value.name or ""
        known = self._ranges.get(name)
        dtype = self._types.get(name) or value.dtype
        if known is None or dtype is None:
            return None
        if known.min != known.max:
            ranges[name] = known
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=_shape(name, known))

    def _state(self, value: ir.Value) -> None:
        """Give an output type and shape, where they are known."""
        name = value.name or ""
        dtype, known = self._types.get(name), self._ranges.get(name)
        if value.type is None and dtype is not None:
            value.type = ir.TensorType(dtype)
        if value.shape is None and known is not None:
            value.shape = _shape(name, known)


def _shape(name: str, known: ShapeRange) -> ir.Shape:
    pairs = enumerate(zip(known.min, known.max, strict=True))
    return ir.Shape([low if low == high else f"{name}_{axis}" for axis, (low, high) in pairs])


Facts = Mapping[str, tuple[ir.DataType | None, tuple[int, ...]]]
"""Type and shape by name of a value."""


def _inferred(model: ir.Model, profile: Profile, point: str) -> Facts:
    """Return what inference knows when the inputs have the shapes of this point of the profile."""
    fixed = model.clone()
    for value in fixed.graph.inputs:
        asked = profile.get(value.name or "")
        if asked is not None:
            value.shape = ir.Shape(getattr(asked, point))
    for node in fixed.graph:
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                value.shape = None  # inference would keep the symbols of the range
    graph = ShapeInferencePass(strict_mode=False, data_prop=True)(fixed).model.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return {
        value.name: (value.dtype, tuple(value.shape.numpy()))
        for value in values
        if value.name and value.shape is not None and value.shape.is_static()
    }


def _joined(low: Facts, mid: Facts, high: Facts) -> Iterator[tuple[str, ShapeRange]]:
    """Yield the range of each value whose shape is known and grows with the inputs'."""
    for name in low.keys() & mid.keys() & high.keys():
        shapes = [facts[name][1] for facts in (low, mid, high)]
        same_rank = len({len(shape) for shape in shapes}) == 1
        if same_rank and all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            yield name, ShapeRange(*(Dims(shape) for shape in shapes))


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in bodies(node):
        for inner in body:
            yield from _inside(inner)


def _leaves(value: ir.Value, home: Mapping[ir.Node, int], wanted: Collection[int]) -> bool:
    """Whether a value is to be an output of the part: nothing in the part uses all there is."""
    users = [home.get(use.node) in wanted for use in value.uses()]
    return bool(value.name) and (value.is_graph_output() or not users or not all(users))


def _drop_unused(graph: ir.Graph) -> None:
    for name in [n for n, value in graph.initializers.items() if not value.uses()]:
        if not graph.initializers[name].is_graph_output():
            del graph.initializers[name]
