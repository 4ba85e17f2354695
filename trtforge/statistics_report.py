"""Activation statistics as a report shows them: per tensor what quantization makes of it, and why.

The expected signal to noise ratio is computed from the histogram: every bin's middle is rounded and
clipped as Q/DQ would, so it holds for the whole data without another run of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trtforge.artifacts import Quantized, Range, Ranges
from trtforge.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.context import Context

BARS = 48
"""Bars of a tensor's histogram in the report."""
TELLING_SATURATION = 1e-3
"""Share of clipped values from which the report tells it."""
TELLING_OUTLIERS = 4.0
"""Largest magnitude over the 99.9th percentile from which the report tells it."""
TELLING_SPREAD = 16.0
"""Largest channel over the median one from which the report tells it: four of INT8's seven bits."""
TELLING_DRIFT = 0.5
"""Share of the range that the first share of the data must have shown."""
_DOCUMENTED: dict[str, Any] = {"use_attribute_docstrings": True, "extra": "forbid"}


@dataclass(frozen=True)
class ActivationSummary:
    """What one pass over the data showed of one tensor."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    name: str
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    mean: float
    deviation: float
    """Standard deviation."""
    zeros: float
    """Share of the values that are exactly 0."""
    range: tuple[float, float] | None
    """The range that was chosen; null where none was."""
    saturated: float
    """Share of the values outside the chosen range; they are clipped."""
    outliers: float
    """Largest magnitude over the magnitude that 99.9 % of the values stay within."""
    channels: int
    """Channels that were looked at; 0: none."""
    dead_channels: int
    """Channels whose values were all 0."""
    channel_spread: float
    """Largest magnitude over that of the median channel that is not dead."""
    growth: tuple[float, ...]
    """Largest magnitude after each further share of the data."""
    converged: bool | None
    """Whether the end of the data left the range as it was; null: one share tells nothing."""
    sqnr_db: float | None
    """Expected signal to quantization-noise ratio, decibels; null: the tensor is all 0."""
    histogram: tuple[int, ...]
    """Number of values in equal bars from ``low`` to ``high``."""
    risks: tuple[str, ...]
    """What may cost accuracy, in words."""


@dataclass(frozen=True)
class StatisticsSummary:
    """The tensors that can be quantized, the riskiest first."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    tensors: tuple[ActivationSummary, ...]
    dtype: str
    """The type that the expected signal to noise ratio is about."""
    method: str
    """How the ranges were chosen; empty: no calibrator ran."""
    samples: int
    source: str
    """Which data it rests on."""
    real: bool


def summarize_statistics(ctx: Context) -> StatisticsSummary | None:
    """Return the statistics of a run, or None where none were collected."""
    statistics = ctx.find(Statistics)
    if statistics is None:
        return None
    ranges, quantized = ctx.find(Ranges), ctx.find(Quantized)
    dtype = quantized.dtype if quantized and quantized.dtype in _ROUNDING else "int8"
    chosen: Mapping[str, Range] = ranges.by_tensor if ranges else {}
    tensors = [
        summarize_tensor(name, seen, chosen.get(name), dtype)
        for name, seen in statistics.by_tensor.items()
    ]
    tensors.sort(key=lambda each: -math.inf if each.sqnr_db is None else each.sqnr_db)
    return StatisticsSummary(
        tuple(tensors), dtype, ranges.method if ranges else "",
        statistics.samples, statistics.source, statistics.real,
    )  # fmt: skip


