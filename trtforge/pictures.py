"""Small pictures of a report, as SVG text that is part of its page: no file, no script.

Colours are the page's; what a colour says is also said by a shape, a dash or a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 160, 34
_TYPES = {
    "int8": 0, "float16": 1, "float32": 2, "float8e4m3fn": 3, "float8e5m2": 3, "bfloat16": 4,
    "int4": 5, "float4e2m1": 5,
}  # fmt: skip


def type_class(dtype: str) -> str:
    """Return the CSS class of a type's colour: the same one in each picture and on each page."""
    return f"type-{_TYPES.get(dtype, 'other')}"


def histogram(counts: Sequence[int], low: float, high: float, limit: float | None) -> str:
    """Return a histogram of a tensor's values; bars are the logarithm of their number.

    Args:
        counts: Values in equal bars from ``low`` to ``high``.
        low: Left end.
        high: Right end.
        limit: Largest magnitude of the chosen range: dashed lines, hatched bars beyond; None: none.
    """
    top = math.log1p(max(counts, default=0)) or 1.0
    step = WIDTH / max(len(counts), 1)
    inside: list[str] = []
    outside: list[str] = []
    for index, count in enumerate(counts):
        if count:
            left = low + (high - low) * index / len(counts)
            right = low + (high - low) * (index + 1) / len(counts)
            clipped = limit is not None and (right < -limit or left > limit)
            tall = max(1.0, math.log1p(count) / top * HEIGHT)
            bar = f"M{index * step:.1f} {HEIGHT}v{-tall:.1f}h{step:.1f}v{tall:.1f}z"
            (outside if clipped else inside).append(bar)
    lines = [
        f'<path class="limit" d="M{(edge - low) / (high - low) * WIDTH:.1f} 0v{HEIGHT}"/>'
        for edge in ((-limit, limit) if limit is not None else ())
        if low < edge < high
    ]
    name = f"values from {low:.3g} to {high:.3g}"
    if lines and limit is not None:
        name += f", clipped at {limit:.3g}"
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f'<path class="inside" d="{"".join(inside)}"/>'
        f'<path class="outside" d="{"".join(outside)}"/>{"".join(lines)}</svg>'
    )


@dataclass(frozen=True)
class CurvePoint:
    """One measured choice: its place, and whether it met what was asked for."""

    x: float
    y: float
    meets: bool
    chosen: bool = False


@dataclass(frozen=True)
class _Frame:
    """Maps numbers to places of a picture of 640 x 260."""

    low: float
    high: float
    first: float
    """The share at the left end; the right end is 1."""
    left: float = 64
    right: float = 624
    top: float = 12
    bottom: float = 216

    def x(self, share: float) -> float:
        part = (share - self.first) / (1 - self.first)
        return self.left + (self.right - self.left) * part

    def y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return self.bottom - (self.bottom - self.top) * part


def curve(points: Sequence[CurvePoint], required: float | None, name: str) -> str:
    """Return the picture of accuracy over the share of work in low precision.

    Args:
        points: ``x`` is a share, 0..1. Filled circles met the requirement, crosses did not; the
            chosen one has a ring.
        required: Dashed line; None: none.
        name: Of the accuracy figure. Points that are not finite are left out.
    """
    shown = sorted((p for p in points if math.isfinite(p.y)), key=lambda point: point.x)
    if not shown:
        return ""
    values = [point.y for point in shown] + ([required] if required is not None else [])
    room = (max(values) - min(values)) * 0.08 or max(abs(max(values)) * 1e-4, 1e-9)
    first = max(0.0, min(math.floor((shown[0].x - 0.02) * 5) / 5, 0.8))  # round numbers at ticks
    frame = _Frame(min(values) - room, max(values) + room, first)
    parts = [*_axes(frame, name), *_line(frame, shown)]
    if required is not None:
        y = frame.y(required)
        parts.append(f'<path class="limit" d="M{frame.left} {y:.1f}H{frame.right}"/>')
        parts.append(_text(frame.left + 4, y - 5, f"required {required:g}", "start"))
    parts += [_mark(frame, point) for point in shown]
    label = f"{escape(name)} over the share of work in low precision, {len(shown)} measured points"
    return (
        f'<svg class="curve" viewBox="0 0 640 260" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _axes(frame: _Frame, name: str) -> Iterator[str]:
    digits = max(2, math.ceil(-math.log10((frame.high - frame.low) / 4)) + 1)
    for part in range(5):
        value = frame.low + (frame.high - frame.low) * part / 4
        y = frame.y(value)
        yield f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.right}"/>'
        yield _text(frame.left - 6, y + 4, f"{value:.{min(digits, 9)}f}", "end")
        share = frame.first + (1 - frame.first) * part / 4
        yield _text(frame.x(share), frame.bottom + 18, f"{share * 100:.4g}%", "middle")
    middle = (frame.left + frame.right) / 2
    yield _text(middle, frame.bottom + 38, f"share of work in low precision; up: {name}", "middle")


def _line(frame: _Frame, points: Iterable[CurvePoint]) -> Iterator[str]:
    places = " ".join(f"{frame.x(p.x):.1f},{frame.y(p.y):.1f}" for p in points)
    yield f'<polyline class="line" points="{places}"/>'


def _mark(frame: _Frame, point: CurvePoint) -> str:
    x, y = frame.x(point.x), frame.y(point.y)
    title = f"<title>{point.x:.1%}: {point.y:.6g}</title>"
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>' if point.chosen else ""
    if point.meets:
        return f'<g>{title}{ring}<circle class="meets" cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'
    cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    return f'<g>{title}{ring}<path class="misses" d="{cross}"/></g>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
