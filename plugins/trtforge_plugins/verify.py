"""Steps and wrappers that hold the model against what it was."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from trtforge import (
    Batches,
    Comparison,
    Context,
    OutputComparison,
    Step,
    StepError,
    TrtforgeError,
    frozen_inputs,
)
from trtforge.model_comparison import compare_models

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge import Artifact, ShapeRange

REAL_SAMPLES = 16
SYNTHESIZED_SAMPLES = 4
KEPT_SQNR_DB = 100.0
"""From here on two float32 results count as the same: another order of summation leaves 120 dB and
more, the mildest change of values that a step makes on purpose (one float16 cast) 75 dB or less."""


@dataclass(frozen=True)
class Verify(Step):
    """Compare the model's outputs with those of the model that was given, on the same inputs.

    Both run under ONNX Runtime. Without loaded data the inputs are made up from a seed, and the
    report says so: that shows whether the models compute the same, not how accurate they are.
    Data with labels gives the task accuracy of both as well.
    """

    name: ClassVar[str] = "verify"
    gives: ClassVar[tuple[type[Artifact], ...]] = (Comparison,)
    cacheable: ClassVar[bool] = False

    count: int | None = None
    """How many samples; unset: all where the data has labels, else 16, or 4 made-up ones."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where both models run; auto takes CUDA where ONNX Runtime can."""
    seed: int = 0
    """Of made-up inputs."""

    def run(self, ctx: Context) -> int:
        """Put the comparison into the context."""
        from trtforge import model_file

        if ctx.given is None:
            raise StepError("there is no given model to compare with")
        given = model_file.load(ctx.given)
        data = ctx.batches or self._made_up(given, ctx)
        result = compare_models(
            given,
            ctx.model,
            data,
            count=self._count(data),
            provider=self.provider,
            progress=ctx.progress,
        )
        ctx.put(result)
        if not result.real:
            ctx.note("", f"compared on {data.source} data: this shows no accuracy on real data")
        if data.labels is not None and not result.accuracy:
            ctx.note("", "no task accuracy: the first output has no row of scores for each label")
        return 0

    def _made_up(self, given: ir.Model, ctx: Context) -> Batches:
        return _synthesized(given, ctx, self.count or SYNTHESIZED_SAMPLES, self.seed)

    def _count(self, data: Batches) -> int | None:
        if self.count is not None:
            return self.count
        if data.labels is not None:
            return None
        return REAL_SAMPLES if data.real else SYNTHESIZED_SAMPLES


def _synthesized(model: ir.Model, ctx: Context, samples: int, seed: int = 0) -> Batches:
    from trtforge.feeds import synthesize

    profiles: tuple[Mapping[str, ShapeRange], ...] = ctx.request.profiles
    frozen = frozen_inputs.read(ctx.model.metadata_props)
    profile = profiles[0] if profiles else None
    return synthesize(model, profile, samples=samples, seed=seed, without=frozen.keys())


def verify_each_step(ctx: Context) -> Generator[None, int | None, int | None]:
    """Run one step and note, where it changed the model, whether values changed.

    The body of a ``trtforge_run_step`` wrapper. The model from before the step is the reference, so
    the note is on the step that changed the values.
    """
    before = ctx.model.clone()
    changes = yield
    if changes:
        ctx.note("", f"verify-each: {describe_change(before, ctx)}")
    return changes


def describe_change(before: ir.Model, ctx: Context) -> str:
    """Return a sentence: the context's model against ``before``, on a few samples."""
    try:
        data = ctx.batches or _synthesized(before, ctx, SYNTHESIZED_SAMPLES)
        result = compare_models(before, ctx.model, data, count=SYNTHESIZED_SAMPLES)
    except TrtforgeError as error:
        return f"the models could not be compared: {error.what}"
    basis = f"{result.samples} {'real' if result.real else 'synthesized'} samples"
    changed = [_figures(output) for output in result.outputs if not _is_kept(output)]
    if changed:
        return f"this step CHANGED VALUES on {basis}: {'; '.join(changed)}"
    lowest = min((output.sqnr_db for output in result.outputs), default=float("inf"))
    how = "bit for bit" if lowest == float("inf") else f"SQNR {lowest:.0f} dB or more"
    return f"values kept on {basis} ({how})"


def _is_kept(output: OutputComparison) -> bool:
    return not output.problem and not output.nonfinite_mismatch and output.sqnr_db >= KEPT_SQNR_DB


def _figures(output: OutputComparison) -> str:
    if output.problem:
        return f"output {output.name!r}: {output.problem}"
    text = f"output {output.name!r}: SQNR {output.sqnr_db:.1f} dB, cosine {output.cosine:.6f}"
    if output.top1_agreement is not None:
        text += f", top-1 agreement {output.top1_agreement:.3f}"
    if output.nonfinite_mismatch:
        text += f", NaN or Inf in only one model at {output.nonfinite_mismatch} places"
    return text
