"""Which nodes compute in the lower type, and which stay in float32 and why.

Softmax, LayerNormalization and reductions go to the lower type like everything else: TensorRT
accumulates them in float32 inside their kernels. What stays: nodes the user names, operators
without the type, constants that the type cannot hold, values that left its range on data, what is
computed from integers only (shapes, positions, masks: small, and exact in float32), angles, and
what the model itself computes in float32 after a Cast from a lower type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from trtforge import StepError
from trtforge.graph import constant, is_op
from trtforge_plugins.precision import half_range
from trtforge_plugins.precision.cast_evidence import Evidence, out_of_range
from trtforge_plugins.precision.cast_operators import FLEXIBLE, FLOAT
from trtforge_plugins.precision.cast_types import Decisions
from trtforge_plugins.precision.element_types import Types, find_schema
from trtforge_plugins.precision.exact_arithmetic import angles, from_integers
from trtforge_plugins.precision.placement import matches

if TYPE_CHECKING:
    from trtforge import CustomOp

_HALVES: tuple[ir.DataType | None, ...] = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TYPED_BY_INPUT = ("Bernoulli", "EyeLike", "RandomNormalLike", "RandomUniformLike")


def decide(  # noqa: PLR0913  # the model, the type, and what is known or wished
    model: ir.Model,
    low: ir.DataType,
    types: Types,
    *,
    keep: Sequence[str],
    ops: Mapping[str, type[CustomOp]],
    evidence: Evidence,
) -> Decisions:
    """Return the decisions for every node of the main graph and its subgraphs.

    Args:
        model: The model; it is only read.
        low: float16 or bfloat16.
        types: Element types of the values.
        keep: Glob patterns of node names or operators that stay in float32.
        ops: Custom ops; those that have a kernel for ``low`` run in it.
        evidence: What is known of the tensors' magnitudes.
    """
    every = list(model.graph.all_nodes())
    touched = [node for node in every if any(types.get(value) == FLOAT for value in _values(node))]
    functions = frozenset(_low_functions(model, low, ops))
    decisions = Decisions(low, dict(model.graph.opset_imports), functions, {})
    kept = decisions.kept
    for node in touched:
        reason = _named(node, keep) or _unable(node, decisions)
        if reason:
            kept[node] = reason
    _complain_of_opset([node for node in touched if node not in kept], decisions)
    for node in _in_float_already(touched, types):
        kept.setdefault(node, "the model itself computes it in float32, after a Cast")
    for node in from_integers(touched, types):
        kept.setdefault(node, "it is computed from integers only")
    for node in angles(touched, types):
        kept.setdefault(node, "it is an angle, or computes one, of positions or times")
    for node in touched:
        if node not in kept and not is_op(node, *FLEXIBLE):
            reason = _bad_constant(node, decisions, types)
            if reason:
                kept[node] = reason
    kept.update(dict(out_of_range(touched, decisions, types, evidence)))
    return decisions


def _values(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    yield from node.outputs


def _named(node: ir.Node, keep: Sequence[str]) -> str | None:
    pattern = next((pattern for pattern in keep if matches(node, pattern)), None)
    return f"named by keep pattern {pattern!r}" if pattern else None


def _unable(node: ir.Node, decisions: Decisions) -> str | None:
    if (node.domain, node.op_type) in decisions.functions:
        return None
    schema = find_schema(node.domain, node.op_type, decisions.versions.get(node.domain, 0))
    if schema is None:
        return (
            f"{node.domain}::{node.op_type} is not known to run in {half_range.name(decisions.low)}"
        )
    if is_op(node, *_TYPED_BY_INPUT) or _has_sequences(schema):
        return f"{node.op_type} is only supported in float32 here"
    return None


def _complain_of_opset(nodes: Sequence[ir.Node], decisions: Decisions) -> None:
    """Refuse a model whose operators got the type only in a later opset (Conv: bfloat16 in 22).

    Raises:
        StepError: there are such operators.
    """
    wanted = f"tensor({half_range.name(decisions.low)})"
    late: dict[str, int] = {}
    for node in nodes:
        if node.domain or node.op_type in late:
            continue
        now, newest = (
            find_schema("", node.op_type, version)
            for version in (decisions.versions.get("", 0), onnx.defs.onnx_opset_version())
        )
        if now and newest and not _mentions(now, wanted) and _mentions(newest, wanted):
            late[node.op_type] = newest.since_version
    if late:
        needed = max(late.values())
        raise StepError(
            f"{', '.join(sorted(late))}: no {half_range.name(decisions.low)} in opset "
            f"{decisions.versions.get('', 0)}",
            remedy=f"put upgrade-opset before cast (to {needed}), or keep these operators",
        )


def _mentions(schema: onnx.defs.OpSchema, kind: str) -> bool:
    return any(kind in each.allowed_type_strs for each in schema.type_constraints)


def _has_sequences(schema: onnx.defs.OpSchema) -> bool:
    """Whether the operator is about sequences or optionals; If and Loop merely allow them."""
    return any(
        all(kind.startswith(("seq(", "optional(")) for kind in each.allowed_type_strs)
        for each in schema.type_constraints
    )


def _low_functions(
    model: ir.Model, low: ir.DataType, ops: Mapping[str, type[CustomOp]]
) -> Iterator[tuple[str, str]]:
    """Yield functions whose body says nothing about float32, and custom ops that have the type."""
    for function in model.functions.values():
        op = ops.get(f"{function.domain}::{function.name}")
        if half_range.name(low) in op.dtypes if op else _is_generic(function):
            yield function.domain, function.name
    for name, op in ops.items():
        if half_range.name(low) in op.dtypes:
            domain, _, op_type = name.partition("::")
            yield domain, op_type


def _is_generic(function: ir.Function) -> bool:
    for node in function.all_nodes():
        known = ir.convenience.get_const_tensor(node.outputs[0])
        if known is not None and known.dtype == FLOAT:
            return False
        if node.op_type in (
            "ConstantOfShape",
            "Resize",
            "Upsample",
            "RandomNormal",
            "RandomUniform",
        ):
            return False
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == FLOAT.value:
            return False
    return True


def _in_float_already(nodes: Sequence[ir.Node], types: Types) -> Iterator[ir.Node]:
    """Yield the nodes behind a Cast from a lower type, such as a norm that was made safe."""
    reached: set[ir.Value] = set()
    for node in nodes:
        source = node.inputs[0] if node.inputs else None
        if is_op(node, "Cast"):
            computed = source is not None and source.producer() and constant(source) is None
            if source is not None and computed and types.get(source) in _HALVES:
                reached.update(node.outputs)
        elif any(value in reached for value in node.inputs):
            reached.update(value for value in node.outputs if types.get(value) == FLOAT)
            if not is_op(node, *FLEXIBLE):
                yield node


def _bad_constant(node: ir.Node, decisions: Decisions, types: Types) -> str | None:
    for index, value in enumerate(node.inputs):
        if value is None or types.get(value) != FLOAT:
            continue
        array = constant(value)
        if array is None or decisions.of_input(node, index) == FLOAT:
            continue
        reason = half_range.why_not(array, decisions.low)
        if reason:
            return f"its constant {value.name!r}: {reason}"
    return None
