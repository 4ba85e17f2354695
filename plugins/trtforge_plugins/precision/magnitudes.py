"""How large and how small each tensor gets on data, measured inside the model itself.

Probes of ONNX operators behind each tensor reduce it to a few numbers, so ONNX Runtime hands out
bytes instead of tensors, and memory does not grow with the number of tensors or samples. The first
run over the data is cheap and finds the largest and the mean magnitude; only tensors whose mean is
so small that float16 might lose part of it, or that hold Inf or NaN, are looked at closely in a
second run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context, Ranges, Statistics, StepError
from trtforge.graph import constant, is_op, opset
from trtforge.reference import Reference
from trtforge_plugins.precision import half_range
from trtforge_plugins.precision.cast_operators import FLOAT, MOVERS
from trtforge_plugins.precision.element_types import Types
from trtforge_plugins.precision.half_range import DENORMAL, FLUSHED, LOST

if TYPE_CHECKING:
    from trtforge.artifacts import Array

_OPSET = 13  # first whose ReduceSum, Unsqueeze and so on have the form written here
_SMALL_MEAN = FLUSHED / LOST
"""From this mean magnitude on, float16 cannot lose more than 0.1 % of a tensor: of each value,
underflow takes 2^-25 at most."""
_PREFIX = "trtforge/probe/"


@dataclass(frozen=True)
class Magnitudes:
    """One tensor over all data; infinite values and NaN are left out."""

    largest: float
    """Largest magnitude."""
    total: float = 0.0
    """Sum of all magnitudes; 0 where only ``largest`` is known."""
    flushed_total: float = 0.0
    """Sum of the magnitudes that float16 rounds to 0."""
    denormals_total: float = 0.0
    """Sum of the magnitudes that are denormal in float16, or 0."""
    nonzeros: float = 0.0
    """Values that are not 0."""
    flushed: float = 0.0
    """Values other than 0 that float16 rounds to 0."""
    denormals: float = 0.0
    """Values other than 0 that are denormal in float16, or 0."""
    bounded: bool = field(default=False, kw_only=True)
    """Whether no data can make ``largest`` larger."""

    def __or__(self, other: Magnitudes) -> Magnitudes:
        """Return both together."""
        largest, *sums = zip(self.as_tuple(), other.as_tuple(), strict=True)
        both = self.bounded and other.bounded
        return Magnitudes(max(largest), *map(sum, sums), bounded=both)

    def as_tuple(self) -> tuple[float, ...]:
        """Return the numbers in order."""
        return (
            self.largest, self.total, self.flushed_total, self.denormals_total,
            self.nonzeros, self.flushed, self.denormals,
        )  # fmt: skip

    @property
    def lost(self) -> float:
        """Share of the tensor's total magnitude that float16 loses to underflow, 0..1.

        Of a denormal, rounding takes a quarter of the spacing (2^-24) on average; never more than
        the value itself.
        """
        if self.total <= 0:
            return 1.0 if 0 < self.largest < DENORMAL else 0.0
        rounded = (self.denormals - self.flushed) * 2.0**-26
        kept = self.denormals_total - self.flushed_total
        return min(1.0, (self.flushed_total + min(rounded, kept)) / self.total)


def known(ctx: Context) -> dict[str, Magnitudes]:
    """Return what earlier steps measured: largest magnitudes by tensor name."""
    statistics, ranges = ctx.find(Statistics), ctx.find(Ranges)
    found: dict[str, Magnitudes] = {}
    if ranges is not None:
        found |= {name: Magnitudes(each.amax) for name, each in ranges.by_tensor.items()}
    if statistics is not None:  # exact, while ranges may be clipped
        found |= {name: Magnitudes(each.amax) for name, each in statistics.by_tensor.items()}
    return found


def measure(model: ir.Model, types: Types, batches: Batches, ctx: Context) -> dict[str, Magnitudes]:
    """Run ``model`` on all ``batches`` and return the magnitudes of its float32 tensors by name.

    Tensors inside subgraphs and functions are not seen. What only moves data (Reshape, Concat, …)
    has the magnitudes of its inputs.

    Raises:
        DataError: the data does not fit the model's inputs.
        StepError: ONNX Runtime cannot run the model, or its opset is older than 13.
    """
    if opset(model) < _OPSET:
        raise StepError(
            f"measuring needs opset {_OPSET}; the model has {opset(model)}",
            remedy="put upgrade-opset before cast (to 21)",
        )
    names = [str(value.name) for value in _sources(model, types)]
    found: dict[str, Magnitudes] = {}
    suspects: set[str] = set()
    for name, (high, low, total, count) in _observed(model, names, _rough, batches, ctx):
        largest = max(abs(high), abs(low)) if count else 0.0
        if not isfinite(total) or 0 < total < count * _SMALL_MEAN:
            suspects.add(name)
        _merge(found, name, Magnitudes(largest, total))
    for name in suspects:
        del found[name]
    close = [name for name in names if name in suspects]
    for name, (largest, *sums) in _observed(model, close, _exact, batches, ctx):
        _merge(found, name, Magnitudes(max(largest, 0.0), *sums))
    pass_on(model, types, found)
    return found


def _observed(
    model: ir.Model, names: list[str], probe: _Probe, batches: Batches, ctx: Context
) -> Iterator[tuple[str, list[float]]]:
    """Yield the numbers of each tensor's probe, batch by batch."""
    if not names:
        return
    probed = Reference(_with_probes(model, names, probe))
    for index, feed in enumerate(batches.feeds):
        ctx.progress.update("measuring", index, len(batches.feeds))
        for name, numbers in probed.run(feed).items():
            yield name.removeprefix(_PREFIX), numbers.astype(float).tolist()
    ctx.progress.update("measuring", len(batches.feeds), len(batches.feeds))


