"""Finds Loops that carry a value whose shape changes from turn to turn.

ONNX lets it change; TensorRT compares the shapes when it builds, at the usual ones (``opt``) of the
profile. Here one turn of the body is inferred from the shapes that it starts with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from trtforge import RequestError
from trtforge.graph import constant_tensor, graphs, is_op, label, nodes
from trtforge_plugins.macs import bind_shapes

Shapes = Mapping[str, Sequence[int]]
Changes = dict[str, tuple[ir.Node, str]]
"""By the name of a Loop: the node, and what of it changes."""
_SIZES = (1, 2, 64)
"""What stands for a dimension without a range: what changes at all of them changes at any size."""


def changing_loops(model: ir.Model, usual: Shapes) -> Iterator[tuple[ir.Node, str]]:
    """Yield each Loop of ``model`` that changes a shape, and the change; ``model`` stays as it is.

    Args:
        model: Its functions are inlined already.
        usual: The usual shape of inputs with a range.
    """
    if not any(is_op(node, "Loop") for node in nodes(model)):
        return
    found: list[Changes] = []
    for size in _SIZES:
        shapes = {**_filled(model, size), **usual}
        try:
            bound = bind_shapes(model, shapes)
        except RequestError:  # a range that does not fit, which is another finding
            return
        found.append(dict(_changes(bound)))
        if shapes == dict(usual):
            break
    for name, (node, change) in found[-1].items():
        if all(name in each for each in found):
            yield node, change if len(found) == 1 else f"with open sizes of {_SIZES[-1]}: {change}"


def _filled(model: ir.Model, size: int) -> dict[str, tuple[int, ...]]:
    """Return shapes of the dynamic inputs with ``size`` for each dimension that is open."""
    return {
        value.name or "": tuple(dim if isinstance(dim, int) else size for dim in value.shape)
        for value in model.graph.inputs
        if value.shape is not None and not value.shape.is_static()
    }


def _changes(bound: ir.Model) -> Iterator[tuple[str, tuple[ir.Node, str]]]:
    for graph in graphs(bound):
        for node in graph:
            change = _change(node, bound) if is_op(node, "Loop") else ""
            if change:
                yield label(node), (node, change)


def _change(loop: ir.Node, model: ir.Model) -> str:
    """Return which carried value leaves a turn with another shape than it came with, or nothing."""
    carried = loop.inputs[2:]
    turn = _turn(loop, model)
    if turn is None:
        return ""
    names = loop.attributes["body"].as_graph().inputs[2:]
    for value, before, after in zip(names, carried, turn.graph.outputs[1:], strict=False):
        if before is None or before.shape is None or after.shape is None:
            continue
        if len(before.shape) != len(after.shape) or any(
            isinstance(one, int) and isinstance(two, int) and one != two
            for one, two in zip(before.shape, after.shape, strict=True)
        ):
            return f"{value.name} enters a turn as {before.shape} and leaves it as {after.shape}"
    return ""


def _turn(loop: ir.Node, model: ir.Model) -> ir.Model | None:
    """Return one turn of a Loop as a model with inferred shapes; None where nothing is known."""
    body = loop.attributes["body"].as_graph().clone(allow_outer_scope_values=True)
    body.opset_imports.update(model.graph.opset_imports)
    for value, given in zip(body.inputs[2:], loop.inputs[2:], strict=False):
        value.shape = None if given is None else given.shape
    for node in body:
        for value in node.outputs:
            value.shape = None  # the model may declare names that hide the change
    _give_outer_values(body)
    turn = ir.Model(body, ir_version=model.ir_version)
    try:
        return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(turn).model
    except Exception:  # noqa: BLE001  # ONNX raises several kinds; then nothing is known
        return None


def _give_outer_values(body: ir.Graph) -> None:
    """Let what the body reads of the graphs around it be inputs and constants of its own."""
    own = {body, *body.subgraphs()}
    outer = {
        value
        for node in body.all_nodes()
        for value in node.inputs
        if value is not None and value.graph not in own
    }
    for value in outer:
        held = constant_tensor(value)
        made = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=held)
        for node in body.all_nodes():
            for place, read in enumerate(node.inputs):
                if read is value:
                    node.replace_input_with(place, made)
        if held is None:
            body.inputs.append(made)
        else:
            body.register_initializer(made)
