"""Solve the dimensions that ONNX's inference leaves open, each named ``unk__<n>`` by it.

A Reshape keeps the number of elements, so where all other dimensions of its input and output are
known, numbers and symbols cancel and the last one follows: ``[B, S, 768]`` reshaped to
``[B, unk__0, 12, 64]`` gives ``unk__0 = S``. An element-wise operator gives back the dimension on
which its inputs agree, once the names are solved; there, ``table[0:S]`` counts as S, because with
any other length the model could not run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_ELEMENTWISE = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip

_SAME_NUMBERS = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})
_PREFIX = "unk__"
_SHORT = 8  # entries; a shape has no more

Dim = int | str | None
"""A static, a symbolic or an unknown dimension."""
Shapes = dict[str, "Sequence[Dim]"]


def is_generated(dim: Dim) -> bool:
    """Whether ``dim`` is a name that ONNX's inference made up."""
    return isinstance(dim, str) and dim.startswith(_PREFIX)


def solve(graph: onnx.GraphProto) -> dict[str, Dim]:
    """Return what made-up names stand for, in ``graph`` and its subgraphs."""
    if _PREFIX.encode() not in graph.SerializeToString():
        return {}  # far quicker than to look at every shape
    solving = _Solving()
    solving.visit(graph, {})
    return solving.solved


