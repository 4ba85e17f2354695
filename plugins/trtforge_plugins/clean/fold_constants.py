"""fold-constants: compute at build time what does not depend on the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import ByteSize, Context, Pass
from trtforge.graph import constant, constant_tensor, graphs, is_op, label, replace
from trtforge.quantities import format_bytes
from trtforge_plugins.clean.attributes import refers
from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.clean.evaluation import NUMPY_TYPES, Region
from trtforge_plugins.clean.names import put_result
from trtforge_plugins.clean.randomness import why_random
from trtforge_plugins.clean.static_shapes import fold_static_shapes

_SIZE_THRESHOLD = ByteSize("4MiB")

_BOUNDED = frozenset({"NonZero", "Compress", "Unique"})
"""Their results' shapes follow from values, but are bounded by the size and rank of the inputs."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute at build time what does not depend on the inputs."""

    name: ClassVar[str] = "fold-constants"

    size_threshold: ByteSize = _SIZE_THRESHOLD
    """Largest result that may be stored although it is larger than the constants it replaces."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Replace nodes by their results; return the number of nodes folded."""
        count = 0
        for home in list(graphs(model)):
            opsets = home.opset_imports if isinstance(home, ir.Function) else {}
            opsets = dict(opsets or model.graph.opset_imports)
            count += fold_static_shapes(home) + _name_types(home)
            waiting = _candidates(home, ctx)
            while waiting:
                region = Region(waiting, opsets, model.ir_version)
                folded = self._fold(home, region, ctx)
                count += len(folded)
                # What was folded is an initializer now, from which more sizes may follow.
                waiting = [node for node in waiting if node not in folded] if folded else []
        return count

    def _fold(self, home: ir.Graph | ir.Function, region: Region, ctx: Context) -> set[ir.Node]:
        sizes = region.sizes()
        chosen: dict[ir.Node, None] = {}
        refused: dict[ir.Node, str] = {}
        waiting = set(region.nodes)
        for node in region.nodes:
            producers = {value.producer() for value in node.inputs if value is not None}
            if any(producer in waiting and producer not in chosen for producer in producers):
                continue  # an input was refused; its reason is the one to tell
            reason = self._why_too_large(node, sizes)
            if reason is None:
                chosen[node] = None
            else:
                refused[node] = reason
        failed = region.compute(list(chosen))
        folded = set(chosen) - set(failed)
        _drop_unready(folded, region)
        _replace(home, [node for node in region.nodes if node in folded], region)
        if not folded:
            for node, reason in {**refused, **failed}.items():
                ctx.note(label(node), f"not folded: {reason}")
        return folded

    def _why_too_large(self, node: ir.Node, sizes: dict[ir.Value, int]) -> str | None:
        """Return why the results would be too large to store, or None."""
        inputs = {value for value in node.inputs if value is not None}
        freed = sum(_stored_bytes(value, sizes) for value in inputs if _is_only_use(value))
        present = [value for value in node.outputs if value.name]
        if node.op_type in _BOUNDED:
            total = sum(8 * 8 * _elements(value, sizes) for value in inputs)  # rank <= 8, int64
        elif all(value in sizes for value in present):
            total = sum(sizes[value] for value in present)
        else:
            return "the type or size of its result is not known before it runs"
        if total <= max(self.size_threshold, freed):
            return None
        return (
            f"its result takes {format_bytes(total)}, more than size_threshold "
            f"{self.size_threshold} and than the constants it would replace"
        )


def _name_types(home: ir.Graph | ir.Function) -> int:
    """Write each CastLike of a constant as the Cast that it is, where the type is known.

    torch exports constants so; the value of a CastLike would seem to depend on the model's inputs.
    """
    count = 0
    for node in list(home):
        if not is_op(node, "CastLike") or refers(node) or node.inputs[1] is None:
            continue
        dtype = node.inputs[1].dtype
        if dtype is not None and constant(node.inputs[0]) is not None:
            attributes = {"to": ir.AttrInt64("to", dtype.value), **node.attributes}
            cast = ir.node("Cast", [node.inputs[0]], attributes, name=node.name)
            replace(node, cast.outputs, [cast])
            count += 1
    return count


def _drop_unready(folded: set[ir.Node], region: Region) -> None:
    """Take out of ``folded`` each node with an unknown result that a remaining node needs."""
    for node in reversed(list(region.nodes)):
        if node in folded and any(
            value not in region.known and any(user not in folded for user, _ in value.uses())
            for value in node.outputs
        ):
            folded.discard(node)


def _candidates(home: ir.Graph | ir.Function, ctx: Context) -> list[ir.Node]:
    """Return the nodes of one graph, in order, that depend on constants only."""
    found: dict[ir.Node, None] = {}
    for node in home:
        if is_op(node, "Constant") or not all(
            value is None or value.producer() in found or _is_constant(value)
            for value in node.inputs
        ):
            continue
        reason = _why_not(node)
        if reason is None:
            found[node] = None
        else:
            ctx.note(label(node), f"not folded: {reason}")
    return list(found)


def _is_constant(value: ir.Value) -> bool:
    if value.is_graph_input():
        return False
    if value.is_initializer():
        return value.const_value is not None
    producer = value.producer()
    return is_op(producer, "Constant") and constant(value) is not None


def _why_not(node: ir.Node) -> str | None:
    """Return why a node with constant inputs must not be computed, or None."""
    if node.domain not in ("", "ai.onnx"):
        return f"operators of domain {node.domain!r} are not computed"
    if refers(node):
        return "an attribute of it comes from the caller of the function"
    random = why_random(node)
    if random is not None:
        return random
    if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
        return "TensorRT takes the precision of a layer from it"
    if next(bodies(node), None) is not None:
        return "it holds a graph (see resolve-if and unroll-loop)"
    for value in node.inputs:
        tensor = None if value is None else constant_tensor(value)
        if tensor is not None and tensor.dtype not in NUMPY_TYPES:
            return f"{tensor.dtype} constants are not computed"
    return None


def _is_only_use(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _stored_bytes(value: ir.Value, sizes: dict[ir.Value, int]) -> int:
    tensor = constant_tensor(value)
    return sizes.get(value, 0) if tensor is None else tensor.nbytes


def _elements(value: ir.Value, sizes: dict[ir.Value, int]) -> int:
    tensor = constant_tensor(value)
    # Without a tensor only the bytes are known; they bound the number of elements.
    return sizes.get(value, 2**62) if tensor is None else tensor.size


def _replace(home: ir.Graph | ir.Function, folded: Sequence[ir.Node], region: Region) -> None:
    """Put the computed results in the place of the nodes ``folded``."""
    sources = {value for node in folded for value in node.inputs if value is not None}
    for node in folded:
        for value in node.outputs:
            if value in region.known and (value.uses() or value.is_graph_output()):
                put_result(home, node, value, region.known[value])
    for node in reversed(folded):
        home.remove(node, safe=True)
    for value in sources:
        owner = value.graph
        unused = not value.uses() and not value.is_graph_output() and not value.is_graph_input()
        if unused and value.is_initializer() and owner is not None and value.name is not None:
            owner.initializers.pop(value.name)
