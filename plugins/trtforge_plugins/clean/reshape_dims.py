"""Solve the dimensions that ONNX's inference leaves open behind a Reshape.

ONNX names each open dimension ``unk__<n>``. A Reshape keeps the number of elements, so where all
other dimensions of its input and output are known, numbers and symbols cancel and the last one
follows: ``[B, S, 768]`` reshaped to ``[B, unk__0, 12, 64]`` gives ``unk__0 = S``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

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


def _solve(
    graph: onnx.GraphProto, outer: dict[str, Sequence[Dim]], solved: dict[str, Dim]
) -> None:
    shapes = outer | {
        info.name: _dims(info.type.tensor_type.shape)
        for info in (*graph.input, *graph.output, *graph.value_info)
        if info.type.tensor_type.HasField("shape")
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type == "Reshape" and node.domain in ("", "ai.onnx"):
            given, made = shapes.get(node.input[0]), shapes.get(node.output[0])
            if given is not None and made is not None:
                _solve_one([_known(d, solved) for d in given], made, solved)
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _solve(body, shapes, solved)


def _dims(shape: onnx.TensorShapeProto) -> list[Dim]:
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape.dim
    ]


def _known(dim: Dim, solved: dict[str, Dim]) -> Dim:
    return solved.get(dim, dim) if isinstance(dim, str) else dim


def _solve_one(given: Sequence[Dim], made: Sequence[Dim], solved: dict[str, Dim]) -> None:
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


def _product(dims: Sequence[Dim]) -> tuple[int, Counter[str]]:
    number, symbols = 1, Counter[str]()
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        elif dim is not None:
            symbols[dim] += 1
    return number, symbols
