"""What repeated measurements of one time say, and how sure they are of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from trtforge.artifacts import LayerTiming, Timings
from trtforge.errors import DataError

CONFIDENCE = 0.95
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
DRIFT = 0.02
"""Relative change of the median from the first half of the runs to the second that is told."""


def summarize(
    milliseconds: Sequence[float],
    *,
    device: str,
    warmup: int = 0,
    layers: Sequence[tuple[str, float]] = (),
    notes: Sequence[str] = (),
) -> Timings:
    """Return the statistics of runs, in the order in which they ran.

    Args:
        milliseconds: One time for each run, warm-up included.
        device: What ran.
        warmup: So many runs at the start do not count.
        layers: Name and time of each layer or node, milliseconds per run.
        notes: Under which conditions.

    Raises:
        DataError: no run is left after the warm-up, or a time is negative or no number.
    """
    counted = list(milliseconds[warmup:])
    if not counted:
        raise DataError(f"{len(milliseconds)} runs leave none after {warmup} to warm up")
    if not all(math.isfinite(each) and each >= 0 for each in counted):
        raise DataError("a measured time is negative or no number")
    ordered = sorted(counted)
    values = {name: quantile(ordered, share) for name, share in QUANTILES.items()}
    intervals = {name: interval(ordered, share) for name, share in QUANTILES.items()}
    return Timings(
        device=device,
        runs=len(counted),
        warmup=warmup,
        median_ms=values["median"],
        p90_ms=values["p90"],
        p99_ms=values["p99"],
        layers=layer_timings(layers),
        intervals={name: found for name, found in intervals.items() if found is not None},
        notes=(*notes, *_doubts(counted)),
    )


def layer_timings(layers: Sequence[tuple[str, float]]) -> tuple[LayerTiming, ...]:
    """Return the layers with their shares of the sum."""
    total = sum(time for _, time in layers)
    return tuple(LayerTiming(name, time, time / total if total else 0.0) for name, time in layers)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of ``ordered`` lies, between its neighbours.

    It is the usual linear interpolation (type 7 of Hyndman and Fan 1996, numpy's default).
    """
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def interval(ordered: Sequence[float], share: float) -> tuple[float, float] | None:
    """Return where the quantile of the true distribution lies, with 95 % confidence.

    The number of runs below it is binomial, whatever the distribution of the times, so two of the
    ordered times enclose it (David and Nagaraja, Order Statistics, 2003, section 7.1). Both sides
    miss with 2.5 % at most. None: there are too few runs to say.
    """
    count, miss = len(ordered), (1 - CONFIDENCE) / 2
    below, low, high = 0.0, -1, -1
    for number in range(count):  # `number` runs lie below the quantile
        below += math.exp(_log_binomial(count, number, share))
        if below <= miss:
            low = number
        if below >= 1 - miss:
            high = number
            break
    if low < 0 or high < 0:
        return None
    return ordered[low], ordered[high]


def _log_binomial(count: int, number: int, share: float) -> float:
    choose = math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1)
    return choose + number * math.log(share) + (count - number) * math.log1p(-share)


def _doubts(counted: Sequence[float]) -> Iterator[str]:
    if len(counted) < 10:
        yield f"only {len(counted)} runs: the figures are coarse"
        return
    half = len(counted) // 2
    first, second = (quantile(sorted(part), 0.5) for part in (counted[:half], counted[half:]))
    if first and abs(second / first - 1) > DRIFT:
        yield (
            f"the runs drift: median {first:.4g} ms in their first half, {second:.4g} in the second"
        )
