"""What all fusions have in common: when a match may be replaced, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from trtforge import Context, CustomOp
from trtforge.graph import add_initializer, constant, constant_tensor, is_op, label, replace, scalar
from trtforge.op_function import OpsetTooOld, call_op
from trtforge_plugins.fuse.pattern import Match, Pattern

SHORT = ("float16", "bfloat16")
SAME_TYPE = (
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "ReduceMean", "Sigmoid", "Neg", "Erf",
    "Tanh", "Gelu", "Concat", "Slice", "Split", "Reshape", "MatMul", "InstanceNormalization",
    "LayerNormalization", "RMSNormalization", "GroupNormalization", "Unsqueeze", "Transpose",
    "Softmax",
)  # fmt: skip
"""Operators whose first result has the type of their first input that is no constant."""
MOVES = ("Split", "Slice", "Concat", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Neg")
"""Operators that round nothing."""


@dataclass(frozen=True)
class Fused:
    """The custom op that takes the place of a match, and its inputs."""

    op: CustomOp
    inputs: tuple[ir.Value, ...]
    vectors: tuple[int, ...] = ()
    """Positions of constants that are to have one dimension."""
    keeps_rounding: bool = True
    """Whether a match whose values between are of 16 bits must stay, as the op keeps 32."""
    residual: ir.Node | None = None
    """An addition that the op computes, too, as its second output."""
    leftover: tuple[ir.Node, ...] = ()
    """Further nodes, to be removed where nothing reads them any more."""
    prepare: Callable[[ir.Node], tuple[ir.Value, ...]] | None = None
    """Puts nodes in front of the end of the match, and returns the inputs, where these are not in
    the graph yet; ``inputs`` then are others of the same types."""


Plan = Callable[[Match], Fused | str]
"""Returns what replaces a match, or the reason why nothing can."""


def fuse(model: ir.Model, ctx: Context, pattern: Pattern, plan: Plan) -> int:
    """Replace what matches, the longest matches first, in the main graph and in subgraphs.

    Returns:
        The number of fusions; every match that stays is noted with its reason.
    """
    changes = 0
    for graph in [model.graph, *model.graph.subgraphs()]:
        for end in list(graph)[::-1]:
            if end.graph is None:
                continue  # it went into the op of a later node
            reasons = list(_fuse_at(model, end, pattern, plan))
            if reasons and not reasons[-1]:
                changes += 1
            elif reasons:
                ctx.note(label(end), reasons[0])
    return changes


def _fuse_at(model: ir.Model, end: ir.Node, pattern: Pattern, plan: Plan) -> Iterator[str]:
    """Yield why each match that ``end`` completes stays, and ``""`` once one is replaced."""
    for match in pattern.matches(end.outputs[0], Match()):
        planned = plan(match)
        reason = planned if isinstance(planned, str) else _put(model, match, planned)
        yield reason
        if not reason:
            return


def _put(model: ir.Model, match: Match, fused: Fused) -> str:
    """Replace a match; return why not, or ``""`` when it is done."""
    end, dtype = match.nodes[0], type_name(fused.inputs[0])
    if type_name(end.outputs[0]) != dtype:
        end = _cast_behind(end, dtype) or end
    if len(end.outputs) > 1:
        return "it has further outputs"
    reason = _why_not_types(end, fused, dtype) or _why_not_inside(match, end)
    if not reason and fused.keeps_rounding:
        reason = _why_not_rounding(match, end)
    if reason:
        return reason
    try:
        call = call_op(model, fused.op, fused.inputs, name=end.name)
    except OpsetTooOld as error:
        return f"{error.what}; {error.remedy}"
    for position in fused.vectors:
        call.replace_input_with(position, _as_vector(fused.inputs[position], end))
    for position, value in enumerate(fused.prepare(end) if fused.prepare else ()):
        call.replace_input_with(position, value)
    _swap(match, end, call, fused)
    return ""


def _swap(match: Match, end: ir.Node, call: ir.Node, fused: Fused) -> None:
    outputs = call.outputs
    dead = [*match.nodes, *([fused.residual] if fused.residual else [])]
    for part in dead:
        call.metadata_props.update(part.metadata_props)
    call.metadata_props.update(end.metadata_props)  # it bears this node's name, too
    if fused.residual is None:
        replace(end, outputs[:1], [call])
    else:
        replace(fused.residual, outputs[1:], [call])
        replace(end, outputs[:1], [])
    remove_dead([*dead, *fused.leftover])


def _cast_behind(end: ir.Node, dtype: str) -> ir.Node | None:
    """Return the Cast to ``dtype`` that alone reads the result of ``end``."""
    readers = end.outputs[0].consumers()
    if len(readers) != 1 or end.outputs[0].is_graph_output() or not is_op(readers[0], "Cast"):
        return None
    cast = readers[0]
    return cast if cast.graph is end.graph and type_name(cast.outputs[0]) == dtype else None


def _why_not_types(end: ir.Node, fused: Fused, dtype: str) -> str:
    op, result = fused.op, end.outputs[0]
    if not dtype or not type_name(result):
        return "its types are not known; put infer-shapes first"
    if dtype not in op.dtypes:
        return f"{op.op_type} has no kernel for {dtype}"
    named = [*zip(fused.inputs, op.input_ports(), strict=True), (result, op.output_ports()[0])]
    for value, port in named:
        if type_name(value) != port.type_for(dtype):
            return f"{value.name!r} is {type_name(value)}, where {port.type_for(dtype)} is needed"
    return ""


def _why_not_inside(match: Match, end: ir.Node) -> str:
    inside = {*match.nodes, end}
    for node in inside - {end}:
        if node.graph is not end.graph:
            return f"{label(node)!r} is in another graph"
        if _is_cast_of_input(node, match):
            continue  # it may stay for others
        for value in node.outputs:
            if value.is_graph_output() or set(value.consumers()) - inside:
                return f"{value.name!r} inside of it is used elsewhere too"
    return ""


def _is_cast_of_input(node: ir.Node, match: Match) -> bool:
    return is_op(node, "Cast") and node.inputs[0] in match.values.values()


def _why_not_rounding(match: Match, end: ir.Node) -> str:
    """Say what the model rounds to 16 bits between; the kernel would keep 32."""
    for node in match.nodes:
        value = node.outputs[0]
        if node is end or is_op(node, *MOVES):
            continue
        if type_name(value) in SHORT:
            return (
                f"the model rounds {value.name!r} inside of it to {type_name(value)}, the kernel "
                "would not; keep_rounding: false accepts the difference"
            )
        if not type_name(value):
            return f"the type of {value.name!r} is not known; put infer-shapes first"
    return ""


def type_name(value: ir.Value) -> str:
    """Return the element type as custom ops spell it, or ``""`` where it is not known."""
    while value.dtype is None:
        node = value.producer()
        if is_op(node, "Cast") and node is not None:
            return ir.DataType(node.attributes["to"].as_int()).numpy().name
        if node is None or not is_op(node, *SAME_TYPE):
            return ""
        computed = [v for v in node.inputs if v is not None and constant_tensor(v) is None]
        if not computed:
            return ""
        value = computed[0]
    return value.dtype.numpy().name


def epsilon_or_why_not(match: Match, *means: str) -> float | str:
    """Return what a normalization along the last axis adds, or why it is none.

    Args:
        match: Names ``x``; the operator for it is ``whole``, else its ``epsilon`` is named.
        means: Names of the means that it takes.
    """
    if match.has("whole"):
        operator, shape = match.nodes[0].attributes, match["x"].shape
        axis = operator.get_int("axis", -1)
        if axis != -1 and (shape is None or axis != len(shape) - 1):
            return "it does not run along the last axis alone"
        return shortest(operator.get_float("epsilon", 1e-5))
    if not all(means_last_axis(match[name]) for name in means):
        return "its mean does not run along the last axis alone, or drops it"
    epsilon = epsilon_of(match["epsilon"])
    return f"{match['epsilon'].name!r} is no positive constant" if epsilon is None else epsilon


def epsilon_of(value: ir.Value) -> float | None:
    """Return a positive constant, or None."""
    known = scalar(value)
    return shortest(known) if known is not None and known > 0 else None


def shortest(number: float) -> float:
    """Return the number that float32 rounds to the same, with the fewest digits."""
    return float(str(np.float32(number)))


def why_not_last_axis(x: ir.Value, parameter: ir.Value) -> str:
    """Say why ``parameter`` is no vector along the last axis of ``x``; ``""``: it is one."""
    shape = parameter.shape
    length = shape[-1] if shape else None
    if not isinstance(length, int) or shape is None or not shape.is_static():
        return f"the shape of {parameter.name!r} is not known"
    if x.shape is None:
        return f"the shape of {x.name!r} is not known; put infer-shapes first"
    if prod(shape.numpy()) != length or len(x.shape) < len(shape):
        return f"{parameter.name!r} does not run along the last axis"
    if len(shape) > 1 and constant(parameter) is None:
        return f"{parameter.name!r} has more than one axis and is no constant"
    if x.shape[-1] != length:
        return f"{x.name!r} is not known to have {length} as last dimension"
    return ""


def _as_vector(value: ir.Value, user: ir.Node) -> ir.Value:
    """Return a constant, whose other axes have length 1, as a vector."""
    array = constant(value)
    if array is None or array.ndim == 1:
        return value
    assert isinstance(user.graph, ir.Graph)  # noqa: S101  # functions are not fused
    return add_initializer(user.graph, f"{value.name}_flat", array.reshape(-1))


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether both shapes are known to be equal."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(map(same_dim, a.shape, b.shape))


def same_dim(a: object, b: object) -> bool:
    """Whether two dimensions are known to be equal; two without a number or name may differ."""
    return a == b and getattr(a, "value", a) is not None


def means_last_axis(value: ir.Value) -> bool:
    """Whether the ReduceMean that gives ``value`` runs along the last axis and keeps it."""
    mean = value.producer()
    if mean is None or mean.inputs[0] is None or not _flag(mean, "keepdims"):
        return False
    shape = mean.inputs[0].shape
    given = mean.attributes.get("axes")
    if given is not None and not given.is_ref():
        axes = list(given.as_ints())
    else:
        array = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
        axes = [] if array is None else array.reshape(-1).tolist()
    return axes == [-1] or (shape is not None and axes == [len(shape) - 1])


def _flag(node: ir.Node, name: str) -> bool:
    attr = node.attributes.get(name)
    return attr is None or (not attr.is_ref() and bool(attr.value))


def remove_dead(candidates: list[ir.Node]) -> None:
    """Remove the candidates that nothing reads any more."""
    dead = [n for n in candidates if not any(v.uses() or v.is_graph_output() for v in n.outputs)]
    for node in dead:
        if node.graph is not None:
            node.graph.remove(node, safe=True)
    if dead:
        remove_dead([node for node in candidates if node not in dead])
