"""The findings of ``trtforge check`` as one HTML page: self-contained, offline, without scripts."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING

from trtforge.diagnosis import grouped
from trtforge.memory_picture import memory_picture
from trtforge.memory_plan import describe

if TYPE_CHECKING:
    from trtforge.diagnosis import Diagnosis


def render(diagnosis: Diagnosis) -> str:
    """Return the page. All that comes from the model is untrusted text and is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("trtforge") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string((folder / "check.html.jinja").read_text(encoding="utf-8"))
    style = (folder / "report.css").read_text(encoding="utf-8")
    groups = grouped(diagnosis.findings)
    return page.render(
        name=PurePath(diagnosis.model).name or diagnosis.model,
        diagnosis=diagnosis,
        parts=(
            ("What TensorRT refuses", [g for g in groups if g.first.level == "refused"]),
            ("Advice", [g for g in groups if g.first.level != "refused"]),
        ),
        memory=memory_picture(diagnosis.memory),
        plan_sentences=describe(diagnosis.memory) if diagnosis.memory else [],
        style=Markup(style),  # noqa: S704  # our own file
    )
