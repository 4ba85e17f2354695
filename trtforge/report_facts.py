"""The figures of a report to see first, and what was required held against what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtforge.errors import ExitCode
from trtforge.quantities import ByteSize, format_bytes, percent

if TYPE_CHECKING:
    from trtforge.artifacts import Comparison
    from trtforge.report import Report, Verdict

UNKNOWN = "\N{EN DASH}"
FIELDS = {"sqnr": "sqnr_db", "accuracy_drop": "accuracy"}
"""Where a requirement's figure lies, if not under its own name."""
_SIZES = ("engine_size", "activation_memory", "total_memory")
_OF_OUTPUTS = ("cosine", "sample_cosine", "sqnr", "top1_agreement")
_HEADLINES = {
    ExitCode.DONE: "Done as asked",
    ExitCode.REQUIREMENT_MISSED: "Done, but requirements were missed",
    ExitCode.BAD_REQUEST: "Not done: the request is wrong",
    ExitCode.STEP_FAILED: "Not done: a step failed",
    ExitCode.ENVIRONMENT_LACKS: "Not done: this environment lacks something",
}


@dataclass(frozen=True)
class Requirement:
    """One stated requirement."""

    name: str
    asked: str
    found: str
    met: bool | None
    """None: nothing measured it."""


def digits(value: float, count: int) -> str:
    """Write a number with ``count`` significant digits, infinity as its sign."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{count}g}"


def headline(verdict: Verdict) -> str:
    """Return the verdict in a few words, with the exit code."""
    known = _HEADLINES.get(ExitCode(verdict.exit_code)) if verdict.exit_code in range(5) else None
    return f"{known or 'Not done'} (exit code {verdict.exit_code})"


def facts(report: Report) -> Iterator[tuple[str, str]]:
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
        smallest = lowest(report.comparison, "cosine")
        yield "Cosine", UNKNOWN if smallest is None else digits(smallest, 6)
    if report.precision and report.precision.shares:
        largest = max(report.precision.shares, key=lambda share: share.share)
        yield "Multiplies mostly in", f"{largest.dtype}, {percent(largest.share)}"
    if report.timings:
        yield "Median time", f"{digits(report.timings.median_ms, 4)} ms"


def lowest(comparison: Comparison, figure: str) -> float | None:
    """Return the smallest value that an output has for ``figure``; NaN where one is NaN."""
    found = [getattr(out, figure) for out in comparison.outputs if not out.problem]
    known = [value for value in found if value is not None]
    if any(math.isnan(value) for value in known):
        return math.nan
    return min(known, default=None)


def accuracy_figures(comparison: Comparison) -> dict[str, float]:
    """Return what a requirement on accuracy is held against, by the requirement's name."""
    values = {name: lowest(comparison, FIELDS.get(name, name)) for name in _OF_OUTPUTS}
    found = {name: value for name, value in values.items() if value is not None}
    if len(comparison.accuracy) == 2:
        given, final = comparison.accuracy["given"], comparison.accuracy["final"]
        found |= {"accuracy": final, "accuracy_drop": given - final}
    return found


def engine_sizes(report: Report) -> dict[str, int]:
    """Return the bytes that TensorRT reports, by the requirement's name; those that are known."""
    chain, engine = report.chain, next(iter(report.engines), None)
    sizes: tuple[int | None, ...] = ()
    if chain:
        sizes = chain.size, chain.activation, chain.total
    elif engine:
        sizes = engine.size, engine.memory.activation, engine.memory.total
    return {name: size for name, size in zip(_SIZES, sizes, strict=False) if size is not None}


def requirements(report: Report) -> Iterator[Requirement]:
    """Yield each stated requirement; the verdict says the same of them, in sentences."""
    for name, asked in report.request.require.items():
        shown = "as asked" if asked is True else "any" if asked is False else str(asked)
        if name == "precision":
            found, met = _precision(report)
            met = True if asked is False else met
        else:
            found, met = _found(report, name, str(asked))
        yield Requirement(name.replace("_", " "), shown, found, met)


def _precision(report: Report) -> tuple[str, bool | None]:
    if report.precision is None:
        return UNKNOWN, None
    return ("as asked", True) if report.precision.holds else ("deviates", False)


def _found(report: Report, name: str, asked: str) -> tuple[str, bool | None]:
    """Return what was found for one requirement, and whether that is enough."""
    if name in _SIZES:
        size = engine_sizes(report).get(name)
        if size is not None:
            return format_bytes(size), size <= ByteSize(asked)
        return _predicted(report, name), None
    if report.comparison is None:
        return UNKNOWN, None
    value = accuracy_figures(report.comparison).get(name)
    if value is None:
        return UNKNOWN, None
    limit = float(asked)
    if name == "accuracy_drop":
        return digits(value, 6), value <= limit + 1e-12  # as in trtforge.compare.meets
    sound = not any(out.problem or out.nonfinite_mismatch for out in report.comparison.outputs)
    return digits(value, 6), value >= limit and (sound or name not in _OF_OUTPUTS)


def _predicted(report: Report, name: str) -> str:
    plan = report.memory_plan
    if plan is None or name == "engine_size":
        return UNKNOWN
    size = plan.activation if name == "activation_memory" else plan.total
    return f"predicted {format_bytes(size)}"


def operators(report: Report) -> Iterator[tuple[str, int, int]]:
    """Yield operator, number of nodes before and after."""
    if report.given and report.final:
        before, after = report.given.nodes_by_op, report.final.nodes_by_op
        for op in dict.fromkeys([*before, *after]):
            yield op, before.get(op, 0), after.get(op, 0)
