"""MemoryPlan: what an engine needs, when, and for which tensors; all of it predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtforge.artifacts import Artifact
from trtforge.quantities import Dims, format_bytes

SHOWN = 3


@dataclass(frozen=True)
class Moment(Artifact):
    """One kernel of the predicted engine and the memory that is in use while it runs."""

    title: str
    """Operators of the kernel."""
    nodes: tuple[str, ...]
    """ONNX nodes of the kernel."""
    live: int
    """Bytes that are in use: tensors and workspace."""
    tensors: tuple[tuple[str, int], ...]
    """Name and bytes of the largest living tensors."""


@dataclass(frozen=True)
class MemoryPlan(Artifact):
    """The memory of one engine at one set of shapes, in bytes, predicted without building."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each input."""
    weights: int
    activation: int
    """The block for tensors between kernels and their workspace: one per execution context."""
    scratch: int
    """Part of ``activation`` that library kernels ask for."""
    inputs: int
    """The caller's input buffers."""
    outputs: int
    """The caller's output buffers."""
    timeline: tuple[Moment, ...]
    """The kernels in the order in which they run."""
    beside: int = 0
    """Library kernels that wait for no other one at the same place of the graph, and so could run
    beside it. The plan has all kernels on one stream."""

    @property
    def total(self) -> int:
        """Weights and one context's block; the caller's buffers come on top."""
        return self.weights + self.activation

    @property
    def peak(self) -> Moment | None:
        """The kernel at which most memory is in use."""
        return max(self.timeline, key=lambda moment: moment.live, default=None)


def describe(plan: MemoryPlan) -> list[str]:
    """Return the plan as sentences: the totals, and what is in use at the peak."""
    shapes = ", ".join(f"{name} {Dims(shape)}" for name, shape in plan.shapes.items())
    totals = (
        f"predicted for {shapes or 'no input'}: activations {format_bytes(plan.activation)} (of it "
        f"workspace {format_bytes(plan.scratch)}) for each context, weights "
        f"{format_bytes(plan.weights)}; the caller's inputs and outputs "
        f"{format_bytes(plan.inputs + plan.outputs)}"
    )
    if plan.peak is None:
        return [totals]
    largest = ", ".join(f"{name} {format_bytes(size)}" for name, size in plan.peak.tensors[:SHOWN])
    more = f" and {len(plan.peak.nodes) - SHOWN} more" if len(plan.peak.nodes) > SHOWN else ""
    nodes = f"{', '.join(plan.peak.nodes[:SHOWN])}{more}"
    peak = f"most is in use at {plan.peak.title} ({nodes}): {largest or 'workspace'}"
    streams = (
        f"{plan.beside} library kernels could run beside others: where TensorRT gives them "
        "auxiliary streams, which share no memory, it needs more; `max_aux_streams: 0` of the "
        "step `tensorrt` keeps it to what is predicted"
    )
    return [totals, peak, streams] if plan.beside else [totals, peak]