def summarize_tensor(
    name: str, seen: TensorStatistics, chosen: Range | None, dtype: str = "int8"
) -> ActivationSummary:
    """Return what the report shows of one tensor.

    Args:
        name: Of the tensor.
        seen: What was seen of it.
        chosen: The range of its scale; None: all that was seen.
        dtype: ``int8`` or ``float8e4m3fn``.
    """
    import numpy as np

    amax = chosen.amax if chosen else seen.amax
    middles = (np.arange(seen.counts.size) - seen.counts.size // 2 + 0.5) * seen.width
    beyond = np.abs(middles) - seen.width / 2 > amax  # bins that lie outside as a whole
    channels = np.asarray(seen.channel_amax, np.float64)
    alive = np.minimum(channels[channels > 0], amax)
    facts = ActivationSummary(
        name=name,
        low=seen.low,
        high=seen.high,
        mean=seen.mean,
        deviation=seen.deviation,
        zeros=seen.zeros / max(seen.count, 1),
        range=(chosen.low, chosen.high) if chosen else None,
        saturated=float(seen.counts[beyond].sum()) / max(seen.count, 1),
        outliers=_outliers(seen, middles),
        channels=channels.size,
        dead_channels=channels.size - alive.size,
        channel_spread=float(alive.max() / np.median(alive)) if alive.size else 1.0,
        growth=tuple(map(float, seen.growth)),
        converged=seen.converged(amax),
        sqnr_db=_expected_sqnr(seen, middles, amax, dtype),
        histogram=_bars(seen, middles),
        risks=(),
    )
    return _with_risks(facts, amax)


def _with_risks(facts: ActivationSummary, amax: float) -> ActivationSummary:
    return replace(facts, risks=tuple(_risks(facts, amax)))


def _risks(facts: ActivationSummary, amax: float) -> Iterator[str]:
    if facts.sqnr_db is None:
        yield "always 0: no scale fits"
        return
    if facts.converged is False:
        yield "range still grew at the end of the data"
    if facts.growth and facts.growth[0] < TELLING_DRIFT * min(facts.growth[-1], amax):
        yield f"the first share of the data reached {facts.growth[0]:.3g} only"
    if facts.saturated >= TELLING_SATURATION:
        yield f"{facts.saturated:.2%} of the values are clipped"
    if facts.outliers >= TELLING_OUTLIERS and facts.saturated == 0:
        yield f"outliers: {facts.outliers:.0f} times the 99.9th percentile"
    if facts.channel_spread >= TELLING_SPREAD:
        yield f"largest channel {facts.channel_spread:.0f} times the median one"
    if facts.dead_channels:
        yield f"{facts.dead_channels} of {facts.channels} channels are always 0"


def _outliers(seen: TensorStatistics, middles: Array) -> float:
    """Return the largest magnitude over the 99.9th percentile; at least 1."""
    import numpy as np

    half = seen.counts.size // 2
    magnitudes = seen.counts[half:] + seen.counts[:half][::-1]
    place = int(np.searchsorted(np.cumsum(magnitudes), 0.999 * magnitudes.sum()))
    edge = float(middles[half + min(place, half - 1)]) + seen.width / 2
    return max(1.0, seen.amax / edge) if edge else 1.0


def _expected_sqnr(seen: TensorStatistics, middles: Array, amax: float, dtype: str) -> float | None:
    """Return 10 log10 of signal over noise, both summed over the histogram; zeros cost nothing."""
    import numpy as np

    if not 0 < amax < math.inf or not seen.amax:
        return None
    counts = seen.counts.astype(np.float64)
    middle = counts.size // 2
    counts[middle] = max(counts[middle] - seen.zeros, 0)
    largest, rounded = _ROUNDING[dtype]
    scale = amax / largest
    error = np.clip(rounded(middles / scale), -largest, largest) * scale - middles
    noise = float(counts @ error**2)
    signal = float(counts @ middles**2)
    if not signal:
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf


def _round_float8(values: Array) -> Array:
    import ml_dtypes
    import numpy as np

    clipped = np.clip(values, -448, 448).astype(np.float32)
    return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def _round_int8(values: Array) -> Array:
    import numpy as np

    rounded: Array = np.rint(values)
    return rounded


_ROUNDING = {"int8": (127.0, _round_int8), "float8e4m3fn": (448.0, _round_float8)}


def _bars(seen: TensorStatistics, middles: Array) -> tuple[int, ...]:
    """Return the histogram over [low, high] in :data:`BARS` bars; bins are not split."""
    import numpy as np

    if seen.high <= seen.low:
        return (int(seen.count),)
    place = ((middles - seen.low) / (seen.high - seen.low) * BARS).astype(np.int64)
    bars = np.bincount(np.clip(place, 0, BARS - 1), seen.counts, BARS)
    return tuple(int(bar) for bar in bars)
