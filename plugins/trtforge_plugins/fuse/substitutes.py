"""Which custom op may stand for a node of ONNX's own operators: the op says so itself."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from trtforge import CustomOp, Substitute
from trtforge.graph import opset


def find_substitute(
    model: ir.Model, node: ir.Node, kinds: Iterable[type[CustomOp]]
) -> Substitute | str:
    """Return the first op that may take the node's place.

    Returns:
        The op; or why those that know the operator may not, empty where none knows it.
    """
    reasons = []
    for kind in kinds:
        found = kind.substitute(node)
        if found is None:
            continue
        reason = found if isinstance(found, str) else _why_not(model, node, found)
        if isinstance(found, Substitute) and not reason:
            return found
        reasons.append(f"{kind.name} cannot take its place: {reason}")
    return "; ".join(reasons)


def _why_not(model: ir.Model, node: ir.Node, found: Substitute) -> str:
    op = found.op
    if opset(model) < op.since:
        return f"its function needs opset {op.since}, the model has {opset(model)}"
    if len(node.inputs) <= max(found.inputs, default=-1) or len(node.outputs) > len(op.outputs):
        return "it has other inputs or outputs"
    values = [node.inputs[at] for at in found.inputs]
    types: dict[str, list[str]] = {port.dtype: [] for port in op.input_ports()}
    for value, port in zip(values, op.input_ports(), strict=True):
        if value is None or value.dtype is None:
            return "the type of its inputs is not known; put infer-shapes first"
        types[port.dtype].append(value.dtype.numpy().name)
    if len(set(types.get("T", []))) > 1 or not set(types.get("T", [])) <= set(op.dtypes):
        return f"it has no kernel for {', '.join(sorted(set(types['T'])))}"
    for wanted, given in types.items():
        if wanted != "T" and set(given) != {wanted}:
            return f"an input of it is {given[0]}, where {wanted} is needed"
    return ""
