"""Pictures of a run: its steps over time, and the roofline of its layers. SVG text, no script."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from trtforge.records import StepRecord

_ROW, _LABEL, _WIDE = 20, 190, 700


def timeline(stages: Sequence[tuple[str, Sequence[StepRecord]]]) -> str:
    """Return the steps one after the other, a bar for each; what the cache gave has no length.

    Rounds of one step in a stage share a row; the figure behind the last is that of all. Steps that
    took no thousandth of the whole are left out where there are more than forty rows.
    """
    bars = list(_bars(stages))
    whole = sum(bar.seconds for bar in bars) or 1.0
    rows = list(dict.fromkeys(bar.row for bar in bars))
    if len(rows) > 40:
        long = {bar.row for bar in bars if bar.seconds >= whole / 1000}
        rows = [row for row in rows if row in long]
    if not rows:
        return ""
    tall = len(rows) * _ROW + 24
    parts = [
        f'<text x="{_LABEL - 6}" y="{index * _ROW + 14}" text-anchor="end">{escape(row)}</text>'
        for index, row in enumerate(rows)
    ]
    scale = (_WIDE - _LABEL - 70) / whole
    ends: dict[str, tuple[float, int]] = {}
    total: defaultdict[str, float] = defaultdict(float)
    for bar in bars:
        if bar.row in rows:
            y = rows.index(bar.row) * _ROW + 4
            width = max(bar.seconds * scale, 1.0)
            x = _LABEL + bar.start * scale
            kind = "failed" if bar.failed else "inside"
            words = escape(f"{bar.row}: {bar.seconds:.2f} s")
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" '
                f'height="{_ROW - 8}"><title>{words}</title></rect>'
            )
            ends[bar.row] = (x + width, y)
            total[bar.row] += bar.seconds
    parts += [
        f'<text x="{x + 4:.1f}" y="{y + 10}">{total[row]:.1f} s</text>'
        for row, (x, y) in ends.items()
        if total[row] >= whole / 20
    ]
    parts.append(
        f'<text x="{_LABEL}" y="{tall - 4}">0</text>'
        f'<text x="{_WIDE - 70}" y="{tall - 4}" text-anchor="end">{whole:.1f} s</text>'
    )
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDE} {tall}" role="img" '
        f'aria-label="{len(bars)} steps in {whole:.1f} seconds">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Bar:
    row: str
    start: float
    seconds: float
    failed: bool


def _bars(stages: Sequence[tuple[str, Sequence[StepRecord]]]) -> Iterator[_Bar]:
    now = 0.0
    for stage, records in stages:
        for record in records:
            seconds = 0.0 if record.cached else record.seconds
            yield _Bar(f"{stage}: {record.step}", now, seconds, bool(record.error))
            now += seconds


@dataclass(frozen=True)
class RoofPoint:
    """A layer under the roofline."""

    name: str
    intensity: float
    """Operations per byte."""
    rate: float
    """1e12 operations per second: measured, or what the roof allows."""
    measured: bool


def roofline(
    points: Sequence[RoofPoint], bandwidth: float, rates: dict[str, float], device: str
) -> str:
    """Return the layers under the two ceilings of a GPU (Williams, Waterman, Patterson 2009).

    Args:
        points: Layers that compute; hollow where nothing was measured: they lie on the roof.
        bandwidth: 1e9 bytes per second.
        rates: Type to 1e12 operations per second; one ceiling for each.
        device: Its name.
    """
    shown = [p for p in points if p.intensity > 0 and p.rate > 0]
    if not shown or not rates:
        return ""
    knee = max(rates.values()) * 1e3 / bandwidth
    low = min(*(p.intensity for p in shown), 0.1)
    high = max(*(p.intensity for p in shown), knee * 4)
    top = max(*rates.values(), *(p.rate for p in shown)) * 1.5
    floor = min(*(p.rate for p in shown), low * bandwidth / 1e3) / 1.5
    frame = _LogFrame(low, high, floor, top)
    parts = [*_ceilings(frame, bandwidth, rates), *(_roof_mark(frame, p) for p in shown)]
    words = escape(f"roofline of {device} with {len(shown)} layers")
    return (
        f'<svg class="roofline" viewBox="0 0 700 320" role="img" aria-label="{words}">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _LogFrame:
    """Maps intensity and rate to places of a picture of 700 x 320, both logarithmic."""

    low: float
    high: float
    floor: float
    top: float

    def x(self, intensity: float) -> float:
        return 64 + 560 * math.log(intensity / self.low) / math.log(self.high / self.low)

    def y(self, rate: float) -> float:
        return 276 - 260 * math.log(rate / self.floor) / math.log(self.top / self.floor)


def _ceilings(frame: _LogFrame, bandwidth: float, rates: dict[str, float]) -> Iterator[str]:
    for power in range(math.ceil(math.log10(frame.floor)), math.floor(math.log10(frame.top)) + 1):
        y = frame.y(10.0**power)
        yield f'<path class="grid" d="M64 {y:.1f}H624"/>'
        yield f'<text x="58" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
    for power in range(math.ceil(math.log10(frame.low)), math.floor(math.log10(frame.high)) + 1):
        x = frame.x(10.0**power)
        yield f'<path class="grid" d="M{x:.1f} 16V276"/>'
        yield f'<text x="{x:.1f}" y="292" text-anchor="middle">{10.0**power:g}</text>'
    words = "operations per byte; up: 10¹² operations per second"
    yield f'<text x="344" y="312" text-anchor="middle">{words}</text>'
    highest = max(rates.values())
    start, end = frame.low, highest * 1e3 / bandwidth
    yield (
        f'<path class="limit" d="M{frame.x(start):.1f} {frame.y(start * bandwidth / 1e3):.1f}'
        f'L{frame.x(end):.1f} {frame.y(highest):.1f}"/>'
    )
    for kind, rate in sorted(rates.items()):
        x, y = frame.x(max(rate * 1e3 / bandwidth, frame.low)), frame.y(rate)
        yield f'<path class="limit" d="M{x:.1f} {y:.1f}H624"/>'
        yield f'<text x="628" y="{y + 4:.1f}">{escape(kind)}</text>'


def _roof_mark(frame: _LogFrame, point: RoofPoint) -> str:
    kind = "meets" if point.measured else "ring"
    title = escape(f"{point.name}: {point.intensity:.3g} operations per byte")
    x, y = frame.x(point.intensity), frame.y(point.rate)
    return (
        f'<g><title>{title}</title><circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/></g>'
    )
