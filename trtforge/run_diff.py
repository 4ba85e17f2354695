"""What two runs asked for, did and found differently, from their reports.

The layers of their engines are compared by :mod:`trtforge.layer_diff`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Literal

from trtforge.quantities import format_bytes
from trtforge.report_facts import (
    Requirement,
    accuracy_figures,
    engine_sizes,
    headline,
    requirements,
)

if TYPE_CHECKING:
    from trtforge.artifacts import Comparison, OutputComparison, PrecisionProof
    from trtforge.records import StepRecord
    from trtforge.report import ModelSummary, Report, Verdict

Value = float | str | None
Unit = Literal["", "B", "dB", "s", "share"]


@dataclass(frozen=True)
class Pair:
    """One fact of both runs; None where a run does not have it."""

    name: str
    before: Value
    after: Value
    unit: Unit = ""

    @property
    def differs(self) -> bool:
        """Whether the two are not the same."""
        return self.before != self.after


@dataclass(frozen=True)
class RequirementPair:
    """What each run required of one figure, and found; None where it did not require it."""

    name: str
    before: Requirement | None
    after: Requirement | None


@dataclass(frozen=True)
class OutputPairs:
    """How far one output of each run is from its given model."""

    name: str
    figures: tuple[Pair, ...]


@dataclass(frozen=True)
class StepPair:
    """A step of both runs, or of one of them."""

    stage: str
    step: str
    round: int
    before: StepRecord | None
    after: StepRecord | None
    options: tuple[Pair, ...] = ()
    """Options that differ, as text; where only one run has the step, none are told."""

    @property
    def differs(self) -> bool:
        """Whether it is in one run only, has other options, another effect, or another end."""
        if self.before is None or self.after is None:
            return True
        before, after = (
            (each.changes, bool(each.error), len(each.notes)) for each in (self.before, self.after)
        )
        return bool(self.options) or before != after


@dataclass(frozen=True)
class RunDiff:
    """Everything that two runs asked for, did and found differently, layers aside."""

    verdicts: tuple[Verdict, Verdict]
    cautions: tuple[str, ...]
    """Why figures of the two may not be held against each other."""
    request: tuple[Pair, ...]
    """What was asked for and differs."""
    required: tuple[RequirementPair, ...]
    accuracy: tuple[OutputPairs, ...]
    task_accuracy: Pair
    """Of the final models."""
    precision: tuple[Pair, ...]
    """Share of the multiply-accumulates in each type."""
    retyped: tuple[Pair, ...]
    """Nodes that multiply in another type, or in one of the runs only."""
    sizes: tuple[Pair, ...]
    """Nodes and bytes: models, engines, memory as planned and as TensorRT reports it."""
    operators: tuple[Pair, ...]
    """Nodes of the final models by operator."""
    steps: tuple[StepPair, ...]
    environment: tuple[Pair, ...]
    """What differs."""


def compare_runs(before: Report, after: Report) -> RunDiff:
    """Return what ``after`` asked for, did and found differently from ``before``."""
    return RunDiff(
        verdicts=(before.verdict, after.verdict),
        cautions=tuple(_cautions(before, after)),
        request=_differing(_request(before), _request(after)),
        required=tuple(_required(before, after)),
        accuracy=tuple(_accuracy(before.comparison, after.comparison)),
        task_accuracy=Pair("task accuracy", _task(before), _task(after), "share"),
        precision=_pairs(_shares(before.precision), _shares(after.precision), "share"),
        retyped=_differing(_types(before.precision), _types(after.precision)),
        sizes=(
            *_pairs(_counts(before), _counts(after)),
            *_pairs(_bytes(before), _bytes(after), "B"),
        ),
        operators=_pairs(_operators(before.final), _operators(after.final)),
        steps=tuple(_steps(_records(before), _records(after))),
        environment=_differing(_machine(before), _machine(after)),
    )


def figures_of(report: Report) -> dict[str, float]:
    """Return what ``--fail-if`` may name of a run beside its engine's figures."""
    found = accuracy_figures(report.comparison) if report.comparison else {}
    return {**found, **_counts(report)}


def _pairs(
    before: Mapping[str, Value], after: Mapping[str, Value], unit: Unit = ""
) -> tuple[Pair, ...]:
    return tuple(
        Pair(name, before.get(name), after.get(name), unit) for name in {**before, **after}
    )


