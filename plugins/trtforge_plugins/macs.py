"""Counts multiply-accumulates of the nodes that do almost all of a model's work.

The counts follow the definitions of the operators in the ONNX specification
(https://onnx.ai/onnx/operators/): dense, without bias, without zeros skipped for causal masks.
What depends on a shape that is not known is reported as unknown, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from trtforge import RequestError
from trtforge.graph import is_op, label


@dataclass(frozen=True)
class HeavyNode:
    """A node that multiplies matrices or convolves."""

    node: ir.Node
    """The node, in a copy of the model whose dynamic dimensions are bound."""
    macs: int | None
    """Multiply-accumulates of one run; None where it cannot be known."""
    reason: str = ""
    """Why ``macs`` is None."""

    @property
    def name(self) -> str:
        """The name to show."""
        return label(self.node)


class _UnknownError(Exception):
    """The count cannot be known; the message is a reason to show."""


def heavy_nodes(
    model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[HeavyNode, ...]:
    """Return each heavy node of ``model`` with its multiply-accumulates; ``model`` stays as it is.

    Nodes of subgraphs are listed without a count, as the number of their runs is not known; so are
    calls of model-local functions that hold heavy nodes.

    Args:
        model: The model.
        shapes: Shape of each input that has dynamic dimensions, for example the ``opt`` shapes of
            an optimization profile.

    Raises:
        RequestError: a shape contradicts the model's.
    """
    return count_nodes(bind_shapes(model, shapes or {}))


def count_nodes(bound: ir.Model) -> tuple[HeavyNode, ...]:
    """Return the same of a model whose shapes are bound already; the nodes are its own."""
    heavy_functions = _heavy_functions(bound)
    found = []
    for graph in (bound.graph, *bound.graph.subgraphs()):
        for node in graph:
            if node.op_identifier() in heavy_functions:
                found.append(HeavyNode(node, None, "it calls a model-local function"))
            elif _is_heavy(node):
                found.append(_count(node, inside=graph is not bound.graph))
    return tuple(found)


def total_macs(heavy: Sequence[HeavyNode]) -> int:
    """Return the sum of all known counts."""
    return sum(node.macs or 0 for node in heavy)


def bind_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
    """Return a copy of ``model`` with ``shapes`` put in and the other shapes inferred from them.

    Weights are shared with ``model``. Inputs that ``shapes`` does not name keep their shapes.

    Raises:
        RequestError: a shape contradicts the model's.
    """
    bound = model.clone()
    symbols: dict[str, int] = {}
    for value in bound.graph.inputs:
        given = shapes.get(value.name or "")
        if given is not None and value.shape is not None:
            _bind(value, value.shape, tuple(given), symbols)
    for graph in bound.graphs():
        for node in graph:
            for output in node.outputs:
                _replace_symbols(output, symbols)
    outputs = (output for graph in bound.graphs() for node in graph for output in node.outputs)
    if all(value.shape is not None and value.shape.is_static() for value in outputs if value.name):
        return bound  # as at the end of a recipe: nothing is left to infer
    return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(bound).model


def _bind(
    value: ir.Value, declared: ir.Shape, given: tuple[int, ...], symbols: dict[str, int]
) -> None:
    example = "x".join(str(dim) if isinstance(dim, int) else "8" for dim in declared)
    conflict = RequestError(
        f"shape {list(given)} does not fit {declared}",
        where=f"input {value.name!r}",
        remedy=f"for example {value.name}={example}",
    )
    if len(declared) != len(given):
        raise conflict
    for dim, size in zip(declared, given, strict=True):
        if isinstance(dim, int):
            fits = dim == size
        else:
            fits = dim.value is None or symbols.setdefault(dim.value, size) == size
        if not fits:
            raise conflict
    value.shape = ir.Shape(given)


def _replace_symbols(value: ir.Value, symbols: Mapping[str, int]) -> None:
    if value.shape is None or value.shape.is_static():
        return
    value.shape = ir.Shape(
        [dim if isinstance(dim, int) else symbols.get(dim.value or "", dim) for dim in value.shape]
    )


def _count(node: ir.Node, *, inside: bool) -> HeavyNode:
    if inside:
        return HeavyNode(node, None, "it is in a subgraph, whose number of runs is not known")
    rule = _RULES.get(node.op_type) if is_op(node, node.op_type) else None
    if rule is None:
        return HeavyNode(node, None, f"there is no rule for {node.domain}::{node.op_type}")
    try:
        return HeavyNode(node, rule(node))
    except _UnknownError as unknown:
        return HeavyNode(node, None, str(unknown))


def _is_heavy(node: ir.Node) -> bool:
    if is_op(node, *_RULES):
        return True
    return node.domain == "com.microsoft" and node.op_type in _HEAVY_CONTRIB


def _heavy_functions(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Return the functions with a heavy node in their body or in what they call."""
    heavy: set[ir.OperatorIdentifier] = set()
    grown = True
    while grown:
        grown = False
        for key, function in model.functions.items():
            holds = any(_is_heavy(n) or n.op_identifier() in heavy for n in function.all_nodes())
            if holds and key not in heavy:
                heavy.add(key)
                grown = True
    return heavy


