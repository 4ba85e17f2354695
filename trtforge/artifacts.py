"""What steps hand to later steps. Each is a frozen dataclass; the key in a context is its class.

Fields hold only numbers, text, arrays, paths, other artifacts, and tuples or mappings of them, so
that the step cache can store every artifact, also a third party's, without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trtforge.array_files import Array as Array  # noqa: PLC0414  # handed on to steps
from trtforge.file_feeds import FileFeeds


@dataclass(frozen=True)
class Artifact:
    """Base of everything that a step may give to later steps."""


@dataclass(frozen=True)
class TaskMetric(Artifact):
    """A function of the user that says how well a model does (:mod:`trtforge.task_accuracy`)."""

    function: str
    """``package.module:function``."""
    digest: str
    """Hash of the file that holds it, so that a result of the step cache is never of older code."""


@dataclass(frozen=True)
class Batches(Artifact):
    """Input data for calibration or comparison."""

    feeds: tuple[Mapping[str, Array], ...] | FileFeeds
    """One mapping of input name to array per batch; those of files are read when asked for."""
    source: str
    """Where it comes from: a path, or ``synthesized (seed 0)``."""
    real: bool = True
    """False for synthesized data; every report that rests on it says so."""
    labels: Array | None = None
    """Class labels, one per sample, where the data has them."""
    metric: TaskMetric | None = None
    """What task accuracy is; None: the share of samples whose largest score is at the label."""

    @property
    def samples(self) -> int:
        """Number of samples over all batches (length of the first axis of the first input)."""
        if isinstance(self.feeds, FileFeeds):
            return self.feeds.samples
        firsts = (next(iter(feed.values())) for feed in self.feeds if feed)
        return sum(len(first) if first.ndim else 1 for first in firsts)


@dataclass(frozen=True)
class Range(Artifact):
    """The smallest and largest value seen, or chosen, for one tensor."""

    low: float
    high: float

    @property
    def amax(self) -> float:
        """Largest magnitude, which a symmetric scale is made from."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Ranges(Artifact):
    """What a calibrator gives: value ranges by tensor name."""

    by_tensor: Mapping[str, Range]
    method: str
    samples: int
    source: str
    real: bool = True


@dataclass(frozen=True)
class Quantized(Artifact):
    """What a quantizing pass asked for; ``prove-precision`` holds the engine to it."""

    dtype: str
    """``int8`` or ``float8e4m3fn``; ``int4`` for weights."""
    nodes: tuple[str, ...]
    """Names of the nodes whose work must run in ``dtype``."""
    only_stored: bool = False
    """Whether the weights of the nodes have the type, and the work runs in another."""


@dataclass(frozen=True)
class CastTo(Artifact):
    """What a casting pass asked for: the type of everything that is not quantized or kept."""

    dtype: str
    """``float16`` or ``bfloat16``."""
    kept: Mapping[str, str]
    """Nodes left in float32, with the reason."""
    casts_before: int = 0
    """Cast nodes of the model that came in."""
    casts_after: int = 0
    """Cast nodes of the model that went out."""
    measured: int = 0
    """Tensors whose largest magnitude was known."""


@dataclass(frozen=True)
class Memory(Artifact):
    """TensorRT's own totals of one engine, in bytes; None where it printed no figure."""

    activation: int | None = None
    weights: int | None = None
    scratch: int | None = None
    host_persistent: int | None = None
    device_persistent: int | None = None
    build_peak_rss: int | None = None
    """Peak resident memory of the build process."""

    @property
    def total(self) -> int | None:
        """GPU memory of the engine with one context; None where a part is not known."""
        if self.activation is None or self.weights is None:
            return None
        return self.activation + self.weights + (self.device_persistent or 0)


@dataclass(frozen=True)
class Engine(Artifact):
    """One serialized engine and what is known of it."""

    path: Path
    flavor: Literal["tensorrt", "tensorrt_rtx", "other"]
    """Which library made it."""
    version: str
    targets: tuple[str, ...]
    """Compute capabilities it was built for, for example ``("sm_86", "sm_89")``."""
    size: int
    """Bytes."""
    seconds: float
    """Wall time of parsing and building."""
    memory: Memory = field(default_factory=Memory)
    layer_dump: Path | None = None
    """TensorRT's detailed layer list, as it printed it."""
    events: tuple[str, ...] = ()
    """TensorRT's warnings and errors, in order."""
    cuda: str = ""
    """Major version of CUDA that the library was made for; empty: not known."""
    platform: str = ""
    """System and processor that the engine runs on: ``linux-x86_64``; empty: not known."""
    gpu: str = ""
    """GPU that it was built on; empty: on none."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which other GPUs the builder was asked to serve."""
    version_compatible: bool = False
    """Whether later versions of the library may run it too."""


