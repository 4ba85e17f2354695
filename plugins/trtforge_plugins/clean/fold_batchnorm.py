"""fold-batchnorm: put an inference BatchNormalization into the weights before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import bypass, constant, graphs, is_op, label, why_not_bypass
from trtforge_plugins.clean.attributes import attribute, refers
from trtforge_plugins.clean.names import Names, add_constant

if TYPE_CHECKING:
    from trtforge.artifacts import Array


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Put each inference BatchNormalization into the Conv, ConvTranspose or Gemm before it.

    With ``s = scale / sqrt(var + epsilon)``, the weights of output channel c become ``W[c] * s[c]``
    and its bias ``(b[c] - mean[c]) * s[c] + B[c]`` (https://onnx.ai/onnx/operators/
    onnx__BatchNormalization.html); computed in float64 and rounded once to the weights' type.
    """

    name: ClassVar[str] = "fold-batchnorm"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fold where weights and statistics are constant; return the number of nodes removed."""
        names = Names(model)
        count = 0
        for home in list(graphs(model)):
            for node in home:
                if not is_op(node, "BatchNormalization"):
                    continue
                folding = _why_not(node) or _folded(node)
                if isinstance(folding, str):
                    ctx.note(label(node), f"not folded: {folding}")
                    continue
                _apply(home, node, folding, names)
                count += 1
        return count


def _why_not(node: ir.Node) -> str | None:
    """Return why a BatchNormalization cannot be folded, or None."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or not is_op(before, "Conv", "ConvTranspose", "Gemm"):
        return "no Conv, ConvTranspose or Gemm gives its input"
    if refers(node) or refers(before):
        return "an attribute comes from the caller of the function"
    if attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1):
        return "it runs in training mode, or not per channel"
    return _why_bound(node, before) or why_not_bypass(node)


def _why_bound(node: ir.Node, before: ir.Node) -> str | None:
    """Return what else needs the node before, or a weight of it, as it is."""
    if before.graph is not node.graph:
        return f"{label(before)} is in an outer graph"
    result = before.outputs[0]
    if len(result.uses()) != 1 or result.is_graph_output():
        return f"the result of {label(before)} is used elsewhere"
    if any(constant(value) is None for value in (*before.inputs[1:3], *node.inputs[1:5]) if value):
        return "a weight or statistic is not constant"
    weight = before.inputs[1]
    if weight is None or constant(weight) is None or len(weight.uses()) != 1:
        return f"the weight of {label(before)} is shared with another node"
    return None


def _folded(node: ir.Node) -> tuple[Array, Array] | str:
    """Return new weights and bias of the node before ``node``, or why there are none."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    arrays = [constant(value) for value in node.inputs[1:5]]
    weight = constant(before.inputs[1]) if before is not None else None
    if before is None or weight is None:
        return "its weight is not constant"
    with np.errstate(all="ignore"):  # what overflows is refused below
        gamma, beta, mean, var = (np.asarray(a, dtype=np.float64) for a in arrays)
        scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
        bias = constant(before.inputs[2]) if len(before.inputs) > 2 else None
        old = np.asarray(0.0 if bias is None else bias, dtype=np.float64)
        if before.op_type == "Gemm":
            old = old * attribute(before, "beta", 1.0)
        if old.ndim > 1 and old.shape[0] != 1:
            return f"the bias of {label(before)} differs from row to row"
        new_bias = (np.broadcast_to(old.reshape(-1), scale.shape) - mean) * scale + beta
        new_weight = _scaled(before, np.asarray(weight, dtype=np.float64), scale)
        rounded = new_weight.astype(weight.dtype), new_bias.astype(weight.dtype)
    for new, given in zip(rounded, (weight, old), strict=True):
        if not _is_finite(new) and _is_finite(given):
            return f"the result leaves the range of {weight.dtype}"
    return rounded


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array.astype(np.float64)).all())


def _scaled(node: ir.Node, weight: Array, scale: Array) -> Array:
    """Multiply each output channel of ``weight`` (float64) by its factor."""
    if node.op_type == "Conv":  # [C_out, C_in / group, ...]
        return np.asarray(weight * scale.reshape(-1, *[1] * (weight.ndim - 1)))
    if node.op_type == "ConvTranspose":  # [C_in, C_out / group, ...]
        groups = attribute(node, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        factors = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return np.asarray((grouped * factors).reshape(weight.shape))
    return np.asarray(weight * (scale[:, None] if attribute(node, "transB", 0) else scale))


def _apply(
    home: ir.Graph | ir.Function, node: ir.Node, folded: Sequence[Array], names: Names
) -> None:
    """Give the node before ``node`` its new weights and remove ``node``."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None:
        return
    used = [*before.inputs[1:3], *node.inputs[1:5]]
    before.resize_inputs(3)
    for position, array in enumerate(folded, 1):
        given = before.inputs[position]
        if given is not None and given.is_initializer() and len(given.uses()) == 1:
            given.const_value = ir.tensor(array, name=given.name)
            given.type, given.shape = ir.TensorType(given.const_value.dtype), ir.Shape(array.shape)
            continue
        wish = f"{label(before)}.bias" if given is None else given.name or "weight"
        fresh = add_constant(home, before, names.fresh(wish), array)
        before.replace_input_with(position, fresh)
    if "beta" in before.attributes:
        before.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    for key, text in node.metadata_props.items():
        before.metadata_props.setdefault(key, text)
    before.outputs[0].type = before.outputs[0].type or node.outputs[0].type
    before.outputs[0].shape = before.outputs[0].shape or node.outputs[0].shape
    bypass(node)
    for value in used:
        _drop_unused(value)


def _drop_unused(value: ir.Value | None) -> None:
    """Remove an initializer that nothing reads any more; dead nodes are left to drop-dead-code."""
    if value is None or value.uses() or value.is_graph_output() or not value.is_initializer():
        return
    if value.graph is not None and value.name is not None:
        value.graph.initializers.pop(value.name)
