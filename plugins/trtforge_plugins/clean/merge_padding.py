"""merge-padding: let a convolution pad by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import constant, is_op, label, nodes, scalar
from trtforge_plugins.clean.attributes import attribute, axes_of, refers


@dataclass(frozen=True)
class MergePadding(Pass):
    """Put the zeros of a Pad into the padding of the Conv that reads it.

    PyTorch's exporters write such a Pad for causal convolutions and for padding that is not the
    same at both ends. TensorRT-RTX 1.7.1 makes a kernel and a tensor of it.
    """

    name: ClassVar[str] = "merge-padding"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Merge in all graphs; return the number of Conv nodes. Then unread Pads can be dropped."""
        count = 0
        for node in nodes(model):
            before = node.inputs[0].producer() if is_op(node, "Conv") and node.inputs[0] else None
            if before is None or not is_op(before, "Pad"):
                continue
            merged = _merged(before, node)
            if isinstance(merged, str):
                ctx.note(label(node), f"its Pad stays: {merged}")
                continue
            node.attributes["pads"] = ir.AttrInt64s("pads", merged)
            node.attributes.pop("auto_pad", None)
            node.replace_input_with(0, before.inputs[0])
            count += 1
        return count


def _merged(pad: ir.Node, conv: ir.Node) -> list[int] | str:
    """Return the padding of ``conv`` that stands for both nodes, or why there is none."""
    if refers(pad) or refers(conv):
        return "an attribute comes from the caller of the function"
    if attribute(pad, "mode", "constant") != "constant" or not _is_zero(pad):
        return "it pads with something else than zeros"
    own = _own_padding(conv)
    if own is None:
        return "the padding of the Conv follows from sizes at run time"
    added = _added(pad, len(own) // 2 + 2)
    if added is None:
        return "how much it pads is not constant"
    ends = np.reshape(added, (2, -1))
    if (ends < 0).any() or ends[:, :2].any():
        return "it cuts something off, or pads samples or channels"
    return [int(each) for each in (ends[:, 2:] + np.reshape(own, (2, -1))).reshape(-1)]


def _is_zero(pad: ir.Node) -> bool:
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    return attribute(pad, "value", 0.0) == 0 if value is None else scalar(value) == 0


def _own_padding(conv: ir.Node) -> Sequence[int] | None:
    """Return the padding that ``conv`` states, as many entries as its two ends have."""
    weight = conv.inputs[1]
    if weight is None or weight.shape is None:
        return None
    nothing = [0] * (2 * (len(weight.shape) - 2))
    auto = attribute(conv, "auto_pad", "NOTSET")
    if auto == "VALID":
        return nothing
    own: Sequence[int] = attribute(conv, "pads", nothing)
    return own if auto == "NOTSET" else None


def _added(pad: ir.Node, rank: int) -> list[int] | None:
    """Return the padding of all ``rank`` axes, the beginnings first, if it is constant."""
    given = attribute(pad, "pads")  # an attribute before opset 11
    if given is None:
        known = constant(pad.inputs[1]) if len(pad.inputs) > 1 else None
        given = None if known is None else known.reshape(-1).tolist()
    if given is None or len(pad.inputs) < 4 or pad.inputs[3] is None:
        return given if given is None or len(given) == 2 * rank else None
    axes = constant(pad.inputs[3])
    if axes is None or len(given) != 2 * axes.size:
        return None
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes_of(axes.reshape(-1).tolist(), rank)] = np.reshape(given, (2, -1))
    return [int(each) for each in whole.reshape(-1)]
