"""Solve the dimensions that ONNX's inference leaves open, each named ``unk__<n>`` by it.

A Reshape keeps the number of elements, so where all other dimensions of its input and output are
known, numbers and symbols cancel and the last one follows: ``[B, S, 768]`` reshaped to
``[B, unk__0, 12, 64]`` gives ``unk__0 = S``. An element-wise operator gives back the dimension on
which its inputs agree, once the names are solved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_ELEMENTWISE = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip

Dim = int | str | None
"""A static, a symbolic or an unknown dimension."""


def is_generated(dim: Dim) -> bool:
    """Whether ``dim`` is a name that ONNX's inference made up."""
    return isinstance(dim, str) and dim.startswith("unk__")


def solve(graph: onnx.GraphProto) -> dict[str, Dim]:
    """Return what made-up names stand for, in ``graph`` and its subgraphs."""
    solved: dict[str, Dim] = {}
    _solve(graph, {}, solved)
    return solved


def _solve(graph: onnx.GraphProto, outer: dict[str, Sequence[Dim]], solved: dict[str, Dim]) -> None:
    shapes = outer | {
        info.name: _dims(info.type.tensor_type.shape)
        for info in (*graph.input, *graph.output, *graph.value_info)
        if info.type.tensor_type.HasField("shape")
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    for node in graph.node:
        given = [shapes.get(name) for name in node.input if name]
        made = shapes.get(node.output[0]) if node.output else None
        if made is not None and any(is_generated(_known(dim, solved)) for dim in made):
            known = [[_known(d, solved) for d in dims] for dims in given if dims is not None]
            if node.op_type == "Reshape" and given[0] is not None:
                _solve_reshape(known[0], made, solved)
            elif node.op_type in _ELEMENTWISE and len(known) == len(given):
                _solve_broadcast(known, made, solved)
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _solve(body, shapes, solved)


def _dims(shape: onnx.TensorShapeProto) -> list[Dim]:
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape.dim
    ]


def _known(dim: Dim, solved: dict[str, Dim]) -> Dim:
    return solved.get(dim, dim) if isinstance(dim, str) else dim


def _solve_reshape(given: Sequence[Dim], made: Sequence[Dim], solved: dict[str, Dim]) -> None:
    resolved = [_known(dim, solved) for dim in made]
    unknown = [dim for dim in resolved if is_generated(dim)]
    rest = [dim for dim in resolved if not is_generated(dim)]
    if len(unknown) != 1 or None in given or None in rest or 0 in given or 0 in rest:
        return
    above, below = _product(given), _product(rest)
    symbols = above[1] - below[1]
    if below[1] - above[1] or above[0] % below[0]:
        return
    number, names = above[0] // below[0], list(symbols.elements())
    name = str(unknown[0])
    if not names:
        solved[name] = number
    elif number == 1 and len(names) == 1 and names[0] != name:
        solved[name] = names[0]


def _solve_broadcast(
    given: Sequence[Sequence[Dim]], made: Sequence[Dim], solved: dict[str, Dim]
) -> None:
    for position in range(1, len(made) + 1):
        name = made[-position]
        dims = {shape[-position] for shape in given if len(shape) >= position} - {1}
        if is_generated(name) and len(dims) == 1 and (dim := dims.pop()) not in (None, name):
            solved[str(name)] = dim


def _product(dims: Sequence[Dim]) -> tuple[int, Counter[str]]:
    number, symbols = 1, Counter[str]()
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        elif dim is not None:
            symbols[dim] += 1
    return number, symbols
