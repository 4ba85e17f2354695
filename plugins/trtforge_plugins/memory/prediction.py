"""Predicts the memory that an engine of a model needs, without building it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from math import prod
from pathlib import Path

import onnx_ir as ir

from trtforge import Context, Request, StepError
from trtforge.graph import is_op, label
from trtforge.memory_plan import MemoryPlan, Moment
from trtforge_plugins.clean import DropIdentity, FoldConstants, InferShapes
from trtforge_plugins.macs import bind_shapes
from trtforge_plugins.memory.kernels import PRODUCTS, Kernel, is_view, kernels, origin, sources
from trtforge_plugins.memory.placement import Buffer, block_size, place

WORKSPACE = 8_192_000
"""Bytes of scratch that TensorRT-RTX 1.7.1 holds ready for each library kernel (seen in engines for
sm_80 to sm_120: the smallest network with a product needs that much)."""
NAMED = 8
"""Living tensors that are named for each kernel."""


def predict(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> MemoryPlan:
    """Return the memory plan of ``model`` at one set of input shapes; ``model`` stays as it is.

    Args:
        model: The model as TensorRT will get it.
        shapes: Shape of each dynamic input; a profile's largest gives the memory of the profile.

    Raises:
        StepError: a shape contradicts the model, or the size of a value stays unknown.
    """
    bound = _static(model, shapes)
    inputs = {value.name or "": _dims(value) for value in bound.graph.inputs}
    order = list(bound.graph)
    computed = computed_values(bound.graph)
    ran = kernels(order, computed)
    buffers = _buffers(ran, computed)
    scratch = [
        Buffer(step, WORKSPACE, step, "workspace", is_scratch=True)
        for step, kernel in enumerate(ran)
        if kernel.needs_workspace
    ]
    placed = place([*buffers, *scratch])
    return MemoryPlan(
        shapes=inputs,
        weights=_weights(bound, computed),
        activation=block_size(placed),
        scratch=WORKSPACE if scratch else 0,
        inputs=sum(_size(value) for value in bound.graph.inputs),
        outputs=sum(_size(value) for value in bound.graph.outputs),
        timeline=tuple(_timeline(ran, [*buffers, *scratch])),
        beside=_beside(ran),
    )


def _beside(ran: Sequence[Kernel]) -> int:
    """Return how many library kernels stand as deep in the graph as another one."""
    kernel_of = {node: kernel for kernel in ran for node in kernel.nodes}
    depth: dict[Kernel, int] = {}
    for kernel in ran:  # each follows what it reads
        writers = (value.producer() for node in kernel.nodes for value in sources(node))
        before = (kernel_of[node] for node in writers if node in kernel_of)
        depth[kernel] = 1 + max((depth.get(each, 0) for each in before), default=0)
    deep = Counter(depth[kernel] for kernel in ran if kernel.needs_workspace)
    return sum(count for count in deep.values() if count > 1)


def _timeline(ran: Sequence[Kernel], buffers: Iterable[Buffer]) -> Iterator[Moment]:
    """Yield what is in use while each kernel runs."""
    starting = sorted(buffers, key=lambda each: each.first, reverse=True)
    living: list[Buffer] = []
    for step, kernel in enumerate(ran):
        living = [each for each in living if each.last >= step]
        while starting and starting[-1].first <= step:
            living.append(starting.pop())
        tensors = nlargest(NAMED, (b for b in living if not b.is_scratch), key=lambda b: b.size)
        yield Moment(
            title=_title(kernel),
            nodes=tuple(label(node) for node in kernel.nodes),
            live=sum(each.size for each in living),
            tensors=tuple((each.name, each.size) for each in tensors),
        )


def _static(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
    """Return a copy in which every shape that follows from ``shapes`` is a number."""
    bound = bind_shapes(model, shapes)
    ctx = Context(bound, Path(), Request(source="memory plan"))
    for _ in range(3):
        InferShapes().rewrite(bound, ctx)
        if not FoldConstants().rewrite(bound, ctx) + DropIdentity().rewrite(bound, ctx):
            break
    return bound


def sizes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the bytes of each named value whose shape is known when the inputs have ``shapes``.

    Raises:
        StepError: a shape contradicts the model.
    """
    values = [
        value
        for bound in (bind_shapes(model, shapes), _static(model, shapes))
        for value in (*bound.graph.inputs, *(out for node in bound.graph for out in node.outputs))
    ]
    return {
        value.name: _size(value)
        for value in values
        if value.name and value.shape is not None and value.shape.is_static()
    }


