"""Says in a few lines what a run achieved, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    from trtforge.api import Run
    from trtforge.artifacts import Comparison, Engine, PrecisionProof


def outcome_lines(done: Run) -> Iterator[str]:
    """Yield the lines: accuracy, precision, engine, where everything lies, and the verdict."""
    yield ""
    if done.comparison is not None:
        yield from _accuracy(done.comparison)
    if done.proof is not None:
        yield from _precision(done.proof)
    if done.engine is not None:
        yield from _engine(done.engine, done.layers)
    yield f"Model      {done.model}"
    yield f"Report     {done.folder / 'report.html'}"
    verdict = "done as asked" if not done.missed else f"{len(done.missed)} requirements not met"
    yield f"Verdict    {verdict} (exit code {int(done.exit_code)})"


def _accuracy(comparison: Comparison) -> Iterator[str]:
    data = comparison.data if comparison.real else f"{comparison.data}, not real data"
    if comparison.accuracy:
        given, final = comparison.accuracy["given"], comparison.accuracy["final"]
        yield (
            f"Accuracy   {given:.4f} before, {final:.4f} after "
            f"({comparison.samples} samples, {data})"
        )
    for output in comparison.outputs:
        if output.problem:
            yield f"Output     {output.name}: {output.problem}"
            continue
        top1 = "" if output.top1_agreement is None else f", top-1 {output.top1_agreement:.4f}"
        yield (
            f"Output     {output.name}: cosine {output.cosine:.6f}, SQNR {output.sqnr_db:.1f} dB, "
            f"max abs {output.max_abs:.3g}{top1} ({comparison.samples} samples, {data})"
        )


def _precision(proof: PrecisionProof) -> Iterator[str]:
    parts = [f"{share.share:.1%} {share.dtype}" for share in proof.shares]
    yield f"Precision  {', '.join(parts) or 'no heavy work'} of {proof.total_macs:,} MACs"


def _engine(engine: Engine, layers: int | None) -> Iterator[str]:
    yield (
        f"Engine     {engine.path}\n"
        f"           {format_bytes(engine.size)}, {layers if layers is not None else '?'} layers, "
        f"for {', '.join(engine.targets) or 'this GPU'}, {engine.flavor} {engine.version}, "
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
