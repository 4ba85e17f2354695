"""What an engine or a model costs by counting, and which ONNX node is behind which engine layer.

These are predictions from shapes, types and a GPU's published rates: nothing here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trtforge.artifacts import Artifact

Origin = Literal["named", "inferred", "tensorrt"]
Bound = Literal["arithmetic", "memory", "unknown"]
Role = Literal["multiplies", "computes", "moves", "quantizes", "waits"]


@dataclass(frozen=True)
class Ceilings(Artifact):
    """What was measured on a GPU: how fast it copied, and how fast it multiplied matrices."""

    bandwidth: float
    """1e9 bytes per second, bytes read and written."""
    rates: dict[str, float]
    """Element type to 1e12 operations per second of a large product."""
    where: str
    """Card, driver, software and date."""


@dataclass(frozen=True)
class Device(Artifact):
    """The two ceilings of a GPU."""

    name: str
    sm: int
    bandwidth: float
    """Of its memory: 1e9 bytes per second."""
    rates: dict[str, float]
    """Element type to 1e12 dense operations per second; a multiply-accumulate counts as two."""
    sources: tuple[str, ...]
    """The pages that say so."""
    measured: Ceilings | None = None
    """What one of these GPUs reached; None: none was measured."""


@dataclass(frozen=True)
class NodeCost(Artifact):
    """One ONNX node, by counting."""

    name: str
    op: str
    macs: int
    """Multiply-accumulates of one run; 0 for operators that do not multiply matrices."""
    bytes: int | None
    """Each input and output once; None where a shape is not known."""
    module: str = ""
    """The torch module that it comes from: ``encoder.layers.0.attention``."""
    source: str = ""
    """The line of Python that it comes from: ``model.py:52``."""
    layers: tuple[int, ...] = ()
    """Positions of the engine layers that compute it; empty: folded, or there is no engine."""
    product: tuple[int, ...] = ()
    """Of a matrix product: the dimension that is summed, and that of the result's rows."""


@dataclass(frozen=True)
class LayerCost(Artifact):
    """One engine layer, by counting."""

    name: str
    kind: str
    """TensorRT's own word."""
    nodes: tuple[str, ...]
    """The ONNX nodes behind it; several: TensorRT fused them."""
    origin: Origin
    """Whether TensorRT names the nodes, whether they were found by the tensors that the layer
    reads and writes, or whether it is a layer of TensorRT's own: a wait, a signal, shapes."""
    dtype: str
    """The type it multiplies in, else that of its first output."""
    outputs: tuple[str, ...]
    """Type, shape and memory format of each output."""
    macs: int
    bytes: int
    """Each input, constant and output once."""
    bytes_known: bool
    """Whether every size was known; an unknown dimension counts as 1."""
    milliseconds: float
    """The floor: no faster than the larger of arithmetic and memory time."""
    bound: Bound
    """Which of the two it is."""
    modules: tuple[str, ...] = ()
    """The torch modules of its nodes."""
    role: Role = "computes"
    """``multiplies`` matrices; ``computes`` anything else; ``moves``: only copies, casts or
    reorders; ``quantizes``: only changes between a quantized and a wider type; ``waits``: starts
    nothing on the GPU."""


@dataclass(frozen=True)
class Prediction(Artifact):
    """What the model must cost on a GPU, by counting; nothing was measured."""

    device: Device
    nodes: tuple[NodeCost, ...]
    layers: tuple[LayerCost, ...]
    """In TensorRT's order; empty without an engine."""
    macs: int
    floor_ms: float
    """Lower bound of one run: all arithmetic at peak, or weights, inputs and outputs once through
    memory, whichever is longer."""
    serial_ms: float
    """Sum of the floors of the layers (of the nodes, without an engine) one after another. Tensors
    that stay in the GPU's cache and layers that run side by side can be faster."""
    launches: int
    """Layers (nodes, without an engine) that start work on the GPU."""
    notes: tuple[str, ...] = ()
    """What could not be counted."""


@dataclass(frozen=True)
class Hint(Artifact):
    """One thing that would make an engine faster or smaller."""

    code: str
    """Stable word for this kind of advice."""
    cause: str
    """One sentence."""
    evidence: str
    """The numbers that were found."""
    remedy: str
    """What to do."""
    change: str
    """What to change in the recipe."""
    milliseconds: float
    """What can be won at most, in one run; 0: not known."""
    layers: tuple[str, ...] = ()
    """The engine layers that it is about."""
    nodes: tuple[str, ...] = ()
    """The ONNX nodes behind them."""


@dataclass(frozen=True)
class Advice(Artifact):
    """What would make an engine faster or smaller, the largest gain first."""

    hints: tuple[Hint, ...]
    basis: Literal["measured", "predicted"]
    """What the times are."""
