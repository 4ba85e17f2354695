"""What two runs or engines do differently, as one HTML page: self-contained, offline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from trtforge.diff_text import (
    WORDS,
    basis_text,
    change_of_figure,
    layer_text,
    number_text,
    signed_bytes,
    signed_time,
)
from trtforge.page_frame import render_page
from trtforge.run_diff_text import change_text, step_text, value_text

if TYPE_CHECKING:
    from trtforge.diff import Diff

_NAMES = {
    "floor": "floor of a run",
    "in_turn": "layers one after another",
    "moves": "layers that only copy or cast",
    "quantizers": "layers that only (de)quantize",
    "moved": "bytes read and written",
    "macs": "multiply-accumulates",
}


def render(diff: Diff) -> str:
    """Return the page. All that comes from runs and engines is untrusted text and is escaped."""
    engines = diff.engines
    totals = (("operator", engines.by_op), ("module", engines.by_module)) if engines else ()
    facts = {
        "diff": diff,
        "run": diff.run,
        "engines": engines,
        "words": WORDS,
        "names": defaultdict(str, _NAMES),
        "basis": basis_text(engines) if engines else "",
        "totals": totals,
        "steps": [step for step in diff.run.steps if step.differs] if diff.run else [],
    }
    filters: dict[str, Callable[..., str]] = {
        "of_figure": lambda value, unit: _micro(number_text(value, unit)),
        "figure_change": lambda each: change_of_figure(each) if each.change else "",
        "layer": layer_text,
        "signed_bytes": signed_bytes,
        "signed_time": lambda value: _micro(signed_time(value)) if value else "",
        "value": value_text,
        "change": change_text,
        "step": step_text,
    }
    return render_page("diff.html.jinja", facts, filters)


def _micro(text: str) -> str:
    return text.replace(" us", " µs")
