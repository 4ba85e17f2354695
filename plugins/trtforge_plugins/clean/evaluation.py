"""Evaluate nodes whose inputs are all known: sizes first, then values, many nodes at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from trtforge.graph import constant, is_op

if TYPE_CHECKING:
    import onnx

    from trtforge.artifacts import Array

    Made = tuple[onnx.ModelProto, dict[str, ir.Value], dict[str, Any]]

NUMPY_TYPES = frozenset(
    {
        ir.DataType.BOOL, ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE,
        ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
        ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
    }
)  # fmt: skip
"""Types that numpy has itself, so that ONNX Runtime takes and gives them as arrays."""

_INLINE = 1024  # bytes; smaller inputs are part of the model, so that shapes follow from them


@dataclass
class Region:
    """Nodes of one graph, in order, which depend on known values only."""

    nodes: Sequence[ir.Node]
    opsets: Mapping[str, int]
    ir_version: int
    known: dict[ir.Value, Array] = field(default_factory=dict)
    """Values computed so far; initializers and Constant nodes are known without it."""
    _last: tuple[Sequence[ir.Node], Made] | None = None

    def value_of(self, value: ir.Value) -> Array | None:
        """Return the value if it is known."""
        return self.known[value] if value in self.known else constant(value)

    def sizes(self) -> dict[ir.Value, int]:
        """Return the bytes of each result whose size follows before anything is computed."""
        import onnx

        proto, names, _ = self._proto(self.nodes)
        try:
            proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return {}  # nothing follows; each node is then refused with that reason
        sizes = {}
        for info in proto.graph.value_info:
            size = _byte_count(info.type)
            if size is not None:
                sizes[names[info.name]] = size
        return sizes

    def compute(self, nodes: Sequence[ir.Node]) -> dict[ir.Node, str]:
        """Compute ``nodes`` in one ONNX Runtime session and remember the results that are needed.

        Where ONNX Runtime refuses, the halves are tried, so that one odd node costs few sessions.

        Returns:
            The nodes that could not be computed, with ONNX Runtime's reason.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as ort

        nodes = self._ready(nodes)
        if not nodes:
            return {}
        try:
            self.known.update(self._run(nodes))
        except (
            ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.NotImplemented,
            ort.RuntimeException, RuntimeError, ValueError,
        ) as error:  # fmt: skip
            if len(nodes) == 1:
                return {nodes[0]: str(error).split("\n")[0]}
            half = len(nodes) // 2
            return self.compute(nodes[:half]) | self.compute(nodes[half:])
        return {}

    def _ready(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        """Return the nodes all of whose inputs are known or computed by a node before them."""
        ready: dict[ir.Node, None] = {}
        for node in nodes:
            if all(
                value is None
                or value in self.known
                or value.producer() in ready
                or value.is_initializer()
                or is_op(value.producer(), "Constant")
                for value in node.inputs
            ):
                ready[node] = None
        return list(ready)

    def _run(self, nodes: Sequence[ir.Node]) -> dict[ir.Value, Array]:
        import onnx
        import onnxruntime

        proto, names, feeds = self._proto(nodes)
        self._last = None  # it gets outputs now
        inside = set(nodes)
        for name, value in names.items():
            if value.is_graph_output() or any(user not in inside for user, _ in value.uses()):
                proto.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # refusals are expected here and become notes
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        wanted = [output.name for output in proto.graph.output]
        if not wanted:
            return {}
        return {names[n]: a for n, a in zip(wanted, session.run(wanted, feeds), strict=True)}

    def _proto(self, nodes: Sequence[ir.Node]) -> Made:
        """Return a model of ``nodes``, which value each name is, and the arrays to feed.

        The answer for the nodes asked for last is kept: sizes and values mostly want the same.
        """
        if self._last is None or self._last[0] != nodes:
            self._last = nodes, self._make_proto(nodes)
        return self._last[1]

    def _make_proto(self, nodes: Sequence[ir.Node]) -> Made:
        import onnx

        proto = onnx.ModelProto(ir_version=self.ir_version)
        proto.graph.name = "constants"
        for domain, version in self.opsets.items():
            proto.opset_import.add(domain=domain, version=version)
        names: dict[ir.Value, str] = {}
        feeds: dict[str, Any] = {}
        results: dict[str, ir.Value] = {}
        for node in nodes:
            for value in node.inputs:
                if value is not None and value not in names:
                    names[value] = f"v{len(names)}"
                    self._add_input(proto.graph, names[value], value, feeds)
            for value in node.outputs:
                names[value] = f"v{len(names)}" if value.name else ""
                results[names[value]] = value
            fresh = ir.serde.serialize_node(node)
            fresh.input[:] = [names[value] if value is not None else "" for value in node.inputs]
            fresh.output[:] = [names[value] for value in node.outputs]
            proto.graph.node.append(fresh)
        results.pop("", None)
        return proto, results, feeds

    def _add_input(
        self, graph: onnx.GraphProto, name: str, value: ir.Value, feeds: dict[str, Any]
    ) -> None:
        array = self.value_of(value)
        if array is None:
            raise ValueError(f"{value.name} is not known")
        tensor = ir.Tensor(array, name=name)
        if array.nbytes <= _INLINE:
            graph.initializer.append(ir.serde.serialize_tensor(tensor))
            return
        feeds[name] = array
        described = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape)
        )
        graph.input.append(ir.serde.serialize_value(described))


def _byte_count(kind: onnx.TypeProto) -> int | None:
    """Return the bytes of a tensor of this type, or None when its shape or type is not known."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dtype = ir.DataType(kind.tensor_type.elem_type)
    dims = kind.tensor_type.shape.dim
    if dtype not in NUMPY_TYPES or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return math.prod([int(dim.dim_value) for dim in dims]) * dtype.bitwidth // 8
