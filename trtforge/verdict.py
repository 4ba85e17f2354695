"""Holds the result of a run against what was required."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.artifacts import Comparison, Engine, PrecisionProof
from trtforge.chain import Chain
from trtforge.memory_plan import MemoryPlan
from trtforge.quantities import ByteSize, format_bytes
from trtforge.statistics import Sensitivity

if TYPE_CHECKING:
    from trtforge.context import Context, Requirements

SHOWN = 5
ACCURACY = ("cosine", "sample_cosine", "top1_agreement", "sqnr", "accuracy", "accuracy_drop")
"""The requirements that comparing two models answers."""
_MEND_SEARCH = "give search-precision more evaluations, or another calibrator before it"
_MEND_ACCURACY = (
    "`trtforge bisect MODEL --recipe RECIPE` names the step that costs it, and the nodes to leave "
    "out of that step"
)
_MEND_PRECISION = (
    "ask for the type that the nodes run in (`keep` of cast, `skip` of insert-qdq); "
    "docs/mixed-precision.md says what TensorRT takes"
)
_MEND_MEMORY = (
    "put fit-memory in the place of tensorrt: it tries what needs less, one thing after the other; "
    "where it ran, give it more attempts, a lower smallest_batch or more parts, or raise the limit "
    "to what it reached (docs/memory.md); what was never measured needs a step that builds"
)


def missed(ctx: Context) -> list[str]:
    """Return a sentence for each requirement that the run misses, or never measured."""
    return [sentence for sentences, _ in _kinds(ctx) for sentence in sentences]


def remedies(ctx: Context) -> list[str]:
    """Return what to do about the kinds of requirements of which one is missed."""
    return [remedy for sentences, remedy in _kinds(ctx) if sentences]


def _kinds(ctx: Context) -> Iterator[tuple[list[str], str]]:
    require = ctx.request.require
    yield list(_search(ctx.find(Sensitivity))), _MEND_SEARCH
    yield list(_accuracy(ctx.find(Comparison), require)), _MEND_ACCURACY
    yield list(_precision(ctx.find(PrecisionProof), require)), _MEND_PRECISION
    yield list(_memory(ctx, require)), _MEND_MEMORY


def _search(found: Sensitivity | None) -> Iterator[str]:
    if found is not None and found.missed:
        yield f"search-precision, closest choice: {'; '.join(found.missed)}"


def _accuracy(comparison: Comparison | None, require: Requirements) -> Iterator[str]:
    asked = [name for name in ACCURACY if getattr(require, name) is not None]
    if comparison is not None:
        from trtforge.compare import meets

        yield from meets(comparison, require)
    elif asked:
        yield f"{', '.join(asked)} was required but never measured: add the step verify"


def _precision(proof: PrecisionProof | None, require: Requirements) -> Iterator[str]:
    if proof is None or proof.holds or not require.precision:
        return
    for node, text in list(proof.deviations.items())[:SHOWN]:
        yield f"precision of node {node!r}: {text}"
    more = len(proof.deviations) - SHOWN
    if more > 0:
        yield f"precision: {more} further nodes run in another type than asked"
    if proof.unknown:
        listed = ", ".join(proof.unknown[:SHOWN])
        yield f"precision of {len(proof.unknown)} nodes is unknown: {listed}"


def _memory(ctx: Context, require: Requirements) -> Iterator[str]:
    """Judge by what TensorRT reports; a prediction is told, but meets nothing."""
    engine, chain, plan = ctx.find(Engine), ctx.find(Chain), ctx.find(MemoryPlan)
    measured: tuple[int | None, ...] = (None, None, None)
    if chain is not None:
        measured = chain.size, chain.activation, chain.total
    elif engine is not None:
        measured = engine.size, engine.memory.activation, engine.memory.total
    predicted = (None, plan.activation, plan.total) if plan else (None, None, None)
    limits = (require.engine_size, require.activation_memory, require.total_memory)
    names = ("engine size", "activation memory", "total memory")
    for what, limit, found, told in zip(names, limits, measured, predicted, strict=True):
        if limit is not None:
            yield from _limit(what, found, told, limit)


def _limit(what: str, found: int | None, predicted: int | None, limit: ByteSize) -> Iterator[str]:
    if found is None:
        told = "" if predicted is None else f" (predicted: {format_bytes(predicted)})"
        yield f"{what} was required to be at most {limit} but never measured{told}"
    elif found > limit:
        yield f"{what} is {format_bytes(found)}, over the required {limit}"
