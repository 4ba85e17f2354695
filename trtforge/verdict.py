"""Holds the result of a run against what was required."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.artifacts import Comparison, Engine, PrecisionProof
from trtforge.quantities import ByteSize, format_bytes
from trtforge.statistics import Sensitivity

if TYPE_CHECKING:
    from trtforge.context import Context, Requirements

SHOWN = 5
ACCURACY = ("cosine", "sample_cosine", "top1_agreement", "sqnr", "accuracy", "accuracy_drop")
"""The requirements that comparing two models answers."""


def missed(ctx: Context) -> list[str]:
    """Return a sentence for each requirement that the run misses, or never measured."""
    require = ctx.request.require
    return [
        *_search(ctx.find(Sensitivity)),
        *_accuracy(ctx.find(Comparison), require),
        *_precision(ctx.find(PrecisionProof), require),
        *_memory(ctx.find(Engine), require),
    ]


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


def _memory(engine: Engine | None, require: Requirements) -> Iterator[str]:
    if require.engine_size is not None:
        yield from _limit("engine size", engine.size if engine else None, require.engine_size)
    if require.activation_memory is not None:
        found = engine.memory.activation if engine else None
        yield from _limit("activation memory", found, require.activation_memory)


def _limit(what: str, found: int | None, limit: ByteSize) -> Iterator[str]:
    if found is None:
        yield f"{what} was required to be at most {limit} but never measured"
    elif found > limit:
        yield f"{what} is {format_bytes(found)}, over the required {limit}"
