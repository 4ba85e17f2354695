"""infer-shapes: find the types and shapes of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from trtforge import Context, Pass, StepError
from trtforge.weights import exchanged
from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.clean.open_dims import Dim, dims_of, is_generated, solve

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
        while True:
            proto = _inferred(model, ctx)
            solved = solve(proto.graph)
            now = _Facts(solved).put_into(model.graph, proto.graph)
            gained |= now
            # Only from what is solved here may more follow; it ends as values only ever gain.
            if not now or not solved:
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
                if info is None or promised or _is_settled(value):
                    continue
                if self._put(value, info.type):
                    gained.add(value)
            for body, body_proto in zip(bodies(node), _proto_bodies(node_proto), strict=True):
                gained |= self.put_into(body, body_proto, is_main=False)
        return gained

    def _put(self, value: ir.Value, kind: onnx.TypeProto) -> bool:
        gained = value.type is None
        if gained:
            value.type = ir.serde.deserialize_type_proto_for_type(kind)
            gained = value.type is not None
        dims = _dims(kind)
        if dims is None:
            return gained
        new = [self._known(dim) for dim in dims]
        old = None if value.shape is None else [_plain(dim) for dim in value.shape]
        if old is None or (len(old) == len(new) and old != (new := _merged(old, new))):
            value.shape = ir.Shape(new)
            return True
        return gained

    def _known(self, dim: Dim) -> Dim:
        known = self.solved.get(dim, dim) if isinstance(dim, str) else dim
        return None if is_generated(known) else known  # a made-up name says nothing to a reader


def _is_settled(value: ir.Value) -> bool:
    """Whether nothing is left to be found: the type is known, and all dimensions are numbers."""
    return value.type is not None and value.shape is not None and value.shape.is_static()


def _dims(kind: onnx.TypeProto) -> list[Dim] | None:
    """Return the dimensions of a tensor, or of what a sequence or an optional holds."""
    if kind.HasField("tensor_type"):
        shape = kind.tensor_type.shape
        return dims_of(shape) if kind.tensor_type.HasField("shape") else None
    other = ir.serde.deserialize_type_proto_for_shape(kind)
    return None if other is None else [_plain(dim) for dim in other]


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
