"""Step ``collect-statistics``: one pass over the data, from which every calibrator chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Batches, Context, Statistics, Step, StepError
from trtforge.reference import Provider
from trtforge.weights import tensor_digest
from trtforge.weights import tensors as all_tensors
from trtforge_plugins.precision.calibration_state import CalibrationState
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.observe import Seen, observe
from trtforge_plugins.precision.placement import points_to_measure
from trtforge_plugins.precision.qdq_writer import FLOATS
from trtforge_plugins.precision.tally import Buffers, NonFiniteError, Tally

SHARES = 16
"""Parts of the data after which the largest magnitudes are noted, to see whether they settled."""


@dataclass(frozen=True)
class CollectStatistics(Step):
    """Measure range, distribution and channels of each tensor that can be quantized.

    The data is read once, and memory depends neither on how much there is nor on the batch. An
    interrupted run goes on where it was when it is resumed. Calibrators that follow choose their
    ranges from these statistics instead of running the model again.
    """

    name = "collect-statistics"
    needs = (Batches,)
    gives = (Statistics,)
    checkpoint: ClassVar[bool] = True

    provider: Provider = "auto"
    """Where ONNX Runtime runs: `cpu`, `cuda`, or `auto`: CUDA where it works."""

    def run(self, ctx: Context) -> int:
        """Put :class:`Statistics` into the context.

        Raises:
            StepError: there is nothing to quantize or no data, the model does not run on the
                data, or a tensor holds NaN or Inf.
        """
        ctx.put(collect(ctx, self.provider))
        return 0


def known_statistics(model: ir.Model, batches: Batches, ctx: Context) -> Statistics | None:
    """Return the statistics that an earlier step gave, where they hold for model and data."""
    found = ctx.find(Statistics)
    return found if found is not None and _holds(found, model, batches) else None


def collect(ctx: Context, provider: Provider, *, histogram: bool = True) -> Statistics:
    """Run the context's model on all its data and return what each tensor to quantize held.

    Without a histogram, which is quicker, only extremes, averages, channels and growth are
    measured; the other fields are 0.

    Raises:
        StepError: there is nothing to quantize, no value, or a tensor holds NaN or Inf.
    """
    model, batches = ctx.model, ctx.get(Batches)
    tensors, axes = taps(model)
    if not tensors:
        raise StepError(
            "the model has no node that could be quantized",
            remedy="insert-qdq quantizes Conv, Gemm and MatMul with constant weights",
        )
    tallies = {str(value.name): Tally(axes[value], histogram=histogram) for value in tensors}
    state = CalibrationState(ctx, lambda: f"{_key(model, batches)} {histogram}")
    start = state.load(tallies)
    with ThreadPoolExecutor(1) as aside:  # while ONNX Runtime prepares the model in one thread
        aside.submit(_remember_digests, list(all_tensors(model)))
        _run(ctx, tallies, observe(model, tensors, batches, provider=provider, start=start), state)
    state.forget()
    found = {name: tally.statistics() for name, tally in tallies.items()}
    known = {name: each for name, each in found.items() if each is not None}
    if not known:
        raise StepError(f"{batches.source} holds no values to calibrate with")
    return Statistics(known, batches.samples, batches.source, batches.real, model_digest(model))


def _remember_digests(tensors: list[ir.TensorProtocol]) -> None:
    for tensor in tensors:
        tensor_digest(tensor)


def _run(
    ctx: Context, tallies: Mapping[str, Tally], parts: Iterator[Seen], state: CalibrationState
) -> None:
    batches = ctx.get(Batches)
    buffers, count = Buffers(), len(batches.feeds)
    for seen in parts:
        ctx.progress.update("calibrating", seen.batch, count)
        _look(seen, tallies, buffers, batches.source)
        if seen.ends:
            done = seen.batch + 1
            share = done * SHARES // count > seen.batch * SHARES // count
            for tally in tallies.values():
                tally.end_batch(share=share)
            state.save(tallies, done)
    ctx.progress.update("calibrating", count, count)


def taps(model: ir.Model) -> tuple[dict[ir.Value, ir.DataType], dict[ir.Value, int]]:
    """Return the tensors that quantization needs a range of: their types, and channel axes."""
    types = element_types(model)
    tensors: dict[ir.Value, ir.DataType] = {}
    axes: dict[ir.Value, int] = {}
    for point in points_to_measure(model):
        if types.get(point.tensor) in FLOATS:
            tensors[point.tensor] = types[point.tensor]
            matrix = point.node.op_type in ("MatMul", "Gemm")
            axes.setdefault(point.tensor, -1 if matrix else 1)
    return tensors, axes


def _look(seen: Seen, tallies: Mapping[str, Tally], buffers: Buffers, source: str) -> None:
    for name, array in seen.tensors.items():
        try:
            tallies[name].add(array, buffers.of(array))
        except NonFiniteError as error:
            raise StepError(
                f"tensor {name!r} holds {error} on batch {seen.batch} of {source}",
                remedy="look at that sample; the model itself computes this value",
            ) from error


def _holds(found: Statistics, model: ir.Model, batches: Batches) -> bool:
    names = {str(value.name) for value in taps(model)[0]}
    same_data = (found.source, found.samples) == (batches.source, batches.samples)
    return same_data and names <= set(found.by_tensor) and found.model == model_digest(model)


def model_digest(model: ir.Model) -> str:
    """Return a hash of what the model computes: its nodes, attributes and weights."""
    found = hashlib.blake2b(digest_size=16)
    for value in model.graph.inputs:
        found.update(f"{value.name} {value.dtype} {value.shape}\n".encode())
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        found.update(f"{name} {tensor_digest(tensor) if tensor is not None else ''}\n".encode())
    for node in model.graph.all_nodes():
        ends = ([v.name if v else "" for v in node.inputs], [v.name for v in node.outputs])
        found.update(f"{node.domain} {node.op_type} {node.overload} {ends}\n".encode())
        for name, attribute in sorted(node.attributes.items()):
            found.update(f"{name} {_attribute(attribute)}\n".encode())
    return found.hexdigest()


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
        return tensor_digest(attribute.as_tensor())
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return ""  # its nodes are visited themselves
    return str(attribute.value)


def _key(model: ir.Model, batches: Batches) -> str:
    """Return a hash of the model and of the data."""
    found = hashlib.blake2b(model_digest(model).encode(), digest_size=16)
    found.update(f"{batches.source} {batches.samples} {len(batches.feeds)}\n".encode())
    for feed in batches.feeds:
        for name, array in feed.items():
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
    return found.hexdigest()
