"""Says in a few lines what a run achieved, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.quantities import format_bytes, percent

if TYPE_CHECKING:
    from trtforge.artifacts import Comparison, Engine, PrecisionProof
    from trtforge.report import Report, Verdict


def outcome_lines(report: Report, folder: Path) -> Iterator[str]:
    """Yield the lines: accuracy, precision, engines, where everything lies, and the verdict.

    Args:
        report: Of the run.
        folder: Of the run.
    """
    if report.comparison is not None:
        yield from _accuracy(report.comparison)
    if report.precision is not None:
        yield from _precision(report.precision)
    for engine in report.engines:
        yield from _engine(engine, report.layers.total if report.layers else None)
    model = folder / "model.onnx"
    if model.is_file():
        yield f"Model      {model}"
    yield f"Report     {folder / 'report.html'}"
    yield f"Verdict    {_verdict(report.verdict)} (exit code {report.verdict.exit_code})"


def _accuracy(comparison: Comparison) -> Iterator[str]:
    for output in comparison.outputs:
        if output.problem:
            yield f"Output     {output.name}: {output.problem}"
            continue
        top1 = "" if output.top1_agreement is None else f", top-1 {output.top1_agreement:.4f}"
        yield (
            f"Output     {output.name}: cosine {output.cosine:.6f}, SQNR {output.sqnr_db:.1f} dB, "
            f"max abs {output.max_abs:.3g}{top1}"
        )
    if comparison.accuracy:
        given, final = comparison.accuracy["given"], comparison.accuracy["final"]
        yield f"Accuracy   {given:.4f} before, {final:.4f} after"
    made_up = "" if comparison.real else ": made-up data, which says nothing about accuracy"
    yield f"Data       {comparison.samples} samples, {comparison.data}{made_up}"


def _precision(proof: PrecisionProof) -> Iterator[str]:
    parts = [f"{percent(share.share)} {share.dtype}" for share in proof.shares]
    yield f"Precision  {', '.join(parts) or 'no heavy work'} of {proof.total_macs:,} MACs"


def _engine(engine: Engine, layers: int | None) -> Iterator[str]:
    yield f"Engine     {engine.path}"
    counted = f", {layers} layers" if layers is not None else ""
    yield (
        f"           {format_bytes(engine.size)}{counted}, "
        f"for {', '.join(engine.targets) or 'this GPU'}"
    )
    yield (
        f"           {engine.flavor} {engine.version}, "
        f"built in {engine.seconds:.1f} s (built, not executed)"
    )
    memory = engine.memory
    facts = {
        "activations": memory.activation,
        "weights": memory.weights,
        "scratch": memory.scratch,
        "build process": memory.build_peak_rss,
    }
    known = [f"{name} {format_bytes(size)}" for name, size in facts.items() if size is not None]
    if known:
        yield f"Memory     {', '.join(known)}"


def _verdict(verdict: Verdict) -> str:
    if verdict.error:
        return f"failed: {verdict.error}"
    if not verdict.missed:
        return "done as asked"
    count = len(verdict.missed)
    return f"{count} requirement{'s' if count > 1 else ''} not met"
