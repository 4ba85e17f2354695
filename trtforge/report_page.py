"""The report as one HTML page: self-contained, offline, readable without scripts.

Everything that comes from a model is untrusted text: the template escapes all of it, and the page's
own policy runs no script but the one of this package, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from trtforge import report_pictures
from trtforge.compiled_template import compiled
from trtforge.errors import ExitCode
from trtforge.memory_picture import memory_picture
from trtforge.memory_plan import describe
from trtforge.pictures import CurvePoint, curve, histogram
from trtforge.quantities import format_bytes, percent

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from trtforge.artifacts import Comparison
    from trtforge.report import Report, Verdict

_TEMPLATES = Path(__file__).with_name("templates")
UNKNOWN = "\N{EN DASH}"
_HEADLINES = {
    ExitCode.DONE: "Done as asked",
    ExitCode.REQUIREMENT_MISSED: "Done, but requirements were missed",
    ExitCode.BAD_REQUEST: "Not done: the request is wrong",
    ExitCode.STEP_FAILED: "Not done: a step failed",
    ExitCode.ENVIRONMENT_LACKS: "Not done: this environment lacks something",
}

_CURVES = {
    "cosine": "cosine similarity",
    "sample_cosine": "smallest cosine similarity of a sample",
    "sqnr": "SQNR in decibels",
    "top1_agreement": "top-1 agreement",
    "accuracy": "task accuracy",
    "accuracy_drop": "task accuracy",
}
_FIELDS = {"sqnr": "sqnr_db", "accuracy_drop": "accuracy"}


def render(report: Report) -> str:
    """Return the page; it loads nothing and sends nothing."""
    from markupsafe import Markup

    style, script = (_template(f"report.{ending}") for ending in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = compiled(_environment(), _TEMPLATES / "report.html.jinja")
    return page.render(
        report=report,
        facts=list(_facts(report)),
        requirements=list(_requirements(report)),
        operators=list(_operators(report)),
        histograms=list(_histograms(report)),
        curve=_curve(report),
        timeline=Markup(report_pictures.steps_over_time(report)),  # noqa: S704  # escaped there
        roofline=Markup(report_pictures.roof(report)),  # noqa: S704  # escaped there
        graph=Markup(report_pictures.graph(report)),  # noqa: S704  # escaped there
        colours=report_pictures.colours(report),
        measured=_measured(report),
        node_places=_node_places(report),
        memory=memory_picture(report.memory_plan, report.request.require.get("activation_memory")),
        plan_sentences=describe(report.memory_plan) if report.memory_plan else [],
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=f"sha256-{digest}",
    )


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        decibels=lambda value: f"{digits(value, 4)} dB",
        digits=digits,
        file_name=lambda source: PurePath(source).name or source,
        grouped=lambda value: f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        headline=headline,
        milliseconds=lambda value: f"{digits(value, 4)} ms",
        percent=percent,
        seconds=lambda value: f"{value:.1f} s" if value >= 10 else f"{value:.2f} s",
        size=lambda value: UNKNOWN if value is None else format_bytes(value),
    )
    return environment


def digits(value: float, count: int) -> str:
    """Write a number with ``count`` significant digits, infinity as its sign."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{count}g}"


def headline(verdict: Verdict) -> str:
    """Return the verdict in a few words, with the exit code."""
    known = _HEADLINES.get(ExitCode(verdict.exit_code)) if verdict.exit_code in range(5) else None
    return f"{known or 'Not done'} (exit code {verdict.exit_code})"


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the few figures to see first."""
    if report.given and report.final:
        yield "Nodes", f"{report.given.nodes} → {report.final.nodes}"
        before, after = report.given.parameter_bytes, report.final.parameter_bytes
        yield "Weights", f"{format_bytes(before)} → {format_bytes(after)}"
    for engine in report.engines[:1]:
        yield "Engine", format_bytes(engine.size)
    if report.layers:
        yield "Layers", str(report.layers.total)
    if report.comparison:
        lowest = _lowest(report.comparison, "cosine")
        yield "Cosine", UNKNOWN if lowest is None else digits(lowest, 6)
    if report.precision and report.precision.shares:
        largest = max(report.precision.shares, key=lambda share: share.share)
        yield "Mostly", f"{percent(largest.share)} {largest.dtype}"
    if report.timings:
        yield "Median time", f"{digits(report.timings.median_ms, 4)} ms"


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
    field = _FIELDS.get(figure, figure)
    points = [
        CurvePoint(point.share, value, point.meets, i == last)
        for i, point in enumerate(found.curve)
        if (value := getattr(point, field)) is not None
    ]
    return Markup(curve(points, found.required.get(figure), name))  # noqa: S704  # numbers


def _lowest(comparison: Comparison, figure: str) -> float | None:
    found = [getattr(out, figure) for out in comparison.outputs if not out.problem]
    known = [value for value in found if value is not None]
    if any(math.isnan(value) for value in known):
        return math.nan
    return min(known, default=None)


def _requirements(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield each stated requirement: its name, what was asked, what was found."""
    found = _found(report)
    for name, asked in report.request.require.items():
        shown = "as asked" if asked is True else "any" if asked is False else str(asked)
        yield name.replace("_", " "), shown, found.get(name, UNKNOWN)


def _found(report: Report) -> dict[str, str]:
    found: dict[str, Any] = {}
    comparison = report.comparison
    if comparison:
        for name in ("cosine", "sample_cosine", "sqnr", "top1_agreement"):
            found[name] = _lowest(comparison, _FIELDS.get(name, name))
        if len(comparison.accuracy) == 2:
            found["accuracy"] = comparison.accuracy["final"]
            found["accuracy_drop"] = comparison.accuracy["given"] - comparison.accuracy["final"]
    texts = {name: digits(value, 6) for name, value in found.items() if value is not None}
    if report.precision:
        texts["precision"] = "as asked" if report.precision.holds else "deviates"
    texts |= {name: format_bytes(size) for name, size in _sizes(report) if size is not None}
    if report.memory_plan:
        plan = report.memory_plan
        texts.setdefault("activation_memory", f"predicted {format_bytes(plan.activation)}")
        texts.setdefault("total_memory", f"predicted {format_bytes(plan.total)}")
    return texts


def _sizes(report: Report) -> Iterator[tuple[str, int | None]]:
    """Yield the requirements of memory and what TensorRT reports for each."""
    chain, engine = report.chain, next(iter(report.engines), None)
    if chain:
        yield "engine_size", chain.size
        yield "activation_memory", chain.activation
        yield "total_memory", chain.total
    elif engine:
        yield "engine_size", engine.size
        yield "activation_memory", engine.memory.activation
        yield "total_memory", engine.memory.total


def _operators(report: Report) -> Iterator[tuple[str, int, int]]:
    """Yield operator, number of nodes before and after."""
    if report.given and report.final:
        before, after = report.given.nodes_by_op, report.final.nodes_by_op
        for op in dict.fromkeys([*before, *after]):
            yield op, before.get(op, 0), after.get(op, 0)
