"""The picture of memory over the graph, as SVG text: one column for each kernel, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from trtforge.quantities import ByteSize, format_bytes

if TYPE_CHECKING:
    from markupsafe import Markup

    from trtforge.memory_plan import MemoryPlan

LEFT, RIGHT, TOP, BOTTOM = 64.0, 624.0, 12.0, 216.0
COLUMNS = 1000
"""Columns that a picture has at most; of several kernels in one, the highest counts."""


@dataclass(frozen=True)
class Level:
    """Memory that is in use while one kernel runs."""

    size: int
    """Bytes."""
    title: str
    """What is shown of it where the pointer rests."""


def memory_picture(plan: MemoryPlan | None, required: object = None) -> Markup | None:
    """Return the picture of memory over the graph, or None where nothing was planned.

    Args:
        plan: What was predicted.
        required: Largest activation memory, as a recipe writes it; None: none.
    """
    from markupsafe import Markup

    if plan is None or not plan.timeline:
        return None
    levels = [
        Level(each.live, f"{each.title}: {format_bytes(each.live)}") for each in plan.timeline
    ]
    limit = None if required is None else ByteSize(str(required))
    return Markup(columns(levels, limit))  # noqa: S704  # columns escapes names


def columns(levels: Sequence[Level], limit: int | None) -> str:
    """Return the picture; the highest column is marked, by a colour and by a word.

    Args:
        levels: At least one, in the order in which the kernels run.
        limit: Bytes that are required: a dashed line; None: none.
    """
    top = max(*(each.size for each in levels), limit or 0) or 1
    shown = list(_columns(levels))
    peak = max(range(len(shown)), key=lambda at: shown[at].size)
    wide = (RIGHT - LEFT) / len(shown)
    parts = list(_axes(top, len(levels)))
    for at, level in enumerate(shown):
        tall = level.size / top * (BOTTOM - TOP)
        kind = "peak" if at == peak else "inside"
        parts.append(
            f'<path class="{kind}" d="M{LEFT + at * wide:.2f} {BOTTOM}v{-tall:.2f}h{wide:.2f}'
            f'v{tall:.2f}z"><title>{escape(level.title)}</title></path>'
        )
    x = min(max(LEFT + (peak + 0.5) * wide, LEFT + 40), RIGHT - 40)
    y = BOTTOM - shown[peak].size / top * (BOTTOM - TOP)
    parts.append(_text(x, max(y - 4, TOP - 2), f"peak {format_bytes(shown[peak].size)}", "middle"))
    if limit is not None:
        y = BOTTOM - limit / top * (BOTTOM - TOP)
        parts.append(f'<path class="limit" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        place = (RIGHT - 4, "end") if x < (LEFT + RIGHT) / 2 else (LEFT + 4, "start")
        words = f"required {format_bytes(limit)}"
        parts.append(_text(place[0], max(y - 5, TOP - 2), words, place[1]))
    label = f"memory in use over {len(levels)} kernels, at most {format_bytes(shown[peak].size)}"
    return (
        f'<svg class="curve" viewBox="0 0 640 260" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _columns(levels: Sequence[Level]) -> Iterator[Level]:
    """Yield the levels, of many the highest of neighbours."""
    count = min(len(levels), COLUMNS)
    for at in range(count):
        part = levels[len(levels) * at // count : len(levels) * (at + 1) // count]
        yield max(part, key=lambda each: each.size)


def _axes(top: int, kernels: int) -> Iterator[str]:
    for part in range(5):
        y = BOTTOM - (BOTTOM - TOP) * part / 4
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        yield _text(LEFT - 6, y + 4, format_bytes(top * part // 4), "end")
    middle = (LEFT + RIGHT) / 2
    yield _text(middle, BOTTOM + 22, f"{kernels} kernels in the order in which they run", "middle")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
