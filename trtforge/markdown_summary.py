"""What a run achieved, as Markdown for a pull request or a job's summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from trtforge.quantities import format_bytes, percent
from trtforge.report_facts import digits, headline

if TYPE_CHECKING:
    from trtforge.report import Report

_SHOWN = 20  # rows of a table; the rest is counted


def summary(report: Report) -> str:
    """Return the verdict, what was missed, accuracy, types, engines and time of ``report``."""
    parts = [_head(report), *_missed(report), *_accuracy(report), *_engines(report)]
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    mark = "✅" if report.verdict.exit_code == 0 else "❌"
    name = PurePath(report.request.source).name or report.request.source
    return (
        f"### {mark} {_text(name)}: {headline(report.verdict)}\n\n"
        f"Recipe {_code(report.request.recipe)}, trtforge {report.trtforge}"
    )


def _missed(report: Report) -> Iterator[str]:
    if report.verdict.error:
        yield f"> {_text(report.verdict.error)}"
    if report.verdict.missed:
        yield "\n".join(f"- {_text(sentence)}" for sentence in report.verdict.missed)
    for remedy in report.verdict.remedies:
        yield f"To do: {_text(remedy)}"


def _accuracy(report: Report) -> Iterator[str]:
    if report.comparison:
        rows = [
            (_code(out.name), _text(out.problem), "", "")
            if out.problem
            else (
                _code(out.name),
                digits(out.cosine, 6),
                f"{digits(out.sqnr_db, 4)} dB",
                "" if out.top1_agreement is None else percent(out.top1_agreement),
            )
            for out in report.comparison.outputs
        ]
        yield _table(("output", "cosine", "SQNR", "top-1"), rows)
        made_up = "" if report.comparison.real else ", made up: they say nothing about accuracy"
        yield f"{report.comparison.samples} samples{made_up}"
    if report.precision and report.precision.shares:
        shares = ", ".join(f"{percent(s.share)} {s.dtype}" for s in report.precision.shares)
        holds = "as asked" if report.precision.holds else "**not as asked**"
        yield f"Multiply-accumulates: {shares} ({holds})"


def _engines(report: Report) -> Iterator[str]:
    if report.engines:
        layers = report.layers.total if report.layers else ""
        rows = [
            (
                _code(engine.path.name),
                ", ".join(engine.targets) or "this GPU",
                format_bytes(engine.size),
                "" if engine.memory.activation is None else format_bytes(engine.memory.activation),
                str(layers),
            )
            for engine in report.engines
        ]
        yield _table(("engine", "targets", "size", "activations", "layers"), rows)
    if report.timings:
        yield f"Median time {digits(report.timings.median_ms, 4)} ms on {report.timings.device}"
    elif report.engines:
        yield "Built, not executed."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows[:_SHOWN]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = len(rows) - _SHOWN
    return f"{table}\n\nand {more} more" if more > 0 else table


def _code(text: str) -> str:
    """Return text from a model so that it cannot leave its cell, nor be markup."""
    flat = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`"


def _text(text: str) -> str:
    flat = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|!" else sign for sign in flat)