def _shape(value: ir.Value | None, what: str) -> tuple[int, ...]:
    if value is None or value.shape is None:
        raise _UnknownError(f"the shape of its {what} is not known")
    dims = tuple(value.shape)
    if not all(isinstance(dim, int) for dim in dims):
        raise _UnknownError(f"its {what} has the dynamic shape {value.shape}")
    return tuple(int(str(dim)) for dim in dims)


def _input(node: ir.Node, index: int) -> tuple[int, ...]:
    value = node.inputs[index] if index < len(node.inputs) else None
    return _shape(value, f"input {index}")


def _output(node: ir.Node) -> tuple[int, ...]:
    return _shape(node.outputs[0], "output")


def _conv(node: ir.Node) -> int:
    """Conv and kin: W is [M, C/group, k...]; an output element sums prod(W[1:]) products."""
    return prod(_output(node)) * prod(_input(node, 1)[1:])


def _qlinear_conv(node: ir.Node) -> int:
    """QLinearConv: as Conv; W is input 3."""
    return prod(_output(node)) * prod(_input(node, 3)[1:])


def _conv_transpose(node: ir.Node) -> int:
    """ConvTranspose: W is [C, M/group, k...]; each input element meets prod(W[1:]) weights."""
    return prod(_input(node, 0)) * prod(_input(node, 1)[1:])


def _matmul(node: ir.Node) -> int:
    """MatMul, MatMulInteger: numpy.matmul; the last axis of A meets the last but one of B."""
    try:
        depth = _input(node, 0)[-1]
    except _UnknownError:
        depth = _input(node, 1)[-2:][0]
    return prod(_output(node)) * depth


def _qlinear_matmul(node: ir.Node) -> int:
    """QLinearMatMul: as MatMul."""
    return prod(_output(node)) * _input(node, 0)[-1]


def _gemm(node: ir.Node) -> int:
    """Gemm: Y[M,N] = A' * B'; K is A's last axis, or its first with transA."""
    return prod(_output(node)) * _input(node, 0)[0 if _int(node, "transA") else -1]


def _einsum(node: ir.Node) -> int:
    """Einsum of two operands: one product per combination of all indices of the equation."""
    equation = node.attributes.get_string("equation", "") or ""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        raise _UnknownError("its equation has an ellipsis or not two operands")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        for letter, size in zip(term, _input(node, index), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values())


def _attention(node: ir.Node) -> int:
    """Attention: Q K' and P V, for every query head; past keys count, masks do not.

    Q is [B, heads, L, E] and K [B, kv_heads, S, E]; with three dimensions [B, L, heads * E].
    """
    query, key, value = (_input(node, index) for index in range(3))
    past = _input(node, 4)[2] if len(node.inputs) > 4 and node.inputs[4] is not None else 0
    if len(query) == 4:
        batch, heads, length, width = query
        return batch * heads * length * (key[2] + past) * (width + value[3])
    q_heads, kv_heads = _int(node, "q_num_heads"), _int(node, "kv_num_heads")
    if len(query) != 3 or q_heads < 1 or kv_heads < 1:
        raise _UnknownError("its number of heads is not known")
    per_pair = query[2] + q_heads * (value[2] // kv_heads)
    return query[0] * query[1] * (key[1] + past) * per_pair


def _recurrent(node: ir.Node) -> int:
    """LSTM, GRU, RNN: per step and sample, X meets all of W and H meets all of R."""
    steps, batch = _input(node, 0)[:2]
    return steps * batch * (prod(_input(node, 1)) + prod(_input(node, 2)))


def _int(node: ir.Node, name: str) -> int:
    return node.attributes.get_int(name, 0) or 0


_RULES: Mapping[str, Callable[[ir.Node], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "DeformConv": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Attention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
_HEAVY_CONTRIB = frozenset(
    {"Attention", "FusedMatMul", "GroupQueryAttention", "LinearAttention", "MatMulNBits",
     "MultiHeadAttention", "QAttention", "QMoE"}
)  # fmt: skip
