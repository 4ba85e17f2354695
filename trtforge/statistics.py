"""What one pass over the data saw of each tensor, and what quantization may not touch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from trtforge.artifacts import Artifact

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any

_GREW = 1.05


@dataclass(frozen=True)
class TensorStatistics(Artifact):
    """One tensor over all samples; its size does not depend on how many there were."""

    low: float
    """The smallest value, exact."""
    high: float
    """The largest value, exact."""
    mean: float
    deviation: float
    """Standard deviation."""
    count: int
    """Values seen."""
    zeros: int
    """Values that were exactly 0."""
    counts: Array
    """Histogram: int64[2 * n] over [-n * width, n * width)."""
    width: float
    """Width of one bin; a power of two."""
    channel_amax: Array
    """Largest magnitude per entry of ``channel_axis``: float32[channels]; may be empty."""
    channel_axis: int
    """Axis of the channels, counted from the end for matrix products: -1; 1 for convolutions."""
    growth: Array
    """Largest magnitude after each further share of the data: float32[shares], not falling."""
    average_low: float = 0.0
    """Mean over the batches of each batch's smallest value."""
    average_high: float = 0.0
    """Mean over the batches of each batch's largest value."""

    @property
    def amax(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def converged(self, limit: float = inf) -> bool | None:
        """Return whether the last quarter of the data left the range as it was, within 5 %.

        Growth beyond ``limit``, where the range is clipped anyway, does not count. None: the data
        had one share only, which tells nothing.
        """
        if len(self.growth) < 2:
            return None
        before = float(self.growth[len(self.growth) * 3 // 4 - 1])
        return min(float(self.growth[-1]), limit) <= _GREW * min(before, limit)


@dataclass(frozen=True)
class Statistics(Artifact):
    """What a pass over the data gives; every calibrator chooses its ranges from it."""

    by_tensor: Mapping[str, TensorStatistics]
    samples: int
    source: str
    real: bool = True
    model: str = ""
    """Digest of the model that ran: statistics of another one do not hold."""


@dataclass(frozen=True)
class HighPrecision(Artifact):
    """Nodes that quantizing passes must leave alone, with the reason."""

    nodes: Mapping[str, str]


@dataclass(frozen=True)
class NodeGroup(Artifact):
    """Nodes that are quantized together, because they share an input."""

    nodes: tuple[str, ...]
    macs: int
    """Multiply-accumulates of one run; 0 where they are not known."""
    noise: float
    """Noise power of the outputs over their power, when only this group is quantized; measured on
    a few samples."""
    kept: bool
    """Whether the group stays in high precision."""


@dataclass(frozen=True)
class Evaluated(Artifact):
    """One choice of groups that was measured: a point of the curve of accuracy over work."""

    share: float
    """Share of the multiply-accumulates in low precision, 0..1."""
    cosine: float
    """Smallest of all outputs."""
    sqnr_db: float
    """Smallest of all outputs."""
    accuracy: float | None
    """Task accuracy or the user's metric, where there is one."""
    meets: bool
    """Whether everything that the search aimed at was reached."""
    sample_cosine: float | None = None
    """Smallest of any sample of any output."""
    top1_agreement: float | None = None
    """Smallest of all outputs that are scores."""


@dataclass(frozen=True)
class Sensitivity(Artifact):
    """What a search for the nodes to keep in high precision found."""

    dtype: str
    """The low precision, ``int8``."""
    groups: tuple[NodeGroup, ...]
    """In graph order."""
    curve: tuple[Evaluated, ...]
    """In the order in which they were measured; the last one is the choice."""
    required: Mapping[str, float]
    """The accuracy that was aimed at: ``{"cosine": 0.995}``."""
    evaluations: float
    """Work of the whole search, in passes of the model over the evaluation data."""
    samples: int
    """Samples of the evaluation data."""
    source: str
    """Which data it rests on."""
    skip: tuple[str, ...] = ()
    """The nodes kept in high precision, ready for the option ``skip`` of ``insert-qdq``."""
    missed: tuple[str, ...] = ()
    """A sentence for each requirement that even the choice misses; empty: it meets them."""
