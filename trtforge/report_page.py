"""The report of a run as one HTML page: self-contained, offline, readable without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge import report_facts, report_pictures
from trtforge.memory_picture import memory_picture
from trtforge.memory_plan import describe
from trtforge.page_frame import render_page
from trtforge.pictures import CurvePoint, curve, histogram
from trtforge.report_facts import FIELDS

if TYPE_CHECKING:
    from markupsafe import Markup

    from trtforge.report import Report

_CURVES = {
    "cosine": "cosine similarity",
    "sample_cosine": "smallest cosine similarity of a sample",
    "sqnr": "SQNR in decibels",
    "top1_agreement": "top-1 agreement",
    "accuracy": "task accuracy",
    "accuracy_drop": "task accuracy",
}


def render(report: Report) -> str:
    """Return the page; it loads nothing and sends nothing."""
    from markupsafe import Markup

    facts = {
        "report": report,
        "facts": list(report_facts.facts(report)),
        "requirements": list(report_facts.requirements(report)),
        "operators": list(report_facts.operators(report)),
        "histograms": list(_histograms(report)),
        "curve": _curve(report),
        "timeline": Markup(report_pictures.steps_over_time(report)),  # noqa: S704  # escaped there
        "roofline": Markup(report_pictures.roof(report)),  # noqa: S704  # escaped there
        "graph": Markup(report_pictures.graph(report)),  # noqa: S704  # escaped there
        "graph_types": report_pictures.types_of_nodes(report),
        "measured": _measured(report),
        "node_places": _node_places(report),
        "memory": memory_picture(
            report.memory_plan, report.request.require.get("activation_memory")
        ),
        "plan_sentences": describe(report.memory_plan) if report.memory_plan else [],
    }
    return render_page("report.html.jinja", facts)


def _measured(report: Report) -> dict[str, float]:
    """Return the milliseconds of each layer that a profiler measured."""
    return {each.name: each.median_ms for each in report.timings.layers} if report.timings else {}


def _node_places(report: Report) -> dict[str, int]:
    """Return the number of each node in the picture of the graph."""
    names = report.graph.names if report.graph else ()
    return {name: index for index, name in enumerate(names)}


def _histograms(report: Report) -> Iterator[Markup]:
    """Yield the picture of each tensor's values, in the order of the statistics."""
    from markupsafe import Markup

    for each in report.statistics.tensors if report.statistics else ():
        limit = max(map(abs, each.range)) if each.range else None
        yield Markup(histogram(each.histogram, each.low, each.high, limit))  # noqa: S704  # numbers


def _curve(report: Report) -> Markup | None:
    """Return the picture of the search for the nodes to keep, or None where there was none."""
    from markupsafe import Markup

    found = report.sensitivity
    if found is None:
        return None
    figure, name = next(
        (entry for entry in _CURVES.items() if entry[0] in found.required),
        ("cosine", "cosine similarity"),
    )
    last = len(found.curve) - 1
    field = FIELDS.get(figure, figure)
    points = [
        CurvePoint(point.share, value, point.meets, i == last)
        for i, point in enumerate(found.curve)
        if (value := getattr(point, field)) is not None
    ]
    return Markup(curve(points, found.required.get(figure), name))  # noqa: S704  # numbers