def computed_values(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on the inputs' contents, not on their shapes alone."""
    known: set[ir.Value] = set(graph.inputs)
    for node in graph:
        if is_op(node, "Shape", "Size"):
            continue
        if any(value in known for value in node.inputs):
            known.update(node.outputs)
    return known


def _buffers(ran: Sequence[Kernel], computed: set[ir.Value]) -> list[Buffer]:
    """Return the buffers of all values that one kernel leaves for another."""
    step_of = {node: step for step, kernel in enumerate(ran) for node in kernel.nodes}
    first: dict[ir.Value, int] = {}
    last: dict[ir.Value, int] = {}
    for node, step in step_of.items():
        for value in sources(node):
            writer = value.producer()
            if writer in step_of and step_of[writer] != step and value in computed:
                first[value] = step_of[writer]
                last[value] = max(step, last.get(value, step))
    for kernel in ran:
        _share_one_result(kernel, last)
    _write_into_concat(step_of, first, last)
    stored = [Buffer(first[v], _size(v), last[v], v.name or "") for v in first]
    return [*stored, *_turned(ran)]


def _turned(ran: Sequence[Kernel]) -> Iterator[Buffer]:
    """Yield copies of what convolutions read from the caller, or hand to it: channels come last."""
    for step, kernel in enumerate(ran):
        if not is_op(kernel.anchor, "Conv", "ConvTranspose") or kernel.anchor is None:
            continue
        data = kernel.anchor.inputs[0]
        read = [origin(data)] if data is not None and origin(data).is_graph_input() else []
        given = [v for node in kernel.nodes for v in node.outputs if v.is_graph_output()]
        for value in (*read, *given):
            if _dims(value)[1] > 1:
                yield Buffer(step, _size(value), step, f"{value.name}, channels last")


def _share_one_result(kernel: Kernel, last: dict[ir.Value, int]) -> None:
    """Keep what joined products give until its last part is read: it is one tensor."""
    parts = [node.outputs[0] for node in kernel.nodes if is_op(node, *PRODUCTS)]
    ends = [last[part] for part in parts if part in last]
    for part in parts if len(ends) > 1 else ():
        last[part] = max(ends)


def _write_into_concat(
    step_of: Mapping[ir.Node, int], first: dict[ir.Value, int], last: dict[ir.Value, int]
) -> None:
    """Let convolutions write their parts of a Concat at once: it lives from the first of them."""
    for node in step_of:
        if not is_op(node, "Concat") or (joined := node.outputs[0]) not in first:
            continue
        parts = [origin(value) for value in node.inputs if value is not None]
        if all(_is_convolved(part, step_of) for part in parts):
            first[joined] = min(step_of[_writer(part)] for part in parts)
            last[joined] = max(last[joined], *(last.get(part, 0) for part in parts))
            for part in parts:
                first.pop(part, None)


def _writer(value: ir.Value) -> ir.Node:
    writer = value.producer()
    assert writer is not None  # noqa: S101  # only asked for what _is_convolved found
    return writer


def _is_convolved(value: ir.Value, step_of: Mapping[ir.Node, int]) -> bool:
    """Whether a convolution's kernel writes ``value``, with an epilogue of one input at most."""
    writer = value.producer()
    return writer in step_of and is_op(writer, "Conv", "ConvTranspose", "Relu", "Clip")


def _weights(bound: ir.Model, computed: set[ir.Value]) -> int:
    """Return the bytes of the constants that kernels read; equal ones are stored once."""
    used = {
        value
        for node in bound.graph.all_nodes()
        if not is_view(node)
        for value in node.inputs
        if value is not None and value.const_value is not None and value not in computed
    }
    return sum(value.const_value.nbytes for value in used if value.const_value is not None)


def _title(kernel: Kernel) -> str:
    anchor = kernel.anchor
    names = [node.op_type for node in kernel.nodes]
    return anchor.op_type if anchor is not None else "+".join(dict.fromkeys(names))


def _dims(value: ir.Value) -> tuple[int, ...]:
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        raise StepError(
            f"the shape of {value.name!r} stays unknown: {value.shape}",
            remedy="give the shape of every dynamic input; sizes that depend on values of the "
            "data cannot be planned",
        )
    return tuple(int(str(dim)) for dim in value.shape)


def _size(value: ir.Value) -> int:
    bits = value.dtype.bitwidth if value.dtype is not None else 32
    return -(-prod(_dims(value)) * bits // 8)
