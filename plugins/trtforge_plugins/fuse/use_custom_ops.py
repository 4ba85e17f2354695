"""use-custom-ops: nodes of ONNX's own operators become custom ops that compute the same."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtforge import Context, CustomOp, Pass, RequestError, Substitute
from trtforge.graph import label, replace
from trtforge.kernel_source import numpy_type
from trtforge.op_function import call_op
from trtforge_plugins.fuse.substitutes import find_substitute


@dataclass(frozen=True)
class UseCustomOps(Pass):
    """Replace nodes of ONNX's own operators by custom ops that compute the same.

    It is for operators that TensorRT does not have, such as Unique, or has without a form that the
    model needs: `trtforge check` names them. An op says itself which nodes it may stand for.
    """

    name = "use-custom-ops"

    ops: tuple[str, ...] = ()
    """Names of the ops: ``trtforge::Unique``; none: all that are installed."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Replace in the main graph and in subgraphs; functions stay as they are.

        Raises:
            RequestError: there is no such op.
        """
        for name in self.ops:
            if name not in ctx.ops:
                raise RequestError(
                    f"ops: there is no custom op {name!r}", remedy="`trtforge op list` shows all"
                )
        kinds = [kind for name, kind in ctx.ops.items() if name in (self.ops or ctx.ops)]
        changes = 0
        for graph in [model.graph, *model.graph.subgraphs()]:
            for node in list(graph):
                found = find_substitute(model, node, kinds)
                if isinstance(found, Substitute):
                    _put(model, node, found)
                    changes += 1
                elif found:
                    ctx.note(label(node), found)
        return changes


def _put(model: ir.Model, node: ir.Node, found: Substitute) -> None:
    inputs = [node.inputs[at] for at in found.inputs]
    call = call_op(model, found.op, inputs, name=node.name)
    for value, dtype in zip(call.outputs, _types(found.op, inputs), strict=True):
        value.dtype = dtype
    outputs, fresh = list(call.outputs[: len(node.outputs)]), [call]
    if found.transposed:
        turn = ir.node("Transpose", [call.outputs[0]], {"perm": [1, 0]})
        outputs, fresh = [turn.outputs[0]], [call, turn]
    replace(node, outputs, fresh)


def _types(op: CustomOp, inputs: list[ir.Value | None]) -> list[ir.DataType]:
    ours = zip(inputs, op.input_ports(), strict=True)
    dtype = next((v.dtype.numpy().name for v, port in ours if v and v.dtype and port.dtype == "T"))
    names = [port.type_for(dtype) for port in op.output_ports()]
    return [ir.DataType.from_numpy(numpy_type(name)) for name in names]