@dataclass
class _Solving:
    solved: dict[str, Dim] = field(default_factory=dict)
    parts: dict[Dim, Dim] = field(default_factory=dict)
    """Made-up names of what a Slice leaves of the first S entries, and that S."""
    vectors: dict[str, list[Dim]] = field(default_factory=dict)
    """Integer values that are dimensions, read by a Shape, or constants."""

    def visit(self, graph: onnx.GraphProto, outer: Shapes) -> None:
        """Solve in one graph; ``outer`` has the shapes of the graphs around it."""
        shapes = {**outer, **_shapes(graph)}
        inputs = {info.name for info in graph.input}  # a caller may set them, also initializers
        fixed = [tensor for tensor in graph.initializer if tensor.name not in inputs]
        self._forget(inputs)
        self.vectors.update(_small_integers(fixed))
        for node in graph.node:
            self._forget(node.output)  # a branch may reuse a name of another branch
            given = [shapes.get(name) for name in node.input if name]
            made = shapes.get(node.output[0]) if node.output else None
            self._follow_vector(node, given)
            if made is not None and any(is_generated(self._known(dim)) for dim in made):
                self._solve(node, [g and [self._known(dim) for dim in g] for g in given], made)
            for attribute in node.attribute:
                for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    self.visit(body, shapes)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.vectors.pop(name, None)

    def _known(self, dim: Dim) -> Dim:
        return self.solved.get(dim, dim) if isinstance(dim, str) else dim

    def _follow_vector(self, node: onnx.NodeProto, given: Sequence[Sequence[Dim] | None]) -> None:
        """Remember the result of ``node`` if it is dimensions that a Shape has read."""
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            value = attributes["value"].t
            self.vectors.update(_small_integers([value], node.output[0]))
        elif node.op_type == "Shape" and given and given[0] is not None:
            start = attributes["start"].i if "start" in attributes else 0
            end = attributes["end"].i if "end" in attributes else None
            self.vectors[node.output[0]] = [self._known(dim) for dim in given[0][start:end]]
        elif node.op_type in _SAME_NUMBERS and node.input[0] in self.vectors:
            self.vectors[node.output[0]] = self.vectors[node.input[0]]
        elif node.op_type in ("Gather", "Slice"):
            self._pick(node, [self.vectors.get(name) for name in node.input])

    def _pick(self, node: onnx.NodeProto, inputs: Sequence[list[Dim] | None]) -> None:
        dims, *others = inputs
        picks = [[n for n in other or () if isinstance(n, int)] for other in others]
        if dims is None or any(not pick for pick in picks):
            return
        if node.op_type == "Gather" and all(-len(dims) <= n < len(dims) for n in picks[0]):
            self.vectors[node.output[0]] = [dims[n] for n in picks[0]]
        elif node.op_type == "Slice" and len(picks) in (2, 3):
            self.vectors[node.output[0]] = dims[picks[0][0] : picks[1][0]]

    def _solve(
        self, node: onnx.NodeProto, given: Sequence[Sequence[Dim] | None], made: Sequence[Dim]
    ) -> None:
        known = [dims for dims in given if dims is not None]
        if node.op_type == "Reshape" and given[0] is not None:
            self._solve_reshape(given[0], [self._known(dim) for dim in made])
        elif node.op_type in _ELEMENTWISE and len(known) == len(given):
            self._solve_broadcast(known, made)
        elif node.op_type == "Slice" and given[0] is not None and len(node.input) > 2:
            self._solve_slice([self.vectors.get(name) for name in node.input[1:]], given[0], made)
        elif node.op_type == "Range":
            start, limit, delta = (self.vectors.get(name) for name in node.input)
            if start == [0] and delta == [1] and limit is not None:
                self.solved[str(made[0])] = limit[0]

    def _solve_slice(
        self, inputs: Sequence[list[Dim] | None], given: Sequence[Dim], made: Sequence[Dim]
    ) -> None:
        """Take over what a Slice (starts, ends, axes, steps) leaves alone; note ``[0:S]``."""
        starts, ends, axes, steps = [*inputs, None, None][:4]
        if len(inputs) < 3 and ends is not None:
            axes = list(range(len(ends)))
        if axes is None or len(made) != len(given):
            return
        cut = [axis + len(given) if axis < 0 else axis for axis in axes if isinstance(axis, int)]
        for position, (name, dim) in enumerate(zip(made, given, strict=True)):
            if not is_generated(name):
                continue
            if position not in cut:
                self.solved[str(name)] = dim
            elif starts is not None and ends is not None and len(starts) == len(ends) == len(cut):
                entry = cut.index(position)
                whole = len(inputs) < 4 or (steps is not None and steps[entry] == 1)
                if starts[entry] == 0 and whole:
                    self.parts[name] = ends[entry]

    def _solve_reshape(self, given: Sequence[Dim], made: Sequence[Dim]) -> None:
        unknown = [dim for dim in made if is_generated(dim)]
        rest = [dim for dim in made if not is_generated(dim)]
        if len(unknown) != 1 or None in given or None in rest or 0 in given or 0 in rest:
            return
        above, below = _product(given), _product(rest)
        if below[1] - above[1] or above[0] % below[0]:
            return
        number, names = above[0] // below[0], list((above[1] - below[1]).elements())
        name = str(unknown[0])
        if not names:
            self.solved[name] = number
        elif number == 1 and len(names) == 1 and names[0] != name:
            self.solved[name] = names[0]

    def _solve_broadcast(self, given: Sequence[Sequence[Dim]], made: Sequence[Dim]) -> None:
        for position in range(1, len(made) + 1):
            name = made[-position]
            if not is_generated(name) or name in self.solved:
                continue
            dims = {shape[-position] for shape in given if len(shape) >= position} - {1}
            if len(dims) > 1:
                dims = {self.parts.get(dim, dim) for dim in dims}
            if len(dims) == 1 and (dim := dims.pop()) not in (None, name):
                self.solved[str(name)] = dim


def _shapes(graph: onnx.GraphProto) -> Shapes:
    shapes: Shapes = {
        info.name: dims_of(info.type.tensor_type.shape)
        for info in (*graph.input, *graph.output, *graph.value_info)
        if info.type.tensor_type.HasField("shape")
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def dims_of(shape: onnx.TensorShapeProto) -> list[Dim]:
    """Return the dimensions of a shape; what has neither number nor name is None."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape.dim
    ]


def _small_integers(
    tensors: Iterable[onnx.TensorProto], name: str | None = None
) -> dict[str, list[Dim]]:
    """Return the values of scalars and short vectors of integers, by name."""
    import onnx

    return {
        name or tensor.name: [int(number) for number in onnx.numpy_helper.to_array(tensor).flat]
        for tensor in tensors
        if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        and len(tensor.dims) <= 1
        and prod(tensor.dims) <= _SHORT
        and tensor.data_location != onnx.TensorProto.EXTERNAL
    }


def _product(dims: Sequence[Dim]) -> tuple[int, Counter[str]]:
    number, symbols = 1, Counter[str]()
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        elif dim is not None:
            symbols[dim] += 1
    return number, symbols
