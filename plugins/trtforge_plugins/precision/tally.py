"""On-line statistics of one tensor: one pass, fixed memory, no range known beforehand.

The histogram has bins of a power-of-two width. When a value does not fit, the width doubles and
neighbouring bins are merged; bins start at multiples of the width, so merging is exact and the
result does not depend on the order of the data. Arrays may be NumPy's or CuPy's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge import TensorStatistics

if TYPE_CHECKING:
    from trtforge.artifacts import Array

BINS = 4096
"""Bins on each side of zero; the largest magnitude lies in the upper half of them."""
_SMALLEST = -100
"""Exponent under which bins are not made finer: scaling stays within float32."""
_ON_CPU = 2**17
"""Values looked at at once: they and their bins stay in a core's cache."""
_COPIES = 2
"""Histograms that neighbouring values go to in turn: equal ones, as zeros, need not wait for one
another's increment to be stored. All bins together are numbered in int16."""
_ON_GPU = 2**24
_FEW = 128
"""Values of a channel, in one sample, over which no loop of their own is worth while."""
_NONE: Array = np.zeros(0, np.float32)


class NonFiniteError(ValueError):
    """A tensor holds NaN or Inf."""


class Scratch:
    """Buffers for one block of values, shared by all tensors.

    Args:
        arrays: The module that arrays come from: ``numpy`` or ``cupy``.
    """

    def __init__(self, arrays: Any = np) -> None:
        self.arrays = arrays
        self.size = _ON_CPU if arrays is np else _ON_GPU
        self.scaled = arrays.empty(self.size, np.float32)
        self.bins = arrays.empty(self.size, np.int16)
        self.flags = arrays.empty(self.size, bool)
        turn = arrays.arange(self.size) % _COPIES
        self.first_bins = (turn * 2 * BINS + BINS).astype(np.int16)


class Buffers:
    """The buffers for arrays of the CPU and of a GPU, made when they are first needed."""

    def __init__(self) -> None:
        self._made: dict[bool, Scratch] = {}

    def of(self, array: Array) -> Scratch:
        """Return the buffers that lie where ``array`` lies."""
        on_gpu = hasattr(array, "get")  # as CuPy's arrays have, and NumPy's have not
        if on_gpu not in self._made:
            self._made[on_gpu] = Scratch(_cupy() if on_gpu else np)
        return self._made[on_gpu]


def _cupy() -> Any:
    import cupy

    return cupy