def _differing(before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[Pair, ...]:
    return tuple(pair for pair in _pairs(before, after) if pair.differs)


def _cautions(before: Report, after: Report) -> Iterator[str]:
    given = before.given, after.given
    if all(given) and given[0] != given[1]:
        yield "the runs were given different models"
    data = [
        (each.comparison.data, each.comparison.samples) if each.comparison else None
        for each in (before, after)
    ]
    if all(data) and data[0] != data[1]:
        told = " and ".join(f"{samples} samples of {name}" for name, samples in filter(None, data))
        yield f"accuracy was measured on different data: {told}"
    if before.engines and after.engines and before.request.targets != after.request.targets:
        yield "the engines were built for different targets"
    if before.engines and after.engines and before.request.profiles != after.request.profiles:
        yield "the engines were built for different shapes"
    for each, which in ((before, "first"), (after, "second")):
        if each.verdict.exit_code > 1:
            yield f"the {which} run did not finish: {headline(each.verdict)}"
        if each.comparison and not each.comparison.real:
            yield f"the {which} run's accuracy rests on made-up data"


def _request(report: Report) -> dict[str, Value]:
    asked = report.request
    facts: dict[str, Value] = {
        "model": asked.source,
        "recipe": asked.recipe,
        "targets": ", ".join(asked.targets) or "this machine's GPU",
    }
    for number, profile in enumerate(asked.profiles, 1):
        facts |= {f"shape of {name}, profile {number}": text for name, text in profile.items()}
    return facts


def _required(before: Report, after: Report) -> Iterator[RequirementPair]:
    sides = [{each.name: each for each in requirements(report)} for report in (before, after)]
    for name in {**sides[0], **sides[1]}:
        yield RequirementPair(name, sides[0].get(name), sides[1].get(name))


def _accuracy(before: Comparison | None, after: Comparison | None) -> Iterator[OutputPairs]:
    sides = [
        {output.name: output for output in each.outputs} if each else {} for each in (before, after)
    ]
    names: tuple[tuple[str, str, Unit], ...] = (
        ("cosine", "cosine", ""), ("SQNR", "sqnr_db", "dB"), ("max abs", "max_abs", ""),
        ("top-1", "top1_agreement", "share"), ("NaN/Inf mismatches", "nonfinite_mismatch", ""),
        ("problem", "problem", ""),
    )  # fmt: skip
    for name in {**sides[0], **sides[1]}:
        outputs = [side.get(name) for side in sides]
        pairs = (
            Pair(label, _value(outputs[0], field), _value(outputs[1], field), unit)
            for label, field, unit in names
        )
        shown = (pair for pair in pairs if (pair.before, pair.after) != (None, None))
        yield OutputPairs(name, tuple(shown))


def _value(output: OutputComparison | None, field: str) -> Value:
    """Return a figure of an output; of one that could not be compared, only the problem."""
    if output is None:
        return None
    if field == "problem" or output.problem:
        return (output.problem or None) if field == "problem" else None
    found: float | None = getattr(output, field)
    return found


def _task(report: Report) -> float | None:
    return report.comparison.accuracy.get("final") if report.comparison else None


def _shares(proof: PrecisionProof | None) -> dict[str, Value]:
    return {each.dtype: each.share for each in proof.shares} if proof else {}


def _types(proof: PrecisionProof | None) -> dict[str, Value]:
    shares = proof.shares if proof else ()
    return {node: each.dtype for each in shares for node in each.nodes}


def _counts(report: Report) -> dict[str, float]:
    counts: dict[str, float] = {"nodes": report.final.nodes} if report.final else {}
    return counts | ({"layers": report.layers.total} if report.layers else {})


def _bytes(report: Report) -> dict[str, Value]:
    sizes: dict[str, Value] = {}
    if report.final:
        sizes["weights of the model"] = report.final.parameter_bytes
    if report.memory_plan:
        sizes["activation memory, predicted"] = report.memory_plan.activation
        sizes["total memory, predicted"] = report.memory_plan.total
    return sizes | {name.replace("_", " "): size for name, size in engine_sizes(report).items()}


def _operators(model: ModelSummary | None) -> dict[str, Value]:
    return dict(model.nodes_by_op) if model else {}


def _records(report: Report) -> list[StepRecord]:
    return [step for stage in report.stages for step in stage.steps]


def _steps(before: Sequence[StepRecord], after: Sequence[StepRecord]) -> Iterator[StepPair]:
    """Yield the steps in their order; what only one run has stands where it ran."""
    keys = [[(r.stage, r.step, r.round) for r in records] for records in (before, after)]
    matcher = SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            for old, new in zip(before[start:end], after[new_start:new_end], strict=True):
                options = _differing(_texts(old.options), _texts(new.options))
                yield StepPair(old.stage, old.step, old.round, old, new, options)
            continue
        for old in before[start:end]:
            yield StepPair(old.stage, old.step, old.round, old, None)
        for new in after[new_start:new_end]:
            yield StepPair(new.stage, new.step, new.round, None, new)


def _texts(options: Mapping[str, Any]) -> dict[str, Value]:
    return {name: str(value) for name, value in options.items()}


def _machine(report: Report) -> dict[str, Value]:
    env = report.environment
    facts: dict[str, Value] = {
        "trtforge": report.trtforge,
        "Python": env.python,
        "system": f"{env.system} {env.machine}",
        "CPU cores": env.cores,
        "memory": format_bytes(env.memory),
        "driver": env.driver or None,
        "GPUs": ", ".join(gpu.name for gpu in env.gpus) or None,
    }
    return {**facts, **env.packages}
