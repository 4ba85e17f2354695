"""dedupe-weights: store equal weights once."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.weights import read_file, tensor_digest
from trtforge_plugins.clean.bodies import bodies

_SAMPLE = 4096  # bytes


@dataclass(frozen=True)
class DedupeWeights(Pass):
    """Store weights of equal type, shape and content once.

    Only weights that agree in type, shape and their first 4 KiB are read as a whole, in chunks and
    not mapped; a BLAKE2b digest of 128 bits decides.
    """

    name: ClassVar[str] = "dedupe-weights"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Let all users read the first of equal initializers; return the number removed."""
        return _merge(model.graph, ChainMap(), _likely(model), ctx)


def _likely(model: ir.Model) -> set[ir.Value]:
    """Return the initializers that have the type, shape and first bytes of another one."""
    alike: dict[object, list[ir.Value]] = defaultdict(list)
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                alike[tensor.dtype, tuple(tensor.shape), _sample(tensor)].append(value)
    return {value for group in alike.values() if len(group) > 1 for value in group}


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """Return the first bytes of the content; equal tensors have equal samples."""
    if isinstance(tensor, ir.ExternalTensor):
        return read_file(tensor, 0, _SAMPLE)
    if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:
        return b""  # few or packed: the digest decides alone
    flat = np.asarray(tensor.numpy()).reshape(-1)
    return bytes(np.ascontiguousarray(flat[: _SAMPLE // flat.itemsize]).view(np.uint8))


def _merge(
    graph: ir.Graph, seen: ChainMap[str, ir.Value], likely: set[ir.Value], ctx: Context
) -> int:
    """Merge in one graph and its subgraphs, which can read what ``seen`` holds of outer graphs."""
    count = 0
    for name, value in list(graph.initializers.items()):
        if value not in likely or value.const_value is None:
            continue
        digest = tensor_digest(value.const_value)
        first = seen.get(digest)
        reason = _why_not(value)
        if first is None:
            if not value.is_graph_input():  # the caller may put something else in its place
                seen[digest] = value
        elif reason is not None:
            ctx.note(name, f"equals {first.name}, kept: {reason}")
        else:
            value.replace_all_uses_with(first)
            graph.initializers.pop(name)
            count += 1
    for node in graph:
        for body in bodies(node):
            count += _merge(body, seen.new_child(), likely, ctx)
    return count


def _why_not(value: ir.Value) -> str | None:
    if value.is_graph_input():
        return "it is a graph input, which the caller may set (see tidy-initializers)"
    return "it is a graph output" if value.is_graph_output() else None