@dataclass
class Totals:
    """Sums over all values so far, and what is kept of each batch."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0
    count: int = 0
    zeros: int = 0
    exponent: int = _SMALLEST
    """Bins cover [-2**exponent, 2**exponent)."""
    batches: int = 0
    lows: float = 0.0
    """Sum of the smallest values of the batches."""
    highs: float = 0.0


class Tally:
    """What was seen of one tensor.

    Args:
        axis: Axis of the channels: not negative, or -1 for the last.
        histogram: Whether more than the extremes is wanted.
    """

    def __init__(self, axis: int, *, histogram: bool = True) -> None:
        self.axis = axis
        self._histogram = histogram
        self.totals = Totals()
        self.counts: Array = np.zeros(2 * BINS, np.int64)
        self.channels: Array | None = None
        self.growth: list[float] = []
        self._batch = (math.inf, -math.inf)

    @property
    def amax(self) -> float:
        """Largest magnitude so far."""
        return max(abs(self.totals.low), abs(self.totals.high)) if self.totals.count else 0.0

    def add(self, array: Array, scratch: Scratch) -> None:
        """Look at each value of ``array`` once.

        Raises:
            NonFiniteError: it holds NaN or Inf; its name is ``NaN`` or ``Inf``.
        """
        if not array.size:
            return
        xp = scratch.arrays
        matrix = _Matrix(xp.ascontiguousarray(array), self.axis)
        over = 1 if matrix.columns_are_channels else 0  # the axis that stays
        peaks = xp.zeros(matrix.rows.shape[over], np.float32)
        for block, part in _blocks(matrix.rows, scratch.size):
            highest, lowest = block.max(axis=1 - over), block.min(axis=1 - over)
            peak = xp.maximum(highest, -lowest)
            peaks[part[over]] = xp.maximum(peaks[part[over]], peak)
            self._extend(float(lowest.min()), float(highest.max()))
            if self._histogram:
                self._count(block, scratch)
        self.totals.count += array.size
        self._merge_channels(_on_cpu(matrix.by_channel(peaks)))

    def end_batch(self, *, share: bool) -> None:
        """Note the extremes of the batch that ended, and of a share of the data that ended."""
        low, high = self._batch
        if low <= high:
            self.totals.batches += 1
            self.totals.lows += low
            self.totals.highs += high
        self._batch = (math.inf, -math.inf)
        if share:
            self.growth.append(self.amax)

    def statistics(self) -> TensorStatistics | None:
        """Return the statistics, or None where no value was seen."""
        seen = self.totals
        if not seen.count:
            return None
        mean = seen.total / seen.count
        return TensorStatistics(
            low=seen.low,
            high=seen.high,
            mean=mean,
            deviation=math.sqrt(max(seen.squares / seen.count - mean * mean, 0.0)),
            count=seen.count,
            zeros=seen.zeros,
            counts=self.counts,
            width=2.0**seen.exponent / BINS,
            channel_amax=_NONE if self.channels is None else self.channels,
            channel_axis=self.axis,
            growth=np.array(self.growth, np.float32),
            average_low=seen.lows / max(seen.batches, 1),
            average_high=seen.highs / max(seen.batches, 1),
        )

    def state(self) -> dict[str, Array]:
        """Return everything as arrays, between two batches."""
        totals = [float(getattr(self.totals, field.name)) for field in fields(Totals)]
        return {
            "totals": np.array(totals),
            "counts": self.counts,
            **({} if self.channels is None else {"channels": self.channels}),
            "growth": np.array(self.growth),
        }

    def restore(self, state: dict[str, Array]) -> None:
        """Take over what :meth:`state` returned."""
        for field, number in zip(fields(Totals), state["totals"].tolist(), strict=True):
            kind = type(getattr(self.totals, field.name))
            setattr(self.totals, field.name, kind(number))
        self.counts, self.channels = state["counts"], state.get("channels")
        self.growth = state["growth"].tolist()

    def _extend(self, low: float, high: float) -> None:
        """Take in the extremes of a block, and make room for them in the histogram."""
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NonFiniteError("NaN" if math.isnan(low) or math.isnan(high) else "Inf")
        seen = self.totals
        counted = self._histogram and seen.low <= seen.high  # else the bins are empty yet
        seen.low, seen.high = min(seen.low, low), max(seen.high, high)
        self._batch = (min(self._batch[0], low), max(self._batch[1], high))
        largest = max(abs(low), abs(high))
        needed = math.frexp(largest)[1] if largest else _SMALLEST
        doublings = min(max(needed - seen.exponent, 0), BINS.bit_length())
        for _ in range(doublings if counted else 0):
            half = self.counts.reshape(BINS, 2).sum(axis=1)
            self.counts = np.zeros_like(self.counts)
            self.counts[BINS // 2 : BINS // 2 + BINS] = half
        seen.exponent = max(seen.exponent, needed)

    def _count(self, block: Array, scratch: Scratch) -> None:
        xp, seen, size = scratch.arrays, self.totals, block.size
        scaled, bins, flags = scratch.scaled[:size], scratch.bins[:size], scratch.flags[:size]
        flat = block.reshape(-1)
        width = 2.0**seen.exponent / BINS
        xp.multiply(flat, np.float32(1 / width), out=scaled, dtype=np.float32)
        seen.total += float(scaled.sum()) * width
        seen.squares += float(xp.dot(scaled, scaled)) * width**2
        xp.equal(flat, 0, out=flags)
        seen.zeros += int(xp.count_nonzero(flags))
        xp.floor(scaled, out=scaled)
        xp.copyto(bins, scaled, casting="unsafe")
        bins += scratch.first_bins[:size]
        counted = xp.bincount(bins, minlength=_COPIES * 2 * BINS)
        self.counts += _on_cpu(counted.reshape(_COPIES, 2 * BINS).sum(axis=0))

    def _merge_channels(self, peaks: Array) -> None:
        if self.channels is None:
            self.channels = peaks
        elif self.channels.size == peaks.size:
            self.channels = np.maximum(self.channels, peaks)
        else:  # the axis has another length in each batch, so it is none of channels
            self.channels = _NONE


class _Matrix:
    """A tensor as a matrix that NumPy reduces quickly: whose reduced axis is long or contiguous.

    Its columns are channels, or the values of channels that have few each; else each row is one
    channel of one sample.
    """

    def __init__(self, array: Array, axis: int) -> None:
        if not -array.ndim <= axis < array.ndim:
            array, axis = array.reshape(-1, 1), 1
        self._channels = array.shape[axis]
        self._after = math.prod(array.shape[axis % array.ndim + 1 :])
        self.columns_are_channels = self._after < _FEW
        columns = self._channels * self._after if self.columns_are_channels else self._after
        self.rows: Array = array.reshape(-1, columns)

    def by_channel(self, peaks: Array) -> Array:
        """Return the largest of each channel, of the largest of each column or row."""
        if self.columns_are_channels:
            largest: Array = peaks.reshape(self._channels, self._after).max(axis=1)
        else:
            largest = peaks.reshape(-1, self._channels).max(axis=0)
        return largest


def _blocks(rows: Array, size: int) -> Iterator[tuple[Array, tuple[slice, slice]]]:
    """Yield contiguous parts of at most ``size`` values, and where they lie."""
    count, length = rows.shape
    height = max(1, size // length)
    for top in range(0, count, height):
        for left in range(0, length, size):
            part = slice(top, top + height), slice(left, left + size)
            yield rows[part], part


def _on_cpu(array: Any) -> Array:
    """Return a NumPy array; CuPy's arrays have ``get``."""
    found: Array = array.get() if hasattr(array, "get") else array
    return found