def _merge(found: dict[str, Magnitudes], name: str, seen: Magnitudes) -> None:
    found[name] = found[name] | seen if name in found else seen


def _sources(model: ir.Model, types: Types) -> Iterator[ir.Value]:
    """Yield the float32 tensors of the main graph that hold new values."""
    yield from (v for v in model.graph.inputs if types.get(v) == FLOAT and not v.is_initializer())
    for node in model.graph:
        if is_op(node, "Constant") or _moves(node):
            continue
        yield from (value for value in node.outputs if value.name and types.get(value) == FLOAT)


def _moves(node: ir.Node) -> bool:
    """Whether the node's results hold nothing but values of its computed inputs."""
    return is_op(node, *MOVERS) and not any(constant(value) is not None for value in _moved(node))


def _moved(node: ir.Node) -> tuple[ir.Value | None, ...]:
    return tuple(node.inputs) if is_op(node, "Concat") else tuple(node.inputs[:1])


def add_dequantized(model: ir.Model, found: dict[str, Magnitudes]) -> None:
    """Bound what DequantizeLinear gives: its scale times the largest code, whatever the data."""
    for node in model.graph:
        scale = constant(node.inputs[1]) if is_op(node, "DequantizeLinear") else None
        codes = node.inputs[0] if scale is not None else None
        if scale is None or codes is None or not scale.size:
            continue
        largest = float(scale.max()) * _largest_code(codes)
        name = str(node.outputs[0].name)
        seen = found.get(name, Magnitudes(largest))
        found[name] = replace(seen, largest=largest, bounded=True)


def _largest_code(codes: ir.Value) -> float:
    stored = constant(codes)
    if stored is not None and stored.dtype == np.int32:  # a bias: it uses little of its type
        return max(float(stored.max(initial=0)), -float(stored.min(initial=0)))
    kind = codes.dtype.numpy() if codes.dtype is not None else np.dtype(np.uint8)
    if kind.kind in "iu" or kind == ml_dtypes.int4:
        info = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]  # ml_dtypes leaves it untyped
        return float(max(info.max, -info.min))
    return half_range.largest(ir.DataType.from_numpy(kind))


