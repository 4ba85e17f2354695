"""infer-shapes: find the types and shapes of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from trtforge import Context, Pass, StepError
from trtforge.weights import exchanged
from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.clean.open_dims import Dim, is_generated, solve

if TYPE_CHECKING:
    import onnx

_SMALL = 1024  # bytes; shapes may follow from the values of smaller constants


@dataclass(frozen=True)
class InferShapes(Pass):
    """Find the types and shapes of values, also symbolic ones.

    ONNX's own inference with data propagation does the work; weights stay where they are, so that
    models of any size pass. What it leaves open behind a Reshape with -1 is solved symbolically.
    """

    name: ClassVar[str] = "infer-shapes"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Add what follows; return the number of values that gained a type or a dimension."""
        gained: set[ir.Value] = set()
        while True:  # more may follow from what is solved; it ends as values only ever gain
            proto = _inferred(model, ctx)
            now = _Facts(solve(proto.graph)).put_into(model.graph, proto.graph)
            gained |= now
            if not now:
                return len(gained)


def _inferred(model: ir.Model, ctx: Context) -> onnx.ModelProto:
    import onnx

    with exchanged(model, light):
        proto = ir.serde.serialize_model(model)
    try:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        reason = str(error).splitlines()[0]
        ctx.note(model.graph.name or "graph", f"not everything could be inferred: {reason}")
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise StepError(
            f"ONNX cannot infer shapes: {str(error).splitlines()[0]}",
            remedy="check the model with onnx.checker.check_model",
        ) from error


def light(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a stand-in of the same type and shape for a large tensor, whose data nobody reads."""
    if tensor.dtype == ir.DataType.STRING or tensor.nbytes <= _SMALL:
        return tensor
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        "left-out", None, None, tensor.dtype, shape=shape, name=tensor.name or ""
    )


@dataclass(frozen=True)
class _Facts:
    """What inference found, to be put into the values of the model."""

    solved: Mapping[str, Dim]
    """What names that ONNX made up stand for."""

    def put_into(
        self, graph: ir.Graph, proto: onnx.GraphProto, *, is_main: bool = True
    ) -> set[ir.Value]:
        """Complete the values of one graph and its subgraphs; return those that gained."""
        found = {info.name: info for info in (*proto.output, *proto.value_info)}
        gained: set[ir.Value] = set()
        for node, node_proto in zip(graph, proto.node, strict=True):
            for value in node.outputs:
                info = found.get(value.name or "")
                promised = is_main and value.is_graph_output()  # the interface stays as it is
                if info is not None and not promised and self._put(value, info.type):
                    gained.add(value)
            for body, body_proto in zip(bodies(node), _proto_bodies(node_proto), strict=True):
                gained |= self.put_into(body, body_proto, is_main=False)
        return gained

    def _put(self, value: ir.Value, kind: onnx.TypeProto) -> bool:
        gained = value.type is None
        if gained:
            value.type = ir.serde.deserialize_type_proto_for_type(kind)
            gained = value.type is not None
        shape = ir.serde.deserialize_type_proto_for_shape(kind)
        if shape is None:
            return gained
        new = [self._known(dim) for dim in shape]
        old = None if value.shape is None else [_plain(dim) for dim in value.shape]
        if old is None or (len(old) == len(new) and old != (new := _merged(old, new))):
            value.shape = ir.Shape(new)
            return True
        return gained

    def _known(self, dim: int | ir.SymbolicDim) -> Dim:
        plain = _plain(dim)
        known = self.solved.get(plain, plain) if isinstance(plain, str) else plain
        return None if is_generated(known) else known  # a made-up name says nothing to a reader


def _plain(dim: int | ir.SymbolicDim) -> Dim:
    return dim if isinstance(dim, int) else dim.value


def _merged(old: list[Dim], new: list[Dim]) -> list[Dim]:
    """Return ``old`` with each dimension made as definite as ``new``: number, name, nothing."""
    return [
        after if _definiteness(after) > _definiteness(before) else before
        for before, after in zip(old, new, strict=True)
    ]


def _definiteness(dim: Dim) -> int:
    if dim is None:
        return 0
    return 2 if isinstance(dim, int) else 1


def _proto_bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