@dataclass(frozen=True)
class LayerTensor(Artifact):
    """An input, constant or output of an engine layer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: str = ""


@dataclass(frozen=True)
class EngineLayer(Artifact):
    """One layer of a built engine. A *layer* is TensorRT's, a *node* is ONNX's."""

    name: str
    kind: str
    """TensorRT's own word: ``gemm``, ``correlation``, ``kgen``, ``runtime_fusion``, …"""
    inputs: tuple[LayerTensor, ...] = ()
    constants: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()
    nodes: tuple[str, ...] = ()
    """Names of the ONNX nodes behind it."""
    tactic: str = ""
    stream: int | None = None


@dataclass(frozen=True)
class EngineLayers(Artifact):
    """The layers of the engine, read from TensorRT's detailed dump; no GPU is needed for it."""

    layers: tuple[EngineLayer, ...]


@dataclass(frozen=True)
class PrecisionShare(Artifact):
    """How much of the heavy work runs in one type."""

    dtype: str
    macs: int
    share: float
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionProof(Artifact):
    """Which share of the multiply-accumulates really runs in which type, and what deviates."""

    shares: tuple[PrecisionShare, ...]
    total_macs: int
    asked: Mapping[str, str]
    """Node name to the type that the recipe asked for."""
    deviations: Mapping[str, str]
    """Node name to a sentence: asked for one type, runs in another."""
    unknown: tuple[str, ...] = ()
    """Heavy nodes that no engine layer names."""

    @property
    def holds(self) -> bool:
        """Whether everything runs in the type that was asked for."""
        return not self.deviations and not self.unknown


@dataclass(frozen=True)
class OutputComparison(Artifact):
    """One output of two models on the same inputs. NaN and Inf are counted, never averaged."""

    name: str
    max_abs: float
    max_rel: float
    cosine: float
    sqnr_db: float
    """Signal to quantization-noise ratio in decibels; infinite for equal outputs."""
    top1_agreement: float | None
    """Share of samples whose largest entry is the same; None for outputs that are no scores."""
    nonfinite_expected: int = 0
    nonfinite_actual: int = 0
    nonfinite_mismatch: int = 0
    """Positions where only one of the two is finite, or where their NaN/Inf differ."""
    problem: str = ""
    """Why the outputs cannot be compared: missing, another shape, another type."""
    sample_cosine: float | None = None
    """Smallest cosine of one sample, an entry of the first axis; None below rank 2."""


@dataclass(frozen=True)
class Comparison(Artifact):
    """The final model against the model that was given."""

    outputs: tuple[OutputComparison, ...]
    data: str
    """Which data it rests on."""
    real: bool
    samples: int
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Task accuracy, where the data has labels or a metric: ``{"given": 0.97, "final": 0.97}``."""


@dataclass(frozen=True)
class LayerTiming(Artifact):
    """Time of one layer or node: milliseconds per run."""

    name: str
    median_ms: float
    share: float


@dataclass(frozen=True)
class Timings(Artifact):
    """What a profiler gives; milliseconds."""

    device: str
    """What ran: ``onnxruntime CPUExecutionProvider``, a GPU's name, …"""
    runs: int
    warmup: int
    median_ms: float
    p90_ms: float | None
    """None: not known; a profile of layers does not tell how whole runs spread."""
    p99_ms: float | None
    layers: tuple[LayerTiming, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """``median``, ``p90``, ``p99`` to where it lies with 95 % confidence; missing: too few runs."""
    notes: tuple[str, ...] = ()
    """Under which conditions: CUDA graph, transfers, clocks, throttling, drift."""


@dataclass(frozen=True)
class Figures(Artifact):
    """Named numbers a step wants in the report, for example a third party's metric."""

    values: Mapping[str, float]