def pass_on(model: ir.Model, types: Types, found: dict[str, Magnitudes]) -> None:
    """Give the results of data movement the magnitudes of what is moved."""
    for node in model.graph:
        if not _moves(node):
            continue
        seen = [found[str(v.name)] for v in _moved(node) if v and str(v.name) in found]
        if not seen:
            continue
        merged = seen[0]
        for each in seen[1:]:
            merged |= each
        found.update({str(v.name): merged for v in node.outputs if types.get(v) == FLOAT})


_Op = Callable[..., ir.Value]
_Probe = Callable[[_Op, ir.Value, Mapping[str, ir.Value]], list[ir.Value]]


def _rough(op: _Op, value: ir.Value, constants: Mapping[str, ir.Value]) -> list[ir.Value]:
    """Return largest, smallest, sum of magnitudes and number of values."""
    del constants
    reduced = [op(kind, value, keepdims=1) for kind in ("ReduceMax", "ReduceMin", "ReduceL1")]
    return [*reduced, op("Cast", op("Size", value), to=FLOAT.value)]


def _exact(op: _Op, value: ir.Value, constants: Mapping[str, ir.Value]) -> list[ir.Value]:
    """Return the fields of :class:`Magnitudes`."""
    zero = constants["zero"]
    with_sign = op("Abs", value)
    finite = op("LessOrEqual", with_sign, constants["finite"])  # false for NaN too
    magnitude = op("Where", finite, with_sign, zero)
    nonzero = op("Greater", magnitude, zero)
    flushed = op("And", nonzero, op("LessOrEqual", magnitude, constants["flushed"]))
    denormal = op("And", nonzero, op("Less", magnitude, constants["denormal"]))
    sums = [
        magnitude,
        *(op("Where", mask, magnitude, zero) for mask in (flushed, denormal)),
        *(op("Cast", mask, to=FLOAT.value) for mask in (nonzero, flushed, denormal)),
    ]
    return [
        op("ReduceMax", magnitude, keepdims=1),
        *(op("ReduceSum", each, keepdims=1) for each in sums),
    ]


def _with_probes(model: ir.Model, names: list[str], probe: _Probe) -> ir.Model:
    """Return a copy of ``model`` whose only outputs are the probes of the tensors ``names``."""
    probed = model.clone()
    graph = probed.graph
    values = {str(value.name): value for value in graph.inputs}
    values |= {str(value.name): value for node in graph for value in node.outputs}
    numbers: dict[str, Array] = {
        "flat": np.array([-1], np.int64),
        "zero": np.array(0, np.float32),
        "finite": np.array(np.finfo(np.float32).max),
        "denormal": np.array(DENORMAL, np.float32),
        "flushed": np.array(FLUSHED, np.float32),
    }
    constants = {name: _constant(graph, name, array) for name, array in numbers.items()}
    # ONNX Runtime works its way back from the last leaf of the graph to the first: in this order it
    # runs each probe right behind its tensor, and no tensor lives longer than without it.
    last_first = [_append(probe, values[name], graph, constants) for name in reversed(names)]
    graph.outputs[:] = last_first[::-1]
    return probed


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    full = f"{_PREFIX}constant/{name}"
    tensor = ir.tensor(array, name=full)
    shape, kind = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    value = ir.Value(name=full, type=kind, shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _append(
    probe: _Probe, value: ir.Value, graph: ir.Graph, constants: Mapping[str, ir.Value]
) -> ir.Value:
    """Append a probe of ``value`` and return its numbers as one float32[n]."""
    new: list[ir.Node] = []

    def op(kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        new.append(ir.node(kind, inputs, attributes or None))
        return new[-1].outputs[0]

    flat = op("Reshape", value, constants["flat"])
    parts = probe(op, flat, constants)
    result = op("Concat", *(op("Reshape", part, constants["flat"]) for part in parts), axis=0)
    result.name = f"{_PREFIX}{value.name}"
    result.type, result.shape = ir.TensorType(FLOAT), ir.Shape([len(parts)])
    graph.extend(new)
    return result
