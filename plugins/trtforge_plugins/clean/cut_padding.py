"""cut-padding: a convolution computes nothing that is cut off behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import bypass, is_op, label, nodes, scalar, why_not_bypass
from trtforge_plugins.clean.attributes import attribute, refers


@dataclass(frozen=True)
class CutPadding(Pass):
    """Take a Slice of the end of a convolution's results out of its padding.

    So are causal convolutions written: padded at both ends, and the results that look ahead are
    thrown away. TensorRT-RTX 1.7.1 computes them, and gives the Slice and what follows a kernel.
    """

    name: ClassVar[str] = "cut-padding"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Cut in all graphs; return the number of Slice nodes that are gone."""
        count = 0
        for node in nodes(model):
            conv = node.inputs[0].producer() if is_op(node, "Slice") and node.inputs[0] else None
            cut = _cut_at_end(node) if conv is not None and is_op(conv, "Conv") else None
            if conv is None or cut is None:
                continue
            pads = _pads_without(conv, *cut)
            reason = pads if isinstance(pads, str) else why_not_bypass(node)
            if isinstance(pads, str) or reason is not None:
                ctx.note(label(node), f"left alone: {reason}")
                continue
            conv.attributes["pads"] = ir.AttrInt64s("pads", pads)
            conv.outputs[0].shape = node.outputs[0].shape
            bypass(node)
            count += 1
        return count


def _cut_at_end(node: ir.Node) -> tuple[int, int] | None:
    """Return the axis that a Slice shortens and by how much, if that is all it does."""
    rank = (
        0 if node.inputs[0] is None or node.inputs[0].shape is None else len(node.inputs[0].shape)
    )
    numbers = [scalar(value) for value in node.inputs[1:]]
    if not rank or len(numbers) < 3 or numbers[0] != 0 or numbers[3:] not in ([], [1]):
        return None
    end, axis = numbers[1], numbers[2]
    return None if end is None or axis is None or end >= 0 else (int(axis) % rank, -int(end))


def _pads_without(conv: ir.Node, axis: int, cut: int) -> list[int] | str:
    """Return the padding of ``conv`` that leaves ``cut`` results at the end of an axis out."""
    weight, result = conv.inputs[1], conv.outputs[0]
    if refers(conv) or weight is None or weight.shape is None:
        return "an attribute comes from the caller of the function, or the kernel's size is open"
    space = len(weight.shape) - 2
    pads = list(attribute(conv, "pads", [0] * (2 * space)))
    place, kernel = axis - 2, weight.shape[axis] if axis > 1 else None
    if attribute(conv, "auto_pad", "NOTSET") != "NOTSET" or not isinstance(kernel, int):
        return "its padding follows from sizes at run time"
    if len(result.uses()) > 1 or result.is_graph_output():
        return "something else reads the whole result"
    if attribute(conv, "strides", [1] * space)[place] != 1 or cut > pads[space + place]:
        return "it cuts more off than what sees only padding"
    pads[space + place] -= cut
    reach = attribute(conv, "dilations", [1] * space)[place] * (kernel - 1)
    if pads[place] + pads[space + place] < reach:
        return "short inputs would have no result"
    return pads
