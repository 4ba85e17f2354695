"""What two engines do differently, as one HTML page: self-contained, offline, without scripts."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from trtforge.diff_text import (
    WORDS,
    basis_text,
    figure_text,
    layer_text,
    signed_bytes,
    signed_time,
)
from trtforge.profile_text import duration

if TYPE_CHECKING:
    from trtforge.layer_diff import EngineDiff


def render(diff: EngineDiff) -> str:
    """Return the page. All that comes from the engines is untrusted text and is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("trtforge") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        figure=figure_text,
        layer=layer_text,
        duration=duration,
        signed_bytes=signed_bytes,
        signed_time=signed_time,
    )
    page = environment.from_string((folder / "diff.html.jinja").read_text(encoding="utf-8"))
    style = (folder / "report.css").read_text(encoding="utf-8")
    return page.render(
        diff=diff,
        words=WORDS,
        basis=basis_text(diff),
        totals=(("operator", diff.by_op), ("module", diff.by_module)),
        style=Markup(style),  # noqa: S704  # our own file
    )
