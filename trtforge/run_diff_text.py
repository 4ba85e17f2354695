"""Says in lines for a terminal what two runs asked for, did and found differently."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from trtforge.quantities import format_bytes, percent
from trtforge.report_facts import UNKNOWN, digits, headline

if TYPE_CHECKING:
    from trtforge.report_facts import Requirement
    from trtforge.run_diff import Pair, RunDiff, StepPair, Value

_SHOWN = 8


def run_lines(diff: RunDiff) -> Iterator[str]:
    """Yield the verdicts, and under each title what differs."""
    yield f"Verdict    {headline(diff.verdicts[0])} -> {headline(diff.verdicts[1])}"
    yield from (f"Careful    {sentence}" for sentence in diff.cautions)
    yield from _rows("Asked", diff.request)
    for each in diff.required:
        sides = (_requirement(side) for side in (each.before, each.after))
        yield f"Required   {each.name}: {' -> '.join(sides)}"
    for output in diff.accuracy:
        yield from _rows("Accuracy", output.figures, f"{output.name}: ")
    yield from _rows("Accuracy", [diff.task_accuracy])
    yield from _rows("Precision", diff.precision)
    yield from _rows("Node", diff.retyped)
    yield from _rows("Size", diff.sizes)
    yield from _rows("Nodes", diff.operators)
    steps = [step for step in diff.steps if step.differs]
    for step in steps[:_SHOWN]:
        yield f"Step       {step.stage}: {step.step}: {step_text(step)}"
    yield from _more("Step", len(steps))
    yield from _rows("Machine", diff.environment)


def _rows(title: str, pairs: Iterable[Pair], of: str = "") -> Iterator[str]:
    rows = [pair for pair in pairs if pair.differs]
    for pair in rows[:_SHOWN]:
        before, after = value_text(pair.before, pair.unit), value_text(pair.after, pair.unit)
        yield f"{title:<10} {of}{pair.name}: {before} -> {after}{change_text(pair, ' ({})')}"
    yield from _more(title, len(rows))


def _more(title: str, count: int) -> Iterator[str]:
    if count > _SHOWN:
        yield f"{title:<10} and {count - _SHOWN} more: --json and --html have all"


def _requirement(side: Requirement | None) -> str:
    if side is None:
        return "not required"
    state = {True: "met", False: "missed", None: "not measured"}[side.met]
    return f"{side.found}, asked {side.asked}, {state}"


def step_text(step: StepPair) -> str:
    """Say what is different about a step."""
    if step.before is None or step.after is None:
        return "only in the second run" if step.before is None else "only in the first run"
    before, after = step.before, step.after
    parts = [f"{pair.name}: {value_text(pair.before)} -> {value_text(pair.after)}"
             for pair in step.options]  # fmt: skip
    if before.changes != after.changes:
        parts.append(f"{before.changes} -> {after.changes} changes")
    if before.nodes != after.nodes:
        parts.append(f"{value_text(before.nodes)} -> {value_text(after.nodes)} nodes after it")
    if len(before.notes) != len(after.notes):
        parts.append(f"{len(before.notes)} -> {len(after.notes)} notes")
    for record, which in ((before, "first"), (after, "second")):
        if record.error:
            parts.append(f"failed in the {which} run: {record.error}")
    return "; ".join(parts)


def value_text(value: Value, unit: str = "") -> str:
    """Return one side of a pair as text."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return value
    if unit == "B":
        return format_bytes(int(value))
    if unit == "share":
        return percent(value)
    text = f"{value:,}" if isinstance(value, int) else digits(value, 6 if not unit else 4)
    return f"{text} {unit}" if unit else text


def change_text(pair: Pair, frame: str = "{}") -> str:
    """Return the change: percent of bytes, points of a share, decibels, a difference; or ""."""
    before, after = pair.before, pair.after
    if before == after:
        return ""
    if before is None or after is None:
        return frame.format(f"only in the {'second' if before is None else 'first'}")
    if isinstance(before, str) or isinstance(after, str):
        return ""
    change = after - before
    return frame.format(_signed(change, before, pair.unit)) if math.isfinite(change) else ""


def _signed(change: float, before: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * change:+.2f} points"
    if unit == "dB":
        return f"{change:+.3g} dB"
    if unit == "B" and before:
        return f"{100 * change / before:+.1f} %"
    return f"{change:+,}" if isinstance(change, int) else f"{change:+.3g}"
