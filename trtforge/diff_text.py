"""Says what two engines do differently: lines for a terminal, and data for ``--json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trtforge.profile_text import duration
from trtforge.quantities import format_bytes
from trtforge.report_facts import digits
from trtforge.run_diff_text import run_lines

if TYPE_CHECKING:
    from trtforge.analysis import LayerCost
    from trtforge.diff import Diff
    from trtforge.diff_figures import Figure
    from trtforge.layer_diff import Change, EngineDiff, Total

WORDS: Mapping[str, str] = {
    "fused": "fused differently",
    "precision": "another precision",
    "output": "another output type, shape or format",
    "moves": "added copies, casts or (de)quantizers",
    "added": "only in the second",
    "removed": "only in the first",
    "time": "another time",
}
_NO_LAYERS = {"basis": "none", "same": 0, "by_op": (), "by_module": ()}
_SHOWN = 4
_TOTALS = 8
_TIMES = 11  # more than +1000 % is told as a multiple


def diff_lines(diff: Diff, top: int) -> Iterator[str]:
    """Yield what differs between the runs, then the engines' ``top`` changes by their effect."""
    yield f"First      {diff.before}"
    yield f"Second     {diff.after}"
    if diff.run is not None:
        yield from run_lines(diff.run)
    if diff.engines is None:
        yield f"Layers     not compared: {diff.no_layers}"
    else:
        yield from _engine_lines(diff.engines, top)


def _engine_lines(diff: EngineDiff, top: int) -> Iterator[str]:
    yield f"Times      {basis_text(diff)}"
    for figure in diff.figures:
        if figure.change:
            yield f"  {figure.name:<18} {figure_text(figure)}"
    if not diff.changes:
        yield "The engines compute the same nodes in the same layers, types and formats."
        return
    counts = Counter(word for change in diff.changes for word in change.what)
    told = ", ".join(f"{WORDS[word]} {count}" for word, count in counts.most_common())
    yield f"Changes    {len(diff.changes)}: {told}; {diff.same} layers are the same"
    yield from _total_lines("operator", diff.by_op)
    yield from _total_lines("module", diff.by_module)
    for change in diff.changes[:top]:
        yield ""
        yield from _change_lines(change)
    if len(diff.changes) > top:
        yield ""
        yield f"{len(diff.changes) - top} further changes: --top shows more, --json all"


def basis_text(diff: EngineDiff) -> str:
    """Say what the times are."""
    if diff.basis == "measured":
        return "measured"
    return "predicted: each layer's floor on that GPU; nothing was measured"


def figure_text(figure: Figure) -> str:
    """Return before, after and the change of ``figure``."""
    before, after = (number_text(value, figure.unit) for value in (figure.before, figure.after))
    share = f" ({change_of_figure(figure)})" if figure.before else ""
    return f"{before} -> {after}{share}"


def change_of_figure(figure: Figure) -> str:
    """Return the change of ``figure`` in percent, or how many times it is; "" where it was 0."""
    if not figure.before:
        return ""
    ratio = figure.after / figure.before
    return f"{ratio:,.0f} times" if ratio >= _TIMES else f"{100 * (ratio - 1):+.1f} %"


def number_text(value: float, unit: str) -> str:
    """Return one side of a figure."""
    if unit == "ms":
        return duration(value)
    if unit == "B":
        return format_bytes(int(value))
    return f"{value:,.0f}" if float(value).is_integer() else digits(value, 6)


def _total_lines(what: str, totals: Sequence[Total]) -> Iterator[str]:
    changed = [each for each in totals if each.before_ms != each.after_ms]
    if changed:
        yield f"By {what}"
    for each in changed[:_TOTALS]:
        change = signed_time(each.after_ms - each.before_ms)
        yield (
            f"  {change:>10}  {each.name}: {duration(each.before_ms)} -> {duration(each.after_ms)}"
        )


def _change_lines(change: Change) -> Iterator[str]:
    what = ", ".join(WORDS[word] for word in change.what)
    moved = signed_bytes(change.effect_bytes)
    yield f"{signed_time(change.effect_ms)}, {moved} moved: {what}"
    yield f"  nodes    {few(change.nodes)}"
    if change.ops:
        yield f"  ops      {few(change.ops)}"
    if change.modules:
        yield f"  modules  {few(change.modules)}"
    for title, layers in (("first", change.before), ("second", change.after)):
        for layer in layers[:_SHOWN]:
            yield f"  {title:<8} {layer_text(layer)}"
        if len(layers) > _SHOWN:
            yield f"  {title:<8} and {len(layers) - _SHOWN} more layers"


def signed_time(milliseconds: float) -> str:
    """Return a change of time with its sign."""
    return f"{'-' if milliseconds < 0 else '+'}{duration(abs(milliseconds))}"


def signed_bytes(size: int) -> str:
    """Return a change of bytes with its sign."""
    return f"{'-' if size < 0 else '+'}{format_bytes(abs(size))}"


def few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def layer_text(layer: LayerCost) -> str:
    """Return one layer in a line."""
    return f"{layer.name} ({layer.kind}, {layer.dtype}) -> {'; '.join(layer.outputs)}"


def diff_data(diff: Diff) -> dict[str, Any]:
    """Return ``diff`` for JSON, with the effects that follow from the rest.

    The keys of the engines stand at the top; where no layers were compared, their lists are empty
    and ``no_layers`` says why.
    """
    engines = asdict(diff.engines) if diff.engines else _NO_LAYERS
    changes = [
        {**asdict(each), "effect_ms": each.effect_ms}
        for each in (diff.engines.changes if diff.engines else ())
    ]
    return {**engines, **asdict(diff), "changes": changes, "engines": diff.engines is not None}
